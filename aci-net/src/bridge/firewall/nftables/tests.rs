use super::*;
use crate::bridge::firewall::PortKey;
use crate::ipam::{
    Access, AddressPrefix, Direction, Family, NextHop, RouteTable, SecurityGroup, SecurityRule,
    Subnet, VirtualNetwork,
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn elements() -> impl Strategy<Value = Elements> {
    let v4 = || (4u8..40).prop_map(|i| IpAddr::from([10, 88, 0, i]));
    let v6 = || (4u16..40).prop_map(|i| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, i]));
    let address = move || prop_oneof![v4(), v6()];
    let protocol = || prop_oneof![Just(6u8), Just(17)];
    let key4 = (0u8..2, protocol(), 80u16..90).prop_map(|(a, protocol, port)| PortKey {
        address: IpAddr::from([0, 0, 0, a]),
        protocol,
        port,
    });
    let key6 = (0u16..2, protocol(), 80u16..90).prop_map(|(a, protocol, port)| PortKey {
        address: IpAddr::from([0, 0, 0, 0, 0, 0, 0, a]),
        protocol,
        port,
    });
    let listed = (address(), protocol(), 80u16..90);
    (
        prop::collection::btree_map(address(), any::<[u8; 6]>(), 0..20),
        prop::collection::btree_set(address(), 0..20),
        prop::collection::btree_set(listed, 0..20),
        prop::collection::btree_map(key4, v4(), 0..20),
        prop::collection::btree_map(key6, v6(), 0..20),
        prop::collection::btree_map(v4(), v4(), 0..20),
    )
        .prop_map(|(senders, some, listed, mut published, six, egress)| {
            published.extend(six);
            Elements {
                senders,
                withheld: some.clone(),
                limited: some.clone(),
                listed,
                published,
                egress,
                guarded: some,
            }
        })
}

/// Rules with everything that there is in them.
pub(super) fn full(rules: usize) -> Rules {
    let rule = |i: usize| {
        let direction = if i.is_multiple_of(2) {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        let access = if i.is_multiple_of(3) {
            Access::Allow
        } else {
            Access::Deny
        };
        let host = IpAddr::from([192, 0, 2, u8::try_from(i % 200).unwrap()]);
        SecurityRule::new(
            format!("r{i}"),
            u16::try_from(100 + i).unwrap(),
            direction,
            access,
        )
        .source([
            AddressPrefix::Internet,
            AddressPrefix::Prefix(IpNet::from(host)),
        ])
        .destination_ports([80.into(), 443.into(), "8000-8999".parse().unwrap()])
    };
    let security = SecurityGroup::new("g", (0..rules).map(rule).collect()).unwrap();
    let routes = RouteTable::new(
        "t",
        vec![
            (net("192.168.0.0/16"), NextHop::None),
            (net("172.16.0.0/12"), NextHop::None),
        ],
    );
    let both = vec![net("10.88.0.0/24"), net("fd00::/64")];
    let subnet = Subnet::new("a", both)
        .unwrap()
        .security_group(security)
        .route_table(routes.unwrap())
        .nat_gateway([
            "203.0.113.1".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
        ])
        .unwrap();
    let first = VirtualNetwork::new(
        "one",
        vec![net("10.88.0.0/16"), net("fd00::/48")],
        vec![subnet],
    )
    .unwrap()
    .peered_with(["two".to_owned()])
    .on_premises(vec![net("10.200.0.0/16"), net("10.210.0.0/16")])
    .unwrap();
    let second = VirtualNetwork::single(net("10.99.0.0/16")).unwrap();
    Rules {
        group: 7,
        networks: vec![first, second],
        uplinks: vec![(Family::V4, 2), (Family::V6, 2)],
        outbound: true,
        names: true,
        metadata: Some(4711),
    }
}

fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root to make network namespaces");
        return None;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    Some(thread.join().unwrap())
}

/// What the firewall's own tool says of our table: an oracle for the messages.
fn listing() -> String {
    let output = std::process::Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .expect("nft (Debian: nftables)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// In a network namespace of its own: the kernel takes every change from one set of elements to
    /// the next, and the last one back to nothing.
    #[test]
    fn the_kernel_takes_every_change(all in prop::collection::vec(elements(), 1..6), outbound: bool) {
        elsewhere(move || {
            let mut firewall = Nftables::open("test".to_owned()).unwrap();
            firewall.check().unwrap();
            let mut socket = Socket::open(nft::PROTOCOL).unwrap();
            assert_eq!(nft::tables(&mut socket).unwrap(), Vec::<String>::new());
            let rules = Rules { outbound, ..full(4) };
            let mut current = Elements::default();
            firewall.replace(&rules, &current).unwrap();
            for next in &all {
                firewall.change(&current, next).unwrap();
                current = next.clone();
            }
            assert_eq!(nft::tables(&mut socket).unwrap(), ["test"]);
            // Another program over the same table does not know what is in force.
            let mut other = Nftables::open("test".to_owned()).unwrap();
            other.replace(&rules, &current).unwrap();
            other.change(&current, &Elements::default()).unwrap();
            other.remove().unwrap();
            other.remove().unwrap();
            assert_eq!(nft::tables(&mut socket).unwrap(), Vec::<String>::new());
        });
    }

    /// Groups are elements, never rules.
    #[test]
    fn elements_make_no_rules(elements in elements()) {
        let rules = full(2);
        let count = |elements: &Elements| {
            whole("t", &rules, elements).iter().filter(|r| r.what() == "add a firewall rule").count()
        };
        prop_assert_eq!(count(&elements), count(&Elements::default()));
    }
}

#[test]
fn the_firewall_s_own_tool_reads_what_was_written() {
    let Some(text) = elsewhere(|| {
        let mut firewall = Nftables::open("test".to_owned()).unwrap();
        let elements = Elements {
            senders: [("10.88.0.4".parse().unwrap(), [2, 0, 0, 0, 0, 9])].into(),
            listed: BTreeSet::from([("10.88.0.4".parse().unwrap(), 6, 80)]),
            ..Elements::default()
        };
        firewall.replace(&full(4), &elements).unwrap();
        listing()
    }) else {
        return;
    };
    for words in [
        "10.88.0.4 . 02:00:00:00:00:09",
        "10.88.0.4 . tcp . 80",
        "ip daddr 169.254.169.254 tcp dport 80 dnat ip to 169.254.97.1:4711",
        "snat ip to 203.0.113.1",
        "snat ip6 to 2001:db8::1",
        "ip daddr @gateways4",
        "jump s0-in4",
        "ip saddr . ip daddr != @reach4",
        "172.16.0.0/12, 192.168.0.0/16",
        "80, 443, 8000-8999",
        "tcp dport 25",
        "ct state established,related accept",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

#[test]
fn a_thousand_rules_are_one_transaction() {
    elsewhere(|| {
        let mut firewall = Nftables::open("test".to_owned()).unwrap();
        firewall.replace(&full(1000), &Elements::default()).unwrap();
        let senders =
            (0..16_000u32).map(|i| (IpAddr::from((0x0a58_0000 + i).to_be_bytes()), [2; 6]));
        let many = Elements {
            senders: senders.collect(),
            ..Elements::default()
        };
        firewall.change(&Elements::default(), &many).unwrap();
        firewall.change(&many, &Elements::default()).unwrap();
    });
}
