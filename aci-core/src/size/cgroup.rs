//! What [`Limits`] mean to a kernel: values for the files of cgroup v1 and v2.
//!
//! Both translations are for a cgroup that was just made: an absent bound writes nothing, because
//! the kernel's default is no bound. Write the values in the given order.
//!
//! | limit | v2 | v1 |
//! |---|---|---|
//! | `cpu_max` | `cpu.max`: quota and period in µs | `cpu.cfs_period_us`, `cpu.cfs_quota_us` |
//! | `cpu_request` | `cpu.weight`: hundredths of a core | `cpu.shares`: 1024 a core |
//! | `memory_max` | `memory.max`, `memory.swap.max` 0 | `memory.limit_in_bytes`, `memory.memsw.limit_in_bytes` alike |
//! | `memory_request` | `memory.low` | `memory.soft_limit_in_bytes` |
//! | `pids_max` | `pids.max` | `pids.max` |
//!
//! The period is 100 ms, the kernel's default. With it a hundredth of a core is a quota of 1 ms,
//! the smallest that the kernel takes (Documentation/scheduler/sched-bwc.rst), so quotas are exact.
//!
//! One core weighs what a cgroup weighs by default, 100 in v2 and 1024 in v1, and the rest in
//! proportion. So weights compare as requests do over the whole range of 0.01 to 100 cores, which
//! is the range that v2 can say (1 to 10000, Documentation/admin-guide/cgroup-v2.rst).
//!
//! `memory.memsw.limit_in_bytes` and `memory.swap.max` are missing from kernels without swap
//! accounting; there is no swap to grant then, so a missing file of these two is no failure.

use super::Limits;

/// The period of CPU bandwidth control in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;

/// One value for one file of a cgroup v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupV1Value {
    /// The controller whose hierarchy has the file: `cpu`, `memory` or `pids`.
    pub controller: &'static str,
    /// The file in the cgroup's directory.
    pub file: &'static str,
    /// The text to write.
    pub value: String,
}

/// One value for one file of a cgroup v2 directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupV2Value {
    /// The file in the cgroup's directory.
    pub file: &'static str,
    /// The text to write.
    pub value: String,
}

/// The quota in microseconds a period.
fn quota_us(hundredths: u32) -> u64 {
    u64::from(hundredths.max(1)) * (CPU_PERIOD_US / 100)
}

/// Values for a new cgroup v1, in the order in which they are to be written.
#[must_use]
pub fn cgroup_v1(limits: &Limits) -> Vec<CgroupV1Value> {
    let mut values = Vec::new();
    let mut set = |controller, file, value: u64| {
        values.push(CgroupV1Value {
            controller,
            file,
            value: value.to_string(),
        });
    };
    if let Some(cpu) = limits.cpu_max {
        set("cpu", "cpu.cfs_period_us", CPU_PERIOD_US);
        set("cpu", "cpu.cfs_quota_us", quota_us(cpu));
    }
    if let Some(cpu) = limits.cpu_request {
        set(
            "cpu",
            "cpu.shares",
            (u64::from(cpu) * 1024 / 100).clamp(2, 262_144),
        );
    }
    if let Some(bytes) = limits.memory_request {
        set("memory", "memory.soft_limit_in_bytes", v1_bytes(bytes));
    }
    if let Some(bytes) = limits.memory_max {
        // Memory first: the kernel refuses memory and swap together below memory alone.
        set("memory", "memory.limit_in_bytes", v1_bytes(bytes));
        set("memory", "memory.memsw.limit_in_bytes", v1_bytes(bytes));
    }
    if let Some(pids) = limits.pids_max {
        set("pids", "pids.max", u64::from(pids));
    }
    values
}

/// The kernel reads a signed number here.
fn v1_bytes(bytes: u64) -> u64 {
    bytes.min(i64::MAX.unsigned_abs())
}

