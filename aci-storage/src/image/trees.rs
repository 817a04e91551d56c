//! Unpacked layers, directory trees or EROFS images, one for each digest.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use aci_core::contract::Layer;
use aci_core::error::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::along::Along;
use super::digest::Digest;
use crate::fail;
use crate::layer::{
    Destination, Form, UnpackLimits, Unpacked, probe_erofs, root_owner_and_mode, unpack,
};
use crate::tree::{Grave, Graveyard, make_private_dir};

/// What unpacked layers are on disk.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerFormat {
    /// A directory tree for each layer, which every kernel and every user can mount.
    Directories,
    /// One EROFS image for each layer, mounted from its file. Unpacking makes one file instead of
    /// thousands. It takes Linux 6.12 with `CONFIG_EROFS_FS_BACKED_BY_FILE`, and root of the initial
    /// user namespace.
    ///
    /// Each container mounts its images anew, so the kernel caches what is read of them once for
    /// each container, and once more for the image file; of directories there is one copy for all.
    /// That memory is given back when it is needed. Where hundreds of containers run the same
    /// image, directories may serve better.
    Erofs,
}

/// In which format a store unpacks layers.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSupport {
    /// The format.
    pub format: LayerFormat,
    /// Why EROFS images cannot be mounted here, and what would help; `None` if they can.
    pub no_erofs: Option<String>,
}

/// What decides how a layer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Directory(Form),
    Image,
}

/// The unpacked layers of a store, for one way of writing them.
#[derive(Debug)]
pub(crate) struct Trees {
    /// Below it there is a directory for each way.
    all: PathBuf,
    dir: PathBuf,
    tmp: PathBuf,
    written: Written,
    support: LayerSupport,
    boot: String,
    busy: Busy,
}

/// Layers that are being unpacked, for who wants them too.
#[derive(Debug, Default)]
struct Busy {
    layers: Mutex<HashSet<Digest>>,
    changed: Condvar,
}

/// Lasts until it is dropped.
struct Turn<'a> {
    busy: &'a Busy,
    diff_id: Digest,
}

impl Busy {
    /// Waits until nobody else unpacks the layer.
    fn take(&self, diff_id: Digest) -> Turn<'_> {
        let mut layers = lock(&self.layers);
        while !layers.insert(diff_id) {
            let waited = self.changed.wait(layers);
            layers = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Turn {
            busy: self,
            diff_id,
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.busy.layers).remove(&self.diff_id);
        self.busy.changed.notify_all();
    }
}

/// Takes the turn when all of a blob is there.
struct Late<'a> {
    trees: &'a Trees,
    diff_id: &'a Digest,
    blob: Along,
    turn: Option<Turn<'a>>,
}

impl io::Read for Late<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.blob.read(buf)?;
        if self.turn.is_none() && self.blob.is_whole() {
            self.turn = Some(self.trees.busy.take(*self.diff_id));
            if self.trees.has(self.diff_id) {
                return Err(io::Error::other("it was unpacked by somebody else"));
            }
        }
        Ok(n)
    }
}

/// What is noted beside a tree.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    diff_id: Digest,
    /// The boot of the machine in which it was unpacked.
    boot: String,
    unpacked: Unpacked,
}

/// Marks a layer that was flushed to disk.
const FLUSHED: &str = "flushed";
/// The directory that is a layer.
const TREE: &str = "fs";
/// The file that is a layer.
const IMAGE: &str = "layer.erofs";

