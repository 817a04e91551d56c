//! Deletes trees that somebody else filled.
//!
//! A container may have made directories a hundred thousand levels deep, removed all permissions,
//! or put symbolic links anywhere. So nothing here recurses, holds a descriptor a level or follows
//! a link: a directory that is not empty moves up beside the others in a graveyard directory of our
//! own, where its path is short, and is emptied there.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aci_core::error::Result;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fail;

/// A directory of our own on the same file system as what is to be deleted.
#[derive(Debug)]
pub(crate) struct Graveyard {
    path: PathBuf,
}

/// What is to be deleted, away from its place.
#[derive(Debug)]
#[must_use = "it stays on disk until it is emptied or the store is opened anew"]
pub(crate) struct Grave {
    fd: OwnedFd,
    path: PathBuf,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Graveyard {
    /// Opens the directory, making it if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        make_private_dir(path)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// A path for something new in it, deleted by the next [`Graveyard::empty`] if it stays.
    pub(crate) fn place(&self) -> PathBuf {
        self.path.join(uuid::Uuid::new_v4().simple().to_string())
    }

    /// An empty grave.
    pub(crate) fn dig(&self) -> Result<Grave> {
        let path = self.place();
        make_private_dir(&path)?;
        Grave::open(path)
    }

    /// Takes a tree away from its place, at once and as a whole. `None` if it is not there.
    pub(crate) fn bury(&self, victim: &Path) -> Result<Option<Grave>> {
        // Nothing is the usual case, and digging costs four times as much as looking.
        if matches!(rustix::fs::lstat(victim), Err(Errno::NOENT)) {
            return Ok(None);
        }
        let grave = self.dig()?;
        match grave.bury_at(rustix::fs::CWD, victim) {
            Ok(()) => Ok(Some(grave)),
            Err(Errno::NOENT) => grave.empty().map(|()| None),
            // A container gave the directory itself to another of its users.
            Err(Errno::ACCESS | Errno::PERM) if remove_as_mapped_users(victim) => Ok(Some(grave)),
            Err(e) => Err(fail::io("tree.remove", "remove it", victim, e)),
        }
    }

    /// Deletes everything that an earlier program buried.
    pub(crate) fn empty(&self) -> Result<()> {
        let failed = |e: io::Error| fail::io("tree.remove", "remove it", &self.path, e);
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            open_up(rustix::fs::CWD, &path);
            if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                Grave::open(path)?.empty()?;
            } else {
                std::fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Grave {
    fn open(path: PathBuf) -> Result<Self> {
        let fd = rustix::fs::open(&path, DIRECTORY, Mode::empty())
            .map_err(|e| fail::io("tree.remove", "open the directory", &path, e))?;
        Ok(Self { fd, path })
    }

    /// Takes an entry of an open directory away.
    pub(crate) fn bury_at<P: rustix::path::Arg + Copy>(
        &self,
        parent: BorrowedFd<'_>,
        name: P,
    ) -> Result<(), Errno> {
        let to = uuid::Uuid::new_v4().simple().to_string();
        match rustix::fs::renameat(parent, name, &self.fd, &to) {
            Err(Errno::ACCESS) => {
                // Moving a directory changes its `..`, so its owner's write bit is needed.
                open_up(parent, name);
                rustix::fs::renameat(parent, name, &self.fd, &to)
            }
            other => other,
        }
    }

    /// Deletes everything that was buried in it, and itself.
    pub(crate) fn empty(self) -> Result<()> {
        match self.sweep() {
            Ok(()) => {}
            Err((_, Errno::ACCESS | Errno::PERM)) if remove_as_mapped_users(&self.path) => {
                return Ok(());
            }
            Err((name, e)) => {
                return Err(fail::io(
                    "tree.remove",
                    "remove it",
                    &self.path.join(name),
                    e,
                ));
            }
        }
        std::fs::remove_dir(&self.path)
            .map_err(|e| fail::io("tree.remove", "remove it", &self.path, e))
    }

    fn sweep(&self) -> Result<(), (String, Errno)> {
        let plain = |e| (String::new(), e);
        loop {
            let mut found = false;
            let dir = Dir::read_from(&self.fd).map_err(plain)?;
            for entry in dir {
                let entry = entry.map_err(plain)?;
                let name = entry.file_name();
                if is_dots(name) {
                    continue;
                }
                found = true;
                let named = |e| (name.to_string_lossy().into_owned(), e);
                if unlink(self.fd.as_fd(), name).map_err(named)? {
                    continue;
                }
                self.hollow(name).map_err(named)?;
                match gone(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)) {
                    // Somebody who still had it open put something in: the next round takes it.
                    Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(e) => return Err(named(e)),
                }
            }
            if !found {
                return Ok(());
            }
        }
    }

    /// Empties one directory of the grave; directories in it that are not empty move up.
    fn hollow(&self, name: &CStr) -> Result<(), Errno> {
        open_up(self.fd.as_fd(), name);
        let dir = rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty())?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let inner = entry.file_name();
            if !is_dots(inner) && !unlink(dir.as_fd(), inner)? {
                self.bury_at(dir.as_fd(), inner)?;
            }
        }
        Ok(())
    }
}

