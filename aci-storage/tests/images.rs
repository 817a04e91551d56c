//! Import, export, root file systems and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::{Arc, Mutex};

use aci_core::contract::{
    ImageStore as _, PullEvent, PullPhase, PullPolicy, PullProgress, PullRequest,
};
use aci_core::error::ErrorKind;
use aci_storage::{Digest, ImportOptions};
use common::*;
use serde_json::json;

fn request(reference: &str) -> PullRequest {
    PullRequest {
        reference: reference.into(),
        login: None,
        policy: PullPolicy::IfNotPresent,
    }
}

#[tokio::test]
async fn an_image_goes_in_and_comes_out_the_same() {
    let store = store();
    let layers = [layer(&[("bin/app", "1")]), layer(&[("etc/conf", "2")])];
    let layout = Layout::of(store.dir.path().join("in"), &layers);
    let image = store
        .images
        .import_layout(&layout.dir, "local/app:1")
        .await
        .unwrap();
    assert_eq!(image.reference, "local/app:1");
    assert_eq!(image.config.entrypoint, ["/bin/app"]);
    assert_eq!(image.config.env, ["A=1"]);
    assert_eq!(image.config.user, None);
    assert_eq!(image.config.working_dir.as_deref(), Some("/srv"));
    assert_eq!(image.config.exposed_ports, ["80/tcp"]);
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(image.config.labels["l"], "v");
    assert_eq!(
        (image.os.as_str(), image.architecture.as_str()),
        ("linux", architecture())
    );

    let out = store.dir.path().join("out");
    store
        .images
        .export_layout("local/app:1", &out)
        .await
        .unwrap();
    let again = store
        .images
        .export_layout("local/app:1", &out)
        .await
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);

    let other = common::store();
    // The layout brings its name along.
    let same = other
        .images
        .import_layout(&out, ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(same.digest, image.digest);
    assert_eq!(same.reference, "docker.io/local/app:1");
    assert_eq!(same.config, image.config);

    // And as an archive, compressed or not.
    let tar = tar_of(&out);
    for bytes in [gzip(&tar), tar] {
        let third = common::store();
        let path = third.dir.path().join("image.tar");
        std::fs::write(&path, bytes).unwrap();
        let same = third.images.import_tar(&path, "x:1").await.unwrap();
        assert_eq!(same.digest, image.digest);
        let dirs = layer_dirs(&prepare(&third.images, &same).await);
        assert_eq!(std::fs::read(dirs[0].join("etc/conf")).unwrap(), b"2");
        assert_eq!(std::fs::read(dirs[1].join("bin/app")).unwrap(), b"1");
    }
}

