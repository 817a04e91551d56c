//! One test for each fault that was found in the engine, with a sentence on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{Clock, Isolation, SandboxSpec};
use aci_core::error::{ErrorKind, Result};
use aci_core::fake::{FakeHost, Fault, ManualClock, Trigger};
use aci_core::id::SandboxId;
use aci_core::lifecycle::GroupState;
use aci_core::model::ContainerGroup;
use aci_core::size::{Limits, WhenFull};
use aci_core::time::Timestamp;
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, Notice, Shutdown};
use async_trait::async_trait;
use support::{Fence, fenced, group};
use tokio::io::AsyncReadExt;

const HOUR: Duration = Duration::from_secs(3600);
const SLEEP: &[(&str, &str)] = &[("app", "[sleep, infinity]")];

struct World {
    host: FakeHost,
    clock: ManualClock,
    fence: Fence,
    options: EngineOptions,
}

impl World {
    fn new() -> Self {
        let (host, clock) = FakeHost::manual();
        let options = EngineOptions {
            when_full: WhenFull::Queue { longest: 5 },
            ..Default::default()
        };
        let fence = Fence::default();
        Self {
            host,
            clock,
            fence,
            options,
        }
    }

    async fn open(&mut self) -> Engine {
        self.fence = self.fence.next();
        let building = fenced(&self.host, &self.fence, self.options.clone()).build();
        self.drive(building).await.unwrap()
    }

    /// The host program dies, and is started again.
    async fn crash(&mut self, engine: Engine) -> Engine {
        self.fence.die();
        drop(engine);
        self.open().await
    }

    async fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        self.clock.drive(HOUR, future).await.expect("it hangs")
    }

    async fn put(&self, engine: &Engine, document: ContainerGroup) -> Group {
        self.drive(engine.create_or_update(document)).await.unwrap()
    }

    async fn up(&self, engine: &Engine, document: ContainerGroup) -> Group {
        let group = self.put(engine, document).await;
        self.drive(group.running()).await.unwrap();
        group
    }

    /// A group that takes the whole host, and one that waits.
    async fn full(&self, engine: &Engine) -> (Group, Group) {
        let names: Vec<String> = (0..8).map(|i| format!("c{i}")).collect();
        let all: Vec<_> = names
            .iter()
            .map(|n| (n.as_str(), "[sleep, infinity]"))
            .collect();
        let big = self.up(engine, group("big", "Always", &all, "")).await;
        let small = self.put(engine, group("small", "Always", SLEEP, "")).await;
        assert_eq!(
            (engine.usage().waiting, small.state()),
            (1, GroupState::Pending)
        );
        (big, small)
    }

    async fn run(&self, seconds: u64) {
        self.clock.run_for(Duration::from_secs(seconds)).await;
    }

    fn fault(&self, operation: &str, trigger: Trigger, fault: Fault) {
        self.host.faults.on(operation, trigger, fault);
    }

    /// Everything can be deleted, and nothing is left.
    async fn clean(&self, engine: &Engine) {
        self.host.faults.heal();
        for group in engine.list() {
            self.drive(group.delete()).await.unwrap();
        }
        assert_eq!(self.host.leftovers(), Vec::<&str>::new());
        assert_eq!(
            (engine.usage().in_use.groups, engine.usage().waiting),
            (0, 0)
        );
    }
}

fn restarts(group: &Group, container: &str) -> u32 {
    let view = group.container(container).unwrap().view();
    view.restart_count.unwrap_or(0)
}

async fn output(group: &Group, container: &str, command: [&str; 2]) -> String {
    let container = group.container(container).unwrap();
    let mut process = container.exec(ExecOptions::command(command)).await.unwrap();
    let mut text = String::new();
    process.stdout.read_to_string(&mut text).await.unwrap();
    text
}

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

