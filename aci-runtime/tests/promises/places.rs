//! Places on the host and wishes: nothing is lost and nothing is counted twice.

use super::*;

/// The second of two starts was refused and, by that, gave up the place of the group that ran.
#[tokio::test]
async fn a_second_start_does_not_give_up_the_place_of_the_first() {
    let mut world = World::new();
    let engine = world.open().await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    world.drive(web.stop()).await.unwrap();
    let (a, b) = world
        .drive(async { tokio::join!(web.start(), web.start()) })
        .await;
    assert!(a.is_ok() || b.is_ok());
    world.drive(web.running()).await.unwrap();
    assert_eq!(engine.usage().in_use.groups, 1);
    world.clean(&engine).await;
}

/// A group that waited for room when the host program died was in no queue afterwards, and stayed
/// `Pending` for ever.
#[tokio::test]
async fn a_group_that_waits_is_found_again() {
    let mut world = World::new();
    let engine = world.open().await;
    world.full(&engine).await;
    let engine = world.crash(engine).await;
    world.run(60).await;
    assert_eq!(engine.usage().waiting, 1);
    world.drive(engine.delete("big")).await.unwrap();
    world
        .drive(engine.get("small").unwrap().running())
        .await
        .unwrap();
    world.clean(&engine).await;
}

/// That a stopped group was to start when there is room was known to nobody after a crash.
#[tokio::test]
async fn a_stopped_group_that_waits_to_start_is_found_again() {
    let mut world = World::new();
    let engine = world.open().await;
    let small = world.up(&engine, group("small", "Always", SLEEP, "")).await;
    world.drive(small.stop()).await.unwrap();
    let (big, small) = world.full(&engine).await;
    // Asking twice is waiting once.
    world.drive(small.start()).await.unwrap();
    assert_eq!(engine.usage().waiting, 1);
    let engine = world.crash(engine).await;
    drop(big);
    world.drive(engine.delete("big")).await.unwrap();
    world
        .drive(engine.get("small").unwrap().running())
        .await
        .unwrap();
    world.clean(&engine).await;
}

/// A group that waited kept its place in the queue when it was stopped and was started later; an
/// update of it was refused and yet took a second place.
#[tokio::test]
async fn a_group_that_waits_can_be_changed_stopped_and_deleted() {
    let mut world = World::new();
    let engine = world.open().await;
    let (big, small) = world.full(&engine).await;
    let changed = group("small", "Never", &[("other", "[sleep, '5']")], "");
    world.put(&engine, changed).await;
    assert_eq!(engine.usage().waiting, 1);
    assert!(small.container("other").is_ok());

    world.drive(small.stop()).await.unwrap();
    assert_eq!(
        (engine.usage().waiting, small.state()),
        (0, GroupState::Stopped)
    );
    let last = world.put(&engine, group("last", "Always", SLEEP, "")).await;
    assert_eq!(engine.usage().waiting, 1);
    world.drive(last.delete()).await.unwrap();
    assert_eq!(engine.usage().waiting, 0);
    world.drive(big.delete()).await.unwrap();
    world.run(60).await;
    assert_eq!(small.state(), GroupState::Stopped);
    world.clean(&engine).await;
}

/// Whoever waited for a stop missed it when the group was started again at once, and waited on.
#[tokio::test]
async fn a_stop_returns_even_if_a_start_follows_at_once() {
    let mut world = World::new();
    let engine = world.open().await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    let mut notices = web.watch();
    let again = async {
        loop {
            if let Some(Notice::State { state, .. }) = notices.next().await
                && state == "Stopped"
            {
                while web.start().await.is_err() {
                    tokio::task::yield_now().await;
                }
                return;
            }
        }
    };
    let (stopped, ()) = world.drive(async { tokio::join!(web.stop(), again) }).await;
    stopped.unwrap();
    world.drive(web.running()).await.unwrap();
    world.clean(&engine).await;
}

/// Tags were written together with the document that was read before, so an update in between was
/// undone in the journal.
#[tokio::test]
async fn tags_do_not_undo_an_update() {
    let mut world = World::new();
    let engine = world.open().await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    let changed = group("web", "Always", &[("app", "[wait-term]")], "");
    let tags = web.set_tags([("a".to_owned(), "b".to_owned())]);
    let both = async { tokio::join!(engine.create_or_update(changed), tags) };
    let (updated, tagged) = world.drive(both).await;
    updated.unwrap();
    tagged.unwrap();
    let document = web.view();
    let command = &document.properties.containers[0].properties.command;
    assert_eq!(command, &["wait-term"]);
    world.clean(&engine).await;
}

/// A write whose answer was lost was told as refused, and the next engine found it in the journal.
#[tokio::test]
async fn what_was_refused_is_not_in_the_journal() {
    let mut world = World::new();
    let engine = world.open().await;
    let lost = || Fault::ErrorAfter(ErrorKind::Timeout);
    world.fault("store.put", Trigger::Nth(1), lost());
    world.fault(
        "store.remove",
        Trigger::Nth(1),
        Fault::Error(ErrorKind::Unavailable),
    );
    let refused = world
        .drive(engine.create_or_update(group("a", "Always", SLEEP, "")))
        .await;
    assert!(refused.is_err());
    world.run(5).await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    world.run(5).await;
    world.host.faults.heal();
    world.fault("store.put", Trigger::Nth(1), lost());
    assert!(world.drive(web.stop()).await.is_err());
    world.run(5).await;
    let engine = world.crash(engine).await;
    world.run(60).await;
    assert!(engine.get("a").is_err());
    assert_eq!(engine.get("web").unwrap().state(), GroupState::Running);
    world.clean(&engine).await;
}

/// While an update stopped the old containers the group counted as running.
#[tokio::test]
async fn running_waits_for_the_end_of_an_update() {
    let mut world = World::new();
    let engine = world.open().await;
    world
        .up(
            &engine,
            group("web", "Always", &[("app", "[ignore-term]")], ""),
        )
        .await;
    let web = world
        .up(
            &engine,
            group("web", "Always", &[("app", "[wait-term]")], ""),
        )
        .await;
    let view = web.container("app").unwrap().view();
    assert_eq!(
        view.current_state.unwrap().state.as_deref(),
        Some("Running")
    );
    assert_eq!(restarts(&web, "app"), 1);
    world.clean(&engine).await;
}
