//! Locks of ranges: POSIX's rules for owners on one side, what a server holds on the other.
//!
//! POSIX locks belong to an owner and merge and split at will; a server's belong to one open file
//! and are taken and given whole. So a change is worked out as a set for the owner, and the server
//! is asked for the difference.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::smb::ops::Locking;

/// A range, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// First byte and number of bytes, as a server wants them.
    pub(crate) fn extent(self) -> (u64, u64) {
        (self.start, (self.end - self.start).saturating_add(1))
    }
}

/// A lock that an owner holds through an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) range: Range,
    pub(crate) exclusive: bool,
    /// The descriptor that it was taken through.
    pub(crate) handle: u64,
}

/// What to ask of the server for one open file, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) unlock: Vec<Held>,
    pub(crate) lock: Vec<Held>,
}

/// The locks on one file.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    owners: HashMap<u64, Vec<Held>>,
}

impl Locks {
    /// As an earlier share server noted them.
    pub(crate) fn noted(all: Vec<(u64, Held)>) -> Self {
        let mut locks = Self::default();
        for (owner, held) in all {
            locks.owners.entry(owner).or_default().push(held);
        }
        locks
    }

    /// All that is held, by owner.
    pub(crate) fn all(&self) -> Vec<(u64, Held)> {
        let owners = self.owners.iter();
        owners
            .flat_map(|(owner, all)| all.iter().map(|held| (*owner, *held)))
            .collect()
    }

    /// A lock of another owner that stands against this one.
    pub(crate) fn conflict(&self, owner: u64, range: Range, exclusive: bool) -> Option<Held> {
        self.owners
            .iter()
            .filter(|(other, _)| **other != owner)
            .flat_map(|(_, held)| held)
            .find(|held| held.range.overlaps(range) && (exclusive || held.exclusive))
            .copied()
    }

    /// What an owner would hold after a change.
    #[must_use]
    pub(crate) fn after(
        &self,
        owner: u64,
        range: Range,
        locking: Locking,
        handle: u64,
    ) -> Vec<Held> {
        let mut after = Vec::new();
        for held in self.owners.get(&owner).into_iter().flatten() {
            if !held.range.overlaps(range) {
                after.push(*held);
                continue;
            }
            if held.range.start < range.start {
                let end = range.start - 1;
                let range = Range { end, ..held.range };
                after.push(Held { range, ..*held });
            }
            if held.range.end > range.end {
                let start = range.end + 1;
                let range = Range {
                    start,
                    ..held.range
                };
                after.push(Held { range, ..*held });
            }
        }
        if locking != Locking::Unlock {
            let exclusive = locking == Locking::Exclusive;
            after.push(Held {
                range,
                exclusive,
                handle,
            });
        }
        after
    }

    /// What the server has to be asked for an owner to hold `after`.
    #[must_use]
    pub(crate) fn change(&self, owner: u64, after: &[Held]) -> Change {
        let before = self.owners.get(&owner).map_or(&[][..], Vec::as_slice);
        let missing = |of: &[Held], from: &[Held]| -> Vec<Held> {
            of.iter().filter(|h| !from.contains(h)).copied().collect()
        };
        Change {
            unlock: missing(before, after),
            lock: missing(after, before),
        }
    }

    /// An owner holds these from now on.
    pub(crate) fn set(&mut self, owner: u64, held: Vec<Held>) {
        if held.is_empty() {
            self.owners.remove(&owner);
        } else {
            self.owners.insert(owner, held);
        }
    }

    /// All that is held through a descriptor, to be asked for again after a lost connection.
    pub(crate) fn through(&self, handle: u64) -> Vec<Held> {
        self.owners
            .values()
            .flatten()
            .filter(|h| h.handle == handle)
            .copied()
            .collect()
    }

    /// A descriptor is closed; the server gives up what was held through it.
    pub(crate) fn forget(&mut self, handle: u64) {
        for held in self.owners.values_mut() {
            held.retain(|h| h.handle != handle);
        }
        self.owners.retain(|_, held| !held.is_empty());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

/// How a server is told of a lock.
pub(crate) fn locking(held: &Held) -> Locking {
    if held.exclusive {
        Locking::Exclusive
    } else {
        Locking::Shared
    }
}
