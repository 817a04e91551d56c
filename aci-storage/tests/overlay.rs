//! Layers as the kernel's overlayfs sees them, mounted in a namespace of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;
use std::process::Command;

use aci_core::contract::{ImageStore as _, RootFs};
use common::*;

/// Mounts a root file system where nobody else sees it, and runs a script in it (as a directory,
/// not as `/`). `None` where that is forbidden.
fn in_merged(root: &RootFs, at: &Path, script: &str) -> Option<String> {
    let root_user = rustix::process::geteuid().is_root();
    let (upper, work) = root.upper.as_ref().unwrap();
    let dirs: Vec<_> = layer_dirs(root)
        .iter()
        .map(|d| d.display().to_string())
        .collect();
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        dirs.join(":"),
        upper.display(),
        work.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !root_user {
        unshare.arg("--map-root-user");
        options.push_str(",userxattr");
    }
    std::fs::create_dir_all(at).unwrap();
    let all = format!("mount -t overlay overlay -o \"$0\" \"$1\" && cd \"$1\" && {script}");
    let output = unshare
        .args(["sh", "-ec", &all, &options])
        .arg(at)
        .output()
        .unwrap();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("not permitted") || said.contains("permission denied"),
            "{said}"
        );
        eprintln!("SKIPPED: {said}");
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn deletions_hide_what_is_below() {
    for format in formats() {
        hide(store_of(Some(format))).await;
    }
}

async fn hide(store: Store) {
    let layers = [
        layer(&[
            ("etc/", ""),
            ("etc/gone", "1"),
            ("etc/kept", "1"),
            ("etc/changed", "1"),
            ("var/", ""),
            ("var/old", "1"),
            ("dir/", ""),
            ("dir/below", "1"),
            ("file", "1"),
        ]),
        layer(&[
            ("etc/.wh.gone", ""),
            ("etc/changed", "2"),
            ("var/.wh..wh..opq", ""),
            ("var/new", "2"),
            (".wh.dir", ""),
            ("dir/above", "2"),
            (".wh.file", ""),
        ]),
        layer(&[("file/", ""), ("file/inner", "3")]),
    ];
    let layout = Layout::of(store.dir.path().join("in"), &layers);
    let image = store
        .images
        .import_layout(&layout.dir, "x:1")
        .await
        .unwrap();
    let root = prepare(&store.images, &image).await;
    let script = "find . -type f | sort | while read f; do echo $f $(cat $f); done";
    let Some(said) = in_merged(&root, &store.dir.path().join("merged"), script) else {
        return;
    };
    assert_eq!(
        said,
        "./dir/above 2\n./etc/changed 2\n./etc/kept 1\n./file/inner 3\n./var/new 2\n"
    );
}

#[tokio::test]
async fn release_deletes_whatever_a_container_left() {
    for format in formats() {
        leave(store_of(Some(format))).await;
    }
}

async fn leave(store: Store) {
    let layout = Layout::of(
        store.dir.path().join("in"),
        &[layer(&[("etc/conf", "1"), ("a/b", "2")])],
    );
    let image = store
        .images
        .import_layout(&layout.dir, "x:1")
        .await
        .unwrap();
    let root = prepare(&store.images, &image).await;
    let script = "echo changed > etc/conf; rm -r a; mkdir a; mkdir -p deep/er; echo x > deep/er/f; \
                  chmod 000 deep/er deep; ln -s / link; mkfifo pipe; cat etc/conf";
    let Some(said) = in_merged(&root, &store.dir.path().join("merged"), script) else {
        return;
    };
    assert_eq!(said, "changed\n");
    assert!(
        std::fs::read_dir(&root.upper.as_ref().unwrap().0)
            .unwrap()
            .count()
            > 3
    );
    store.images.release(&key("c")).await.unwrap();
    for below in ["rootfs", "trash", "tmp"] {
        let dir = store.images.dir().join(below);
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "{below}");
    }
    // The image itself is as it was.
    let again = prepare(&store.images, &image).await;
    let said = in_merged(&again, &store.dir.path().join("merged"), "cat etc/conf a/b").unwrap();
    assert_eq!(said, "12");
}

#[test]
fn again_as_an_ordinary_user() {
    common::again_as_an_ordinary_user("again_as_an_ordinary_user");
}
