//! How long it takes from an image in the store to a mounted, writable root file system: ours over
//! EROFS images and over directories, beside the bare system calls, `ctr images mount` and
//! `podman image mount`, in turns in one run.
//!
//! `cargo bench -p aci-benches --bench rootfs -- --runs 50`; needs root, and the Debian packages
//! containerd and podman for the peers; one that is missing is left out and named. The image has
//! four layers with 8,000 small files. Everybody's time ends when a file of the mounted image was
//! found. Ours is `ImageStore::prepare` and then the mounts as a sandbox's agent makes them; the
//! floor makes the same mounts of the same images, and the same two directories, and nothing else.
//! The peers' times include the start of their own program, which is how they are used. Podman
//! mounts without a place to write. All mounts are in a namespace of the bench.
#![forbid(unsafe_code)]

mod image;
mod mounts;
mod ours;
mod peers;

use std::time::Duration;

use aci_benches::contest::{Contestant, take_turns};
use aci_benches::report::{self, Comparison, Table};
use aci_storage::LayerFormat;
use anyhow::Context as _;

/// From the call until a file of the root file system was found.
const MOUNTED: &str = "mounted";
/// From the call until the recipe was there.
const PREPARED: &str = "prepared";
/// From the call to take it down until nothing was left.
const GONE: &str = "taken down";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    // Cargo says so when it is asked for benches; as a test there is nothing to do.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("SKIPPED: it only runs as a bench (cargo bench)");
        return Ok(());
    }
    let runs = match arguments.iter().position(|have| have == "--runs") {
        Some(at) => {
            let text = arguments.get(at + 1).map_or("", String::as_str);
            text.parse()
                .with_context(|| format!("--runs '{text}': give a whole number"))?
        }
        None => 40_usize,
    };
    // Before there are other threads, so that all of them are in it.
    mounts::enter_namespace()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(bench(runs.max(1)))
}

async fn bench(runs: usize) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("aci-bench").tempdir()?;
    let archive = directory.path().join("image.tar");
    image::write(&archive)?;
    let at = |name: &str| directory.path().join(name);

    let ours = ours::Ours::new(at("erofs"), LayerFormat::Erofs, &archive).await?;
    let floor = ours.floor(at("floor"))?;
    let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(ours), Box::new(floor)];
    let mut files = vec![("rootfs-floor", contestants[1].name().to_owned())];
    let mut add = |file: &'static str, peer: anyhow::Result<Box<dyn Contestant>>| match peer {
        Ok(peer) => {
            files.push((file, peer.name().to_owned()));
            contestants.push(peer);
        }
        Err(error) => println!("SKIPPED {file}: {error:#}"),
    };
    let directories = ours::Ours::new(at("directories"), LayerFormat::Directories, &archive).await;
    add("rootfs-directories", directories.map(boxed));
    add(
        "rootfs-ctr",
        peers::Ctr::new(&at("containerd"), &archive).map(boxed),
    );
    add(
        "rootfs-podman",
        peers::Podman::new(&at("podman"), &archive).map(boxed),
    );

    let before = report::load();
    let series = take_turns(contestants, 3, runs, Duration::from_millis(25)).await?;
    let load = [before, report::load()];

    println!("\n{}", report::machine());
    println!(
        "{runs} runs in turns; load before {before:?}, after {:?}\n",
        load[1]
    );
    let mut table = Table::new(&["ms", "median", "p10", "p90"]);
    for one in &series {
        for part in [PREPARED, MOUNTED, GONE] {
            if let Some(summary) = one.summary(part) {
                let numbers = [summary.median, summary.p10, summary.p90];
                let mut row = vec![format!("{}: {part}", one.name)];
                row.extend(numbers.map(|value| format!("{value:.3}")));
                table.row(&row);
            }
        }
    }
    println!("{table}");
    let (ours, peers) = series.split_first().context("nobody ran")?;
    for (file, name) in files {
        let (Some(ours), Some(peer)) = (
            ours.summary(MOUNTED),
            peers
                .iter()
                .find(|one| one.name == name)
                .and_then(|one| one.summary(MOUNTED)),
        ) else {
            continue;
        };
        let comparison = Comparison {
            name: file.to_owned(),
            what:
                "an image of four layers in the store, from the call until a file of the mounted \
                   root file system was found"
                    .to_owned(),
            ours,
            peer_name: name,
            peer,
            unit: "ms",
            load,
        };
        comparison.write(&report::directory())?;
    }
    println!("written to {}", report::directory().display());
    Ok(())
}

fn boxed<'a>(contestant: impl Contestant + 'a) -> Box<dyn Contestant + 'a> {
    Box::new(contestant)
}
