//! Which packets may pass, as a value, and what puts it in force.

mod nftables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use aci_core::contract::PublishedPort;
use aci_core::model::Protocol;
use ipnet::IpNet;

use crate::netlink::Refusal;
pub(super) use nftables::Nftables;

/// What is let through, and where to. It is compared with what is in force, so that only the
/// difference goes to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// The group of our links.
    pub(super) group: u32,
    /// The ranges of the virtual network.
    pub(super) ranges: Vec<IpNet>,
    /// Links of the host on which forwarding was switched on for groups: what comes in there is
    /// forwarded to groups only.
    pub(super) uplinks: Vec<u32>,
    /// Whether groups reach what is outside of the host.
    pub(super) outbound: bool,
    /// Addresses of groups to which no new connection is let through.
    pub(super) withheld: BTreeSet<IpAddr>,
    /// Ports of the host's addresses, and the group that each leads to.
    pub(super) published: BTreeMap<PortKey, IpAddr>,
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

/// Puts a policy in force.
pub(super) trait Firewall: Send + fmt::Debug {
    /// Whether it works on this machine; changes nothing.
    fn check(&mut self) -> Result<(), Refusal>;

    /// Puts a policy in force, or nothing of ours for `None`. All at once or not at all.
    fn put(&mut self, policy: Option<&Policy>) -> Result<(), Refusal>;

    /// Forgets the connections of addresses that are given up, and those to ports that lead
    /// elsewhere from now on: a flow that goes on would otherwise never reach its new target.
    fn forget(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        ports: &BTreeMap<PortKey, IpAddr>,
    ) -> Result<usize, Refusal>;
}