#[tokio::test]
async fn what_docker_save_writes_is_read() {
    let store = store();
    let dir = store.dir.path().join("save");
    let bottom = layer(&[("a", "1")]);
    let top = layer(&[("b", "2")]);
    std::fs::create_dir_all(dir.join("l1")).unwrap();
    std::fs::create_dir_all(dir.join("l2")).unwrap();
    std::fs::create_dir_all(dir.join("l3")).unwrap();
    std::fs::write(dir.join("l1/layer.tar"), &bottom).unwrap();
    std::fs::write(dir.join("l2/layer.tar"), gzip(&top)).unwrap();
    std::os::unix::fs::symlink("../l1/layer.tar", dir.join("l3/layer.tar")).unwrap();
    let diff_ids = [&bottom, &top, &bottom].map(|l| Digest::of(l));
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let entry = json!({
        "Config": "config.json", "RepoTags": ["app:3"],
        "Layers": ["l1/layer.tar", "l2/layer.tar", "l3/layer.tar"]
    });
    let other = json!({"Config": "config.json", "RepoTags": null, "Layers": []});
    std::fs::write(dir.join("manifest.json"), json!([entry]).to_string()).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all("", &dir).unwrap();
    let archive = builder.into_inner().unwrap();

    let reader = std::io::Cursor::new(archive);
    let image = store
        .images
        .import_reader(reader, ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(image.reference, "app:3");
    assert_eq!(
        store
            .images
            .get("docker.io/library/app:3")
            .await
            .unwrap()
            .digest,
        image.digest
    );
    // overlayfs takes no directory twice: the layer that occurs twice is there once, on top.
    let dirs = layer_dirs(&prepare(&store.images, &image).await);
    assert_eq!(dirs.len(), 2);
    assert!(dirs[0].join("a").exists() && dirs[1].join("b").exists());

    // Several images: one is to be selected.
    std::fs::write(dir.join("manifest.json"), json!([entry, other]).to_string()).unwrap();
    let error = store.images.import_layout(&dir, "x:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("app:3"), "{error}");
    let mut options = ImportOptions::from("x:1");
    options.select = Some("docker.io/library/app:3".into());
    let selected = store.images.import_layout(&dir, options).await.unwrap();
    assert_eq!(selected.digest, image.digest);
}

#[tokio::test]
async fn of_several_platforms_the_own_one_is_taken() {
    let store = store();
    let mut layout = Layout::new(store.dir.path().join("in"));
    let mut images = Vec::new();
    for (os, arch) in [
        ("linux", "s390x"),
        ("linux", architecture()),
        ("windows", architecture()),
    ] {
        let mut image = layout.image(arch, &[layer(&[("arch", arch)])]);
        image["platform"] = json!({"os": os, "architecture": arch});
        images.push(image);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
    let index = layout.json(INDEX, &index);
    layout.add(index.clone(), Some("multi:1"));
    let image = store
        .images
        .import_layout(&layout.dir, ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(image.digest, images[1]["digest"]);
    // By the digest of the index too, as people pin images.
    let pinned = format!("multi@{}", index["digest"].as_str().unwrap());
    assert_eq!(
        store.images.get(&pinned).await.unwrap().digest,
        image.digest
    );
    assert_eq!(
        store.images.get(&image.digest).await.unwrap().digest,
        image.digest
    );

    let mut foreign = Layout::new(store.dir.path().join("foreign"));
    let index = json!({"schemaVersion": 2, "manifests": [images[0]]});
    let index = foreign.json(INDEX, &index);
    foreign.add(index, None);
    let error = store
        .images
        .import_layout(&foreign.dir, "x:1")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.aci_code(), Some("OsVersionNotSupported"));
    assert!(error.message().contains("linux/s390x"), "{error}");
}

#[tokio::test]
async fn an_image_that_is_not_there_has_acis_words() {
    let store = store();
    let layout = Layout::of(store.dir.path().join("in"), &[layer(&[("a", "")])]);
    for reference in [
        "nginx",
        "nginx:1.27",
        "mcr.microsoft.com/x@sha256:".to_owned().as_str(),
    ] {
        let error = store
            .images
            .pull(request(reference), None)
            .await
            .unwrap_err();
        if error.kind() == ErrorKind::Invalid {
            continue; // not a reference at all
        }
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.aci_code(), Some("InaccessibleImage"));
        assert_eq!(
            error.message(),
            format!(
                "The image '{reference}' is not accessible. Please check the image and registry credential."
            )
        );
    }
    store
        .images
        .import_layout(&layout.dir, "nginx")
        .await
        .unwrap();
    let image = store
        .images
        .pull(request("docker.io/library/nginx:latest"), None)
        .await
        .unwrap();
    assert_eq!(image.reference, "docker.io/library/nginx:latest");
    let listed = store.images.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].reference, "nginx");
}

