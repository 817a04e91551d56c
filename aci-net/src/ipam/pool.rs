//! The addresses of one range: free, taken, or resting.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aci_core::time::Timestamp;
use ipnet::IpNet;

use super::network::{address_at, index_of, usable};

/// Why an address that was asked for cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is not in the range.
    Outside,
    /// It is one of the five that no group gets.
    Reserved,
    /// Another group has it.
    InUse,
    /// It was freed and rests until then.
    Resting(Timestamp),
}

/// The addresses of one range.
///
/// Dynamic addresses are given out in turn, so that a freed one is used again as late as possible.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    prefix: IpNet,
    used: BTreeSet<u64>,
    resting: BTreeMap<u64, Timestamp>,
    cursor: u64,
}

impl Pool {
    /// All addresses of a range, free.
    pub(crate) fn new(prefix: IpNet) -> Self {
        Self {
            prefix,
            used: BTreeSet::new(),
            resting: BTreeMap::new(),
            cursor: *usable(&prefix).start(),
        }
    }

    /// Its range.
    pub(crate) const fn prefix(&self) -> IpNet {
        self.prefix
    }

    /// How many addresses groups have.
    pub(crate) fn used(&self) -> usize {
        self.used.len()
    }

    /// The resting addresses and until when.
    pub(crate) fn resting(&self) -> impl Iterator<Item = (IpAddr, Timestamp)> + '_ {
        self.resting
            .iter()
            .map(|(index, until)| (address_at(&self.prefix, *index), *until))
    }

    /// When the first resting address becomes free, if any rests.
    pub(crate) fn next_free(&self) -> Option<Timestamp> {
        self.resting.values().min().copied()
    }

    /// The address that would be given out now, if one is free.
    pub(crate) fn choose(&mut self, now: Timestamp) -> Option<IpAddr> {
        self.resting.retain(|_, until| *until > now);
        let range = usable(&self.prefix);
        let (first, last) = (*range.start(), *range.end());
        let start = self.cursor.clamp(first, last);
        let index = self
            .gap(start, last)
            .or_else(|| self.gap(first, start.checked_sub(1)?))?;
        Some(address_at(&self.prefix, index))
    }

    /// The first index from `from` to `to` that nobody holds.
    fn gap(&self, from: u64, to: u64) -> Option<u64> {
        let mut candidate = from;
        let mut used = self.used.range(from..).peekable();
        let mut resting = self.resting.range(from..).peekable();
        while candidate <= to {
            let held = used.next_if(|i| **i == candidate).is_some()
                | resting.next_if(|(i, _)| **i == candidate).is_some();
            if !held {
                return Some(candidate);
            }
            candidate = candidate.checked_add(1)?;
        }
        None
    }

    /// Whether a certain address may be had now.
    pub(crate) fn check(&self, address: IpAddr, now: Timestamp) -> Result<(), Taken> {
        let index = index_of(&self.prefix, address).ok_or(Taken::Outside)?;
        if !usable(&self.prefix).contains(&index) {
            return Err(Taken::Reserved);
        }
        if self.used.contains(&index) {
            return Err(Taken::InUse);
        }
        match self.resting.get(&index) {
            Some(until) if *until > now => Err(Taken::Resting(*until)),
            _ => Ok(()),
        }
    }

    /// Takes an address that was chosen or checked. `false` if it is not one of the range, is
    /// reserved, or is taken.
    pub(crate) fn take(&mut self, address: IpAddr) -> bool {
        let Some(index) = index_of(&self.prefix, address) else {
            return false;
        };
        if !usable(&self.prefix).contains(&index) || !self.used.insert(index) {
            return false;
        }
        self.resting.remove(&index);
        self.cursor = index.saturating_add(1);
        if !usable(&self.prefix).contains(&self.cursor) {
            self.cursor = *usable(&self.prefix).start();
        }
        true
    }

    /// Frees an address; it rests until then. Also marks one that is not taken.
    pub(crate) fn rest(&mut self, address: IpAddr, until: Timestamp) {
        if let Some(index) = index_of(&self.prefix, address) {
            self.used.remove(&index);
            self.resting.insert(index, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::time::Duration;

    #[derive(Clone, Debug)]
    enum Op {
        Choose,
        Static(u8),
        Free(usize),
        Wait(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => Just(Op::Choose),
            2 => (0u8..40).prop_map(Op::Static),
            3 => any::<usize>().prop_map(Op::Free),
            2 => (0u8..20).prop_map(Op::Wait),
        ]
    }

    proptest! {
        /// Never twice, never a reserved one, never one that rests, and never "none left" while
        /// one is free.
        #[test]
        fn agrees_with_a_model(ops in prop::collection::vec(op(), 1..200)) {
            let prefix: IpNet = "10.0.0.32/27".parse().unwrap();
            let rest = Duration::from_secs(10);
            let mut pool = Pool::new(prefix);
            let mut used: Vec<IpAddr> = Vec::new();
            let mut resting: HashMap<IpAddr, Timestamp> = HashMap::new();
            let mut now = Timestamp::from_secs(1000);
            let all: Vec<IpAddr> = (4..=30).map(|i| address_at(&prefix, i)).collect();
            for op in ops {
                let free = |address: &IpAddr, used: &[IpAddr], resting: &HashMap<IpAddr, Timestamp>| {
                    all.contains(address)
                        && !used.contains(address)
                        && resting.get(address).is_none_or(|until| *until <= now)
                };
                match op {
                    Op::Choose => match pool.choose(now) {
                        Some(address) => {
                            prop_assert!(free(&address, &used, &resting));
                            prop_assert!(pool.check(address, now).is_ok());
                            prop_assert!(pool.take(address));
                            used.push(address);
                        }
                        None => prop_assert!(!all.iter().any(|a| free(a, &used, &resting))),
                    },
                    Op::Static(index) => {
                        let address = address_at(&prefix, u64::from(index));
                        let may = pool.check(address, now).is_ok();
                        prop_assert_eq!(may, free(&address, &used, &resting));
                        if may {
                            prop_assert!(pool.take(address));
                            used.push(address);
                        }
                    }
                    Op::Free(which) if !used.is_empty() => {
                        let address = used.swap_remove(which % used.len());
                        pool.rest(address, now + rest);
                        resting.insert(address, now + rest);
                    }
                    Op::Free(_) => {}
                    Op::Wait(seconds) => now = now + Duration::from_secs(seconds.into()),
                }
                prop_assert_eq!(pool.used(), used.len());
            }
        }
    }

    #[test]
    fn a_freed_address_is_used_again_as_late_as_possible() {
        let mut pool = Pool::new("10.0.0.0/28".parse().unwrap());
        let now = Timestamp::from_secs(1);
        let first = pool.choose(now).unwrap();
        assert!(pool.take(first));
        pool.rest(first, now);
        for _ in 0..10 {
            let next = pool.choose(now).unwrap();
            assert_ne!(next, first);
            assert!(pool.take(next));
        }
        assert_eq!(pool.choose(now), Some(first));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// All 16,000 addresses of a full network, taken, freed and taken again in any order.
        #[test]
        fn sixteen_thousand_addresses_in_any_order(order in Just((0..16_000u64).collect::<Vec<_>>()).prop_shuffle(), back in 0usize..16_000) {
            // As many as there are, so that each must be found again.
            let prefix: IpNet = "10.0.0.0/18".parse().unwrap();
            let spare = 16_384 - 5 - 16_000;
            let mut pool = Pool::new(prefix);
            let now = Timestamp::from_secs(1);
            let mut all: Vec<IpAddr> = Vec::new();
            for _ in 0..16_000 + spare {
                let address = pool.choose(now).unwrap();
                prop_assert!(pool.take(address));
                all.push(address);
            }
            prop_assert_eq!(pool.choose(now), None);
            let distinct: BTreeSet<&IpAddr> = all.iter().collect();
            prop_assert_eq!(distinct.len(), all.len());
            let mut freed = BTreeSet::new();
            for index in order.iter().take(back) {
                let address = all[usize::try_from(*index).unwrap()];
                pool.rest(address, now);
                freed.insert(address);
            }
            prop_assert_eq!(pool.used(), all.len() - back);
            for _ in 0..back {
                let address = pool.choose(now).unwrap();
                prop_assert!(freed.remove(&address), "{} was not free", address);
                prop_assert!(pool.take(address));
            }
            prop_assert!(freed.is_empty() && pool.choose(now).is_none());
        }
    }
}
