//! A program that dies by SIGKILL in the middle of a pull leaves a store that opens and is whole,
//! and the next one goes on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aci_core::contract::{ImageStore as _, PullPolicy};
use aci_storage::{OciImages, OciImagesOptions};

use crate::common::{Store, architecture, key, layer, layer_dirs};
use crate::server::{Pusher, Registry, Setup, content};
use crate::{noise, pull, pull_as};

/// Where the program that is to be killed works, and the registry; set for it alone.
const PLACE: &str = "ACI_STORAGE_KILLED_PULL_PLACE";
const HOST: &str = "ACI_STORAGE_KILLED_PULL_HOST";
/// Bytes of the large file in each layer.
const LARGE: usize = 700_000;

fn open(place: &Path, host: &str) -> OciImages {
    let mut options = OciImagesOptions::default();
    options.registries.insecure = vec![host.to_owned()];
    OciImages::open_with(place.join("images"), options).unwrap()
}

/// Pulls and removes for ever.
#[tokio::test(flavor = "multi_thread")]
async fn pulls_until_it_is_killed() {
    let (Ok(place), Ok(host)) = (std::env::var(PLACE), std::env::var(HOST)) else {
        return; // only of use to the other test
    };
    let images = open(Path::new(&place), &host);
    let dir = tempfile::tempdir().unwrap();
    let store = Store { images, dir };
    for round in 0.. {
        pull(&store, &format!("{host}/app:{}", round % 2))
            .await
            .unwrap();
        if round % 2 == 1 {
            for tag in 0..2 {
                let reference = format!("{host}/app:{tag}");
                store.images.remove(&reference).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_leaves_a_whole_store() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let text = noise(LARGE);
    let common = layer(&[("common", &text)]);
    for tag in ["0", "1"] {
        let own = layer(&[("own", tag), ("large", &text[1..])]);
        pusher
            .image(tag, architecture(), &[common.clone(), own])
            .await;
    }
    let place = tempfile::tempdir().unwrap();
    let (mut images, mut partial) = (0, 0);
    for round in 0_u64..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed::pulls_until_it_is_killed", "--exact"])
            .env(PLACE, place.path())
            .env(HOST, registry.host())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the first pull and some more.
        let wait = 20 + round * round * 3 + round * 7 % 11;
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        assert!(child.wait().unwrap().code().is_none(), "it ended by itself");

        let store = Store {
            images: open(place.path(), &registry.host()),
            dir: tempfile::tempdir().unwrap(),
        };
        for below in ["tmp", "trash"] {
            let left = std::fs::read_dir(store.images.dir().join(below)).unwrap();
            assert_eq!(left.count(), 0, "{below}");
        }
        partial += store.images.usage().await.unwrap().partial_bytes;
        // What has a name is whole, without asking the registry.
        for image in store.images.list().await.unwrap() {
            let name = &image.reference;
            let there = pull_as(&store, name, PullPolicy::Never, None).await;
            assert_eq!(there.unwrap().digest, image.digest);
            check(&store, &image.digest, &name[name.len() - 1..], &text).await;
            images += 1;
        }
        // What has none is pulled on top of what was left.
        if round % 3 == 2 {
            let image = pull(&store, &format!("{}/app:1", registry.host())).await;
            check(&store, &image.unwrap().digest, "1", &text).await;
        }
        store
            .images
            .remove(&format!("{}/app:1", registry.host()))
            .await
            .unwrap();
    }
    assert!(images + partial > 0, "it was killed before it did anything");
}

async fn check(store: &Store, digest: &str, tag: &str, text: &str) {
    let root = store.images.prepare(digest, &key("check")).await.unwrap();
    let dirs = layer_dirs(&root);
    assert_eq!(content(&dirs[0], "own"), tag);
    assert!(content(&dirs[0], "large") == text[1..]);
    assert!(content(&dirs[1], "common") == *text);
    store.images.release(&key("check")).await.unwrap();
}
