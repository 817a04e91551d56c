//! Calls on one thing, one after the other.
//!
//! A dropped future leaves its file work running on a blocking thread. The turn goes with that
//! work, so that a later call (the `release` after a dropped `prepare`) finds what it left and not
//! what it is about to make.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Gives turns by key, in the order of asking.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    all: StdMutex<HashMap<K, Arc<Mutex<()>>>>,
}

/// Lasts until it is dropped.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl<K: Eq + Hash> Turns<K> {
    pub(crate) fn new() -> Self {
        Self {
            all: StdMutex::default(),
        }
    }

    /// Waits for all turns of this key that were asked for before. Dropping the future gives the
    /// place in the queue up.
    pub(crate) async fn take(&self, key: K) -> Turn {
        let turn = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has or waits for.
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(all.entry(key).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_one_by_one_and_leave_nothing() {
        let turns = Turns::new();
        let first = turns.take("a").await;
        let other = turns.take("b").await;
        let mut second = std::pin::pin!(turns.take("a"));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut second).is_ready());
        drop(other);
        drop(turns.take("c").await);
        assert_eq!(turns.all.lock().unwrap().len(), 1);
    }
}
