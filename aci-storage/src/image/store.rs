//! The image store: opening it, and the contract.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aci_core::contract::{
    Image, ImageStore, PullPhase, PullProgress, PullRequest, RootFs, RootFsKey,
};
use aci_core::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use rustix::fs::FlockOperation;
use tokio::sync::oneshot;

use super::along::Along;
use super::content::Blobs;
use super::digest::Digest;
use super::index::{Origin, References, Tagged};
use super::manifest::{ConfigFile, Descriptor, Document, Manifest};
use super::platform::Platform;
use super::progress::Teller;
use super::prune::is_pinned;
use super::reference::Reference;
use super::trees::{LayerFormat, LayerSupport, Trees, lock};
use crate::fail::{self, blocking};
use crate::layer::UnpackLimits;
use crate::registry::{self, Connector, Registries};
use crate::tree::{Graveyard, make_private_dir};
use crate::turns::{Turn, Turns};

/// So many layers of one image are unpacked at a time, if there are as many cores.
const MAX_UNPACKING: usize = 4;

/// How a store behaves.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct OciImagesOptions {
    /// Which images run here. Default: Linux on this processor.
    pub platform: Platform,
    /// Upper bounds for each layer.
    pub limits: UnpackLimits,
    /// Which registries are asked for images that are not in the store.
    pub registries: Registries,
    /// What layers become. Default: EROFS images where they can be mounted, else directories;
    /// [`OciImages::layer_support`] tells which.
    pub layer_format: Option<LayerFormat>,
}

/// Images in a directory.
///
/// The directory is an OCI image layout (`oci-layout`, `index.json`, `blobs/`), so other tools can
/// read it, and beside it holds the unpacked layers (`layers/`), what containers write (`rootfs/`)
/// and what is not finished (`tmp/`, `trash/`). Content gets its name only after size and digest
/// were checked, and by a rename; so a store opens after a crash at any moment, and what was
/// unfinished is deleted then. It is made with mode 0700, because layers hold programs with
/// set-user-id bits.
///
/// One program has a store at a time: [`OciImages::open`] takes a lock that lasts as long as any
/// clone of the value, and that the kernel gives back when the program dies. Give each engine its
/// own directory. Clones share everything.
///
/// What is not in the store is pulled from its registry. The store notes for each reference whether
/// the image was pulled: only then a pull with `PullPolicy::Always` asks the registry whether the tag
/// has moved. An image that was imported or assembled here is taken as it is under any policy, so
/// that names like `local/web:1` need no registry; `remove` it to have it pulled. References by
/// digest never ask for what is there.
///
/// It works for any user. As root, where the kernel mounts EROFS images from files, each layer is
/// one; otherwise it is a directory tree. Without the right to change owners, all files of layers
/// belong to the user that runs this, and overlayfs is to be mounted with `userxattr`; see
/// [`crate::layer`]. If the format changes (another kernel, another user), layers are unpacked anew
/// from their blobs when they are needed, and those of the old format go with the last container on
/// them.
#[derive(Clone, Debug)]
pub struct OciImages {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) options: OciImagesOptions,
    pub(super) blobs: Blobs,
    pub(super) trees: Trees,
    pub(super) graves: Graveyard,
    pub(super) state: Mutex<State>,
    roots: Turns<RootFsKey>,
    /// By registry and blob.
    fetching: Turns<(String, Digest)>,
    connector: Connector,
    /// Held for its lock; the last field, so that it goes last.
    _lock: File,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) references: References,
    /// Content that work in progress needs, with the number of its users.
    pub(super) pins: HashMap<Digest, usize>,
    /// Manifests and configurations that were read.
    pub(super) records: HashMap<Digest, Arc<Record>>,
}

/// What an image is made of.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) manifest: Manifest,
    pub(super) config: ConfigFile,
}

