//! A document with images of a registry, from the credentials in it to the running program, and
//! what a user sees when that does not work. The registry is Debian's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../aci-storage/tests/common/mod.rs"]
mod common;
#[path = "../../aci-storage/tests/registry/server.rs"]
#[allow(dead_code, unreachable_pub)]
mod server;

use std::path::Path;
use std::time::Duration;

use aci_core::contract::{Isolation, PullPhase};
use aci_core::error::Error;
use aci_core::model::{ContainerGroup, Event};
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, Group, LogOptions, Notice, RedbStore};
use aci_storage::{EmptyDirs, OciImages, OciImagesOptions};
use common::architecture;
use server::{PASSWORD, Pusher, Registry, Setup, USER};

/// A directory whose sandboxes are removed with it, also when a test fails.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        let dir = self.0.path().to_owned();
        let cleared = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let isolation = isolation(&dir);
                for id in isolation.list().await.unwrap() {
                    isolation.remove(&id).await.unwrap();
                }
            });
        });
        if cleared.join().is_err() {
            eprintln!("sandboxes could not be removed");
        }
    }
}

fn isolation(dir: &Path) -> Namespaces {
    Namespaces::new(NamespacesOptions::default().state_dir(dir.join("run"))).unwrap()
}

async fn engine(dir: &Path, insecure: &[String]) -> Engine {
    let mut options = OciImagesOptions::default();
    options.registries.insecure = insecure.to_vec();
    options.registries.retries = 1;
    Engine::builder()
        .isolation(isolation(dir))
        .images(OciImages::open_with(dir.join("images"), options).unwrap())
        .network(LoopbackNetwork::new())
        .volumes(EmptyDirs::open(dir.join("volumes")).unwrap())
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .build()
        .await
        .unwrap()
}

