//! One program at a time over a state directory.
//!
//! An engine removes sandboxes that its journal does not know. Two programs over one state
//! directory would take each other's groups for such, so the second is refused. The claim ends
//! with its program, however that ends; values of one program share it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// A claimed directory; given up when the last clone is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Closing it ends the claim.
    _lock: File,
}

/// So long is waited for another program's claim. One that was killed while it started a process
/// holds on to its claim until that process, which has its descriptors, is executed.
const PATIENCE: Duration = Duration::from_secs(1);

/// The file that is locked. Its name is no sandbox id.
const FILE: &str = ".lock";

/// Claims a directory; `None` if another program has it and keeps it. Blocks.
pub(crate) fn claim(directory: &Path) -> io::Result<Option<Arc<Claim>>> {
    // A lock belongs to an open file, so the values of one program have to share it.
    static OWN: Mutex<BTreeMap<PathBuf, Weak<Claim>>> = Mutex::new(BTreeMap::new());
    let directory = directory.canonicalize()?;
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    own.retain(|_, claim| claim.strong_count() > 0);
    if let Some(claim) = own.get(&directory).and_then(Weak::upgrade) {
        return Ok(Some(claim));
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(FILE))?;
    let lock = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    let mut locked = lock();
    let begun = Instant::now();
    while locked == Err(rustix::io::Errno::WOULDBLOCK) && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
        locked = lock();
    }
    match locked {
        Ok(()) => {
            let claim = Arc::new(Claim { _lock: file });
            own.insert(directory, Arc::downgrade(&claim));
            Ok(Some(claim))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_program_shares_a_claim_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = claim(dir.path()).unwrap().unwrap();
        let second = claim(dir.path()).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let flock = |how: &str| {
            std::process::Command::new("flock")
                .args([how, "--nonblock"])
                .arg(dir.path().join(FILE))
                .arg("true")
                .status()
                .unwrap()
                .success()
        };
        assert!(!flock("--exclusive"));
        drop(first);
        assert!(!flock("--exclusive"));
        drop(second);
        assert!(flock("--exclusive"));
    }

    /// A host that was killed while it started an agent left a child that had the lock for some
    /// milliseconds more, and the host that came next was refused.
    #[test]
    fn a_claim_that_is_about_to_end_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = std::process::Command::new("flock")
            .arg("--exclusive")
            .arg(dir.path().join(FILE))
            .args(["sh", "-c", "echo locked; sleep 0.2"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert!(claim(dir.path()).unwrap().is_some());
        other.wait().unwrap();
    }
}
