use super::*;
use proptest::prelude::*;
use std::time::Duration;

const BOUNDS: Bounds = Bounds {
    groups: 20,
    addresses: 30,
};

#[derive(Clone, Debug)]
enum Op {
    Attach(u8, Option<u8>),
    Commit(u8),
    Ready(u8, bool),
    Leave(u8),
    Free(u8),
    Wait(u8),
    /// The program is killed and reads its journal again.
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let id = 0u8..25;
    prop_oneof![
        6 => (id.clone(), prop::option::of(0u8..34)).prop_map(|(i, f)| Op::Attach(i, f)),
        3 => id.clone().prop_map(Op::Commit),
        1 => (id.clone(), any::<bool>()).prop_map(|(i, r)| Op::Ready(i, r)),
        3 => id.clone().prop_map(Op::Leave),
        3 => id.prop_map(Op::Free),
        2 => (0u8..9).prop_map(Op::Wait),
        1 => Just(Op::Reopen),
    ]
}

fn sandbox(i: u8) -> SandboxId {
    format!("s-{i}").parse().unwrap()
}

fn network() -> VirtualNetwork {
    let net = |t: &str| t.parse::<IpNet>().unwrap();
    VirtualNetwork::new(
        "v",
        vec![net("10.0.0.0/24"), net("fd00::/56")],
        vec![Subnet::new("s", vec![net("10.0.0.32/28"), net("fd00::/64")]).unwrap()],
    )
    .unwrap()
}

fn network_group() -> &'static GroupRef {
    static GROUP: std::sync::LazyLock<GroupRef> = std::sync::LazyLock::new(|| "web".into());
    &GROUP
}

fn wish<'a>(
    sandbox: &'a SandboxId,
    network: &'a VirtualNetwork,
    fixed: Option<IpAddr>,
) -> Wish<'a> {
    Wish {
        sandbox,
        link: format!("link-{sandbox}"),
        network,
        public: Some(vec![(Protocol::Tcp, 80)]),
        listed: None,
        bandwidth: None,
        subnet: &network.subnets()[0],
        fixed,
        shown: true,
        dns: DnsSettings::default(),
        group: network_group(),
        hostname: "web",
        fqdn: None,
        published: Vec::new(),
    }
}

fn ledger_of(network: &VirtualNetwork) -> Ledger {
    let public = ["203.0.113.0/28", "2001:db8::/124"].map(|r| r.parse().unwrap());
    let public = if network.name() == "v" {
        &public[..]
    } else {
        &[]
    };
    Ledger::new(
        std::slice::from_ref(network),
        PublicPool::new(public).unwrap(),
    )
}

