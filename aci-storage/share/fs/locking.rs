//! Locks, as the kernel asks for them and a server gives them.

use std::time::Duration;

use super::locks::{self, Range};
use super::{Inner, locked};
use crate::smb::ops::Locking;
use crate::smb::{Fault, status};

/// Pauses while another holds a lock that is waited for.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_LOCK_PAUSE: Duration = Duration::from_millis(500);

/// What a lock is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) node: u64,
    pub(crate) handle: u64,
    pub(crate) owner: u64,
    pub(crate) range: Range,
    pub(crate) locking: Locking,
}

impl Inner {
    /// A lock that stands against this one, if any.
    pub(crate) async fn blocked(&self, claim: Claim) -> Result<Option<locks::Held>, Fault> {
        let exclusive = claim.locking == Locking::Exclusive;
        let here = locked(&self.locks)
            .get(&claim.node)
            .and_then(|l| l.conflict(claim.owner, claim.range, exclusive));
        if here.is_some() || self.share.config().options.nobrl {
            return Ok(here);
        }
        // A server cannot be asked who holds a lock; it is tried and given back.
        let _turn = self.locking.lock().await;
        let (start, length) = claim.range.extent();
        let locking = claim.locking;
        let tried = self
            .handle(claim.handle)?
            .run(self, |link, file| async move {
                link.lock(file, &[(start, length, locking)]).await?;
                link.lock(file, &[(start, length, Locking::Unlock)]).await
            })
            .await;
        match tried {
            Ok(()) => Ok(None),
            Err(Fault::Status(status::LOCK_NOT_GRANTED | status::FILE_LOCK_CONFLICT)) => {
                Ok(Some(locks::Held {
                    range: claim.range,
                    exclusive: true,
                    handle: 0,
                }))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Takes or gives a lock; waits for it as long as the asking process lives, if it wants.
    pub(crate) async fn lock(&self, claim: Claim, wait: Option<u32>) -> Result<(), Fault> {
        let mut pause = LOCK_PAUSE;
        loop {
            match (self.try_lock(claim).await, wait) {
                (Err(Fault::Errno(libc::EAGAIN)), Some(pid)) => {
                    if super::kernel::is_ending(pid) {
                        return Err(Fault::Errno(libc::EINTR));
                    }
                }
                (done, _) => return done,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOCK_PAUSE);
        }
    }

    async fn try_lock(&self, claim: Claim) -> Result<(), Fault> {
        // What was written under a lock is there before the next one has it.
        self.settle(claim.node).await;
        let _turn = self.locking.lock().await;
        let exclusive = claim.locking == Locking::Exclusive;
        let (after, change) = {
            let mut all = locked(&self.locks);
            let locks = all.entry(claim.node).or_default();
            let taken = claim.locking != Locking::Unlock
                && locks
                    .conflict(claim.owner, claim.range, exclusive)
                    .is_some();
            if taken {
                return Err(Fault::Errno(libc::EAGAIN));
            }
            let after = locks.after(claim.owner, claim.range, claim.locking, claim.handle);
            let change = locks.change(claim.owner, &after);
            (after, change)
        };
        if !self.share.config().options.nobrl {
            self.ask_locks(&change).await?;
        }
        let mut all = locked(&self.locks);
        let locks = all.entry(claim.node).or_default();
        locks.set(claim.owner, after);
        self.note_locks(claim.node, Some(locks));
        if locks.is_empty() {
            all.remove(&claim.node);
        }
        Ok(())
    }

    async fn ask_locks(&self, change: &locks::Change) -> Result<(), Fault> {
        for held in &change.unlock {
            // Its descriptor may be closed meanwhile; the server gave it up then.
            if self.handle(held.handle).is_ok() {
                let given = self.ask_lock(held, Locking::Unlock).await;
                if !matches!(given, Err(Fault::Status(status::RANGE_NOT_LOCKED))) {
                    given?;
                }
            }
        }
        let mut taken = Vec::new();
        for held in &change.lock {
            if let Err(fault) = self.ask_lock(held, locks::locking(held)).await {
                // As it was, as far as that can be had.
                for held in taken {
                    let _ = self.ask_lock(held, Locking::Unlock).await;
                }
                for held in &change.unlock {
                    let _ = self.ask_lock(held, locks::locking(held)).await;
                }
                return Err(match fault {
                    Fault::Status(status::LOCK_NOT_GRANTED | status::FILE_LOCK_CONFLICT) => {
                        Fault::Errno(libc::EAGAIN)
                    }
                    other => other,
                });
            }
            taken.push(held);
        }
        Ok(())
    }

    async fn ask_lock(&self, held: &locks::Held, locking: Locking) -> Result<(), Fault> {
        let (start, length) = held.range.extent();
        self.handle(held.handle)?
            .run(self, |link, file| async move {
                link.lock(file, &[(start, length, locking)]).await
            })
            .await
    }

    /// Gives up all that an owner holds of a file, as POSIX does when it closes any descriptor.
    pub(crate) async fn unlock_all(&self, node: u64, owner: u64, handle: u64) -> Result<(), Fault> {
        if !locked(&self.locks).contains_key(&node) {
            return Ok(());
        }
        let claim = Claim {
            node,
            handle,
            owner,
            range: Range {
                start: 0,
                end: u64::MAX,
            },
            locking: Locking::Unlock,
        };
        self.lock(claim, None).await
    }
}