impl Trees {
    /// Over a store's directory, which `tmp` is on one file system with. Layers that a crash of the
    /// machine may have damaged are taken away: those of an earlier boot that were not flushed.
    pub(crate) fn open(
        store: &Path,
        tmp: &Path,
        wanted: Option<LayerFormat>,
        graves: &Graveyard,
    ) -> Result<Self> {
        let all = store.join("layers");
        make_private_dir(&all)?;
        let (written, support) = choose(tmp, wanted)?;
        let dir = all.join(match written {
            Written::Directory(form) => form.name(),
            Written::Image => "erofs",
        });
        make_private_dir(&dir)?;
        let trees = Self {
            all,
            dir,
            tmp: tmp.to_owned(),
            written,
            support,
            boot: boot_id(),
            busy: Busy::default(),
        };
        for digest in trees.list()? {
            let place = trees.place(&digest);
            if !place.join(FLUSHED).exists()
                && trees
                    .note(&digest)
                    .is_none_or(|note| note.boot != trees.boot)
            {
                tracing::warn!(%digest, "unpacked again when needed: the machine stopped before it was flushed");
                // Deleted with what an earlier program left.
                let _ = graves.bury(&place)?;
            }
        }
        Ok(trees)
    }

    /// The format, and why it is not the other one.
    pub(crate) const fn support(&self) -> &LayerSupport {
        &self.support
    }

    fn place(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join(diff_id.hex())
    }

