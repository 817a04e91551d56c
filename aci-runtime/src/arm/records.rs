//! The front's own state: in memory to be read, journaled before it is answered.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aci_core::contract::{ResourceStore, ResourceWrite};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// A record, which may hold secrets.
type Bytes = Arc<Zeroizing<Vec<u8>>>;

/// All records, by kind and name: `resourceGroup/<subscription>/<name>`. Keys are in lower case.
///
/// A clone shares them. Writes are journaled, then seen. What comes while something is journaled
/// goes into one write together, so that nobody waits for more than two.
#[derive(Clone)]
pub(crate) struct Records {
    store: Arc<dyn ResourceStore>,
    kept: Arc<RwLock<BTreeMap<String, Bytes>>>,
    queue: Arc<Mutex<Queue>>,
}

/// What waits to be journaled, in the order of the calls.
#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Whether a task writes.
    writing: bool,
}

/// Changes that are made together or not at all, and who waits for them.
struct Waiting {
    writes: Vec<ResourceWrite>,
    done: oneshot::Sender<Result<()>>,
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
            queue: Arc::default(),
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
        let writes = changes.into_iter().map(|c| c.0).collect();
        let (done, outcome) = oneshot::channel();
        let begin = {
            let mut queue = lock(&self.queue);
            queue.waiting.push(Waiting { writes, done });
            !std::mem::replace(&mut queue.writing, true)
        };
        if begin {
            let records = self.clone();
            let ended = false;
            tokio::spawn(Writer { records, ended }.run());
        }
        outcome.await.unwrap_or_else(|_| {
            let message = "the journaling task failed";
            Err(Error::new(ErrorKind::Internal, "arm.record", message).applied(Applied::Unknown))
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

/// Journals what waits until nothing does.
struct Writer {
    records: Records,
    ended: bool,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let batch = {
                let mut queue = lock(&self.records.queue);
                if queue.waiting.is_empty() {
                    queue.writing = false;
                    self.ended = true;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            self.write(batch).await;
        }
    }

    /// Writes all at once. Who waits may have gone, so nobody needs to hear of it.
    async fn write(&self, batch: Vec<Waiting>) {
        let store = &self.records.store;
        let (mut writes, mut waiting) = (Vec::new(), Vec::new());
        for one in batch {
            let from = writes.len();
            writes.extend(one.writes);
            waiting.push((from..writes.len(), one.done));
        }
        let first = match store.apply(&writes).await {
            Ok(()) => {
                self.records.see(writes);
                for (_, done) in waiting {
                    let _ = done.send(Ok(()));
                }
                return;
            }
            Err(error) => error,
        };
        if waiting.len() == 1 {
            if let Some((_, done)) = waiting.pop() {
                let _ = done.send(Err(first));
            }
            return;
        }
        // What is wrong with one is not the others' fault.
        for (own, done) in waiting {
            let own = &writes[own];
            let alone = store.apply(own).await;
            if alone.is_ok() {
                self.records.see(own.to_vec());
            }
            let _ = done.send(alone.map_err(|e| unsure(e, first.state_changed())));
        }
    }
}

impl Drop for Writer {
    /// Where it ends before its time, who waits is told, and the next call begins anew.
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = lock(&self.records.queue);
            queue.writing = false;
            queue.waiting.clear();
        }
    }
}

/// The error of a write that failed alone after it had failed with others: if the first time may
/// have changed something, nobody can say that nothing was.
fn unsure(alone: Error, first: Applied) -> Error {
    if first == Applied::Nothing {
        alone
    } else {
        alone.applied(Applied::Unknown)
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
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
    async fn what_comes_together_is_journaled_together() {
        let (records, store, faults) = records().await;
        let keys: Vec<String> = (0..200).map(|n| format!("k/{n}")).collect();
        for done in join_all(keys.iter().map(|key| records.put(key, key))).await {
            done.unwrap();
        }
        let calls = faults.calls("store.apply");
        assert!(calls < 20, "{calls} writes of the journal");
        assert_eq!(store.load().await.unwrap().len(), 200);
        assert_eq!(records.get::<String>("k/7").unwrap(), "k/7");
        // The order is that of the calls, also of those that share a write.
        let (put, gone) = (records.put("k/7", &"new"), records.remove("k/7"));
        let (put, gone) = tokio::join!(put, gone);
        put.unwrap();
        gone.unwrap();
        assert_eq!(records.get::<String>("k/7"), None);
        assert_eq!(store.load().await.unwrap().len(), 199);
    }

    #[tokio::test]
    async fn a_write_that_fails_with_others_is_tried_alone() {
        let (records, store, faults) = records().await;
        // The write of all three, then the second one alone.
        for nth in [1, 3] {
            let full = Fault::Error(ErrorKind::Exhausted);
            faults.on("store.apply", Trigger::Nth(nth), full);
        }
        let [a, b, c] = ["a", "b", "c"];
        let (a, b, c) = tokio::join!(records.put(a, &1), records.put(b, &1), records.put(c, &1));
        assert!(a.is_ok() && c.is_ok());
        assert_eq!(b.unwrap_err().kind(), ErrorKind::Exhausted);
        assert_eq!(records.keys(""), ["a", "c"]);
        let kept = store.load().await.unwrap();
        assert_eq!(kept.len(), 2);
    }
}
