//! Virtual networks and subnets as values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::bandwidth::Bandwidth;
use super::ranges::Family;
use super::routes::RouteTable;
use super::security::{SecurityGroup, Tags};

const OPERATION: &str = "network.configure";

/// The ranges that are tried in this order for the default virtual network; the first that touches
/// no route of the host is taken. They are private ranges (RFC 1918) that routers at home and the
/// usual container software use little.
pub const DEFAULT_RANGES: [&str; 6] = [
    "10.88.0.0/16",
    "10.118.0.0/16",
    "10.203.0.0/16",
    "172.27.0.0/16",
    "172.31.0.0/16",
    "192.168.224.0/20",
];

/// Ranges that Azure refuses for virtual networks.
const FORBIDDEN: [&str; 7] = [
    "224.0.0.0/4",
    "255.255.255.255/32",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "168.63.129.16/32",
    "fe80::/10",
    "ff00::/8",
];

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, OPERATION, message)
}

/// A part of a virtual network from which groups get their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    name: String,
    prefixes: Vec<IpNet>,
    security: Option<SecurityGroup>,
    routes: Option<RouteTable>,
    nat: Vec<IpAddr>,
    bandwidth: Option<Bandwidth>,
}

impl Subnet {
    /// A subnet with one IPv4 range (/29 or larger), and optionally one IPv6 range (/64).
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) naming the rule that is broken.
    pub fn new(name: impl Into<String>, mut prefixes: Vec<IpNet>) -> Result<Self> {
        let name = name.into();
        check_name("subnet", &name)?;
        let v4 = prefixes.iter().filter(|p| p.addr().is_ipv4()).count();
        if v4 != 1 || prefixes.len() > 2 {
            return Err(invalid(format!(
                "subnet '{name}' has {} ranges: it needs exactly one IPv4 range and may have one IPv6 range",
                prefixes.len()
            )));
        }
        for prefix in &prefixes {
            check_range(&format!("subnet '{name}'"), prefix)?;
            match prefix {
                IpNet::V4(v4) if v4.prefix_len() > 29 => {
                    return Err(invalid(format!(
                        "subnet '{name}' is {v4}: five addresses of a subnet are reserved, so it must be a /29 or larger"
                    )));
                }
                IpNet::V6(v6) if v6.prefix_len() != 64 => {
                    return Err(invalid(format!(
                        "subnet '{name}' is {v6}: an IPv6 range of a subnet must be a /64"
                    )));
                }
                IpNet::V4(_) | IpNet::V6(_) => {}
            }
        }
        // IPv4 first: it is the address that ACI shows.
        prefixes.sort_by_key(|p| p.addr().is_ipv6());
        Ok(Self {
            name,
            prefixes,
            security: None,
            routes: None,
            nat: Vec::new(),
            bandwidth: None,
        })
    }

    /// Puts a network security group before its groups. Without one everything passes that the
    /// virtual network lets pass.
    #[must_use]
    pub fn security_group(mut self, group: SecurityGroup) -> Self {
        self.security = Some(group);
        self
    }

    /// Gives it a route table.
    #[must_use]
    pub fn route_table(mut self, table: RouteTable) -> Self {
        self.routes = Some(table);
        self
    }

    /// Gives it a NAT gateway: what leaves the virtual network has this sender, also from groups
    /// with a public address. One address of each family at most; the host answers for it while
    /// groups are attached, so it must be routed to the host, or be in a network of its links.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a second address of a family, and for addresses that
    /// cannot be a sender.
    pub fn nat_gateway(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<Self> {
        self.nat = addresses.into_iter().collect();
        for family in Family::BOTH {
            if self.nat.iter().filter(|a| Family::of(a) == family).count() > 1 {
                return Err(invalid(format!(
                    "the NAT gateway of subnet '{}' has several addresses of one family: one is possible",
                    self.name
                )));
            }
        }
        for address in &self.nat {
            check_range(
                &format!("the NAT gateway of subnet '{}'", self.name),
                &IpNet::from(*address),
            )?;
        }
        Ok(self)
    }

    /// Limits each of its groups; this goes before the limit of the whole network.
    #[must_use]
    pub const fn bandwidth(mut self, limit: Bandwidth) -> Self {
        self.bandwidth = Some(limit);
        self
    }

    pub(crate) const fn security(&self) -> Option<&SecurityGroup> {
        self.security.as_ref()
    }

    pub(crate) const fn routes(&self) -> Option<&RouteTable> {
        self.routes.as_ref()
    }

    pub(crate) fn nat(&self) -> &[IpAddr] {
        &self.nat
    }

    pub(crate) const fn limit(&self) -> Option<Bandwidth> {
        self.bandwidth
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its ranges, IPv4 first.
    #[must_use]
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }
}

