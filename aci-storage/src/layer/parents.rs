//! Finds the directory that an entry goes into, within the layer.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::fault::{Fault, shown};
use super::limits::UnpackLimits;

/// How a directory is opened here.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// So many symbolic links are followed in one path, as Linux does.
const MAX_LINKS: usize = 40;

/// A name of an archive as components; empty for the root itself.
pub(super) fn components<'a>(
    path: &'a [u8],
    limits: &UnpackLimits,
) -> Result<Vec<&'a [u8]>, Fault> {
    let refuse = |why: String| Err(Fault::Refused(format!("'{}' {why}", shown(path))));
    if path.len() > limits.path_bytes {
        return refuse(format!("is longer than {} bytes", limits.path_bytes));
    }
    if path.contains(&0) {
        return refuse("has a NUL byte in its name".to_owned());
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("has '..' in its name".to_owned()),
            part if part.len() > 255 => {
                return refuse("has a part that is longer than 255 bytes".to_owned());
            }
            part => parts.push(part),
        }
    }
    if parts.len() > limits.depth + 1 {
        return refuse(format!("is below more than {} directories", limits.depth));
    }
    Ok(parts)
}

/// What the walk needs from who writes the tree.
pub(super) trait Maker {
    /// Makes a directory which the archive does not mention, in the place of a whiteout if one is
    /// there, and opens it.
    fn make_implied(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault>;
    /// Whether this is a whiteout of our own.
    fn is_whiteout(&self, stat: &rustix::fs::Stat) -> bool;
}

/// Opens a directory that exists, in one step: symbolic links of the layer are followed as if
/// `root` were `/`.
pub(super) fn open_beneath(root: BorrowedFd<'_>, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
    if parts.is_empty() {
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

/// Opens a directory, making what is missing of it. Each step opens one name and follows nothing;
/// links are read and walked here, so that directories they point to can be made too.
pub(super) fn walk(
    maker: &mut impl Maker,
    root: BorrowedFd<'_>,
    parts: &[&[u8]],
    limits: &UnpackLimits,
) -> Result<OwnedFd, Fault> {
    let all = parts.join(&b'/');
    let refuse = |why: &str| {
        Err(Fault::Refused(format!(
            "the parent '{}' {why}",
            shown(&all)
        )))
    };
    let failed = |e: Errno| Fault::Write(format!("open '{}'", shown(&all)), e.into());
    let mut todo: VecDeque<Vec<u8>> = parts.iter().map(|p| p.to_vec()).collect();
    let mut done: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        let here = done.last().map_or(root, AsFd::as_fd);
        let stat = match rustix::fs::statat(here, &part[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(failed(e)),
        };
        let next = match &stat {
            None => maker.make_implied(here, &part)?,
            Some(stat) if maker.is_whiteout(stat) => maker.make_implied(here, &part)?,
            Some(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    rustix::fs::openat(here, &part[..], DIRECTORY, Mode::empty()).map_err(failed)?
                }
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return refuse("has too many symbolic links");
                    }
                    let target =
                        rustix::fs::readlinkat(here, &part[..], Vec::new()).map_err(failed)?;
                    let target = target.to_bytes();
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    for piece in target.split(|b| *b == b'/').rev() {
                        todo.push_front(piece.to_vec());
                    }
                    continue;
                }
                _ => return refuse("is not a directory in this layer"),
            },
        };
        done.push(next);
        if done.len() > limits.depth {
            return refuse("is too deep");
        }
    }
    match done.pop() {
        Some(last) => Ok(last),
        None => open_beneath(root, &[]).map_err(failed),
    }
}
