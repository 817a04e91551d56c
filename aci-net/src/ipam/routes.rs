//! Route tables: where a subnet's packets go that leave their group, decided by Azure's rule: the
//! longest prefix, and of two equal ones the user's before the system's.

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::ranges::{Family, Ranges};

/// Where a route leads.
///
/// Azure's `VirtualAppliance` is not here: it names a machine inside of the virtual network that
/// forwards for others, while a group may send with its own address only, and a subnet of container
/// groups holds nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHop {
    /// `VnetLocal`: to groups, with the sender's own address.
    VirtualNetwork,
    /// `VirtualNetworkGateway`: on premises by the host's routes, with the group's own address.
    Gateway,
    /// `Internet`: by the host's routes, with a public address as sender.
    Internet,
    /// `None`: dropped.
    None,
}

/// A route table of a subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    name: String,
    routes: Vec<(IpNet, NextHop)>,
}

impl RouteTable {
    /// A route table.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for two routes to one prefix, or a bad name.
    pub fn new(name: impl Into<String>, routes: Vec<(IpNet, NextHop)>) -> Result<Self> {
        let name = name.into();
        super::network::check_name("route table", &name)?;
        for (at, (prefix, _)) in routes.iter().enumerate() {
            if routes[..at]
                .iter()
                .any(|(other, _)| other.trunc() == prefix.trunc())
            {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "network.configure",
                    format!("route table '{name}' has two routes to {prefix}"),
                )
                .code("RouteConflict"));
            }
        }
        Ok(Self { name, routes })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its routes.
    #[must_use]
    pub fn routes(&self) -> &[(IpNet, NextHop)] {
        &self.routes
    }
}

/// Which addresses a subnet's packets reach in another way than by source NAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effective {
    /// Dropped.
    pub(crate) none: Ranges,
    /// Reached with the group's own address.
    pub(crate) own: Ranges,
}

/// The effective routes of a subnet for one family.
pub(crate) fn effective(
    family: Family,
    network: &[IpNet],
    on_premises: &[IpNet],
    table: Option<&RouteTable>,
) -> Effective {
    let mut routes: Vec<(IpNet, bool, NextHop)> = Vec::new();
    routes.extend(network.iter().map(|p| (*p, false, NextHop::VirtualNetwork)));
    routes.extend(on_premises.iter().map(|p| (*p, false, NextHop::Gateway)));
    for all in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
        routes.push((all, false, NextHop::Internet));
    }
    let user = table.map(|t| t.routes.as_slice()).unwrap_or_default();
    routes.extend(user.iter().map(|(p, hop)| (p.trunc(), true, *hop)));
    routes.retain(|(p, ..)| Family::of(&p.addr()) == family);
    routes.sort_by_key(|(p, of_user, _)| std::cmp::Reverse((p.prefix_len(), *of_user)));
    let mut covered = Ranges::none(family);
    let mut result = Effective {
        none: Ranges::none(family),
        own: Ranges::none(family),
    };
    for (prefix, _, hop) in routes {
        let prefix = Ranges::of(family, [&prefix]);
        let part = prefix.minus(&covered);
        covered = covered.or(&prefix);
        match hop {
            NextHop::None => result.none = result.none.or(&part),
            NextHop::VirtualNetwork | NextHop::Gateway => result.own = result.own.or(&part),
            NextHop::Internet => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn hop() -> impl Strategy<Value = NextHop> {
        prop_oneof![
            Just(NextHop::VirtualNetwork),
            Just(NextHop::Gateway),
            Just(NextHop::Internet),
            Just(NextHop::None),
        ]
    }

    proptest! {
        /// Address by address: the longest prefix, then the user's route.
        #[test]
        fn the_longest_prefix_decides(
            routes in prop::collection::btree_map((0u8..4, 0u8..16, 8u8..=28), hop(), 0..10),
            probes in prop::collection::vec((0u8..4, any::<u8>()), 20),
        ) {
            let routes: std::collections::BTreeMap<IpNet, NextHop> = routes
                .into_iter()
                .map(|((a, b, l), hop)| {
                    (IpNet::new(IpAddr::from([10, a, 0, b * 16]), l).unwrap().trunc(), hop)
                })
                .collect();
            let routes: Vec<_> = routes.into_iter().collect();
            let table = RouteTable::new("t", routes.clone()).unwrap();
            let network = [net("10.0.0.0/16")];
            let premises = [net("10.1.0.0/16")];
            let effective = effective(Family::V4, &network, &premises, Some(&table));
            for (a, d) in probes {
                let address = IpAddr::from([10, a, 0, d]);
                let mut best = (0, false, NextHop::Internet);
                let system = [(network[0], NextHop::VirtualNetwork), (premises[0], NextHop::Gateway)];
                for (list, of_user) in [(&system[..], false), (&routes[..], true)] {
                    for (prefix, hop) in list {
                        if prefix.contains(&address) && (prefix.prefix_len(), of_user) >= (best.0, best.1) {
                            best = (prefix.prefix_len(), of_user, *hop);
                        }
                    }
                }
                prop_assert_eq!(effective.none.contains(address), best.2 == NextHop::None);
                let own = matches!(best.2, NextHop::VirtualNetwork | NextHop::Gateway);
                prop_assert_eq!(effective.own.contains(address), own);
            }
        }
    }

    #[test]
    fn two_routes_to_one_prefix_are_refused() {
        let routes = vec![
            (net("10.0.0.0/8"), NextHop::None),
            (net("10.0.0.0/8"), NextHop::Internet),
        ];
        assert!(RouteTable::new("t", routes).is_err());
    }
}
