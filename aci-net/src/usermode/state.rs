//! One file for each attachment, written before its program is started.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aci_core::contract::Attachment;
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use serde::{Deserialize, Serialize};

use super::{failed, sync};

/// How long a program that is ending is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stack {
    /// What the engine was told.
    pub(super) attachment: Attachment,
    /// The network namespace's number.
    pub(super) namespace: u64,
    /// Its program has started.
    pub(super) made: bool,
}

/// The state directory, held by a lock.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    _lock: File,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<(Self, Vec<(SandboxId, Stack)>)> {
        fs::create_dir_all(directory)
            .map_err(|e| failed("make the state directory", directory, e))?;
        // The program's command line names its files by their whole path.
        let directory = &fs::canonicalize(directory)
            .map_err(|e| failed("find the state directory", directory, e))?;
        let path = directory.join("lock");
        let lock = File::create(&path).map_err(|e| failed("open the lock", &path, e))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "network.open",
                        "another network uses this state directory",
                    )
                    .on(directory.display())
                    .hint("close it first, or choose another directory"));
                }
                Err(TryLockError::Error(e)) => return Err(failed("lock", &path, e)),
            }
        }
        let mut found = Vec::new();
        let files = fs::read_dir(directory).map_err(|e| failed("read", directory, e))?;
        for file in files {
            let path = file.map_err(|e| failed("read", directory, e))?.path();
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            let Some(sandbox) = name.strip_suffix(".json").and_then(|s| s.parse().ok()) else {
                continue;
            };
            let bytes = fs::read(&path).map_err(|e| failed("read", &path, e))?;
            let stack = serde_json::from_slice(&bytes).map_err(|e| {
                Error::new(ErrorKind::Corrupt, "network.open", "the file is damaged")
                    .on(path.display())
                    .hint("end the group's `pasta` by hand and remove the file")
                    .because(e)
            })?;
            found.push((sandbox, stack));
        }
        let store = Self {
            directory: directory.clone(),
            _lock: lock,
        };
        Ok((store, found))
    }

    fn file(&self, sandbox: &SandboxId) -> PathBuf {
        self.directory.join(format!("{sandbox}.json"))
    }

    /// Where the program writes its number.
    pub(super) fn pid_file(&self, sandbox: &SandboxId) -> PathBuf {
        self.directory.join(format!("{sandbox}.pid"))
    }

    /// Writes an attachment as one act; it is on the disk when this returns.
    pub(super) fn put(&self, stack: &Stack) -> Result<()> {
        let path = self.file(&stack.attachment.sandbox);
        let new = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let bytes = serde_json::to_vec(stack)?;
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync(&self.directory)
        };
        write().map_err(|e| failed("write", &path, e))
    }

    pub(super) fn remove(&self, sandbox: &SandboxId) -> Result<()> {
        for path in [self.pid_file(sandbox), self.file(sandbox)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path, e));
                }
                _ => {}
            }
        }
        sync(&self.directory).map_err(|e| failed("write", &self.directory, e))
    }
}
