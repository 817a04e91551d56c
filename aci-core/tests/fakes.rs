//! What the fakes do beyond the contracts: simulated time, faults, crashes, leak checks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aci_core::conformance::store::record;
use aci_core::contract::{
    Clock, ContainerSpec, GroupStore, ImageStore, Isolation, Layer, LogQuery, NetworkDriver,
    ProcessSpec, PullPolicy, PullRequest, RegistryLogin, RootFs, RootFsKey, RunState, Sandbox,
    SandboxSpec, SecurityPolicy,
};
use aci_core::error::{Applied, ErrorKind};
use aci_core::fake::{
    FakeHost, FakeIsolation, FakeProcess, Fault, ManualClock, PullFailure, Trigger,
};
use aci_core::id::{GroupRef, SandboxId};
use aci_core::model::Secret;
use aci_core::size::Limits;
use futures_util::StreamExt as _;

fn sandbox(name: &str) -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::generate(name),
        hostname: name.to_owned(),
        limits: Limits::default(),
        volumes: Vec::new(),
    }
}

fn container(name: &str, argv: &[&str]) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        attempt: 0,
        rootfs: RootFs {
            layers: vec![Layer::Directory(PathBuf::from("/fake"))],
            upper: Some((PathBuf::from("/u"), PathBuf::from("/w"))),
        },
        process: ProcessSpec {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            ..ProcessSpec::default()
        },
        mounts: Vec::new(),
        files: Vec::new(),
        limits: Limits::default(),
        security: SecurityPolicy::default(),
        log_bytes: 1 << 20,
        gpus: 0,
    }
}

async fn exit_of(sandbox: &dyn Sandbox, name: &str) -> Option<(i32, Duration)> {
    let status = sandbox.status().await.unwrap();
    let found = status.containers.into_iter().find(|c| c.name == name);
    match found?.state {
        RunState::Running { .. } => None,
        RunState::Exited { since, status } => Some((status.code, status.at.since(since))),
    }
}

async fn log_of(sandbox: &dyn Sandbox, name: &str) -> Vec<String> {
    let log = sandbox.logs(name, LogQuery::default()).await.unwrap();
    log.map(|line| String::from_utf8(line.unwrap().line.to_vec()).unwrap())
        .collect()
        .await
}

#[tokio::test]
async fn an_hour_passes_in_no_time_and_to_the_microsecond() {
    let (host, clock) = FakeHost::manual();
    let made = host.isolation.create(sandbox("time")).await.unwrap();
    let argv = ["fail-after", "3600", "9"];
    made.start(container("a", &argv)).await.unwrap();
    clock.run_for(Duration::from_secs(3599)).await;
    assert_eq!(exit_of(&*made, "a").await, None);
    clock.run_for(Duration::from_secs(10)).await;
    let end = exit_of(&*made, "a").await;
    assert_eq!(end, Some((9, Duration::from_secs(3600))));
    made.destroy().await.unwrap();
    assert_eq!(host.leftovers(), [""; 0]);
}

#[tokio::test]
async fn cpu_time_is_running_time_by_load_and_within_the_limit() {
    let (host, clock) = FakeHost::manual();
    let made = host.isolation.create(sandbox("cpu")).await.unwrap();
    let burn = ["burn", "200", "infinity"];
    made.start(container("free", &burn)).await.unwrap();
    let mut bound = container("bound", &burn);
    bound.limits.cpu_max = Some(50);
    made.start(bound).await.unwrap();
    made.start(container("idle", &["sleep", "infinity"]))
        .await
        .unwrap();
    clock.run_for(Duration::from_secs(100)).await;
    let stats = made.stats().await.unwrap();
    let cpu: Vec<_> = stats
        .containers
        .iter()
        .map(|c| (c.name.as_str(), c.cpu.as_secs()))
        .collect();
    assert_eq!(cpu, [("bound", 50), ("free", 200), ("idle", 1)]);
    made.destroy().await.unwrap();
}

