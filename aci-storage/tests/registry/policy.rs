//! When a registry is asked, and how often.

use aci_core::contract::{ImageStore as _, PullPolicy};
use aci_core::error::ErrorKind;
use aci_storage::HostImage;

use crate::common::{architecture, layer};
use crate::front::{Act, Front};
use crate::server::{Pusher, Registry, Setup};
use crate::{is, noise, pull, pull_as, store, store_with};

#[tokio::test(flavor = "multi_thread")]
async fn always_asks_and_fetches_only_what_moved() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let base = layer(&[("base", "1")]);
    let first = pusher
        .image("1", architecture(), std::slice::from_ref(&base))
        .await;
    let front = Front::before(registry.host(), |_, _| Act::Pass).await;
    let store = store(&[front.host()]);
    let reference = format!("{}/app:1", front.host());
    let always = || pull_as(&store, &reference, PullPolicy::Always, None);
    assert_eq!(
        always().await.unwrap().digest,
        first["digest"].as_str().unwrap()
    );
    let requests = front.seen().len();

    always().await.unwrap();
    let seen = front.seen();
    assert_eq!(seen.len(), requests + 1);
    assert_eq!(seen.last().unwrap().method, "HEAD");
    pull(&store, &reference).await.unwrap();
    assert_eq!(front.seen().len(), requests + 1);

    // The tag moves; what both have is not fetched again.
    let second = pusher
        .image("1", architecture(), &[base.clone(), layer(&[("new", "2")])])
        .await;
    assert_eq!(
        always().await.unwrap().digest,
        second["digest"].as_str().unwrap()
    );
    let fetched = front.seen();
    let count = |text: &str| fetched.iter().filter(|h| h.path.contains(text)).count();
    assert_eq!(count(&aci_storage::Digest::of(&base).to_string()), 1);

    // It survives opening again that the image was pulled.
    let dir = store.images.dir().to_owned();
    let index = std::fs::read_to_string(dir.join("index.json")).unwrap();
    assert!(index.contains("\"io.github.aci-rs.origin\": \"registry\""));
}

/// A registry that does not know HEAD, or names no digest, sends the manifest again and no blob.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_compared_without_head_too() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let layers = [layer(&[("base", "1")])];
    let image = pusher.image("1", architecture(), &layers).await;
    for status in [405, 200] {
        let front = Front::before(registry.host(), move |head, _| match head.method.as_str() {
            "HEAD" => Act::Say(status, vec![], vec![]),
            _ => Act::Pass,
        })
        .await;
        let store = store(&[front.host()]);
        let reference = format!("{}/app:1", front.host());
        pull(&store, &reference).await.unwrap();
        let before = front.seen().len();
        let again = pull_as(&store, &reference, PullPolicy::Always, None).await;
        assert_eq!(again.unwrap().digest, image["digest"].as_str().unwrap());
        let since = &front.seen()[before..];
        assert!(since.iter().all(|head| !head.is_blob()), "{since:?}");
        assert_eq!(since.len(), 2);
    }
}

/// An image that was made here is not looked for elsewhere, whatever its name is.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_pulled_is_taken_as_it_is() {
    let front = Front::before("127.0.0.1:1", |_, _| Act::Say(500, vec![], vec![])).await;
    let store = store(&[front.host()]);
    for reference in [
        "local/hello:1".to_owned(),
        format!("{}/hello:1", front.host()),
    ] {
        let made = HostImage::new(&reference)
            .file("/x", "1", 0o644)
            .build(&store.images)
            .await
            .unwrap();
        let image = pull_as(&store, &reference, PullPolicy::Always, None).await;
        assert_eq!(image.unwrap().digest, made.digest);
    }
    assert!(front.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pulls_at_once_fetch_each_blob_once() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let text = noise(300_000);
    let layers: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|name| layer(&[(name, &text)]))
        .collect();
    pusher.image("1", architecture(), &layers).await;
    // Another image that shares layers.
    pusher.image("2", architecture(), &layers[..3]).await;
    let front = Front::before(registry.host(), |_, _| Act::Pass).await;
    let store = store(&[front.host()]);
    let pulls = (0..20).map(|n| {
        let reference = format!("{}/app:{}", front.host(), n % 2 + 1);
        let store = &store;
        async move { pull(store, &reference).await }
    });
    for image in futures_util::future::join_all(pulls).await {
        image.unwrap();
    }
    let seen = front.seen();
    for blob in layers.iter().enumerate().map(|(at, layer)| match at {
        0 => aci_storage::Digest::of(layer),
        _ => aci_storage::Digest::of(&crate::common::gzip(layer)),
    }) {
        let path = format!("/v2/app/blobs/{blob}");
        let fetched = seen.iter().filter(|h| h.path == path).count();
        assert_eq!(fetched, 1, "{path}");
    }
    assert_eq!(store.images.list().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_registries_asks_none() {
    let front = Front::before("127.0.0.1:1", |_, _| Act::Say(500, vec![], vec![])).await;
    let store = store_with(|r| {
        r.enabled = false;
        r.insecure = vec![front.host()];
    });
    let reference = format!("{}/hello:1", front.host());
    let error = pull(&store, &reference).await.unwrap_err();
    is(&error, ErrorKind::NotFound, Some("InaccessibleImage"));
    assert!(front.seen().is_empty());
}
