//! Network security groups: Azure's rules about which connections may be begun, as values.
//!
//! Rules are tried from the smallest priority on; the first that matches decides. After them come
//! Azure's default rules. What belongs to a connection that was let through passes, so a changed
//! rule meets new connections only.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ranges::{Family, Ranges};

const OPERATION: &str = "network.configure";

/// Which way a connection is begun, seen from the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    /// To the group.
    Inbound,
    /// By the group.
    Outbound,
}

/// Whether a connection is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// It is.
    Allow,
    /// Its packets are dropped without an answer, as in Azure.
    Deny,
}

/// The protocols that rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleProtocol {
    /// All.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP for IPv4 and ICMPv6 for IPv6.
    Icmp,
    /// IPsec's encrypted packets.
    Esp,
    /// IPsec's signed packets.
    Ah,
}

impl RuleProtocol {
    /// The number in IP headers; nothing for all.
    pub(crate) const fn number(self, family: Family) -> Option<u8> {
        match (self, family) {
            (Self::Any, _) => None,
            (Self::Tcp, _) => Some(6),
            (Self::Udp, _) => Some(17),
            (Self::Icmp, Family::V4) => Some(1),
            (Self::Icmp, Family::V6) => Some(58),
            (Self::Esp, _) => Some(50),
            (Self::Ah, _) => Some(51),
        }
    }
}

/// Addresses as a rule names them: a prefix, or a service tag that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressPrefix {
    /// `*`: all.
    Any,
    /// The tag `VirtualNetwork`: the ranges of the virtual network, of those peered with it, and the
    /// on-premises ranges that are connected to it.
    VirtualNetwork,
    /// The tag `Internet`: everything else.
    Internet,
    /// The tag `AzureLoadBalancer`: the host, by the gateways' addresses.
    LoadBalancer,
    /// A range.
    Prefix(IpNet),
}

impl FromStr for AddressPrefix {
    type Err = Error;

    /// Reads Azure's form: `*`, a tag, an address or a range. Tags of Azure's own services
    /// (`Storage`, `Sql.WestEurope`, ...) name addresses that Azure publishes and are refused.
    fn from_str(text: &str) -> Result<Self> {
        let tags = [
            ("*", Self::Any),
            ("any", Self::Any),
            ("virtualnetwork", Self::VirtualNetwork),
            ("internet", Self::Internet),
            ("azureloadbalancer", Self::LoadBalancer),
        ];
        let lower = text.trim().to_ascii_lowercase();
        if let Some((_, tag)) = tags.iter().find(|(name, _)| *name == lower) {
            return Ok(*tag);
        }
        let range = lower
            .parse::<IpNet>()
            .or_else(|_| lower.parse::<std::net::IpAddr>().map(IpNet::from));
        range.map(|r| Self::Prefix(r.trunc())).map_err(|_| {
            invalid(format!(
                "'{text}' is no address prefix: '*', VirtualNetwork, Internet, AzureLoadBalancer, an address or a range"
            ))
            .code("SecurityRuleInvalidAddressPrefix")
        })
    }
}

/// Ports from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Ports from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if the last is before the first.
    pub fn new(first: u16, last: u16) -> Result<Self> {
        if first > last {
            return Err(invalid(format!("{first}-{last} is no range of ports"))
                .code("SecurityRuleInvalidPortRange"));
        }
        Ok(Self { first, last })
    }

    pub(crate) const fn span(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl FromStr for PortRange {
    type Err = Error;

    /// Reads Azure's form: `*`, `80` or `8000-8999`.
    fn from_str(text: &str) -> Result<Self> {
        let port = |part: &str| {
            part.trim().parse::<u16>().map_err(|_| {
                invalid(format!(
                    "'{text}' is no range of ports: '*', a port from 0 to 65535, or first-last"
                ))
                .code("SecurityRuleInvalidPortRange")
            })
        };
        match text.trim().split_once('-') {
            _ if text.trim() == "*" => Self::new(0, u16::MAX),
            Some((first, last)) => Self::new(port(first)?, port(last)?),
            None => port(text).map(Self::from),
        }
    }
}

/// A rule of a network security group. A new one matches everything of its direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityRule {
    pub(crate) name: String,
    pub(crate) priority: u16,
    pub(crate) direction: Direction,
    pub(crate) access: Access,
    pub(crate) protocol: RuleProtocol,
    pub(crate) source: Vec<AddressPrefix>,
    pub(crate) source_ports: Vec<PortRange>,
    pub(crate) destination: Vec<AddressPrefix>,
    pub(crate) destination_ports: Vec<PortRange>,
}

