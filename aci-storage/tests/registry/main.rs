//! Pulling from registries: Debian's docker-registry, with and without faults before it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod access;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod front;
mod killed;
mod policy;
mod server;
mod tls;
mod way;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::contract::{
    Image, ImageStore as _, PullEvent, PullPhase, PullPolicy, PullProgress, PullRequest,
    RegistryLogin,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_storage::{Digest, OciImages, OciImagesOptions, Registries};
use common::{Store, architecture, gzip, layer, layer_dirs, prepare};
use serde_json::json;
use server::{PASSWORD, Pusher, Registry, Setup, USER, content};

/// A store that speaks to these hosts without TLS.
pub(crate) fn store(insecure: &[String]) -> Store {
    store_with(|registries| registries.insecure = insecure.to_vec())
}

pub(crate) fn store_with(change: impl FnOnce(&mut Registries)) -> Store {
    let dir = tempfile::tempdir().unwrap();
    let mut options = OciImagesOptions::default();
    options.registries.connect_timeout = Duration::from_secs(5);
    change(&mut options.registries);
    let images = OciImages::open_with(dir.path().join("images"), options).unwrap();
    Store { images, dir }
}

pub(crate) fn login(host: &str, password: &str) -> RegistryLogin {
    RegistryLogin {
        server: host.to_owned(),
        username: USER.to_owned(),
        password: password.to_owned().into(),
    }
}

pub(crate) async fn pull(store: &Store, reference: &str) -> Result<Image> {
    pull_as(store, reference, PullPolicy::IfNotPresent, None).await
}

pub(crate) async fn pull_as(
    store: &Store,
    reference: &str,
    policy: PullPolicy,
    login: Option<RegistryLogin>,
) -> Result<Image> {
    let request = PullRequest {
        reference: reference.to_owned(),
        login,
        policy,
    };
    store.images.pull(request, None).await
}

/// The error has a kind and a code, and no secret.
pub(crate) fn is(error: &Error, kind: ErrorKind, code: Option<&str>) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.aci_code(), code, "{error:?}");
    let all = format!("{error:?} {error} {}", error.chain());
    assert!(!all.contains(PASSWORD), "{all}");
    assert!(!all.contains("c2VjcmV0"), "{all}");
}

/// The store has no image and, after a collection, no content.
pub(crate) async fn is_empty(store: &Store) {
    assert_eq!(store.images.list().await.unwrap(), []);
    store.images.collect_garbage().await.unwrap();
    assert_eq!(store.images.usage().await.unwrap().blobs, 0);
    let tmp = std::fs::read_dir(store.images.dir().join("tmp")).unwrap();
    assert_eq!(tmp.count(), 0, "something unfinished is left");
}

