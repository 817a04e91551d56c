//! Reads a tar archive entry by entry: POSIX ustar and pax, GNU long names, old V7.
//!
//! The blocks are read by `tar`'s header type; the framing is here, so that every extended header
//! is bounded before it is read and the size that decides where the next header lies is the same
//! one that the entry gets (pax over ustar). Where readers of tar are known to disagree, the
//! archive is refused.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::fault::{Fault, shown};
use super::limits::UnpackLimits;

const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    SymbolicLink,
    Directory,
    Fifo,
    Device,
}

/// One entry, its content still to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as written, not checked.
    pub(crate) path: Vec<u8>,
    /// The target of links.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Bytes of content.
    pub(crate) size: u64,
    /// Extended attributes.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What extended headers say about the next entry.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: u64,
}

/// Reads entries; reading from it reads the content of the latest one.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    inner: R,
    left: u64,
    padding: u64,
    entries: u64,
    max_entries: u64,
    max_header: u64,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    pub(crate) const fn new(inner: R, limits: &UnpackLimits) -> Self {
        Self {
            inner,
            left: 0,
            padding: 0,
            entries: 0,
            max_entries: limits.entries,
            max_header: limits.header_bytes,
            ended: false,
        }
    }

    /// The stream behind the end mark.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; what was not read of the one before is passed over.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.next_header()? else {
                if extended.bytes > 0 {
                    return Err(Fault::Broken(
                        "it ends behind an extended header".to_owned(),
                    ));
                }
                return Ok(None);
            };
            let size = header
                .entry_size()
                .map_err(|_| Fault::Broken("a header's size is no number".to_owned()))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = self.extended_body(&mut extended, size)?;
                    pax(&records, &mut extended)?;
                }
                // Global records are passed over, as containerd's and Docker's readers do.
                EntryType::XGlobalHeader => {
                    self.extended_body(&mut extended, size)?;
                }
                EntryType::GNULongName => {
                    extended.path = Some(self.long_name(&mut extended, size)?);
                }
                EntryType::GNULongLink => {
                    extended.link = Some(self.long_name(&mut extended, size)?);
                }
                _ => return self.entry(&header, size, extended).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Entry, Fault> {
        self.entries += 1;
        if self.entries > self.max_entries {
            return Err(Fault::Refused(format!(
                "it has more than {} entries",
                self.max_entries
            )));
        }
        let path = extended
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match header.entry_type() {
            // Before ustar a directory was a file whose name ends with a slash.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::SymbolicLink,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            EntryType::GNUSparse => {
                return Err(Fault::Refused(format!(
                    "'{}' is a sparse file, which layers do not have",
                    shown(&path)
                )));
            }
            other => {
                return Err(Fault::Refused(format!(
                    "'{}' has the unknown type {:#04x}",
                    shown(&path),
                    other.as_byte()
                )));
            }
        };
        let size = extended.size.unwrap_or(size);
        if kind != Kind::File && size != 0 {
            return Err(Fault::Refused(format!(
                "'{}' is no file but has content, which readers of tar take differently",
                shown(&path)
            )));
        }
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        let number = |pax: Option<u64>, ustar: io::Result<u64>, what: &str| {
            let value = pax.map_or(ustar, Ok);
            // The highest value means "do not change" to chown.
            match value.map(u32::try_from) {
                Ok(Ok(id)) if id != u32::MAX => Ok(id),
                _ => Err(Fault::Broken(format!(
                    "'{}' has a bad {what}",
                    shown(&path)
                ))),
            }
        };
        // A field that is not filled in stands for 0, as for GNU tar and Go's reader.
        let old = header.as_old();
        let or_zero = |field: &[u8], value: io::Result<u64>| match field {
            field if field.iter().all(|b| matches!(b, 0 | b' ')) => Ok(0),
            _ => value,
        };
        let uid = number(extended.uid, or_zero(&old.uid, header.uid()), "user id")?;
        let gid = number(extended.gid, or_zero(&old.gid, header.gid()), "group id")?;
        let mode = or_zero(&old.mode, header.mode().map(u64::from));
        let mode = number(None, mode, "mode")? & 0o7777;
        let mtime = match extended.mtime {
            Some(time) => time,
            None => (
                header
                    .mtime()
                    .ok()
                    .and_then(|t| i64::try_from(t).ok())
                    .unwrap_or(0),
                0,
            ),
        };
        let link = match extended.link {
            Some(link) => link,
            None => header.link_name_bytes().map_or(Vec::new(), Into::into),
        };
        Ok(Entry {
            path,
            link,
            kind,
            mode,
            uid,
            gid,
            mtime,
            size,
            xattrs: extended.xattrs,
        })
    }

    /// The next header block with a right checksum, or the end.
    fn next_header(&mut self) -> Result<Option<Header>, Fault> {
        if self.ended {
            return Ok(None);
        }
        let rest = self.left.saturating_add(self.padding);
        let passed = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())
            .map_err(Fault::from_read)?;
        if passed != rest {
            return Err(Fault::Broken("it ends within a file".to_owned()));
        }
        (self.left, self.padding) = (0, 0);
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut have = 0;
        while have < block.len() {
            match self
                .inner
                .read(&mut block[have..])
                .map_err(Fault::from_read)?
            {
                // Some writers leave the end mark out.
                0 if have == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                0 => return Err(Fault::Broken("it ends within a header".to_owned())),
                n => have += n,
            }
        }
        if block.iter().all(|b| *b == 0) {
            self.ended = true;
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, b)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(*b)
                }
            })
            .sum();
        match header.cksum() {
            Ok(said) if said == sum => Ok(Some(header)),
            _ => Err(Fault::Broken("a header has a wrong checksum".to_owned())),
        }
    }

    /// Reads the body of an extended header, within the bound for one entry.
    fn extended_body(&mut self, extended: &mut Extended, size: u64) -> Result<Vec<u8>, Fault> {
        extended.bytes = extended.bytes.saturating_add(size.max(1));
        if extended.bytes > self.max_header {
            return Err(Fault::Refused(format!(
                "an entry has more than {} bytes of extended headers",
                self.max_header
            )));
        }
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        let mut body = Vec::new();
        self.read_to_end(&mut body).map_err(Fault::from_read)?;
        if body.len() as u64 != size {
            return Err(Fault::Broken(
                "it ends within an extended header".to_owned(),
            ));
        }
        Ok(body)
    }

    fn long_name(&mut self, extended: &mut Extended, size: u64) -> Result<Vec<u8>, Fault> {
        let mut name = self.extended_body(extended, size)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let n = self.inner.read(&mut buf[..most])?;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Reads pax records, `LENGTH KEY=VALUE\n` (POSIX.1-2017, "pax Extended Header").
fn pax(mut rest: &[u8], into: &mut Extended) -> Result<(), Fault> {
    let broken = || Fault::Broken("an extended header is malformed".to_owned());
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ').ok_or_else(broken)?;
        let length = decimal(&rest[..space]).ok_or_else(broken)?;
        let length = usize::try_from(length).map_err(|_| broken())?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(broken());
        }
        let record = &rest[space + 1..length - 1];
        rest = &rest[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" if !value.is_empty() => into.path = Some(value.to_vec()),
            b"linkpath" if !value.is_empty() => into.link = Some(value.to_vec()),
            b"size" => into.size = Some(decimal(value).ok_or_else(broken)?),
            b"uid" => into.uid = Some(decimal(value).ok_or_else(broken)?),
            b"gid" => into.gid = Some(decimal(value).ok_or_else(broken)?),
            b"mtime" => into.mtime = Some(time(value).ok_or_else(broken)?),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(Fault::Refused(
                    "it has a sparse file, which layers do not have".to_owned(),
                ));
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    into.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]` as seconds (rounded down) and nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let nanos = (0..9).fold(0, |n, at| {
        n * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'))
    });
    Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_down() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.12345678999"), Some((1, 123_456_789)));
        for bad in ["", "x", "1.x", "--1", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut reader = TarReader::new(&bytes[..], &UnpackLimits::default());
            while let Ok(Some(_)) = reader.next_entry() {}
            let _ = pax(&bytes, &mut Extended::default());
        }
    }
}
