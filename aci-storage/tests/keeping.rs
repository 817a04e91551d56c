//! What is kept, what is deleted, and what crashes and neighbours cannot spoil.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aci_core::contract::{ImageStore as _, PullPolicy, PullRequest};
use aci_core::error::ErrorKind;
use aci_storage::{LayerFormat, OciImages};
use common::*;

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[tokio::test]
async fn root_file_systems_are_fresh_listed_and_released() {
    let store = store();
    let layout = Layout::of(
        store.dir.path().join("in"),
        &[layer(&[("./", ""), ("a", "1")])],
    );
    let image = store
        .images
        .import_layout(&layout.dir, "x:1")
        .await
        .unwrap();
    let root = prepare(&store.images, &image).await;
    let (upper, work) = root.upper.clone().unwrap();
    assert_eq!(upper.metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(
        upper.metadata().unwrap().dev(),
        work.metadata().unwrap().dev()
    );
    assert_eq!((count(&upper), count(&work)), (0, 0));
    std::fs::write(upper.join("written"), "x").unwrap();
    assert_eq!(store.images.prepared().await.unwrap(), [key("c")]);

    // Again: empty, the same place.
    let again = prepare(&store.images, &image).await;
    assert_eq!(again, root);
    assert_eq!(count(&upper), 0);
    let other = store
        .images
        .prepare(&image.digest, &key("d"))
        .await
        .unwrap();
    assert_eq!(other.layers, root.layers);
    assert_ne!(other.upper, root.upper);

    for name in ["c", "c", "d", "never"] {
        store.images.release(&key(name)).await.unwrap();
    }
    assert!(store.images.prepared().await.unwrap().is_empty());
    assert_eq!(count(&store.images.dir().join("rootfs")), 0);
    assert_eq!(count(&store.images.dir().join("trash")), 0);

    let digest = aci_storage::Digest::of(b"unknown").to_string();
    let error = store.images.prepare(&digest, &key("c")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for name in ["", ".", "..", "a/b", "../../x"] {
        let error = store
            .images
            .prepare(&image.digest, &key(name))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
    }
}

#[tokio::test]
async fn content_goes_with_its_last_user() {
    let store = store();
    let images = &store.images;
    let shared = layer(&[("shared", "1")]);
    let first = Layout::of(
        store.dir.path().join("1"),
        &[shared.clone(), layer(&[("a", "1")])],
    );
    let second = Layout::of(store.dir.path().join("2"), &[shared, layer(&[("b", "2")])]);
    let one = images.import_layout(&first.dir, "one:1").await.unwrap();
    images.import_layout(&first.dir, "one:again").await.unwrap();
    images.import_layout(&second.dir, "two:1").await.unwrap();
    let usage = images.usage().await.unwrap();
    assert_eq!((usage.layers, usage.blobs), (3, 7));

    images.remove("one:1").await.unwrap();
    images.remove("one:1").await.unwrap();
    assert_eq!(images.usage().await.unwrap(), usage);
    assert!(images.get("one:1").await.is_err());

    let root = prepare(images, &one).await;
    images.remove(&one.digest).await.unwrap();
    assert!(images.get("one:again").await.is_err());
    // In use, so still there; and not to be used anew.
    assert_eq!(images.usage().await.unwrap(), usage);
    assert!(layer_paths(&root).iter().all(|layer| layer.exists()));
    let error = images.prepare(&one.digest, &key("new")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    images.release(&key("c")).await.unwrap();
    let usage = images.usage().await.unwrap();
    assert_eq!((usage.layers, usage.blobs), (2, 4));
    images.remove("two:1").await.unwrap();
    let usage = images.usage().await.unwrap();
    assert_eq!((usage.layers, usage.blobs), (0, 0));
    images.import_layout(&first.dir, "one:1").await.unwrap();
    assert!(images.list().await.unwrap().len() == 1);
}

#[tokio::test]
async fn pinned_and_used_images_stay_and_the_oldest_go_first() {
    let store = store();
    let images = &store.images;
    let text = "x".repeat(50_000);
    for (n, name) in ["old:1", "used:1", "pinned:1", "new:1"].iter().enumerate() {
        let own = layer(&[(&format!("own{n}"), &text)]);
        let layout = Layout::of(store.dir.path().join(n.to_string()), &[layer(&[]), own]);
        images.import_layout(&layout.dir, *name).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let used = images.get("used:1").await.unwrap();
    prepare(images, &used).await;
    images.set_pinned("pinned:1", true).await.unwrap();
    let error = images.set_pinned("nothing:1", true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(images.pinned(), ["pinned:1"]);
    let error = images.remove("pinned:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.next_step().is_some());

    let held = images.usage().await.unwrap().blob_bytes;
    assert!(images.prune(held).await.unwrap().images.is_empty());
    let pruned = images.prune(held - 1).await.unwrap();
    assert_eq!(pruned.images, ["old:1"]);
    assert!(pruned.freed.blob_bytes > 50_000, "{pruned:?}");
    // A pull that finds the image is a use.
    let request = PullRequest {
        reference: "used:1".into(),
        login: None,
        policy: PullPolicy::Never,
    };
    images.pull(request, None).await.unwrap();
    images.release(&key("c")).await.unwrap();
    let held = images.usage().await.unwrap().blob_bytes;
    assert_eq!(images.prune(held - 1).await.unwrap().images, ["new:1"]);

    // The pin survives the program and a new image of the same name.
    let dir = images.dir().to_owned();
    let layout = Layout::of(store.dir.path().join("moved"), &[layer(&[("moved", "")])]);
    drop(store.images);
    let images = OciImages::open(dir).unwrap();
    assert_eq!(images.pinned(), ["pinned:1"]);
    images.import_layout(&layout.dir, "pinned:1").await.unwrap();
    assert_eq!(images.prune(0).await.unwrap().images, ["used:1"]);
    assert_eq!(images.list().await.unwrap().len(), 1);
    images.set_pinned("pinned:1", false).await.unwrap();
    images.remove("pinned:1").await.unwrap();
    assert_eq!(images.usage().await.unwrap().blobs, 0);
}

#[tokio::test]
async fn one_program_at_a_time() {
    let store = store();
    let dir = store.images.dir().to_owned();
    let clone = store.images.clone();
    let error = OciImages::open(&dir).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.next_step().is_some());
    drop(store.images);
    assert!(OciImages::open(&dir).is_err());
    drop(clone);
    OciImages::open(&dir).unwrap();
}

#[tokio::test]
async fn a_store_is_not_for_everybody_and_not_of_the_future() {
    let store = store();
    let dir = store.images.dir().to_owned();
    assert_eq!(dir.metadata().unwrap().mode() & 0o777, 0o700);
    for below in ["layers", "rootfs"] {
        assert_eq!(dir.join(below).metadata().unwrap().mode() & 0o777, 0o700);
    }
    drop(store.images);
    std::fs::write(dir.join("version"), "2\n").unwrap();
    assert_eq!(
        OciImages::open(&dir).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    std::fs::write(dir.join("version"), "1\n").unwrap();
    std::fs::write(dir.join("index.json"), "{").unwrap();
    assert_eq!(
        OciImages::open(&dir).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn what_a_crash_leaves_does_not_stop_the_next_program() {
    let store = store();
    let layout = Layout::of(
        store.dir.path().join("in"),
        &[layer(&[("a", "1")]), layer(&[("b", "2")])],
    );
    let image = store
        .images
        .import_layout(&layout.dir, "x:1")
        .await
        .unwrap();
    prepare(&store.images, &image).await;
    let dir = store.images.dir().to_owned();
    drop(store.images);

    // A blob half written, a layer half unpacked, an index half written, a tree half deleted, a
    // root file system half made.
    std::fs::write(dir.join("tmp/blob"), "half").unwrap();
    std::fs::create_dir_all(dir.join("tmp/layer/fs/usr")).unwrap();
    std::fs::write(dir.join("tmp/index"), "{\"schema").unwrap();
    std::fs::create_dir_all(dir.join("trash/tree/deep/er")).unwrap();
    std::fs::create_dir_all(dir.join("tmp/root/upper")).unwrap();
    // A blob that was ingested for an image that never came.
    let orphan = aci_storage::Digest::of(b"orphan");
    std::fs::write(dir.join("blobs/sha256").join(orphan.hex()), b"orphan").unwrap();
    // A root file system whose image was not written down when the machine stopped.
    std::fs::create_dir_all(dir.join("rootfs/sandbox-2/c/upper")).unwrap();
    std::fs::create_dir_all(dir.join("rootfs/Not A Sandbox/c")).unwrap();

    let images = OciImages::open(&dir).unwrap();
    assert_eq!(count(&dir.join("tmp")), 0);
    assert_eq!(count(&dir.join("trash")), 0);
    assert_eq!(images.list().await.unwrap(), std::slice::from_ref(&image));
    let prepared = images.prepared().await.unwrap();
    assert_eq!(prepared.len(), 2);
    for key in &prepared {
        images.release(key).await.unwrap();
    }
    let freed = images.collect_garbage().await.unwrap();
    assert_eq!((freed.blobs, freed.blob_bytes, freed.layers), (1, 6, 0));
    prepare(&images, &image).await;
}

#[tokio::test]
async fn layers_that_were_not_flushed_before_the_machine_stopped_are_unpacked_again() {
    for format in formats() {
        let store = store_of(Some(format));
        let layout = Layout::of(store.dir.path().join("in"), &[layer(&[("a", "1")])]);
        let image = store
            .images
            .import_layout(&layout.dir, "x:1")
            .await
            .unwrap();
        let kept = layer_paths(&prepare(&store.images, &image).await)[0].clone();
        let place = kept.parent().unwrap().to_owned();
        let dir = store.images.dir().to_owned();
        // Flushing goes on in the background.
        for _ in 0..600 {
            if place.join("flushed").exists() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        drop(store.images);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let note = std::fs::read_to_string(place.join("layer.json")).unwrap();
        assert!(note.contains(boot.trim()));
        std::fs::write(
            place.join("layer.json"),
            note.replace(boot.trim(), "an earlier boot"),
        )
        .unwrap();
        // As a crash leaves files.
        let file = if kept.is_dir() { kept.join("a") } else { kept };
        std::fs::write(file, "").unwrap();

        // Flushed: trusted after all.
        let open = || OciImages::open_with(&dir, options(Some(format))).unwrap();
        drop(open());
        assert!(place.exists());

        std::fs::remove_file(place.join("flushed")).unwrap();
        let images = open();
        assert!(!place.exists());
        let request = PullRequest {
            reference: "x:1".into(),
            login: None,
            policy: PullPolicy::Never,
        };
        images.pull(request, None).await.unwrap();
        let dirs = layer_dirs(&prepare(&images, &image).await);
        assert_eq!(std::fs::read(dirs[0].join("a")).unwrap(), b"1");
    }
}

/// A store whose program lost or gained the ability to mount EROFS images.
#[tokio::test]
async fn layers_of_the_other_format_stay_for_those_who_use_them() {
    if formats().len() < 2 {
        return;
    }
    let store = store_of(Some(LayerFormat::Directories));
    let dir = store.images.dir().to_owned();
    let mut images = Vec::new();
    for n in ["1", "2"] {
        let layout = Layout::of(store.dir.path().join(n), &[layer(&[("a", n)])]);
        let name = format!("x:{n}");
        images.push(store.images.import_layout(&layout.dir, name.as_str()).await);
    }
    let used = images.remove(0).unwrap();
    let root = prepare(&store.images, &used).await;
    let trees = dir.join("layers/root");
    assert_eq!(count(&trees), 2);
    drop(store.images);

    let again = OciImages::open_with(&dir, options(Some(LayerFormat::Erofs))).unwrap();
    again.collect_garbage().await.unwrap();
    // That of the container which still runs on it; the other one is made anew when needed.
    assert_eq!(count(&trees), 1);
    assert!(layer_paths(&root).iter().all(|layer| layer.exists()));
    let new = again.prepare(&used.digest, &key("new")).await.unwrap();
    assert_eq!(std::fs::read(layer_dirs(&new)[0].join("a")).unwrap(), b"1");
    for name in ["c", "new"] {
        again.release(&key(name)).await.unwrap();
    }
    again.collect_garbage().await.unwrap();
    assert_eq!(count(&trees), 0);
    assert_eq!(count(&dir.join("layers/erofs")), 1);
}

#[tokio::test]
async fn the_format_of_layers_is_told_and_not_forced() {
    let images = store().images;
    let support = images.layer_support();
    match &support.no_erofs {
        None => assert_eq!(support.format, LayerFormat::Erofs),
        Some(why) => {
            assert_eq!(support.format, LayerFormat::Directories);
            assert!(why.contains("EROFS"), "{why}");
            let dir = tempfile::tempdir().unwrap();
            let options = options(Some(LayerFormat::Erofs));
            let error = OciImages::open_with(dir.path().join("images"), options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains(why), "{error}");
            assert!(error.next_step().is_some());
        }
    }
    let directories = store_of(Some(LayerFormat::Directories));
    let support = directories.images.layer_support();
    assert_eq!(support.format, LayerFormat::Directories);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn imports_at_the_same_time_share_the_work() {
    let store = store();
    let big = "y".repeat(300_000);
    let layers = [
        layer(&[("a", &big)]),
        layer(&[("b", &big)]),
        layer(&[("c", "3")]),
    ];
    let layout = Layout::of(store.dir.path().join("in"), &layers);
    let tasks: Vec<_> = (0..12)
        .map(|n| {
            let (images, dir) = (store.images.clone(), layout.dir.clone());
            tokio::spawn(async move {
                let name = format!("x:{}", n % 3);
                let image = images.import_layout(&dir, name.as_str()).await.unwrap();
                if n % 4 == 3 {
                    // Removing and collecting beside the others harms nobody.
                    images.remove(&format!("x:{}", n % 3)).await.unwrap();
                }
                let key = key(&format!("c{n}"));
                match images.prepare(&image.digest, &key).await {
                    Ok(_) => images.release(&key).await.unwrap(),
                    // Only because all its names were removed.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                }
                image.digest
            })
        })
        .collect();
    let mut digests = Vec::new();
    for task in tasks {
        digests.push(task.await.unwrap());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
    let image = store
        .images
        .import_layout(&layout.dir, "x:last")
        .await
        .unwrap();
    let dirs = layer_dirs(&prepare(&store.images, &image).await);
    assert_eq!(std::fs::read(dirs[2].join("a")).unwrap(), big.as_bytes());
    let usage = store.images.usage().await.unwrap();
    assert_eq!((usage.layers, usage.blobs), (3, 5));
    assert_eq!(count(&store.images.dir().join("tmp")), 0);
}

#[test]
fn again_as_an_ordinary_user() {
    common::again_as_an_ordinary_user("again_as_an_ordinary_user");
}