/// Removes what is no directory or an empty one; `false` if it is a directory with entries.
fn unlink(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match gone(rustix::fs::unlinkat(parent, name, AtFlags::empty())) {
        Ok(()) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    match gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes a tree in which a container's users other than root left files: an ordinary user may
/// only do that within a user namespace which maps the ids that `/etc/subuid` gives him, and only
/// `newuidmap` may make one. `unshare` (util-linux 2.38) calls it. `false` if that did not work.
fn remove_as_mapped_users(path: &Path) -> bool {
    use std::process::{Command, Stdio};
    if rustix::process::geteuid().is_root() {
        return false;
    }
    let status = Command::new("unshare")
        .args(["--map-root-user", "--map-auto", "rm", "-rf", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success()) && path.symlink_metadata().is_err()
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// What is not there any more is as good as removed.
const fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Gives the owner all permissions of a directory (never of a link's target). What cannot be
/// changed shows in the next step.
fn open_up<P: rustix::path::Arg>(parent: BorrowedFd<'_>, name: P) {
    let Ok(name) = name.into_c_str() else { return };
    let Ok(stat) = rustix::fs::statat(parent, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) else {
        return;
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let _ = rustix::fs::chmodat(parent, name.as_ref(), Mode::RWXU, AtFlags::empty());
    }
}

/// Makes a directory and its parents, the last with mode 0700. An existing one is left as it is.
pub(crate) fn make_private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|e| fail::io("storage.open", "make the directory", parent, e))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| fail::io("storage.open", "make the directory", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn trees_of_any_depth_and_mode_go_and_links_are_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let outside = base.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let victim = base.path().join("victim");
        std::fs::create_dir(&victim).unwrap();
        symlink(&outside, victim.join("link")).unwrap();
        // Deeper than any path can say.
        let mut at = rustix::fs::open(&victim, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2_100 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        let shut = victim.join("shut");
        std::fs::create_dir_all(shut.join("inner/deep")).unwrap();
        std::fs::write(shut.join("inner/file"), "x").unwrap();
        for dir in [shut.join("inner"), shut.clone()] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        let graveyard = Graveyard::open(&base.path().join("graveyard")).unwrap();
        let grave = graveyard.bury(&victim).unwrap().unwrap();
        assert!(graveyard.bury(&victim).unwrap().is_none());
        if rustix::process::getpid().as_raw_nonzero().get() % 2 == 0 {
            grave.empty().unwrap();
        } else {
            // As if the program had died here.
            drop(grave);
            graveyard.empty().unwrap();
        }
        assert!(!victim.exists());
        assert_eq!(std::fs::read_dir(&graveyard.path).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }
}