impl SecurityRule {
    /// A rule for everything of a direction. Priorities are 100 to 4096; the smaller is tried first.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        priority: u16,
        direction: Direction,
        access: Access,
    ) -> Self {
        Self {
            name: name.into(),
            priority,
            direction,
            access,
            protocol: RuleProtocol::Any,
            source: Vec::new(),
            source_ports: Vec::new(),
            destination: Vec::new(),
            destination_ports: Vec::new(),
        }
    }

    /// Restricts it to a protocol.
    #[must_use]
    pub const fn protocol(mut self, protocol: RuleProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Restricts it to these senders; none means all.
    #[must_use]
    pub fn source(mut self, source: impl IntoIterator<Item = AddressPrefix>) -> Self {
        self.source = source.into_iter().collect();
        self
    }

    /// Restricts it to these ports of the sender; none means all.
    #[must_use]
    pub fn source_ports(mut self, ports: impl IntoIterator<Item = PortRange>) -> Self {
        self.source_ports = ports.into_iter().collect();
        self
    }

    /// Restricts it to these receivers; none means all.
    #[must_use]
    pub fn destination(mut self, to: impl IntoIterator<Item = AddressPrefix>) -> Self {
        self.destination = to.into_iter().collect();
        self
    }

    /// Restricts it to these ports of the receiver; none means all.
    #[must_use]
    pub fn destination_ports(mut self, ports: impl IntoIterator<Item = PortRange>) -> Self {
        self.destination_ports = ports.into_iter().collect();
        self
    }
}

/// A network security group: the rules of a subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    name: String,
    /// By direction and priority.
    rules: Vec<SecurityRule>,
}

impl SecurityGroup {
    /// A network security group.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a priority outside of 100 to 4096, two rules of one
    /// direction with one priority, two rules of one name, or ports of a protocol that has none.
    pub fn new(name: impl Into<String>, mut rules: Vec<SecurityRule>) -> Result<Self> {
        let name = name.into();
        super::network::check_name("network security group", &name)?;
        rules.sort_by_key(|r| (r.direction, r.priority));
        for (at, rule) in rules.iter().enumerate() {
            super::network::check_name("security rule", &rule.name)?;
            if !(100..=4096).contains(&rule.priority) {
                return Err(invalid(format!(
                    "security rule '{}' has priority {}: it must be 100 to 4096",
                    rule.name, rule.priority
                ))
                .code("SecurityRuleInvalidPriority"));
            }
            let portless = !matches!(
                rule.protocol,
                RuleProtocol::Any | RuleProtocol::Tcp | RuleProtocol::Udp
            );
            let all = |ports: &[PortRange]| {
                ports.is_empty() || ports.iter().any(|p| p.span() == (0..=u16::MAX))
            };
            if portless && !(all(&rule.source_ports) && all(&rule.destination_ports)) {
                return Err(invalid(format!(
                    "security rule '{}' names ports, which its protocol {:?} does not have",
                    rule.name, rule.protocol
                ))
                .code("SecurityRuleInvalidPortRange"));
            }
            for other in &rules[..at] {
                if other.name.eq_ignore_ascii_case(&rule.name) {
                    return Err(invalid(format!(
                        "network security group '{name}' has two rules named '{}'",
                        rule.name
                    )));
                }
                if (other.direction, other.priority) == (rule.direction, rule.priority) {
                    return Err(invalid(format!(
                        "security rules '{}' and '{}' have one priority, {}, in one direction",
                        other.name, rule.name, rule.priority
                    ))
                    .code("SecurityRuleConflict"));
                }
            }
        }
        Ok(Self { name, rules })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its rules, inbound first, by priority.
    #[must_use]
    pub fn rules(&self) -> &[SecurityRule] {
        &self.rules
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, OPERATION, message)
}

/// What the service tags mean for a virtual network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tags {
    /// `VirtualNetwork`.
    pub(crate) network: Vec<IpNet>,
    /// `AzureLoadBalancer`.
    pub(crate) host: Vec<IpNet>,
}