impl Record {
    /// All blobs and trees besides the manifest itself.
    pub(super) fn parts(&self) -> impl Iterator<Item = Digest> {
        std::iter::once(self.manifest.config.digest)
            .chain(self.manifest.layers.iter().map(|l| l.digest))
            .chain(self.config.rootfs.diff_ids.iter().copied())
    }
}

impl OciImages {
    /// Opens the store in a directory, making it if it is not there.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) if another program (or another value in this one) has it
    /// open; [`Corrupt`](ErrorKind::Corrupt) for an unreadable index;
    /// [`Unsupported`](ErrorKind::Unsupported) if a newer version wrote it, or for a layer format
    /// that was asked for and cannot be mounted here;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied), [`Internal`](ErrorKind::Internal).
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, OciImagesOptions::default())
    }

    /// [`OciImages::open`] with options.
    ///
    /// # Errors
    /// As [`OciImages::open`].
    pub fn open_with(dir: impl AsRef<Path>, options: OciImagesOptions) -> Result<Self> {
        let dir = dir.as_ref();
        make_private_dir(dir)?;
        let dir =
            std::path::absolute(dir).map_err(|e| fail::io("images.open", "find it", dir, e))?;
        let lock = lock_dir(&dir)?;
        check_version(&dir)?;
        let graves = Graveyard::open(&dir.join("trash"))?;
        let tmp = dir.join("tmp");
        // Deleted below, with what else is left.
        let _ = graves.bury(&tmp)?;
        make_private_dir(&tmp)?;
        make_private_dir(&dir.join("rootfs"))?;
        let blobs = Blobs::open(&dir, &tmp)?;
        let references = References::open(&dir, &tmp)?;
        let trees = Trees::open(&dir, &tmp, options.layer_format, &graves)?;
        graves.empty()?;
        let support = trees.support();
        if let (None, Some(why)) = (options.layer_format, &support.no_erofs) {
            tracing::info!(why, "layers become directories, not EROFS images");
        }
        tracing::debug!(dir = %dir.display(), layers = ?support.format, no_erofs = ?support.no_erofs, "image store opened");
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                connector: Connector::new(options.registries.clone()),
                options,
                blobs,
                trees,
                graves,
                state: Mutex::new(State {
                    references,
                    pins: HashMap::new(),
                    records: HashMap::new(),
                }),
                roots: Turns::new(),
                fetching: Turns::new(),
                _lock: lock,
            }),
        })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// What layers become here, and what keeps them from being EROFS images if something does.
    #[must_use]
    pub fn layer_support(&self) -> &LayerSupport {
        self.inner.trees.support()
    }
}

/// Takes the lock that one program at a time can have.
fn lock_dir(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| fail::io("images.open", "open it", &path, e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            ErrorKind::Conflict,
            "images.open",
            "the image store is in use by another program",
        )
        .on(dir.display())
        .hint("stop it, or give this program a directory of its own")),
        Err(e) => Err(fail::io("images.open", "lock it", &path, e)),
    }
}

fn check_version(dir: &Path) -> Result<()> {
    const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| fail::io("images.open", "write it", &path, e))
    };
    match std::fs::read_to_string(dir.join("version")) {
        // An empty file is what a crash during the very first opening leaves.
        Ok(version) if version.trim().is_empty() => {}
        Ok(version) if version.trim() == "1" => return Ok(()),
        Ok(version) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "images.open",
                format!(
                    "the store has version {}, this program reads 1",
                    version.trim()
                ),
            )
            .on(dir.display())
            .hint("use a newer version of this program or another directory"));
        }
        Err(_) => {}
    }
    write("oci-layout", LAYOUT)?;
    write("version", "1\n")
}

/// The error for an image that is not there, with ACI's code and words.
pub(crate) fn not_accessible(operation: &'static str, reference: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        format!(
            "The image '{reference}' is not accessible. Please check the image and registry credential."
        ),
    )
    .code("InaccessibleImage")
    .hint("it is not in the store and was not to be pulled; import an OCI layout or a docker save archive, assemble one from programs of this host, or pull it from a registry")
}

