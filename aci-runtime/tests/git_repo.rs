//! Documents with `gitRepo` and bounded `emptyDir` volumes, on real namespaces and Debian's git.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The same server as for the driver's own tests.
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the driver's tests use more of it"
)]
#[path = "../../aci-storage/tests/git/server.rs"]
mod server;

use std::path::Path;

use aci_core::contract::Isolation as _;
use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, Group, LogOptions, RedbStore};
use aci_storage::{EmptyDirs, GitRepos, GitReposOptions, HostImage, OciImages};
use server::Server;

async fn engine(dir: &Path) -> Option<Engine> {
    let isolation = Namespaces::new(NamespacesOptions::default().state_dir(dir.join("run")));
    let isolation = isolation
        .map_err(|error| eprintln!("SKIPPED: {error}"))
        .ok()?;
    let images = OciImages::open(dir.join("images")).unwrap();
    let image = HostImage::new("local/tools:1").program("/bin/sh");
    image
        .program("/bin/cat")
        .program("/bin/dd")
        .build(&images)
        .await
        .unwrap();
    let engine = Engine::builder()
        .isolation(isolation)
        .images(images)
        .network(LoopbackNetwork::new())
        .volumes(GitRepos::open(dir.join("volumes"), GitReposOptions::default()).unwrap())
        .volumes(EmptyDirs::open(dir.join("volumes")).unwrap())
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .build()
        .await
        .unwrap();
    Some(engine)
}

fn document(script: &str, volume: &str) -> ContainerGroup {
    let text = format!(
        "
name: job
properties:
  osType: Linux
  restartPolicy: Never
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/sh, -c, '{script}']
      resources: {{requests: {{cpu: 0.5, memoryInGB: 0.2}}}}
      volumeMounts: [{{name: source, mountPath: /src}}]
  volumes:
  - {{name: source, {volume}}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

async fn log(group: &Group) -> String {
    let app = group.container("app").unwrap();
    app.logs(LogOptions::default()).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reads_and_changes_its_copy_of_a_repository() {
    let place = tempfile::tempdir().unwrap();
    let Some(engine) = engine(place.path()).await else {
        return;
    };
    let server = Server::start();
    let repository = server.repository("app");
    let tree = repository.tree(&[("100644", b"page", &repository.blob(b"from git\n"))]);
    let commit = repository.commit("main", &tree);
    let url = server.url("app");
    let script =
        "cat /src/web/page /src/web/.git/HEAD; echo changed > /src/web/page; cat /src/web/page";
    let volume = format!("gitRepo: {{repository: '{url}', directory: web, revision: {commit}}}");
    let group = engine
        .create_or_update(document(script, &volume))
        .await
        .unwrap();
    assert_eq!(group.ended().await.unwrap().as_str(), "Succeeded");
    assert_eq!(log(&group).await, format!("from git\n{commit}\nchanged\n"));
    let view = group.view();
    let events = &view.properties.instance_view.as_ref().unwrap().events;
    let told = |name: &str| {
        let event = events.iter().find(|e| e.name.as_deref() == Some(name));
        event.and_then(|e| e.message.clone()).unwrap_or_default()
    };
    assert!(told("Cloning").contains(&url), "{events:?}");
    let cloned = told("Cloned");
    assert!(
        cloned.contains(&commit) && cloned.contains("1 files and directories, 9 bytes"),
        "{cloned}"
    );
    // Nothing was pushed anywhere, and the next group gets it as it is.
    engine.delete("job").await.unwrap();
    let group = engine
        .create_or_update(document(script, &volume))
        .await
        .unwrap();
    assert_eq!(group.ended().await.unwrap().as_str(), "Succeeded");
    assert!(log(&group).await.starts_with("from git\n"));
    engine.delete("job").await.unwrap();

    // What is not there is said in the group's events, as ACI says what cannot be mounted.
    let volume = format!("gitRepo: {{repository: '{url}', revision: nothing}}");
    let group = engine
        .create_or_update(document("true", &volume))
        .await
        .unwrap();
    let error = group.running().await.unwrap_err();
    assert_eq!(
        error.aci_code(),
        Some("FailedMountGitRepoVolume"),
        "{error}"
    );
    let view = group.view();
    let events = &view.properties.instance_view.as_ref().unwrap().events;
    let event = events
        .iter()
        .find(|e| e.name.as_deref() == Some("FailedMount"))
        .unwrap();
    let message = event.message.as_deref().unwrap();
    assert!(
        message.contains("no branch, tag or commit 'nothing'"),
        "{message}"
    );
    engine.delete("job").await.unwrap();
    for place in [
        place.path().join("volumes/repositories"),
        place.path().join("volumes/repositories-trash"),
    ] {
        assert_eq!(std::fs::read_dir(place).unwrap().count(), 0);
    }
    let isolation =
        Namespaces::new(NamespacesOptions::default().state_dir(place.path().join("run")));
    assert!(isolation.unwrap().list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_empty_dir_is_full_inside() {
    let place = tempfile::tempdir().unwrap();
    let Some(engine) = engine(place.path()).await else {
        return;
    };
    if let Some(missing) = EmptyDirs::open(place.path().join("probe"))
        .unwrap()
        .capability()
        .missing
    {
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let script = "dd if=/dev/zero of=/src/big bs=1M count=20; echo code $?; echo x > /src/small || echo full";
    let volume = "emptyDir: {sizeLimitInGB: 0.01}";
    let group = engine
        .create_or_update(document(script, volume))
        .await
        .unwrap();
    assert_eq!(group.ended().await.unwrap().as_str(), "Succeeded");
    let log = log(&group).await;
    assert!(
        log.contains("No space left on device") && log.contains("code 1"),
        "{log}"
    );
    engine.delete("job").await.unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(place.path().to_str().unwrap()), "{mounts}");
}
