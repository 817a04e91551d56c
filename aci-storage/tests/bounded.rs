//! `emptyDir` volumes on disk with a bound: full for who fills them, and for nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

use aci_core::contract::{VolumeDriver as _, VolumeRequest, VolumeSource};
use aci_core::error::{ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::{EmptyDir, Volume};
use aci_storage::{EmptyDirs, EmptyDirsOptions};

/// Unmounts what a failed test leaves.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        for mount in mounts(self.0.path()) {
            let _ = std::process::Command::new("umount")
                .arg("-l")
                .arg(mount)
                .status();
        }
    }
}

fn mounts(below: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let places = table.lines().filter_map(|line| line.split(' ').nth(1));
    let below = below.to_str().unwrap();
    places
        .filter(|p| p.starts_with(below))
        .map(str::to_owned)
        .collect()
}

fn options(limit: Option<u64>, total: Option<u64>) -> EmptyDirsOptions {
    let mut options = EmptyDirsOptions::default();
    options.limit = limit;
    options.total = total;
    options
}

fn request(sandbox: &str, gb: Option<f64>) -> VolumeRequest {
    let mut empty = EmptyDir::default();
    if let Some(gb) = gb {
        empty.0.insert("sizeLimitInGB".into(), gb.into());
    }
    VolumeRequest::new(
        sandbox.parse().unwrap(),
        Volume {
            name: "scratch".into(),
            empty_dir: Some(empty),
            ..Volume::default()
        },
    )
}

async fn provide(driver: &EmptyDirs, sandbox: &str, gb: Option<f64>) -> Result<PathBuf> {
    match driver.provide(request(sandbox, gb)).await? {
        VolumeSource::Directory(path) => Ok(path),
        other => panic!("{other:?}"),
    }
}

/// Whether bounds can be kept here; otherwise they are refused in words.
async fn can(place: &Path) -> bool {
    let driver = EmptyDirs::open(place.join("probe")).unwrap();
    let Some(missing) = driver.capability().missing else {
        return true;
    };
    let error = provide(&driver, "s1", Some(0.01)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains(&missing), "{error}");
    eprintln!("SKIPPED: {missing}");
    false
}

#[tokio::test]
async fn a_full_volume_is_full_for_its_group_only() {
    let place = Place(tempfile::tempdir().unwrap());
    let base = place.0.path().join("v");
    if !can(place.0.path()).await {
        return;
    }
    let driver = EmptyDirs::with_options(&base, options(Some(16 << 20), Some(40 << 20))).unwrap();
    let one = provide(&driver, "one", None).await.unwrap();
    let two = provide(&driver, "two", None).await.unwrap();
    let error = fs::write(one.join("big"), vec![7; 20 << 20]).unwrap_err();
    assert_eq!(error.kind(), Io::StorageFull);
    let held = fs::metadata(one.join("big")).unwrap().len();
    assert!(held > 12 << 20, "{held} bytes of 16 MiB");
    fs::write(two.join("kept"), vec![7; 4 << 20]).unwrap();
    assert_eq!(fs::read_dir(&two).unwrap().count(), 1);
    // All together are bounded as well.
    let error = provide(&driver, "three", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    let small = provide(&driver, "three", Some(4.0 / 1024.0)).await.unwrap();
    assert!(fs::write(small.join("x"), vec![7; 5 << 20]).is_err());
    // A later program finds them as they are.
    drop(driver);
    let driver = EmptyDirs::with_options(&base, options(Some(16 << 20), None)).unwrap();
    assert_eq!(provide(&driver, "two", None).await.unwrap(), two);
    assert!(two.join("kept").exists());
    assert_eq!(driver.list().await.unwrap().len(), 3);
    for sandbox in ["one", "two", "three"] {
        let sandbox: SandboxId = sandbox.parse().unwrap();
        for _ in 0..2 {
            driver.release(&sandbox, "scratch").await.unwrap();
        }
    }
    assert!(driver.list().await.unwrap().is_empty());
    assert!(mounts(place.0.path()).is_empty());
    for directory in ["bounded", "bounded-trash", "volumes", "trash"] {
        assert_eq!(fs::read_dir(base.join(directory)).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn what_a_restart_of_the_machine_leaves_is_begun_anew() {
    let place = Place(tempfile::tempdir().unwrap());
    if !can(place.0.path()).await {
        return;
    }
    let driver = EmptyDirs::open(place.0.path().join("v")).unwrap();
    let path = provide(&driver, "one", Some(0.01)).await.unwrap();
    fs::write(path.join("old"), "x").unwrap();
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(provide(&driver, "one", Some(0.01)).await.unwrap(), path);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    let one: SandboxId = "one".parse().unwrap();
    driver.release(&one, "scratch").await.unwrap();
    let error = provide(&driver, "one", Some(0.0001)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
