//! Which packets may pass, as a value, and what puts it in force.

mod compile;
mod nftables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use aci_core::contract::PublishedPort;
use aci_core::model::Protocol;

use crate::ipam::{Family, VirtualNetwork};
use crate::netlink::Refusal;
pub(super) use nftables::Nftables;

/// What holds for all groups: rules are made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// The group of our links.
    pub(super) group: u32,
    /// The virtual networks with their security groups and routes.
    pub(super) networks: Vec<VirtualNetwork>,
    /// Links of the host on which forwarding of a family was switched on for groups: what comes in
    /// there is forwarded to groups only.
    pub(super) uplinks: Vec<(Family, u32)>,
    /// Whether groups reach what is outside of the host.
    pub(super) outbound: bool,
    /// Whether our name server answers at the gateways' addresses.
    pub(super) names: bool,
    /// The port of [`SERVICE_ADDRESS`](crate::SERVICE_ADDRESS) where the metadata service listens.
    pub(super) metadata: Option<u16>,
}

/// What is of single groups: elements of sets and maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// Addresses of groups with the MAC address that sends for each.
    pub(super) senders: BTreeMap<IpAddr, [u8; 6]>,
    /// Addresses of groups to which no new connection is let through.
    pub(super) withheld: BTreeSet<IpAddr>,
    /// Addresses of groups that are reached by their listed ports only.
    pub(super) limited: BTreeSet<IpAddr>,
    /// Those ports: address, protocol, port.
    pub(super) listed: BTreeSet<(IpAddr, u8, u16)>,
    /// Ports of the host's addresses, and the group that each leads to.
    pub(super) published: BTreeMap<PortKey, IpAddr>,
    /// Addresses of groups with the public address that they send with.
    pub(super) egress: BTreeMap<IpAddr, IpAddr>,
    /// Addresses that the host answers for on behalf of groups; nothing of its own is reached there.
    pub(super) guarded: BTreeSet<IpAddr>,
}

impl Elements {
    /// Adds what is in another one.
    pub(super) fn extend(&mut self, other: Self) {
        self.senders.extend(other.senders);
        self.withheld.extend(other.withheld);
        self.limited.extend(other.limited);
        self.listed.extend(other.listed);
        self.published.extend(other.published);
        self.egress.extend(other.egress);
        self.guarded.extend(other.guarded);
    }
}

/// A port of an address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortKey {
    /// The address.
    pub(super) address: IpAddr,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub(super) protocol: u8,
    /// The port.
    pub(super) port: u16,
}

impl PortKey {
    /// The key of a published port.
    pub(super) fn of(port: &PublishedPort) -> Self {
        Self {
            address: port.address,
            protocol: protocol_number(&port.protocol),
            port: port.port,
        }
    }
}

/// The number of a protocol in IP headers.
pub(super) fn protocol_number(protocol: &Protocol) -> u8 {
    if *protocol == Protocol::Udp { 17 } else { 6 }
}

/// Puts rules and elements in force; each call all at once or not at all.
pub(super) trait Firewall: Send + fmt::Debug {
    /// Whether it works on this machine; changes nothing.
    fn check(&mut self) -> Result<(), Refusal>;

    /// Puts rules with these elements in force, in place of whatever is of ours.
    fn replace(&mut self, rules: &Rules, elements: &Elements) -> Result<(), Refusal>;

    /// Takes elements out and puts others in.
    fn change(&mut self, out: &Elements, into: &Elements) -> Result<(), Refusal>;

    /// Removes everything of ours.
    fn remove(&mut self) -> Result<(), Refusal>;
}
