//! The whole engine on in-memory parts and simulated time: what users see, step by step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::SystemClock;
use aci_core::error::ErrorKind;
use aci_core::fake::{FakeHost, Fault, ManualClock, PullFailure, Trigger};
use aci_core::model::ContainerGroup;
use aci_core::size::{Capacity, Cpu, Memory, WhenFull};
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, LogOptions, Notice, Shutdown};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HOUR: Duration = Duration::from_secs(3600);

async fn engine_with(host: &FakeHost, options: EngineOptions) -> Engine {
    Engine::builder()
        .isolation(host.isolation.clone())
        .images(host.images.clone())
        .network(host.network.clone())
        .volumes(host.volumes.clone())
        .store(host.store.clone())
        .clock(Arc::clone(&host.clock))
        .options(EngineOptions {
            capacity: Some(Capacity {
                cpu: Cpu::from_whole_cores(8),
                memory: Memory::from_whole_gb(16),
                gpus: Vec::new(),
            }),
            ..options
        })
        .build()
        .await
        .unwrap()
}

async fn engine(host: &FakeHost) -> Engine {
    // What went wrong is told when a test fails: RUST_LOG=debug.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    engine_with(host, EngineOptions::default()).await
}

fn group(name: &str, policy: &str, containers: &[(&str, &str)], extra: &str) -> ContainerGroup {
    let mut text = format!(
        "apiVersion: 2023-05-01\nlocation: here\nname: {name}\nproperties:\n  osType: Linux\n  restartPolicy: {policy}\n{extra}  containers:\n"
    );
    for (container, command) in containers {
        text.push_str(&format!(
            "  - name: {container}\n    properties:\n      image: sh\n      command: {command}\n      resources:\n        requests: {{cpu: 1, memoryInGB: 1}}\n"
        ));
    }
    ContainerGroup::from_yaml(&text).unwrap()
}

async fn drive<T>(clock: &ManualClock, future: impl Future<Output = T>) -> T {
    clock.drive(HOUR, future).await.expect("it hangs")
}

fn restarts(group: &Group, container: &str) -> u32 {
    let view = group.container(container).unwrap().view();
    view.restart_count.unwrap_or(0)
}

#[tokio::test]
async fn a_group_lives_its_whole_life() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    let mut notices = engine.watch();
    let extra = "  initContainers:\n  - name: prepare\n    properties: {image: sh, command: [sh, -c, 'echo ready > /data/file; echo prepared'], volumeMounts: [{name: shared, mountPath: /data}]}\n  volumes:\n  - name: shared\n    emptyDir: {}\n";
    let mut document = group(
        "web",
        "Always",
        &[
            ("app", "[serve, '80', hi]"),
            ("side", "[tick, '1', '1000']"),
        ],
        extra,
    );
    document.properties.containers[0].properties.volume_mounts =
        document.properties.init_containers[0]
            .properties
            .volume_mounts
            .clone();
    let group = drive(&clock, engine.create_or_update(document))
        .await
        .unwrap();
    drive(&clock, group.running()).await.unwrap();
    assert_eq!(
        group.view().properties.provisioning_state.as_deref(),
        Some("Succeeded")
    );

    let mut stream = drive(&clock, group.dial(80)).await.unwrap();
    let mut answer = String::new();
    drive(&clock, async {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    })
    .await;
    assert!(
        answer.starts_with("HTTP/1.0 200") && answer.ends_with("hi"),
        "{answer}"
    );

    clock.run_for(Duration::from_secs(5)).await;
    let side = group.container("side").unwrap();
    let log = drive(&clock, side.logs(LogOptions::default()))
        .await
        .unwrap();
    assert!(log.starts_with("tick 1\ntick 2\n"), "{log}");
    let tail = LogOptions {
        tail: Some(1),
        timestamps: true,
    };
    let log = drive(&clock, side.logs(tail)).await.unwrap();
    assert!(
        log.starts_with("2026-01-01T00:00:0") && log.lines().count() == 1,
        "{log}"
    );
    let init = group.container("prepare").unwrap();
    assert_eq!(
        drive(&clock, init.logs(LogOptions::default()))
            .await
            .unwrap(),
        "prepared\n"
    );

    let app = group.container("app").unwrap();
    let mut process = drive(
        &clock,
        app.exec(ExecOptions::command(["cat", "/data/file"])),
    )
    .await
    .unwrap();
    let mut output = String::new();
    drive(&clock, process.stdout.read_to_string(&mut output))
        .await
        .unwrap();
    assert_eq!(output, "ready\n");
    assert_eq!(drive(&clock, process.control.wait()).await.unwrap().code, 0);

    let usage = drive(&clock, group.usage()).await.unwrap();
    assert_eq!(usage.containers.len(), 2);
    let seconds = group.bill().seconds;
    clock.run_for(Duration::from_secs(100)).await;
    assert_eq!(group.bill().seconds, seconds + 100);
    assert_eq!(engine.usage().in_use.groups, 1);

    drive(&clock, engine.delete("web")).await.unwrap();
    assert_eq!(host.leftovers(), Vec::<&str>::new());
    assert_eq!(engine.usage().in_use.groups, 0);
    assert_eq!(engine.get("web").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        group.running().await.unwrap_err().kind(),
        ErrorKind::NotFound
    );

    let mut names = Vec::new();
    loop {
        match notices.next().await.unwrap() {
            Notice::Event { event, .. } => names.push(event.name.unwrap()),
            Notice::Deleted { .. } => break,
            _ => {}
        }
    }
    for expected in ["Pulling", "Pulled", "Created", "Started", "Killing"] {
        assert!(
            names.iter().any(|n| n == expected),
            "{expected} in {names:?}"
        );
    }
}

