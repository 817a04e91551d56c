//! Registries that fail, lie or attack.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aci_core::contract::ImageStore as _;
use aci_core::error::ErrorKind;
use aci_storage::{Digest, OciImages, OciImagesOptions};
use serde_json::json;

use crate::common::{CONFIG, LAYER, MANIFEST, architecture, layer};
use crate::front::{Act, Front, Head};
use crate::server::{Pusher, Registry, Setup};
use crate::{is, is_empty, noise, pull, store, store_with};

/// A registry with an image of one large layer, `app:1`, and that layer's bytes.
async fn with_a_layer() -> Option<(Registry, Vec<u8>)> {
    let registry = Registry::start(Setup::default())?;
    let layer = layer(&[("large", &noise(2_000_000))]);
    Pusher::new(&registry, "app")
        .image("1", architecture(), std::slice::from_ref(&layer))
        .await;
    Some((registry, layer))
}

fn is_layer(head: &Head, layer: &[u8]) -> bool {
    head.path.ends_with(&Digest::of(layer).to_string())
}

fn header(name: &str, value: impl ToString) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_string())]
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_and_wrong_sizes_are_refused() {
    let Some((registry, layer)) = with_a_layer().await else {
        return;
    };
    let mut flipped = layer.clone();
    flipped[1_000_000] ^= 1;
    let mut longer = layer.clone();
    longer.push(0);
    let shorter = layer[..layer.len() - 1].to_vec();
    for (lie, chunked) in [
        (flipped.clone(), false),
        (longer.clone(), false),
        (shorter, false),
        (longer, true),
        (flipped, true),
    ] {
        let known = layer.clone();
        let front = Front::before(registry.host(), move |head, _| {
            if !is_layer(head, &known) {
                return Act::Pass;
            }
            if !chunked {
                return Act::Say(200, vec![], lie.clone());
            }
            // Of unknown length.
            let mut body = format!("{:x}\r\n", lie.len()).into_bytes();
            body.extend_from_slice(&lie);
            body.extend_from_slice(b"\r\n0\r\n\r\n");
            Act::Say(200, header("Transfer-Encoding", "chunked"), body)
        })
        .await;
        let store = store(&[front.host()]);
        let error = pull(&store, &format!("{}/app:1", front.host()))
            .await
            .unwrap_err();
        is(&error, ErrorKind::Corrupt, None);
        is_empty(&store).await;
        let asked = front.seen().iter().filter(|h| is_layer(h, &layer)).count();
        assert_eq!(asked, 1, "a lie was asked for again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_taken_up_where_it_broke() {
    let Some((registry, layer)) = with_a_layer().await else {
        return;
    };
    let known = layer.clone();
    let front = Front::before(registry.host(), move |head, before| {
        match (is_layer(head, &known), before) {
            (true, 0 | 1) => Act::Cut(500_000),
            // A server that forgets about ranges sends all.
            (true, 2) => Act::Say(200, vec![], known.clone()),
            _ => Act::Pass,
        }
    })
    .await;
    let store = store(&[front.host()]);
    pull(&store, &format!("{}/app:1", front.host()))
        .await
        .unwrap();
    let ranges: Vec<_> = front
        .seen()
        .iter()
        .filter(|h| is_layer(h, &layer))
        .map(|h| h.header("Range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!(ranges[0], None);
    let from = |range: &Option<String>| -> u64 {
        let range = range.as_deref().unwrap();
        let range = range.strip_prefix("bytes=").unwrap();
        range.strip_suffix('-').unwrap().parse().unwrap()
    };
    assert!(from(&ranges[1]) > 400_000, "{ranges:?}");
    assert!(from(&ranges[2]) > 800_000, "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_always_breaks_at_once_ends_the_pull() {
    let Some((registry, layer)) = with_a_layer().await else {
        return;
    };
    let known = layer.clone();
    let front = Front::before(registry.host(), move |head, _| {
        if is_layer(head, &known) {
            Act::Cut(50)
        } else {
            Act::Pass
        }
    })
    .await;
    let store = store_with(|r| {
        r.insecure = vec![front.host()];
        r.retries = 2;
    });
    let error = pull(&store, &format!("{}/app:1", front.host()))
        .await
        .unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    let asked = front.seen().iter().filter(|h| is_layer(h, &layer)).count();
    assert_eq!(asked, 3);
    is_empty(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_dies_and_comes_back_in_the_middle() {
    let Some((registry, layer)) = with_a_layer().await else {
        return;
    };
    let host = registry.host();
    let registry = Arc::new(Mutex::new(registry));
    let (victim, known) = (Arc::clone(&registry), layer.clone());
    let killed = AtomicBool::new(false);
    let front = Front::before(host, move |head, before| {
        if !is_layer(head, &known) || before == 0 {
            return match is_layer(head, &known) {
                true => Act::Cut(700_000),
                false => Act::Pass,
            };
        }
        if !killed.swap(true, Ordering::SeqCst) {
            victim.lock().unwrap().kill();
            let victim = Arc::clone(&victim);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(500));
                assert!(victim.lock().unwrap().up());
            });
        }
        Act::Pass
    })
    .await;
    let store = store(&[front.host()]);
    pull(&store, &format!("{}/app:1", front.host()))
        .await
        .unwrap();
    let seen = front.seen();
    let tries: Vec<_> = seen.iter().filter(|h| is_layer(h, &layer)).collect();
    assert!(tries.len() >= 3, "{}", tries.len());
    assert!(tries[1..].iter().all(|h| h.header("Range").is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_to_wait_is_granted_within_bounds() {
    let Some((registry, _)) = with_a_layer().await else {
        return;
    };
    let front = Front::before(registry.host(), |_, before| match before {
        0 => Act::Say(429, header("Retry-After", 1), vec![]),
        _ => Act::Pass,
    })
    .await;
    let store = store_with(|r| {
        r.insecure = vec![front.host()];
        r.longest_pause = Duration::from_secs(2);
    });
    let start = Instant::now();
    pull(&store, &format!("{}/app:1", front.host()))
        .await
        .unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));

    let front = Front::before(registry.host(), |_, _| {
        Act::Say(429, header("Retry-After", 3600), vec![])
    })
    .await;
    let store = self::store(&[front.host()]);
    let start = Instant::now();
    let error = pull(&store, &format!("{}/app:1", front.host()))
        .await
        .unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    assert!(error.next_step().unwrap().contains("3600"), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(front.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_silence_and_rubbish_are_bad_answers() {
    let page = b"<html>please log in</html>".to_vec();
    let large = vec![b' '; (4 << 20) + 1];
    for act in [
        Act::Say(500, vec![], vec![]),
        Act::Say(418, vec![], vec![]),
        Act::Silence,
        Act::Say(200, header("Content-Type", "text/html"), page),
        Act::Say(200, vec![], large),
        Act::Say(302, vec![], vec![]),
        Act::Say(307, header("Location", "ftp://h/"), vec![]),
    ] {
        let does = act.clone();
        let front = Front::before("127.0.0.1:1", move |_, _| does.clone()).await;
        let store = store_with(|r| {
            r.insecure = vec![front.host()];
            r.retries = 1;
            r.silence_timeout = Duration::from_millis(500);
        });
        let start = Instant::now();
        let error = pull(&store, &format!("{}/app:1", front.host()))
            .await
            .unwrap_err();
        is(
            &error,
            ErrorKind::Unavailable,
            Some("RegistryErrorResponse"),
        );
        assert!(error.is_retryable());
        assert!(start.elapsed() < Duration::from_secs(5));
        is_empty(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_must_be_what_was_asked_for() {
    let Some((registry, _)) = with_a_layer().await else {
        return;
    };
    let front = Front::before(registry.host(), |head, _| {
        if head.path.contains("/manifests/sha256:") {
            Act::Say(200, header("Content-Type", MANIFEST), b"{}".to_vec())
        } else {
            Act::Pass
        }
    })
    .await;
    let store = store(&[front.host()]);
    let digest = Digest::of(b"something");
    let error = pull(&store, &format!("{}/app@{digest}", front.host()))
        .await
        .unwrap_err();
    is(&error, ErrorKind::Corrupt, None);
    is_empty(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_from_elsewhere_and_artifacts_are_refused() {
    let config = br#"{"os":"linux"}"#;
    let config = json!({"mediaType": CONFIG, "digest": Digest::of(config), "size": config.len()});
    let layer = json!({"mediaType": LAYER, "digest": Digest::of(b"x"), "size": 1,
        "urls": ["http://127.0.0.1:1/layer"]});
    let foreign =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let mut artifact = foreign.clone();
    artifact["config"]["mediaType"] = json!("application/vnd.example.thing");
    for (manifest, says) in [(foreign, "elsewhere"), (artifact, "artifact")] {
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let front = Front::before("127.0.0.1:1", move |_, _| {
            Act::Say(200, header("Content-Type", MANIFEST), bytes.clone())
        })
        .await;
        let store = store(&[front.host()]);
        let error = pull(&store, &format!("{}/app:1", front.host()))
            .await
            .unwrap_err();
        is(&error, ErrorKind::Unsupported, None);
        assert!(error.message().contains(says), "{error}");
        assert_eq!(front.seen().len(), 1, "something was fetched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_leaves_nothing_in_the_way() {
    let Some((registry, layer)) = with_a_layer().await else {
        return;
    };
    let known = layer.clone();
    let front = Front::before(registry.host(), move |head, before| {
        if is_layer(head, &known) && before == 0 {
            Act::Silence
        } else {
            Act::Pass
        }
    })
    .await;
    let store = store(&[front.host()]);
    let reference = format!("{}/app:1", front.host());
    let cut = tokio::time::timeout(Duration::from_millis(500), pull(&store, &reference)).await;
    assert!(cut.is_err());
    assert!(store.images.get(&reference).await.is_err());
    pull(&store, &reference).await.unwrap();
    let tmp = store.images.dir().join("tmp");
    assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
}

/// A small file system that is unmounted with the test.
struct Small(tempfile::TempDir);

impl Small {
    /// In memory, or in a file through a loop device.
    fn mount(kind: &str) -> Option<Self> {
        let run = |program: &str, arguments: &[&str]| {
            std::process::Command::new(program)
                .args(arguments)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("at");
        std::fs::create_dir(&at).unwrap();
        let at = at.to_str().unwrap();
        let done = if kind == "tmpfs" {
            run("mount", &["-t", "tmpfs", "-o", "size=1m", "aci-test", at])
        } else {
            let file = dir.path().join("file");
            std::fs::File::create(&file)
                .unwrap()
                .set_len(2 << 20)
                .unwrap();
            let file = file.to_str().unwrap();
            run("mkfs.ext4", &["-q", "-O", "^has_journal", "-m", "0", file])
                && run("mount", &["-o", "loop", file, at])
        };
        done.then_some(Self(dir))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("at")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_leaves_the_store_usable() {
    let Some((registry, _)) = with_a_layer().await else {
        return;
    };
    let pusher = Pusher::new(&registry, "small");
    pusher
        .image("1", architecture(), &[layer(&[("a", "1")])])
        .await;
    for kind in ["tmpfs", "ext4"] {
        let Some(small) = Small::mount(kind) else {
            eprintln!("SKIPPED: a small {kind} cannot be mounted");
            continue;
        };
        let mut options = OciImagesOptions::default();
        options.registries.insecure = vec![registry.host()];
        let images = OciImages::open_with(small.path().join("images"), options).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = crate::common::Store { images, dir };
        let error = pull(&store, &format!("{}/app:1", registry.host()))
            .await
            .unwrap_err();
        is(&error, ErrorKind::Exhausted, None);
        assert!(error.next_step().unwrap().contains("space"), "{error:?}");
        is_empty(&store).await;
        pull(&store, &format!("{}/small:1", registry.host()))
            .await
            .unwrap();
    }
}

/// A registry that sends a blob for ever keeps nobody from the same blob of another registry, nor
/// from the layer that it holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_never_comes_keeps_nobody_from_what_it_claims_to_be() {
    let Some((registry, bytes)) = with_a_layer().await else {
        return;
    };
    // The same layer as another blob.
    let pusher = Pusher::new(&registry, "other");
    let zipped = crate::common::gzip(&bytes);
    let blob = pusher.blob(&format!("{LAYER}+gzip"), &zipped).await;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&bytes)]}
    });
    let config = config.to_string();
    let config = pusher.blob(CONFIG, config.as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [blob]
    });
    pusher.tag("1", &manifest).await;
    let blobs = [bytes, zipped];
    let known = blobs.clone();
    let slow = Front::before(registry.host(), move |head, before| {
        match (known.iter().any(|blob| is_layer(head, blob)), before) {
            (true, 0) => Act::Cut(500_000),
            (true, _) => Act::Silence,
            _ => Act::Pass,
        }
    })
    .await;
    for (slowly, blob) in [("app", &blobs[0]), ("other", &blobs[1])] {
        let store = store(&[slow.host(), registry.host()]);
        let reference = format!("{}/{slowly}:1", slow.host());
        let waits = async {
            let waits = pull(&store, &reference);
            let waits = tokio::time::timeout(Duration::from_secs(20), waits).await;
            assert!(waits.is_err(), "it was not slow");
        };
        let quick = async {
            let asked = || slow.seen().iter().filter(|h| is_layer(h, blob)).count();
            while asked() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let quick = pull(&store, &format!("{}/app:1", registry.host())).await;
            quick.unwrap();
        };
        tokio::select! {
            () = waits => panic!("{slowly}: the other pull waited"),
            () = quick => {}
        }
    }
}
