//! Parts that fail, hang, panic or lie.

use aci_core::contract::NetworkDriver as _;

use super::*;

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

/// A group whose network an operator had removed went on as Running, with an address that nobody has.
#[tokio::test]
async fn a_group_whose_network_was_removed_is_made_again() {
    let mut world = World::new();
    let engine = world.open().await;
    let web = world.up(&engine, group("web", "Always", SLEEP, "")).await;
    let other = world.up(&engine, group("other", "Always", SLEEP, "")).await;
    let (sandbox, kept) = (web.sandbox_id(), other.sandbox_id());
    world.host.network.detach(&sandbox).await.unwrap();
    let engine = world.crash(engine).await;
    world.run(60).await;
    let web = engine.get("web").unwrap();
    assert_eq!(web.state(), GroupState::Running);
    let attached = world.host.network.list().await.unwrap();
    let mut attached: Vec<_> = attached.into_iter().map(|a| a.sandbox).collect();
    attached.sort();
    let mut expected = vec![web.sandbox_id(), kept];
    expected.sort();
    assert_eq!(attached, expected);
    // The other one was left alone.
    let other = engine.get("other").unwrap();
    assert_eq!(restarts(&other, "app"), 0);
    let view = web.container("app").unwrap().view();
    assert_eq!(view.previous_state.unwrap().exit_code, Some(137));
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

/// A name label belongs to a group as long as the group exists, stopped or not; other scopes give
/// the same label other names.
#[tokio::test]
async fn a_label_that_another_group_has_is_refused_as_by_aci() {
    let mut world = World::new();
    let engine = world.open().await;
    let labelled = |name: &str, scope: &str| {
        let address = format!(
            "  ipAddress: {{type: Public, dnsNameLabel: my-web, autoGeneratedDomainNameLabelScope: {scope}, ports: [{{port: 80}}]}}\n"
        );
        let mut document = group(name, "Always", SLEEP, &address);
        let port = aci_core::model::ContainerPort {
            port: 80,
            ..Default::default()
        };
        document.properties.containers[0]
            .properties
            .ports
            .push(port);
        document
    };
    let first = world.up(&engine, labelled("one", "Unsecure")).await;
    let fqdn = |group: &Group| group.view().properties.ip_address.unwrap().fqdn.unwrap();
    assert_eq!(fqdn(&first), "my-web.here.fake.invalid");
    world.drive(first.stop()).await.unwrap();
    let taken = world
        .drive(engine.create_or_update(labelled("two", "Unsecure")))
        .await
        .unwrap_err();
    assert_eq!(
        taken.aci_code(),
        Some("DnsNameLabelNotAvailable"),
        "{taken}"
    );
    assert!(engine.get("two").is_err(), "nothing of it is left");
    let other = world.up(&engine, labelled("two", "TenantReuse")).await;
    let (start, end) = (fqdn(&other), ".here.fake.invalid");
    assert!(start.starts_with("my-web.") && start.ends_with(end) && start.len() > 35);
    for name in ["three", "four"] {
        world.up(&engine, labelled(name, "Noreuse")).await;
    }
    world.drive(first.delete()).await.unwrap();
    world.up(&engine, labelled("five", "Unsecure")).await;
    world.clean(&engine).await;
}
