//! Sandboxes as a whole: made, listed, removed.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::{CUTS, cut_short, fails, in_time, works};
use super::{Behaviour, Bench, IsolationHarness, QUIET, SOON, case, lacks, plain};
use crate::contract::{ExecSpec, LogQuery, Signal};
use crate::error::ErrorKind;
use crate::id::SandboxId;

/// Runs the cases of this part.
pub async fn all(h: &dyn IsolationHarness) {
    case(h, "create_list_destroy", create_list_destroy(h)).await;
    case(h, "duplicate_id", duplicate_id(h)).await;
    case(h, "unknown_sandboxes", unknown_sandboxes(h)).await;
    case(h, "remove_kills", remove_kills(h)).await;
    case(h, "destroyed_is_lost", destroyed_is_lost(h)).await;
    case(h, "waiters_hear_of_the_end", waiters_hear_of_the_end(h)).await;
    case(h, "two_sandboxes_are_apart", two_sandboxes_are_apart(h)).await;
    case(h, "capability_is_stable", capability_is_stable(h)).await;
    case(h, "dropped_create", dropped_create(h)).await;
    case(h, "dropped_destroy", dropped_destroy(h)).await;
}

/// A sandbox is listed until it is destroyed; destroying and removing may be repeated.
pub async fn create_list_destroy(h: &dyn IsolationHarness) {
    let isolation = h.isolation();
    let bench = Bench::new(h).await;
    let id = bench.sandbox.id().clone();
    assert!(works(isolation.list().await, "list").contains(&id));
    let status = works(bench.sandbox.status().await, "status");
    assert_eq!(status.containers, [], "a new sandbox has no containers");
    let stats = works(bench.sandbox.stats().await, "stats");
    assert_eq!(stats.containers, []);
    works(bench.sandbox.destroy().await, "destroy");
    assert!(!works(isolation.list().await, "list").contains(&id));
    works(bench.sandbox.destroy().await, "destroy again");
    works(isolation.remove(&id).await, "remove after destroy");
}

/// An id that is taken is refused, and the first sandbox does not notice.
pub async fn duplicate_id(h: &dyn IsolationHarness) {
    let isolation = h.isolation();
    let bench = Bench::new(h).await;
    let spec = plain(bench.sandbox.id());
    fails(
        isolation.create(spec).await,
        ErrorKind::AlreadyExists,
        "a second sandbox of an id",
    );
    works(bench.sandbox.status().await, "status of the first");
    let id = bench.sandbox.id().clone();
    bench.destroy().await;
    let again = works(isolation.create(plain(&id)).await, "create after destroy");
    works(again.destroy().await, "destroy");
}

/// An unknown id cannot be adopted, and removing it is no error.
pub async fn unknown_sandboxes(h: &dyn IsolationHarness) {
    let isolation = h.isolation();
    let id = SandboxId::generate("unknown");
    fails(isolation.adopt(&id).await, ErrorKind::NotFound, "adopt");
    works(isolation.remove(&id).await, "remove");
}

/// `remove` ends what runs.
pub async fn remove_kills(h: &dyn IsolationHarness) {
    if lacks(h, "remove_kills", &[Behaviour::IgnoreTerm]) {
        return;
    }
    let isolation = h.isolation();
    let bench = Bench::new(h).await;
    bench.start("a", &Behaviour::IgnoreTerm).await;
    let id = bench.sandbox.id().clone();
    works(isolation.remove(&id).await, "remove");
    assert!(!works(isolation.list().await, "list").contains(&id));
    fails(bench.sandbox.status().await, ErrorKind::Lost, "status");
}

/// Every call on a destroyed sandbox answers `Lost`, except `destroy`.
pub async fn destroyed_is_lost(h: &dyn IsolationHarness) {
    let wait = Behaviour::Wait;
    if lacks(h, "destroyed_is_lost", &[wait]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &wait).await;
    let spec = bench.container("b", &wait).await;
    let sandbox = &bench.sandbox;
    works(sandbox.destroy().await, "destroy");
    let lost = ErrorKind::Lost;
    fails(sandbox.status().await, lost, "status");
    fails(sandbox.start(spec).await, lost, "start");
    let exec = ExecSpec {
        process: super::process(h, &wait),
        stdin: false,
    };
    fails(sandbox.exec("a", exec).await, lost, "exec");
    fails(
        sandbox.signal("a", Signal::TERM, false).await,
        lost,
        "signal",
    );
    fails(sandbox.stats().await, lost, "stats");
    let log = sandbox.logs("a", LogQuery::default()).await;
    fails(log.map(|_| ()), lost, "logs");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let dialled = sandbox.dial(address, Duration::from_secs(1)).await;
    fails(dialled.map(|_| ()), lost, "dial");
    let changed = in_time(SOON, "changed", sandbox.changed(u64::MAX));
    fails(changed.await, lost, "changed");
    works(sandbox.destroy().await, "destroy again");
}

