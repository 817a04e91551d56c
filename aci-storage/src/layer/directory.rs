//! Layers as directories.

use std::collections::HashMap;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::Form;
use super::fault::{Fault, shown};
use super::tar::{Entry, Kind};
use super::target::{Found, Target, What, read_some};
use crate::tree::{Grave, Graveyard};

pub(super) const OPAQUE_TRUSTED: &str = "trusted.overlay.opaque";
const OPAQUE_USER: &str = "user.overlay.opaque";

/// How a directory is opened here.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What is set on a directory when nothing more is put into it.
#[derive(Clone, Debug)]
struct Later {
    path: Vec<u8>,
    mode: u32,
    mtime: (i64, u32),
}

/// A tree in a directory.
pub(super) struct DirectoryTree {
    root: OwnedFd,
    grave: Grave,
    form: Form,
    /// By inode number. Removing a directory and making another may reuse a number; making one
    /// always sets its entry anew.
    later: HashMap<u64, Later>,
}

impl DirectoryTree {
    /// Over an empty directory; `scratch` is a directory on the same file system for what later
    /// entries replace.
    pub(super) fn new(dir: &Path, scratch: &Path, form: Form) -> Result<Self, Fault> {
        let root = rustix::fs::open(dir, DIRECTORY, Mode::empty())
            .map_err(|e| Fault::Write(format!("open {}", dir.display()), e.into()))?;
        let scratch_failed =
            |e| Fault::Write("use the scratch directory".into(), std::io::Error::other(e));
        let grave = Graveyard::open(scratch)
            .and_then(|yard| yard.dig())
            .map_err(scratch_failed)?;
        let mut tree = Self {
            root,
            grave,
            form,
            later: HashMap::new(),
        };
        let root = tree.root()?;
        tree.remember(root.as_fd(), b"", 0o755, (0, 0))?;
        Ok(tree)
    }

    fn remember(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        mode: u32,
        mtime: (i64, u32),
    ) -> Result<(), Fault> {
        let stat = rustix::fs::fstat(dir).map_err(|e| write(path, "look at", e))?;
        let path = path.to_vec();
        self.later.insert(stat.st_ino, Later { path, mode, mtime });
        Ok(())
    }

    fn file(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<u64, Fault> {
        let failed = |e: Errno| write(&entry.path, "write", e);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let mut file = std::fs::File::from(fd);
        if copy(data, &mut file, &entry.path)? != entry.size {
            return Err(Fault::cut_off(&entry.path));
        }
        // The owner first: changing it clears the set-user-id bit and file capabilities.
        if self.form.owners {
            let (uid, gid) = owner(entry);
            rustix::fs::fchown(&file, uid, gid).map_err(failed)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(failed)?;
        let skipped = set_xattrs(file.as_fd(), entry)?;
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(failed)?;
        Ok(skipped)
    }

    /// Owner and time of what cannot be opened.
    fn dress_special(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let failed = |e: Errno| write(&entry.path, "set owner and time of", e);
        if self.form.owners {
            let (uid, gid) = owner(entry);
            rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed)?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)
    }
}

impl Target for DirectoryTree {
    type Dir = OwnedFd;

    fn root(&self) -> Result<OwnedFd, Fault> {
        self.again(&self.root)
    }

    fn again(&self, dir: &OwnedFd) -> Result<OwnedFd, Fault> {
        dir.try_clone()
            .map_err(|e| Fault::Write("open it".into(), e))
    }

