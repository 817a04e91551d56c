//! Detection and translation, without touching a cgroup.

use proptest::prelude::*;

use super::layout::{has, parse};
use super::meter::field;
use super::translate::{PERIOD, io, quota, shares, v1, v2, weight};
use super::tree::{
    can_freeze, create, directories, freeze, has_driver, kill, kind_of, remove, remove_parents,
};
use crate::protocol::{Bounds, CgroupPlan, Driver};

/// Those that were built in.
fn drivers() -> impl Iterator<Item = Driver> {
    [Driver::Files, Driver::CgroupsRs]
        .into_iter()
        .filter(|driver| has_driver(*driver))
}

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw
";

#[test]
fn hierarchies_are_read_from_mountinfo() {
    let plan = parse(HYBRID, "/aci/");
    assert_eq!(plan.v2.as_deref(), Some("/sys/fs/cgroup/uni fied"));
    assert_eq!(plan.parent, "aci");
    assert!(has(&plan, "cpu") && has(&plan, "memory") && !has(&plan, "pids"));
    let at: Vec<_> = directories(&plan, "group/web")
        .into_iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        at,
        [
            "/sys/fs/cgroup/uni fied/aci/group/web",
            "/sys/fs/cgroup/cpu,cpuacct/aci/group/web",
            "/sys/fs/cgroup/memory/aci/group/web",
        ]
    );
    // A v2 hierarchy freezes by itself; without one the controller is used.
    assert!(can_freeze(&plan));
    let v1 = "40 31 0:37 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";
    assert!(can_freeze(&parse(v1, "aci")) && has(&parse(v1, "aci"), "freezer"));
    assert!(!has(&parse(&format!("{HYBRID}{v1}"), "aci"), "freezer"));
    assert!(!can_freeze(&parse("", "aci")));
    assert_eq!(parse("", "aci").v2, None);
}

fn value(settings: &[super::translate::Setting], file: &str) -> Option<String> {
    settings
        .iter()
        .find(|setting| setting.file == file)
        .map(|setting| setting.value.clone())
}

#[test]
fn limits_become_values() {
    let bounds = Bounds {
        cpu_max: Some(150),
        cpu_request: Some(100),
        memory_max: Some(1_500_000_000),
        memory_request: Some(1_000_000_000),
        pids_max: Some(100),
        io_max: None,
    };
    let two = v2(&bounds, true);
    assert_eq!(value(&two, "cpu.max").as_deref(), Some("150000 100000"));
    assert_eq!(value(&two, "cpu.weight").as_deref(), Some("100"));
    assert_eq!(value(&two, "memory.max").as_deref(), Some("1500000000"));
    assert_eq!(value(&two, "memory.swap.max").as_deref(), Some("0"));
    assert_eq!(value(&two, "memory.low").as_deref(), Some("1000000000"));
    assert_eq!(value(&two, "memory.oom.group").as_deref(), Some("1"));
    assert_eq!(value(&two, "pids.max").as_deref(), Some("101"));
    assert_eq!(value(&v2(&bounds, false), "memory.oom.group"), None);
    assert_eq!(
        value(&v2(&bounds, false), "pids.max").as_deref(),
        Some("100")
    );
    let one = v1(&bounds, true);
    assert_eq!(value(&one, "cpu.cfs_quota_us").as_deref(), Some("150000"));
    assert_eq!(value(&one, "cpu.shares").as_deref(), Some("1024"));
    let place = |file| one.iter().position(|setting| setting.file == file).unwrap();
    assert!(place("memory.limit_in_bytes") < place("memory.memsw.limit_in_bytes"));
    assert!(v1(&Bounds::default(), true).is_empty() && v2(&Bounds::default(), true).is_empty());
}

/// A directory tree stands for the v2 hierarchy: controllers are handed down to the container's
/// directory and not further, because processes will be in it.
#[test]
fn controllers_are_handed_down_to_leaves() {
    drivers().for_each(hands_down);
}

fn hands_down(driver: Driver) {
    let mount = tempfile::tempdir().unwrap();
    let plan = CgroupPlan {
        v2: Some(mount.path().to_string_lossy().into_owned()),
        v2_controllers: ["cpuset", "cpu", "io", "memory", "pids"]
            .map(str::to_owned)
            .to_vec(),
        v1: Vec::new(),
        parent: "machine/aci".to_owned(),
        driver,
        ..CgroupPlan::default()
    };
    let bounds = Bounds {
        memory_max: Some(1 << 20),
        pids_max: Some(25),
        ..Bounds::default()
    };
    create(&plan, "group", &bounds, false, false).unwrap();
    create(&plan, "group/web", &bounds, true, true).unwrap();
    let read = |path: &str| std::fs::read_to_string(mount.path().join(path)).ok();
    for path in ["", "machine/", "machine/aci/", "machine/aci/group/"] {
        // The last write stays in a plain file.
        assert_eq!(
            read(&format!("{path}cgroup.subtree_control")).as_deref(),
            Some("+io"),
            "{driver:?} {path}"
        );
    }
    assert_eq!(read("machine/aci/group/web/cgroup.subtree_control"), None);
    for (path, pids, whole) in [
        ("machine/aci/group", "25", None),
        ("machine/aci/group/web", "26", Some("1")),
    ] {
        let value = |file: &str| read(&format!("{path}/{file}"));
        assert_eq!(value("pids.max").as_deref(), Some(pids), "{driver:?}");
        assert_eq!(value("memory.max").as_deref(), Some("1048576"));
        assert_eq!(value("memory.swap.max").as_deref(), Some("0"));
        assert_eq!(value("memory.oom.group").as_deref(), whole);
    }
}

