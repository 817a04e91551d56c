//! The suite of [`ImageStore`].

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::{fails, run, skip, works};
use crate::contract::{
    Image, ImageStore, PullEvent, PullPhase, PullPolicy, PullProgress, PullRequest, RootFs,
    RootFsKey,
};
use crate::error::ErrorKind;
use crate::id::SandboxId;

/// What the suite needs of an implementation.
#[async_trait]
pub trait ImageHarness: Send + Sync {
    /// The store.
    fn store(&self) -> &dyn ImageStore;

    /// Makes an image available and answers its reference: imports a tiny image, or offers it in a
    /// registry that the store can ask. Its default command is `["conformance"]`. Called with
    /// another number, it is another image.
    async fn offer(&self, number: u32) -> String;

    /// Another store over the same state, as a program has it that starts after a crash of the
    /// first; `None` if nothing outlives the program.
    async fn reopen(&self) -> Option<Box<dyn ImageStore>>;

    /// Writes a file where a container would write it; false if that cannot be done from here.
    async fn write(&self, rootfs: &RootFs, name: &str) -> bool;

    /// Whether such a file is there.
    async fn has(&self, rootfs: &RootFs, name: &str) -> bool;
}

/// Runs all cases. **Removes all images and root file systems of the store.**
pub async fn all(harness: &dyn ImageHarness) {
    let clean = async || {
        let store = harness.store();
        let mut left = Vec::new();
        for key in works(store.prepared().await, "prepared") {
            works(store.release(&key).await, "release");
            left.push(format!("{}/{}", key.sandbox, key.container));
        }
        for image in works(store.list().await, "list") {
            works(store.remove(&image.reference).await, "remove");
        }
        left
    };
    clean().await;
    run("pull_get_list_remove", pull_get_list_remove(harness), clean).await;
    run("pull_again", pull_again(harness), clean).await;
    run("progress_is_told", progress_is_told(harness), clean).await;
    run("unknown_images", unknown_images(harness), clean).await;
    run("pulls_at_once", pulls_at_once(harness), clean).await;
    run("prepare_and_release", prepare_and_release(harness), clean).await;
    run(
        "prepare_again_is_fresh",
        prepare_again_is_fresh(harness),
        clean,
    )
    .await;
    run("roots_are_apart", roots_are_apart(harness), clean).await;
    run("found_after_a_crash", found_after_a_crash(harness), clean).await;
    run("dropped_pull", dropped_pull(harness), clean).await;
    run("dropped_prepare", dropped_prepare(harness), clean).await;
}

fn request(reference: &str, policy: PullPolicy) -> PullRequest {
    PullRequest {
        reference: reference.to_owned(),
        login: None,
        policy,
    }
}

async fn pulled(harness: &dyn ImageHarness, number: u32) -> Image {
    let reference = harness.offer(number).await;
    let request = request(&reference, PullPolicy::IfNotPresent);
    works(harness.store().pull(request, None).await, "pull")
}

fn key(container: &str) -> RootFsKey {
    RootFsKey {
        sandbox: SandboxId::generate("img"),
        container: container.to_owned(),
    }
}

