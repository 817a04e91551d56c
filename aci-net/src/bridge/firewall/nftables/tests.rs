use super::*;
use proptest::prelude::*;

fn policy() -> impl Strategy<Value = Policy> {
    let address = (4u8..40).prop_map(|i| IpAddr::from([10, 88, 0, i]));
    let v6 = (4u16..40).prop_map(|i| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, i]));
    let key = (0u8..2, prop_oneof![Just(6u8), Just(17)], 80u16..90).prop_map(
        |(address, protocol, port)| PortKey {
            address: IpAddr::from([0, 0, 0, address]),
            protocol,
            port,
        },
    );
    (
        prop::collection::btree_set(prop_oneof![address.clone(), v6], 0..20),
        prop::collection::btree_map(key, address, 0..20),
    )
        .prop_map(|(withheld, published)| Policy {
            withheld,
            published,
            ..base()
        })
}

fn base() -> Policy {
    Policy {
        group: 7,
        ranges: vec!["10.88.0.0/16".parse().unwrap()],
        uplinks: vec![2],
        outbound: true,
        withheld: BTreeSet::new(),
        published: BTreeMap::new(),
    }
}

/// The number of rules in a list of requests.
fn rule_count(policy: &Policy) -> usize {
    rules(policy).len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// In a network namespace of its own: the kernel takes every change from one policy to the
    /// next, and the last one back to nothing.
    #[test]
    fn the_kernel_takes_every_change(policies in prop::collection::vec(policy(), 1..6)) {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: needs root to make network namespaces");
            return Ok(());
        }
        let result = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut firewall = Nftables::open("test".to_owned()).unwrap();
            firewall.check().unwrap();
            let mut socket = Socket::open(nft::PROTOCOL).unwrap();
            assert_eq!(nft::tables(&mut socket).unwrap(), Vec::<String>::new());
            for policy in &policies {
                firewall.put(Some(policy)).unwrap();
            }
            assert_eq!(nft::tables(&mut socket).unwrap(), ["test"]);
            // Another program over the same table does not know what is in force.
            let mut other = Nftables::open("test".to_owned()).unwrap();
            other.put(policies.first()).unwrap();
            other.put(None).unwrap();
            assert_eq!(nft::tables(&mut socket).unwrap(), Vec::<String>::new());
        })
        .join();
        prop_assert!(result.is_ok());
    }

    /// Groups are elements, never rules.
    #[test]
    fn the_number_of_rules_does_not_grow_with_groups(policy in policy()) {
        prop_assert_eq!(rule_count(&policy), rule_count(&base()));
    }
}
