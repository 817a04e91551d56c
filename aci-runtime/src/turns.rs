//! Locks by name: who changes one thing waits for nobody who changes another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// Locks that are there while somebody has or wants them. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Lock>>>);

/// One's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    name: String,
    /// `None` only while it is dropped.
    lock: Option<Lock>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else has the turn of this name. Who asks first is first.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the line up.
    pub(crate) async fn take(&self, name: String) -> Turn {
        let lock = Arc::clone(self.locks().entry(name.clone()).or_default());
        // Before it is waited for, so that it is forgotten even if nobody waits to the end.
        let mut turn = Turn {
            turns: self.clone(),
            name,
            lock: Some(Arc::clone(&lock)),
            held: None,
        };
        turn.held = Some(lock.lock_owned().await);
        turn
    }

    fn locks(&self) -> std::sync::MutexGuard<'_, HashMap<String, Lock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut locks = self.turns.locks();
        drop(self.lock.take());
        // Clones are made under `locks` only, so one that is alone stays alone.
        if locks
            .get(&self.name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_name_has_one_turn_and_others_do_not_wait() {
        let turns = Turns::default();
        let first = turns.take("a".to_owned()).await;
        assert!(turns.take("a".to_owned()).now_or_never().is_none());
        let other = turns.take("b".to_owned()).now_or_never();
        assert!(other.is_some());
        let mut second = Box::pin(turns.take("a".to_owned()));
        let mut third = Box::pin(turns.take("a".to_owned()));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "not its turn");
        drop(second.await);
        drop(third.await);
    }

    /// Names come from requests: what nobody waits for any more takes no memory.
    #[tokio::test]
    async fn locks_go_with_the_last_who_wants_them() {
        let turns = Turns::default();
        let held = turns.take("a".to_owned()).await;
        // One gives up while it waits, another when it has got the turn and does not know it yet.
        let mut waits = Box::pin(turns.take("a".to_owned()));
        let mut got = Box::pin(turns.take("a".to_owned()));
        assert!(got.as_mut().now_or_never().is_none());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(waits);
        drop(held);
        assert_eq!(turns.locks().len(), 1);
        drop(got);
        assert_eq!(turns.locks().len(), 0);
        drop(turns.take("a".to_owned()).await);
        assert_eq!(turns.locks().len(), 0);
    }
}