/// Private addresses that are divided into subnets. Groups of all subnets of one virtual network
/// reach each other; those of another one only if both are peered.
///
/// All virtual networks of one host have different addresses, because the host reaches every group
/// by its address. (In Azure those that are not peered may share addresses.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualNetwork {
    name: String,
    prefixes: Vec<IpNet>,
    subnets: Vec<Subnet>,
    peers: Vec<String>,
    on_premises: Vec<IpNet>,
}

impl VirtualNetwork {
    /// A virtual network with subnets. The first subnet is the one for groups that name none.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if there is no subnet, a subnet is outside of the ranges,
    /// two subnets overlap or have the same name, or a range is one that Azure refuses.
    pub fn new(
        name: impl Into<String>,
        prefixes: Vec<IpNet>,
        subnets: Vec<Subnet>,
    ) -> Result<Self> {
        let name = name.into();
        check_name("virtual network", &name)?;
        for prefix in &prefixes {
            check_range(&format!("virtual network '{name}'"), prefix)?;
        }
        if subnets.is_empty() {
            return Err(invalid(format!(
                "virtual network '{name}' has no subnet: groups get their addresses from subnets"
            )));
        }
        for (i, subnet) in subnets.iter().enumerate() {
            for prefix in &subnet.prefixes {
                if !prefixes.iter().any(|outer| outer.contains(prefix)) {
                    return Err(invalid(format!(
                        "subnet '{}' is {prefix}, which is not inside virtual network '{name}'",
                        subnet.name
                    )));
                }
            }
            for other in &subnets[..i] {
                if other.name.eq_ignore_ascii_case(&subnet.name) {
                    return Err(invalid(format!(
                        "virtual network '{name}' has two subnets named '{}'",
                        subnet.name
                    )));
                }
                if overlap(&other.prefixes, &subnet.prefixes) {
                    return Err(invalid(format!(
                        "subnets '{}' and '{}' of virtual network '{name}' overlap",
                        other.name, subnet.name
                    )));
                }
            }
        }
        Ok(Self {
            name,
            prefixes,
            subnets,
            peers: Vec::new(),
            on_premises: Vec::new(),
        })
    }

    /// Peers it with other virtual networks of this host, by name. As in Azure a peering is in force
    /// when both sides have it, and it does not lead on to the peers of a peer.
    #[must_use]
    pub fn peered_with(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.peers = names.into_iter().collect();
        self
    }

    /// Ranges that are reached by a gateway of the host's (VPN, ExpressRoute, a plain network): groups
    /// reach them with their own address, without source NAT, and are reached from there. The link
    /// there must forward: see [`BridgeOptions::uplinks`](crate::BridgeOptions::uplinks).
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a range that is not the beginning of one, or that overlaps
    /// with this network.
    pub fn on_premises(mut self, ranges: Vec<IpNet>) -> Result<Self> {
        for range in &ranges {
            check_range(&format!("on-premises of '{}'", self.name), range)?;
        }
        if overlap(&ranges, &self.prefixes) {
            return Err(invalid(format!(
                "on-premises ranges of virtual network '{}' overlap with it",
                self.name
            )));
        }
        self.on_premises = ranges;
        Ok(self)
    }

    pub(crate) fn premises(&self) -> &[IpNet] {
        &self.on_premises
    }

    /// Whether both are peered.
    pub(crate) fn is_peer(&self, other: &Self) -> bool {
        let names =
            |peers: &[String], name: &str| peers.iter().any(|p| p.eq_ignore_ascii_case(name));
        names(&self.peers, &other.name) && names(&other.peers, &self.name)
    }

    /// What service tags mean in it.
    pub(crate) fn tags(&self, all: &[Self]) -> Tags {
        let peers = all.iter().filter(|other| self.is_peer(other));
        let peers = peers.flat_map(|p| p.prefixes.iter().copied());
        let gateways = self.subnets.iter().flat_map(|s| &s.prefixes);
        Tags {
            network: peers
                .chain(self.prefixes.iter().copied())
                .chain(self.on_premises.iter().copied())
                .collect(),
            host: gateways.map(|p| IpNet::from(gateway(p))).collect(),
        }
    }

    /// A virtual network named `default` whose one subnet, also `default`, is all of it.
    ///
    /// # Errors
    /// As [`VirtualNetwork::new`] and [`Subnet::new`].
    pub fn single(prefix: IpNet) -> Result<Self> {
        let subnet = Subnet::new("default", vec![prefix])?;
        Self::new("default", vec![prefix], vec![subnet])
    }

