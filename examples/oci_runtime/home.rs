//! What is kept of containers between two calls of the program.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aci_core::contract::{Isolation, RunState, Sandbox, Signal};
use aci_core::error::ErrorKind;
use aci_core::id::SandboxId;
use aci_isolation::{Namespaces, NamespacesOptions};
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The one container of a sandbox.
pub(crate) const CONTAINER: &str = "main";
/// The version of the runtime specification that is followed.
pub(crate) const OCI_VERSION: &str = "1.0.2";
/// How long another call of this program is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a container does: the specification's words, and `paused`, which it leaves to runtimes and
/// runc has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The directory of the program's state: `--root`.
#[derive(Clone, Debug)]
pub(crate) struct Home(pub(crate) PathBuf);

/// One container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) sandbox: SandboxId,
    pub(crate) bundle: PathBuf,
    pub(crate) annotations: Option<HashMap<String, String>>,
    /// The process that attends to the container, and when it started (clock ticks).
    pub(crate) pid: i32,
    pub(crate) since: u64,
}

fn private(path: &Path, recursive: bool) -> std::io::Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(recursive)
        .create(path)
}

/// When a process started, if it lives (proc(5), field 22 of `stat`).
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let dead = matches!(fields.first(), Some(&"Z" | &"X"));
    (!dead).then(|| fields.get(19)?.parse().ok()).flatten()
}

impl Home {
    /// A container's own directory.
    pub(crate) fn of(&self, id: &str) -> Result<PathBuf> {
        // The characters that runc allows.
        let plain = id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b));
        ensure!(
            plain && !id.is_empty() && id != "." && id != "..",
            "'{id}' cannot be a container's id: letters, digits and _+-. only"
        );
        Ok(self.0.join("containers").join(id))
    }

    /// Makes a container's directory.
    pub(crate) fn make(&self, id: &str) -> Result<PathBuf> {
        let directory = self.of(id)?;
        private(&self.0.join("containers"), true).context("--root")?;
        match private(&directory, false) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                bail!("container with id {id} exists already")
            }
            other => other.with_context(|| directory.display().to_string())?,
        }
        Ok(directory)
    }

    /// The isolation; other calls of this program over the same directory are waited for.
    pub(crate) fn isolation(&self) -> Result<Namespaces> {
        private(&self.0, true).context("--root")?;
        let begun = Instant::now();
        loop {
            // OCI asks for a user namespace by name, and a bundle's root may be of a file system
            // that cannot be shown to one.
            let options = NamespacesOptions::default()
                .state_dir(self.0.join("sandboxes"))
                .cgroup_parent("aci-oci")
                .user_ids(None);
            match Namespaces::new(options) {
                Err(error) if error.kind() == ErrorKind::Conflict && begun.elapsed() < PATIENCE => {
                }
                other => return Ok(other?),
            }
        }
    }

    pub(crate) fn write(&self, id: &str, record: &Record) -> Result<()> {
        let directory = self.of(id)?;
        let text = serde_json::to_vec(record)?;
        save(&directory.join("record.new"), &text)?;
        fs::rename(directory.join("record.new"), directory.join("record.json"))?;
        Ok(())
    }

    pub(crate) fn record(&self, id: &str) -> Result<Record> {
        let path = self.of(id)?.join("record.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("container \"{id}\" does not exist")
            }
            other => other.with_context(|| path.display().to_string())?,
        };
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Takes note that the container's program was started.
    pub(crate) fn mark_started(&self, id: &str) -> Result<()> {
        save(&self.of(id)?.join("started"), b"")
    }

    /// Takes note that a container was paused, or goes on.
    pub(crate) fn mark_paused(&self, id: &str, paused: bool) -> Result<()> {
        let mark = self.of(id)?.join("paused");
        if paused {
            return save(&mark, b"");
        }
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| mark.display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// A container's state and, unless it is lost, its sandbox.
    pub(crate) async fn look(
        &self,
        isolation: &Namespaces,
        id: &str,
        record: &Record,
    ) -> Result<(Status, Option<Arc<dyn Sandbox>>)> {
        let sandbox = match isolation.adopt(&record.sandbox).await {
            Ok(sandbox) => sandbox,
            Err(error) if matches!(error.kind(), ErrorKind::Lost | ErrorKind::NotFound) => {
                return Ok((Status::Stopped, None));
            }
            Err(error) => return Err(error.into()),
        };
        let status = sandbox.status().await?;
        let running = status
            .containers
            .iter()
            .any(|c| c.name == CONTAINER && matches!(c.state, RunState::Running { .. }));
        let state = if running && !record.attended() {
            // As with every runtime, a container ends with the process that stands for it.
            sandbox.signal(CONTAINER, Signal::KILL, true).await?;
            Status::Stopped
        } else if !running {
            Status::Stopped
        } else if self.of(id)?.join("paused").exists() {
            Status::Paused
        } else if self.of(id)?.join("started").exists() {
            Status::Running
        } else {
            Status::Created
        };
        Ok((state, Some(sandbox)))
    }
}

impl Record {
    /// A record of a process that has just been started.
    pub(crate) fn new(
        sandbox: SandboxId,
        bundle: PathBuf,
        annotations: Option<HashMap<String, String>>,
        pid: i32,
    ) -> Self {
        let since = started(pid).unwrap_or(0);
        Self {
            sandbox,
            bundle,
            annotations,
            pid,
            since,
        }
    }

    /// Whether the process that attends to the container lives.
    pub(crate) fn attended(&self) -> bool {
        started(self.pid) == Some(self.since)
    }

    /// Kills the process that attends to the container, if it lives.
    pub(crate) fn dismiss(&self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else {
            return;
        };
        let flags = rustix::process::PidfdFlags::empty();
        // The descriptor is of the right process if that lives after it was opened.
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, flags)
            && self.attended()
        {
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        }
    }
}

/// Writes a file for this user alone.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| path.display().to_string())
}
