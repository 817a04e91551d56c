//! The suites of the contracts, against the implementations here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use aci_core::conformance::image::ImageHarness;
use aci_core::conformance::volume::{self, VolumeHarness};
use aci_core::contract::{ImageStore, RootFs, VolumeDriver, VolumeSource};
use aci_core::model::Volume;
use aci_storage::{EmptyDirs, HostImage, OciImages, Secrets};
use async_trait::async_trait;
use common::Store;

/// What a crash leaves: a store is open once only, so the next program gets a copy of the state.
fn copy(from: &Path, to: PathBuf) -> PathBuf {
    let _ = std::fs::remove_dir_all(&to);
    let status = Command::new("cp").arg("-a").arg(from).arg(&to).status();
    assert!(status.unwrap().success());
    to
}

struct Images(Store);

#[async_trait]
impl ImageHarness for Images {
    fn store(&self) -> &dyn ImageStore {
        &self.0.images
    }

    async fn offer(&self, number: u32) -> String {
        let reference = format!("local/conformance:{number}");
        HostImage::new(&reference)
            .file("/number", number.to_string(), 0o644)
            .cmd(["conformance"])
            .build(&self.0.images)
            .await
            .unwrap();
        reference
    }

    async fn reopen(&self) -> Option<Box<dyn ImageStore>> {
        let dir = copy(self.0.images.dir(), self.0.dir.path().join("crashed"));
        Some(Box::new(OciImages::open(dir).unwrap()))
    }

    async fn write(&self, rootfs: &RootFs, name: &str) -> bool {
        let (upper, _) = rootfs.upper.as_ref().unwrap();
        std::fs::write(upper.join(name), "x").is_ok()
    }

    async fn has(&self, rootfs: &RootFs, name: &str) -> bool {
        rootfs.upper.as_ref().unwrap().0.join(name).exists()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_images() {
    aci_core::conformance::image::all(&Images(common::store())).await;
}

struct Volumes<D> {
    driver: D,
    dir: tempfile::TempDir,
    volume: fn(&str) -> Volume,
    reopen: fn(&Path) -> Option<Box<dyn VolumeDriver>>,
}

#[async_trait]
impl<D: VolumeDriver> VolumeHarness for Volumes<D> {
    fn driver(&self) -> &dyn VolumeDriver {
        &self.driver
    }

    fn volume(&self, name: &str) -> Volume {
        (self.volume)(name)
    }

    async fn reopen(&self) -> Option<Box<dyn VolumeDriver>> {
        (self.reopen)(self.dir.path())
    }

    async fn write(&self, source: &VolumeSource, name: &str, content: &[u8]) -> bool {
        match source {
            VolumeSource::Directory(dir) => std::fs::write(dir.join(name), content).is_ok(),
            _ => false,
        }
    }

    async fn read(&self, source: &VolumeSource, name: &str) -> Option<Vec<u8>> {
        match source {
            VolumeSource::Directory(dir) => std::fs::read(dir.join(name)).ok(),
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_dirs() {
    let dir = tempfile::tempdir().unwrap();
    volume::all(&Volumes {
        driver: EmptyDirs::open(dir.path()).unwrap(),
        dir,
        volume: volume::empty_dir,
        reopen: |dir| Some(Box::new(EmptyDirs::open(dir).unwrap())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets() {
    volume::all(&Volumes {
        driver: Secrets::new(),
        dir: tempfile::tempdir().unwrap(),
        volume: |name| volume::secret(name, &[("key", "a2V5")]),
        reopen: |_| Some(Box::new(Secrets::new())),
    })
    .await;
}

#[test]
fn again_as_an_ordinary_user() {
    common::again_as_an_ordinary_user("again_as_an_ordinary_user");
}
