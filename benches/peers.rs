//! Programs of other projects, as Debian has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// The program of a package in PATH or where Debian puts it.
///
/// # Errors
/// If it is not installed, with the package that has it.
pub fn find(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/bin"])
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not installed (Debian package {package})"))
}

/// What a program says about its version, in one line; empty if nothing.
#[must_use]
pub fn first_line(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().to_owned()
}

/// containerd with directories and a socket of its own; it ends with this value.
#[derive(Debug)]
pub struct Containerd {
    version: String,
    ctr: PathBuf,
    directory: PathBuf,
    daemon: Child,
}

impl Containerd {
    /// Starts it in a directory, which is made.
    ///
    /// # Errors
    /// If it is not installed or does not come up within 10 seconds.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let ctr = find("ctr", "containerd")?;
        let program = find("containerd", "containerd")?;
        fs::create_dir_all(directory)?;
        let path = |name: &str| directory.join(name);
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("sock"),
            path("sock.ttrpc")
        );
        fs::write(path("config.toml"), text)?;
        let log = fs::File::create(path("log"))?;
        let daemon = Command::new(&program)
            .arg("--config")
            .arg(path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let version = first_line(&program);
        let mut this = Self {
            version: version.split(' ').nth(2).unwrap_or_default().to_owned(),
            ctr,
            directory: directory.to_owned(),
            daemon,
        };
        let mut last = String::new();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            if let Some(status) = this.daemon.try_wait()? {
                let log = fs::read_to_string(this.directory.join("log")).unwrap_or_default();
                let line = log.lines().last().unwrap_or_default().to_owned();
                anyhow::bail!("containerd ended with {status}: {line}");
            }
            let output = this.ctr().arg("version").output()?;
            if output.status.success() {
                return Ok(this);
            }
            last = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        }
        anyhow::bail!("containerd does not answer: {last}")
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The process id, to look at its memory and CPU time.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// A command of `ctr` to it, in a namespace for benches.
    #[must_use]
    pub fn ctr(&self) -> Command {
        let mut command = Command::new(&self.ctr);
        command
            .arg("--address")
            .arg(self.directory.join("sock"))
            .args(["--namespace", "aci-bench"]);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SIGTERM lets it close its files; what is left of them goes with the directory.
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .status();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if !matches!(self.daemon.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
