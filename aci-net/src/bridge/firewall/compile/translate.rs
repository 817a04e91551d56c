//! The chains that translate addresses: of what arrives, and of what leaves.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::layout::{Layout, octets};
use super::{ARRIVE, ARRIVE_LOCAL, Compiler, LEAVE, METADATA, TCP, changed, in_ranges, subnets};
use crate::dns;
use crate::ipam::{Family, Ranges, SERVICE_ADDRESS, effective, gateway};
use crate::netlink::nft::{Element, Meta, NFPROTO_IPV4, Register, Step};

impl Compiler<'_> {
    /// Published ports: first on the address that was asked for, then on any of the host's. Its
    /// loopback has none: it would take a way around the rule that keeps loopback out of reach.
    pub(super) fn arrive(&mut self, l: Layout) {
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
        let own_names = self.own_names(l);
        let elsewhere = not_loopback(l.family);
        for chain in [ARRIVE, ARRIVE_LOCAL] {
            if let Some(own) = &own_names {
                self.add(&chain, &[&l.is_family(), own, &[Step::Accept]]);
            }
            for side in &elsewhere {
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

    /// Goes on for questions to our own name server, on the gateways' addresses. No group gets those,
    /// also where it has the port on all addresses of the host.
    fn own_names(&mut self, l: Layout) -> Option<Vec<Step>> {
        let all = self.rules.networks.iter().flat_map(|n| n.subnets());
        let prefixes = all.flat_map(|s| s.prefixes());
        let gateways: BTreeSet<IpAddr> = prefixes
            .map(gateway)
            .filter(|a| self.rules.names && Family::of(a) == l.family)
            .collect();
        if gateways.is_empty() {
            return None;
        }
        let keys = gateways.into_iter().map(|a| Element::key(octets(a)));
        self.fill(l.set("gateways"), keys.collect());
        Some(vec![
            l.load_destination(Register::A),
            Step::InSet(Register::A, l.set("gateways")),
            Step::DestinationPort(Register::A),
            Step::Equal(Register::A, dns::PORT.to_be_bytes().to_vec()),
        ])
    }

    /// Which sender what leaves the virtual network has.
    pub(super) fn leave(&mut self, l: Layout) {
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

/// The addresses of a family below its loopback and above it.
fn not_loopback(family: Family) -> [Step; 2] {
    let (first, last) = match family {
        Family::V4 => (0x7f00_0000, 0x7fff_ffff),
        Family::V6 => (1, 1),
    };
    [(0, first - 1), (last + 1, family.last())]
        .map(|(first, last)| Step::Between(Register::A, family.octets(first), family.octets(last)))
}
