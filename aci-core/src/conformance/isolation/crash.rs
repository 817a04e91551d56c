//! Programs that die, and supervisors that die.

use std::time::Duration;

use super::super::{fails, in_time, skip, works};
use super::{
    Behaviour, Bench, IsolationHarness, QUIET, SOON, case, collect, ended, lacks, process, state,
    texts,
};
use crate::contract::{ExecSpec, LogQuery, RunState};
use crate::error::ErrorKind;

/// Runs the cases of this part.
pub async fn all(h: &dyn IsolationHarness) {
    case(h, "adopted_sandboxes_go_on", adopted_sandboxes_go_on(h)).await;
    case(h, "missed_exits_are_seen", missed_exits_are_seen(h)).await;
    case(h, "adopt_again", adopt_again(h)).await;
    case(h, "lost_sandboxes", lost_sandboxes(h)).await;
}

/// A later program finds the sandbox, sees what runs, and has all of its abilities.
pub async fn adopted_sandboxes_go_on(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::Exit(5), Behaviour::CopyInput];
    if lacks(h, "adopted_sandboxes_go_on", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &Behaviour::Wait).await;
    let spec = bench.container("b", &Behaviour::Exit(5)).await;
    let id = bench.sandbox.id().clone();
    let Some(second) = h.reopen().await else {
        skip(
            "adopted_sandboxes_go_on",
            "sandboxes end with their program",
        );
        return bench.destroy().await;
    };
    assert!(works(second.list().await, "list").contains(&id));
    let adopted = works(second.adopt(&id).await, "adopt");
    assert_eq!(adopted.id(), &id);
    let seen = state(&*adopted, "a").await;
    assert!(matches!(seen, Some(RunState::Running { .. })), "{seen:?}");
    works(adopted.start(spec).await, "start by the second program");
    assert_eq!(ended(&*adopted, "b").await.code, 5);
    let spec = ExecSpec {
        process: process(h, &Behaviour::CopyInput),
        stdin: false,
    };
    let ran = works(adopted.exec("a", spec).await, "exec by the second program");
    let status = in_time(SOON, "the end of an exec", ran.control.wait()).await;
    assert_eq!(works(status, "wait").code, 0);
    works(adopted.destroy().await, "destroy by the second program");
    assert!(!works(second.list().await, "list").contains(&id));
    fails(
        bench.sandbox.status().await,
        ErrorKind::Lost,
        "the first handle",
    );
}

/// An exit between two programs is told to the second, with its code, and the log is complete.
pub async fn missed_exits_are_seen(h: &dyn IsolationHarness) {
    let ticks = Behaviour::Ticks {
        interval: Duration::from_millis(20),
        count: 5,
    };
    if lacks(h, "missed_exits_are_seen", &[ticks]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &ticks).await;
    let id = bench.sandbox.id().clone();
    let Some(second) = h.reopen().await else {
        skip("missed_exits_are_seen", "sandboxes end with their program");
        return bench.destroy().await;
    };
    bench.ended("a").await;
    let adopted = works(second.adopt(&id).await, "adopt");
    match state(&*adopted, "a").await {
        Some(RunState::Exited { status, .. }) => assert_eq!(status.code, 0),
        other => panic!("{other:?}"),
    }
    let log = works(adopted.logs("a", LogQuery::default()).await, "logs");
    assert_eq!(texts(&collect(log).await).len(), 5);
    works(adopted.destroy().await, "destroy");
}

/// Adopting twice gives two handles of one sandbox.
pub async fn adopt_again(h: &dyn IsolationHarness) {
    if lacks(h, "adopt_again", &[Behaviour::Wait]) {
        return;
    }
    let isolation = h.isolation();
    let bench = Bench::new(h).await;
    let id = bench.sandbox.id().clone();
    let one = works(isolation.adopt(&id).await, "adopt");
    let two = works(isolation.adopt(&id).await, "adopt again");
    bench.start("a", &Behaviour::Wait).await;
    for sandbox in [&one, &two] {
        let seen = state(&**sandbox, "a").await;
        assert!(matches!(seen, Some(RunState::Running { .. })), "{seen:?}");
    }
    works(one.destroy().await, "destroy by another handle");
    fails(two.status().await, ErrorKind::Lost, "the other handle");
    works(bench.sandbox.destroy().await, "destroy again");
}

/// When its supervisor dies a sandbox is lost: waiters hear of it, and it can only be removed.
pub async fn lost_sandboxes(h: &dyn IsolationHarness) {
    if lacks(h, "lost_sandboxes", &[Behaviour::Wait]) {
        return;
    }
    let isolation = h.isolation();
    let bench = Bench::new(h).await;
    bench.start("a", &Behaviour::Wait).await;
    let id = bench.sandbox.id().clone();
    let seen = works(bench.sandbox.status().await, "status").generation;
    let kill = async {
        tokio::time::sleep(QUIET / 10).await;
        let killed = h.kill_supervisor(&id).await;
        if !killed {
            skip("lost_sandboxes", "the supervisor cannot be killed here");
            works(bench.sandbox.destroy().await, "destroy");
        }
        killed
    };
    let waiting = async {
        let mut seen = seen;
        loop {
            match bench.sandbox.changed(seen).await {
                Ok(status) => seen = status.generation,
                Err(error) => return error,
            }
        }
    };
    let both = futures_util::future::join(waiting, kill);
    let (error, killed) = in_time(SOON, "the loss", both).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error}");
    if !killed {
        return;
    }
    assert!(works(isolation.list().await, "list").contains(&id));
    let adopted = isolation.adopt(&id).await;
    fails(adopted.map(|_| ()), ErrorKind::Lost, "adopt");
    works(isolation.remove(&id).await, "remove");
    assert!(!works(isolation.list().await, "list").contains(&id));
    fails(bench.sandbox.status().await, ErrorKind::Lost, "status");
}
