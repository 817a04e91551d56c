//! Deletes content that nothing uses.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aci_core::error::Result;

use super::digest::Digest;
use super::store::{Inner, OciImages};
use super::trees::lock;
use crate::fail::blocking;

/// What a collection deleted.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Bytes that broken-off pulls had left of blobs.
    pub partial_bytes: u64,
}

/// How long what a broken-off pull left is kept for the next one, where nobody asks for a
/// collection.
const KEEP_PARTIAL: Duration = Duration::from_secs(24 * 3600);

/// What the store holds.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Bytes that broken-off pulls left of blobs, for the next try.
    pub partial_bytes: u64,
}

impl OciImages {
    /// Deletes blobs and unpacked layers which no reference, no prepared root file system and no
    /// work in progress needs. [`remove`](aci_core::contract::ImageStore::remove) and
    /// [`release`](aci_core::contract::ImageStore::release) of an image's last use do it
    /// by themselves; what an import left that was broken off waits for this, and so does, for a day
    /// at most, what a broken-off pull fetched of a blob.
    ///
    /// # Errors
    /// [`Corrupt`](aci_core::error::ErrorKind::Corrupt) if a manifest cannot be read, since what
    /// it needs is unknown then; [`Internal`](aci_core::error::ErrorKind::Internal).
    ///
    /// # Cancel safety
    /// The collection goes on in the background.
    #[tracing::instrument(name = "images.collect", skip_all)]
    pub async fn collect_garbage(&self) -> Result<Freed> {
        let inner = Arc::clone(&self.inner);
        blocking("images.collect", move || inner.collect(Duration::ZERO)).await
    }

    /// What the store holds.
    ///
    /// # Errors
    /// [`Internal`](aci_core::error::ErrorKind::Internal) if it cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn usage(&self) -> Result<Usage> {
        let inner = Arc::clone(&self.inner);
        blocking("images.usage", move || {
            let blobs = inner.blobs.list()?;
            Ok(Usage {
                blobs: blobs.len() as u64,
                blob_bytes: blobs.iter().map(|(_, size)| size).sum(),
                layers: inner.trees.list()?.len() as u64,
                partial_bytes: inner.blobs.partial()?.iter().map(|p| p.1).sum(),
            })
        })
        .await
    }
}

/// Content that a collection leaves alone as long as this lives.
#[derive(Debug)]
pub(crate) struct Pins<'a> {
    inner: &'a Inner,
    digests: Vec<Digest>,
}

impl Pins<'_> {
    /// Adds to it.
    pub(crate) fn add(&mut self, digest: Digest) {
        *lock(&self.inner.state).pins.entry(digest).or_default() += 1;
        self.digests.push(digest);
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.inner.state);
        for digest in &self.digests {
            if let Some(users) = state.pins.get_mut(digest) {
                *users -= 1;
                if *users == 0 {
                    state.pins.remove(digest);
                }
            }
        }
    }
}

impl Inner {
    /// Keeps content alive. To be taken before looking whether the content is there.
    pub(crate) fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pins<'_> {
        let mut pins = Pins {
            inner: self,
            digests: Vec::new(),
        };
        for digest in digests {
            pins.add(digest);
        }
        pins
    }

    /// A collection that is a consequence of something else.
    pub(super) fn collect_garbage(&self) -> Result<Freed> {
        self.collect(KEEP_PARTIAL)
    }

    fn collect(&self, keep_partial: Duration) -> Result<Freed> {
        let mut freed = Freed::default();
        let mut graves = Vec::new();
        {
            // With the state locked nothing can be pinned or referenced meanwhile; trees are only
            // renamed here and deleted below.
            let mut state = lock(&self.state);
            let mut images: Vec<Digest> = state
                .references
                .all()
                .map(|tagged| tagged.manifest.digest)
                .collect();
            let in_use = self.digests_in_use()?;
            let mut mounted = HashSet::new();
            for digest in &in_use {
                mounted.extend(self.record(&mut state, digest)?.parts());
            }
            images.extend(in_use);
            // A pinned image keeps its parts.
            let pinned = state.pins.keys().filter(|d| state.records.contains_key(d));
            images.extend(pinned.copied());
            let mut live: HashSet<Digest> = state.pins.keys().copied().collect();
            for digest in images {
                live.insert(digest);
                live.extend(self.record(&mut state, &digest)?.parts());
            }
            state.records.retain(|digest, _| live.contains(digest));
            for (digest, size) in self.blobs.list()? {
                if !live.contains(&digest) {
                    self.blobs.remove(&digest)?;
                    freed.blobs += 1;
                    freed.blob_bytes += size;
                }
            }
            for (digest, size, age) in self.blobs.partial()? {
                // What is being fetched is pinned.
                if age >= keep_partial && !state.pins.contains_key(&digest) {
                    self.blobs.remove_partial(&digest)?;
                    freed.partial_bytes += size;
                }
            }
            for diff_id in self.trees.list()? {
                if !live.contains(&diff_id) {
                    graves.extend(self.trees.remove(&diff_id, &self.graves)?);
                    freed.layers += 1;
                }
            }
            for (diff_id, place) in self.trees.others()? {
                if !mounted.contains(&diff_id) {
                    graves.extend(self.graves.bury(&place)?);
                    freed.layers += 1;
                }
            }
        }
        for grave in graves {
            grave.empty()?;
        }
        metrics::counter!("aci_storage_collected_bytes_total").increment(freed.blob_bytes);
        tracing::debug!(?freed, "collected");
        Ok(freed)
    }
}
