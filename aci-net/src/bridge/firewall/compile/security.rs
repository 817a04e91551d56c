//! What stands before a subnet: its route table and its security group.

use std::borrow::Cow;

use super::layout::{Layout, layout};
use super::{Compiler, FORWARD, TCP, UDP, in_ranges};
use crate::ipam::{
    Access, Direction, Family, Match, Ranges, Subnet, VirtualNetwork, effective, reduce,
};
use crate::netlink::nft::{Element, Meta, Name, Register, Spans, Step};

impl Compiler<'_> {
    /// What a subnet's route table drops, and its security group.
    pub(super) fn subnet(&mut self, at: usize, network: &VirtualNetwork, subnet: &Subnet) {
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

    pub(super) fn in_set(
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
}