impl Inner {
    /// The content store.
    pub(crate) const fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(crate) const fn options(&self) -> &OciImagesOptions {
        &self.options
    }

    /// The way to registries.
    pub(crate) const fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The turn to fetch a blob from a registry. Who wants it from another one does not wait: a slow
    /// registry is to keep nobody from what others serve too.
    pub(crate) async fn fetching(&self, registry: String, digest: Digest) -> Turn {
        self.fetching.take((registry, digest)).await
    }

    /// What the store has for a reference.
    pub(crate) fn found(&self, reference: &str) -> Result<Option<Tagged>> {
        Ok(lock(&self.state).references.find(reference)?.cloned())
    }

    /// Manifest and configuration of an image whose manifest the store has.
    pub(super) fn record(&self, state: &mut State, digest: &Digest) -> Result<Arc<Record>> {
        if let Some(record) = state.records.get(digest) {
            return Ok(Arc::clone(record));
        }
        let Document::Manifest(manifest) = Document::parse(&self.blobs.read(digest)?, "")? else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "images.read",
                format!("{digest} is an index where a manifest should be"),
            ));
        };
        let config = ConfigFile::parse(&self.blobs.read(&manifest.config.digest)?)?;
        let record = Arc::new(Record { manifest, config });
        state.records.insert(*digest, Arc::clone(&record));
        Ok(record)
    }

    /// What the contract calls an image.
    fn image(&self, state: &mut State, tagged: &Tagged, reference: &str) -> Result<Image> {
        let digest = tagged.manifest.digest;
        let record = self.record(state, &digest)?;
        Ok(Image {
            reference: reference.to_owned(),
            digest: digest.to_string(),
            os: record.config.os.clone(),
            architecture: record.config.architecture.clone(),
            size: record.manifest.size(),
            config: record.config.process(),
        })
    }

    fn get(&self, operation: &'static str, reference: &str) -> Result<Image> {
        let mut state = lock(&self.state);
        let tagged = state
            .references
            .find(reference)?
            .cloned()
            .ok_or_else(|| not_accessible(operation, reference))?;
        self.image(&mut state, &tagged, reference)
    }

    /// Has every layer of an image unpacked, several at a time.
    pub(super) fn ensure_layers(
        &self,
        record: &Record,
        progress: Option<&PullProgress>,
    ) -> Result<()> {
        let all = record.manifest.layers.iter();
        let all = all.zip(&record.config.rootfs.diff_ids);
        let (there, layers): (Vec<_>, Vec<_>) = all.partition(|(_, id)| self.trees.has(id));
        for (layer, _) in there {
            Teller::new(progress, Some(layer), PullPhase::Done).tell(layer.size);
        }
        if layers.is_empty() {
            return Ok(());
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = layers.len().min(cores).min(MAX_UNPACKING);
        let fresh = Mutex::new(Vec::new());
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((layer, diff_id)) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.ensure_layer(layer, diff_id, progress) {
                    Ok(true) => lock(&fresh).push(**diff_id),
                    Ok(false) => {}
                    Err(error) => {
                        // The others end with the layer that they are at.
                        next.store(layers.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(())
        };
        let result = if threads < 2 {
            work()
        } else {
            let span = tracing::Span::current();
            let panicked = |_| {
                let what = "a thread that unpacked a layer panicked";
                Err(Error::new(ErrorKind::Internal, "layer.unpack", what))
            };
            std::thread::scope(|scope| {
                let others: Vec<_> = (1..threads)
                    .map(|_| scope.spawn(|| span.in_scope(work)))
                    .collect();
                let ours = work();
                let theirs = others
                    .into_iter()
                    .map(|t| t.join().unwrap_or_else(panicked));
                std::iter::once(ours).chain(theirs).collect()
            })
        };
        self.flush_later(std::mem::take(&mut lock(&fresh)));
        result
    }

    /// Has a layer unpacked whose blob is there; `true` if it was not before.
    pub(crate) fn ensure_layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        progress: Option<&PullProgress>,
    ) -> Result<bool> {
        let mut teller = Teller::new(progress, Some(layer), PullPhase::Unpacking);
        let fresh = self.trees.ensure(
            diff_id,
            || self.blobs.open_blob(&layer.digest),
            &self.options.limits,
            &mut |done| teller.tell(done),
        )?;
        Teller::new(progress, Some(layer), PullPhase::Done).tell(layer.size);
        Ok(fresh)
    }

    /// Has a layer unpacked while its blob is fetched; the answer is as that of
    /// [`Inner::ensure_layer`]. `None` if there can be no thread for it. It has one of its own,
    /// since it waits for the network: on the runtime's blocking threads many of them could leave
    /// none for those that they wait for.
    pub(crate) fn unpack_along(
        self: &Arc<Self>,
        layer: &Descriptor,
        diff_id: Digest,
        blob: Along,
        progress: Option<&PullProgress>,
    ) -> Option<oneshot::Receiver<Result<bool>>> {
        let (tell, told) = oneshot::channel();
        let (inner, layer, progress) = (Arc::clone(self), layer.clone(), progress.cloned());
        let span = tracing::Span::current();
        let work = move || {
            let _span = span.enter();
            let mut teller = Teller::new(progress.as_ref(), Some(&layer), PullPhase::Unpacking);
            let (trees, limits) = (&inner.trees, &inner.options.limits);
            let heard = &mut |done| teller.tell(done);
            let done = trees.ensure_along(&diff_id, blob, limits, heard);
            // So that who hears of the end finds the store free.
            drop(inner);
            let _ = tell.send(done);
        };
        let thread = std::thread::Builder::new().name("aci-unpack".to_owned());
        match thread.spawn(work) {
            Ok(_) => Some(told),
            Err(error) => {
                tracing::debug!(%error, "no thread to unpack a layer while it is fetched");
                None
            }
        }
    }

    /// Makes unpacked layers durable, without waiting for it.
    pub(crate) fn flush_later(&self, fresh: Vec<Digest>) {
        if !fresh.is_empty() {
            self.trees.flush_later(fresh);
        }
    }

    /// Makes an image of a manifest and a configuration whose layers are blobs of the store
    /// already: unpacks them, then sets the reference.
    pub(crate) fn install(
        &self,
        reference: &str,
        manifest: &[u8],
        config: &[u8],
        index: Option<Digest>,
        origin: Origin,
        progress: Option<&PullProgress>,
    ) -> Result<Image> {
        let parsed: Reference = reference.parse()?;
        let document = Document::parse(manifest, "")?;
        let Document::Manifest(read) = document else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "images.install",
                "an index is no image",
            ));
        };
        read.check()?;
        let media_type = read.media_type.clone();
        let record = Record {
            config: ConfigFile::parse(config)?,
            manifest: read,
        };
        record
            .config
            .check(&record.manifest, &self.options.platform)?;
        let digest = Digest::of(manifest);
        let _pins = self.pin(record.parts().chain([digest]));
        self.blobs.put(config)?;
        self.blobs.put(manifest)?;
        self.blobs.keep_names()?;
        self.ensure_layers(&record, progress)?;
        let mut tagged = Tagged {
            reference: parsed,
            asked: reference.to_owned(),
            manifest: Descriptor::new(
                media_type
                    .as_deref()
                    .unwrap_or(super::manifest::OCI_MANIFEST),
                digest,
                manifest.len() as u64,
            ),
            index,
            origin,
            pinned: false,
        };
        let mut state = lock(&self.state);
        let before = state
            .references
            .all()
            .find(|t| t.reference.key() == tagged.reference.key());
        tagged.pinned = before.is_some_and(|before| before.pinned);
        state.records.insert(digest, Arc::new(record));
        state.references.set(tagged.clone())?;
        let image = self.image(&mut state, &tagged, reference)?;
        drop(state);
        self.note_use(&digest);
        metrics::counter!("aci_storage_images_installed_total").increment(1);
        tracing::info!(reference, %digest, "image in the store");
        Teller::new(progress, None, PullPhase::Done).tell(image.size);
        Ok(image)
    }

    /// An image that is in the store, unpacked.
    pub(crate) fn present(
        &self,
        reference: &str,
        progress: Option<&PullProgress>,
    ) -> Result<Image> {
        let image = self.get("images.pull", reference)?;
        let digest: Digest = image.digest.parse()?;
        let _pins = self.pin([digest]);
        let record = {
            let mut state = lock(&self.state);
            if state.references.by_digest(&digest).is_none() {
                return Err(not_accessible("images.pull", reference));
            }
            self.record(&mut state, &digest)?
        };
        self.note_use(&digest);
        self.ensure_layers(&record, progress)?;
        Teller::new(progress, None, PullPhase::Done).tell(image.size);
        Ok(image)
    }

    fn list(&self) -> Result<Vec<Image>> {
        let mut state = lock(&self.state);
        let all: Vec<_> = state.references.all().cloned().collect();
        all.iter()
            .map(|tagged| self.image(&mut state, tagged, &tagged.asked))
            .collect()
    }

    fn remove(&self, reference: &str) -> Result<()> {
        {
            let mut state = lock(&self.state);
            // A bare digest forgets every name of the image.
            let keys: Vec<String> = match reference.parse::<Digest>() {
                Ok(digest) => state
                    .references
                    .all()
                    .filter(|tagged| tagged.manifest.digest == digest)
                    .map(|tagged| tagged.reference.key())
                    .collect(),
                Err(_) => state
                    .references
                    .find(reference)?
                    .map(|tagged| tagged.reference.key())
                    .into_iter()
                    .collect(),
            };
            let stays = |t: &&Tagged| t.pinned && keys.contains(&t.reference.key());
            if let Some(pinned) = state.references.all().find(stays) {
                return Err(is_pinned(&pinned.asked));
            }
            state.references.remove(&keys)?;
        }
        self.collect_garbage().map(drop)
    }
}

