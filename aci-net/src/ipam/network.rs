//! Virtual networks and subnets as values.

use std::net::IpAddr;

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
        Ok(Self { name, prefixes })
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

/// A range of private addresses that is divided into subnets. Groups of all subnets of one virtual
/// network reach each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualNetwork {
    name: String,
    prefixes: Vec<IpNet>,
    subnets: Vec<Subnet>,
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
        })
    }

    /// A virtual network named `default` whose one subnet, also `default`, is all of it.
    ///
    /// # Errors
    /// As [`VirtualNetwork::new`] and [`Subnet::new`].
    pub fn single(prefix: IpNet) -> Result<Self> {
        let subnet = Subnet::new("default", vec![prefix])?;
        Self::new("default", vec![prefix], vec![subnet])
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
fn check_name(what: &str, name: &str) -> Result<()> {
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
