//! The rules by which the entries of a layer become a tree.

use std::io::Read;

use super::fault::{Fault, shown};
use super::limits::UnpackLimits;
use super::parents::{components, find, make};
use super::tar::{Entry, Kind};
use super::target::{Found, Target, What};

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

/// Applies entries to a tree of either kind.
pub(super) struct Applier<'a, T: Target> {
    target: T,
    limits: &'a UnpackLimits,
    /// The latest entry's parent, since archives go directory by directory.
    recent: Option<(Vec<u8>, T::Dir)>,
    done: Unpacked,
}

impl<'a, T: Target> Applier<'a, T> {
    pub(super) fn new(target: T, limits: &'a UnpackLimits) -> Self {
        Self {
            target,
            limits,
            recent: None,
            done: Unpacked::default(),
        }
    }

    /// Applies one entry, whose content `data` yields.
    pub(super) fn apply(&mut self, mut entry: Entry, data: &mut dyn Read) -> Result<(), Fault> {
        self.allow_xattrs(&mut entry)?;
        let parts = components(&entry.path, self.limits)?;
        let Some((name, above)) = parts.split_last() else {
            if entry.kind != Kind::Directory {
                return refuse(&entry, "stands for '/', which can only be a directory");
            }
            let root = self.target.root()?;
            self.done.xattrs_skipped += self.target.dress(&root, &entry)?;
            return Ok(());
        };
        if entry.kind == Kind::Device && !name.starts_with(b".wh.") {
            self.done.devices_skipped += 1;
            tracing::debug!(path = %shown(&entry.path), "device node left out");
            return Ok(());
        }
        let parent = self.parent(above)?;
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            self.whiteout(&parent, hidden, &entry)?;
        } else {
            self.place(&parent, name, &entry, data)?;
            self.done.entries += 1;
        }
        Ok(())
    }

    /// Sets what had to wait and ends.
    pub(super) fn finish(mut self) -> Result<Unpacked, Fault> {
        self.recent = None;
        self.target.finish()?;
        Ok(self.done)
    }

    /// Keeps the attributes that containers may have.
    fn allow_xattrs(&mut self, entry: &mut Entry) -> Result<(), Fault> {
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        let of_overlayfs = |name: &[u8]| {
            name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
        };
        if entry.xattrs.iter().any(|(name, _)| of_overlayfs(name)) {
            return refuse(
                entry,
                "has an attribute of overlayfs, which only we may set",
            );
        }
        let before = entry.xattrs.len();
        entry.xattrs.retain(|(name, value)| {
            let wanted = name == b"security.capability"
                || (name.len() > b"user.".len()
                    && name.starts_with(b"user.")
                    && !name.contains(&0));
            // Linux knows no longer ones.
            let wanted = wanted && name.len() <= 255 && value.len() <= 65_536;
            if !wanted {
                tracing::debug!(path = %shown(&entry.path), name = %shown(name), "attribute left out");
            }
            wanted
        });
        // The last of one name wins.
        let mut seen = std::collections::HashSet::new();
        let mut kept: Vec<_> = std::mem::take(&mut entry.xattrs);
        kept.reverse();
        kept.retain(|(name, _)| seen.insert(name.clone()));
        kept.reverse();
        if matches!(entry.kind, Kind::File | Kind::Directory) {
            self.done.xattrs_skipped += (before - kept.len()) as u64;
            entry.xattrs = kept;
        }
        Ok(())
    }

    fn parent(&mut self, above: &[&[u8]]) -> Result<T::Dir, Fault> {
        let path = above.join(&b'/');
        if let Some((recent, dir)) = &self.recent
            && *recent == path
        {
            return self.target.again(dir);
        }
        let dir = make(&mut self.target, above, self.limits)?;
        self.recent = Some((path, self.target.again(&dir)?));
        Ok(dir)
    }

    fn place(
        &mut self,
        parent: &T::Dir,
        name: &[u8],
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<(), Fault> {
        let before = self.target.look(parent, name, &entry.path)?;
        match entry.kind {
            Kind::Directory => {
                let dir = match before.map(|found| found.what) {
                    Some(What::Directory) => self.target.enter(parent, name, &entry.path)?,
                    what => {
                        if what.is_some() {
                            self.remove(parent, name, entry)?;
                        }
                        let dir = self.target.make_dir(parent, name, &entry.path)?;
                        if what == Some(What::Whiteout) {
                            self.target.hide_below(&dir, &entry.path)?;
                        }
                        dir
                    }
                };
                self.done.xattrs_skipped += self.target.dress(&dir, entry)?;
                return Ok(());
            }
            Kind::HardLink => return self.hard_link(parent, name, before, entry),
            Kind::SymbolicLink => {
                if entry.link.is_empty() || entry.link.contains(&0) {
                    return refuse(entry, "is a symbolic link without a usable target");
                }
                if entry.link.len() > self.limits.path_bytes - 1 {
                    return refuse(entry, "is a symbolic link with too long a target");
                }
            }
            Kind::File | Kind::Fifo | Kind::Device => {}
        }
        if before.is_some() {
            self.remove(parent, name, entry)?;
        }
        self.done.xattrs_skipped += self.target.make(parent, name, entry, data)?;
        self.done.file_bytes += entry.size;
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: &T::Dir,
        name: &[u8],
        before: Option<Found>,
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
        let Some(from) = find(&mut self.target, above, self.limits)? else {
            return missing();
        };
        let found = match self.target.look(&from, target_name, &entry.path)? {
            Some(found) if found.what != What::Whiteout => found,
            _ => return missing(),
        };
        if found.what == What::Directory {
            return refuse(entry, "is a hard link to a directory");
        }
        if let Some(before) = before {
            if before.inode == found.inode {
                return Ok(());
            }
            self.remove(parent, name, entry)?;
        }
        // Even if it was within what this entry replaced: its directory is still held.
        self.target
            .link((&from, target_name), (parent, name), &entry.path)
    }

    fn whiteout(&mut self, parent: &T::Dir, hidden: &[u8], entry: &Entry) -> Result<(), Fault> {
        match hidden {
            b".wh..opq" => {
                self.done.whiteouts += 1;
                return self.target.hide_below(parent, &entry.path);
            }
            b"" | b"." | b".." => return refuse(entry, "is a whiteout of no name"),
            // AUFS' own files; Docker passes them over too.
            other if other.starts_with(b".wh.") => return Ok(()),
            _ => {}
        }
        self.done.whiteouts += 1;
        match self.target.look(parent, hidden, &entry.path)? {
            // What this layer brings hides what is below anyway; a directory must not merge.
            Some(found) if found.what == What::Directory => {
                let dir = self.target.enter(parent, hidden, &entry.path)?;
                self.target.hide_below(&dir, &entry.path)
            }
            Some(_) => Ok(()),
            None => self.target.make_whiteout(parent, hidden, &entry.path),
        }
    }

    fn remove(&mut self, parent: &T::Dir, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        self.recent = None;
        self.target.remove(parent, name, &entry.path)
    }
}

fn refuse<T>(entry: &Entry, why: &str) -> Result<T, Fault> {
    Err(Fault::Refused(format!("'{}' {why}", shown(&entry.path))))
}