#[tokio::test]
async fn an_hour_of_back_off_passes_in_no_time() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    let document = group("crash", "Always", &[("app", "[exit, '3']")], "");
    let group = drive(&clock, engine.create_or_update(document))
        .await
        .unwrap();
    clock.run_for(Duration::from_secs(5)).await;
    assert_eq!(restarts(&group, "app"), 1);
    clock.run_for(HOUR).await;
    // 10, 20, 40, 80, 160, then every 300 s: 5 in the first 310 s, then 10 or 11 more.
    let count = restarts(&group, "app");
    assert!((15..=18).contains(&count), "{count}");
    let view = group.container("app").unwrap().view();
    let state = view.current_state.unwrap();
    assert_eq!(state.state.as_deref(), Some("Waiting"));
    assert_eq!(view.previous_state.unwrap().exit_code, Some(3));
    drive(&clock, group.delete()).await.unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_and_a_failing_readiness_probe_withholds_traffic() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    let mut document = group("probed", "Always", &[("app", "[serve, '80', hi]")], "");
    let read = |text: &str| {
        let text = format!(
            "name: x\nproperties:\n  osType: Linux\n  containers:\n  - name: x\n    properties: {{image: x, livenessProbe: {text}}}\n"
        );
        ContainerGroup::from_yaml(&text)
            .unwrap()
            .properties
            .containers[0]
            .properties
            .liveness_probe
            .clone()
    };
    document.properties.containers[0].properties.liveness_probe =
        read("{httpGet: {path: /, port: 80}, periodSeconds: 5, failureThreshold: 3}");
    document.properties.containers[0].properties.readiness_probe =
        read("{exec: {command: [http-get, '80']}, periodSeconds: 2, failureThreshold: 1}");
    let group = drive(&clock, engine.create_or_update(document))
        .await
        .unwrap();
    drive(&clock, group.running()).await.unwrap();
    clock.run_for(Duration::from_secs(10)).await;
    let id = group.sandbox_id();
    assert_eq!(host.network.is_ready(&id), Some(true));

    let app = group.container("app").unwrap();
    drive(&clock, async {
        let process = app
            .exec(ExecOptions::command(["write-file", "/unhealthy", "x"]))
            .await
            .unwrap();
        process.control.wait().await.unwrap();
    })
    .await;
    clock.run_for(Duration::from_secs(4)).await;
    assert_eq!(host.network.is_ready(&id), Some(false));
    assert_eq!(restarts(&group, "app"), 0);
    clock.run_for(Duration::from_secs(30)).await;
    assert_eq!(restarts(&group, "app"), 1);
    assert_eq!(host.network.is_ready(&id), Some(true));
    let events = app.view().events;
    assert!(
        events
            .iter()
            .any(|e| e.name.as_deref() == Some("Unhealthy"))
    );
    drive(&clock, group.delete()).await.unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn a_job_succeeds_or_fails_and_its_log_stays() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    let good = drive(
        &clock,
        engine.create_or_update(group("good", "Never", &[("app", "[echo, done]")], "")),
    )
    .await
    .unwrap();
    let bad = drive(
        &clock,
        engine.create_or_update(group("bad", "Never", &[("app", "[exit, '7']")], "")),
    )
    .await
    .unwrap();
    assert_eq!(
        drive(&clock, good.ended()).await.unwrap().as_str(),
        "Succeeded"
    );
    assert_eq!(drive(&clock, bad.ended()).await.unwrap().as_str(), "Failed");
    let app = good.container("app").unwrap();
    assert_eq!(
        drive(&clock, app.logs(LogOptions::default()))
            .await
            .unwrap(),
        "done\n"
    );
    let exec = drive(&clock, app.exec(ExecOptions::shell()))
        .await
        .unwrap_err();
    assert_eq!(exec.aci_code(), Some("ContainerGroupStopped"));
    let bill = good.bill();
    clock.run_for(HOUR).await;
    assert_eq!(good.bill(), bill);
    assert_eq!(engine.usage().in_use.groups, 0);
    // It can be started again.
    drive(&clock, good.start()).await.unwrap();
    assert_eq!(
        drive(&clock, good.ended()).await.unwrap().as_str(),
        "Succeeded"
    );
    drive(&clock, engine.delete("good")).await.unwrap();
    drive(&clock, engine.delete("bad")).await.unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn stop_start_and_updates() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    let document = group("web", "Always", &[("app", "[wait-term]")], "");
    let web = drive(&clock, engine.create_or_update(document.clone()))
        .await
        .unwrap();
    drive(&clock, web.running()).await.unwrap();
    let (id, address) = (web.sandbox_id(), web.address());

    // The same again changes nothing; tags do not restart; a command does.
    drive(&clock, engine.create_or_update(document.clone()))
        .await
        .unwrap();
    let mut tagged = document.clone();
    tagged.tags.insert("a".into(), "b".into());
    drive(&clock, engine.create_or_update(tagged))
        .await
        .unwrap();
    clock.run_for(Duration::from_secs(1)).await;
    assert_eq!(web.view().tags.get("a").map(String::as_str), Some("b"));
    assert_eq!(web.state().as_str(), "Running");
    let changed = group("web", "Always", &[("app", "[sleep, infinity]")], "");
    drive(&clock, engine.create_or_update(changed))
        .await
        .unwrap();
    drive(&clock, web.running()).await.unwrap();
    assert_eq!((web.sandbox_id(), web.address()), (id, address));

    let mut immutable = document.clone();
    immutable.properties.restart_policy = Some("Never".into());
    let error = drive(&clock, engine.create_or_update(immutable.clone()))
        .await
        .unwrap_err();
    assert_eq!(error.aci_code(), Some("InvalidContainerGroupUpdate"));

    drive(&clock, web.stop()).await.unwrap();
    assert_eq!(web.state().as_str(), "Stopped");
    assert_eq!(host.leftovers(), ["records"]);
    let error = drive(&clock, web.restart()).await.unwrap_err();
    assert_eq!(error.aci_code(), Some("ContainerGroupStopped"));
    // A stopped group is deployed as new, so everything may change.
    drive(&clock, engine.create_or_update(immutable))
        .await
        .unwrap();
    drive(&clock, web.running()).await.unwrap();
    drive(&clock, engine.delete("web")).await.unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn a_new_engine_adopts_what_the_old_one_left() {
    let (host, clock) = FakeHost::manual();
    let first = engine(&host).await;
    let document = group(
        "web",
        "Always",
        &[
            ("app", "[tick, '1', '100000']"),
            ("job", "[fail-after, '30', '4']"),
        ],
        "",
    );
    let web = drive(&clock, first.create_or_update(document))
        .await
        .unwrap();
    drive(&clock, web.running()).await.unwrap();
    drive(&clock, first.shutdown(Shutdown::LeaveRunning))
        .await
        .unwrap();
    assert_eq!(web.stop().await.unwrap_err().kind(), ErrorKind::Cancelled);
    drop((first, web));

    // While no engine is there, a container ends.
    clock.run_for(Duration::from_secs(60)).await;
    let second = engine(&host).await;
    let web = second.get("web").unwrap();
    drive(
        &clock,
        web.wait_for(|v| {
            v.properties.containers[1]
                .properties
                .instance_view
                .as_ref()
                .is_some_and(|v| v.restart_count == Some(1))
        }),
    )
    .await
    .unwrap();
    let job = web.container("job").unwrap().view();
    assert_eq!(job.previous_state.unwrap().exit_code, Some(4));
    assert_eq!(restarts(&web, "app"), 0);
    let log = drive(
        &clock,
        web.container("app").unwrap().logs(LogOptions::default()),
    )
    .await
    .unwrap();
    assert!(log.contains("tick 50\n"), "{log}");
    drive(&clock, web.delete()).await.unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn a_lost_sandbox_is_made_again() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    let web = drive(
        &clock,
        engine.create_or_update(group("web", "Always", &[("app", "[sleep, infinity]")], "")),
    )
    .await
    .unwrap();
    drive(&clock, web.running()).await.unwrap();
    host.isolation.kill_agent(&web.sandbox_id());
    clock.run_for(Duration::from_secs(60)).await;
    drive(&clock, web.running()).await.unwrap();
    let view = web.container("app").unwrap().view();
    assert_eq!(view.previous_state.unwrap().exit_code, Some(137));
    drive(&clock, web.delete()).await.unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn wrong_documents_are_refused_and_leave_nothing() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    let mut huge = group("huge", "Always", &[("app", "[sleep, '1']")], "");
    huge.properties.containers[0]
        .properties
        .resources
        .as_mut()
        .unwrap()
        .requests
        .as_mut()
        .unwrap()
        .cpu = Some(9.0);
    let error = drive(&clock, engine.create_or_update(huge))
        .await
        .unwrap_err();
    assert_eq!(error.aci_code(), Some("ServiceUnavailable"));
    assert!(error.message().contains("'9' CPU"), "{error}");

    host.images.fail_pulls("sh", Some(PullFailure::Denied));
    let web = drive(
        &clock,
        engine.create_or_update(group("web", "Always", &[("app", "[sleep, '1']")], "")),
    )
    .await
    .unwrap();
    let error = drive(&clock, web.running()).await.unwrap_err();
    assert_eq!(error.aci_code(), Some("InaccessibleImage"));
    drive(&clock, web.delete()).await.unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn groups_wait_for_room_and_start_in_order() {
    let (host, clock) = FakeHost::manual();
    let options = EngineOptions {
        when_full: WhenFull::Queue { longest: 2 },
        ..Default::default()
    };
    let engine = engine_with(&host, options).await;
    let many: Vec<(String, &str)> = (0..8)
        .map(|i| (format!("c{i}"), "[sleep, infinity]"))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, c)| (n.as_str(), *c)).collect();
    let big = drive(
        &clock,
        engine.create_or_update(group("big", "Always", &many, "")),
    )
    .await
    .unwrap();
    drive(&clock, big.running()).await.unwrap();
    let mut waiting = Vec::new();
    for name in ["one", "two"] {
        let document = group(name, "Always", &[("app", "[sleep, infinity]")], "");
        waiting.push(
            drive(&clock, engine.create_or_update(document))
                .await
                .unwrap(),
        );
    }
    let third = group("three", "Always", &[("app", "[sleep, infinity]")], "");
    assert_eq!(
        drive(&clock, engine.create_or_update(third))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Exhausted
    );
    clock.run_for(HOUR).await;
    assert_eq!(
        (engine.usage().waiting, waiting[0].state().as_str()),
        (2, "Pending")
    );
    drive(&clock, big.delete()).await.unwrap();
    for group in &waiting {
        drive(&clock, group.running()).await.unwrap();
    }
    assert_eq!(engine.usage().waiting, 0);
    drive(&clock, engine.shutdown(Shutdown::StopGroups))
        .await
        .unwrap();
    assert_eq!(host.leftovers(), ["records"]);
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_accepts_nothing_and_loses_nothing() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    host.faults.on(
        "store.put",
        Trigger::Nth(1),
        Fault::Error(ErrorKind::Internal),
    );
    let document = group("web", "Always", &[("app", "[sleep, infinity]")], "");
    let error = drive(&clock, engine.create_or_update(document.clone()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(engine.list().is_empty() && host.leftovers().is_empty());
    assert_eq!(engine.usage().in_use.groups, 0);
    let web = drive(&clock, engine.create_or_update(document))
        .await
        .unwrap();
    drive(&clock, web.running()).await.unwrap();
    drive(&clock, web.delete()).await.unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn output_can_be_followed() {
    let (host, clock) = FakeHost::manual();
    let engine = engine(&host).await;
    let web = drive(
        &clock,
        engine.create_or_update(group("web", "Never", &[("app", "[tick, '1', '3']")], "")),
    )
    .await
    .unwrap();
    drive(&clock, web.running()).await.unwrap();
    let app = web.container("app").unwrap();
    let stream = drive(&clock, app.follow(LogOptions::default()))
        .await
        .unwrap();
    let lines: Vec<_> = drive(&clock, stream.map(|l| l.unwrap().line).collect()).await;
    assert_eq!(lines, ["tick 1", "tick 2", "tick 3"]);
    drive(&clock, web.delete()).await.unwrap();
}

/// The answer was given before readers saw the state, so that who had set tags could still read the
/// old ones.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_answered_sees_what_was_asked_for() {
    let host = FakeHost::new(Arc::new(SystemClock::default()));
    let engine = engine(&host).await;
    let document = group("web", "Always", &[("app", "[serve, '80', hi]")], "");
    let group = engine.create_or_update(document).await.unwrap();
    group.running().await.unwrap();
    for round in 0..2_000 {
        let tags = [("round".to_owned(), round.to_string())];
        group.set_tags(tags).await.unwrap();
        let shown = group.view().tags.get("round").cloned();
        assert_eq!(shown, Some(round.to_string()));
    }
}
