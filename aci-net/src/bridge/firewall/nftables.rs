//! The firewall of Linux, nf_tables: one table of our own, changed by transactions.
//!
//! No rule speaks of a single group; groups are elements of sets and maps, so a packet's way is as
//! long with 250 groups as with one. What belongs to a connection that was let through passes first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Firewall, Policy, PortKey};
use crate::netlink::codec::Request;
use crate::netlink::conntrack;
use crate::netlink::nft::{
    self, Element, Hook, Meta, NFPROTO_IPV4, NFPROTO_IPV6, Register, Set, Step,
};
use crate::netlink::{Refusal, Socket};

const WITHHELD_4: Set = Set {
    name: "withheld4",
    id: 1,
    key: (7, 4),
    value: None,
};
const WITHHELD_6: Set = Set {
    name: "withheld6",
    id: 2,
    key: (8, 16),
    value: None,
};
/// Address, protocol and port of the host to a group's address. Parts of a key are padded to four
/// bytes; the type is that of its parts, six bits each.
const PUBLISHED_4: Set = Set {
    name: "published4",
    id: 3,
    key: ((7 << 12) | (12 << 6) | 13, 12),
    value: Some((7, 4)),
};

/// `NF_CT_STATE_BIT` of established and related.
const KNOWN: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const DESTINATION_CHANGED: u32 = 1 << 5;
const TCP: u8 = 6;

const CHECK: &str = "check";
const FORWARD: &str = "forward";
const OUTPUT: &str = "output";
const ARRIVE: &str = "arrive";
const ARRIVE_LOCAL: &str = "arrive-local";
const LEAVE: &str = "leave";

const CHAINS: [(&str, Hook); 6] = [
    (
        CHECK,
        Hook {
            kind: "filter",
            number: 0,
            priority: -300,
        },
    ),
    (
        FORWARD,
        Hook {
            kind: "filter",
            number: 2,
            priority: 0,
        },
    ),
    (
        OUTPUT,
        Hook {
            kind: "filter",
            number: 3,
            priority: 0,
        },
    ),
    (
        ARRIVE,
        Hook {
            kind: "nat",
            number: 0,
            priority: -100,
        },
    ),
    (
        ARRIVE_LOCAL,
        Hook {
            kind: "nat",
            number: 3,
            priority: -100,
        },
    ),
    (
        LEAVE,
        Hook {
            kind: "nat",
            number: 4,
            priority: 100,
        },
    ),
];

/// The table of one driver.
#[derive(Debug)]
pub(in crate::bridge) struct Nftables {
    socket: Socket,
    table: String,
    current: Option<Policy>,
}

impl Nftables {
    /// A firewall in the calling thread's network namespace. What stands there under the table's
    /// name is replaced by the first policy.
    pub(in crate::bridge) fn open(table: String) -> Result<Self, Refusal> {
        let socket = Socket::open(nft::PROTOCOL)
            .map_err(|e| Refusal::io("open a socket to the firewall", &e))?;
        Ok(Self {
            socket,
            table,
            current: None,
        })
    }

    fn send(&mut self, requests: Vec<Request>) -> Result<(), Refusal> {
        self.socket.transaction(nft::begin(), requests, nft::end())
    }
}

impl Firewall for Nftables {
    fn check(&mut self) -> Result<(), Refusal> {
        // Made and deleted within one transaction, so nothing of it is ever in force.
        let table = format!("{}-check", self.table);
        let policy = Policy {
            outbound: true,
            ranges: vec![IpNet::V4(ipnet::Ipv4Net::default())],
            ..Policy::default()
        };
        let mut requests = whole(&table, &policy);
        requests.push(nft::delete_table(&table));
        self.send(requests)
    }

    fn put(&mut self, policy: Option<&Policy>) -> Result<(), Refusal> {
        if self.current.is_some() && self.current.as_ref() == policy {
            return Ok(());
        }
        let requests = match (&self.current, policy) {
            (Some(current), Some(policy)) if same_rules(current, policy) => {
                difference(&self.table, current, policy)
            }
            // Making the table first lets its deletion succeed whether it stood or not.
            (_, Some(policy)) => {
                let mut requests =
                    vec![nft::new_table(&self.table), nft::delete_table(&self.table)];
                requests.extend(whole(&self.table, policy));
                requests
            }
            (_, None) => vec![nft::new_table(&self.table), nft::delete_table(&self.table)],
        };
        self.send(requests)?;
        self.current = policy.cloned();
        Ok(())
    }

    fn forget(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        ports: &BTreeMap<PortKey, IpAddr>,
    ) -> Result<usize, Refusal> {
        conntrack::forget(&mut self.socket, |flow| {
            let ours = |a: &IpAddr| addresses.contains(a);
            if ours(&flow.from) || ours(&flow.to) || ours(&flow.answers) {
                return true;
            }
            ports.iter().any(|(key, to)| {
                key.protocol == flow.protocol
                    && key.port == flow.port
                    && (key.address == flow.to || key.address.is_unspecified())
                    && *to != flow.answers
                    && *to != flow.to
            })
        })
    }
}

