//! The other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use aci_benches::contest::{Contestant, Sample, milliseconds};
use aci_benches::peers::{Containerd, find, first_line};
use anyhow::Context as _;
use async_trait::async_trait;

use crate::{GONE, MOUNTED, image};

/// Runs a command to its end; what it printed.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{}", command.get_program().display()))?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `ctr images mount --rw`, with overlayfs.
pub(crate) struct Ctr {
    name: String,
    containerd: Containerd,
    at: PathBuf,
}

impl Ctr {
    pub(crate) fn new(directory: &Path, archive: &Path) -> anyhow::Result<Self> {
        let containerd = Containerd::start(directory)?;
        run(containerd.ctr().args(["images", "import"]).arg(archive))?;
        let at = directory.join("mounted");
        std::fs::create_dir(&at)?;
        Ok(Self {
            name: format!("ctr images mount --rw {}", containerd.version()),
            containerd,
            at,
        })
    }
}

#[async_trait(?Send)]
impl Contestant for Ctr {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let mut mount = self.containerd.ctr();
        mount
            .args(["images", "mount", "--rw", image::NAME])
            .arg(&self.at);
        let begin = Instant::now();
        run(&mut mount)?;
        rustix::fs::stat(self.at.join(image::FILE))?;
        let mounted = begin.elapsed();
        let mut unmount = self.containerd.ctr();
        unmount.args(["images", "unmount", "--rm"]).arg(&self.at);
        let begin = Instant::now();
        run(&mut unmount)?;
        Ok(vec![
            (MOUNTED, milliseconds(mounted)),
            (GONE, milliseconds(begin.elapsed())),
        ])
    }
}

/// `podman image mount`, with overlayfs, read-only.
pub(crate) struct Podman {
    name: String,
    program: PathBuf,
    directory: PathBuf,
}

impl Podman {
    pub(crate) fn new(directory: &Path, archive: &Path) -> anyhow::Result<Self> {
        let program = find("podman", "podman")?;
        let version = first_line(&program);
        let this = Self {
            name: format!(
                "podman image mount {}",
                version.rsplit(' ').next().unwrap_or_default()
            ),
            program,
            directory: directory.to_owned(),
        };
        run(this
            .podman()
            .args(["load", "--quiet", "--input"])
            .arg(archive))?;
        Ok(this)
    }

    fn podman(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.directory.join("root"));
        command.arg("--runroot").arg(self.directory.join("run"));
        command.args(["--storage-driver", "overlay"]);
        command
    }
}

#[async_trait(?Send)]
impl Contestant for Podman {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let begin = Instant::now();
        let at = run(self.podman().args(["image", "mount", image::NAME]))?;
        rustix::fs::stat(Path::new(&at).join(image::FILE))?;
        let mounted = begin.elapsed();
        let begin = Instant::now();
        run(self.podman().args(["image", "unmount", image::NAME]))?;
        Ok(vec![
            (MOUNTED, milliseconds(mounted)),
            (GONE, milliseconds(begin.elapsed())),
        ])
    }
}
