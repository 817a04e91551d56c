//! From rules and elements to a table of the kernel's firewall: pure.
//!
//! No rule speaks of a single group; groups are elements of sets and maps, so a packet's way is as
//! long with 250 groups as with one. What belongs to a connection that was let through passes first,
//! so it does not grow with the rules of a security group either.

mod elements;
mod guard;
mod layout;
mod security;
mod translate;

use std::borrow::Cow;

use ipnet::IpNet;

use super::Rules;
use crate::bridge::names::{GROUP_KIND, GROUP_LIVE};
use crate::ipam::{Family, Ranges, Subnet, VirtualNetwork};
use crate::netlink::nft::{Element, Hook, Meta, Name, Register, Set, Spans, Step};
pub(super) use elements::elements;
use layout::{joined, layout};

/// `NF_CT_STATE_BIT` of established and related.
const KNOWN: u32 = 2 | 4;
/// `IPS_CONFIRMED`: an earlier packet was let through all chains.
const LET_THROUGH: u32 = 1 << 3;
/// `IPS_DST_NAT`.
const DESTINATION_CHANGED: u32 = 1 << 5;
const TCP: u8 = 6;
const UDP: u8 = 17;

const CHECK: Name = Cow::Borrowed("check");
const INPUT: Name = Cow::Borrowed("input");
const FORWARD: Name = Cow::Borrowed("forward");
const OUTPUT: Name = Cow::Borrowed("output");
const ARRIVE: Name = Cow::Borrowed("arrive");
const ARRIVE_LOCAL: Name = Cow::Borrowed("arrive-local");
const LEAVE: Name = Cow::Borrowed("leave");

const fn hook(kind: &'static str, number: u32, priority: i32) -> Hook {
    Hook {
        kind,
        number,
        priority,
    }
}

const CHAINS: [(Name, Hook); 7] = [
    (CHECK, hook("filter", 0, -300)),
    (INPUT, hook("filter", 1, 0)),
    (FORWARD, hook("filter", 2, 0)),
    (OUTPUT, hook("filter", 3, 0)),
    (ARRIVE, hook("nat", 0, -100)),
    (ARRIVE_LOCAL, hook("nat", 3, -100)),
    (LEAVE, hook("nat", 4, 100)),
];

/// Where Azure answers for metadata.
const METADATA: [u8; 4] = [169, 254, 169, 254];

/// A table, ready to be written.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Name>,
    pub(super) hooks: Vec<(Name, Hook)>,
    pub(super) rules: Vec<(Name, Vec<Step>)>,
    pub(super) elements: Vec<(Name, Vec<Element>)>,
}

const V4_PAIR: [u32; 2] = [4, 4];
const V6_PAIR: [u32; 2] = [16, 16];

struct Compiler<'a> {
    rules: &'a Rules,
    table: Table,
}

/// The table of rules; its sets are empty but for what follows from the rules.
pub(super) fn table(rules: &Rules) -> Table {
    let mut compiler = Compiler {
        rules,
        table: Table {
            hooks: CHAINS.to_vec(),
            ..Table::default()
        },
    };
    compiler.sets();
    compiler.check();
    compiler.input();
    compiler.forward();
    for family in Family::BOTH {
        compiler.arrive(layout(family));
        compiler.leave(layout(family));
    }
    compiler.table
}

