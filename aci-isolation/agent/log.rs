//! Container output: cut into lines, stamped, and kept in two files of bounded size.
//!
//! The form is that of the Kubernetes container runtime interface:
//! `2026-11-20T10:00:00.000000000Z stdout F the line`; `P` marks a part of a line that goes on in
//! the stream's next record.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The longest piece of a line in one record, in bytes.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// The least text in each of the two files.
const MIN_HALF: u64 = 1024;

/// How many times its share of text one of the two files may be with the stamps.
const STAMPED: u64 = 8;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands out whole lines, and pieces of lines that are too long (then `true`).
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                if self.rest.is_empty() {
                    each(&window[..end], false);
                } else {
                    self.rest.extend_from_slice(&window[..end]);
                    each(&self.rest, false);
                    self.rest.clear();
                }
                bytes = &bytes[end + 1..];
            } else {
                self.rest.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if self.rest.len() == MAX_LINE {
                    each(&self.rest, true);
                    self.rest.clear();
                }
            }
        }
    }

    /// Hands out what is left when the stream has ended.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(&[u8], bool)) {
        if !self.rest.is_empty() {
            each(&self.rest, false);
            self.rest.clear();
        }
    }
}

/// A log in two files: the current one, and with `.1` the one before. The bound is on the text of
/// the lines, without the stamps.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    /// Text in the current file, the buffer included.
    text: u64,
    /// Bytes in the current file with the stamps, which are longer than short lines are: a
    /// container that writes nothing but line ends must not get forty times of its bound.
    disk: u64,
    /// The current file is changed for a new one before it would hold more.
    half: u64,
    buffer: Vec<u8>,
}

impl Log {
    /// Starts a log.
    pub(crate) fn create(path: PathBuf, bytes: u64) -> io::Result<Self> {
        let mut log = Self {
            path,
            file: None,
            text: 0,
            disk: 0,
            half: 0,
            buffer: Vec::new(),
        };
        log.bound(bytes);
        log.open()?;
        Ok(log)
    }

    /// Sets the bound, which can change with each attempt.
    pub(crate) fn bound(&mut self, bytes: u64) {
        self.half = (bytes / 2).max(MIN_HALF);
    }

    fn open(&mut self) -> io::Result<()> {
        self.file = Some(
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?,
        );
        self.text = 0;
        self.disk = 0;
        Ok(())
    }

    /// Adds a record; it reaches the file with [`Log::flush`].
    pub(crate) fn record(&mut self, stamp: &str, stream: &str, partial: bool, line: &[u8]) {
        let length = line.len() as u64 + 1;
        let stamped = (stamp.len() + stream.len() + 4) as u64 + length;
        let full = self.text + length > self.half
            || self.disk + stamped > self.half.saturating_mul(STAMPED);
        if self.text > 0 && full {
            self.flush();
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            // Readers that hold the old file go on reading it to its end.
            if std::fs::rename(&self.path, older).is_ok() {
                let _ = self.open();
            }
        }
        self.text += length;
        self.disk += stamped;
        let mark = if partial { "P" } else { "F" };
        for part in [stamp, " ", stream, " ", mark, " "] {
            self.buffer.extend_from_slice(part.as_bytes());
        }
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
        if self.buffer.len() >= 64 * 1024 {
            self.flush();
        }
    }

    /// Writes what was recorded. A full disk loses lines and stops nothing.
    pub(crate) fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&self.buffer);
        }
        self.buffer.clear();
    }
}

/// A point in time as RFC 3339 in UTC with nanoseconds.
pub(crate) fn stamp(seconds: u64, nanos: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar, counted from 0000-03-01 (Hinnant, "chrono-
    // compatible low-level date algorithms").
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stamps_are_rfc_3339() {
        assert_eq!(stamp(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(stamp(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(
            stamp(1_700_000_000, 123_456_789),
            "2023-11-14T22:13:20.123456789Z"
        );
        assert_eq!(stamp(4_102_444_799, 0), "2099-12-31T23:59:59.000000000Z");
    }

    fn all(chunks: &[Vec<u8>]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |line, partial| out.push((line.to_vec(), partial)));
        }
        lines.finish(|line, partial| out.push((line.to_vec(), partial)));
        out
    }

    proptest! {
        /// Nothing is lost or added, however the bytes arrive, and no record is too long.
        #[test]
        fn lines_put_together_are_the_stream(
            lines in prop::collection::vec(
                prop_oneof![4 => 0_usize..50, 1 => 16_000_usize..17_000, 1 => 32_700_usize..32_800], 0..8),
            size in 1_usize..40_000,
            open in any::<bool>(),
        ) {
            let mut stream: Vec<u8> = lines
                .iter()
                .flat_map(|length| [vec![b'x'; *length], vec![b'\n']].concat())
                .collect();
            if open {
                stream.pop();
            }
            let chunks: Vec<Vec<u8>> = stream.chunks(size).map(<[u8]>::to_vec).collect();
            let mut joined = Vec::new();
            for (line, partial) in all(&chunks) {
                prop_assert!(line.len() <= MAX_LINE);
                joined.extend_from_slice(&line);
                if !partial {
                    joined.push(b'\n');
                }
            }
            // A last line without end gets one.
            if joined.len() > stream.len() {
                stream.push(b'\n');
            }
            prop_assert_eq!(joined, stream);
        }
    }

    #[test]
    fn long_lines_are_cut_and_marked() {
        let out = all(&[vec![b'a'; MAX_LINE + 3], b"b\nc\n".to_vec()]);
        let shape: Vec<(usize, bool)> = out
            .iter()
            .map(|(line, partial)| (line.len(), *partial))
            .collect();
        assert_eq!(shape, [(MAX_LINE, true), (4, false), (1, false)]);
    }

    #[test]
    fn two_files_bound_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.log");
        let mut log = Log::create(path.clone(), 64 * 1024).unwrap();
        for number in 0..20_000 {
            log.record("T", "stdout", false, format!("line {number}").as_bytes());
            if number % 100 == 0 {
                log.flush();
            }
        }
        log.flush();
        let current = std::fs::read_to_string(&path).unwrap();
        let older = std::fs::read_to_string(directory.path().join("web.log.1")).unwrap();
        let text = |file: &str| file.lines().map(|line| line.len() - 11).sum::<usize>();
        let kept = text(&current) + text(&older);
        assert!((32 * 1024..=64 * 1024).contains(&kept), "{kept}");
        assert!(current.ends_with("line 19999\n"));
        let numbers: Vec<u32> = format!("{older}{current}")
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }
}
