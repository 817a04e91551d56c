//! Guests that misbehave: the host keeps its limits, and says what happened.

use std::time::Duration;

use super::*;

/// As privileged as a container gets: in a guest that is everything but the agent.
fn privileged(mut container: ContainerSpec) -> ContainerSpec {
    container.security.privileged = true;
    container
}

/// The error of a sandbox that is lost.
async fn loss(sandbox: &dyn Sandbox) -> String {
    for _ in 0..600 {
        if let Err(error) = sandbox.status().await {
            assert_eq!(error.kind(), ErrorKind::Lost, "{}", error.chain());
            return error.chain();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the guest goes on");
}

/// Bombs of processes, of logs and of files in one container; beside it another one is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_in_a_guest_stay_where_they_are() {
    let Some(guests) = guests() else { return };
    let sandbox = guests.sandbox(Vec::new()).await;
    let sandbox = &*sandbox;
    let calm = guests.bench.shell("calm", "echo up; sleep 1000");
    sandbox.start(calm).await.unwrap();
    wait_for_line(sandbox, "calm", "up").await;
    let served = async || {
        let asking = exec(sandbox, "calm", &["/bin/sh", "-c", "echo served"]);
        let answer = tokio::time::timeout(Duration::from_secs(60), asking).await;
        let (code, text) = answer.expect("exec is starved").unwrap();
        assert_eq!((code, text.as_str()), (0, "served\n"));
    };

    // Processes: no more than the container may have, all of them in the guest.
    let jail = guests
        .bench
        .cgroup_file(sandbox.id().as_str(), &["pids.current"]);
    let mut forks = guests.bench.shell(
        "forks",
        "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo all; wait",
    );
    forks.limits.pids_max = Some(20);
    sandbox.start(forks).await.unwrap();
    let ended = ended(sandbox, "forks").await;
    assert_ne!(ended.code, 0, "a shell that cannot fork gives up");
    served().await;
    let now = guests
        .bench
        .cgroup_file(sandbox.id().as_str(), &["pids.current"]);
    assert_eq!(jail.is_some(), now.is_some());
    served().await;

    // A flood of log lines: kept in bounds, and exec is not starved.
    let mut flood = guests
        .bench
        .shell("flood", "while true; do echo flooding; done");
    flood.log_bytes = 64 * 1024;
    sandbox.start(flood).await.unwrap();
    wait_for_line(sandbox, "flood", "flooding").await;
    for _ in 0..3 {
        served().await;
    }
    let kept = log(sandbox, "flood").await.len();
    assert!(kept < 200 * 1024, "{kept} bytes of log are kept");
    sandbox.signal("flood", Signal::KILL, true).await.unwrap();

    // A full disk: an error for who fills it, or his end; the others have room.
    let full = guests.bench.shell(
        "full",
        "dd if=/dev/zero of=/filling bs=1048576 count=4096 2>/dev/null || echo full; rm -f /filling; echo over",
    );
    sandbox.start(full).await.unwrap();
    let status = common::ended(sandbox, "full").await;
    let said = log(sandbox, "full").await;
    assert!(said.contains("full") || status.oom, "{status:?}: {said}");
    served().await;

    // Memory: the guest's own end of it, told as such.
    let bomb = guests
        .bench
        .shell("memory", "x=x; while true; do x=$x$x; done");
    sandbox.start(bomb).await.unwrap();
    let status = common::ended(sandbox, "memory").await;
    assert!(status.oom || status.code == 137, "{status:?}");
    served().await;
    sandbox.destroy().await.unwrap();
    guests.assert_clean();
}

/// Root in the guest makes its kernel panic: the machine ends, and the console tells why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_panics_is_told() {
    let Some(guests) = guests() else { return };
    let sandbox = guests.sandbox(Vec::new()).await;
    let panic = guests
        .bench
        .shell("root", "echo c > /proc/sysrq-trigger; sleep 1000");
    // Its answer may be lost with the machine.
    let _ = sandbox.start(privileged(panic)).await;
    let why = loss(&*sandbox).await;
    assert!(why.contains("panic") && why.contains("sysrq"), "{why}");
    sandbox.destroy().await.unwrap();
    assert!(guests.isolation.list().await.unwrap().is_empty());
    guests.assert_clean();
}

/// Root in the guest kills all that runs there, the agent included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_whose_agent_is_killed_inside_is_told() {
    let Some(guests) = guests() else { return };
    let sandbox = guests.sandbox(Vec::new()).await;
    let killer = guests
        .bench
        .shell("root", "echo i > /proc/sysrq-trigger; sleep 1000");
    let _ = sandbox.start(privileged(killer)).await;
    let why = loss(&*sandbox).await;
    assert!(why.contains("aci-init: the agent has ended"), "{why}");
    sandbox.destroy().await.unwrap();
    guests.assert_clean();
}