/// Whether two policies differ in elements only.
fn same_rules(a: &Policy, b: &Policy) -> bool {
    a.group == b.group && a.ranges == b.ranges && a.uplinks == b.uplinks && a.outbound == b.outbound
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn withheld(policy: &Policy, v4: bool) -> Vec<Element> {
    policy
        .withheld
        .iter()
        .filter(|a| a.is_ipv4() == v4)
        .map(|a| (octets(*a), None))
        .collect()
}

/// Published ports as elements: those on an address, and those on all addresses under 0.0.0.0.
fn published(policy: &Policy) -> Vec<Element> {
    policy
        .published
        .iter()
        .filter(|(key, to)| key.address.is_ipv4() && to.is_ipv4())
        .map(|(key, to)| (published_key(key), Some(octets(*to))))
        .collect()
}

fn published_key(key: &PortKey) -> Vec<u8> {
    let mut bytes = octets(key.address);
    bytes.extend_from_slice(&[key.protocol, 0, 0, 0]);
    bytes.extend_from_slice(&key.port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// The requests that make the table as a policy wants it.
fn whole(table: &str, policy: &Policy) -> Vec<Request> {
    let mut requests = vec![nft::new_table(table)];
    for set in [WITHHELD_4, WITHHELD_6, PUBLISHED_4] {
        requests.push(nft::new_set(table, &set));
    }
    for (name, hook) in CHAINS {
        requests.push(nft::new_chain(table, name, hook));
    }
    for (chain, steps) in rules(policy) {
        requests.push(nft::new_rule(table, chain, &steps));
    }
    requests.extend(difference(table, &Policy::default(), policy));
    requests
}

/// The requests that lead from one policy's elements to another's.
fn difference(table: &str, from: &Policy, to: &Policy) -> Vec<Request> {
    let mut requests = Vec::new();
    let lists = [
        (WITHHELD_4.name, withheld(from, true), withheld(to, true)),
        (WITHHELD_6.name, withheld(from, false), withheld(to, false)),
        (PUBLISHED_4.name, published(from), published(to)),
    ];
    for (set, before, after) in lists {
        let only = |a: &[Element], b: &[Element]| -> Vec<Element> {
            a.iter().filter(|e| !b.contains(e)).cloned().collect()
        };
        for gone in only(&before, &after).chunks(256) {
            // A deletion names the key alone.
            let keys: Vec<Element> = gone.iter().map(|(k, _)| (k.clone(), None)).collect();
            requests.push(nft::delete_elements(table, set, &keys));
        }
        for new in only(&after, &before).chunks(256) {
            requests.push(nft::add_elements(table, set, new));
        }
    }
    requests
}

fn group(policy: &Policy) -> Vec<u8> {
    policy.group.to_ne_bytes().to_vec()
}

fn from_us(policy: &Policy) -> [Step; 2] {
    [
        Step::Meta(Meta::IifGroup, Register::A),
        Step::Equal(Register::A, group(policy)),
    ]
}

fn to_us(policy: &Policy) -> [Step; 2] {
    [
        Step::Meta(Meta::OifGroup, Register::A),
        Step::Equal(Register::A, group(policy)),
    ]
}

fn not_to_us(policy: &Policy) -> [Step; 2] {
    [
        Step::Meta(Meta::OifGroup, Register::A),
        Step::NotEqual(Register::A, group(policy)),
    ]
}

fn family(number: u8) -> [Step; 2] {
    [
        Step::Meta(Meta::NfProto, Register::A),
        Step::Equal(Register::A, vec![number]),
    ]
}

fn known() -> [Step; 4] {
    let register = Register::A;
    [
        Step::ConnectionState(register),
        Step::Mask(register, KNOWN.to_ne_bytes().to_vec()),
        Step::NotEqual(register, vec![0; 4]),
        Step::Accept,
    ]
}

/// All rules, in order, with their chains.
fn rules(policy: &Policy) -> Vec<(&'static str, Vec<Step>)> {
    let mut rules: Vec<(&'static str, Vec<Step>)> = Vec::new();
    let mut add = |chain: &'static str, parts: &[&[Step]]| {
        rules.push((chain, parts.concat()));
    };
    // Groups send with their own address only. For IPv4 the links' reverse path filter sees to it.
    let elsewhere = [Step::FromElsewhere(Register::A), Step::Drop];
    add(
        CHECK,
        &[&from_us(policy), &family(NFPROTO_IPV6), &elsewhere],
    );
    // A link of the host on which we switched forwarding on must not become a router for others.
    for uplink in &policy.uplinks {
        let came_in = [
            Step::Meta(Meta::Iif, Register::A),
            Step::Equal(Register::A, uplink.to_ne_bytes().to_vec()),
        ];
        add(FORWARD, &[&came_in, &not_to_us(policy), &[Step::Drop]]);
    }
    add(FORWARD, &[&known()]);
    // From a group to the outside: closed without outbound; port 25 is closed in any case, as in
    // Azure.
    if policy.outbound {
        let mail = [
            Step::Meta(Meta::L4Proto, Register::A),
            Step::Equal(Register::A, vec![TCP]),
            Step::DestinationPort(Register::A),
            Step::Equal(Register::A, 25u16.to_be_bytes().to_vec()),
        ];
        add(
            FORWARD,
            &[&from_us(policy), &not_to_us(policy), &mail, &[Step::Reject]],
        );
    } else {
        add(
            FORWARD,
            &[&from_us(policy), &not_to_us(policy), &[Step::Reject]],
        );
    }
    // IPv6 addresses of groups mean nothing outside.
    add(
        FORWARD,
        &[
            &from_us(policy),
            &not_to_us(policy),
            &family(NFPROTO_IPV6),
            &[Step::Reject],
        ],
    );
    add(OUTPUT, &[&known()]);
    // New connections to a group that is not ready.
    for chain in [FORWARD, OUTPUT] {
        let v4 = [
            Step::Network {
                offset: 16,
                length: 4,
                to: Register::A,
            },
            Step::InSet(Register::A, WITHHELD_4.name),
            Step::Reject,
        ];
        let v6 = [
            Step::Network {
                offset: 24,
                length: 16,
                to: Register::A,
            },
            Step::InSet(Register::A, WITHHELD_6.name),
            Step::Reject,
        ];
        add(chain, &[&to_us(policy), &family(NFPROTO_IPV4), &v4]);
        add(chain, &[&to_us(policy), &family(NFPROTO_IPV6), &v6]);
    }
    // From the outside only what was published comes in.
    let unchanged = [
        Step::ConnectionStatus(Register::A),
        Step::Mask(Register::A, DESTINATION_CHANGED.to_ne_bytes().to_vec()),
        Step::Equal(Register::A, vec![0; 4]),
    ];
    for uplink in &policy.uplinks {
        let came_in = [
            Step::Meta(Meta::Iif, Register::A),
            Step::Equal(Register::A, uplink.to_ne_bytes().to_vec()),
        ];
        add(FORWARD, &[&came_in, &unchanged, &[Step::Drop]]);
    }
    translations(policy, &mut add);
    rules
}

fn translations(policy: &Policy, add: &mut impl FnMut(&'static str, &[&[Step]])) {
    // Published ports: first on the address that was asked for, then on any of the host's. Its
    // loopback has none: it would take a way around the rule that keeps loopback out of reach.
    for chain in [ARRIVE, ARRIVE_LOCAL] {
        let begin = [
            Step::ToThisHost(Register::A),
            Step::Network {
                offset: 16,
                length: 4,
                to: Register::A,
            },
            Step::Mask(Register::A, vec![255, 0, 0, 0]),
            Step::NotEqual(Register::A, vec![127, 0, 0, 0]),
        ];
        let key = [
            Step::Meta(Meta::L4Proto, Register::B),
            Step::DestinationPort(Register::C),
            Step::Map(Register::A, PUBLISHED_4.name, Register::A),
            Step::Destination(NFPROTO_IPV4, Register::A),
        ];
        let exact = [Step::Network {
            offset: 16,
            length: 4,
            to: Register::A,
        }];
        let any = [
            Step::Network {
                offset: 16,
                length: 4,
                to: Register::A,
            },
            Step::Mask(Register::A, vec![0; 4]),
        ];
        add(chain, &[&family(NFPROTO_IPV4), &begin, &exact, &key]);
        add(chain, &[&family(NFPROTO_IPV4), &begin, &any, &key]);
    }
    // A group that reaches itself or another by a published port is answered through the host.
    let changed = [
        Step::ConnectionStatus(Register::A),
        Step::Mask(Register::A, DESTINATION_CHANGED.to_ne_bytes().to_vec()),
        Step::NotEqual(Register::A, vec![0; 4]),
    ];
    add(
        LEAVE,
        &[
            &from_us(policy),
            &to_us(policy),
            &changed,
            &[Step::Masquerade],
        ],
    );
    if !policy.outbound {
        return;
    }
    for range in &policy.ranges {
        let IpNet::V4(range) = range else { continue };
        let from_range = [
            Step::Network {
                offset: 12,
                length: 4,
                to: Register::A,
            },
            Step::Mask(Register::A, range.netmask().octets().to_vec()),
            Step::Equal(Register::A, range.network().octets().to_vec()),
        ];
        add(
            LEAVE,
            &[
                &from_us(policy),
                &not_to_us(policy),
                &family(NFPROTO_IPV4),
                &from_range,
                &[Step::Masquerade],
            ],
        );
    }
}

#[cfg(test)]
mod tests;