/// A panic in a part ended the task that waited for it, and the group waited for the answer for
/// ever.
#[tokio::test]
async fn a_part_that_panics_does_not_hang_a_group() {
    for operation in [
        "image.pull",
        "isolation.create",
        "network.attach",
        "image.prepare",
        "sandbox.start",
        "sandbox.status",
        "sandbox.signal",
        "sandbox.logs",
        "network.set_ready",
        "isolation.remove",
        "store.put",
    ] {
        let mut world = World::new();
        let engine = world.open().await;
        let panic = Fault::Call(Arc::new(|| panic!("a part has an error")));
        world.fault(operation, Trigger::Nth(1), panic);
        let document = group("web", "Always", SLEEP, "");
        let made = world.drive(engine.create_or_update(document)).await;
        if let Ok(web) = made {
            // It runs or it has failed, and says so.
            let _ = world.drive(web.running()).await;
            world.drive(web.stop()).await.unwrap();
        } else {
            assert_eq!(operation, "store.put");
        }
        world.clean(&engine).await;
    }
}

/// A start whose answer was lost was taken for failed, and the next attempts failed because the
/// first one ran.
#[tokio::test]
async fn a_start_without_an_answer_is_judged_by_what_runs() {
    let mut world = World::new();
    let engine = world.open().await;
    let lost = Fault::ErrorAfter(ErrorKind::Timeout);
    world.fault("sandbox.start", Trigger::Nth(1), lost);
    world.fault(
        "sandbox.status",
        Trigger::Nth(2),
        Fault::Error(ErrorKind::Unavailable),
    );
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    world.run(3600).await;
    assert_eq!(
        (web.state(), restarts(&web, "app")),
        (GroupState::Running, 0)
    );
    world.clean(&engine).await;
}

/// When making a sandbox failed for good and so did clearing what there was of it, the group was
/// `Failed` and its remains stayed until it was deleted.
#[tokio::test]
async fn what_is_left_of_a_failed_sandbox_is_removed() {
    let mut world = World::new();
    let engine = world.open().await;
    let lost = Fault::ErrorAfter(ErrorKind::Internal);
    world.fault("isolation.create", Trigger::Nth(1), lost);
    world.fault(
        "isolation.remove",
        Trigger::Nth(2),
        Fault::Error(ErrorKind::Internal),
    );
    world.fault(
        "network.detach",
        Trigger::Nth(1),
        Fault::Error(ErrorKind::Internal),
    );
    let web = world.put(&engine, group("web", "Always", SLEEP, "")).await;
    assert!(world.drive(web.running()).await.is_err());
    world.run(60).await;
    assert_eq!(web.state(), GroupState::Failed);
    assert_eq!(world.host.leftovers(), ["records"]);
    world.clean(&engine).await;
}

/// When the network could not let traffic in, it was not asked again.
#[tokio::test]
async fn traffic_is_let_in_at_last() {
    let mut world = World::new();
    let engine = world.open().await;
    for nth in 1..=3 {
        let error = Fault::Error(ErrorKind::Internal);
        world.fault("network.set_ready", Trigger::Nth(nth), error);
    }
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    world.run(30).await;
    assert_eq!(world.host.network.is_ready(&web.sandbox_id()), Some(true));
    world.clean(&engine).await;
}

/// After the loss of a sandbox the address was kept, with traffic let in, while the new sandbox was
/// not ready yet.
#[tokio::test]
async fn traffic_is_withheld_while_a_sandbox_is_made_again() {
    let mut world = World::new();
    let engine = world.open().await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    world.run(5).await;
    world.fault(
        "isolation.create",
        Trigger::Always,
        Fault::Delay(Duration::from_secs(30)),
    );
    world.host.isolation.kill_agent(&web.sandbox_id());
    world.run(5).await;
    assert_eq!(world.host.network.is_ready(&web.sandbox_id()), Some(false));
    world.run(60).await;
    assert_eq!(world.host.network.is_ready(&web.sandbox_id()), Some(true));
    world.clean(&engine).await;
}