    /// The same with IPv6 addresses too.
    pub(crate) fn double(v4: IpNet, v6: Option<IpNet>) -> Result<Self> {
        let ranges: Vec<IpNet> = std::iter::once(v4).chain(v6).collect();
        let subnet = Subnet::new("default", ranges.clone())?;
        Self::new("default", ranges, vec![subnet])
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its ranges.
    #[must_use]
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }

    /// Its subnets; never empty.
    #[must_use]
    pub fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    /// The subnet that a document means: an ARM id (`.../virtualNetworks/V/subnets/S`, compared
    /// without regard to case, whatever its subscription), or a bare name.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Subnet> {
        let parts: Vec<&str> = id.split('/').filter(|p| !p.is_empty()).collect();
        let after = |key: &str| {
            parts
                .iter()
                .position(|p| p.eq_ignore_ascii_case(key))
                .and_then(|at| parts.get(at + 1).copied())
        };
        let (network, subnet) = match parts.as_slice() {
            [subnet] => (None, Some(*subnet)),
            _ => (Some(after("virtualNetworks")?), after("subnets")),
        };
        if network.is_some_and(|n| !n.eq_ignore_ascii_case(&self.name)) {
            return None;
        }
        let subnet = subnet?;
        self.subnets
            .iter()
            .find(|s| s.name.eq_ignore_ascii_case(subnet))
    }
}

/// Azure's rule for names of networks and subnets: 1 to 80 of letters, digits, `_`, `.` and `-`.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = (1..=80).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fits {
        return Ok(());
    }
    Err(invalid(format!(
        "'{name}' is no name of a {what}: 1 to 80 letters, digits, '_', '.' or '-'"
    )))
}

fn check_range(what: &str, prefix: &IpNet) -> Result<()> {
    if prefix.addr() != prefix.network() {
        return Err(invalid(format!(
            "{what}: {prefix} is not the beginning of a range; write {}",
            prefix.trunc()
        )));
    }
    if prefix.prefix_len() < 8 {
        return Err(invalid(format!(
            "{what}: {prefix} is too large; a /8 is the largest"
        )));
    }
    for forbidden in FORBIDDEN {
        if let Ok(forbidden) = forbidden.parse::<IpNet>()
            && overlap(&[forbidden], std::slice::from_ref(prefix))
        {
            return Err(invalid(format!(
                "{what}: {prefix} touches {forbidden}, which virtual networks cannot use"
            )));
        }
    }
    Ok(())
}

/// Checks virtual networks that are to stand side by side.
///
/// # Errors
/// [`Invalid`](ErrorKind::Invalid) for none, two of one name, and two with common addresses.
pub(crate) fn check_together(networks: &[VirtualNetwork]) -> Result<()> {
    if networks.is_empty() {
        return Err(invalid("there is no virtual network".to_owned()));
    }
    for (at, network) in networks.iter().enumerate() {
        for other in &networks[..at] {
            if other.name.eq_ignore_ascii_case(&network.name) {
                return Err(invalid(format!(
                    "two virtual networks are named '{}'",
                    network.name
                )));
            }
            if overlap(&other.prefixes, &network.prefixes) {
                return Err(invalid(format!(
                    "virtual networks '{}' and '{}' have common addresses: the host reaches groups of both, so each address belongs to one",
                    other.name, network.name
                )));
            }
        }
    }
    Ok(())
}

/// The subnet that a document means, with its network; a bare name means the first network.
pub(crate) fn find<'a>(
    networks: &'a [VirtualNetwork],
    id: &str,
) -> Option<(&'a VirtualNetwork, &'a Subnet)> {
    let bare = !id.trim_matches('/').contains('/');
    let candidates = if bare { networks.get(..1)? } else { networks };
    candidates.iter().find_map(|n| n.find(id).map(|s| (n, s)))
}

/// The IPv6 range of a network that is chosen by default: a /64 of
/// unique local addresses (RFC 4193) with the 40 random bits of the state directory.
pub(crate) fn local_v6(instance: &str) -> Option<IpNet> {
    let bits = u64::from_str_radix(instance.get(..10)?, 16).ok()?;
    let address = 0xfd_u128 << 120 | u128::from(bits) << 80;
    IpNet::new(IpAddr::from(Ipv6Addr::from_bits(address)), 64).ok()
}

/// The address of the host that groups of all networks reach, and nobody else: services of the
/// embedder for groups (metadata, names) are bound to it.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 97, 1);

/// Whether any range of one list shares an address with one of the other.
pub(crate) fn overlap(a: &[IpNet], b: &[IpNet]) -> bool {
    a.iter()
        .any(|x| b.iter().any(|y| x.contains(y) || y.contains(x)))
}