/// Content of a size that does not compress.
pub(crate) fn noise(size: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b' ' + u8::try_from(state % 90).unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_by_tag_and_by_digest() {
    let Some(mut registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "team/app");
    let layers = [
        layer(&[("bin/app", "1")]),
        layer(&[("etc/conf", "2")]),
        layer(&[("data", &noise(600_000))]),
    ];
    let pushed = pusher.image("1.0", architecture(), &layers).await;
    let digest = pushed["digest"].as_str().unwrap();
    let name = format!("{}/team/app", registry.host());
    let tagged = format!("{name}:1.0");
    let store = store(&[registry.host()]);

    let events = Arc::new(Mutex::new(Vec::<PullEvent>::new()));
    let heard = Arc::clone(&events);
    let hear: PullProgress = Arc::new(move |event| heard.lock().unwrap().push(event));
    let request = PullRequest {
        reference: tagged.clone(),
        login: None,
        policy: PullPolicy::IfNotPresent,
    };
    let image = store.images.pull(request, Some(hear)).await.unwrap();
    assert_eq!(image.digest, digest);
    assert_eq!(image.reference, tagged);
    assert_eq!(image.config.entrypoint, ["/bin/app"]);
    let root = prepare(&store.images, &image).await;
    assert_eq!(content(&layer_dirs(&root)[2], "bin/app"), "1");
    assert_eq!(content(&layer_dirs(&root)[1], "etc/conf"), "2");

    let events = events.lock().unwrap().clone();
    assert_eq!(events[0].phase, PullPhase::Resolving);
    let last = events.last().unwrap();
    assert_eq!((last.phase, &last.layer), (PullPhase::Done, &None));
    for phase in [PullPhase::Downloading, PullPhase::Done] {
        let mut layers: Vec<_> = events
            .iter()
            .filter(|e| e.phase == phase && e.layer.is_some() && e.total == Some(e.done))
            .map(|e| e.layer.clone())
            .collect();
        layers.sort();
        layers.dedup();
        assert_eq!(layers.len(), 3, "{phase:?}: {events:?}");
    }

    // By digest, into another store.
    let other = self::store(&[registry.host()]);
    let exact = format!("{name}@{digest}");
    assert_eq!(pull(&other, &exact).await.unwrap().digest, digest);

    // Without the registry, what is there is there, but the tag cannot be known.
    registry.kill();
    for (store, reference, policy) in [
        (&store, &tagged, PullPolicy::IfNotPresent),
        (&store, &tagged, PullPolicy::Never),
        (&store, &exact, PullPolicy::Always),
        (&other, &exact, PullPolicy::Always),
    ] {
        let image = pull_as(store, reference, policy, None).await.unwrap();
        assert_eq!(image.digest, digest, "{reference} {policy:?}");
    }
    let error = pull_as(&other, &tagged, PullPolicy::Never, None)
        .await
        .unwrap_err();
    is(&error, ErrorKind::NotFound, Some("InaccessibleImage"));
    let error = pull_as(&store, &tagged, PullPolicy::Always, None)
        .await
        .unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    assert!(error.message().contains(&registry.host()), "{error}");
    assert!(store.images.get(&tagged).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_own_platform() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "multi");
    let own = pusher
        .image("own", architecture(), &[layer(&[("own", "1")])])
        .await;
    let other = pusher
        .image("other", "s390x", &[layer(&[("other", "1")])])
        .await;
    let both = [
        ("linux", "s390x", other.clone()),
        ("windows", architecture(), other.clone()),
        ("linux", architecture(), own.clone()),
    ];
    let index = pusher.index("1", &both).await;
    pusher.index("foreign", &both[..2]).await;
    let store = store(&[registry.host()]);
    let name = format!("{}/multi", registry.host());

    let image = pull(&store, &format!("{name}:1")).await.unwrap();
    assert_eq!(image.digest, own["digest"].as_str().unwrap());
    // The index's digest names the image too, and an unchanged index is known again.
    let exact = format!("{name}@{}", index["digest"].as_str().unwrap());
    assert_eq!(pull(&store, &exact).await.unwrap().digest, image.digest);
    let again = pull_as(&store, &format!("{name}:1"), PullPolicy::Always, None).await;
    assert_eq!(again.unwrap().digest, image.digest);

    for tag in ["foreign", "other"] {
        let error = pull(&store, &format!("{name}:{tag}")).await.unwrap_err();
        is(
            &error,
            ErrorKind::Unsupported,
            Some("OsVersionNotSupported"),
        );
        let hint = error.next_step().unwrap();
        assert!(hint.contains("s390x"), "{hint}");
    }
}

/// What `docker push` writes: a manifest list, schema 2 manifests, Docker's types throughout.
#[tokio::test(flavor = "multi_thread")]
async fn dockers_own_types_are_read() {
    const VENDOR: &str = "application/vnd.docker";
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let layers = [layer(&[("a", "1")]), layer(&[("b", "2")])];
    let diff_ids: Vec<_> = layers.iter().map(|l| Digest::of(l)).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": {"Cmd": ["/a"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    });
    let config = config.to_string();
    let config = pusher
        .blob(
            &format!("{VENDOR}.container.image.v1+json"),
            config.as_bytes(),
        )
        .await;
    let diff = format!("{VENDOR}.image.rootfs.diff.tar");
    let plain = pusher.blob(&diff, &layers[0]).await;
    let zipped = pusher
        .blob(&format!("{diff}.gzip"), &gzip(&layers[1]))
        .await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": format!("{VENDOR}.distribution.manifest.v2+json"),
        "config": config, "layers": [plain, zipped]
    });
    let mut image = pusher.tag("own", &manifest).await;
    image["platform"] = json!({"os": "linux", "architecture": architecture()});
    let list = json!({
        "schemaVersion": 2, "mediaType": format!("{VENDOR}.distribution.manifest.list.v2+json"),
        "manifests": [image]
    });
    pusher.tag("1", &list).await;
    let store = store(&[registry.host()]);
    for tag in ["1", "own"] {
        let pulled = pull(&store, &format!("{}/app:{tag}", registry.host()))
            .await
            .unwrap();
        assert_eq!(pulled.digest, image["digest"].as_str().unwrap());
        assert_eq!(pulled.config.cmd, ["/a"]);
        let root = prepare(&store.images, &pulled).await;
        assert_eq!(content(&layer_dirs(&root)[1], "a"), "1");
        assert_eq!(content(&layer_dirs(&root)[0], "b"), "2");
    }
}
