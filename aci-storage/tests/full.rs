//! A disk that is full: said clearly, and nothing of it stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::PathBuf;
use std::process::Command;

use aci_core::contract::ImageStore as _;
use aci_core::error::ErrorKind;
use aci_storage::{LayerFormat, OciImages};
use common::*;

/// A file system of its own in a file, unmounted with the test.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    /// Of so many MiB and inodes; `None` where that is not allowed.
    fn new(mib: u64, inodes: u32) -> Option<Self> {
        let small = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let file = small.dir.path().join("disk");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(mib << 20)
            .unwrap();
        std::fs::create_dir(small.at()).unwrap();
        let run = |command: &mut Command| {
            let output = command.output();
            let said = output.as_ref().map(|o| String::from_utf8_lossy(&o.stderr));
            let fine = output.as_ref().is_ok_and(|output| output.status.success());
            if !fine {
                eprintln!("SKIPPED: a small file system cannot be made: {said:?}");
            }
            fine
        };
        let made = run(Command::new("/sbin/mkfs.ext4")
            .args(["-q", "-m", "0", "-N", &inodes.to_string()])
            .arg(&file));
        let mounted = made
            && run(Command::new("mount")
                .args(["-o", "loop"])
                .arg(&file)
                .arg(small.at()));
        mounted.then_some(small)
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn store(&self, format: LayerFormat) -> OciImages {
        OciImages::open_with(self.at().join("images"), options(Some(format))).unwrap()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.at()).output();
    }
}

fn count(dir: PathBuf) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// An import that does not fit, and one that does.
async fn fails_and_goes_on(small: &Small, format: LayerFormat, too_much: &[u8]) {
    let images = small.store(format);
    let layouts = tempfile::tempdir().unwrap();
    let large = Layout::of(layouts.path().join("large"), &[too_much.to_vec()]);
    let fits = Layout::of(layouts.path().join("fits"), &[layer(&[("a", "1")])]);
    let error = images.import_layout(&large.dir, "x:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
    assert!(error.next_step().unwrap().contains("space"), "{error:?}");
    assert!(images.list().await.unwrap().is_empty());
    assert_eq!(count(images.dir().join("tmp")), 0);
    images.collect_garbage().await.unwrap();
    let usage = images.usage().await.unwrap();
    assert_eq!((usage.blobs, usage.layers), (0, 0));

    let image = images.import_layout(&fits.dir, "x:1").await.unwrap();
    let root = prepare(&images, &image).await;
    assert_eq!(std::fs::read(layer_dirs(&root)[0].join("a")).unwrap(), b"1");
}

#[tokio::test]
async fn a_layer_that_does_not_fit_leaves_the_store_usable() {
    for format in formats() {
        let Some(small) = Small::new(16, 1000) else {
            return;
        };
        // Small as long as it is compressed.
        let bytes = "not a zero ".repeat(3 << 20);
        fails_and_goes_on(&small, format, &layer(&[("large", &bytes)])).await;
    }
}

#[tokio::test]
async fn a_layer_of_more_files_than_there_are_inodes() {
    let names: Vec<String> = (0..2000).map(|n| format!("dir{}/{n}", n % 5)).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let many = layer(&files);
    let Some(small) = Small::new(16, 500) else {
        return;
    };
    fails_and_goes_on(&small, LayerFormat::Directories, &many).await;
    if formats().contains(&LayerFormat::Erofs) {
        // One file holds them all.
        let Some(small) = Small::new(16, 500) else {
            return;
        };
        let images = small.store(LayerFormat::Erofs);
        let layouts = tempfile::tempdir().unwrap();
        let layout = Layout::of(layouts.path().join("in"), &[many]);
        let image = images.import_layout(&layout.dir, "x:1").await.unwrap();
        let root = prepare(&images, &image).await;
        assert_eq!(count(layer_dirs(&root)[0].join("dir3")), 400);
    }
}
