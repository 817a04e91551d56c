//! Sets of addresses of one family as sorted spans that do not touch: what rules about prefixes and
//! service tags are reduced to before they are compiled.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub(crate) const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its last address as a number.
    pub(crate) const fn last(self) -> u128 {
        match self {
            Self::V4 => u32::MAX as u128,
            Self::V6 => u128::MAX,
        }
    }

    /// A number as the bytes of an address.
    pub(crate) fn octets(self, number: u128) -> Vec<u8> {
        let bytes = number.to_be_bytes();
        match self {
            Self::V4 => bytes[12..].to_vec(),
            Self::V6 => bytes.to_vec(),
        }
    }
}

/// A set of addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    family: Family,
    /// First and last address of each span; sorted, with a gap between any two.
    spans: Vec<(u128, u128)>,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Ranges {
    /// No address.
    pub(crate) const fn none(family: Family) -> Self {
        Self {
            family,
            spans: Vec::new(),
        }
    }

    /// Every address.
    pub(crate) fn all(family: Family) -> Self {
        Self {
            family,
            spans: vec![(0, family.last())],
        }
    }

    /// The addresses of those prefixes that are of the family.
    pub(crate) fn of<'a>(family: Family, prefixes: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let spans = prefixes
            .into_iter()
            .filter(|p| Family::of(&p.addr()) == family)
            .map(|p| (number(p.network()), number(p.broadcast())))
            .collect();
        Self { family, spans }.merged()
    }

    fn merged(mut self) -> Self {
        self.spans.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(self.spans.len());
        for (first, last) in self.spans {
            match merged.last_mut() {
                Some((_, end)) if end.checked_add(1).is_none_or(|next| first <= next) => {
                    *end = last.max(*end);
                }
                _ => merged.push((first, last)),
            }
        }
        self.spans = merged;
        self
    }

    /// What is in either.
    pub(crate) fn or(mut self, other: &Self) -> Self {
        self.spans.extend_from_slice(&other.spans);
        self.merged()
    }

    /// What is not in it.
    pub(crate) fn complement(&self) -> Self {
        let mut spans = Vec::with_capacity(self.spans.len() + 1);
        let mut next = Some(0);
        for (first, last) in &self.spans {
            if let Some(from) = next
                && from < *first
            {
                spans.push((from, first - 1));
            }
            next = last.checked_add(1).filter(|n| *n <= self.family.last());
        }
        spans.extend(next.map(|from| (from, self.family.last())));
        Self {
            family: self.family,
            spans,
        }
    }

    /// What is in it and not in the other.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.complement().or(other).complement()
    }

    /// Whether an address is in it.
    #[cfg(test)]
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let place = number(address);
        Family::of(&address) == self.family
            && self
                .spans
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&place))
    }

    /// Its family.
    pub(crate) const fn family(&self) -> Family {
        self.family
    }

    /// First and last address of each span, in order.
    pub(crate) fn spans(&self) -> &[(u128, u128)] {
        &self.spans
    }

    /// Whether no address is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whether every address is in it.
    pub(crate) fn is_all(&self) -> bool {
        self.spans == [(0, self.family.last())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix() -> impl Strategy<Value = IpNet> {
        let edge = prop_oneof![Just(0u32), Just(u32::MAX), any::<u32>(), 0u32..64];
        (edge, prop_oneof![0u8..=32, 26u8..=32]).prop_map(|(bits, length)| {
            IpNet::new(IpAddr::from(bits.to_be_bytes()), length)
                .unwrap()
                .trunc()
        })
    }

    proptest! {
        /// Union, complement and difference agree with asking every prefix.
        #[test]
        fn sets_agree_with_their_prefixes(
            a in prop::collection::vec(prefix(), 0..8),
            b in prop::collection::vec(prefix(), 0..8),
            more in prop::collection::vec(any::<u32>(), 8),
        ) {
            let left = Ranges::of(Family::V4, &a);
            let right = Ranges::of(Family::V4, &b);
            let probes = a.iter().chain(&b).flat_map(|p| {
                let (first, last) = (number(p.network()), number(p.broadcast()));
                [first.wrapping_sub(1), first, last, last + 1]
            });
            let probes = probes.chain(more.into_iter().map(u128::from));
            for probe in probes.filter(|p| *p <= Family::V4.last()) {
                let octets: [u8; 4] = Family::V4.octets(probe).try_into().unwrap();
                let address = IpAddr::from(octets);
                let inside = |list: &[IpNet]| list.iter().any(|p| p.contains(&address));
                prop_assert_eq!(left.contains(address), inside(&a));
                prop_assert_eq!(left.complement().contains(address), !inside(&a));
                prop_assert_eq!(left.clone().or(&right).contains(address), inside(&a) || inside(&b));
                prop_assert_eq!(left.minus(&right).contains(address), inside(&a) && !inside(&b));
            }
            for set in [&left, &left.complement(), &left.minus(&right)] {
                prop_assert!(set.spans().windows(2).all(|w| w[0].1 + 1 < w[1].0));
            }
            prop_assert_eq!(left.complement().complement(), left);
        }
    }

    #[test]
    fn the_edges_of_ipv6() {
        let all = Ranges::all(Family::V6);
        assert!(all.complement().is_empty() && all.complement().complement().is_all());
        let top = Ranges::of(Family::V6, &["ffff::/16".parse().unwrap()]);
        assert_eq!(top.complement().spans().len(), 1);
        assert!(Ranges::none(Family::V6).complement().is_all());
    }
}
