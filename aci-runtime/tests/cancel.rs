//! Dropping a public future at any point leaves what its documentation says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use aci_core::fake::{FakeHost, ManualClock};
use aci_core::lifecycle::GroupState;
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, LogOptions, Shutdown};
use support::{Fence, fenced, group};

const HOUR: Duration = Duration::from_secs(3600);
const SLEEP: &[(&str, &str)] = &[("app", "[wait-term]")];

/// More often than any of the calls has to be polled until it is accepted.
const MOST_POLLS: usize = 40;

struct World {
    host: FakeHost,
    clock: ManualClock,
    engine: Engine,
    web: Group,
}

impl World {
    async fn new() -> Self {
        let (host, clock) = FakeHost::manual();
        let building = fenced(&host, &Fence::default(), EngineOptions::default()).build();
        let engine = building.await.unwrap();
        let document = group("web", "Always", SLEEP, "");
        let creating = engine.create_or_update(document);
        let web = clock.drive(HOUR, creating).await.unwrap().unwrap();
        clock.drive(HOUR, web.running()).await.unwrap().unwrap();
        Self {
            host,
            clock,
            engine,
            web,
        }
    }

    async fn end(self) {
        let deleting = async {
            for group in self.engine.list() {
                group.delete().await.unwrap();
            }
        };
        self.clock.drive(HOUR, deleting).await.unwrap();
        assert_eq!(self.host.leftovers(), Vec::<&str>::new());
        assert_eq!(self.engine.usage().in_use.groups, 0);
    }
}

type Call = Pin<Box<dyn Future<Output = ()>>>;

/// Drops a call after each number of polls; answers the outcomes that were seen.
async fn dropped<T: Ord>(
    call: impl Fn(&World) -> Call,
    outcome: impl AsyncFn(&World) -> T,
) -> BTreeSet<T> {
    dropped_after(async |_| {}, call, outcome).await
}

async fn dropped_after<T: Ord>(
    prepare: impl AsyncFn(&World),
    call: impl Fn(&World) -> Call,
    outcome: impl AsyncFn(&World) -> T,
) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    for polls in 0..MOST_POLLS {
        let world = World::new().await;
        prepare(&world).await;
        let mut future = call(&world);
        for _ in 0..polls {
            if let Poll::Ready(()) = futures_util::poll!(future.as_mut()) {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(future);
        world.clock.run_for(Duration::from_secs(120)).await;
        seen.insert(outcome(&world).await);
        world.end().await;
    }
    seen
}

#[tokio::test]
async fn a_creation_is_accepted_as_a_whole_or_not_at_all() {
    let seen = dropped(
        |world| {
            let engine = world.engine.clone();
            Box::pin(async move {
                let document = group("new", "Always", SLEEP, "");
                engine.create_or_update(document).await.unwrap();
            })
        },
        async |world| match world.engine.get("new") {
            Err(_) => {
                assert_eq!(world.host.store.len(), 1);
                assert_eq!(world.engine.usage().in_use.groups, 1);
                "nothing"
            }
            Ok(new) => {
                assert_eq!(new.state(), GroupState::Running);
                assert_eq!(world.engine.usage().in_use.groups, 2);
                "runs"
            }
        },
    )
    .await;
    assert_eq!(seen, ["nothing", "runs"].into());
}

#[tokio::test]
async fn a_stop_is_accepted_and_goes_on_or_changes_nothing() {
    let seen = dropped(
        |world| {
            let web = world.web.clone();
            Box::pin(async move { web.stop().await.unwrap() })
        },
        async |world| world.web.state().as_str(),
    )
    .await;
    assert_eq!(seen, ["Running", "Stopped"].into());
}

#[tokio::test]
async fn a_deletion_is_accepted_and_goes_on_or_changes_nothing() {
    let seen = dropped(
        |world| {
            let engine = world.engine.clone();
            Box::pin(async move { engine.delete("web").await.unwrap() })
        },
        async |world| match world.engine.get("web") {
            Ok(web) => web.state().as_str(),
            Err(_) => {
                assert_eq!(world.host.leftovers(), Vec::<&str>::new());
                "gone"
            }
        },
    )
    .await;
    assert_eq!(seen, ["Running", "gone"].into());
}

#[tokio::test]
async fn a_start_is_accepted_or_changes_nothing() {
    let seen = dropped_after(
        async |world| {
            let stopping = world.clock.drive(HOUR, world.web.stop());
            stopping.await.unwrap().unwrap();
        },
        |world| {
            let web = world.web.clone();
            Box::pin(async move { web.start().await.unwrap() })
        },
        async |world| {
            let usage = world.engine.usage();
            let state = world.web.state();
            assert_eq!(usage.in_use.groups == 1, state == GroupState::Running);
            state.as_str()
        },
    )
    .await;
    assert_eq!(seen, ["Running", "Stopped"].into());
}

#[tokio::test]
async fn a_restart_and_tags_are_accepted_or_change_nothing() {
    let seen = dropped(
        |world| {
            let web = world.web.clone();
            Box::pin(async move {
                web.set_tags([("a".to_owned(), "b".to_owned())])
                    .await
                    .unwrap();
                web.restart().await.unwrap();
            })
        },
        async |world| {
            assert_eq!(world.web.state(), GroupState::Running);
            let app = world.web.container("app").unwrap().view();
            let tagged = world.web.view().tags.contains_key("a");
            (tagged, app.restart_count.unwrap())
        },
    )
    .await;
    assert_eq!(seen, [(false, 0), (true, 0), (true, 1)].into());
}

#[tokio::test]
async fn waiting_and_reading_change_nothing() {
    let seen = dropped(
        |world| {
            let web = world.web.clone();
            Box::pin(async move {
                let app = web.container("app").unwrap();
                web.running().await.unwrap();
                web.usage().await.unwrap();
                app.logs(LogOptions::default()).await.unwrap();
                app.exec(ExecOptions::command(["true"])).await.unwrap();
                let _ = web.dial(81).await;
                web.watch().next().await;
                web.ended().await.unwrap();
            })
        },
        async |world| {
            let app = world.web.container("app").unwrap().view();
            (world.web.state().as_str(), app.restart_count)
        },
    )
    .await;
    assert_eq!(seen, [("Running", Some(0))].into());
}

/// A shutdown that was dropped can be called again; nothing new is accepted in between.
#[tokio::test]
async fn a_shutdown_can_be_called_again() {
    for polls in 1..MOST_POLLS {
        let world = World::new().await;
        let mut ending = Box::pin(world.engine.shutdown(Shutdown::StopGroups));
        for _ in 0..polls {
            if futures_util::poll!(ending.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(ending);
        let creating = world
            .engine
            .create_or_update(group("new", "Always", SLEEP, ""));
        assert!(world.clock.drive(HOUR, creating).await.unwrap().is_err());
        let ending = world.engine.shutdown(Shutdown::StopGroups);
        world.clock.drive(HOUR, ending).await.unwrap().unwrap();
        assert_eq!(world.host.leftovers(), ["records"]);
    }
}
