//! The front's own state: in memory to be read, journaled before it is answered.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use aci_core::contract::{ResourceStore, ResourceWrite};
use aci_core::error::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// A record, which may hold secrets.
type Bytes = Arc<Zeroizing<Vec<u8>>>;

/// All records, by kind and name: `resourceGroup/<subscription>/<name>`. Keys are in lower case.
///
/// A clone shares them. Writes are journaled, then seen.
#[derive(Clone)]
pub(crate) struct Records {
    store: Arc<dyn ResourceStore>,
    kept: Arc<RwLock<BTreeMap<String, Bytes>>>,
    /// Held while a write is journaled, so that memory and journal have one order.
    order: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// One change to the records.
pub(crate) struct Change(ResourceWrite);

impl Change {
    /// Writes a record.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) if it cannot be written as JSON.
    pub(crate) fn put(key: &str, value: &impl Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(value).map_err(|e| {
            Error::new(ErrorKind::Internal, "arm.record", "it is not JSON")
                .on(key)
                .because(e)
        })?;
        Ok(Self(ResourceWrite {
            key: key.to_lowercase(),
            value: Some(Zeroizing::new(bytes)),
        }))
    }

    /// Deletes a record.
    pub(crate) fn remove(key: &str) -> Self {
        Self(ResourceWrite {
            key: key.to_lowercase(),
            value: None,
        })
    }

    /// The record's key, in lower case.
    pub(crate) fn key(&self) -> &str {
        &self.0.key
    }

    /// What it writes, if that is a record of this kind.
    pub(crate) fn value<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(self.0.value.as_ref()?).ok()
    }
}

impl Records {
    pub(crate) async fn load(store: Arc<dyn ResourceStore>) -> Result<Self> {
        let kept = store
            .load()
            .await?
            .into_iter()
            .map(|(key, value)| (key, Arc::new(value)))
            .collect();
        Ok(Self {
            store,
            kept: Arc::new(RwLock::new(kept)),
            order: Arc::default(),
        })
    }

    /// A record, if there is one and it can be read.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = Arc::clone(kept.get(&key.to_lowercase())?);
        drop(kept);
        read(key, &bytes)
    }

    /// The keys that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let prefix = prefix.to_lowercase();
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let from = (Bound::Included(prefix.clone()), Bound::Unbounded);
        kept.range::<String, _>(from)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&prefix))
            .cloned()
            .collect()
    }

    /// All records whose keys begin so, by key.
    pub(crate) fn list<T: DeserializeOwned>(&self, prefix: &str) -> Vec<(String, T)> {
        let prefix = prefix.to_lowercase();
        let found: Vec<_> = {
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            let from = (Bound::Included(prefix.clone()), Bound::Unbounded);
            kept.range::<String, _>(from)
                .take_while(|(key, _)| key.starts_with(&prefix))
                .map(|(key, bytes)| (key.clone(), Arc::clone(bytes)))
                .collect()
        };
        found
            .into_iter()
            .filter_map(|(key, bytes)| read(&key, &bytes).map(|value| (key, value)))
            .collect()
    }

    /// Makes all changes, or none.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn apply(&self, changes: Vec<Change>) -> Result<()> {
        let this = self.clone();
        // A caller that goes away must not leave journal and memory different.
        let done = tokio::spawn(async move {
            let _turn = this.order.lock().await;
            let writes: Vec<ResourceWrite> = changes.into_iter().map(|c| c.0).collect();
            this.store.apply(&writes).await?;
            let mut kept = this.kept.write().unwrap_or_else(PoisonError::into_inner);
            for ResourceWrite { key, value } in writes {
                match value {
                    Some(value) => kept.insert(key, Arc::new(value)),
                    None => kept.remove(&key),
                };
            }
            Ok(())
        });
        done.await.unwrap_or_else(|e| {
            Err(Error::new(
                ErrorKind::Internal,
                "arm.record",
                "the journaling task failed",
            )
            .because(e))
        })
    }

    /// Writes one record.
    ///
    /// # Errors
    /// As [`Records::apply`].
    pub(crate) async fn put(&self, key: &str, value: &impl Serialize) -> Result<()> {
        self.apply(vec![Change::put(key, value)?]).await
    }

    /// Deletes one record.
    ///
    /// # Errors
    /// As [`Records::apply`].
    pub(crate) async fn remove(&self, key: &str) -> Result<()> {
        self.apply(vec![Change::remove(key)]).await
    }
}

fn read<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Option<T> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            // Errors of serde_json may quote what they read.
            tracing::error!(
                key,
                line = error.line(),
                "a record of the front cannot be read"
            );
            None
        }
    }
}
