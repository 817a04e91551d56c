//! Opening and ending an engine.

use super::*;

/// An engine that could not be opened went on in the background with the groups that it had taken
/// up before the failure, beside the engine that was opened next.
#[tokio::test]
async fn a_build_that_fails_or_is_dropped_leaves_no_engine_behind() {
    let mut world = World::new();
    let engine = world.open().await;
    let crashing = [("app", "[fail-after, '10']")];
    for name in ["a", "b", "c"] {
        world
            .up(&engine, group(name, "Always", &crashing, ""))
            .await;
    }
    world.fence.die();
    drop(engine);
    world.run(60).await;
    let writes = world.host.store.writes();
    world.fault(
        "isolation.adopt",
        Trigger::From(3),
        Fault::Error(ErrorKind::PermissionDenied),
    );
    let fence = world.fence.next();
    let build = || fenced(&world.host, &fence, world.options.clone()).build();
    assert!(world.drive(build()).await.is_err());
    world.host.faults.heal();
    for polls in 0..20 {
        let mut building = Box::pin(build());
        for _ in 0..polls {
            if let std::task::Poll::Ready(engine) = futures_util::poll!(building.as_mut()) {
                drop(engine);
                break;
            }
        }
        drop(building);
    }
    world.run(3600).await;
    // At most those that came to their end have written.
    let before_end = world.host.store.writes();
    world.run(3600).await;
    assert_eq!(world.host.store.writes(), before_end);
    assert!(before_end < writes + 100);
    let engine = world.open().await;
    world.clean(&engine).await;
}

/// After the shutdown every deletion said that it was done.
#[tokio::test]
async fn after_the_shutdown_nothing_is_promised() {
    let mut world = World::new();
    let engine = world.open().await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    let mut notices = engine.watch();
    world
        .drive(engine.shutdown(Shutdown::LeaveRunning))
        .await
        .unwrap();
    let cancelled = |result: Result<()>| result.unwrap_err().kind() == ErrorKind::Cancelled;
    assert!(cancelled(engine.delete("web").await));
    assert!(cancelled(engine.get("web").map(drop)));
    assert!(cancelled(web.stop().await));
    assert!(cancelled(
        engine
            .create_or_update(group("b", "Always", SLEEP, ""))
            .await
            .map(drop)
    ));
    // Watchers see the end although handles are still held.
    world
        .drive(async { while notices.next().await.is_some() {} })
        .await;
    assert!(engine.watch().next().await.is_none());
    world
        .drive(engine.shutdown(Shutdown::LeaveRunning))
        .await
        .unwrap();
    assert_eq!(world.host.isolation.sandboxes(), [web.sandbox_id()]);
}

/// The shutdown waited for a journal that did not answer.
#[tokio::test]
async fn the_shutdown_does_not_wait_for_a_part_that_hangs() {
    for operation in [
        "store.put",
        "image.pull",
        "isolation.create",
        "sandbox.start",
    ] {
        for how in [Shutdown::LeaveRunning, Shutdown::StopGroups] {
            let mut world = World::new();
            let engine = world.open().await;
            world.up(&engine, group("web", "Always", SLEEP, "")).await;
            world.fault(operation, Trigger::From(1), Fault::Hang);
            let creating = engine.create_or_update(group("b", "Always", SLEEP, ""));
            let _ = world.clock.drive(Duration::from_secs(60), creating).await;
            let ended = world.drive(engine.shutdown(how)).await;
            // A group whose stop cannot be written does not stop, and is named.
            assert!(ended.is_ok() || (operation, how) == ("store.put", Shutdown::StopGroups));
            let engine = {
                world.host.faults.heal();
                world.crash(engine).await
            };
            world.run(60).await;
            world.clean(&engine).await;
        }
    }
}

/// An orphan that could not be removed kept the engine from being opened, and every group with it.
#[tokio::test]
async fn an_orphan_that_will_not_go_does_not_keep_the_engine_closed() {
    let mut world = World::new();
    let orphan = SandboxSpec {
        id: SandboxId::generate("orphan"),
        hostname: "orphan".to_owned(),
        limits: Limits::default(),
        volumes: Vec::new(),
    };
    world.host.isolation.create(orphan).await.unwrap();
    world.fault(
        "isolation.remove",
        Trigger::Nth(1),
        Fault::Error(ErrorKind::Internal),
    );
    world.fault(
        "isolation.remove",
        Trigger::Nth(3),
        Fault::Error(ErrorKind::Internal),
    );
    let engine = world.open().await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    world.run(300).await;
    assert_eq!(world.host.isolation.sandboxes(), [web.sandbox_id()]);
    world.clean(&engine).await;
}

/// A watcher that does not look must not hold up the groups, nor be left in the belief that it saw
/// everything.
#[tokio::test]
async fn a_slow_watcher_is_told_what_it_missed() {
    let mut world = World::new();
    world.options.notices = 4;
    let engine = world.open().await;
    let mut notices = engine.watch();
    let mut later = engine.watch();
    let crashing = [("app", "[fail-after, '10']")];
    world
        .put(&engine, group("web", "Always", &crashing, ""))
        .await;
    world.run(1200).await;
    let first = world.drive(notices.next()).await.unwrap();
    assert!(
        matches!(first, Notice::Missed(count) if count > 4),
        "{first:?}"
    );
    world.clean(&engine).await;
    let mut last = None;
    while let Some(Some(notice)) = world
        .clock
        .drive(Duration::from_secs(1), later.next())
        .await
    {
        last = Some(notice);
    }
    assert!(matches!(last, Some(Notice::Deleted { .. })), "{last:?}");
}

/// All creations waited for each other's writes of the journal, so that of 2,000 at once the last
/// was accepted after half a minute.
#[tokio::test]
async fn a_creation_whose_write_hangs_holds_up_its_own_name_only() {
    let mut world = World::new();
    let engine = world.open().await;
    world.fault("store.put", Trigger::Nth(1), Fault::Hang);
    let create = |name: &str| {
        let (engine, document) = (engine.clone(), group(name, "Always", SLEEP, ""));
        tokio::spawn(async move { engine.create_or_update(document).await })
    };
    let hanging = create("a");
    world.run(1).await;
    let same = create("a");
    world.run(1).await;
    world.up(&engine, group("b", "Always", SLEEP, "")).await;
    world.run(60).await;
    assert!(!hanging.is_finished() && !same.is_finished());
    assert!(engine.get("a").is_err(), "it is not accepted");
    let ended = world.drive(engine.shutdown(Shutdown::LeaveRunning)).await;
    ended.unwrap();
    for creation in [hanging, same] {
        let error = world.drive(creation).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