/// A rule reduced to what a packet of one family is compared with. Empty lists of ports are all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) protocol: Option<u8>,
    pub(crate) source: Ranges,
    pub(crate) source_ports: Vec<RangeInclusive<u16>>,
    pub(crate) destination: Ranges,
    pub(crate) destination_ports: Vec<RangeInclusive<u16>>,
    pub(crate) access: Access,
}

fn addresses(family: Family, list: &[AddressPrefix], tags: &Tags) -> Ranges {
    if list.is_empty() {
        return Ranges::all(family);
    }
    list.iter().fold(Ranges::none(family), |sum, prefix| {
        let part = match prefix {
            AddressPrefix::Any => Ranges::all(family),
            AddressPrefix::VirtualNetwork => Ranges::of(family, &tags.network),
            AddressPrefix::Internet => Ranges::of(family, &tags.network).complement(),
            AddressPrefix::LoadBalancer => Ranges::of(family, &tags.host),
            AddressPrefix::Prefix(prefix) => Ranges::of(family, [prefix]),
        };
        sum.or(&part)
    })
}

/// Ports as spans in order that do not touch; empty for all.
fn ports(list: &[PortRange]) -> Vec<RangeInclusive<u16>> {
    let mut spans: Vec<(u16, u16)> = list.iter().map(|p| (p.first, p.last)).collect();
    spans.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in spans {
        match merged.last_mut() {
            Some((_, end)) if end.checked_add(1).is_none_or(|next| first <= next) => {
                *end = last.max(*end);
            }
            _ => merged.push((first, last)),
        }
    }
    if merged == [(0, u16::MAX)] {
        merged.clear();
    }
    merged.into_iter().map(|(a, b)| a..=b).collect()
}

/// Azure's rules that come after all others, without the last, which denies everything inbound and
/// outbound (65500).
fn defaults(direction: Direction) -> Vec<SecurityRule> {
    let rule = |name: &str| SecurityRule::new(name, u16::MAX, direction, Access::Allow);
    let network = [AddressPrefix::VirtualNetwork];
    match direction {
        Direction::Inbound => vec![
            rule("AllowVnetInBound")
                .source(network)
                .destination(network),
            rule("AllowAzureLoadBalancerInBound").source([AddressPrefix::LoadBalancer]),
        ],
        Direction::Outbound => vec![
            rule("AllowVnetOutBound")
                .source(network)
                .destination(network),
            rule("AllowInternetOutBound").destination([AddressPrefix::Internet]),
        ],
    }
}

/// All rules of a direction for packets of a family, in the order in which they are tried, with
/// Azure's default rules; what none matches is denied. Rules that match nothing are left out.
pub(crate) fn reduce(
    group: &SecurityGroup,
    direction: Direction,
    family: Family,
    tags: &Tags,
) -> Vec<Match> {
    let own = group.rules.iter().filter(|r| r.direction == direction);
    own.chain(&defaults(direction))
        .map(|rule| Match {
            protocol: rule.protocol.number(family),
            source: addresses(family, &rule.source, tags),
            source_ports: ports(&rule.source_ports),
            destination: addresses(family, &rule.destination, tags),
            destination_ports: ports(&rule.destination_ports),
            access: rule.access,
        })
        .filter(|m| !m.source.is_empty() && !m.destination.is_empty())
        .collect()
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests;
