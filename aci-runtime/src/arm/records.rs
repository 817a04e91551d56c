//! The front's own state: in memory to be read, journaled before it is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use aci_core::contract::{ResourceStore, ResourceWrite};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::turns::Turns;

/// A record, which may hold secrets.
type Bytes = Arc<Zeroizing<Vec<u8>>>;

/// All records, by kind and name: `resourceGroup/<subscription>/<name>`. Keys are in lower case.
///
/// A clone shares them. Writes are journaled, then seen. Those of one record happen one after the
/// other, so that memory and journal have one order; others do not wait for each other here.
#[derive(Clone)]
pub(crate) struct Records {
    store: Arc<dyn ResourceStore>,
    kept: Arc<RwLock<BTreeMap<String, Bytes>>>,
    turns: Turns,
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
            turns: Turns::default(),
        })
    }

    /// Shows to readers what is journaled.
    fn see(&self, writes: Vec<ResourceWrite>) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        for ResourceWrite { key, value } in writes {
            match value {
                Some(value) => kept.insert(key, Arc::new(value)),
                None => kept.remove(&key),
            };
        }
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
    ///
    /// # Cancel safety
    /// Once polled the changes are made without the caller, so that journal and memory agree.
    pub(crate) async fn apply(&self, changes: Vec<Change>) -> Result<()> {
        let this = self.clone();
        let done = tokio::spawn(async move {
            let writes: Vec<ResourceWrite> = changes.into_iter().map(|c| c.0).collect();
            // In one order, so that nobody waits for somebody who waits for him.
            let keys: BTreeSet<&String> = writes.iter().map(|w| &w.key).collect();
            let mut turns = Vec::with_capacity(keys.len());
            for key in keys {
                turns.push(this.turns.take(key.clone()).await);
            }
            this.store.apply(&writes).await?;
            this.see(writes);
            Ok(())
        });
        done.await.unwrap_or_else(|e| {
            let message = "the journaling task failed";
            let error = Error::new(ErrorKind::Internal, "arm.record", message);
            Err(error.applied(Applied::Unknown).because(e))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aci_core::fake::{Fault, Faults, MemoryStore, TokioClock, Trigger};
    use futures_util::future::join_all;

    use super::*;

    async fn records() -> (Records, MemoryStore, Faults) {
        let faults = Faults::none();
        let store = MemoryStore::with_faults(Arc::new(TokioClock::new()), faults.clone());
        let records = Records::load(Arc::new(store.clone())).await.unwrap();
        (records, store, faults)
    }

    /// The fault: of 2,000 clients that wrote at once each waited for the writes of all before it.
    #[tokio::test]
    async fn a_write_that_hangs_holds_up_its_own_records_only() {
        let (records, store, faults) = records().await;
        faults.on("store.apply", Trigger::Nth(1), Fault::Hang);
        let change = |key: &str| Change::put(key, &key).unwrap();
        let hanging = records.apply(vec![change("a"), change("b")]);
        let wait = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, hanging).await.is_err());
        records.apply(vec![change("c"), change("d")]).await.unwrap();
        assert_eq!(records.keys(""), ["c", "d"]);
        for mine in ["a", "b"] {
            let waits = records.apply(vec![change("c"), change(mine)]);
            assert!(tokio::time::timeout(wait, waits).await.is_err());
        }
        assert_eq!(store.load().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn the_order_of_a_record_is_that_of_the_calls() {
        let (records, store, _) = records().await;
        let values: Vec<u32> = (0..100).collect();
        for done in join_all(values.iter().map(|n| records.put("k", n))).await {
            done.unwrap();
        }
        let kept = store.load().await.unwrap();
        let journaled: u32 = serde_json::from_slice(&kept[0].1).unwrap();
        assert_eq!((records.get("k"), kept.len()), (Some(journaled), 1));
        assert_eq!(journaled, 99);
    }
}
