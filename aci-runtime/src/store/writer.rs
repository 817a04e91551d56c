//! Writes that come while the disk is busy go to it together: one transaction, one sync.
//!
//! A sync costs as much for a hundred records as for one, so who waits in a crowd waits for two
//! syncs, not for a hundred. Each write is answered when its transaction is on the disk, as if it
//! had been alone.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use aci_core::contract::{GroupRecord, ResourceWrite};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use redb::WriteTransaction;
use tokio::sync::oneshot;

use super::{RECORDS, RESOURCES, Shared, key_of};

/// Writes in one transaction at most.
const MOST: usize = 256;
/// Bytes after which a transaction takes no more writes.
const LARGE: usize = 8 << 20;

/// What is to be written.
pub(super) enum Write {
    Put(Box<GroupRecord>),
    Remove(GroupRef),
    Apply(Vec<ResourceWrite>),
}

/// A write as it goes into the database.
enum Sealed {
    Put(GroupRef, Vec<u8>),
    Remove(GroupRef),
    Apply(Vec<(String, Option<Vec<u8>>)>),
}

/// What waits, in the order of the calls.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether a thread writes.
    writing: bool,
}

struct Waiting {
    write: Write,
    done: oneshot::Sender<Result<()>>,
}

impl Queue {
    fn next(&mut self) -> Option<Waiting> {
        while let Some(next) = self.waiting.pop_front() {
            if !next.done.is_closed() {
                return Some(next);
            }
        }
        None
    }
}

impl Write {
    const fn operation(&self) -> &'static str {
        match self {
            Self::Put(_) => "store.put",
            Self::Remove(_) => "store.remove",
            Self::Apply(_) => "store.apply",
        }
    }

    fn on(&self) -> String {
        match self {
            Self::Put(record) => record.group.to_string(),
            Self::Remove(group) => group.to_string(),
            Self::Apply(writes) => writes.first().map_or("", |w| w.key.as_str()).to_owned(),
        }
    }
}

