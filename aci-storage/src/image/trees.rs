//! Layers as directory trees, unpacked once for each digest.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aci_core::error::Result;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::content::Blobs;
use super::digest::Digest;
use crate::fail;
use crate::layer::{Form, UnpackLimits, Unpacked, unpack};
use crate::tree::{Grave, Graveyard, make_private_dir};

/// The unpacked layers of a store, for one form of writing them.
#[derive(Debug)]
pub(crate) struct Trees {
    dir: PathBuf,
    tmp: PathBuf,
    form: Form,
    boot: String,
    busy: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

/// What is noted beside a tree.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    diff_id: Digest,
    /// The boot of the machine in which it was unpacked.
    boot: String,
    unpacked: Unpacked,
}

/// Marks a tree whose files were flushed to disk.
const FLUSHED: &str = "flushed";

impl Trees {
    /// Over a store's directory. Trees that a crash of the machine may have damaged are taken away:
    /// those of an earlier boot whose files were not flushed.
    pub(crate) fn open(store: &Path, tmp: &Path, form: Form, graves: &Graveyard) -> Result<Self> {
        let all = store.join("layers");
        make_private_dir(&all)?;
        let dir = all.join(form.name());
        make_private_dir(&dir)?;
        let trees = Self {
            dir,
            tmp: tmp.to_owned(),
            form,
            boot: boot_id(),
            busy: Mutex::default(),
        };
        for digest in trees.list()? {
            let tree = trees.place(&digest);
            if !tree.join(FLUSHED).exists()
                && trees
                    .note(&digest)
                    .is_none_or(|note| note.boot != trees.boot)
            {
                tracing::warn!(%digest, "unpacked again when needed: the machine stopped before it was flushed");
                // Deleted with what an earlier program left.
                let _ = graves.bury(&tree)?;
            }
        }
        Ok(trees)
    }

    fn place(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join(diff_id.hex())
    }

    /// The directory of a layer's tree.
    pub(crate) fn tree(&self, diff_id: &Digest) -> PathBuf {
        self.place(diff_id).join("fs")
    }

    pub(crate) fn has(&self, diff_id: &Digest) -> bool {
        self.place(diff_id).exists()
    }

    fn note(&self, diff_id: &Digest) -> Option<Note> {
        let bytes = fs::read(self.place(diff_id).join("layer.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Every layer that is unpacked.
    pub(crate) fn list(&self) -> Result<Vec<Digest>> {
        let failed = |e| fail::io("images.list", "list it", &self.dir, e);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            all.extend(name.to_str().and_then(Digest::from_hex));
        }
        Ok(all)
    }

    /// Takes a tree away.
    pub(crate) fn remove(&self, diff_id: &Digest, graves: &Graveyard) -> Result<Option<Grave>> {
        graves.bury(&self.place(diff_id))
    }

    /// Has a layer unpacked; `true` if it was not before. Calls for one layer wait for each other.
    pub(crate) fn ensure(
        &self,
        diff_id: &Digest,
        blob: &Digest,
        blobs: &Blobs,
        limits: &UnpackLimits,
        heard: &mut dyn FnMut(u64),
    ) -> Result<bool> {
        let turn = Arc::clone(lock(&self.busy).entry(*diff_id).or_default());
        let result = {
            let _turn = lock(&turn);
            if self.has(diff_id) {
                Ok(false)
            } else {
                self.unpack(diff_id, blob, blobs, limits, heard)
                    .map(|()| true)
            }
        };
        // Two besides this one: the map's and ours; more mean that somebody waits.
        let mut busy = lock(&self.busy);
        if Arc::strong_count(&turn) <= 2 {
            busy.remove(diff_id);
        }
        result
    }

    fn unpack(
        &self,
        diff_id: &Digest,
        blob: &Digest,
        blobs: &Blobs,
        limits: &UnpackLimits,
        heard: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let span = tracing::info_span!("layer.unpack", %diff_id);
        let _span = span.enter();
        let file = blobs.open_blob(blob)?;
        let draft = Draft::new(&self.tmp)?;
        let tree = draft.0.join("fs");
        make_private_dir(&tree)?;
        let unpacked = unpack(
            file,
            diff_id,
            &tree,
            &draft.0.join("replaced"),
            self.form,
            limits,
            heard,
        )?;
        tracing::debug!(
            entries = unpacked.entries,
            bytes = unpacked.file_bytes,
            "unpacked"
        );
        let note = Note {
            diff_id: *diff_id,
            boot: self.boot.clone(),
            unpacked,
        };
        let place = self.place(diff_id);
        let failed = |e: std::io::Error| fail::io("layer.unpack", "keep it", &place, e);
        let _ = fs::remove_dir(draft.0.join("replaced"));
        let text = serde_json::to_vec(&note).map_err(|e| failed(e.into()))?;
        fs::write(draft.0.join("layer.json"), text).map_err(failed)?;
        fs::rename(&draft.0, &place).map_err(failed)
    }

    /// Flushes trees in the background: their blobs are durable, so the caller need not wait, and a
    /// tree that was not flushed when the machine stops is unpacked again. A thread of its own,
    /// since a runtime that shuts down would wait for its blocking threads.
    pub(crate) fn flush_later(&self, diff_ids: Vec<Digest>) {
        let places: Vec<_> = diff_ids.iter().map(|d| self.place(d)).collect();
        let flush = move || {
            let dirs: Vec<_> = places.iter().filter_map(|p| File::open(p).ok()).collect();
            // All trees are on one file system.
            if dirs
                .first()
                .is_none_or(|dir| rustix::fs::syncfs(dir).is_err())
            {
                return;
            }
            for dir in dirs {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                if let Err(error) = rustix::fs::openat(&dir, FLUSHED, flags, Mode::RUSR) {
                    tracing::debug!(%error, "the tree went while it was flushed");
                }
            }
        };
        let thread = std::thread::Builder::new().name("aci-flush".to_owned());
        if let Err(error) = thread.spawn(flush) {
            tracing::warn!(%error, "layers are not flushed; after a crash of the machine they are unpacked again");
        }
    }
}

/// A tree that is being unpacked, taken away if it does not get its place.
struct Draft(PathBuf);

impl Draft {
    fn new(tmp: &Path) -> Result<Self> {
        let path = tmp.join(uuid::Uuid::new_v4().simple().to_string());
        make_private_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is nothing of this name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Tells one run of the machine from another; empty (so nothing survives) if it cannot be known.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_else(|_| uuid::Uuid::new_v4().to_string())
}

/// A poisoned lock is taken all the same: what it guards is changed in single steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