/// What was pulled is found by reference and by digest until it is removed.
pub async fn pull_get_list_remove(harness: &dyn ImageHarness) {
    let store = harness.store();
    let reference = harness.offer(1).await;
    let wish = request(&reference, PullPolicy::IfNotPresent);
    let image = works(store.pull(wish, None).await, "pull");
    assert_eq!(image.reference, reference);
    let hex = image.digest.strip_prefix("sha256:").expect("a digest");
    assert_eq!(hex.len(), 64, "{}", image.digest);
    assert!(hex.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(image.os, "linux");
    assert_eq!(image.config.cmd, ["conformance"]);
    let by_name = works(store.get(&reference).await, "get by reference");
    assert_eq!(by_name.digest, image.digest);
    let by_digest = works(store.get(&image.digest).await, "get by digest");
    assert_eq!(by_digest.digest, image.digest);
    assert_eq!(by_digest.config, image.config);
    let listed = works(store.list().await, "list");
    assert!(listed.iter().any(|i| i.digest == image.digest));
    works(store.remove(&reference).await, "remove");
    fails(
        store.get(&reference).await,
        ErrorKind::NotFound,
        "get after removal",
    );
    works(store.remove(&reference).await, "remove again");
    let listed = works(store.list().await, "list");
    assert!(listed.iter().all(|i| i.digest != image.digest));
}

/// A second pull answers the same image, with `Never` too.
pub async fn pull_again(harness: &dyn ImageHarness) {
    let store = harness.store();
    let image = pulled(harness, 1).await;
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        let again = store.pull(request(&image.reference, policy), None).await;
        assert_eq!(works(again, "pull again"), image, "{policy:?}");
    }
}

/// A pull tells its steps and ends with the whole image being there.
pub async fn progress_is_told(harness: &dyn ImageHarness) {
    let reference = harness.offer(1).await;
    let events: Arc<Mutex<Vec<PullEvent>>> = Arc::default();
    let hear: PullProgress = {
        let events = Arc::clone(&events);
        Arc::new(move |event| events.lock().unwrap().push(event))
    };
    let wish = request(&reference, PullPolicy::IfNotPresent);
    works(harness.store().pull(wish, Some(hear)).await, "pull");
    let events = events.lock().unwrap();
    let last = events.last().expect("a pull tells at least its end");
    assert_eq!((last.phase, &last.layer), (PullPhase::Done, &None));
    for event in events.iter() {
        let within = event.total.is_none_or(|total| event.done <= total);
        assert!(within, "more done than there is: {event:?}");
    }
}

/// An image that does not exist is ACI's `InaccessibleImage`, and nothing is left of the try.
pub async fn unknown_images(harness: &dyn ImageHarness) {
    let store = harness.store();
    let reference = "conformance.invalid/no-such-image:none";
    let error = fails(
        store
            .pull(request(reference, PullPolicy::Never), None)
            .await,
        ErrorKind::NotFound,
        "an unknown image, not to be pulled",
    );
    assert_eq!(error.aci_code(), Some("InaccessibleImage"));
    fails(store.get(reference).await, ErrorKind::NotFound, "get");
    let digest = format!("sha256:{}", "0".repeat(64));
    fails(
        store.get(&digest).await,
        ErrorKind::NotFound,
        "get by digest",
    );
    fails(
        store.prepare(&digest, &key("web")).await,
        ErrorKind::NotFound,
        "prepare of nothing",
    );
    let prepared = works(store.prepared().await, "prepared");
    assert_eq!(prepared, [], "a failed prepare left something");
    assert_eq!(works(store.list().await, "list"), []);
}