    fn beneath(&self, parts: &[&[u8]]) -> Result<Option<OwnedFd>, Fault> {
        match open_beneath(self.root.as_fd(), parts) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOSYS) => Err(Fault::Refused(
                "this needs the system call openat2 (Linux 5.6)".to_owned(),
            )),
            // The walk says what is wrong.
            Err(_) => Ok(None),
        }
    }

    fn look(&self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<Found>, Fault> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(found(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(write(path, "look at", e)),
        }
    }

    fn enter(&self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, Fault> {
        rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()).map_err(|e| write(path, "open", e))
    }

    fn read_link(&self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Vec<u8>, Fault> {
        rustix::fs::readlinkat(dir, name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|e| write(path, "read", e))
    }

    fn remove(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), Fault> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => self
                .grave
                .bury_at(dir.as_fd(), name)
                .map_err(|e| write(path, "replace", e)),
            Err(e) => Err(write(path, "replace", e)),
        }
    }

    fn make_dir(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, Fault> {
        let failed = |e: Errno| write(path, "make the directory", e);
        rustix::fs::mkdirat(dir, name, Mode::RWXU).map_err(failed)?;
        let made = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()).map_err(failed)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(failed)?;
        self.remember(made.as_fd(), path, 0o755, (0, 0))?;
        Ok(made)
    }

    fn make(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<u64, Fault> {
        let failed = |e: Errno| write(&entry.path, "make", e);
        match entry.kind {
            Kind::File => return self.file(dir, name, entry, data),
            Kind::SymbolicLink => {
                rustix::fs::symlinkat(&entry.link[..], dir, name).map_err(failed)?;
                self.dress_special(dir, name, entry)?;
            }
            Kind::Fifo => {
                rustix::fs::mknodat(dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .map_err(failed)?;
                self.dress_special(dir, name, entry)?;
                let mode = Mode::from_raw_mode(entry.mode);
                rustix::fs::chmodat(dir, name, mode, AtFlags::empty()).map_err(failed)?;
            }
            Kind::Directory | Kind::HardLink | Kind::Device => {}
        }
        Ok(0)
    }

    fn make_whiteout(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), Fault> {
        rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(|e| write(path, "make the whiteout", e))
    }

    fn link(
        &mut self,
        from: (&OwnedFd, &[u8]),
        to: (&OwnedFd, &[u8]),
        path: &[u8],
    ) -> Result<(), Fault> {
        rustix::fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty())
            .map_err(|e| write(path, "make the hard link", e))
    }

    fn hide_below(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<(), Fault> {
        let name = if self.form.trusted {
            OPAQUE_TRUSTED
        } else {
            OPAQUE_USER
        };
        rustix::fs::fsetxattr(dir, name, b"y", XattrFlags::empty())
            .map_err(|e| write(path, &format!("set {name} for"), e))
    }

    fn dress(&mut self, dir: &OwnedFd, entry: &Entry) -> Result<u64, Fault> {
        if self.form.owners {
            let (uid, gid) = owner(entry);
            rustix::fs::fchown(dir, uid, gid)
                .map_err(|e| write(&entry.path, "set the owner of", e))?;
        }
        let skipped = set_xattrs(dir.as_fd(), entry)?;
        self.remember(dir.as_fd(), &entry.path, entry.mode, entry.mtime)?;
        Ok(skipped)
    }

    fn finish(mut self) -> Result<(), Fault> {
        let mut all: Vec<_> = std::mem::take(&mut self.later).into_iter().collect();
        // Deepest first: a directory without permissions bars the way to those below.
        all.sort_by_key(|(_, later)| {
            std::cmp::Reverse(later.path.iter().filter(|b| **b == b'/').count())
        });
        for (ino, later) in all {
            let parts: Vec<&[u8]> = later.path.split(|b| *b == b'/').collect();
            let Ok(dir) = open_beneath(self.root.as_fd(), &parts) else {
                continue; // replaced by something else
            };
            let failed = |e: Errno| write(&later.path, "set the mode of", e);
            if rustix::fs::fstat(&dir).map_err(failed)?.st_ino != ino {
                continue;
            }
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(later.mode)).map_err(failed)?;
            rustix::fs::futimens(&dir, &times(later.mtime)).map_err(failed)?;
        }
        self.grave
            .empty()
            .map_err(|e| Fault::Write("remove replaced entries".into(), std::io::Error::other(e)))
    }
}

/// Opens a directory that exists, in one step: symbolic links of the layer are followed as if
/// `root` were `/`.
fn open_beneath(root: BorrowedFd<'_>, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
    if parts.iter().all(|part| part.is_empty()) {
        return rustix::fs::openat(root, c".", DIRECTORY, Mode::empty());
    }
    rustix::fs::openat2(
        root,
        parts.join(&b'/').as_slice(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
    )
}

fn found(stat: &Stat) -> Found {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => What::Directory,
        FileType::Symlink => What::SymbolicLink,
        FileType::CharacterDevice if stat.st_rdev == 0 => What::Whiteout,
        _ => What::Other,
    };
    Found {
        what,
        inode: stat.st_ino,
    }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )
}

/// How many attributes could not be set: without the right, or on a file system without them.
fn set_xattrs(file: BorrowedFd<'_>, entry: &Entry) -> Result<u64, Fault> {
    let mut skipped = 0;
    for (name, value) in &entry.xattrs {
        match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {
                skipped += 1;
                tracing::debug!(path = %shown(&entry.path), name = %shown(name), "attribute left out");
            }
            Err(e) => return Err(write(&entry.path, "set an attribute of", e)),
        }
    }
    Ok(skipped)
}

fn write(path: &[u8], what: &str, cause: Errno) -> Fault {
    Fault::Write(format!("{what} '{}'", shown(path)), cause.into())
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn copy(from: &mut dyn Read, to: &mut std::fs::File, path: &[u8]) -> Result<u64, Fault> {
    let mut buffer = [0; 64 * 1024];
    let mut sum = 0;
    loop {
        let n = read_some(from, &mut buffer)?;
        if n == 0 {
            return Ok(sum);
        }
        to.write_all(&buffer[..n])
            .map_err(|e| Fault::Write(format!("write '{}'", shown(path)), e))?;
        sum += n as u64;
    }
}