#[async_trait]
impl ImageStore for OciImages {
    #[tracing::instrument(name = "images.pull", skip_all, fields(reference = %request.reference))]
    async fn pull(&self, request: PullRequest, progress: Option<PullProgress>) -> Result<Image> {
        registry::pull(&self.inner, request, progress).await
    }

    async fn get(&self, reference: &str) -> Result<Image> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        blocking("images.get", move || inner.get("images.get", &reference)).await
    }

    async fn list(&self) -> Result<Vec<Image>> {
        let inner = Arc::clone(&self.inner);
        blocking("images.list", move || inner.list()).await
    }

    #[tracing::instrument(name = "images.remove", skip(self))]
    async fn remove(&self, reference: &str) -> Result<()> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        blocking("images.remove", move || inner.remove(&reference)).await
    }

    #[tracing::instrument(name = "images.prepare", skip_all, fields(sandbox = %key.sandbox, container = %key.container))]
    async fn prepare(&self, digest: &str, key: &RootFsKey) -> Result<RootFs> {
        let (inner, digest, key) = (Arc::clone(&self.inner), digest.to_owned(), key.clone());
        let turn = inner.roots.take(key.clone()).await;
        blocking("images.prepare", move || {
            let _turn = turn;
            inner.prepare(&digest, &key)
        })
        .await
    }

    #[tracing::instrument(name = "images.release", skip_all, fields(sandbox = %key.sandbox, container = %key.container))]
    async fn release(&self, key: &RootFsKey) -> Result<()> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        let turn = inner.roots.take(key.clone()).await;
        blocking("images.release", move || {
            let _turn = turn;
            inner.release(&key)
        })
        .await
    }

    async fn prepared(&self) -> Result<Vec<RootFsKey>> {
        let inner = Arc::clone(&self.inner);
        blocking("images.prepared", move || inner.prepared()).await
    }
}
