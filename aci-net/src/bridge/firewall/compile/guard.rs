//! The chains of filters: who may send, what reaches the host, and what is forwarded.

use ipnet::IpNet;

use super::layout::{Layout, layout};
use super::{
    CHECK, Compiler, FORWARD, INPUT, OUTPUT, TCP, begun, in_ranges, known, nobodys, subnets,
    to_port, unchanged,
};
use crate::ipam::{Family, Ranges, SERVICE_ADDRESS};
use crate::netlink::nft::{Meta, Name, Register, Step};

/// Azure's own addresses, besides that of the metadata service; nothing for them leaves the host.
const LINK_LOCAL: &str = "169.254.0.0/16";
const WIRE_SERVER: &str = "168.63.129.16/32";

impl Compiler<'_> {
    /// Groups send with their own address and MAC address only. That the address is of the very link
    /// is seen to by the link's reverse path filter for IPv4, and here for IPv6.
    pub(super) fn check(&mut self) {
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
    /// address is reached by groups alone, the port of our listener by our groups.
    pub(super) fn input(&mut self) {
        let four = layout(Family::V4).is_family();
        let host_itself = [
            Step::Meta(Meta::Iif, Register::A),
            Step::NotEqual(Register::A, 1u32.to_ne_bytes().to_vec()),
        ];
        let service = [
            layout(Family::V4).load_destination(Register::A),
            Step::Equal(Register::A, SERVICE_ADDRESS.octets().to_vec()),
        ];
        let nobody = nobodys(Meta::IifGroup);
        self.add(
            &INPUT,
            &[&nobody, &host_itself, &four, &service, &[Step::Drop]],
        );
        if let Some(port) = self.rules.metadata {
            let listener = to_port(TCP, port);
            self.add(
                &INPUT,
                &[
                    &self.foreign_source(),
                    &host_itself,
                    &four,
                    &service,
                    &listener,
                    &[Step::Drop],
                ],
            );
        }
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

    pub(super) fn forward(&mut self) {
        // A link of the host on which we switched forwarding on must not become a router for others.
        for (family, uplink) in &self.rules.uplinks {
            let came_in = [
                Step::Meta(Meta::Iif, Register::A),
                Step::Equal(Register::A, uplink.to_ne_bytes().to_vec()),
            ];
            let of_family = layout(*family).is_family();
            // Groups of another program on this host are led to by its own rules.
            let nobody = nobodys(Meta::OifGroup);
            self.add(&FORWARD, &[&came_in, &of_family, &nobody, &[Step::Drop]]);
        }
        for chain in [FORWARD, OUTPUT] {
            self.add(&chain, &[&known()]);
            self.add(&chain, &[&begun()]);
        }
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
        let mail = to_port(TCP, 25);
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
}