/// Whoever waits for a change or for a process hears that the sandbox is destroyed.
pub async fn waiters_hear_of_the_end(h: &dyn IsolationHarness) {
    let wait = Behaviour::Wait;
    if lacks(h, "waiters_hear_of_the_end", &[wait]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &wait).await;
    let exec = ExecSpec {
        process: super::process(h, &wait),
        stdin: false,
    };
    let process = works(bench.sandbox.exec("a", exec).await, "exec");
    let seen = works(bench.sandbox.status().await, "status").generation;
    let changes = async {
        let mut seen = seen;
        loop {
            // The ends of the processes may be seen first.
            match bench.sandbox.changed(seen).await {
                Ok(status) => seen = status.generation,
                Err(error) => return error,
            }
        }
    };
    let destroy = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        works(bench.sandbox.destroy().await, "destroy");
    };
    let (changed, ended, ()) = in_time(
        SOON,
        "the waiters",
        futures_util::future::join3(changes, process.control.wait(), destroy),
    )
    .await;
    assert_eq!(changed.kind(), ErrorKind::Lost, "{changed}");
    if let Err(error) = ended {
        assert_eq!(error.kind(), ErrorKind::Lost, "{error}");
    }
}

/// Equal names and ports in two sandboxes do not meet.
pub async fn two_sandboxes_are_apart(h: &dyn IsolationHarness) {
    let wait = Behaviour::Wait;
    if lacks(h, "two_sandboxes_are_apart", &[wait]) {
        return;
    }
    let (a, b) = (Bench::new(h).await, Bench::new(h).await);
    a.start("web", &wait).await;
    assert_eq!(b.state("web").await, None);
    b.start("web", &wait).await;
    a.destroy().await;
    assert!(b.is_running("web").await, "the other sandbox was hit");
    b.destroy().await;
}

/// The ability value does not change.
pub async fn capability_is_stable(h: &dyn IsolationHarness) {
    let isolation = h.isolation();
    let first = isolation.capability();
    assert!(!first.name.is_empty());
    let bench = Bench::new(h).await;
    assert_eq!(isolation.capability(), first);
    bench.destroy().await;
    let complete = first.limits && first.many_users && first.survives_host;
    assert!(
        complete || !first.missing.is_empty(),
        "a missing ability is not put into words: {first:?}"
    );
}

/// A dropped `create` leaves what `list` shows and `remove` removes; then the id is free.
pub async fn dropped_create(h: &dyn IsolationHarness) {
    let isolation = h.isolation();
    for cut in CUTS {
        let id = SandboxId::generate("cut");
        let made = cut_short(cut, isolation.create(plain(&id))).await;
        drop(made);
        works(isolation.remove(&id).await, "remove");
        assert!(!works(isolation.list().await, "list").contains(&id));
        let sandbox = works(isolation.create(plain(&id)).await, "create after it");
        works(sandbox.destroy().await, "destroy");
        // What went on in the background after the drop must not bring the sandbox back.
        tokio::time::sleep(QUIET / 10).await;
        assert!(!works(isolation.list().await, "list").contains(&id));
    }
}

/// A dropped `destroy` can be repeated.
pub async fn dropped_destroy(h: &dyn IsolationHarness) {
    if lacks(h, "dropped_destroy", &[Behaviour::Wait]) {
        return;
    }
    let isolation = h.isolation();
    for cut in CUTS {
        let bench = Bench::new(h).await;
        bench.start("a", &Behaviour::Wait).await;
        let id = bench.sandbox.id().clone();
        let _ = cut_short(cut, bench.sandbox.destroy()).await;
        bench.destroy().await;
        assert!(!works(isolation.list().await, "list").contains(&id));
    }
}
