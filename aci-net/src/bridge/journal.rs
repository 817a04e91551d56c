//! The ledger's journal on disk: a file of lines, each a checksum and a record.
//!
//! A line is written before the kernel hears of what it intends. It is not synced: lines tell of the
//! kernel's state, which a crash of the machine ends too, and a crash of the program loses nothing that
//! was written. So the lines of another boot are not even read; in those of this one, a line that a
//! crash cut off is the last one and has no end, and is dropped. Any other damage is an error. Opening
//! rewrites the file (new file, sync, rename, sync of the directory), so it stays short and its first
//! line outlives the machine's crash.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aci_core::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ledger::Record;
use crate::ipam::VirtualNetwork;

const OPERATION: &str = "network.journal";
/// The form of the file; another one is refused.
pub(crate) const VERSION: u32 = 2;
/// Rewritten when this many lines were added.
const REWRITE_AFTER: usize = 4096;

/// The first line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The form of the file.
    pub(crate) version: u32,
    /// The random text that names our kernel objects.
    pub(crate) instance: String,
    /// The boot in which the records were written; another one voids the kernel's state.
    pub(crate) boot: String,
    /// The virtual networks that the addresses are of.
    pub(crate) networks: Vec<VirtualNetwork>,
}

/// What a journal tells.
pub(crate) type Content = (Header, Vec<Record>);

#[derive(Serialize, Deserialize)]
enum Line {
    Header(Header),
    Record(Record),
}

/// The open journal; it holds a lock, so that one program at a time uses a state directory.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    file: Option<File>,
    added: usize,
    _lock: File,
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, OPERATION, format!("cannot {what}"))
        .on(path.display())
        .hint("check the state directory's rights and free space")
        .because(error)
}

fn write_line(out: &mut Vec<u8>, line: &Line) -> Result<()> {
    let json = serde_json::to_string(line).map_err(|error| {
        Error::new(ErrorKind::Internal, OPERATION, "cannot write a record").because(error)
    })?;
    out.extend_from_slice(checksum(&json).as_bytes());
    out.push(b' ');
    out.extend_from_slice(json.as_bytes());
    out.push(b'\n');
    Ok(())
}

fn checksum(json: &str) -> String {
    let hash = Sha256::digest(json.as_bytes());
    hash[..4].iter().map(|b| format!("{b:02x}")).collect()
}

fn read_line(line: &str) -> Option<Line> {
    let (sum, json) = line.split_once(' ')?;
    (sum == checksum(json))
        .then(|| serde_json::from_str(json).ok())
        .flatten()
}

/// Reads the content of a journal file; records of this boot only.
fn read(content: &[u8], path: &Path, boot: &str) -> Result<Option<Content>> {
    let corrupt = |number: usize, what: &str| {
        Error::new(
            ErrorKind::Corrupt,
            OPERATION,
            format!("line {number} {what}"),
        )
        .on(path.display())
        .hint("restore the file, or move it away: its groups then count as detached and their links stay until removed by hand")
    };
    let text = String::from_utf8_lossy(content);
    let mut lines: Vec<&str> = text.split('\n').collect();
    // After the last newline there is nothing, or a line that was cut off.
    let rest = lines.pop().unwrap_or_default();
    if !rest.is_empty() {
        tracing::warn!(path = %path.display(), "dropped a journal line that was not written to its end");
    }
    let mut header = None;
    let mut records = Vec::new();
    for (at, line) in lines.into_iter().enumerate() {
        match read_line(line) {
            Some(Line::Header(found)) if at == 0 => {
                if found.version != VERSION {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        OPERATION,
                        format!(
                            "the file has form {}, this program reads form {VERSION}",
                            found.version
                        ),
                    )
                    .on(path.display()));
                }
                if found.boot != boot {
                    return Ok(Some((found, Vec::new())));
                }
                header = Some(found);
            }
            Some(Line::Record(record)) if header.is_some() => records.push(record),
            Some(_) => return Err(corrupt(at + 1, "is not where it belongs")),
            None => return Err(corrupt(at + 1, "is damaged")),
        }
    }
    Ok(header.map(|header| (header, records)))
}

