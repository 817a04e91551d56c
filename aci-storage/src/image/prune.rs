//! Which images stay: pinned ones, used ones, and the latest.

use std::collections::HashSet;
use std::fs::{File, FileTimes};
use std::sync::Arc;
use std::time::SystemTime;

use aci_core::error::{Error, ErrorKind, Result};

use super::digest::Digest;
use super::gc::Freed;
use super::store::{Inner, OciImages, not_accessible};
use super::trees::lock;
use crate::fail::blocking;

/// What [`OciImages::prune`] removed.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The images' references, as they were asked for.
    pub images: Vec<String>,
    /// The content that went with them.
    pub freed: Freed,
}

impl OciImages {
    /// Pins an image or takes that back. A pinned image stays: [`OciImages::prune`] passes it over,
    /// and [`remove`](aci_core::contract::ImageStore::remove) refuses it. A pin belongs to the
    /// reference, is kept on disk, and goes along when a pull moves the tag.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the image is not in the store;
    /// [`Invalid`](ErrorKind::Invalid) for a bad reference; [`Internal`](ErrorKind::Internal).
    ///
    /// # Cancel safety
    /// It may have been done.
    pub async fn set_pinned(&self, reference: &str, pinned: bool) -> Result<()> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        blocking("images.pin", move || {
            let mut state = lock(&inner.state);
            let found = state.references.find(&reference)?.cloned();
            let mut tagged = found.ok_or_else(|| not_accessible("images.pin", &reference))?;
            tagged.pinned = pinned;
            state.references.set(tagged)
        })
        .await
    }

    /// The references of pinned images, as they were asked for.
    #[must_use]
    pub fn pinned(&self) -> Vec<String> {
        let state = lock(&self.inner.state);
        let all = state.references.all().filter(|tagged| tagged.pinned);
        all.map(|tagged| tagged.asked.clone()).collect()
    }

    /// Removes images that no container has a root file system of and that are not pinned, those
    /// whose last use is longest ago first, until blobs have at most `keep_bytes`. `0` removes all
    /// of them. A use is a pull, also one that found the image here, or a
    /// [`prepare`](aci_core::contract::ImageStore::prepare).
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt), [`Internal`](ErrorKind::Internal); some images may be
    /// removed then.
    ///
    /// # Cancel safety
    /// It goes on in the background.
    #[tracing::instrument(name = "images.prune", skip(self))]
    pub async fn prune(&self, keep_bytes: u64) -> Result<Pruned> {
        let inner = Arc::clone(&self.inner);
        blocking("images.prune", move || inner.prune(keep_bytes)).await
    }
}

impl Inner {
    fn prune(&self, keep_bytes: u64) -> Result<Pruned> {
        let used: HashSet<Digest> = self.digests_in_use()?.into_iter().collect();
        let mut candidates: Vec<_> = {
            let state = lock(&self.state);
            let all = state.references.all();
            all.filter(|tagged| !tagged.pinned && !used.contains(&tagged.manifest.digest))
                .map(|tagged| {
                    let last = self.last_use(&tagged.manifest.digest);
                    (last, tagged.reference.key(), tagged.asked.clone())
                })
                .collect()
        };
        candidates.sort();
        let mut pruned = Pruned::default();
        for (last, key, asked) in candidates {
            let held: u64 = self.blobs.list()?.iter().map(|(_, size)| size).sum();
            if held <= keep_bytes {
                break;
            }
            {
                let mut state = lock(&self.state);
                // It may have been pinned, moved or used meanwhile.
                let Some(tagged) = state.references.all().find(|t| t.reference.key() == key) else {
                    continue;
                };
                let digest = tagged.manifest.digest;
                if tagged.pinned
                    || state.pins.contains_key(&digest)
                    || self.last_use(&digest) != last
                {
                    continue;
                }
                state.references.remove(&[key])?;
            }
            let freed = self.collect_garbage()?;
            pruned.images.push(asked);
            pruned.freed.blobs += freed.blobs;
            pruned.freed.blob_bytes += freed.blob_bytes;
            pruned.freed.layers += freed.layers;
            pruned.freed.partial_bytes += freed.partial_bytes;
        }
        Ok(pruned)
    }

    /// When an image was used last: the time of its manifest's file.
    fn last_use(&self, manifest: &Digest) -> SystemTime {
        std::fs::metadata(self.blobs.path(manifest))
            .and_then(|meta| meta.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Notes that an image is used. If that fails, it goes a little earlier, which harms nobody.
    pub(super) fn note_use(&self, manifest: &Digest) {
        let times = FileTimes::new().set_modified(SystemTime::now());
        let noted = File::options()
            .write(true)
            .open(self.blobs.path(manifest))
            .and_then(|file| file.set_times(times));
        if let Err(error) = noted {
            tracing::debug!(%manifest, %error, "its use is not noted");
        }
    }
}

/// The error for an image that is to stay.
pub(super) fn is_pinned(reference: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "images.remove",
        format!("the image '{reference}' is pinned"),
    )
    .hint("take the pin back with set_pinned before removing it")
}