/// Root file systems were released by the document's containers; an update that takes one out left
/// its root file system.
#[tokio::test]
async fn what_an_update_takes_out_leaves_nothing() {
    let mut world = World::new();
    let engine = world.open().await;
    let two = [("app", "[sleep, infinity]"), ("side", "[sleep, infinity]")];
    let mut document = group("web", "Always", &two, "");
    world.up(&engine, document.clone()).await;
    document.properties.containers[1].name = "other".into();
    let web = world.up(&engine, document).await;
    assert!(web.container("side").is_err());
    world.clean(&engine).await;
}

/// An update kept the volumes for the next sandbox, so a changed secret was never seen.
#[tokio::test]
async fn an_update_brings_a_changed_secret() {
    let mut world = World::new();
    let engine = world.open().await;
    let document = |secret: &str| {
        let volumes = format!(
            "  volumes:\n  - {{name: secret, secret: {{key: {secret}}}}}\n  - {{name: cache, emptyDir: {{}}}}\n"
        );
        let mut document = group("web", "Always", SLEEP, &volumes);
        let mounts = "name: x\nproperties:\n  osType: Linux\n  containers:\n  - name: x\n    properties: {image: x, volumeMounts: [{name: secret, mountPath: /secret}, {name: cache, mountPath: /data}]}\n";
        let mounts = ContainerGroup::from_yaml(mounts).unwrap();
        document.properties.containers[0].properties.volume_mounts = mounts.properties.containers
            [0]
        .properties
        .volume_mounts
        .clone();
        document
    };
    let web = world.up(&engine, document("b25l")).await;
    assert_eq!(
        world
            .drive(output(&web, "app", ["cat", "/secret/key"]))
            .await,
        "one"
    );
    let web = world.up(&engine, document("dHdv")).await;
    assert_eq!(
        world
            .drive(output(&web, "app", ["cat", "/secret/key"]))
            .await,
        "two"
    );
    // What the containers wrote is not given up for that.
    assert_eq!(world.host.faults.calls("volume.release"), 1);
    world.clean(&engine).await;
}

/// Any error of a sandbox was taken for its loss, and all its containers were killed.
#[tokio::test]
async fn a_sandbox_that_does_not_answer_for_a_moment_is_not_lost() {
    let mut world = World::new();
    let engine = world.open().await;
    for nth in 2..=4 {
        let error = Fault::Error(ErrorKind::Unavailable);
        world.fault("sandbox.changed", Trigger::Nth(nth), error);
    }
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    world.run(60).await;
    assert_eq!(
        (web.state(), restarts(&web, "app")),
        (GroupState::Running, 0)
    );
    let error = || Fault::Error(ErrorKind::Unavailable);
    world.fault("isolation.adopt", Trigger::Nth(1), error());
    world.fault("sandbox.status", Trigger::Nth(1), error());
    let engine = world.crash(engine).await;
    let web = engine.get("web").unwrap();
    assert_eq!(
        (web.state(), restarts(&web, "app")),
        (GroupState::Running, 0)
    );
    world.clean(&engine).await;
}

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

/// A clock that is behind another.
#[derive(Debug)]
struct Behind(ManualClock, Duration);

#[async_trait]
impl Clock for Behind {
    fn now(&self) -> Timestamp {
        self.0.now() - self.1
    }
    async fn sleep_until(&self, time: Timestamp) {
        self.0.sleep_until(time + self.1).await;
    }
}

/// When the machine's clock had been set back between two engines, every deadline of the journal was
/// far away: no restart and no probe until the clock had caught up.
#[tokio::test]
async fn a_clock_that_was_set_back_does_not_stop_a_group() {
    let mut world = World::new();
    let engine = world.open().await;
    let crashing = [("app", "[fail-after, '10']")];
    let web = world
        .up(&engine, group("web", "Always", &crashing, ""))
        .await;
    world.run(300).await;
    let (count, billed) = (restarts(&web, "app"), web.bill().seconds);
    world.fence.die();
    drop((engine, web));
    world.fence = world.fence.next();
    let builder = fenced(&world.host, &world.fence, world.options.clone());
    let clock = Behind(world.clock.clone(), HOUR * 24);
    let engine = world.drive(builder.clock(clock).build()).await.unwrap();
    world.run(1200).await;
    let web = engine.get("web").unwrap();
    assert!(restarts(&web, "app") > count + 2);
    let more = web.bill().seconds - billed;
    assert!((1100..=1202).contains(&more), "{more}");
    world.clean(&engine).await;
}

