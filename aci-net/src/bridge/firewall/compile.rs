//! From rules and elements to a table of the kernel's firewall: pure.
//!
//! No rule speaks of a single group; groups are elements of sets and maps, so a packet's way is as
//! long with 250 groups as with one. What belongs to a connection that was let through passes first,
//! so it does not grow with the rules of a security group either.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Elements, PortKey, Rules};
use crate::ipam::{
    Access, Direction, Family, Match, Ranges, SERVICE_ADDRESS, Subnet, VirtualNetwork, effective,
    reduce,
};
use crate::netlink::nft::{
    Element, Hook, Meta, NFPROTO_IPV4, NFPROTO_IPV6, Name, Register, Set, Spans, Step,
};

/// `NF_CT_STATE_BIT` of established and related.
const KNOWN: u32 = 2 | 4;
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

/// Where Azure answers for metadata, and for its own agents; neither leaves the host.
const METADATA: [u8; 4] = [169, 254, 169, 254];
const LINK_LOCAL: &str = "169.254.0.0/16";
const WIRE_SERVER: &str = "168.63.129.16/32";

/// A table, ready to be written.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Name>,
    pub(super) hooks: Vec<(Name, Hook)>,
    pub(super) rules: Vec<(Name, Vec<Step>)>,
    pub(super) elements: Vec<(Name, Vec<Element>)>,
}

/// What differs between the families in a packet.
#[derive(Clone, Copy)]
struct Layout {
    family: Family,
    protocol: u8,
    source: u32,
    destination: u32,
    length: u32,
    /// The type of addresses, for tools.
    kind: u32,
    digit: &'static str,
}

fn layout(family: Family) -> Layout {
    match family {
        Family::V4 => Layout {
            family,
            protocol: NFPROTO_IPV4,
            source: 12,
            destination: 16,
            length: 4,
            kind: 7,
            digit: "4",
        },
        Family::V6 => Layout {
            family,
            protocol: NFPROTO_IPV6,
            source: 8,
            destination: 24,
            length: 16,
            kind: 8,
            digit: "6",
        },
    }
}

impl Layout {
    fn set(self, name: &str) -> Name {
        Cow::Owned(format!("{name}{}", self.digit))
    }

    fn load_source(self, to: Register) -> Step {
        self.load(self.source, to)
    }

    fn load_destination(self, to: Register) -> Step {
        self.load(self.destination, to)
    }

    fn load(self, offset: u32, to: Register) -> Step {
        Step::Network {
            offset,
            length: self.length,
            to,
        }
    }

