//! Records on disk until they are sent: a queue of files with a bound.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where records go: a workspace, a table of it, and the resource that they are about. No key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Address {
    pub(super) workspace: String,
    pub(super) table: String,
    pub(super) resource: String,
}

/// One file: what one request carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) address: Address,
    pub(super) records: Vec<Value>,
}

/// The queue of one directory. It reads and writes files.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    /// Sequence numbers and sizes, the oldest first.
    files: VecDeque<(u64, u64)>,
    bytes: u64,
    most: u64,
    next: u64,
}

impl Spool {
    /// Opens a directory, with what is in it.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn open(dir: &Path, most: u64) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.strip_suffix(".json"));
            match number.and_then(|n| n.parse::<u64>().ok()) {
                Some(number) => files.push((number, entry.metadata()?.len())),
                // Half a file of an earlier run.
                None if name.to_string_lossy().ends_with(".new") => fs::remove_file(entry.path())?,
                None => {}
            }
        }
        files.sort_unstable();
        Ok(Self {
            dir: dir.to_owned(),
            bytes: files.iter().map(|(_, size)| size).sum(),
            next: files.last().map_or(0, |(number, _)| number + 1),
            files: files.into(),
            most,
        })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.json"))
    }

    /// Puts a batch at the end. If there is too much, the oldest go; how many is the answer.
    ///
    /// # Errors
    /// The file system's; nothing is in the queue then.
    pub(super) fn push(&mut self, batch: &Batch) -> io::Result<usize> {
        let text = serde_json::to_vec(batch)?;
        let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let mut dropped = 0;
        while self.bytes.saturating_add(size) > self.most && !self.files.is_empty() {
            self.pop()?;
            dropped += 1;
        }
        let path = self.path(self.next);
        let beside = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&beside, &path)?;
        self.files.push_back((self.next, size));
        self.bytes += size;
        self.next += 1;
        Ok(dropped)
    }

    /// The oldest batch. A file that cannot be read is removed, and the next one is the oldest.
    pub(super) fn front(&mut self) -> Option<Batch> {
        while let Some((number, _)) = self.files.front().copied() {
            let path = self.path(number);
            let read = fs::read(&path)
                .ok()
                .and_then(|t| serde_json::from_slice(&t).ok());
            if read.is_some() {
                return read;
            }
            tracing::warn!(file = %path.display(), "records that cannot be read are left out");
            if self.pop().is_err() {
                return None;
            }
        }
        None
    }

    /// Removes the oldest batch.
    ///
    /// # Errors
    /// The file system's; it is still there then.
    pub(super) fn pop(&mut self) -> io::Result<()> {
        if let Some((number, size)) = self.files.front().copied() {
            match fs::remove_file(self.path(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            self.files.pop_front();
            self.bytes -= size;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn batch(number: u64) -> Batch {
        let address = Address {
            workspace: "w".to_owned(),
            table: "t".to_owned(),
            resource: "/r".to_owned(),
        };
        Batch {
            address,
            records: vec![json!({"number": number})],
        }
    }

    #[test]
    fn what_is_put_in_comes_out_in_order_after_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 10_000).unwrap();
        for number in 0..3 {
            assert_eq!(spool.push(&batch(number)).unwrap(), 0);
        }
        fs::write(dir.path().join("00000000000000000009.new"), "half").unwrap();
        drop(spool);
        let mut spool = Spool::open(dir.path(), 10_000).unwrap();
        spool.push(&batch(3)).unwrap();
        for number in 0..4 {
            assert_eq!(spool.front().unwrap(), batch(number));
            spool.pop().unwrap();
        }
        assert!(spool.front().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_oldest_make_room_and_damage_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let one = u64::try_from(serde_json::to_vec(&batch(0)).unwrap().len()).unwrap();
        let mut spool = Spool::open(dir.path(), 3 * one).unwrap();
        let dropped: usize = (0..5).map(|n| spool.push(&batch(n)).unwrap()).sum();
        assert_eq!((dropped, spool.files.len(), spool.bytes), (2, 3, 3 * one));
        fs::write(spool.path(2), "{").unwrap();
        fs::remove_file(spool.path(3)).unwrap();
        assert_eq!(spool.front().unwrap(), batch(4));
    }
}