/// Pulls of one image at once all get it.
pub async fn pulls_at_once(harness: &dyn ImageHarness) {
    let store = harness.store();
    let reference = harness.offer(1).await;
    let pulls = (0..6).map(|_| store.pull(request(&reference, PullPolicy::IfNotPresent), None));
    let images = futures_util::future::join_all(pulls).await;
    let digests: Vec<_> = images
        .into_iter()
        .map(|image| works(image, "pull").digest)
        .collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

/// A prepared root is shown until it is released.
pub async fn prepare_and_release(harness: &dyn ImageHarness) {
    let store = harness.store();
    let image = pulled(harness, 1).await;
    let key = key("web");
    let rootfs = works(store.prepare(&image.digest, &key).await, "prepare");
    assert!(!rootfs.layers.is_empty(), "a root needs a layer");
    let prepared = works(store.prepared().await, "prepared");
    assert_eq!(prepared, std::slice::from_ref(&key));
    works(store.release(&key).await, "release");
    assert_eq!(works(store.prepared().await, "prepared"), []);
    works(store.release(&key).await, "release again");
}

/// Preparing again deletes what the earlier container wrote.
pub async fn prepare_again_is_fresh(harness: &dyn ImageHarness) {
    let store = harness.store();
    let image = pulled(harness, 1).await;
    let key = key("web");
    let first = works(store.prepare(&image.digest, &key).await, "prepare");
    if !harness.write(&first, "written").await {
        skip(
            "prepare_again_is_fresh: content",
            "it cannot be written here",
        );
    }
    let second = works(store.prepare(&image.digest, &key).await, "prepare again");
    assert!(
        !harness.has(&second, "written").await,
        "an old file is there"
    );
    let prepared = works(store.prepared().await, "prepared");
    assert_eq!(prepared, std::slice::from_ref(&key));
    works(store.release(&key).await, "release");
    assert!(!harness.has(&second, "written").await);
}

/// What one container writes is not seen by another, nor in another image's root.
pub async fn roots_are_apart(harness: &dyn ImageHarness) {
    let store = harness.store();
    let image = pulled(harness, 1).await;
    let other = pulled(harness, 2).await;
    assert_ne!(image.digest, other.digest);
    let keys = [key("web"), key("web"), key("side")];
    let mut roots = Vec::new();
    for (key, digest) in keys
        .iter()
        .zip([&image.digest, &image.digest, &other.digest])
    {
        roots.push(works(store.prepare(digest, key).await, "prepare"));
    }
    harness.write(&roots[0], "written").await;
    assert!(!harness.has(&roots[1], "written").await);
    assert!(!harness.has(&roots[2], "written").await);
    let mut uppers: Vec<_> = roots.iter().filter_map(|r| r.upper.clone()).collect();
    uppers.sort();
    uppers.dedup();
    assert_eq!(uppers.len(), 3, "containers share what they write");
    for key in &keys {
        works(store.release(key).await, "release");
    }
}

/// A later program has the image and the roots, and can give them up.
pub async fn found_after_a_crash(harness: &dyn ImageHarness) {
    let store = harness.store();
    let image = pulled(harness, 1).await;
    let key = key("web");
    works(store.prepare(&image.digest, &key).await, "prepare");
    match harness.reopen().await {
        None => skip("found_after_a_crash", "nothing outlives the program"),
        Some(second) => {
            let found = works(second.get(&image.reference).await, "get");
            assert_eq!(found.digest, image.digest);
            let prepared = works(second.prepared().await, "prepared");
            assert_eq!(prepared, std::slice::from_ref(&key));
            works(second.release(&key).await, "release by the second");
            assert_eq!(works(second.prepared().await, "prepared"), []);
        }
    }
    works(store.release(&key).await, "release");
}

/// After a dropped pull the image is there as a whole or not at all, and can be pulled.
pub async fn dropped_pull(harness: &dyn ImageHarness) {
    let store = harness.store();
    for cut in super::CUTS {
        let reference = harness.offer(3).await;
        let wish = request(&reference, PullPolicy::IfNotPresent);
        let _ = super::cut_short(cut, store.pull(wish.clone(), None)).await;
        if let Ok(image) = store.get(&reference).await {
            let key = key("web");
            works(store.prepare(&image.digest, &key).await, "prepare");
            works(store.release(&key).await, "release");
        }
        works(store.pull(wish, None).await, "pull after it");
        works(store.remove(&reference).await, "remove");
    }
}

/// A dropped `prepare` is undone by `release`.
pub async fn dropped_prepare(harness: &dyn ImageHarness) {
    let store = harness.store();
    let image = pulled(harness, 1).await;
    for cut in super::CUTS {
        let key = key("web");
        let _ = super::cut_short(cut, store.prepare(&image.digest, &key)).await;
        works(store.prepare(&image.digest, &key).await, "prepare after it");
        works(store.release(&key).await, "release");
        assert_eq!(works(store.prepared().await, "prepared"), []);
    }
}