    /// An unpacked layer, for overlayfs.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Layer {
        let place = self.place(diff_id);
        match self.written {
            Written::Directory(_) => Layer::Directory(place.join(TREE)),
            Written::Image => Layer::Erofs(place.join(IMAGE)),
        }
    }

    /// Owner, group and permissions of the top of a layer.
    pub(crate) fn root_owner_and_mode(&self, diff_id: &Digest) -> io::Result<(u32, u32, u32)> {
        use std::os::unix::fs::MetadataExt as _;
        match self.layer(diff_id) {
            Layer::Directory(tree) => {
                let meta = fs::metadata(tree)?;
                Ok((meta.uid(), meta.gid(), meta.mode() & 0o7777))
            }
            Layer::Erofs(image) => root_owner_and_mode(&File::open(image)?),
        }
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
        let names = names(&self.dir)?;
        Ok(names
            .iter()
            .filter_map(|name| Digest::from_hex(name))
            .collect())
    }

    /// Layers that were written in another way, by a program with other rights or on another
    /// kernel, and where they are. Containers that it started may still use them.
    pub(crate) fn others(&self) -> Result<Vec<(Digest, PathBuf)>> {
        let mut others = Vec::new();
        for way in names(&self.all)? {
            let dir = self.all.join(way);
            if dir == self.dir || !dir.is_dir() {
                continue;
            }
            let layers = names(&dir)?;
            others.extend(
                layers
                    .iter()
                    .filter_map(|name| Some((Digest::from_hex(name)?, dir.join(name)))),
            );
        }
        Ok(others)
    }

    /// Takes a tree away.
    pub(crate) fn remove(&self, diff_id: &Digest, graves: &Graveyard) -> Result<Option<Grave>> {
        graves.bury(&self.place(diff_id))
    }

    /// Has a layer unpacked from a blob of the store; `true` if it was not before. Calls for one
    /// layer wait for each other.
    pub(crate) fn ensure<R: io::Read>(
        &self,
        diff_id: &Digest,
        blob: impl FnOnce() -> Result<R>,
        limits: &UnpackLimits,
        heard: &mut dyn FnMut(u64),
    ) -> Result<bool> {
        let _turn = self.busy.take(*diff_id);
        if self.has(diff_id) {
            return Ok(false);
        }
        self.unpack(diff_id, blob()?, limits, heard)
    }

    /// [`Trees::ensure`] from a blob that is being fetched. Only when all of it is there others wait:
    /// an image that claims to have this layer, of a registry that sends for ever, is to keep nobody
    /// from it.
    pub(crate) fn ensure_along(
        &self,
        diff_id: &Digest,
        blob: Along,
        limits: &UnpackLimits,
        heard: &mut dyn FnMut(u64),
    ) -> Result<bool> {
        if self.has(diff_id) {
            return Ok(false);
        }
        let mut late = Late {
            trees: self,
            diff_id,
            blob,
            turn: None,
        };
        match self.unpack(diff_id, &mut late, limits, heard) {
            Err(_) if self.has(diff_id) => Ok(false),
            other => other,
        }
    }

    fn unpack(
        &self,
        diff_id: &Digest,
        blob: impl io::Read,
        limits: &UnpackLimits,
        heard: &mut dyn FnMut(u64),
    ) -> Result<bool> {
        let span = tracing::info_span!("layer.unpack", %diff_id);
        let _span = span.enter();
        let draft = Draft::new(&self.tmp)?;
        let replaced = draft.0.join("replaced");
        let (tree, image) = (draft.0.join(TREE), draft.0.join(IMAGE));
        let to = match self.written {
            Written::Directory(form) => {
                make_private_dir(&tree)?;
                Destination::Directory {
                    dir: &tree,
                    scratch: &replaced,
                    form,
                }
            }
            Written::Image => Destination::Image(&image),
        };
        let unpacked = unpack(blob, diff_id, to, limits, heard)?;
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
        let failed = |e: io::Error| fail::io("layer.unpack", "keep it", &place, e);
        let _ = fs::remove_dir(replaced);
        let text = serde_json::to_vec(&note).map_err(|e| failed(e.into()))?;
        fs::write(draft.0.join("layer.json"), text).map_err(failed)?;
        match fs::rename(&draft.0, &place) {
            Ok(()) => Ok(true),
            // Somebody else was quicker.
            Err(_) if self.has(diff_id) => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }

    /// Flushes layers in the background: their blobs are durable, so the caller need not wait, and a
    /// layer that was not flushed when the machine stops is unpacked again. A thread of its own,
    /// since a runtime that shuts down would wait for its blocking threads.
    pub(crate) fn flush_later(&self, diff_ids: Vec<Digest>) {
        let places: Vec<_> = diff_ids.iter().map(|d| self.place(d)).collect();
        let written = self.written;
        let flush = move || {
            let dirs: Vec<_> = places.iter().filter_map(|p| File::open(p).ok()).collect();
            if let (Written::Directory(_), Some(dir)) = (written, dirs.first())
                // All trees are on one file system.
                && rustix::fs::syncfs(dir).is_err()
            {
                return;
            }
            for dir in dirs {
                if written == Written::Image && flush_image(&dir).is_err() {
                    continue;
                }
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                if let Err(error) = rustix::fs::openat(&dir, FLUSHED, flags, Mode::RUSR) {
                    tracing::debug!(%error, "the layer went while it was flushed");
                }
            }
        };
        let thread = std::thread::Builder::new().name("aci-flush".to_owned());
        if let Err(error) = thread.spawn(flush) {
            tracing::warn!(%error, "layers are not flushed; after a crash of the machine they are unpacked again");
        }
    }
}

fn flush_image(dir: &File) -> rustix::io::Result<()> {
    let image = rustix::fs::openat(dir, IMAGE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fsync(image)?;
    rustix::fs::fsync(dir)
}

/// Finds out how layers can be written on the file system of a directory.
fn choose(tmp: &Path, wanted: Option<LayerFormat>) -> Result<(Written, LayerSupport)> {
    let no_erofs = probe_erofs(tmp).err();
    let format = wanted.unwrap_or(match no_erofs {
        None => LayerFormat::Erofs,
        Some(_) => LayerFormat::Directories,
    });
    let written = match (format, &no_erofs) {
        (LayerFormat::Erofs, None) => Written::Image,
        (LayerFormat::Erofs, Some(why)) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "images.open",
                format!("layers cannot be EROFS images here: {why}"),
            )
            .on(tmp.display())
            .hint("leave the format open, or ask for directories"));
        }
        (LayerFormat::Directories, _) => Written::Directory(
            Form::probe(tmp).map_err(|e| fail::io("images.open", "write to it", tmp, e))?,
        ),
    };
    Ok((written, LayerSupport { format, no_erofs }))
}

/// The names in a directory that are text.
fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = |e| fail::io("images.list", "list it", dir, e);
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        all.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(all)
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
