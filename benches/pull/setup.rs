//! The registry with the image, and the file system that is made anew for each run.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aci_benches::contest::{Sample, milliseconds};
use aci_benches::peers::find;
use anyhow::Context as _;
use serde_json::json;

use crate::{MEMORY, ON_DISK, PULLED, image, watch};

/// Size of the file system; the file is sparse.
const SIZE: u64 = 8 << 30;

pub(crate) struct Setup {
    /// `HOST/bench:1`.
    reference: String,
    described: String,
    place: PathBuf,
    file: PathBuf,
    registry: Child,
    _directory: tempfile::TempDir,
}

impl Setup {
    pub(crate) fn new(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let program = find("docker-registry", "docker-registry")?;
        let skopeo = find("skopeo", "skopeo")?;
        find("mkfs.ext4", "e2fsprogs")?;
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let layout = keep.unwrap_or_else(|| path("layout"));
        let described = image::build(&layout)?;

        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let host = format!("127.0.0.1:{port}");
        let config = json!({
            "version": 0.1,
            "log": {"accesslog": {"disabled": true}, "level": "error"},
            "storage": {"filesystem": {"rootdirectory": path("registry")}},
            "http": {"addr": host}
        });
        // JSON is YAML.
        fs::write(path("config.yml"), config.to_string())?;
        let registry = Command::new(program)
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let this = Self {
            reference: format!("{host}/bench:1"),
            described,
            place: path("place"),
            file: path("file"),
            registry,
            _directory: directory,
        };
        let begin = Instant::now();
        while TcpStream::connect(&host).is_err() {
            anyhow::ensure!(
                begin.elapsed() < Duration::from_secs(20),
                "docker-registry does not start"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut push = Command::new(skopeo);
        push.args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
        ])
        .arg(format!("oci:{}:1", layout.display()))
        .arg(format!("docker://{}", this.reference));
        finish(&mut push)?;
        fs::create_dir(&this.place)?;
        Ok(this)
    }

    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// The image in words.
    pub(crate) fn image(&self) -> &str {
        &self.described
    }

    /// Where the file system is mounted.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Where everybody keeps temporary files (podman: blobs), on the same file system.
    fn temporary(&self) -> PathBuf {
        self.place.join("tmp")
    }

    fn unmount(&self) {
        // Debian's podman leaves a mount of its own there.
        for _ in 0..4 {
            let below = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            let mine = self.place.display().to_string();
            let mut there: Vec<&str> = below
                .lines()
                .filter_map(|line| line.split(' ').nth(1))
                .filter(|at| at.starts_with(&mine))
                .collect();
            there.sort_unstable_by_key(|at| std::cmp::Reverse(at.len()));
            if there.is_empty() {
                return;
            }
            for at in there {
                let _ = Command::new("umount").arg(at).output();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.place)
            .output();
    }

    /// Makes the file system anew.
    pub(crate) fn fresh(&self) -> anyhow::Result<()> {
        self.unmount();
        let _ = fs::remove_file(&self.file);
        fs::File::create(&self.file)?.set_len(SIZE)?;
        finish(
            Command::new("mkfs.ext4")
                .args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
                .arg(&self.file),
        )?;
        finish(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&self.file)
                .arg(&self.place),
        )?;
        fs::create_dir(self.temporary())?;
        // What the last run wrote is not to be paid for by this one.
        finish(&mut Command::new("sync"))
    }

    /// Runs a contestant's commands.
    pub(crate) fn timed(
        &self,
        mut commands: Vec<Command>,
        also: Option<u32>,
    ) -> anyhow::Result<Sample> {
        for command in &mut commands {
            command.env("TMPDIR", self.temporary());
        }
        let (pulled, memory) = watch::run(commands, also)?;
        let begin = Instant::now();
        finish(Command::new("sync").arg("--file-system").arg(&self.place))?;
        let flushed = milliseconds(begin.elapsed());
        Ok(vec![
            (PULLED, pulled),
            (ON_DISK, pulled + flushed),
            (MEMORY, memory),
        ])
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
        self.unmount();
    }
}

/// Runs a command that has to succeed.
pub(crate) fn finish(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| name.clone())?;
    anyhow::ensure!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
