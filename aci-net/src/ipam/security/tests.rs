use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

#[derive(Clone, Debug)]
struct Packet {
    protocol: u8,
    from: IpAddr,
    from_port: u16,
    to: IpAddr,
    to_port: u16,
}

const NETWORK: &str = "10.0.0.0/24";

fn tags() -> Tags {
    Tags {
        network: vec![NETWORK.parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
        host: vec!["10.0.0.1/32".parse().unwrap()],
    }
}

fn named(address: IpAddr, list: &[AddressPrefix]) -> bool {
    let inside = |p: &IpNet| p.contains(&address);
    list.is_empty()
        || list.iter().any(|prefix| match prefix {
            AddressPrefix::Any => true,
            AddressPrefix::VirtualNetwork => tags().network.iter().any(inside),
            AddressPrefix::Internet => !tags().network.iter().any(inside),
            AddressPrefix::LoadBalancer => tags().host.iter().any(inside),
            AddressPrefix::Prefix(p) => inside(p),
        })
}

/// What Azure's text says, packet by packet.
fn azure(group: &SecurityGroup, direction: Direction, packet: &Packet) -> Access {
    let port = |list: &[PortRange], port: u16| {
        list.is_empty() || list.iter().any(|r| (r.first..=r.last).contains(&port))
    };
    let mut rules: Vec<_> = group
        .rules
        .iter()
        .filter(|r| r.direction == direction)
        .collect();
    rules.sort_by_key(|r| r.priority);
    for rule in rules {
        if rule
            .protocol
            .number(Family::V4)
            .is_none_or(|n| n == packet.protocol)
            && named(packet.from, &rule.source)
            && named(packet.to, &rule.destination)
            && port(&rule.source_ports, packet.from_port)
            && port(&rule.destination_ports, packet.to_port)
        {
            return rule.access;
        }
    }
    let network = |a| named(a, &[AddressPrefix::VirtualNetwork]);
    let allowed = match direction {
        Direction::Inbound => {
            network(packet.from) && network(packet.to)
                || named(packet.from, &[AddressPrefix::LoadBalancer])
        }
        Direction::Outbound => network(packet.from) && network(packet.to) || !network(packet.to),
    };
    if allowed { Access::Allow } else { Access::Deny }
}

fn judged(matches: &[Match], packet: &Packet) -> Access {
    let port = |list: &[RangeInclusive<u16>], port: u16| {
        list.is_empty() || list.iter().any(|r| r.contains(&port))
    };
    matches
        .iter()
        .find(|m| {
            m.protocol.is_none_or(|p| p == packet.protocol)
                && m.source.contains(packet.from)
                && m.destination.contains(packet.to)
                && port(&m.source_ports, packet.from_port)
                && port(&m.destination_ports, packet.to_port)
        })
        .map_or(Access::Deny, |m| m.access)
}

fn prefix() -> impl Strategy<Value = AddressPrefix> {
    prop_oneof![
        Just(AddressPrefix::Any),
        Just(AddressPrefix::VirtualNetwork),
        Just(AddressPrefix::Internet),
        Just(AddressPrefix::LoadBalancer),
        (0u8..3, any::<u8>(), 22u8..=32).prop_map(|(net, host, length)| {
            AddressPrefix::Prefix(
                IpNet::new(IpAddr::from([10, net, 0, host]), length)
                    .unwrap()
                    .trunc(),
            )
        }),
    ]
}

fn port_range() -> impl Strategy<Value = PortRange> {
    (0u16..20, 0u16..20).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
}

fn rule() -> impl Strategy<Value = SecurityRule> {
    let list = || prop::collection::vec(prefix(), 0..3);
    let port_list = || prop::collection::vec(port_range(), 0..3);
    (
        any::<bool>(),
        any::<bool>(),
        0usize..3,
        list(),
        list(),
        port_list(),
        port_list(),
    )
        .prop_map(
            |(inbound, allow, protocol, source, destination, from, to)| {
                let direction = if inbound {
                    Direction::Inbound
                } else {
                    Direction::Outbound
                };
                let access = if allow { Access::Allow } else { Access::Deny };
                let protocol = [RuleProtocol::Any, RuleProtocol::Tcp, RuleProtocol::Udp][protocol];
                SecurityRule::new("r", 0, direction, access)
                    .protocol(protocol)
                    .source(source)
                    .destination(destination)
                    .source_ports(from)
                    .destination_ports(to)
            },
        )
}

fn packet() -> impl Strategy<Value = Packet> {
    let address = || {
        prop_oneof![
            (0u8..4, any::<u8>()).prop_map(|(net, host)| IpAddr::from([10, net, 0, host])),
            Just(IpAddr::from([10, 0, 0, 1])),
            any::<[u8; 4]>().prop_map(IpAddr::from),
        ]
    };
    (
        prop_oneof![Just(6u8), Just(17u8)],
        address(),
        0u16..20,
        address(),
        0u16..20,
    )
        .prop_map(|(protocol, from, from_port, to, to_port)| Packet {
            protocol,
            from,
            from_port,
            to,
            to_port,
        })
}

proptest! {
    /// What rules are reduced to judges every packet as Azure's text does.
    #[test]
    fn reduced_rules_judge_as_azure_says(
        rules in prop::collection::vec(rule(), 0..8),
        packets in prop::collection::vec(packet(), 20),
    ) {
        let rules = rules.into_iter().zip(100..).map(|(mut rule, priority)| {
            rule.name = format!("r{priority}");
            rule.priority = priority;
            rule
        });
        let group = SecurityGroup::new("g", rules.collect()).unwrap();
        for direction in [Direction::Inbound, Direction::Outbound] {
            let matches = reduce(&group, direction, Family::V4, &tags());
            for packet in &packets {
                prop_assert_eq!(judged(&matches, packet), azure(&group, direction, packet));
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[*a-zA-Z0-9./: -]{0,20}") {
        let _ = text.parse::<AddressPrefix>();
        if let Ok(range) = text.parse::<PortRange>()
            && text.trim() != "*"
        {
            prop_assert_eq!(range.to_string().parse::<PortRange>().unwrap(), range);
        }
    }
}

#[test]
fn azure_s_forms_are_read() {
    let tag = |text: &str| text.parse::<AddressPrefix>().unwrap();
    assert_eq!(tag("*"), AddressPrefix::Any);
    assert_eq!(tag("virtualNetwork"), AddressPrefix::VirtualNetwork);
    assert_eq!(
        tag("10.0.0.7"),
        AddressPrefix::Prefix("10.0.0.7/32".parse().unwrap())
    );
    assert_eq!(
        tag("fd00::/8"),
        AddressPrefix::Prefix("fd00::/8".parse().unwrap())
    );
    let refused = "Storage.WestEurope".parse::<AddressPrefix>().unwrap_err();
    assert!(
        refused.message().contains("Storage.WestEurope"),
        "{refused}"
    );
    assert_eq!("*".parse::<PortRange>().unwrap().span(), 0..=65535);
    assert!("90-80".parse::<PortRange>().is_err());
}

#[test]
fn rules_that_cannot_stand_together_are_refused() {
    let rule =
        |name: &str, priority| SecurityRule::new(name, priority, Direction::Inbound, Access::Deny);
    let icmp = rule("c", 300)
        .protocol(RuleProtocol::Icmp)
        .destination_ports([80.into()]);
    for (rules, words) in [
        (vec![rule("a", 99)], "100 to 4096"),
        (vec![rule("a", 4097)], "100 to 4096"),
        (vec![rule("a", 100), rule("b", 100)], "one priority"),
        (vec![rule("a", 100), rule("A", 101)], "two rules named"),
        (vec![icmp], "names ports"),
    ] {
        let error = SecurityGroup::new("g", rules).unwrap_err();
        assert!(error.message().contains(words), "{error}");
    }
    let out = SecurityRule::new("b", 100, Direction::Outbound, Access::Deny);
    assert!(SecurityGroup::new("g", vec![rule("a", 100), out]).is_ok());
}
