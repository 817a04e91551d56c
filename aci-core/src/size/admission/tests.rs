use proptest::prelude::*;

use super::*;
use crate::model::GpuSku;

fn total(cores: u32, gb: u32) -> Total {
    Total {
        cpu: Cpu::from_whole_cores(cores),
        memory: Memory::from_whole_gb(gb),
        gpus: Vec::new(),
    }
}

fn host(cores: u32, gb: u32) -> Capacity {
    Capacity {
        cpu: Cpu::from_whole_cores(cores),
        memory: Memory::from_whole_gb(gb),
        gpus: Vec::new(),
    }
}

fn request(wanted: &Total, ahead: u32) -> Request<'_> {
    Request {
        wanted,
        ahead,
        location: "local",
        os_type: &OsType::Linux,
        in_virtual_network: false,
    }
}

fn used(groups: &[Total]) -> InUse {
    let mut in_use = InUse::default();
    groups.iter().for_each(|total| in_use.add(total));
    in_use
}

fn refused(admission: Admission) -> (String, String) {
    match admission {
        Admission::Refuse(error) => {
            assert_eq!(error.kind(), ErrorKind::Exhausted);
            (
                error.aci_code().unwrap_or_default().to_owned(),
                error.message().to_owned(),
            )
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_fits_is_admitted() {
    let wanted = total(2, 4);
    let admission = admit(
        &host(4, 8),
        Quota::default(),
        &used(&[total(2, 4)]),
        &request(&wanted, 0),
        WhenFull::Refuse,
    );
    assert!(matches!(admission, Admission::Admit));
}

#[test]
fn beyond_the_capacity_aci_says_service_unavailable() {
    let wanted = total(3, 4);
    let mut request = request(&wanted, 0);
    request.in_virtual_network = true;
    let admission = admit(
        &host(4, 8),
        Quota::default(),
        &used(&[total(2, 4)]),
        &request,
        WhenFull::Refuse,
    );
    let (code, message) = refused(admission);
    assert_eq!(code, "ServiceUnavailable");
    assert_eq!(
        message,
        "The requested resource is not available in the location 'local' at this moment. Please retry with a \
         different resource request or in another location. Resource requested: '3' CPU '4' GB memory 'Linux' OS \
         virtual network"
    );
}

#[test]
fn beyond_the_quota_aci_says_which() {
    let quota = Quota {
        groups: 2,
        cpu: Cpu::from_whole_cores(10),
    };
    let wanted = total(1, 1);
    let full = used(&[total(5, 1), total(5, 1)]);
    let admission = admit(
        &host(64, 64),
        quota,
        &full,
        &request(&wanted, 0),
        WhenFull::Refuse,
    );
    assert_eq!(
        refused(admission),
        (
            "ContainerGroupQuotaReached".to_owned(),
            "Resource type 'Microsoft.ContainerInstance/containerGroups' container group quota 'ContainerGroups' \
             exceeded in region 'local'. Limit: '2', Usage: '2' Requested: '1'."
                .to_owned()
        )
    );
    let full = used(&[total(10, 1)]);
    let (_, message) = refused(admit(
        &host(64, 64),
        quota,
        &full,
        &request(&wanted, 0),
        WhenFull::Refuse,
    ));
    assert!(
        message.contains(
            "'StandardCores' exceeded in region 'local'. Limit: '10', Usage: '10' Requested: '1'."
        ),
        "{message}"
    );
}

#[test]
fn a_group_that_does_not_fit_now_waits_in_turn() {
    let queue = WhenFull::Queue { longest: 2 };
    let (big, small) = (total(4, 4), total(1, 1));
    let (host, busy) = (host(4, 8), used(&[total(2, 2)]));
    let ask = |wanted, ahead| {
        admit(
            &host,
            Quota::UNLIMITED,
            &busy,
            &request(wanted, ahead),
            queue,
        )
    };
    assert!(matches!(ask(&big, 0), Admission::Queue));
    assert!(
        matches!(ask(&small, 1), Admission::Queue),
        "nobody overtakes"
    );
    assert!(matches!(ask(&small, 0), Admission::Admit));
    assert_eq!(refused(ask(&small, 2)).0, "ServiceUnavailable");
}

#[test]
fn what_can_never_run_does_not_wait() {
    let wanted = total(100, 4);
    let admission = admit(
        &host(4, 8),
        Quota::default(),
        &InUse::default(),
        &request(&wanted, 0),
        WhenFull::Queue { longest: 9 },
    );
    assert_eq!(refused(admission).0, "ServiceUnavailable");
}

#[test]
fn gpus_count_by_kind() {
    let gpus = |count, sku| vec![Gpus { count, sku }];
    let mut host = host(8, 8);
    host.gpus = gpus(2, GpuSku::V100);
    let mut wanted = total(1, 1);
    wanted.gpus = gpus(2, GpuSku::V100);
    let ask = |wanted: &Total, in_use: &InUse| {
        admit(
            &host,
            Quota::default(),
            in_use,
            &request(wanted, 0),
            WhenFull::Refuse,
        )
    };
    assert!(matches!(ask(&wanted, &InUse::default()), Admission::Admit));
    let (_, message) = refused(ask(&wanted, &used(&[wanted.clone()])));
    assert!(
        message.contains("'1' CPU '1' GB memory '2' 'V100' GPU 'Linux' OS"),
        "{message}"
    );
    wanted.gpus = gpus(1, GpuSku::K80);
    refused(ask(&wanted, &InUse::default()));
}

proptest! {
    /// Whatever comes in whatever order: what was admitted fits, and a queue drains.
    #[test]
    fn admitted_groups_never_exceed_capacity_or_quota(
        groups in proptest::collection::vec((1u32..8, 1u32..8), 1..40),
        cores in 1u32..32, gb in 1u32..32, limit in 1u32..20,
    ) {
        let host = host(cores, gb);
        let quota = Quota { groups: limit, cpu: Cpu::from_whole_cores(24) };
        let mut in_use = InUse::default();
        for (cpu, memory) in groups {
            let wanted = total(cpu, memory);
            match admit(&host, quota, &in_use, &request(&wanted, 0), WhenFull::Queue { longest: 1 }) {
                Admission::Admit => in_use.add(&wanted),
                Admission::Queue => {
                    let alone = admit(&host, quota, &InUse::default(), &request(&wanted, 0), WhenFull::Refuse);
                    prop_assert!(matches!(alone, Admission::Admit), "it waits for a place that will come");
                }
                Admission::Refuse(_) => {
                    prop_assert!(cpu > cores || memory > gb || cpu > 24);
                }
            }
            prop_assert!(in_use.total.cpu <= host.cpu && in_use.total.memory <= host.memory);
            prop_assert!(in_use.groups <= limit && in_use.total.cpu <= quota.cpu);
        }
    }
}
