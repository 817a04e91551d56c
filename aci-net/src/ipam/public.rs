//! Public addresses: a configured list of which groups with `ipAddress.type: Public` get one each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aci_core::error::{Error, ErrorKind, Result};
use aci_core::time::Timestamp;
use ipnet::IpNet;

use super::ranges::Family;

/// The most addresses in a pool.
const MOST: usize = 65_536;

/// The public addresses of a host: free, taken, or resting.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublicPool {
    all: Vec<IpAddr>,
    used: BTreeSet<IpAddr>,
    resting: BTreeMap<IpAddr, Timestamp>,
    cursor: usize,
}

impl PublicPool {
    /// All addresses of these ranges, free.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for more than 65,536 addresses.
    pub(crate) fn new(ranges: &[IpNet]) -> Result<Self> {
        let mut all = BTreeSet::new();
        for range in ranges {
            let bits = range.max_prefix_len() - range.prefix_len();
            if bits > 16 || all.len() + (1 << bits) > MOST {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "network.configure",
                    format!("public_addresses has more than {MOST} addresses, with {range}"),
                ));
            }
            for index in 0..1u64 << bits {
                all.insert(super::network::address_at(&range.trunc(), index));
            }
        }
        Ok(Self {
            all: all.into_iter().collect(),
            ..Self::default()
        })
    }

    /// Whether there are addresses of a family.
    pub(crate) fn has(&self, family: Family) -> bool {
        self.all.iter().any(|a| Family::of(a) == family)
    }

    /// How many groups have one.
    pub(crate) fn used(&self) -> usize {
        self.used.len()
    }

    /// The resting addresses and until when.
    pub(crate) fn resting(&self) -> impl Iterator<Item = (IpAddr, Timestamp)> + '_ {
        self.resting.iter().map(|(a, until)| (*a, *until))
    }

    /// The address that would be given out now: the next free one in turn.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) if all are taken or rest.
    pub(crate) fn choose(&mut self, family: Family, now: Timestamp) -> Result<IpAddr> {
        self.resting.retain(|_, until| *until > now);
        let start = self.cursor.min(self.all.len());
        let in_turn = self.all[start..].iter().chain(&self.all[..start]);
        let free = in_turn
            .filter(|a| Family::of(a) == family)
            .find(|a| !self.used.contains(a) && !self.resting.contains_key(a));
        free.copied().ok_or_else(|| {
            let mut message = format!(
                "ipAddress.type Public: no public address is free, {} are in use",
                self.used.len()
            );
            if let Some(until) = self.resting.values().min() {
                message.push_str(&format!(
                    ", the next of the others is free again at {until}"
                ));
            }
            Error::new(ErrorKind::Exhausted, "network.attach", message)
                .code("PublicIPCountLimitReached")
                .hint("delete a public group, or open the network with more `public_addresses`")
        })
    }

    /// Takes an address; also one that is no longer in the list, which a group from before still
    /// has. `false` if it is taken.
    pub(crate) fn take(&mut self, address: IpAddr) -> bool {
        if !self.used.insert(address) {
            return false;
        }
        self.resting.remove(&address);
        if let Ok(at) = self.all.binary_search(&address) {
            self.cursor = at + 1;
        }
        true
    }

    /// Frees an address of the list; it rests until then.
    pub(crate) fn rest(&mut self, address: IpAddr, until: Timestamp) {
        if self.used.remove(&address) || self.all.binary_search(&address).is_ok() {
            self.resting.insert(address, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool() -> PublicPool {
        let ranges = ["203.0.113.8/30", "203.0.113.64/32", "2001:db8::/126"];
        PublicPool::new(&ranges.map(|r| r.parse().unwrap())).unwrap()
    }

    proptest! {
        /// Never one that is taken or rests, and never "none left" while one is free.
        #[test]
        fn agrees_with_a_model(ops in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..120)) {
            let mut pool = pool();
            let (mut now, mut used) = (Timestamp::from_secs(1), Vec::<IpAddr>::new());
            let mut resting: BTreeMap<IpAddr, Timestamp> = BTreeMap::new();
            for (op, which) in ops {
                match op {
                    0 | 1 => match pool.choose(Family::V4, now) {
                        Ok(address) => {
                            prop_assert!(address.is_ipv4() && !used.contains(&address));
                            prop_assert!(resting.get(&address).is_none_or(|u| *u <= now));
                            prop_assert!(pool.take(address) && !pool.clone().take(address));
                            used.push(address);
                        }
                        Err(error) => {
                            prop_assert_eq!(error.kind(), ErrorKind::Exhausted);
                            resting.retain(|_, until| *until > now);
                            prop_assert_eq!(used.len() + resting.len(), 5);
                        }
                    },
                    2 if !used.is_empty() => {
                        let address = used.swap_remove(which.index(used.len()));
                        let until = now + std::time::Duration::from_secs(3);
                        pool.rest(address, until);
                        resting.insert(address, until);
                    }
                    _ => now = now + std::time::Duration::from_secs(1),
                }
                resting.retain(|a, until| *until > now && !used.contains(a));
                prop_assert_eq!(pool.used(), used.len());
            }
        }
    }

    #[test]
    fn a_pool_has_bounds() {
        assert!(PublicPool::new(&["2001:db8::/64".parse().unwrap()]).is_err());
        assert!(pool().has(Family::V6) && !PublicPool::default().has(Family::V4));
    }
}