    fn is_family(self) -> [Step; 2] {
        [
            Step::Meta(Meta::NfProto, Register::A),
            Step::Equal(Register::A, vec![self.protocol]),
        ]
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Type of a key of several parts: six bits each. 7 and 8 are addresses, 9 a MAC address, 12 a
/// protocol, 13 a port.
fn joined(kinds: &[u32]) -> u32 {
    kinds.iter().fold(0, |sum, kind| sum << 6 | kind)
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

    /// Groups send with their own address and MAC address only. That the address is of the very link
    /// is seen to by the link's reverse path filter for IPv4, and here for IPv6.
    fn check(&mut self) {
        for family in Family::BOTH {
            let l = layout(family);
            let sender = [
                l.load_source(Register::A),
                Step::SenderMac(Register::after(l.length)),
                Step::NotInSet(Register::A, l.set("senders")),
                Step::Drop,
            ];
            self.add(&CHECK, &[&self.own_source(), &l.is_family(), &sender]);
        }
        let elsewhere = [Step::FromElsewhere(Register::A), Step::Drop];
        let six = layout(Family::V6).is_family();
        self.add(&CHECK, &[&self.own_source(), &six, &elsewhere]);
    }

    /// What the host answers for on behalf of groups leads to nothing of its own, and its service
    /// address is reached by groups alone.
    fn input(&mut self) {
        let service = [
            layout(Family::V4).load_destination(Register::A),
            Step::Equal(Register::A, SERVICE_ADDRESS.octets().to_vec()),
            Step::Drop,
        ];
        let four = layout(Family::V4).is_family();
        let host_itself = [
            Step::Meta(Meta::Iif, Register::A),
            Step::NotEqual(Register::A, 1u32.to_ne_bytes().to_vec()),
        ];
        self.add(
            &INPUT,
            &[&self.foreign_source(), &host_itself, &four, &service],
        );
        self.add(&INPUT, &[&known()]);
        for family in Family::BOTH {
            let l = layout(family);
            let guarded = [
                l.load_destination(Register::A),
                Step::InSet(Register::A, l.set("guarded")),
                Step::Reject,
            ];
            self.add(&INPUT, &[&l.is_family(), &guarded]);
        }
    }

    fn forward(&mut self) {
        // A link of the host on which we switched forwarding on must not become a router for others.
        for (family, uplink) in &self.rules.uplinks {
            let came_in = [
                Step::Meta(Meta::Iif, Register::A),
                Step::Equal(Register::A, uplink.to_ne_bytes().to_vec()),
            ];
            let of_family = layout(*family).is_family();
            self.add(
                &FORWARD,
                &[&came_in, &of_family, &self.foreign_target(), &[Step::Drop]],
            );
        }
        self.add(&FORWARD, &[&known()]);
        self.add(&OUTPUT, &[&known()]);
        for family in Family::BOTH {
            let l = layout(family);
            self.between_networks(l);
            self.outwards(l);
            // From the outside only what was published comes in, and what is connected.
            let connected = [
                l.load_source(Register::A),
                l.load_destination(Register::after(l.length)),
                Step::NotInSet(Register::A, l.set("premises")),
                Step::Drop,
            ];
            let from_outside = [&self.foreign_source()[..], &self.own_target()].concat();
            self.add(
                &FORWARD,
                &[&from_outside, &l.is_family(), &unchanged(), &connected],
            );
            for chain in [FORWARD, OUTPUT] {
                self.towards_groups(&chain, l);
            }
        }
        for (at, (network, subnet)) in subnets(&self.rules.networks).enumerate() {
            self.subnet(at, network, subnet);
        }
    }

    /// Groups of one virtual network and of those peered with it reach each other; others do by
    /// public addresses only.
    fn between_networks(&mut self, l: Layout) {
        let apart = [
            l.load_source(Register::A),
            l.load_destination(Register::after(l.length)),
            Step::NotInSet(Register::A, l.set("reach")),
            Step::Reject,
        ];
        let between = [&self.own_source()[..], &self.own_target()].concat();
        self.add(&FORWARD, &[&between, &l.is_family(), &unchanged(), &apart]);
    }

    /// From groups to the outside. Port 25 is closed, as in Azure; what is Azure's own stays here.
    fn outwards(&mut self, l: Layout) {
        let out = [
            &self.own_source()[..],
            &self.foreign_target(),
            &l.is_family(),
        ]
        .concat();
        if l.family == Family::V4 {
            for kept in [LINK_LOCAL, WIRE_SERVER] {
                if let Ok(kept) = kept.parse::<IpNet>() {
                    let to = in_ranges(
                        l.load_destination(Register::A),
                        &Ranges::of(l.family, [&kept]),
                    );
                    self.add(&FORWARD, &[&out, &to, &[Step::Reject]]);
                }
            }
        }
        let premises = [
            l.load_destination(Register::A),
            l.load_source(Register::after(l.length)),
            Step::NotInSet(Register::A, l.set("premises")),
        ];
        if !self.rules.outbound {
            self.add(&FORWARD, &[&out, &premises, &[Step::Reject]]);
        }
        let mail = [
            Step::Meta(Meta::L4Proto, Register::A),
            Step::Equal(Register::A, vec![TCP]),
            Step::DestinationPort(Register::A),
            Step::Equal(Register::A, 25u16.to_be_bytes().to_vec()),
        ];
        self.add(&FORWARD, &[&out, &mail, &premises, &[Step::Reject]]);
    }

    /// New connections to a group that is not ready, or to a port that it does not list.
    fn towards_groups(&mut self, chain: &Name, l: Layout) {
        let own_target = [
            &self.own_target()[..],
            &l.is_family(),
            &[l.load_destination(Register::A)],
        ]
        .concat();
        let withheld = [Step::InSet(Register::A, l.set("withheld")), Step::Reject];
        self.add(chain, &[&own_target, &withheld]);
        let other_port = [
            Step::InSet(Register::A, l.set("limited")),
            Step::Meta(Meta::L4Proto, Register::after(l.length)),
            Step::DestinationPort(Register::after(l.length + 4)),
            Step::NotInSet(Register::A, l.set("listed")),
            Step::Reject,
        ];
        self.add(chain, &[&own_target, &other_port]);
    }

    /// What a subnet's route table drops, and its security group.
    fn subnet(&mut self, at: usize, network: &VirtualNetwork, subnet: &Subnet) {
        for prefix in subnet.prefixes() {
            let l = layout(Family::of(&prefix.addr()));
            let of_subnet = Ranges::of(l.family, [prefix]);
            let from = [
                &self.own_source()[..],
                &l.is_family(),
                &in_ranges(l.load_source(Register::A), &of_subnet),
            ]
            .concat();
            let to = [
                &self.own_target()[..],
                &l.is_family(),
                &in_ranges(l.load_destination(Register::A), &of_subnet),
            ]
            .concat();
            let routes = effective(
                l.family,
                network.prefixes(),
                network.premises(),
                subnet.routes(),
            );
            if !routes.none.is_empty() {
                let nowhere =
                    self.in_set(at, "none", l, l.load_destination(Register::A), &routes.none);
                self.add(&FORWARD, &[&from, &nowhere, &[Step::Drop]]);
            }
            let Some(group) = subnet.security() else {
                continue;
            };
            let tags = network.tags(&self.rules.networks);
            for (direction, word, jump) in [
                (Direction::Outbound, "out", &from),
                (Direction::Inbound, "in", &to),
            ] {
                let chain: Name = Cow::Owned(format!("s{at}-{word}{}", l.digit));
                self.table.chains.push(chain.clone());
                self.add(&FORWARD, &[jump, &[Step::Jump(chain.clone())]]);
                for (number, rule) in reduce(group, direction, l.family, &tags).iter().enumerate() {
                    self.security_rule(&chain, number, l, rule);
                }
                self.add(&chain, &[&[Step::Drop]]);
            }
        }
    }

    fn security_rule(&mut self, chain: &Name, number: usize, l: Layout, rule: &Match) {
        let mut steps = Vec::new();
        for (word, load, ranges) in [
            ("from", l.load_source(Register::A), &rule.source),
            ("to", l.load_destination(Register::A), &rule.destination),
        ] {
            let name = format!("{chain}-{number}-{word}-");
            steps.extend(self.ranges_step(name, l, load, ranges));
        }
        let with_ports = !(rule.source_ports.is_empty() && rule.destination_ports.is_empty());
        let protocols = match rule.protocol {
            Some(protocol) => vec![Some(protocol)],
            None if with_ports => vec![Some(TCP), Some(UDP)],
            None => vec![None],
        };
        let mut ports = Vec::new();
        for (word, load, spans) in [
            ("sport", Step::SourcePort(Register::A), &rule.source_ports),
            (
                "dport",
                Step::DestinationPort(Register::A),
                &rule.destination_ports,
            ),
        ] {
            match spans.as_slice() {
                [] => {}
                [one] => {
                    ports.push(load);
                    ports.push(Step::Between(
                        Register::A,
                        one.start().to_be_bytes().to_vec(),
                        one.end().to_be_bytes().to_vec(),
                    ));
                }
                many => {
                    let name: Name = Cow::Owned(format!("{chain}-{number}-{word}"));
                    self.set(name.clone(), (13, 2), None, Spans::Yes);
                    let mut elements = Vec::new();
                    for span in many {
                        elements.push(Element::key(span.start().to_be_bytes().to_vec()));
                        if let Some(end) = span.end().checked_add(1) {
                            elements.push(Element::end(end.to_be_bytes().to_vec()));
                        }
                    }
                    self.fill(name.clone(), elements);
                    ports.push(load);
                    ports.push(Step::InSet(Register::A, name));
                }
            }
        }
        let verdict = match rule.access {
            Access::Allow => Step::Return,
            Access::Deny => Step::Drop,
        };
        for protocol in protocols {
            let of_protocol = protocol.map_or_else(Vec::new, |p| {
                vec![
                    Step::Meta(Meta::L4Proto, Register::A),
                    Step::Equal(Register::A, vec![p]),
                ]
            });
            self.add(
                chain,
                &[&steps, &of_protocol, &ports, std::slice::from_ref(&verdict)],
            );
        }
    }

    fn in_set(
        &mut self,
        at: usize,
        word: &str,
        l: Layout,
        load: Step,
        ranges: &Ranges,
    ) -> Vec<Step> {
        self.ranges_step(format!("s{at}-{word}"), l, load, ranges)
    }

    /// Goes on if what is loaded is in the ranges: nothing to compare for all, one comparison for one
    /// span, a set for several.
    fn ranges_step(&mut self, name: String, l: Layout, load: Step, ranges: &Ranges) -> Vec<Step> {
        if ranges.is_all() {
            return Vec::new();
        }
        if ranges.spans().len() == 1 {
            return in_ranges(load, ranges);
        }
        let name: Name = Cow::Owned(format!("{name}{}", l.digit));
        self.set(name.clone(), (l.kind, l.length), None, Spans::Yes);
        let mut elements = Vec::new();
        for (first, last) in ranges.spans() {
            elements.push(Element::key(l.family.octets(*first)));
            if let Some(end) = last.checked_add(1).filter(|e| *e <= l.family.last()) {
                elements.push(Element::end(l.family.octets(end)));
            }
        }
        self.fill(name.clone(), elements);
        vec![load, Step::InSet(Register::A, name)]
    }

    /// Published ports: first on the address that was asked for, then on any of the host's. Its
    /// loopback has none: it would take a way around the rule that keeps loopback out of reach.
    fn arrive(&mut self, l: Layout) {
        let loopback = match l.family {
            Family::V4 => Ranges::of(
                l.family,
                ["127.0.0.0/8".parse().as_ref().ok()].into_iter().flatten(),
            ),
            Family::V6 => Ranges::of(
                l.family,
                ["::1/128".parse().as_ref().ok()].into_iter().flatten(),
            ),
        };
        let (first, last) = loopback
            .complement()
            .spans()
            .last()
            .copied()
            .unwrap_or_else(|| (0, l.family.last()));
        let above = Step::Between(Register::A, l.family.octets(first), l.family.octets(last));
        let below = Step::Between(
            Register::A,
            l.family.octets(0),
            l.family.octets(
                loopback
                    .spans()
                    .first()
                    .map_or(0, |s| s.0.saturating_sub(1)),
            ),
        );
        if let (Family::V4, Some(port)) = (l.family, self.rules.metadata) {
            let metadata = [
                l.load_destination(Register::A),
                Step::Equal(Register::A, METADATA.to_vec()),
                Step::Meta(Meta::L4Proto, Register::A),
                Step::Equal(Register::A, vec![TCP]),
                Step::DestinationPort(Register::A),
                Step::Equal(Register::A, 80u16.to_be_bytes().to_vec()),
                Step::Load(Register::A, SERVICE_ADDRESS.octets().to_vec()),
                Step::Load(Register::after(4), port.to_be_bytes().to_vec()),
                Step::DestinationAndPort(NFPROTO_IPV4, Register::A, Register::after(4)),
            ];
            self.add(&ARRIVE, &[&self.own_source(), &l.is_family(), &metadata]);
        }
        for chain in [ARRIVE, ARRIVE_LOCAL] {
            for side in [&above, &below] {
                let begin = [
                    Step::ToThisHost(Register::A),
                    l.load_destination(Register::A),
                    side.clone(),
                ];
                let length = usize::try_from(l.length).unwrap_or(16);
                let any = [Step::Mask(Register::A, vec![0; length])];
                let key = [
                    Step::Meta(Meta::L4Proto, Register::after(l.length)),
                    Step::DestinationPort(Register::after(l.length + 4)),
                    Step::Map(Register::A, l.set("published"), Register::A),
                    Step::Destination(l.protocol, Register::A),
                ];
                self.add(&chain, &[&l.is_family(), &begin, &key]);
                self.add(&chain, &[&l.is_family(), &begin, &any, &key]);
            }
        }
    }

    /// Which sender what leaves the virtual network has.
    fn leave(&mut self, l: Layout) {
        // A group that reaches itself or another by a published port is answered through the host.
        let hairpin = [
            &self.own_source()[..],
            &self.own_target(),
            &l.is_family(),
            &changed(),
        ]
        .concat();
        self.add(&LEAVE, &[&hairpin, &[Step::Masquerade]]);
        let out = [
            &self.own_source()[..],
            &self.foreign_target(),
            &l.is_family(),
        ]
        .concat();
        for (at, (network, subnet)) in subnets(&self.rules.networks).enumerate() {
            let of_subnet = Ranges::of(l.family, subnet.prefixes());
            if of_subnet.is_empty() {
                continue;
            }
            let from = in_ranges(l.load_source(Register::A), &of_subnet);
            let routes = effective(
                l.family,
                network.prefixes(),
                network.premises(),
                subnet.routes(),
            );
            let beyond = routes.own.minus(&Ranges::of(l.family, network.prefixes()));
            if !beyond.is_empty() {
                let own = self.in_set(at, "own", l, l.load_destination(Register::A), &beyond);
                self.add(&LEAVE, &[&out, &from, &own, &[Step::Accept]]);
            }
            let gateway = subnet.nat().iter().find(|a| Family::of(a) == l.family);
            if let Some(address) = gateway.filter(|_| self.rules.outbound) {
                let sender = [
                    Step::Load(Register::A, octets(*address)),
                    Step::Source(l.protocol, Register::A),
                ];
                self.add(&LEAVE, &[&out, &from, &sender]);
            }
        }
        if !self.rules.outbound {
            return;
        }
        let own_public = [
            l.load_source(Register::A),
            Step::Map(Register::A, l.set("egress"), Register::A),
            Step::Source(l.protocol, Register::A),
        ];
        self.add(&LEAVE, &[&out, &own_public]);
        for network in &self.rules.networks {
            let of_network = Ranges::of(l.family, network.prefixes());
            if of_network.is_empty() {
                continue;
            }
            for (first, last) in of_network.spans() {
                let from = [
                    l.load_source(Register::A),
                    Step::Between(Register::A, l.family.octets(*first), l.family.octets(*last)),
                ];
                self.add(&LEAVE, &[&out, &from, &[Step::Masquerade]]);
            }
        }
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
pub(super) fn elements(all: &Elements) -> Vec<(Name, Vec<Element>)> {
    let mut lists = Vec::new();
    for family in Family::BOTH {
        let l = layout(family);
        let of = |a: &IpAddr| Family::of(a) == family;
        let keys = |set: &std::collections::BTreeSet<IpAddr>| -> Vec<Element> {
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