/// That the parent was removed by another program while a cgroup was made in it was not tried again
/// when the kernel said ENODEV instead of ENOENT, and the start failed.
#[test]
fn a_directory_that_goes_away_is_not_found() {
    for number in [libc::ENODEV, libc::ENOENT] {
        let error = std::io::Error::from_raw_os_error(number);
        assert_eq!(kind_of(&error), std::io::ErrorKind::NotFound);
    }
    let denied = std::io::Error::from_raw_os_error(libc::EACCES);
    assert_eq!(kind_of(&denied), std::io::ErrorKind::PermissionDenied);
}

/// CPU time of a process so far, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1;
    let times = fields.split(' ').skip(11).take(2);
    times.map(|field| field.parse::<u64>().unwrap()).sum()
}

/// The v1 freezer, which this crate uses where there is no v2 hierarchy, on the kernel's own. What
/// is killed while it is frozen dies when it is thawed.
#[test]
fn a_v1_freezer_holds_processes_until_they_are_thawed() {
    let point = std::path::Path::new("/sys/fs/cgroup/freezer");
    let root = rustix::process::geteuid().is_root();
    if !root || !point.join("tasks").exists() {
        println!("SKIPPED: the v1 controller freezer is not mounted, or this is not root");
        return;
    }
    for driver in drivers() {
        let plan = CgroupPlan {
            v1: vec![("freezer".to_owned(), point.to_string_lossy().into_owned())],
            parent: format!("aci-test-{}-{driver:?}", std::process::id()),
            driver,
            ..CgroupPlan::default()
        };
        create(&plan, "group/web", &Bounds::default(), true, true).unwrap();
        let busy = ["-c", "while :; do :; done"];
        let mut child = std::process::Command::new("sh").args(busy).spawn().unwrap();
        let inside = point.join(&plan.parent).join("group/web/cgroup.procs");
        std::fs::write(inside, child.id().to_string()).unwrap();
        let patience = std::time::Duration::from_secs(10);
        freeze(&plan, "group", true, patience).unwrap();
        let used = ticks(child.id());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(ticks(child.id()), used, "{driver:?}: it went on");
        freeze(&plan, "group", false, patience).unwrap();
        while ticks(child.id()) == used {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        freeze(&plan, "group", true, patience).unwrap();
        kill(&plan, "group");
        freeze(&plan, "group", false, patience).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&ended),
            Some(9)
        );
        remove(&plan, "group").unwrap();
        remove_parents(&plan);
        assert!(!point.join(&plan.parent).exists(), "{driver:?}");
    }
}

#[test]
fn io_is_bounded_on_each_disk() {
    let disks = ["8:0".to_owned(), "254:16".to_owned()];
    let settings = io(&disks, 1 << 20);
    let values = |file| -> Vec<&str> {
        let of = settings.iter().filter(|setting| setting.file == file);
        of.map(|setting| setting.value.as_str()).collect()
    };
    assert_eq!(
        values("io.max"),
        [
            "8:0 rbps=1048576 wbps=1048576",
            "254:16 rbps=1048576 wbps=1048576"
        ]
    );
    for file in [
        "blkio.throttle.read_bps_device",
        "blkio.throttle.write_bps_device",
    ] {
        assert_eq!(values(file), ["8:0 1048576", "254:16 1048576"]);
    }
}

#[test]
fn fields_are_found_whole() {
    let text = "inactive_file 5\ntotal_inactive_file 7\noom_kill 2\n";
    assert_eq!(field(text, "inactive_file"), Some(5));
    assert_eq!(field(text, "total_inactive_file"), Some(7));
    assert_eq!(field(text, "oom"), None);
}

proptest! {
    /// One hundredth of a core is exactly one hundredth of the period.
    #[test]
    fn quotas_are_exact(hundredths in 1_u32..100_000) {
        prop_assert_eq!(quota(hundredths) * 100, u64::from(hundredths) * PERIOD);
    }

    /// One translation in two places must be one.
    #[test]
    fn values_are_those_of_the_core(
        cpu_max in proptest::option::of(any::<u32>()),
        cpu_request in proptest::option::of(any::<u32>()),
        memory_max in proptest::option::of(any::<u64>()),
        memory_request in proptest::option::of(any::<u64>()),
        pids_max in proptest::option::of(any::<u32>()),
    ) {
        let limits = aci_core::size::Limits { cpu_max, cpu_request, memory_max, memory_request, pids_max };
        let bounds = Bounds { cpu_max, cpu_request, memory_max, memory_request, pids_max, io_max: None };
        let one = v1(&bounds, false);
        for theirs in aci_core::size::cgroup_v1(&limits) {
            prop_assert_eq!(value(&one, theirs.file), Some(theirs.value), "{}", theirs.file);
        }
        let two = v2(&bounds, false);
        for theirs in aci_core::size::cgroup_v2(&limits) {
            prop_assert_eq!(value(&two, theirs.file), Some(theirs.value), "{}", theirs.file);
        }
    }

    #[test]
    fn weights_grow_and_stay_in_range(a in 0_u32..60_000, b in 0_u32..60_000) {
        prop_assert!((2..=262_144).contains(&shares(a)));
        prop_assert!((1..=10_000).contains(&weight(a)));
        if a <= b {
            prop_assert!(weight(a) <= weight(b) && shares(a) <= shares(b));
        }
    }
}
