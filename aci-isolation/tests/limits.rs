//! Limits hold, are exact, and their numbers come back as statistics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use aci_core::contract::*;
use aci_core::size::Limits;
use common::*;

fn lacks(bench: &Bench) -> bool {
    let lacks = !bench.isolation.capability().limits;
    if lacks {
        println!(
            "SKIPPED: no limits here: {:?}",
            bench.isolation.capability().missing
        );
    }
    lacks
}

#[tokio::test]
async fn out_of_memory_is_told_and_hits_nobody_else() {
    let Some(bench) = bench() else { return };
    if lacks(&bench) {
        return;
    }
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("calm", &["sleep", "1000"]))
        .await
        .unwrap();
    let mut hog = bench.shell("hog", "exec tail /dev/zero");
    hog.limits.memory_max = Some(32 << 20);
    sandbox.start(hog).await.unwrap();
    let exit = ended(&*sandbox, "hog").await;
    assert!(exit.oom, "{exit:?}");
    assert_eq!(exit.code, 137);
    assert!(matches!(
        state(&*sandbox, "calm").await,
        RunState::Running { .. }
    ));
    sandbox.signal("calm", Signal::KILL, false).await.unwrap();
    assert!(!ended(&*sandbox, "calm").await.oom);
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn values_are_written_exactly() {
    let Some(bench) = bench() else { return };
    if lacks(&bench) {
        return;
    }
    let mut spec = spec(Vec::new());
    spec.limits = Limits {
        cpu_max: Some(150),
        memory_max: Some(256 << 20),
        ..Limits::default()
    };
    let sandbox = bench.isolation.create(spec).await.unwrap();
    let mut container = bench.container("web", &["sleep", "1000"]);
    container.limits = Limits {
        cpu_max: Some(37),
        cpu_request: Some(50),
        memory_max: Some(100 << 20),
        memory_request: Some(50 << 20),
        pids_max: Some(20),
    };
    sandbox.start(container).await.unwrap();
    let group = sandbox.id().to_string();
    let web = format!("{group}/web");
    let file =
        |path: &str, names: &[&str]| bench.cgroup_file(path, names).unwrap().trim().to_owned();
    let quota = |path: &str| file(path, &["cpu.cfs_quota_us", "cpu.max"]);
    assert_eq!(quota(&web).split(' ').next(), Some("37000"));
    assert_eq!(quota(&group).split(' ').next(), Some("150000"));
    let memory = |path: &str| file(path, &["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(memory(&web), (100 << 20).to_string());
    assert_eq!(memory(&group), (256 << 20).to_string());
    // Requests are weights: half of what a whole core has.
    let weight = file(&web, &["cpu.shares", "cpu.weight"]);
    assert!(["512", "50"].contains(&weight.as_str()), "{weight}");
    // One more for the container's own init.
    assert_eq!(file(&web, &["pids.max"]), "21");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn io_is_bounded_on_the_hosts_disks() {
    let names = ["blkio.throttle.read_bps_device", "io.max"];
    if !bench().is_some_and(|bench| bench.isolation.capability().limits) {
        println!("SKIPPED: no limits here");
        return;
    }
    let Some(bench) = bench_with(|options| options.io_max(Some(3 << 20))) else {
        return;
    };
    let sandbox = bench.sandbox().await;
    let web = bench.container("web", &["sleep", "1000"]);
    sandbox.start(web).await.unwrap();
    let path = format!("{}/web", sandbox.id());
    let written = bench.cgroup_file(&path, &names).unwrap();
    let disks = std::fs::read_dir("/sys/block").unwrap().flatten();
    let disks: Vec<_> = disks
        .filter(|entry| entry.path().join("device").exists())
        .map(|entry| std::fs::read_to_string(entry.path().join("dev")).unwrap())
        .collect();
    if disks.is_empty() {
        println!("SKIPPED: this machine has no disk");
    }
    for disk in disks {
        let line = written.lines().find(|line| line.starts_with(disk.trim()));
        assert!(
            line.is_some_and(|line| line.contains("3145728")),
            "{disk}: {written}"
        );
    }
    // The group itself is not bounded, only each container.
    let group = bench.cgroup_file(sandbox.id().as_str(), &names).unwrap();
    assert!(!group.contains("3145728"), "{group}");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn a_fork_bomb_is_bounded_and_gone_at_once() {
    let Some(bench) = bench() else { return };
    if lacks(&bench) {
        return;
    }
    let sandbox = bench.sandbox().await;
    let mut bomb = bench.shell("bomb", "b() { b | b & }; b; sleep 1000");
    bomb.limits.pids_max = Some(30);
    bomb.limits.cpu_max = Some(50);
    sandbox.start(bomb).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    if matches!(state(&*sandbox, "bomb").await, RunState::Running { .. }) {
        let stats = sandbox.stats().await.unwrap();
        assert!(stats.containers[0].pids <= 30, "{stats:?}");
    }
    sandbox.signal("bomb", Signal::KILL, true).await.unwrap();
    ended(&*sandbox, "bomb").await;
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn statistics_grow_with_use() {
    let Some(bench) = bench() else { return };
    let exact = bench.isolation.capability().limits;
    let sandbox = bench.sandbox().await;
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; sleep 1000 & sleep 1000; true";
    sandbox.start(bench.shell("web", script)).await.unwrap();
    wait_for_line(&*sandbox, "web", "done").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stats = sandbox.stats().await.unwrap();
    let web = &stats.containers[0];
    assert_eq!((web.name.as_str(), web.exact), ("web", exact));
    assert!(web.cpu > Duration::from_millis(20), "{web:?}");
    assert_eq!(web.pids, 3, "{web:?}");
    assert!(web.memory_bytes > 0);
    assert_eq!(stats.network.map(|network| network.rx_bytes), Some(0));
    let told = bench.cgroup_file(&format!("{}/web", sandbox.id()), &["cpu.pressure"]);
    assert_eq!(web.pressure.is_some(), told.is_some(), "{web:?}");
    // Not everything is read anew of who has not run; what ran meanwhile shows at once.
    let script =
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2>/dev/null; sleep 1000 >/dev/null 2>&1 &";
    let (code, _) = exec(&*sandbox, "web", &["/bin/sh", "-c", script])
        .await
        .unwrap();
    assert_eq!(code, 0);
    let later = &sandbox.stats().await.unwrap().containers[0];
    assert_eq!(later.pids, 4, "{later:?}");
    let more = later.memory_bytes.saturating_sub(web.memory_bytes);
    assert!(!exact || more >= 7 << 20, "{web:?} {later:?}");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[test]
fn without_root() {
    again_without_root(&["statistics_grow_with_use"]);
}

/// The agent itself asks the crate: what the kernel refuses comes back in its words.
#[cfg(feature = "cgroups-rs")]
#[tokio::test]
async fn the_agent_asks_cgroups_rs() {
    let driver = aci_isolation::CgroupDriver::CgroupsRs;
    let Some(bench) = bench_with(|options| options.cgroup_driver(driver)) else {
        return;
    };
    let group = spec(Vec::new());
    let id = group.id.to_string();
    let limits = Limits {
        cpu_max: Some(50),
        ..Limits::default()
    };
    let sandbox = bench.isolation.create(SandboxSpec { limits, ..group });
    let sandbox = sandbox.await.unwrap();
    if bench.cgroup_file(&id, &["cpu.cfs_quota_us"]).is_none() {
        println!("SKIPPED: version 2 refuses no quota above that of the group");
        return;
    }
    let mut web = bench.container("web", &["sleep", "1000"]);
    web.limits.cpu_max = Some(100);
    let error = sandbox.start(web).await.unwrap_err().chain();
    let words = "unable to write to a control group file cpu.cfs_quota_us, value 100000";
    assert!(error.contains(words), "{error}");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[cfg(feature = "cgroups-rs")]
#[test]
fn by_cgroups_rs() {
    again_by_cgroups_rs(&[]);
}
