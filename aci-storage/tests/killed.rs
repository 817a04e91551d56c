//! A program that dies by SIGKILL at any instant leaves a store that opens and is whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aci_core::contract::{ImageStore as _, PullPolicy, PullRequest};
use aci_storage::{LayerFormat, OciImages};
use common::*;

/// Where the program that is to be killed works; set for it alone.
const PLACE: &str = "ACI_STORAGE_KILLED_PLACE";

/// Which layers it makes; set with the place.
const FORMAT: &str = "ACI_STORAGE_KILLED_FORMAT";

fn open(place: &Path, format: LayerFormat) -> OciImages {
    OciImages::open_with(place.join("images"), options(Some(format))).unwrap()
}

/// Imports, prepares, releases and removes for ever.
#[tokio::test]
async fn works_until_it_is_killed() {
    let Ok(place) = std::env::var(PLACE) else {
        return; // only of use to the other test
    };
    let place = Path::new(&place);
    let format = match std::env::var(FORMAT).as_deref() {
        Ok("Erofs") => LayerFormat::Erofs,
        _ => LayerFormat::Directories,
    };
    let images = open(place, format);
    for round in 0.. {
        let name = format!("x:{}", round % 3);
        let dir = place.join(format!("in{}", round % 2));
        let image = images.import_layout(&dir, name.as_str()).await.unwrap();
        let key = key(&format!("c{}", round % 4));
        images.prepare(&image.digest, &key).await.unwrap();
        if round % 3 == 1 {
            images.release(&key).await.unwrap();
        }
        if round % 4 == 3 {
            images.remove(&name).await.unwrap();
            images.remove("x:0").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_killed_program_leaves_a_whole_store_of_directories() {
    killed(LayerFormat::Directories).await;
}

#[tokio::test]
async fn a_killed_program_leaves_a_whole_store_of_images() {
    if formats().contains(&LayerFormat::Erofs) {
        killed(LayerFormat::Erofs).await;
    }
}

async fn killed(format: LayerFormat) {
    let place = tempfile::tempdir().unwrap();
    let files: Vec<String> = (0..60).map(|n| format!("dir{}/file{n}", n % 7)).collect();
    let files: Vec<_> = files
        .iter()
        .map(|name| (name.as_str(), "content"))
        .collect();
    for n in 0..2 {
        let own = layer(&[("own", if n == 0 { "0" } else { "1" })]);
        Layout::of(place.path().join(format!("in{n}")), &[layer(&files), own]);
    }
    let mut seen = 0;
    for round in 0_u64..14 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["works_until_it_is_killed", "--exact", "--test-threads=1"])
            .env(PLACE, place.path())
            .env(FORMAT, format!("{format:?}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the start and many rounds of work.
        std::thread::sleep(Duration::from_millis(
            10 + round * round * 3 + round * 7 % 11,
        ));
        child.kill().unwrap();
        assert!(child.wait().unwrap().code().is_none(), "it ended by itself");

        let images = open(place.path(), format);
        for below in ["tmp", "trash"] {
            assert_eq!(
                std::fs::read_dir(images.dir().join(below)).unwrap().count(),
                0
            );
        }
        for image in images.list().await.unwrap() {
            let request = PullRequest {
                reference: image.reference.clone(),
                login: None,
                policy: PullPolicy::Never,
            };
            assert_eq!(
                images.pull(request, None).await.unwrap().digest,
                image.digest
            );
            let root = images.prepare(&image.digest, &key("check")).await.unwrap();
            let dirs = layer_dirs(&root);
            assert!(dirs[0].join("own").exists());
            for (name, content) in &files {
                assert_eq!(
                    std::fs::read(dirs[1].join(name)).unwrap(),
                    content.as_bytes()
                );
            }
            images.release(&key("check")).await.unwrap();
            seen += 1;
        }
        for key in images.prepared().await.unwrap() {
            if round % 2 == 0 {
                images.release(&key).await.unwrap();
            }
        }
        images.collect_garbage().await.unwrap();
    }
    assert!(seen > 5, "it was killed before it did anything");
}