impl Sealed {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(_, bytes) => bytes.len(),
            Self::Remove(_) => 0,
            Self::Apply(all) => all
                .iter()
                .map(|(_, v)| v.as_ref().map_or(0, Vec::len))
                .sum(),
        }
    }

    /// Answers whether it changed anything.
    fn make(&self, transaction: &WriteTransaction) -> Result<bool, redb::Error> {
        match self {
            Self::Put(group, sealed) => {
                let mut records = transaction.open_table(RECORDS)?;
                records.insert(key_of(group), sealed.as_slice())?;
                Ok(true)
            }
            Self::Remove(group) => {
                let mut records = transaction.open_table(RECORDS)?;
                let known = records.remove(key_of(group))?.is_some();
                Ok(known)
            }
            Self::Apply(all) => {
                let mut resources = transaction.open_table(RESOURCES)?;
                for (key, value) in all {
                    match value {
                        Some(value) => resources.insert(key.as_str(), value.as_slice())?,
                        None => resources.remove(key.as_str())?,
                    };
                }
                Ok(!all.is_empty())
            }
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes in the background, in the order of the calls.
    pub(super) async fn write(self: &Arc<Self>, write: Write) -> Result<()> {
        let (operation, on) = (write.operation(), write.on());
        let (done, outcome) = oneshot::channel();
        let begin = {
            let mut queue = self.queue();
            queue.waiting.push_back(Waiting { write, done });
            !std::mem::replace(&mut queue.writing, true)
        };
        if begin {
            let writer = Writer {
                shared: Arc::clone(self),
                ended: false,
            };
            tokio::task::spawn_blocking(move || writer.run());
        }
        let outcome = outcome.await.unwrap_or_else(|_| {
            let message = "the journal's database failed, or the program is shutting down";
            Err(Error::new(ErrorKind::Internal, operation, message).applied(Applied::Unknown))
        });
        outcome.map_err(|e| e.on(on))
    }

    fn sealed(&self, write: Write) -> Result<Sealed> {
        Ok(match write {
            Write::Put(record) => {
                let sealed = self.sealer.seal(&record.group, &record.encode()?)?;
                Sealed::Put(record.group, sealed)
            }
            Write::Remove(group) => Sealed::Remove(group),
            Write::Apply(writes) => {
                let mut sealed = Vec::with_capacity(writes.len());
                for ResourceWrite { key, value } in writes {
                    let value = value.map(|v| self.sealer.seal_resource(&key, &v));
                    sealed.push((key, value.transpose()?));
                }
                Sealed::Apply(sealed)
            }
        })
    }

    /// Makes all writes, in their order, or none.
    fn commit(&self, operation: &'static str, writes: &[Sealed]) -> Result<()> {
        self.with(operation, |database| {
            let transaction = database.begin_write()?;
            let mut changed = false;
            for write in writes {
                changed |= write.make(&transaction)?;
            }
            if changed {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok(())
        })
    }
}

/// The thread that writes until nothing waits.
struct Writer {
    shared: Arc<Shared>,
    ended: bool,
}

/// Who waits for one of a transaction's writes.
struct Waiter {
    operation: &'static str,
    done: oneshot::Sender<Result<()>>,
}

/// What came of a write, and who is told.
type Outcome = (oneshot::Sender<Result<()>>, Result<()>);

impl Writer {
    fn run(mut self) {
        let mut next = self.next();
        while let Some(first) = next {
            let (sealed, waiters) = self.collect(first);
            let outcomes = self.write(&sealed, waiters);
            next = self.next();
            let ends = next.is_none();
            if ends {
                // The journal can be closed when the last write has returned.
                drop(self);
                tell(outcomes);
                return;
            }
            tell(outcomes);
        }
    }

    /// What waits longest; where nothing does, the thread is about to end. What was given up before
    /// its turn is not written.
    fn next(&mut self) -> Option<Waiting> {
        let mut queue = self.shared.queue();
        let next = queue.next();
        if next.is_none() {
            queue.writing = false;
            self.ended = true;
        }
        next
    }

    /// As much as goes into one transaction.
    fn collect(&self, first: Waiting) -> (Vec<Sealed>, Vec<Waiter>) {
        let (mut sealed, mut waiters, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(Waiting { write, done }) = next {
            let operation = write.operation();
            match self.shared.sealed(write) {
                Ok(write) => {
                    bytes += write.bytes();
                    sealed.push(write);
                    waiters.push(Waiter { operation, done });
                }
                Err(error) => tell(vec![(done, Err(error))]),
            }
            let full = sealed.len() >= MOST || bytes >= LARGE;
            next = if full {
                None
            } else {
                self.shared.queue().next()
            };
        }
        (sealed, waiters)
    }

    fn write(&self, sealed: &[Sealed], waiters: Vec<Waiter>) -> Vec<Outcome> {
        let Some(operation) = waiters.first().map(|w| w.operation) else {
            return Vec::new();
        };
        let together = self.shared.commit(operation, sealed);
        let waiting = waiters.into_iter();
        let first = match together {
            Ok(()) => return waiting.map(|w| (w.done, Ok(()))).collect(),
            Err(error) if sealed.len() == 1 => {
                return waiting.take(1).map(|w| w.done).zip([Err(error)]).collect();
            }
            Err(error) => error.state_changed(),
        };
        // What one needs too much of is not the others' fault.
        let alone = waiting.zip(sealed).map(|(waiter, write)| {
            let made = self
                .shared
                .commit(waiter.operation, std::slice::from_ref(write));
            let made = made.map_err(|error| match first {
                Applied::Nothing => error,
                // The first time may have changed what this time has not.
                _ => error.applied(Applied::Unknown),
            });
            (waiter.done, made)
        });
        alone.collect()
    }
}

fn tell(outcomes: Vec<Outcome>) {
    for (done, outcome) in outcomes {
        // The caller may have gone.
        let _ = done.send(outcome);
    }
}

impl Drop for Writer {
    /// Where the thread ends before its time, who waits is told, and the next write begins anew.
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = self.shared.queue();
            queue.writing = false;
            queue.waiting.clear();
        }
    }
}