fn same(a: &Ledger, b: &Ledger) -> bool {
    a.records() == b.records() && a.addresses() == b.addresses()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens: no address has two owners, none is reserved, none is given out while it
    /// rests, and both the journal and its compacted form give the same ledger again.
    #[test]
    fn no_address_twice_and_the_journal_tells_all(ops in prop::collection::vec(op(), 1..150)) {
        let network = network();
        let mut ledger = ledger_of(&network);
        let mut journal: Vec<Record> = Vec::new();
        let mut now = Timestamp::from_secs(1_000);
        let rest = Duration::from_secs(5);
        let mut freed: BTreeMap<IpAddr, Timestamp> = BTreeMap::new();
        for op in ops {
            let record = match op {
                Op::Attach(i, fixed) => {
                    let id = sandbox(i);
                    if ledger.get(&id).is_some() {
                        continue;
                    }
                    let fixed = fixed.map(|f| IpAddr::from([10, 0, 0, 24 + f]));
                    match ledger.plan(wish(&id, &network, fixed), BOUNDS, now) {
                        Ok(entry) => {
                            for address in &entry.attachment.addresses {
                                let address = address.addr();
                                prop_assert!(freed.get(&address).is_none_or(|until| *until <= now));
                                prop_assert!(ledger.entries().all(|e| e
                                    .attachment.addresses.iter().all(|a| a.addr() != address)));
                            }
                            if let Some(fixed) = fixed {
                                prop_assert_eq!(entry.attachment.addresses[0].addr(), fixed);
                            }
                            prop_assert_eq!(entry.public.len(), 2);
                            prop_assert_eq!(entry.attachment.ip, Some(entry.public[0]));
                            for address in &entry.public {
                                prop_assert!(freed.get(address).is_none_or(|until| *until <= now));
                                prop_assert!(ledger.entries().all(|e| !e.public.contains(address)));
                            }
                            Record::Intend(Box::new(entry))
                        }
                        Err(error) => {
                            prop_assert_ne!(error.kind(), ErrorKind::Internal);
                            continue;
                        }
                    }
                }
                Op::Commit(i) => Record::Commit(sandbox(i)),
                Op::Ready(i, ready) => Record::Ready(sandbox(i), ready),
                Op::Leave(i) => Record::Leave(sandbox(i)),
                Op::Free(i) => Record::Free(sandbox(i), now + rest),
                Op::Wait(seconds) => {
                    now = now + Duration::from_secs(seconds.into());
                    continue;
                }
                Op::Reopen => {
                    let mut again = ledger_of(&network);
                    for record in &journal {
                        prop_assert_eq!(again.apply(record), Ok(()));
                    }
                    let mut compact = ledger_of(&network);
                    for record in again.records() {
                        prop_assert_eq!(compact.apply(&record), Ok(()));
                    }
                    prop_assert!(same(&again, &compact));
                    journal = again.records();
                    ledger = again;
                    continue;
                }
            };
            let before = ledger.records();
            if let Record::Free(id, until) = &record
                && let Some(entry) = ledger.get(id)
            {
                for address in entry.all_addresses() {
                    freed.insert(address, *until);
                }
            }
            match ledger.apply(&record) {
                Ok(()) => journal.push(record),
                Err(_) => prop_assert_eq!(ledger.records(), before, "a refused record changed something"),
            }
            prop_assert_eq!(
                ledger.addresses(),
                ledger.entries().map(|e| e.attachment.addresses.len()).sum::<usize>()
            );
        }
    }

    /// Records survive their text form.
    #[test]
    fn records_read_back(i in 0u8..20, ready: bool, secs in 0u64..4_000_000_000) {
        let network = network();
        let id = sandbox(i);
        let entry = ledger_of(&network)
            .plan(wish(&id, &network, None), BOUNDS, Timestamp::EPOCH)
            .unwrap();
        let until = Timestamp::from_secs(secs);
        for record in [
            Record::Rest(entry.attachment.addresses[0].addr(), until),
            Record::Intend(Box::new(entry)),
            Record::Commit(id.clone()),
            Record::Ready(id.clone(), ready),
            Record::Leave(id.clone()),
            Record::Free(id, until),
            Record::Uplinks(Family::V6, vec!["eth0".to_owned()]),
        ] {
            let text = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }
    }
}

#[test]
fn limits_end_in_a_clear_answer() {
    let network = VirtualNetwork::single("10.0.0.0/16".parse().unwrap()).unwrap();
    let mut ledger = ledger_of(&network);
    let bounds = Bounds {
        groups: 250,
        addresses: 16_000,
    };
    for i in 0..250 {
        let id: SandboxId = format!("g-{i}").parse().unwrap();
        let entry = ledger
            .plan(wish(&id, &network, None), bounds, Timestamp::EPOCH)
            .unwrap();
        ledger.apply(&Record::Intend(Box::new(entry))).unwrap();
    }
    let id = sandbox(1);
    let error = ledger
        .plan(wish(&id, &network, None), bounds, Timestamp::EPOCH)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("250 groups"), "{error}");
    assert_eq!(error.aci_code(), Some("ContainerGroupQuotaReached"));
    let few = Bounds {
        groups: 1000,
        addresses: 250,
    };
    let error = ledger
        .plan(wish(&id, &network, None), few, Timestamp::EPOCH)
        .unwrap_err();
    assert!(error.to_string().contains("max_addresses"), "{error}");
    assert_eq!(error.aci_code(), Some("SubnetIsFull"));
}

#[test]
fn a_full_subnet_says_when_it_has_room_again() {
    let network = VirtualNetwork::single("10.0.0.0/29".parse().unwrap()).unwrap();
    let mut ledger = ledger_of(&network);
    for i in 0..3 {
        let id = sandbox(i);
        let entry = ledger
            .plan(wish(&id, &network, None), BOUNDS, Timestamp::EPOCH)
            .unwrap();
        ledger.apply(&Record::Intend(Box::new(entry))).unwrap();
    }
    let until = Timestamp::from_secs(60);
    ledger.apply(&Record::Leave(sandbox(1))).unwrap();
    ledger.apply(&Record::Free(sandbox(1), until)).unwrap();
    let id = sandbox(9);
    let error = ledger
        .plan(wish(&id, &network, None), BOUNDS, Timestamp::EPOCH)
        .unwrap_err();
    assert_eq!(error.aci_code(), Some("SubnetIsFull"));
    assert!(error.message().contains("1970-01-01T00:01:00Z"), "{error}");
    let entry = ledger
        .plan(wish(&id, &network, None), BOUNDS, until)
        .unwrap();
    assert_eq!(entry.attachment.addresses[0].to_string(), "10.0.0.5/29");
}