impl Journal {
    /// Opens the journal of a state directory, which is made if missing, and reads what it tells of
    /// this boot. Waits for another program to let go of the directory, but not longer than `patience`.
    pub(crate) fn open(
        directory: &Path,
        patience: Duration,
        boot: &str,
    ) -> Result<(Self, Option<Content>)> {
        fs::create_dir_all(directory)
            .map_err(|e| failed("make the state directory", directory, e))?;
        let lock_path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| failed("open the lock", &lock_path, e))?;
        let deadline = Instant::now() + patience;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        OPERATION,
                        "another network uses this state directory",
                    )
                    .on(directory.display())
                    .hint("close it first, or choose another directory"));
                }
                Err(TryLockError::Error(e)) => return Err(failed("lock", &lock_path, e)),
            }
        }
        let path = directory.join("journal");
        let found = match File::open(&path) {
            Ok(mut file) => {
                let mut content = Vec::new();
                file.read_to_end(&mut content)
                    .map_err(|e| failed("read the journal", &path, e))?;
                read(&content, &path, boot)?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("open the journal", &path, error)),
        };
        let journal = Self {
            directory: directory.to_owned(),
            file: None,
            added: 0,
            _lock: lock,
        };
        Ok((journal, found))
    }

    /// Replaces the whole file as one act.
    pub(crate) fn rewrite(&mut self, header: &Header, records: Vec<Record>) -> Result<()> {
        let mut content = Vec::new();
        write_line(&mut content, &Line::Header(header.clone()))?;
        for record in records {
            write_line(&mut content, &Line::Record(record))?;
        }
        let path = self.directory.join("journal");
        let new = self.directory.join("journal.new");
        let write = || -> std::io::Result<File> {
            let mut file = File::create(&new)?;
            file.write_all(&content)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(file)
        };
        // Until it has worked, nothing may be added to a file that is perhaps no longer the one.
        self.file = None;
        self.file = Some(write().map_err(|e| failed("write the journal", &path, e))?);
        self.added = 0;
        Ok(())
    }

    /// Adds records; they outlive this program.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<()> {
        let mut content = Vec::new();
        for record in records {
            write_line(&mut content, &Line::Record(record.clone()))?;
        }
        let path = self.directory.join("journal");
        let file = self.file.as_mut().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                OPERATION,
                "an earlier write of the journal failed",
            )
            .on(path.display())
            .hint("free space on its disk and open the network again")
        })?;
        if let Err(error) = file.write_all(&content) {
            // A line may be half written; nothing may follow it.
            self.file = None;
            return Err(failed("add to the journal", &path, error));
        }
        self.added += records.len();
        Ok(())
    }

    /// Whether the file has grown enough to be rewritten.
    pub(crate) const fn is_long(&self) -> bool {
        self.added >= REWRITE_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aci_core::id::SandboxId;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            instance: "i".to_owned(),
            boot: "b".to_owned(),
            networks: vec![VirtualNetwork::single("10.0.0.0/16".parse().unwrap()).unwrap()],
        }
    }

    fn records(n: usize) -> Vec<Record> {
        (0..n)
            .map(|i| Record::Commit(format!("s-{i}").parse::<SandboxId>().unwrap()))
            .collect()
    }

    #[test]
    fn what_was_added_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, found) = Journal::open(dir.path(), Duration::ZERO, "b").unwrap();
        assert!(found.is_none());
        journal.rewrite(&header(), records(2)).unwrap();
        journal.append(&records(3)[2..]).unwrap();
        let busy = Journal::open(dir.path(), Duration::ZERO, "b").unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Conflict);
        drop(journal);
        let (_journal, found) = Journal::open(dir.path(), Duration::ZERO, "b").unwrap();
        assert_eq!(found, Some((header(), records(3))));
    }

    #[test]
    fn another_form_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), Duration::ZERO, "b").unwrap();
        let mut newer = header();
        newer.version = VERSION + 1;
        journal.rewrite(&newer, Vec::new()).unwrap();
        drop(journal);
        let error = Journal::open(dir.path(), Duration::ZERO, "b").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    /// The machine crashed: what was not on the disk yet may be anything.
    #[test]
    fn lines_of_another_boot_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let open = |boot| Journal::open(dir.path(), Duration::ZERO, boot);
        let (mut journal, _) = open("b").unwrap();
        journal.rewrite(&header(), records(2)).unwrap();
        drop(journal);
        let path = dir.path().join("journal");
        let mut content = fs::read(&path).unwrap();
        content.extend_from_slice(&[0; 100]);
        content.push(b'\n');
        fs::write(&path, content).unwrap();
        assert_eq!(open("b").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(open("c").unwrap().1, Some((header(), Vec::new())));
    }

    proptest! {
        /// A file cut off anywhere behind its first line gives the records before the cut.
        #[test]
        fn a_cut_file_keeps_what_is_whole(cut in 0.0f64..1.0, n in 0usize..8) {
            let mut content = Vec::new();
            write_line(&mut content, &Line::Header(header())).unwrap();
            let first = content.len();
            for record in records(n) {
                write_line(&mut content, &Line::Record(record)).unwrap();
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let end = first + ((content.len() - first) as f64 * cut) as usize;
            let whole = content[first..end].iter().filter(|b| **b == b'\n').count();
            let found = read(&content[..end], Path::new("x"), "b").unwrap();
            prop_assert_eq!(found, Some((header(), records(whole))));
        }

        /// A changed byte is noticed: an error, or the last line has lost its end and is dropped.
        #[test]
        fn damage_is_noticed(place in any::<prop::sample::Index>(), flip in 1u8..=255, n in 1usize..6) {
            let mut content = Vec::new();
            write_line(&mut content, &Line::Header(header())).unwrap();
            for record in records(n) {
                write_line(&mut content, &Line::Record(record)).unwrap();
            }
            let at = place.index(content.len());
            content[at] ^= flip;
            if let Ok(Some((read_header, read_records))) = read(&content, Path::new("x"), "b") {
                prop_assert_eq!(read_header, header());
                let all = records(n);
                prop_assert_eq!(&read_records[..], &all[..read_records.len()]);
                prop_assert!(read_records.len() + 1 >= n);
            }
        }
    }
}
