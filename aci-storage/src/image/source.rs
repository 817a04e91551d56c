//! Where an image is imported from: a directory, or an archive that is spooled first.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use aci_core::error::{Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::content::{Blobs, Staged};
use crate::fail;
use crate::layer::{Fault, Kind, TarReader, UnpackLimits, decompress};

/// Files by name.
pub(super) trait Source {
    /// A file's content, `None` if there is none of that name.
    fn open(&self, name: &str) -> Result<Option<File>>;

    /// [`Source::open`], where the file must be there.
    fn need(&self, name: &str) -> Result<File> {
        self.open(name)?.ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                "images.import",
                format!("the file '{name}' is missing"),
            )
        })
    }
}

/// A directory; nothing outside it is read.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(dir, flags, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(Error::new(
                ErrorKind::NotFound,
                "images.import",
                "there is no such directory",
            )
            .on(dir.display())),
            Err(e) => Err(fail::io("images.import", "open it", dir, e)),
        }
    }
}

impl Source for Directory {
    fn open(&self, name: &str) -> Result<Option<File>> {
        // Not to wait for the other end of a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let failed = |e: Errno| fail::io("images.import", "open it", Path::new(name), e);
        match rustix::fs::openat2(&self.0, name, flags, Mode::empty(), resolve) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(failed)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        "images.import",
                        format!("'{name}' is not a file"),
                    ));
                }
                Ok(Some(File::from(fd)))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }
}

/// So many files an archive of images may have.
const MAX_FILES: usize = 20_000;

/// The files of an archive in the store's temporary directory.
#[derive(Debug, Default)]
pub(super) struct Spool {
    files: HashMap<String, Staged>,
    links: HashMap<String, String>,
}

impl Spool {
    /// Reads an archive, compressed by gzip or not. `limits` bound it as they bound a layer.
    pub(super) fn read(
        archive: impl Read,
        blobs: &Blobs,
        limits: &UnpackLimits,
        heard: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let failed = |fault: Fault| fault.into_error("images.import");
        let stream = decompress(archive).map_err(failed)?;
        // Bounded like a layer, but for the ratio: this is a file that the user chose.
        let mut left = limits.bytes;
        let mut tar = TarReader::new(BufReader::with_capacity(128 * 1024, stream), limits);
        let mut spool = Self::default();
        let mut before = 0;
        while let Some(entry) = tar.next_entry().map_err(failed)? {
            let Some(name) = plain(&entry.path) else {
                continue; // no reader asks for such a name
            };
            match entry.kind {
                Kind::File => {
                    left = left.checked_sub(entry.size).ok_or_else(|| {
                        failed(Fault::Refused(format!(
                            "it holds more than {} bytes",
                            limits.bytes
                        )))
                    })?;
                    let (staged, read) = blobs.stage(&mut tar, &mut |done| heard(before + done))?;
                    if read != entry.size {
                        return Err(failed(Fault::Broken(format!("it ends within '{name}'"))));
                    }
                    before += read;
                    spool.links.remove(&name);
                    spool.files.insert(name, staged);
                }
                // `docker save` writes a layer that two images share once and links to it.
                Kind::SymbolicLink | Kind::HardLink => {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    let target = if entry.kind == Kind::HardLink {
                        plain(target.as_bytes())
                    } else {
                        beside(&name, &target)
                    };
                    if let Some(target) = target {
                        spool.links.insert(name, target);
                    }
                }
                Kind::Directory | Kind::Fifo | Kind::Device => {}
            }
            if spool.files.len() + spool.links.len() > MAX_FILES {
                return Err(failed(Fault::Refused(format!(
                    "it has more than {MAX_FILES} files"
                ))));
            }
        }
        Ok(spool)
    }

    /// Takes a spooled file out, so that it can become a blob without being copied.
    pub(super) fn find(&self, name: &str) -> Option<&Staged> {
        let mut name = plain(name.as_bytes())?;
        // Links to links: a few at most.
        for _ in 0..8 {
            if let Some(file) = self.files.get(&name) {
                return Some(file);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }
}

impl Source for Spool {
    fn open(&self, name: &str) -> Result<Option<File>> {
        self.find(name).map(Staged::reader).transpose()
    }
}

/// A name without `./` and doubled slashes; `None` if it leads out or is not text.
fn plain(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// What a link of this name points to.
fn beside(name: &str, target: &str) -> Option<String> {
    let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
    plain(format!("{dir}/{target}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        assert_eq!(plain(b"./a//b"), Some("a/b".into()));
        assert_eq!(plain(b"a/../b"), Some("b".into()));
        assert_eq!(plain(b"../a"), None);
        assert_eq!(plain(b"\xff"), None);
        assert_eq!(
            beside("x/layer.tar", "../y/layer.tar"),
            Some("y/layer.tar".into())
        );
        assert_eq!(beside("layer.tar", "../../etc/passwd"), None);
    }
}