/// A layer with a shell.
fn shell() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let program = std::fs::read("/bin/busybox").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    builder
        .append_data(&mut header, "bin/busybox", &program[..])
        .unwrap();
    for name in ["sh", "cat", "sleep"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder
            .append_link(&mut header, format!("bin/{name}"), "busybox")
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn document(name: &str, image: &str, credentials: Option<(&str, &str)>) -> ContainerGroup {
    let credentials = credentials.map_or(String::new(), |(server, password)| {
        format!(
            "  imageRegistryCredentials:\n  - {{server: '{server}', username: {USER}, password: '{password}'}}\n"
        )
    });
    let text = format!(
        "
name: {name}
properties:
  osType: Linux
  restartPolicy: Never
{credentials}  containers:
  - name: app
    properties:
      image: '{image}'
      command: [/bin/sh, -c, 'cat /etc/greeting']
      resources: {{requests: {{cpu: 0.1, memoryInGB: 0.1}}}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

fn events(group: &Group) -> Vec<Event> {
    let view = group.container("app").unwrap().view();
    view.events
}

fn message_of(group: &Group, name: &str) -> Option<String> {
    let events = events(group);
    let event = events.iter().find(|e| e.name.as_deref() == Some(name))?;
    event.message.clone()
}

async fn failure(engine: &Engine, document: ContainerGroup) -> (Group, Error) {
    let group = engine.create_or_update(document).await.unwrap();
    let error = group.running().await.unwrap_err();
    (group, error)
}

/// Whether this machine can run it; a word on it if not.
fn can_run(dir: &Path) -> bool {
    let options = NamespacesOptions::default().state_dir(dir.join("run"));
    if let Err(error) = Namespaces::new(options) {
        eprintln!("SKIPPED: no sandbox can be made: {}", error.chain());
        return false;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_runs_an_image_of_a_registry() {
    let Some(mut registry) = Registry::start(Setup {
        password: true,
        ..Setup::default()
    }) else {
        return;
    };
    let place = Place(tempfile::tempdir().unwrap());
    if !can_run(place.0.path()) {
        return;
    }
    let host = registry.host();
    let pusher = Pusher::new(&registry, "team/app");
    let layers = [
        shell(),
        common::layer(&[("etc/greeting", "from the registry\n")]),
    ];
    let pushed = pusher.image("1.0", architecture(), &layers).await;
    let digest = pushed["digest"].as_str().unwrap();
    let image = format!("{host}/team/app:1.0");
    let engine = engine(place.0.path(), std::slice::from_ref(&host)).await;

    let mut notices = engine.watch();
    let right = Some((host.as_str(), PASSWORD));
    let group = engine
        .create_or_update(document("first", &image, right))
        .await
        .unwrap();
    assert_eq!(group.ended().await.unwrap().as_str(), "Succeeded");
    let log = group
        .container("app")
        .unwrap()
        .logs(LogOptions::default())
        .await;
    assert_eq!(log.unwrap(), "from the registry\n");
    assert_eq!(
        message_of(&group, "Pulling").unwrap(),
        format!("pulling image \"{image}\"")
    );
    assert_eq!(
        message_of(&group, "Pulled").unwrap(),
        format!("Successfully pulled image \"{host}/team/app@{digest}\"")
    );
    let mut fetched = 0;
    while let Ok(Some(notice)) =
        tokio::time::timeout(Duration::from_millis(100), notices.next()).await
    {
        if let Notice::Pull {
            step, image: of, ..
        } = notice
        {
            assert_eq!(of, image);
            let whole = step.phase == PullPhase::Downloading && step.total == Some(step.done);
            fetched += usize::from(whole && step.layer.is_some());
        }
    }
    assert!(fetched >= 2, "{fetched} layers were told of in full");
    let cached = engine.images().await.unwrap();
    assert_eq!((cached.len(), cached[0].digest.as_str()), (1, digest));

    // Without the registry: the digest is enough, as its content cannot change; of a tag nobody
    // knows whether it has moved, so ACI's words for a registry that does not answer are shown,
    // and it is tried again.
    registry.kill();
    let exact = format!("{host}/team/app@{digest}");
    let group = engine
        .create_or_update(document("second", &exact, right))
        .await
        .unwrap();
    assert_eq!(group.ended().await.unwrap().as_str(), "Succeeded");
    let group = engine
        .create_or_update(document("third", &image, right))
        .await
        .unwrap();
    let seen = |_: &ContainerGroup| message_of(&group, "Failed").is_some();
    group.wait_for(seen).await.unwrap();
    let told = message_of(&group, "Failed").unwrap();
    assert!(told.contains("RegistryErrorResponse"), "{told}");
    assert!(
        told.contains("An error response is received from the docker registry"),
        "{told}"
    );
    assert!(!format!("{:?}", events(&group)).contains(PASSWORD));
    // It is back, and so is the group, without anybody's help.
    assert!(registry.up());
    assert_eq!(group.ended().await.unwrap().as_str(), "Succeeded");
    for group in ["first", "second", "third"] {
        engine.delete(group).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_is_said_in_acis_words() {
    let Some(registry) = Registry::start(Setup {
        password: true,
        ..Setup::default()
    }) else {
        return;
    };
    let place = Place(tempfile::tempdir().unwrap());
    if !can_run(place.0.path()) {
        return;
    }
    let host = registry.host();
    let pusher = Pusher::new(&registry, "app");
    pusher.image("1", architecture(), &[shell()]).await;
    pusher.image("foreign", "s390x", &[shell()]).await;
    let engine = engine(place.0.path(), std::slice::from_ref(&host)).await;
    let right = Some((host.as_str(), PASSWORD));
    let (app, missing, foreign) = (
        format!("{host}/app:1"),
        format!("{host}/app:none"),
        format!("{host}/app:foreign"),
    );
    for (name, image, credentials, code) in [
        ("none", &app, None, "InaccessibleImage"),
        (
            "wrong",
            &app,
            Some((host.as_str(), "wrong-password")),
            "InaccessibleImage",
        ),
        ("missing", &missing, right, "InaccessibleImage"),
        ("foreign", &foreign, right, "OsVersionNotSupported"),
    ] {
        let (group, error) = failure(&engine, document(name, image, credentials)).await;
        assert_eq!(error.aci_code(), Some(code), "{name}: {error:?}");
        assert!(error.message().contains(image.as_str()), "{name}: {error}");
        let told = message_of(&group, "Failed").unwrap();
        assert!(told.contains(image.as_str()), "{told}");
        assert!(message_of(&group, "Pulling").is_some());
        assert!(message_of(&group, "Pulled").is_none());
        let all = format!("{error:?} {:?}", events(&group));
        assert!(
            !all.contains("wrong-password") && !all.contains(PASSWORD),
            "{all}"
        );
        engine.delete(name).await.unwrap();
    }
    assert!(engine.images().await.unwrap().is_empty());

    // Before any group: the images of a document, so that its start need not wait for them.
    let error = engine
        .pull_images(&document("later", &missing, right))
        .await
        .unwrap_err();
    assert_eq!(error.aci_code(), Some("InaccessibleImage"));
    let ready = engine
        .pull_images(&document("later", &app, right))
        .await
        .unwrap();
    assert_eq!(ready, engine.images().await.unwrap());
}
