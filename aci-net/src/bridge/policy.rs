//! From entries to what the firewall has of them: pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::firewall::{Elements, PortKey};
use super::ledger::Entry;
use super::names::Names;
use crate::ipam::Family;

/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// The elements of an entry; `guards` tells which public addresses the host answers for only on
/// behalf of groups.
pub(super) fn elements(entry: &Entry, names: &Names, guards: impl Fn(&IpAddr) -> bool) -> Elements {
    let (_, mac) = names.macs(&entry.attachment.sandbox);
    let own = || entry.attachment.addresses.iter().map(IpNet::addr);
    let mut all = Elements {
        senders: own().map(|a| (a, mac)).collect(),
        ..Elements::default()
    };
    if !entry.ready {
        all.withheld.extend(own());
    }
    if let Some(ports) = &entry.listed {
        for address in own() {
            all.limited.insert(address);
            let listed = ports
                .iter()
                .map(|(protocol, port)| (address, *protocol, *port));
            all.listed.extend(listed);
        }
    }
    all.published.extend(ports(entry));
    for public in &entry.public {
        let same = |a: &IpAddr| Family::of(a) == Family::of(public);
        all.egress.extend(own().filter(same).map(|a| (a, *public)));
    }
    all.guarded
        .extend(entry.public.iter().copied().filter(guards));
    all
}

/// The published ports of an entry and the address that each leads to.
fn ports(entry: &Entry) -> impl Iterator<Item = (PortKey, IpAddr)> + '_ {
    entry.attachment.published.iter().filter_map(|port| {
        let mut own = entry.attachment.addresses.iter().map(IpNet::addr);
        let to = own.find(|a| a.is_ipv4() == port.address.is_ipv4())?;
        Some((PortKey::of(port), to))
    })
}

/// Those of its ports to which a flow may go on that was begun when they led elsewhere. TCP is not
/// among them: what begins a connection anew replaces what the kernel knew of it.
pub(super) fn followed_ports(entry: &Entry) -> impl Iterator<Item = (PortKey, IpAddr)> + '_ {
    ports(entry).filter(|(key, _)| key.protocol == UDP)
}
