//! Clocks, bills and probes.

use super::*;

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