#[tokio::test]
async fn progress_tells_of_every_layer() {
    let store = store();
    let big = "x".repeat(1 << 20);
    let layers = [layer(&[("a", &big)]), layer(&[("b", &big)])];
    let layout = Layout::of(store.dir.path().join("in"), &layers);
    let events: Arc<Mutex<Vec<PullEvent>>> = Arc::default();
    let sink = Arc::clone(&events);
    let progress: PullProgress = Arc::new(move |event| sink.lock().unwrap().push(event));
    let mut options = ImportOptions::from("x:1");
    options.progress = Some(progress);
    store
        .images
        .import_layout(&layout.dir, options)
        .await
        .unwrap();
    let events = events.lock().unwrap();
    let done: Vec<_> = events
        .iter()
        .filter(|e| e.phase == PullPhase::Done)
        .collect();
    assert_eq!(done.len(), 3);
    assert_eq!(done[2].layer, None);
    for phase in [PullPhase::Downloading, PullPhase::Unpacking] {
        assert!(events.iter().any(|e| e.phase == phase), "{phase:?}");
    }
    for event in events.iter() {
        assert!(
            event.total.is_none_or(|total| event.done <= total),
            "{event:?}"
        );
    }
}

/// Imports a layout of one image which `change` has spoilt; nothing of it may be left.
async fn spoilt(kind: ErrorKind, word: &str, change: impl FnOnce(&mut Layout)) {
    let store = store();
    let mut layout = Layout::new(store.dir.path().join("in"));
    change(&mut layout);
    let error = store
        .images
        .import_layout(&layout.dir, "x:1")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(word), "{error}");
    assert!(store.images.list().await.unwrap().is_empty());
    store.images.collect_garbage().await.unwrap();
    let usage = store.images.usage().await.unwrap();
    assert_eq!((usage.blobs, usage.layers), (0, 0));
    let tmp = store.images.dir().join("tmp");
    assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
}

