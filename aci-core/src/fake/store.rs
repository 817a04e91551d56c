//! A journal in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{Faults, lock};
use crate::contract::{Clock, GroupRecord, GroupStore, ResourceStore, ResourceWrite};
use crate::error::Result;
use crate::id::GroupRef;

/// A write: the new bytes of a group, or none if it was removed.
type Write = (GroupRef, Option<Arc<Zeroizing<Vec<u8>>>>);

#[derive(Default)]
struct Inner {
    /// Every write since the beginning, the base of what is kept.
    writes: Vec<Write>,
    /// What stands beside the groups.
    resources: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// After so many more writes nothing is written and no write returns.
    frozen_after: Option<u64>,
}

/// Keeps records in memory, as the bytes that a disk would get. Clones share everything.
///
/// What goes wrong with journals can be simulated: [`freeze_after`](Self::freeze_after) is the
/// death of the host at a write; [`lose`](Self::lose) is a disk that said it had written what it
/// had not; a [`Faults`] plan with `store.put` fails single writes.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    clock: Arc<dyn Clock>,
    faults: Faults,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = lock(&self.inner);
        f.debug_struct("MemoryStore")
            .field("writes", &inner.writes.len())
            .field("frozen_after", &inner.frozen_after)
            .finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty journal, without faults.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_faults(clock, Faults::none())
    }

    /// An empty journal under a plan of faults.
    #[must_use]
    pub fn with_faults(clock: Arc<dyn Clock>, faults: Faults) -> Self {
        Self {
            inner: Arc::default(),
            clock,
            faults,
        }
    }

    /// Lets so many more writes (puts and removals) happen; later ones change nothing and never
    /// return, until [`MemoryStore::thaw`].
    pub fn freeze_after(&self, writes: u64) {
        lock(&self.inner).frozen_after = Some(writes);
    }

    /// Lets new writes happen again; those that hang go on hanging.
    pub fn thaw(&self) {
        lock(&self.inner).frozen_after = None;
    }

    /// Forgets the last writes, as a disk does that lied when it was asked to keep them.
    pub fn lose(&self, writes: usize) {
        let inner = &mut lock(&self.inner).writes;
        inner.truncate(inner.len().saturating_sub(writes));
    }

    /// How many writes are kept.
    #[must_use]
    pub fn writes(&self) -> usize {
        lock(&self.inner).writes.len()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records().len()
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn records(&self) -> BTreeMap<GroupRef, Arc<Zeroizing<Vec<u8>>>> {
        let mut records = BTreeMap::new();
        for (group, bytes) in &lock(&self.inner).writes {
            match bytes {
                Some(bytes) => records.insert(group.clone(), Arc::clone(bytes)),
                None => records.remove(group),
            };
        }
        records
    }

    async fn write(&self, group: &GroupRef, bytes: Option<Zeroizing<Vec<u8>>>) -> Result<()> {
        let frozen = {
            let mut inner = lock(&self.inner);
            match &mut inner.frozen_after {
                Some(0) => true,
                left => {
                    if let Some(left) = left {
                        *left -= 1;
                    }
                    inner.writes.push((group.clone(), bytes.map(Arc::new)));
                    false
                }
            }
        };
        if frozen {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[async_trait]
impl GroupStore for MemoryStore {
    async fn put(&self, record: &GroupRecord) -> Result<()> {
        let body = async { self.write(&record.group, Some(record.encode()?)).await };
        self.faults
            .run(&*self.clock, "store.put", &record.group, body)
            .await
    }

    async fn get(&self, group: &GroupRef) -> Result<Option<GroupRecord>> {
        let body = async {
            let records = self.records();
            let bytes = records.get(group);
            bytes.map(|bytes| GroupRecord::decode(bytes)).transpose()
        };
        self.faults
            .run(&*self.clock, "store.get", group, body)
            .await
    }

    async fn list(&self) -> Result<Vec<GroupRecord>> {
        let body = async {
            let records = self.records();
            records
                .values()
                .map(|bytes| GroupRecord::decode(bytes))
                .collect()
        };
        self.faults
            .run(&*self.clock, "store.list", "all", body)
            .await
    }

    async fn remove(&self, group: &GroupRef) -> Result<()> {
        let body = async {
            if self.records().contains_key(group) {
                self.write(group, None).await?;
            }
            Ok(())
        };
        self.faults
            .run(&*self.clock, "store.remove", group, body)
            .await
    }
}

#[async_trait]
impl ResourceStore for MemoryStore {
    async fn apply(&self, writes: &[ResourceWrite]) -> Result<()> {
        let body = async {
            let frozen = {
                let mut inner = lock(&self.inner);
                match &mut inner.frozen_after {
                    Some(0) => true,
                    left => {
                        if let Some(left) = left {
                            *left -= 1;
                        }
                        for ResourceWrite { key, value } in writes.iter().cloned() {
                            match value {
                                Some(value) => inner.resources.insert(key, value),
                                None => inner.resources.remove(&key),
                            };
                        }
                        false
                    }
                }
            };
            if frozen {
                std::future::pending::<()>().await;
            }
            Ok(())
        };
        self.faults
            .run(&*self.clock, "store.apply", "resources", body)
            .await
    }

    async fn load(&self) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>> {
        let body = async {
            let inner = lock(&self.inner);
            let records = inner.resources.iter();
            Ok(records
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect())
        };
        self.faults
            .run(&*self.clock, "store.load", "resources", body)
            .await
    }
}