impl Compiler<'_> {
    fn add(&mut self, chain: &Name, parts: &[&[Step]]) {
        self.table.rules.push((chain.clone(), parts.concat()));
    }

    fn set(&mut self, name: Name, key: (u32, u32), value: Option<(u32, u32)>, spans: Spans) {
        let id = u32::try_from(self.table.sets.len() + 1).unwrap_or(u32::MAX);
        self.table.sets.push(Set {
            name,
            id,
            key,
            value,
            spans,
        });
    }

    fn sets(&mut self) {
        for family in Family::BOTH {
            let l = layout(family);
            let address = (l.kind, l.length);
            let with_port = (joined(&[l.kind, 12, 13]), l.length + 8);
            self.set(
                l.set("senders"),
                (joined(&[l.kind, 9]), l.length + 8),
                None,
                Spans::No,
            );
            self.set(l.set("withheld"), address, None, Spans::No);
            self.set(l.set("limited"), address, None, Spans::No);
            self.set(l.set("listed"), with_port, None, Spans::No);
            self.set(l.set("published"), with_port, Some(address), Spans::No);
            self.set(l.set("egress"), address, Some(address), Spans::No);
            self.set(l.set("guarded"), address, None, Spans::No);
            self.set(l.set("gateways"), address, None, Spans::No);
            let lengths: &'static [u32] = match family {
                Family::V4 => &V4_PAIR,
                Family::V6 => &V6_PAIR,
            };
            let pair = (joined(&[l.kind, l.kind]), 2 * l.length);
            self.set(l.set("reach"), pair, None, Spans::Parts(lengths));
            self.set(l.set("premises"), pair, None, Spans::Parts(lengths));
            let networks = &self.rules.networks;
            let mut reach = Vec::new();
            let mut premises = Vec::new();
            for network in networks {
                let to = networks
                    .iter()
                    .filter(|n| n.name() == network.name() || network.is_peer(n));
                for other in to {
                    reach.extend(pairs(family, network.prefixes(), other.prefixes()));
                }
                premises.extend(pairs(family, network.premises(), network.prefixes()));
            }
            self.fill(l.set("reach"), reach);
            self.fill(l.set("premises"), premises);
        }
    }

    fn fill(&mut self, set: Name, elements: Vec<Element>) {
        if !elements.is_empty() {
            self.table.elements.push((set, elements));
        }
    }

    fn group(&self) -> Vec<u8> {
        self.rules.group.to_ne_bytes().to_vec()
    }

    fn own_source(&self) -> [Step; 2] {
        [
            Step::Meta(Meta::IifGroup, Register::A),
            Step::Equal(Register::A, self.group()),
        ]
    }

    fn foreign_source(&self) -> [Step; 2] {
        [
            Step::Meta(Meta::IifGroup, Register::A),
            Step::NotEqual(Register::A, self.group()),
        ]
    }

    fn own_target(&self) -> [Step; 2] {
        [
            Step::Meta(Meta::OifGroup, Register::A),
            Step::Equal(Register::A, self.group()),
        ]
    }

    fn foreign_target(&self) -> [Step; 2] {
        [
            Step::Meta(Meta::OifGroup, Register::A),
            Step::NotEqual(Register::A, self.group()),
        ]
    }
}

/// All subnets with their networks, in order.
fn subnets(networks: &[VirtualNetwork]) -> impl Iterator<Item = (&VirtualNetwork, &Subnet)> {
    networks
        .iter()
        .flat_map(|n| n.subnets().iter().map(move |s| (n, s)))
}

/// Goes on if what is loaded is in the one span.
fn in_ranges(load: Step, ranges: &Ranges) -> Vec<Step> {
    let family = ranges.family();
    let (first, last) = ranges.spans().first().copied().unwrap_or((0, 0));
    if first == last {
        return vec![load, Step::Equal(Register::A, family.octets(first))];
    }
    vec![
        load,
        Step::Between(Register::A, family.octets(first), family.octets(last)),
    ]
}

/// Every prefix of one list with every one of the other.
fn pairs(family: Family, from: &[IpNet], to: &[IpNet]) -> Vec<Element> {
    let (from, to) = (Ranges::of(family, from), Ranges::of(family, to));
    let mut all = Vec::new();
    for a in from.spans() {
        for b in to.spans() {
            let key = |x, y| [family.octets(x), family.octets(y)].concat();
            all.push(Element::span(key(a.0, b.0), key(a.1, b.1)));
        }
    }
    all
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

/// What goes on that was begun, also where nobody has answered yet: a stream of datagrams in one
/// direction stays new to the kernel, and would be judged by all rules packet by packet.
fn begun() -> [Step; 4] {
    [
        Step::ConnectionStatus(Register::A),
        Step::Mask(Register::A, LET_THROUGH.to_ne_bytes().to_vec()),
        Step::NotEqual(Register::A, vec![0; 4]),
        Step::Accept,
    ]
}

fn unchanged() -> [Step; 3] {
    [
        Step::ConnectionStatus(Register::A),
        Step::Mask(Register::A, DESTINATION_CHANGED.to_ne_bytes().to_vec()),
        Step::Equal(Register::A, vec![0; 4]),
    ]
}

fn changed() -> [Step; 3] {
    [
        Step::ConnectionStatus(Register::A),
        Step::Mask(Register::A, DESTINATION_CHANGED.to_ne_bytes().to_vec()),
        Step::NotEqual(Register::A, vec![0; 4]),
    ]
}

/// Goes on if the link that a packet comes from or goes to (by its group) is not a group's, of this
/// program or of another one on this host.
fn nobodys(group: Meta) -> [Step; 3] {
    [
        Step::Meta(group, Register::A),
        Step::Mask(Register::A, GROUP_KIND.to_ne_bytes().to_vec()),
        Step::NotEqual(Register::A, GROUP_LIVE.to_ne_bytes().to_vec()),
    ]
}

/// Goes on for packets of a protocol to a port.
fn to_port(protocol: u8, port: u16) -> [Step; 4] {
    [
        Step::Meta(Meta::L4Proto, Register::A),
        Step::Equal(Register::A, vec![protocol]),
        Step::DestinationPort(Register::A),
        Step::Equal(Register::A, port.to_be_bytes().to_vec()),
    ]
}