/// The gateway of a range: its second address, which belongs to the host.
pub(crate) fn gateway(prefix: &IpNet) -> IpAddr {
    address_at(prefix, 1)
}

/// The address at a distance from the beginning of a range.
pub(crate) fn address_at(prefix: &IpNet, index: u64) -> IpAddr {
    match prefix {
        IpNet::V4(v4) => {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            IpAddr::from(v4.network().to_bits().wrapping_add(index).to_be_bytes())
        }
        IpNet::V6(v6) => IpAddr::from(
            v6.network()
                .to_bits()
                .wrapping_add(u128::from(index))
                .to_be_bytes(),
        ),
    }
}

/// The distance of an address from the beginning of a range, if it is inside.
pub(crate) fn index_of(prefix: &IpNet, address: IpAddr) -> Option<u64> {
    match (prefix, address) {
        (IpNet::V4(v4), IpAddr::V4(address)) if v4.contains(&address) => {
            Some(u64::from(address.to_bits() - v4.network().to_bits()))
        }
        (IpNet::V6(v6), IpAddr::V6(address)) if v6.contains(&address) => {
            u64::try_from(address.to_bits() - v6.network().to_bits()).ok()
        }
        _ => None,
    }
}

/// The indexes that groups may have: all but the first four and the last.
pub(crate) fn usable(prefix: &IpNet) -> std::ops::RangeInclusive<u64> {
    let bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    let last = if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    };
    4..=last - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_keep_azures_rules() {
        for (prefixes, words) in [
            (vec!["10.0.0.0/30"], "/29"),
            (vec!["10.0.0.1/24"], "10.0.0.0/24"),
            (vec!["fd00::/64"], "exactly one IPv4"),
            (vec!["10.0.0.0/24", "fd00::/56"], "/64"),
            (vec!["10.0.0.0/24", "10.0.1.0/24"], "exactly one IPv4"),
            (vec!["169.254.0.0/24"], "169.254.0.0/16"),
            (vec!["168.63.129.0/24"], "168.63.129.16/32"),
            (vec!["10.0.0.0/7"], "/8"),
        ] {
            let prefixes = prefixes.into_iter().map(net).collect();
            let error = Subnet::new("s", prefixes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(words), "{error}");
        }
        assert!(Subnet::new("no spaces", vec![net("10.0.0.0/24")]).is_err());
        let both = Subnet::new("s", vec![net("fd00::/64"), net("10.0.0.0/29")]).unwrap();
        assert!(both.prefixes()[0].addr().is_ipv4());
    }

    #[test]
    fn subnets_lie_inside_and_apart() {
        let subnet = |name: &str, prefix: &str| Subnet::new(name, vec![net(prefix)]).unwrap();
        let make = |subnets| VirtualNetwork::new("v", vec![net("10.1.0.0/16")], subnets);
        assert!(make(vec![]).is_err());
        assert!(make(vec![subnet("a", "10.2.0.0/24")]).is_err());
        assert!(make(vec![subnet("a", "10.1.0.0/24"), subnet("A", "10.1.1.0/24")]).is_err());
        assert!(make(vec![subnet("a", "10.1.0.0/23"), subnet("b", "10.1.1.0/24")]).is_err());
        let network = make(vec![subnet("a", "10.1.0.0/24"), subnet("b", "10.1.1.0/24")]).unwrap();
        let id = "/subscriptions/x/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/V/subnets/B";
        assert_eq!(network.find(id).unwrap().name(), "b");
        assert_eq!(network.find("A").unwrap().name(), "a");
        assert!(network.find("c").is_none());
        assert!(network.find(&id.replace("/V/", "/other/")).is_none());
        assert!(network.find("").is_none());
    }

    #[test]
    fn every_default_range_makes_a_network() {
        for range in DEFAULT_RANGES {
            VirtualNetwork::single(net(range)).unwrap();
        }
    }

    #[test]
    fn places_in_a_range() {
        let prefix = net("10.0.0.8/29");
        assert_eq!(usable(&prefix), 4..=6);
        assert_eq!(address_at(&prefix, 4).to_string(), "10.0.0.12");
        assert_eq!(index_of(&prefix, address_at(&prefix, 6)), Some(6));
        assert_eq!(index_of(&prefix, "10.0.0.16".parse().unwrap()), None);
        assert_eq!(gateway(&prefix).to_string(), "10.0.0.9");
        let v6 = net("fd00::/64");
        assert_eq!(usable(&v6), 4..=u64::MAX - 1);
        assert_eq!(address_at(&v6, 4).to_string(), "fd00::4");
        assert_eq!(index_of(&v6, "fd00::1:0".parse().unwrap()), Some(65536));
    }
}
