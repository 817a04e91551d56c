//! Writes the entries of a layer into a directory.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::Form;
use super::fault::{Fault, shown};
use super::limits::UnpackLimits;
use super::parents::{self, DIRECTORY, Maker, components};
use super::tar::{Entry, Kind};
use crate::tree::{Grave, Graveyard};

pub(super) const OPAQUE_TRUSTED: &str = "trusted.overlay.opaque";
const OPAQUE_USER: &str = "user.overlay.opaque";

/// What became of a layer.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unpacked {
    /// Bytes of the uncompressed archive.
    pub archive_bytes: u64,
    /// Entries that were applied.
    pub entries: u64,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Names that it deletes from lower layers, opaque directories included.
    pub whiteouts: u64,
    /// Device nodes that were left out.
    pub devices_skipped: u64,
    /// Extended attributes that were left out.
    pub xattrs_skipped: u64,
}

/// What is set on a directory when nothing more is put into it.
#[derive(Clone, Debug)]
struct Later {
    path: Vec<u8>,
    mode: u32,
    mtime: (i64, u32),
}

pub(super) struct Applier<'a> {
    root: OwnedFd,
    grave: Grave,
    form: Form,
    limits: &'a UnpackLimits,
    /// By inode number. Removing a directory and making another may reuse a number; making one
    /// always sets its entry anew.
    later: HashMap<u64, Later>,
    /// The latest entry's parent, since archives go directory by directory.
    recent: Option<(Vec<u8>, OwnedFd)>,
    done: Unpacked,
}

impl<'a> Applier<'a> {
    pub(super) fn new(
        dir: &Path,
        scratch: &Path,
        form: Form,
        limits: &'a UnpackLimits,
    ) -> Result<Self, Fault> {
        let root = rustix::fs::open(dir, DIRECTORY, Mode::empty())
            .map_err(|e| Fault::Write(format!("open {}", dir.display()), e.into()))?;
        let grave = Graveyard::open(scratch)
            .and_then(|yard| yard.dig())
            .map_err(|e| {
                Fault::Write("use the scratch directory".into(), std::io::Error::other(e))
            })?;
        let mut applier = Self {
            root,
            grave,
            form,
            limits,
            later: HashMap::new(),
            recent: None,
            done: Unpacked::default(),
        };
        let root = applier
            .root
            .try_clone()
            .map_err(|e| Fault::Write("open it".into(), e))?;
        applier.remember(root.as_fd(), b"", 0o755, (0, 0))?;
        Ok(applier)
    }