#[tokio::test]
async fn programs_serve_and_speak_to_each_other() {
    let (host, clock) = FakeHost::manual();
    let made = host.isolation.create(sandbox("net")).await.unwrap();
    made.start(container("web", &["serve", "80", "hello"]))
        .await
        .unwrap();
    clock.settle().await;
    for (name, script, code, log) in [
        ("get", "http-get 80 && echo done", 0, vec!["hello", "done"]),
        ("none", "http-get 81 || echo refused; exit 4", 4, vec![]),
        ("missing", "nothing-like-this", 127, vec![]),
        (
            "vars",
            "echo '$A' > /f; echo b >> /f; cat /f",
            0,
            vec!["$A", "b"],
        ),
    ] {
        let argv = ["sh", "-c", script];
        made.start(container(name, &argv)).await.unwrap();
        clock.run_for(Duration::from_secs(1)).await;
        assert_eq!(exit_of(&*made, name).await.unwrap().0, code, "{name}");
        let lines = log_of(&*made, name).await;
        for line in log {
            assert!(lines.iter().any(|l| l == line), "{name}: {lines:?}");
        }
    }
    // A program that uses a port twice ends in an error, as it does everywhere.
    made.start(container("twin", &["serve", "80"]))
        .await
        .unwrap();
    clock.settle().await;
    assert_eq!(exit_of(&*made, "twin").await.unwrap().0, 1);
    made.destroy().await.unwrap();
}

#[tokio::test]
async fn own_programs_see_their_attempt_and_can_be_replaced() {
    let clock = ManualClock::new();
    let isolation = FakeIsolation::new(Arc::new(clock.clone())).with_program(
        "mine",
        |mut process: FakeProcess| async move {
            let line = format!("attempt {}", process.attempt());
            process.print(&line).await.map_or(141, |()| 7)
        },
    );
    let made = isolation.create(sandbox("own")).await.unwrap();
    for attempt in 0..2 {
        let mut spec = container("a", &["/usr/bin/mine"]);
        spec.attempt = attempt;
        made.start(spec).await.unwrap();
        clock.settle().await;
        assert_eq!(exit_of(&*made, "a").await.unwrap().0, 7);
    }
    assert_eq!(log_of(&*made, "a").await, ["attempt 0", "attempt 1"]);
    isolation.add_program("mine", |_: FakeProcess| async { 8 });
    made.start(container("b", &["mine"])).await.unwrap();
    clock.settle().await;
    assert_eq!(exit_of(&*made, "b").await.unwrap().0, 8);
}

#[tokio::test]
async fn faults_strike_where_they_are_told() {
    let (host, clock) = FakeHost::manual();
    let strikes = Arc::new(AtomicU32::new(0));
    host.faults.on(
        "isolation.create",
        Trigger::Nth(1),
        Fault::Error(ErrorKind::Unavailable),
    );
    let error = host.isolation.create(sandbox("f")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(host.isolation.is_empty(), "it failed before it acted");

    host.faults.on(
        "isolation.create",
        Trigger::Nth(1),
        Fault::ErrorAfter(ErrorKind::Timeout),
    );
    let error = host.isolation.create(sandbox("g")).await.unwrap_err();
    assert_eq!(error.state_changed(), Applied::Unknown);
    assert_eq!(host.isolation.sandboxes().len(), 1, "it acted and failed");

    let count = Arc::clone(&strikes);
    let call = Fault::Call(Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    host.faults.on("network.*", Trigger::Always, call);
    host.network.list().await.unwrap();
    assert_eq!(strikes.load(Ordering::Relaxed), 1);

    let delay = Fault::Delay(Duration::from_secs(30));
    host.faults.on("image.list", Trigger::From(1), delay);
    let start = clock.now();
    let listed = clock.drive(Duration::from_secs(60), host.images.list());
    listed.await.expect("it is only late").unwrap();
    assert_eq!(clock.now().since(start), Duration::from_secs(30));

    host.faults.on("volume.*", Trigger::Always, Fault::Hang);
    let hangs = clock.drive(
        Duration::from_secs(60),
        aci_core::contract::VolumeDriver::list(&host.volumes),
    );
    assert!(hangs.await.is_none());
}

#[tokio::test]
async fn sandboxes_outlive_their_engine_and_die_with_their_agent() {
    let (host, clock) = FakeHost::manual();
    let spec = sandbox("crash");
    let id = spec.id.clone();
    {
        let engine = host.isolation.clone();
        let made = engine.create(spec).await.unwrap();
        made.start(container("a", &["sleep", "10"])).await.unwrap();
    }
    clock.run_for(Duration::from_secs(20)).await;
    let adopted = host.isolation.adopt(&id).await.unwrap();
    let end = exit_of(&*adopted, "a").await;
    assert_eq!(end, Some((0, Duration::from_secs(10))));
    host.isolation.kill_agent(&id);
    assert_eq!(adopted.status().await.unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(host.leftovers(), ["sandboxes"]);
    host.isolation.remove(&id).await.unwrap();
    assert_eq!(host.leftovers(), [""; 0]);
}

#[tokio::test]
async fn programs_die_with_their_runtime() {
    let (host, _) = FakeHost::manual();
    let spec = sandbox("runtime");
    let id = spec.id.clone();
    let isolation = host.isolation.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let made = isolation.create(spec).await.unwrap();
            let argv = ["sleep", "infinity"];
            made.start(container("a", &argv)).await.unwrap();
        });
    })
    .join()
    .unwrap();
    let adopted = host.isolation.adopt(&id).await.unwrap();
    assert_eq!(exit_of(&*adopted, "a").await.unwrap().0, 137);
}