fn path(layout: &Layout, descriptor: &serde_json::Value) -> std::path::PathBuf {
    layout.blob_path(&descriptor["digest"].as_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn wrong_bytes_are_refused_before_anything_is_set() {
    let one = || layer(&[("a", "1")]);
    // A layer with other bytes, a cut one, a longer one, a missing one.
    for change in [
        |p: &std::path::Path| std::fs::write(p, "other").unwrap(),
        |p: &std::path::Path| {
            let bytes = std::fs::read(p).unwrap();
            std::fs::write(p, &bytes[..bytes.len() - 1]).unwrap();
        },
        |p: &std::path::Path| {
            let mut bytes = std::fs::read(p).unwrap();
            bytes.push(0);
            std::fs::write(p, bytes).unwrap();
        },
        |p: &std::path::Path| std::fs::remove_file(p).unwrap(),
    ] {
        spoilt(ErrorKind::Corrupt, "", |l| {
            let blob = l.blob(LAYER, &one());
            let config = l.config(architecture(), &[Digest::of(&one())]);
            let manifest = l.manifest(config.clone(), std::slice::from_ref(&blob));
            l.add(manifest, None);
            change(&path(l, &blob));
        })
        .await;
        for at in ["config", "manifest"] {
            spoilt(ErrorKind::Corrupt, "", |l| {
                let blob = l.blob(LAYER, &one());
                let config = l.config(architecture(), &[Digest::of(&one())]);
                let manifest = l.manifest(config.clone(), &[blob]);
                l.add(manifest.clone(), None);
                change(&path(l, if at == "config" { &config } else { &manifest }));
            })
            .await;
        }
    }
    spoilt(ErrorKind::Corrupt, "digest", |l| {
        let blob = l.blob(LAYER, &one());
        let config = l.config(architecture(), &[Digest::of(b"another archive")]);
        let manifest = l.manifest(config, &[blob]);
        l.add(manifest, None);
    })
    .await;
    spoilt(ErrorKind::Corrupt, "layers", |l| {
        let blob = l.blob(LAYER, &one());
        let config = l.config(architecture(), &[]);
        let manifest = l.manifest(config, &[blob]);
        l.add(manifest, None);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_a_reason() {
    let one = || layer(&[("a", "1")]);
    spoilt(ErrorKind::Unsupported, "artifact", |l| {
        let config = l.json("application/vnd.cncf.helm.config.v1+json", &json!({}));
        let blob = l.blob(LAYER, &one());
        let manifest = l.manifest(config, &[blob]);
        l.add(manifest, None);
    })
    .await;
    spoilt(ErrorKind::Unsupported, "unknown type", |l| {
        let config = l.config(architecture(), &[Digest::of(&one())]);
        let blob = l.blob("application/vnd.wasm.content.layer.v1+wasm", &one());
        let manifest = l.manifest(config, &[blob]);
        l.add(manifest, None);
    })
    .await;
    spoilt(ErrorKind::Unsupported, "elsewhere", |l| {
        let config = l.config(architecture(), &[Digest::of(&one())]);
        let mut blob = l.blob(LAYER, &one());
        blob["urls"] = json!(["http://198.51.100.1/layer"]);
        let manifest = l.manifest(config, &[blob]);
        l.add(manifest, None);
    })
    .await;
    // CVE-2021-41190.
    spoilt(ErrorKind::Unsupported, "both", |l| {
        let config = l.config(architecture(), &[Digest::of(&one())]);
        let blob = l.blob(LAYER, &one());
        let both = json!({"schemaVersion": 2, "config": config, "layers": [blob], "manifests": []});
        let both = l.json(MANIFEST, &both);
        l.add(both, None);
    })
    .await;
    spoilt(ErrorKind::Unsupported, "announced", |l| {
        let mut image = l.image(architecture(), &[one()]);
        image["mediaType"] = json!(INDEX);
        l.add(image, None);
    })
    .await;
    spoilt(ErrorKind::Unsupported, "schema 1", |l| {
        let old = l.json("", &json!({"schemaVersion": 1, "fsLayers": []}));
        l.add(old, None);
    })
    .await;
    spoilt(ErrorKind::Unsupported, "no layers", |l| {
        let image = l.image(architecture(), &[]);
        l.add(image, None);
    })
    .await;
    spoilt(ErrorKind::Unsupported, "not for linux", |l| {
        let image = l.image("s390x", &[one()]);
        l.add(image, None);
    })
    .await;
    spoilt(ErrorKind::Invalid, "'..'", |l| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..5].copy_from_slice(b"../up");
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        let image = l.image(architecture(), &[header.as_bytes().to_vec()]);
        l.add(image, None);
    })
    .await;
    spoilt(ErrorKind::Invalid, "neither", |_| {}).await;
    spoilt(ErrorKind::Corrupt, "cannot be read", |l| {
        std::fs::write(l.dir.join("index.json"), "{").unwrap();
    })
    .await;
    spoilt(ErrorKind::Unsupported, "nested", |l| {
        let mut inner = l.image(architecture(), &[one()]);
        for _ in 0..4 {
            inner = l.json(INDEX, &json!({"schemaVersion": 2, "manifests": [inner]}));
            inner["mediaType"] = json!(INDEX);
        }
        l.add(inner, None);
    })
    .await;
}

#[tokio::test]
async fn a_layout_cannot_lead_out_of_its_directory() {
    let store = store();
    let layout = Layout::of(store.dir.path().join("in"), &[layer(&[("a", "1")])]);
    let outside = store.dir.path().join("outside.json");
    std::fs::rename(layout.dir.join("index.json"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, layout.dir.join("index.json")).unwrap();
    store
        .images
        .import_layout(&layout.dir, "x:1")
        .await
        .unwrap_err();
    std::fs::remove_file(layout.dir.join("index.json")).unwrap();
    // A FIFO does not hang the import.
    let fifo = std::process::Command::new("mkfifo")
        .arg(layout.dir.join("index.json"))
        .status();
    if fifo.is_ok_and(|s| s.success()) {
        let error = store
            .images
            .import_layout(&layout.dir, "x:1")
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    let error = store
        .images
        .import_layout(store.dir.path().join("no"), "x:1")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = store
        .images
        .import_tar(store.dir.path().join("no"), "x:1")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn again_as_an_ordinary_user() {
    common::again_as_an_ordinary_user("again_as_an_ordinary_user");
}