    /// Applies one entry, whose content `data` yields.
    pub(super) fn apply(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), Fault> {
        let parts = components(&entry.path, self.limits)?;
        let Some((name, above)) = parts.split_last() else {
            if entry.kind != Kind::Directory {
                return refuse(entry, "stands for '/', which can only be a directory");
            }
            let root = self
                .root
                .try_clone()
                .map_err(|e| Fault::Write("open it".into(), e))?;
            return self.dress_directory(root.as_fd(), entry);
        };
        if entry.kind == Kind::Device && !name.starts_with(b".wh.") {
            self.done.devices_skipped += 1;
            tracing::debug!(path = %shown(&entry.path), "device node left out");
            return Ok(());
        }
        let parent = self.parent(above)?;
        let parent = parent.as_fd();
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            self.whiteout(parent, hidden, entry)?;
        } else {
            self.place(parent, name, entry, data)?;
            self.done.entries += 1;
        }
        Ok(())
    }

    /// Sets what had to wait and ends.
    pub(super) fn finish(mut self) -> Result<Unpacked, Fault> {
        self.recent = None;
        let mut all: Vec<_> = std::mem::take(&mut self.later).into_iter().collect();
        // Deepest first: a directory without permissions bars the way to those below.
        all.sort_by_key(|(_, later)| {
            std::cmp::Reverse(later.path.iter().filter(|b| **b == b'/').count())
        });
        for (ino, later) in all {
            let parts = components(&later.path, self.limits)?;
            let Ok(dir) = parents::open_beneath(self.root.as_fd(), &parts) else {
                continue; // replaced by something else
            };
            let failed = |e: Errno| write(&later.path, "set the mode of", e);
            if rustix::fs::fstat(&dir).map_err(failed)?.st_ino != ino {
                continue;
            }
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(later.mode)).map_err(failed)?;
            rustix::fs::futimens(&dir, &times(later.mtime)).map_err(failed)?;
        }
        self.grave.empty().map_err(|e| {
            Fault::Write("remove replaced entries".into(), std::io::Error::other(e))
        })?;
        Ok(self.done)
    }

    fn parent(&mut self, above: &[&[u8]]) -> Result<OwnedFd, Fault> {
        let path = above.join(&b'/');
        let again = |fd: &OwnedFd| {
            fd.try_clone()
                .map_err(|e| Fault::Write("open it".into(), e))
        };
        if let Some((recent, fd)) = &self.recent
            && *recent == path
        {
            return again(fd);
        }
        let fd = match parents::open_beneath(self.root.as_fd(), above) {
            Ok(fd) => fd,
            Err(Errno::NOSYS) => {
                return Err(Fault::Refused(
                    "this needs the system call openat2 (Linux 5.6)".to_owned(),
                ));
            }
            // The walk makes what is missing and says what is wrong.
            Err(_) => {
                let root = again(&self.root)?;
                let limits = self.limits;
                parents::walk(self, root.as_fd(), above, limits)?
            }
        };
        self.recent = Some((path, again(&fd)?));
        Ok(fd)
    }

    fn place(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        data: &mut impl Read,
    ) -> Result<(), Fault> {
        let failed = |e: Errno| write(&entry.path, "make", e);
        let before = self.look(parent, name, entry)?;
        match entry.kind {
            Kind::Directory => {
                let dir = match before {
                    Some(stat) if is_directory(&stat) => {
                        rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
                            .map_err(failed)?
                    }
                    Some(stat) => {
                        self.remove(parent, name, entry)?;
                        self.make_directory(parent, name, self.is_whiteout(&stat), &entry.path)?
                    }
                    None => self.make_directory(parent, name, false, &entry.path)?,
                };
                return self.dress_directory(dir.as_fd(), entry);
            }
            Kind::HardLink => return self.hard_link(parent, name, before, entry),
            Kind::File | Kind::SymbolicLink | Kind::Fifo | Kind::Device => {}
        }
        if before.is_some() {
            self.remove(parent, name, entry)?;
        }
        match entry.kind {
            Kind::File => self.file(parent, name, entry, data)?,
            Kind::SymbolicLink => {
                if entry.link.is_empty() || entry.link.contains(&0) {
                    return refuse(entry, "is a symbolic link without a usable target");
                }
                if entry.link.len() > self.limits.path_bytes - 1 {
                    return refuse(entry, "is a symbolic link with too long a target");
                }
                rustix::fs::symlinkat(&entry.link[..], parent, name).map_err(failed)?;
                self.dress_special(parent, name, entry)?;
            }
            Kind::Fifo => {
                rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .map_err(failed)?;
                self.dress_special(parent, name, entry)?;
                rustix::fs::chmodat(
                    parent,
                    name,
                    Mode::from_raw_mode(entry.mode),
                    AtFlags::empty(),
                )
                .map_err(failed)?;
            }
            Kind::Directory | Kind::HardLink | Kind::Device => {}
        }
        Ok(())
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        data: &mut impl Read,
    ) -> Result<(), Fault> {
        let failed = |e: Errno| write(&entry.path, "write", e);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let mut file = std::fs::File::from(fd);
        let written = copy(data, &mut file, &entry.path)?;
        if written != entry.size {
            return Err(Fault::Broken(format!(
                "it ends within '{}'",
                shown(&entry.path)
            )));
        }
        self.done.file_bytes += written;
        // The owner first: changing it clears the set-user-id bit and file capabilities.
        if self.form.owners {
            rustix::fs::fchown(
                &file,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )
            .map_err(failed)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(failed)?;
        self.xattrs(file.as_fd(), entry)?;
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(failed)
    }

    fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        before: Option<Stat>,
        entry: &Entry,
    ) -> Result<(), Fault> {
        let target = components(&entry.link, self.limits)?;
        let Some((target_name, above)) = target.split_last() else {
            return refuse(entry, "is a hard link to a directory");
        };
        let missing = || {
            refuse(
                entry,
                &format!(
                    "is a hard link to '{}', which this layer does not have",
                    shown(&entry.link)
                ),
            )
        };
        let Ok(from) = parents::open_beneath(self.root.as_fd(), above) else {
            return missing();
        };
        let stat = match rustix::fs::statat(&from, *target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if !self.is_whiteout(&stat) => stat,
            _ => return missing(),
        };
        if is_directory(&stat) {
            return refuse(entry, "is a hard link to a directory");
        }
        if let Some(before) = before {
            if before.st_ino == stat.st_ino {
                return Ok(());
            }
            self.remove(parent, name, entry)?;
        }
        match rustix::fs::linkat(&from, *target_name, parent, name, AtFlags::empty()) {
            // Even if it was within what this entry replaced: its directory is still held.
            Ok(()) => Ok(()),
            Err(e) => Err(write(&entry.path, "make the hard link", e)),
        }
    }

    fn whiteout(
        &mut self,
        parent: BorrowedFd<'_>,
        hidden: &[u8],
        entry: &Entry,
    ) -> Result<(), Fault> {
        match hidden {
            b".wh..opq" => {
                self.done.whiteouts += 1;
                return self.opaque(parent, &entry.path);
            }
            b"" | b"." | b".." => return refuse(entry, "is a whiteout of no name"),
            // AUFS' own files; Docker passes them over too.
            other if other.starts_with(b".wh.") => return Ok(()),
            _ => {}
        }
        self.done.whiteouts += 1;
        match self.look(parent, hidden, entry)? {
            // What this layer brings hides what is below anyway; a directory must not merge.
            Some(stat) if is_directory(&stat) => {
                let dir = rustix::fs::openat(parent, hidden, DIRECTORY, Mode::empty())
                    .map_err(|e| write(&entry.path, "open", e))?;
                self.opaque(dir.as_fd(), &entry.path)
            }
            Some(_) => Ok(()),
            None => {
                rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(|e| write(&entry.path, "make the whiteout", e))
            }
        }
    }

    fn opaque(&self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), Fault> {
        let name = if self.form.trusted {
            OPAQUE_TRUSTED
        } else {
            OPAQUE_USER
        };
        rustix::fs::fsetxattr(dir, name, b"y", XattrFlags::empty())
            .map_err(|e| write(path, &format!("set {name} for"), e))
    }

    fn look(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<Option<Stat>, Fault> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(write(&entry.path, "look at", e)),
        }
    }

    fn remove(&mut self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        self.recent = None;
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => self
                .grave
                .bury_at(parent, name)
                .map_err(|e| write(&entry.path, "replace", e)),
            Err(e) => Err(write(&entry.path, "replace", e)),
        }
    }

    /// Makes a directory that can be written to for now.
    fn make_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        opaque: bool,
        path: &[u8],
    ) -> Result<OwnedFd, Fault> {
        let failed = |e: Errno| write(path, "make the directory", e);
        rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed)?;
        let dir = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()).map_err(failed)?;
        if opaque {
            self.opaque(dir.as_fd(), path)?;
        }
        self.remember(dir.as_fd(), path, 0o755, (0, 0))?;
        Ok(dir)
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

    fn dress_directory(&mut self, dir: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fault> {
        if self.form.owners {
            rustix::fs::fchown(
                dir,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )
            .map_err(|e| write(&entry.path, "set the owner of", e))?;
        }
        self.xattrs(dir, entry)?;
        self.remember(dir, &entry.path, entry.mode, entry.mtime)
    }

    /// Owner and time of what cannot be opened.
    fn dress_special(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), Fault> {
        let failed = |e: Errno| write(&entry.path, "set owner and time of", e);
        if self.form.owners {
            rustix::fs::chownat(
                parent,
                name,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(failed)?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)
    }

    fn xattrs(&mut self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fault> {
        for (name, value) in &entry.xattrs {
            let overlay = |prefix: &[u8]| name.starts_with(prefix);
            if overlay(b"trusted.overlay.") || overlay(b"user.overlay.") {
                return refuse(
                    entry,
                    "has an attribute of overlayfs, which only we may set",
                );
            }
            let wanted = name == b"security.capability"
                || (name.starts_with(b"user.") && !name.contains(&0));
            let set = wanted
                && match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                    Ok(()) => true,
                    // Without the right, or on a file system without attributes.
                    Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => false,
                    Err(e) => return Err(write(&entry.path, "set an attribute of", e)),
                };
            if !set {
                self.done.xattrs_skipped += 1;
                tracing::debug!(path = %shown(&entry.path), name = %shown(name), "attribute left out");
            }
        }
        Ok(())
    }
}

impl Maker for Applier<'_> {
    fn make_implied(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
        let opaque = match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => true,
            Err(Errno::NOENT) => false,
            Err(e) => return Err(write(name, "replace", e)),
        };
        let failed = |e: Errno| write(name, "make the directory", e);
        rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed)?;
        let dir = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()).map_err(failed)?;
        if opaque {
            self.opaque(dir.as_fd(), name)?;
        }
        // An entry may follow which says more; until then this is what it is.
        let stat = rustix::fs::fstat(&dir).map_err(failed)?;
        self.later.remove(&stat.st_ino);
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(failed)?;
        Ok(dir)
    }

    fn is_whiteout(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn refuse<T>(entry: &Entry, why: &str) -> Result<T, Fault> {
    Err(Fault::Refused(format!("'{}' {why}", shown(&entry.path))))
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

/// Copies content; unlike `io::copy` it tells a reader's failure from a writer's.
fn copy(from: &mut impl Read, to: &mut std::fs::File, path: &[u8]) -> Result<u64, Fault> {
    use std::io::Write as _;
    let mut buffer = [0; 64 * 1024];
    let mut sum = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(sum),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Fault::from_read(e)),
        };
        to.write_all(&buffer[..n])
            .map_err(|e| Fault::Write(format!("write '{}'", shown(path)), e))?;
        sum += n as u64;
    }
}
