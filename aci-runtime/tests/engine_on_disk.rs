//! The engine with its journal on disk: what runs is simulated, the journal and its crashes are
//! real. Time is tokio's, which waits for the disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aci_core::error::ErrorKind;
use aci_core::fake::{FakeHost, TokioClock};
use aci_core::lifecycle::GroupState;
use aci_core::model::ContainerGroup;
use aci_runtime::store::RedbStore;
use aci_runtime::{Engine, EngineOptions, ExecOptions, Shutdown};
use support::{Fence, fenced_on};
use tokio::io::AsyncReadExt;

fn host() -> FakeHost {
    FakeHost::new(Arc::new(TokioClock::new()))
}

/// The journal, when the engine before has let go of it.
async fn journal(directory: &Path) -> RedbStore {
    for _ in 0..1000 {
        match RedbStore::open(directory) {
            Ok(store) => return store,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a dropped engine holds its journal");
}

async fn open(host: &FakeHost, directory: &Path, fence: &Fence) -> Engine {
    let store = journal(directory).await;
    fenced_on(host, store, fence, EngineOptions::default())
        .build()
        .await
        .unwrap()
}

fn document() -> ContainerGroup {
    let mut document = support::group(
        "web",
        "Always",
        &[("app", "[wait-term]"), ("side", "[tick, '1', '100000']")],
        "  initContainers:\n  - {name: init, properties: {image: job}}\n  volumes:\n  - {name: cache, emptyDir: {}}\n",
    );
    let secret = "name: x\nproperties:\n  osType: Linux\n  containers:\n  - name: x\n    properties: {image: x, environmentVariables: [{name: KEY, secureValue: hunter2}]}\n";
    let secret = ContainerGroup::from_yaml(secret).unwrap();
    document.properties.containers[0]
        .properties
        .environment_variables = secret.properties.containers[0]
        .properties
        .environment_variables
        .clone();
    document
}

async fn key(engine: &Engine) -> String {
    let app = engine.get("web").unwrap().container("app").unwrap();
    let command = ExecOptions::command(["printenv", "KEY"]);
    let mut process = app.exec(command).await.unwrap();
    let mut text = String::new();
    process.stdout.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn groups_live_on_from_engine_to_engine() {
    let (host, directory) = (host(), tempfile::tempdir().unwrap());
    let engine = open(&host, directory.path(), &Fence::default()).await;
    let web = engine.create_or_update(document()).await.unwrap();
    web.running().await.unwrap();
    let id = web.sandbox_id();
    engine.shutdown(Shutdown::LeaveRunning).await.unwrap();
    drop((engine, web));

    tokio::time::sleep(Duration::from_secs(600)).await;
    let engine = open(&host, directory.path(), &Fence::default()).await;
    let web = engine.get("web").unwrap();
    web.running().await.unwrap();
    assert_eq!(web.sandbox_id(), id);
    let side = web.container("side").unwrap();
    assert_eq!(side.view().restart_count, Some(0));
    assert!(
        side.logs(Default::default())
            .await
            .unwrap()
            .contains("tick 500\n")
    );
    assert!(web.bill().seconds >= 600);

    // What the next start needs of the document's secrets is in the journal.
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
    drop((engine, web, side));
    let engine = open(&host, directory.path(), &Fence::default()).await;
    let web = engine.get("web").unwrap();
    assert_eq!(web.state(), GroupState::Stopped);
    assert!(
        web.container("side")
            .unwrap()
            .logs(Default::default())
            .await
            .unwrap()
            .contains("tick")
    );
    web.start().await.unwrap();
    web.running().await.unwrap();
    assert_eq!(key(&engine).await, "hunter2\n");
    let bytes = std::fs::read(directory.path().join("journal.redb")).unwrap();
    assert!(!bytes.windows(7).any(|w| w == b"hunter2"));
    engine.delete("web").await.unwrap();
    assert_eq!(host.leftovers(), Vec::<&str>::new());
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
    drop((engine, web));
    assert!(
        open(&host, directory.path(), &Fence::default())
            .await
            .list()
            .is_empty()
    );
}

/// The host program dies before or after each of its first calls, in the middle of a creation, an
/// update, a stop and a deletion, and is started again each time.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_call_loses_nothing() {
    for call in 0..45 {
        let (host, directory) = (host(), tempfile::tempdir().unwrap());
        let dying = Fence::default();
        dying.die_at(call, call % 2 == 0);
        let mut accepted = false;
        let first = async {
            let engine = open(&host, directory.path(), &dying).await;
            let web = engine.create_or_update(document()).await.unwrap();
            accepted = true;
            web.running().await.unwrap();
            // It may live longer than it takes to come up.
            tokio::time::sleep(Duration::from_secs(60)).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(120), first).await;
        dying.die();

        // What was accepted is there, and comes up.
        let dying = dying.next();
        let engine = open(&host, directory.path(), &dying).await;
        let web = match engine.get("web") {
            Ok(web) => web,
            Err(_) => {
                assert!(!accepted, "{call}");
                engine.create_or_update(document()).await.unwrap()
            }
        };
        web.running().await.unwrap();
        assert_eq!(
            web.container("app").unwrap().view().restart_count,
            Some(0),
            "{call}"
        );
        assert_eq!(key(&engine).await, "hunter2\n");

        // An update and a deletion that are interrupted come to their end.
        dying.die_at(call, call % 2 == 1);
        let mut changed = document();
        changed.properties.containers[1].properties.command = vec!["wait-term".into()];
        let second = async {
            let web = engine.create_or_update(changed).await.unwrap();
            web.running().await.unwrap();
            web.delete().await.unwrap();
        };
        let _ = tokio::time::timeout(Duration::from_secs(120), second).await;
        dying.die();
        drop((engine, web));
        let engine = open(&host, directory.path(), &dying.next()).await;
        if let Ok(web) = engine.get("web") {
            // Either it goes on or it is being deleted.
            let _ = web.running().await;
        }
        engine.delete("web").await.unwrap();
        assert_eq!(host.leftovers(), Vec::<&str>::new(), "{call}");
        engine.shutdown(Shutdown::StopGroups).await.unwrap();
    }
}
