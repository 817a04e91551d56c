//! What is of single groups: elements of the table's sets and maps.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::layout::{layout, octets};
use crate::bridge::firewall::{Elements, PortKey};
use crate::ipam::Family;
use crate::netlink::nft::{Element, Name};

fn address_and_port(address: IpAddr, protocol: u8, port: u16) -> Vec<u8> {
    let mut bytes = octets(address);
    bytes.extend_from_slice(&[protocol, 0, 0, 0]);
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn published(key: &PortKey) -> Vec<u8> {
    address_and_port(key.address, key.protocol, key.port)
}

/// Elements with the sets that they belong to; sets without any are left out.
pub(in crate::bridge::firewall) fn elements(all: &Elements) -> Vec<(Name, Vec<Element>)> {
    let mut lists = Vec::new();
    for family in Family::BOTH {
        let l = layout(family);
        let of = |a: &IpAddr| Family::of(a) == family;
        let keys = |set: &BTreeSet<IpAddr>| -> Vec<Element> {
            let own = set.iter().filter(|a| of(a));
            own.map(|a| Element::key(octets(*a))).collect()
        };
        let senders = all.senders.iter().filter(|(a, _)| of(a));
        let listed = all.listed.iter().filter(|(a, ..)| of(a));
        let ports = all
            .published
            .iter()
            .filter(|(k, to)| of(&k.address) && of(to));
        let egress = all.egress.iter().filter(|(a, to)| of(a) && of(to));
        lists.push((
            l.set("senders"),
            senders
                .map(|(a, mac)| Element::key([&octets(*a)[..], mac, &[0, 0]].concat()))
                .collect(),
        ));
        lists.push((l.set("withheld"), keys(&all.withheld)));
        lists.push((l.set("limited"), keys(&all.limited)));
        lists.push((
            l.set("listed"),
            listed
                .map(|(a, protocol, port)| Element::key(address_and_port(*a, *protocol, *port)))
                .collect(),
        ));
        lists.push((
            l.set("published"),
            ports
                .map(|(key, to)| Element::pair(published(key), octets(*to)))
                .collect(),
        ));
        lists.push((
            l.set("egress"),
            egress
                .map(|(a, to)| Element::pair(octets(*a), octets(*to)))
                .collect(),
        ));
        lists.push((l.set("guarded"), keys(&all.guarded)));
    }
    lists.retain(|(_, elements): &(Name, Vec<Element>)| !elements.is_empty());
    lists
}
