//! Without root, files of a container's other users belong to ids of the caller's range, and the
//! caller could not delete them. The agent may: it gives them back when the container has ended.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};

/// Deeper trees are left as they are.
const DEPTH: u32 = 200;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Makes everything below a directory belong to this namespace's user 0, which is the caller, and
/// every directory accessible to it. Nothing else uses the tree any more.
pub(crate) fn give_back(path: &str) {
    if let Ok(directory) = rustix::fs::open(path, DIRECTORY, Mode::empty()) {
        let _ = rustix::fs::fchown(&directory, Some(Uid::ROOT), Some(Gid::ROOT));
        walk(&directory, 0);
    }
}

fn walk(directory: &OwnedFd, depth: u32) {
    let Ok(entries) = Dir::read_from(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let at = directory.as_fd();
        let Ok(stat) = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        if stat.st_uid != 0 || stat.st_gid != 0 {
            let nofollow = AtFlags::SYMLINK_NOFOLLOW;
            let _ = rustix::fs::chownat(at, name, Some(Uid::ROOT), Some(Gid::ROOT), nofollow);
        }
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            if !mode.contains(Mode::RWXU) {
                let _ = rustix::fs::chmodat(at, name, mode | Mode::RWXU, AtFlags::empty());
            }
            if depth < DEPTH
                && let Ok(child) = rustix::fs::openat(at, name, DIRECTORY, Mode::empty())
            {
                walk(&child, depth + 1);
            }
        }
    }
}