/// Time without an engine is billed while the sandbox ran; when it was lost, nobody knows how long
/// it had run, and all the time that the machine was off was billed.
#[tokio::test]
async fn time_away_is_billed_only_if_the_group_ran() {
    for lost in [false, true] {
        let mut world = World::new();
        let engine = world.open().await;
        let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
        world.run(1000).await;
        let before = web.bill().seconds;
        world.fence.die();
        drop((engine, web.clone()));
        world.run(7200).await;
        if lost {
            world.host.isolation.kill_agent(&web.sandbox_id());
        }
        let engine = world.open().await;
        let after = engine.get("web").unwrap().bill().seconds;
        if lost {
            // What the last heartbeat had not seen is not billed either.
            assert!(after <= before && after + 301 >= before, "{before} {after}");
        } else {
            assert!(after >= before + 7200, "{before} {after}");
        }
        world.run(60).await;
        world.clean(&engine).await;
    }
}

/// A deployment that was interrupted for longer than it may take failed at once when the engine was
/// opened again.
#[tokio::test]
async fn time_away_is_not_held_against_a_deployment() {
    let mut world = World::new();
    let engine = world.open().await;
    world.fault("image.pull", Trigger::Nth(1), Fault::Hang);
    world.put(&engine, group("web", "Always", SLEEP, "")).await;
    world.fence.die();
    drop(engine);
    world.run(24 * 3600).await;
    let engine = world.open().await;
    world
        .drive(engine.get("web").unwrap().running())
        .await
        .unwrap();
    world.clean(&engine).await;
}

/// Every probe was two synced writes.
#[tokio::test]
async fn probes_that_succeed_write_nothing() {
    let mut world = World::new();
    let engine = world.open().await;
    let mut document = group("web", "Always", &[("app", "[serve, '80']")], "");
    let probe = "name: x\nproperties:\n  osType: Linux\n  containers:\n  - name: x\n    properties: {image: x, livenessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 5}}\n";
    document.properties.containers[0].properties.liveness_probe = ContainerGroup::from_yaml(probe)
        .unwrap()
        .properties
        .containers[0]
        .properties
        .liveness_probe
        .clone();
    world.up(&engine, document).await;
    world.run(60).await;
    let writes = world.host.store.writes();
    world.run(3600).await;
    assert!(world.host.faults.calls("sandbox.dial") > 700);
    // One each five minutes, for the bill.
    let more = world.host.store.writes() - writes;
    assert!((11..=13).contains(&more), "{more}");
    world.clean(&engine).await;
}

/// A probe whose start hung was never answered, and the container was not probed again.
#[tokio::test]
async fn a_probe_that_hangs_has_failed() {
    let mut world = World::new();
    let engine = world.open().await;
    let mut document = group("web", "Always", SLEEP, "");
    let probe = "name: x\nproperties:\n  osType: Linux\n  containers:\n  - name: x\n    properties: {image: x, livenessProbe: {exec: {command: ['true']}, periodSeconds: 5}}\n";
    document.properties.containers[0].properties.liveness_probe = ContainerGroup::from_yaml(probe)
        .unwrap()
        .properties
        .containers[0]
        .properties
        .liveness_probe
        .clone();
    let web = world.up(&engine, document).await;
    world.fault("sandbox.exec", Trigger::Always, Fault::Hang);
    world.run(60).await;
    assert!(restarts(&web, "app") > 0);
    world.clean(&engine).await;
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

/// A removal that never came to its end kept a deleted group for ever.
#[tokio::test]
async fn a_removal_that_hangs_is_tried_again() {
    let mut world = World::new();
    let engine = world.open().await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    world.fault("isolation.remove", Trigger::Nth(1), Fault::Hang);
    world.fault("sandbox.logs", Trigger::Nth(1), Fault::Hang);
    world.drive(web.delete()).await.unwrap();
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