/// Values for a new cgroup v2, in the order in which they are to be written.
#[must_use]
pub fn cgroup_v2(limits: &Limits) -> Vec<CgroupV2Value> {
    let mut values = Vec::new();
    let mut set = |file, value: String| values.push(CgroupV2Value { file, value });
    if let Some(cpu) = limits.cpu_max {
        set("cpu.max", format!("{} {CPU_PERIOD_US}", quota_us(cpu)));
    }
    if let Some(cpu) = limits.cpu_request {
        set("cpu.weight", cpu.clamp(1, 10_000).to_string());
    }
    if let Some(bytes) = limits.memory_request {
        set("memory.low", bytes.to_string());
    }
    if let Some(bytes) = limits.memory_max {
        set("memory.swap.max", "0".to_owned());
        set("memory.max", bytes.to_string());
    }
    if let Some(pids) = limits.pids_max {
        set("pids.max", pids.to_string());
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        cpu_max: Some(150),
        cpu_request: Some(50),
        memory_max: Some(1 << 30),
        memory_request: Some(1 << 29),
        pids_max: Some(1024),
    };

    fn v1(limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
        let values = cgroup_v1(limits).into_iter();
        values.map(|v| (v.controller, v.file, v.value)).collect()
    }

    fn v2(limits: &Limits) -> Vec<(&'static str, String)> {
        let values = cgroup_v2(limits).into_iter();
        values.map(|v| (v.file, v.value)).collect()
    }

    #[test]
    fn v1_values_are_exact_and_in_order() {
        let expected = [
            ("cpu", "cpu.cfs_period_us", "100000"),
            ("cpu", "cpu.cfs_quota_us", "150000"),
            ("cpu", "cpu.shares", "512"),
            ("memory", "memory.soft_limit_in_bytes", "536870912"),
            ("memory", "memory.limit_in_bytes", "1073741824"),
            ("memory", "memory.memsw.limit_in_bytes", "1073741824"),
            ("pids", "pids.max", "1024"),
        ];
        assert_eq!(v1(&LIMITS), expected.map(|(c, f, v)| (c, f, v.to_owned())));
    }

    #[test]
    fn v2_values_are_exact_and_in_order() {
        let expected = [
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "50"),
            ("memory.low", "536870912"),
            ("memory.swap.max", "0"),
            ("memory.max", "1073741824"),
            ("pids.max", "1024"),
        ];
        assert_eq!(v2(&LIMITS), expected.map(|(f, v)| (f, v.to_owned())));
    }

    #[test]
    fn what_is_not_bounded_is_not_written() {
        assert!(cgroup_v1(&Limits::default()).is_empty());
        assert!(cgroup_v2(&Limits::default()).is_empty());
    }

    #[test]
    fn the_ends_of_the_ranges_are_what_the_kernel_takes() {
        let least = Limits {
            cpu_max: Some(1),
            cpu_request: Some(0),
            ..Limits::default()
        };
        assert_eq!(v2(&least)[0].1, "1000 100000");
        assert_eq!(v2(&least)[1].1, "1");
        assert_eq!(v1(&least)[2].2, "2");
        let most = Limits {
            cpu_request: Some(u32::MAX),
            memory_max: Some(u64::MAX),
            ..Limits::default()
        };
        assert_eq!(v2(&most)[0].1, "10000");
        assert_eq!(v1(&most)[0].2, "262144");
        assert_eq!(v1(&most)[1].2, i64::MAX.to_string());
    }

    proptest! {
        #[test]
        fn more_is_never_less(a in 1u32..=10_000, b in 1u32..=10_000) {
            let of = |cpu| Limits { cpu_max: Some(cpu), cpu_request: Some(cpu), ..Limits::default() };
            let number = |text: &str| text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            for i in 0..2 {
                let (x, y) = (v2(&of(a))[i].1.clone(), v2(&of(b))[i].1.clone());
                prop_assert_eq!(a.cmp(&b), number(&x).cmp(&number(&y)));
            }
            for i in 1..3 {
                let (x, y) = (v1(&of(a))[i].2.clone(), v1(&of(b))[i].2.clone());
                prop_assert!(a.cmp(&b) == number(&x).cmp(&number(&y)));
            }
        }

        #[test]
        fn quotas_are_exact(cpu in 1u32..=1_000_000) {
            let limits = Limits { cpu_max: Some(cpu), ..Limits::default() };
            let quota: u64 = v1(&limits)[1].2.parse().unwrap();
            prop_assert_eq!(quota * 100, u64::from(cpu) * CPU_PERIOD_US);
        }
    }
}
