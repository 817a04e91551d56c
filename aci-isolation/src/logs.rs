//! Reading the log files that an agent writes: the tail, since a time, and on as they grow.
//!
//! The files belong to the sandbox's directory, so a log can be read while no agent answers. Their
//! form is described in the agent's `log` module.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use aci_core::contract::{LogLine, LogQuery, OutputStream};
use aci_core::time::Timestamp;
use bytes::Bytes;

use crate::logfiles::{Chunk, LogFiles};

/// Bytes that are read at once at most.
const CHUNK: usize = 256 * 1024;
/// No record is as long; what is written by a guest may be anything.
const TOO_LONG: usize = 1 << 20;

/// Where the bytes come from.
#[derive(Debug)]
enum Source {
    Here(LogFiles),
    #[cfg(feature = "microvm")]
    Guest(crate::logfiles::Remote),
}

impl Source {
    fn chunk(&mut self, buffer: &mut [u8]) -> io::Result<Chunk> {
        match self {
            Self::Here(files) => files.chunk(buffer),
            #[cfg(feature = "microvm")]
            Self::Guest(remote) => remote.chunk(buffer),
        }
    }
}

/// Reads one container's log from its beginning on.
#[derive(Debug)]
pub(crate) struct Reader {
    source: Source,
    rest: Vec<u8>,
    query: LogQuery,
}

impl Reader {
    /// Opens the log. `NotFound` if the container was never started.
    pub(crate) fn open(path: PathBuf, query: LogQuery) -> io::Result<Self> {
        Ok(Self::over(Source::Here(LogFiles::open(path)?), query))
    }

    /// Reads a guest's.
    #[cfg(feature = "microvm")]
    pub(crate) fn remote(remote: crate::logfiles::Remote, query: LogQuery) -> Self {
        Self::over(Source::Guest(remote), query)
    }

    fn over(source: Source, query: LogQuery) -> Self {
        Self {
            source,
            rest: Vec::new(),
            query,
        }
    }

    /// The next lines; empty at the end of what is written now.
    pub(crate) fn more(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        let mut buffer = vec![0; CHUNK];
        while lines.is_empty() {
            let Chunk { read, fresh } = self.source.chunk(&mut buffer)?;
            if fresh {
                self.rest.clear();
            }
            if read == 0 {
                break;
            }
            self.rest.extend_from_slice(&buffer[..read]);
            let end = self
                .rest
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            for line in self.rest[..end].split(|byte| *byte == b'\n') {
                if let Some(line) = parse(line)
                    && self.query.since.is_none_or(|since| line.at >= since)
                {
                    lines.push(line);
                }
            }
            self.rest.drain(..end);
            if self.rest.len() > TOO_LONG {
                self.rest.clear();
            }
        }
        Ok(lines)
    }

    /// Everything that is written now, cut to the query's tail.
    pub(crate) fn tail(&mut self) -> io::Result<Vec<LogLine>> {
        let limit = self.query.tail.map_or(usize::MAX, |tail| tail as usize);
        let mut kept: VecDeque<LogLine> = VecDeque::new();
        let mut whole = 0;
        loop {
            let lines = self.more()?;
            if lines.is_empty() {
                return Ok(kept.into());
            }
            for line in lines {
                whole += usize::from(!line.partial);
                kept.push_back(line);
                while whole > limit {
                    let Some(first) = kept.pop_front() else {
                        break;
                    };
                    whole -= usize::from(!first.partial);
                }
            }
        }
    }
}

/// One record. What is damaged is left out.
pub(crate) fn parse(record: &[u8]) -> Option<LogLine> {
    let mut parts = record.splitn(4, |byte| *byte == b' ');
    let at: Timestamp = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"stdout" => OutputStream::Stdout,
        b"stderr" => OutputStream::Stderr,
        _ => return None,
    };
    let partial = match parts.next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(LogLine {
        at,
        stream,
        line: Bytes::copy_from_slice(parts.next()?),
        partial,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(number: u32) -> String {
        format!(
            "2026-11-20T10:00:{:02}.000000001Z stdout F line {number}\n",
            number % 60
        )
    }

    #[test]
    fn a_record_is_read_as_written() {
        let line = parse(b"2026-11-20T10:00:00.000001999Z stderr P a  b ").unwrap();
        assert_eq!(line.at.to_string(), "2026-11-20T10:00:00.000001Z");
        assert_eq!(line.stream, OutputStream::Stderr);
        assert!(line.partial);
        assert_eq!(&line.line[..], b"a  b ");
        assert!(
            parse(b"2026-11-20T10:00:00Z stdout F ")
                .unwrap()
                .line
                .is_empty()
        );
    }

    #[test]
    fn rotation_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.log");
        let older = directory.path().join("web.log.1");
        std::fs::write(&older, record(1)).unwrap();
        std::fs::write(&path, record(2) + &record(3)).unwrap();
        let mut reader = Reader::open(path.clone(), LogQuery::default()).unwrap();
        assert_eq!(reader.tail().unwrap().len(), 3);
        // Written after the last look, then rotated away: nothing is missed.
        std::fs::write(&path, record(2) + &record(3) + &record(4)).unwrap();
        std::fs::rename(&path, &older).unwrap();
        std::fs::write(&path, record(5)).unwrap();
        let mut lines = Vec::new();
        loop {
            let more = reader.more().unwrap();
            if more.is_empty() {
                break;
            }
            lines.extend(more.into_iter().map(|line| line.line));
        }
        assert_eq!(lines, ["line 4", "line 5"]);
    }

    #[test]
    fn the_tail_counts_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.log");
        let text = "2026-11-20T10:00:00Z stdout F one\n2026-11-20T10:00:01Z stdout P two-\n2026-11-20T10:00:01Z stdout F two\n2026-11-20T10:00:02Z stderr F three\n";
        std::fs::write(&path, text).unwrap();
        let tail = |tail, since: Option<&str>| -> Vec<String> {
            let query = LogQuery {
                tail,
                since: since.map(|text| text.parse().unwrap()),
                follow: false,
            };
            let lines = Reader::open(path.clone(), query).unwrap().tail().unwrap();
            lines
                .iter()
                .map(|line| String::from_utf8_lossy(&line.line).into_owned())
                .collect()
        };
        assert_eq!(tail(Some(2), None), ["two-", "two", "three"]);
        assert_eq!(tail(Some(0), None), Vec::<String>::new());
        assert_eq!(tail(None, Some("2026-11-20T10:00:02Z")), ["three"]);
        assert_eq!(tail(None, None).len(), 4);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(record in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&record);
        }
    }
}
