//! Finds the directory that an entry goes into, within the layer.

use std::collections::VecDeque;

use super::fault::{Fault, shown};
use super::limits::UnpackLimits;
use super::target::{Target, What};

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

/// Opens a directory, making what is missing of it.
pub(super) fn make<T: Target>(
    target: &mut T,
    parts: &[&[u8]],
    limits: &UnpackLimits,
) -> Result<T::Dir, Fault> {
    match target.beneath(parts)? {
        Some(dir) => Ok(dir),
        None => match walk(target, parts, limits, true)? {
            Some(dir) => Ok(dir),
            None => target.root(),
        },
    }
}

/// Opens a directory if it is there.
pub(super) fn find<T: Target>(
    target: &mut T,
    parts: &[&[u8]],
    limits: &UnpackLimits,
) -> Result<Option<T::Dir>, Fault> {
    if let Some(dir) = target.beneath(parts)? {
        return Ok(Some(dir));
    }
    match walk(target, parts, limits, false) {
        // What leads nowhere is not there.
        Err(Fault::Refused(_)) => Ok(None),
        other => other,
    }
}

/// Goes to a directory one name at a time. Each step follows nothing; links are read and walked
/// here as if the tree were all there is, so that directories they point to can be made too.
fn walk<T: Target>(
    target: &mut T,
    parts: &[&[u8]],
    limits: &UnpackLimits,
    make: bool,
) -> Result<Option<T::Dir>, Fault> {
    let all = parts.join(&b'/');
    let refuse = |why: &str| {
        Err(Fault::Refused(format!(
            "the parent '{}' {why}",
            shown(&all)
        )))
    };
    let root = target.root()?;
    let mut todo: VecDeque<Vec<u8>> = parts.iter().map(|p| p.to_vec()).collect();
    // The directories so far, and their names.
    let mut done: Vec<T::Dir> = Vec::new();
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                names.pop();
                continue;
            }
            _ => {}
        }
        let path = || [names.join(&b'/'), part.clone()].join(&b'/');
        let here = done.last().unwrap_or(&root);
        let next = match target.look(here, &part, &all)?.map(|found| found.what) {
            None | Some(What::Whiteout) if !make => return Ok(None),
            None => target.make_dir(here, &part, &path())?,
            // In the place of a deletion it does not merge with what was there.
            Some(What::Whiteout) => {
                target.remove(here, &part, &all)?;
                let dir = target.make_dir(here, &part, &path())?;
                target.hide_below(&dir, &all)?;
                dir
            }
            Some(What::Directory) => target.enter(here, &part, &all)?,
            Some(What::SymbolicLink) => {
                links += 1;
                if links > MAX_LINKS {
                    return refuse("has too many symbolic links");
                }
                let leads_to = target.read_link(here, &part, &all)?;
                if leads_to.starts_with(b"/") {
                    done.clear();
                    names.clear();
                }
                for piece in leads_to.split(|b| *b == b'/').rev() {
                    todo.push_front(piece.to_vec());
                }
                continue;
            }
            Some(What::Other) => return refuse("is not a directory in this layer"),
        };
        done.push(next);
        names.push(part);
        if done.len() > limits.depth {
            return refuse("is too deep");
        }
    }
    Ok(Some(match done.pop() {
        Some(last) => last,
        None => root,
    }))
}