#[tokio::test]
async fn pulls_fail_as_aci_says() {
    let (host, _) = FakeHost::manual();
    let pull = |reference: &str, login: Option<&str>| {
        let request = PullRequest {
            reference: reference.to_owned(),
            login: login.map(|password| RegistryLogin {
                server: "private.invalid".to_owned(),
                username: "user".to_owned(),
                password: Secret::new(password),
            }),
            policy: PullPolicy::Always,
        };
        host.images.pull(request, None)
    };
    for (failure, kind, code) in [
        (
            PullFailure::Denied,
            ErrorKind::PermissionDenied,
            Some("InaccessibleImage"),
        ),
        (
            PullFailure::RegistryError,
            ErrorKind::Unavailable,
            Some("RegistryErrorResponse"),
        ),
        (
            PullFailure::OtherPlatform,
            ErrorKind::Unsupported,
            Some("OsVersionNotSupported"),
        ),
        (PullFailure::WrongBytes, ErrorKind::Corrupt, None),
    ] {
        host.images.fail_pulls("hello", Some(failure));
        let error = pull("hello:latest", None).await.unwrap_err();
        assert_eq!((error.kind(), error.aci_code()), (kind, code));
    }
    host.images.fail_pulls("hello", None);
    let image = pull("hello", None).await.unwrap();
    assert_eq!(image.config.cmd, ["serve", "80"]);
    host.images.require_login("job", "user", "right");
    for login in [None, Some("wrong")] {
        let error = pull("job", login).await.unwrap_err();
        assert_eq!(error.aci_code(), Some("InaccessibleImage"));
        assert!(!error.chain().contains("wrong"));
    }
    pull("job", Some("right")).await.unwrap();
    let key = RootFsKey {
        sandbox: SandboxId::generate("x"),
        container: "a".to_owned(),
    };
    host.images.prepare(&image.digest, &key).await.unwrap();
    assert_eq!(host.leftovers(), ["root file systems"]);
}

#[tokio::test]
async fn a_journal_freezes_and_forgets() {
    let (host, clock) = FakeHost::manual();
    let store = &host.store;
    let groups: Vec<GroupRef> = ["a", "b", "c"].map(GroupRef::from).to_vec();
    let put = async |group: &GroupRef| {
        let record = record(group, 1);
        let second = Duration::from_secs(1);
        clock.drive(second, store.put(&record)).await.is_some()
    };
    store.freeze_after(2);
    assert!(put(&groups[0]).await);
    assert!(put(&groups[1]).await);
    assert!(!put(&groups[2]).await, "the third write never returns");
    assert_eq!(store.list().await.unwrap().len(), 2);
    store.thaw();
    assert!(put(&groups[2]).await);
    store.remove(&groups[0]).await.unwrap();
    assert_eq!((store.len(), store.writes()), (2, 4));
    store.lose(2);
    let kept: Vec<_> = store.list().await.unwrap();
    let kept: Vec<_> = kept.into_iter().map(|r| r.group).collect();
    assert_eq!(kept, groups[..2]);
}
