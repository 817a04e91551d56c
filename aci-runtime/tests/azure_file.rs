//! A document with an `azureFile` volume, on real namespaces and Debian's Samba.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The same server as for the driver's own tests.
#[allow(dead_code, reason = "the driver's tests use more of it")]
#[path = "../../aci-storage/tests/share/samba.rs"]
mod samba;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use aci_core::contract::Isolation;
use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, LogOptions, RedbStore, Shutdown};
use aci_storage::{AzureFiles, HostImage, OciImages};
use samba::{ACCOUNT, KEY, SHARE, Samba, can_mount};

async fn engine(dir: &Path, samba: &Samba) -> Engine {
    let images = OciImages::open(dir.join("images")).unwrap();
    HostImage::new("local/tools:1")
        .program("/bin/sh")
        .program("/bin/cat")
        .program("/bin/sleep")
        .build(&images)
        .await
        .unwrap();
    Engine::builder()
        .isolation(
            Namespaces::new(NamespacesOptions::default().state_dir(dir.join("run"))).unwrap(),
        )
        .images(images)
        .network(LoopbackNetwork::new())
        .volumes(AzureFiles::open(dir.join("volumes"), samba.options()).unwrap())
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .build()
        .await
        .unwrap()
}

fn document(key: &str) -> ContainerGroup {
    let text = format!(
        "
name: files
properties:
  osType: Linux
  restartPolicy: Always
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/sh, -c, 'cat /data/from-outside; n=0; while :; do n=$((n+1)); echo $n > /data/count; echo $n; sleep 0.1; done']
      resources: {{requests: {{cpu: 0.5, memoryInGB: 0.2}}}}
      volumeMounts:
      - {{name: share-files, mountPath: /data}}
  volumes:
  - name: share-files
    azureFile: {{shareName: {SHARE}, storageAccountName: {ACCOUNT}, storageAccountKey: '{key}'}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

fn count(samba: &Samba) -> Option<u64> {
    let text = fs::read_to_string(samba.files().join("count")).ok()?;
    text.trim().parse().ok()
}

async fn counts_on(samba: &Samba, what: &str) {
    let (begun, first) = (Instant::now(), count(samba).unwrap_or(0));
    while count(samba).is_none_or(|now| now <= first + 2) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_writes_to_its_share_across_restarts_of_server_and_engine() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut samba = Samba::start();
    fs::write(samba.files().join("from-outside"), "hello from outside\n").unwrap();
    let first = engine(dir.path(), &samba).await;
    let group = first.create_or_update(document(KEY)).await.unwrap();
    group.running().await.unwrap();
    counts_on(&samba, "the group does not write").await;
    let app = group.container("app").unwrap();
    let log = app.logs(LogOptions::default()).await.unwrap();
    assert!(log.contains("hello from outside"), "{log}");

    samba.down();
    samba.up();
    counts_on(
        &samba,
        "the group does not write after the server's restart",
    )
    .await;

    // The share belongs to the group, not to the program that mounted it.
    drop(app);
    drop(group);
    first.shutdown(Shutdown::LeaveRunning).await.unwrap();
    drop(first);
    counts_on(&samba, "the group does not write without its engine").await;
    let second = engine(dir.path(), &samba).await;
    counts_on(
        &samba,
        "the group does not write after the engine's restart",
    )
    .await;
    second.delete("files").await.unwrap();
    second.shutdown(Shutdown::StopGroups).await.unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(&dir.path().display().to_string()),
        "{mounts}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_in_the_group_s_events_without_showing_it() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let samba = Samba::start();
    let engine = engine(dir.path(), &samba).await;
    let group = engine
        .create_or_update(document("wr0ng-key"))
        .await
        .unwrap();
    let begun = Instant::now();
    loop {
        let shown = format!("{:?}", group.view());
        assert!(!shown.contains("wr0ng-key"), "{shown}");
        if shown.contains("does not accept the account and its key") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.delete("files").await.unwrap();
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
    let isolation = Namespaces::new(NamespacesOptions::default().state_dir(dir.path().join("run")));
    assert!(isolation.unwrap().list().await.unwrap().is_empty());
}
