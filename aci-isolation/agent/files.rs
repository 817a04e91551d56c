//! Volumes of small files in memory: secrets and config maps.
//!
//! They have the form that Kubernetes gives them. The files lie in a directory whose name is used
//! once; `..data` is a symlink to it, and each name a symlink to `..data/NAME`. Other files are
//! written into another directory, and the rename of a new `..data` over the old one is the step
//! that shows all of them at once, also to programs that watch for it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::boot::mount_at;
use crate::protocol::{Failure, Hidden, Kind};
use crate::root::{self, failed};
use crate::sys;

/// What leads to the directory of now.
const DATA: &str = "..data";
const NEXT: &str = "..data_next";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Names and contents of a volume.
type Files = [(String, Hidden)];

/// Makes a volume of files at a directory. Its mount is read-only from then on.
pub(crate) fn make(place: &Path, volume: &str, secret: bool, files: &Files) -> Result<(), Failure> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mut options = vec![("mode", "0755")];
    if secret {
        // A flag, which older kernels (before 6.4) and user namespaces do not have.
        options.push(("noswap", ""));
    }
    let memory = root::new_mount("tmpfs", &options, attributes)
        .or_else(|_| root::new_mount("tmpfs", &options[..1], attributes))
        .map_err(failed(format!("a tmpfs for volume '{volume}'")))?;
    fill(memory.as_fd(), volume, secret, files)?;
    sys::mount_setattr(&memory, sys::ATTR_RDONLY, false).map_err(|error| {
        Failure::new(
            Kind::Internal,
            format!("protecting volume '{volume}': {error}"),
        )
    })?;
    mount_at(&memory, place)
}

/// Takes other files in the place of those of a volume.
pub(crate) fn replace(
    place: &Path,
    volume: &str,
    secret: bool,
    files: &Files,
) -> Result<(), Failure> {
    let what = || failed(format!("writing volume '{volume}'"));
    // A mount of our own that nobody else sees; all others stay read-only.
    let copy = root::copy_of(CWD, &place.to_string_lossy(), false).map_err(what())?;
    sys::make_writable(&copy).map_err(|error| {
        Failure::new(Kind::Internal, format!("writing volume '{volume}': {error}"))
    })?;
    fill(copy.as_fd(), volume, secret, files)
}

/// Refuses names that are none, that lead elsewhere or that this module uses itself.
fn check(volume: &str, files: &Files) -> Result<(), Failure> {
    for (file, _) in files {
        if file.is_empty()
            || file == "."
            || file.starts_with("..")
            || file.len() > 255
            || file.contains(['/', '\0'])
        {
            return Err(Failure::new(
                Kind::Invalid,
                format!("volume '{volume}': '{file}' is not a file name"),
            ));
        }
    }
    Ok(())
}

fn fill(base: BorrowedFd<'_>, volume: &str, secret: bool, files: &Files) -> Result<(), Failure> {
    check(volume, files)?;
    let what = || failed(format!("writing volume '{volume}'"));
    let old = match rustix::fs::readlinkat(base, DATA, Vec::new()) {
        Ok(old) => Some(old),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(what()(errno)),
    };
    if old.is_some() && holds(base, files) {
        return Ok(());
    }
    let fresh = format!("..{}", sys::boot_nanoseconds());
    let written = write(base, &fresh, secret, files)
        .and_then(|()| {
            let _ = rustix::fs::unlinkat(base, NEXT, AtFlags::empty());
            rustix::fs::symlinkat(&fresh, base, NEXT)
        })
        .and_then(|()| rustix::fs::renameat(base, NEXT, base, DATA));
    if let Err(errno) = written {
        // The files of before stay as they are.
        empty(base, &fresh);
        return Err(what()(errno));
    }
    for (file, _) in files {
        match rustix::fs::symlinkat(format!("{DATA}/{file}"), base, file.as_str()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(what()(errno)),
        }
    }
    let names: BTreeSet<&str> = files.iter().map(|(file, _)| file.as_str()).collect();
    for file in entries(base).map_err(what())? {
        if !file.starts_with("..") && !names.contains(file.as_str()) {
            rustix::fs::unlinkat(base, &file, AtFlags::empty()).map_err(what())?;
        }
    }
    if let Some(old) = old {
        empty(base, &old.to_string_lossy());
    }
    Ok(())
}

fn write(
    base: BorrowedFd<'_>,
    directory: &str,
    secret: bool,
    files: &Files,
) -> Result<(), Errno> {
    rustix::fs::mkdirat(base, directory, Mode::from_raw_mode(0o755))?;
    let directory = rustix::fs::openat(base, directory, DIRECTORY, Mode::empty())?;
    let mode = Mode::from_raw_mode(if secret { 0o400 } else { 0o444 });
    for (file, content) in files {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = rustix::fs::openat(&directory, file.as_str(), flags, mode)?;
        std::fs::File::from(open)
            .write_all(&content.0)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    }
    Ok(())
}

/// Whether the files are there already, these and no others.
fn holds(base: BorrowedFd<'_>, files: &Files) -> bool {
    let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
    let Ok(directory) = rustix::fs::openat(base, DATA, flags, Mode::empty()) else {
        return false;
    };
    let same = |(file, content): &(String, Hidden)| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(open) = rustix::fs::openat(&directory, file.as_str(), flags, Mode::empty()) else {
            return false;
        };
        let mut there = Hidden::default();
        // Room for all of it at once, so that nothing is moved and left behind.
        there.0.reserve_exact(content.0.len() + 1);
        let mut open = std::fs::File::from(open);
        std::io::copy(
            &mut std::io::Read::take(&mut open, content.0.len() as u64 + 1),
            &mut there.0,
        )
        .is_ok()
            && there == *content
    };
    entries(directory.as_fd()).is_ok_and(|there| there.len() == files.len())
        && files.iter().all(same)
}

fn entries(directory: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    let mut all = Vec::new();
    let open: OwnedFd = rustix::fs::openat(directory, ".", DIRECTORY, Mode::empty())?;
    for entry in Dir::new(open)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            all.push(name);
        }
    }
    Ok(all)
}

/// Removes a directory of files. What a reader has open stays until he closes it.
fn empty(base: BorrowedFd<'_>, name: &str) {
    if let Ok(directory) = rustix::fs::openat(base, name, DIRECTORY, Mode::empty()) {
        for file in entries(directory.as_fd()).unwrap_or_default() {
            let _ = rustix::fs::unlinkat(&directory, &file, AtFlags::empty());
        }
    }
    let _ = rustix::fs::unlinkat(base, name, AtFlags::REMOVEDIR);
}
