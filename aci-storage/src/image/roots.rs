//! Root file systems: the layers of an image and a place to write.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use aci_core::contract::{RootFs, RootFsKey};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;

use super::digest::Digest;
use super::store::{Inner, not_accessible};
use super::trees::lock;
use crate::fail;
use crate::tree::Grave;

/// Names the image in a root file system's directory.
const IMAGE: &str = "image";

impl Inner {
    fn roots(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    fn root(&self, key: &RootFsKey) -> Result<PathBuf> {
        let name = key.container.as_str();
        if name.is_empty()
            || name.len() > 255
            || matches!(name, "." | "..")
            || name.contains(['/', '\0'])
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                "images.prepare",
                format!("'{}' cannot be a container's name", name.escape_debug()),
            ));
        }
        Ok(self.roots().join(key.sandbox.as_str()).join(name))
    }

    pub(super) fn prepare(&self, digest: &str, key: &RootFsKey) -> Result<RootFs> {
        let place = self.root(key)?;
        let digest: Digest = digest.parse()?;
        let _pins = self.pin([digest]);
        let record = {
            let mut state = lock(&self.state);
            if state.references.by_digest(&digest).is_none() {
                return Err(not_accessible("images.prepare", &digest.to_string()));
            }
            self.record(&mut state, &digest)?
        };
        // Usually they are; after a crash of the machine they may have been taken away.
        self.ensure_layers(&record, None)?;
        let layers = stack(&record.config.rootfs.diff_ids);
        let Some(top) = layers.first() else {
            return Err(not_accessible("images.prepare", &digest.to_string()));
        };
        let before = self.graves.bury(&place)?;
        self.make_root(&place, &digest, top)
            .map_err(|e| fail::io("images.prepare", "make it", &place, e))?;
        before.map_or(Ok(()), Grave::empty)?;
        self.note_use(&digest);
        metrics::counter!("aci_storage_roots_prepared_total").increment(1);
        Ok(RootFs {
            layers: layers
                .iter()
                .map(|diff_id| self.trees.layer(diff_id))
                .collect(),
            upper: Some((place.join("upper"), place.join("work"))),
        })
    }

    /// Makes the directories of a root file system, all at once.
    fn make_root(&self, place: &Path, image: &Digest, top: &Digest) -> io::Result<()> {
        let draft = self.graves.place();
        fs::create_dir(&draft)?;
        fs::write(draft.join(IMAGE), image.to_string())?;
        fs::create_dir(draft.join("work"))?;
        make_upper(&draft.join("upper"), self.trees.root_owner_and_mode(top)?)?;
        loop {
            if let Some(sandbox) = place.parent() {
                fs::create_dir_all(sandbox)?;
            }
            match fs::rename(&draft, place) {
                // The release of the sandbox's only other one took the directory away.
                Err(e) if e.kind() == io::ErrorKind::NotFound && draft.exists() => {}
                other => return other,
            }
        }
    }

    pub(super) fn release(&self, key: &RootFsKey) -> Result<()> {
        let place = self.root(key)?;
        let image = image_of(&place);
        let Some(grave) = self.graves.bury(&place)? else {
            return Ok(());
        };
        if let Some(sandbox) = place.parent() {
            // Fails as long as the sandbox has others.
            let _ = fs::remove_dir(sandbox);
        }
        grave.empty()?;
        metrics::counter!("aci_storage_roots_released_total").increment(1);
        let forgotten =
            image.is_some_and(|digest| lock(&self.state).references.by_digest(&digest).is_none());
        if forgotten {
            self.collect_garbage()?;
        }
        Ok(())
    }

    pub(super) fn prepared(&self) -> Result<Vec<RootFsKey>> {
        let mut keys = Vec::new();
        for (sandbox, container, _) in self.walk_roots()? {
            let container = container
                .file_name()
                .map(|n| n.to_string_lossy().into_owned());
            if let (Ok(sandbox), Some(container)) = (sandbox.parse::<SandboxId>(), container) {
                keys.push(RootFsKey { sandbox, container });
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// The images of all prepared root file systems.
    pub(super) fn digests_in_use(&self) -> Result<HashSet<Digest>> {
        let roots = self.walk_roots()?;
        Ok(roots
            .into_iter()
            .filter_map(|(_, _, image)| image)
            .collect())
    }

    fn walk_roots(&self) -> Result<Vec<(String, PathBuf, Option<Digest>)>> {
        let list = |path: &Path| -> Result<Vec<PathBuf>> {
            let failed = |e| fail::io("images.prepared", "list it", path, e);
            let entries = match fs::read_dir(path) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(failed(e)),
            };
            entries
                .map(|entry| entry.map(|e| e.path()).map_err(failed))
                .collect()
        };
        let mut all = Vec::new();
        for sandbox in list(&self.roots())? {
            let name = sandbox
                .file_name()
                .map(|n| n.to_string_lossy().into_owned());
            for container in list(&sandbox)? {
                let image = image_of(&container);
                all.push((name.clone().unwrap_or_default(), container, image));
            }
        }
        Ok(all)
    }
}

/// Which image a root file system is of; `None` if a crash of the machine left that unwritten, and
/// then no container runs on it either.
fn image_of(root: &Path) -> Option<Digest> {
    fs::read_to_string(root.join(IMAGE)).ok()?.parse().ok()
}

/// Layers for overlayfs, topmost first. It refuses one directory twice; of a layer that occurs
/// twice the lower one contributes nothing, because the upper one sets all its names again.
fn stack(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut seen = HashSet::new();
    diff_ids
        .iter()
        .rev()
        .copied()
        .filter(|diff_id| seen.insert(*diff_id))
        .collect()
}

/// The directory for writes; mode and owner of the merged `/` are those of this one.
fn make_upper(upper: &Path, (uid, gid, mode): (u32, u32, u32)) -> io::Result<()> {
    fs::create_dir(upper)?;
    let mine = fs::metadata(upper)?;
    if (mine.uid(), mine.gid()) != (uid, gid) {
        chown(upper, Some(uid), Some(gid))?;
    } else if mine.mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(upper, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_one_of_two_equal_layers_stays() {
        let [a, b] = [b"a", b"b"].map(|x| Digest::of(x));
        assert_eq!(stack(&[a, b, a]), [a, b]);
        assert_eq!(stack(&[a, a, b]), [b, a]);
    }
}
