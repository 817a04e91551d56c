//! Sandboxes that are made ahead of need.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use common::*;

async fn ready(bench: &Bench, count: usize) {
    for _ in 0..500 {
        if bench.isolation.spares_ready() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("there are {} spares", bench.isolation.spares_ready());
}

/// The processes in the cgroup of all agents.
fn agents(bench: &Bench) -> Vec<i32> {
    let text = bench.cgroup_file("_agents", &["cgroup.procs"]);
    let text = text.unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_spare_becomes_a_sandbox_and_another_takes_its_place() {
    let Some(bench) = bench_with(|options| options.spares(2)) else {
        return;
    };
    ready(&bench, 2).await;
    let before = agents(&bench);
    for _ in 0..3 {
        let sandbox = bench.sandbox().await;
        let pid = bench.agent(sandbox.id()).as_raw_nonzero().get();
        if !before.is_empty() {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(line.contains(sandbox.id().as_str()), "{line}");
            assert!(!line.contains("-----"), "{line}");
        }
        let container = bench.container("web", &["sh", "-c", "hostname; true"]);
        sandbox.start(container).await.unwrap();
        assert_eq!(ended(&*sandbox, "web").await.code, 0);
        assert!(log(&*sandbox, "web").await.contains("group"));
        sandbox.destroy().await.unwrap();
        ready(&bench, 2).await;
    }
    // The first two were made of those that were there.
    assert!(agents(&bench).iter().all(|pid| !before.contains(pid)));
    let cgroups = bench.cgroups();
    drop(bench);
    for directory in cgroups {
        assert!(!directory.exists(), "left: {}", directory.display());
    }
}

#[tokio::test]
async fn a_spare_that_has_died_is_done_without() {
    let Some(bench) = bench_with(|options| options.spares(1)) else {
        return;
    };
    ready(&bench, 1).await;
    for pid in agents(&bench) {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("web", &["true"]))
        .await
        .unwrap();
    assert_eq!(ended(&*sandbox, "web").await.code, 0);
    sandbox.destroy().await.unwrap();
}

#[test]
fn without_root() {
    again_without_root(&[
        "a_spare_becomes_a_sandbox_and_another_takes_its_place",
        "a_spare_that_has_died_is_done_without",
    ]);
}
