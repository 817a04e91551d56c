//! How long it takes to pull an image of several layers and more than 200 MB from a registry and
//! to unpack it: ours beside podman, skopeo with umoci, and `ctr`, in turns in one run, each time
//! on the same file system made anew.
//!
//! `cargo bench -p aci-benches --bench pull -- --runs 5` (with `--alone` ours only, with
//! `--peer podman`, `umoci` or `ctr` only that one beside ours, with `--keep DIR` the image is built
//! once and kept there); needs root and the Debian packages docker-registry, skopeo and e2fsprogs,
//! and podman, umoci, containerd for the peers; one that is missing is left out and named.
//!
//! The image is made of this machine's own programs, libraries and documentation and 8,000 tiny
//! files, in four layers, as gzip. The registry is Debian's docker-registry on the loopback. The
//! file system is ext4 on a loop device, and holds everybody's temporary files too. Everybody is a
//! process that is started anew, and asks for
//! the image by tag; only containerd's daemon runs before the clock does. "On disk" is the same and
//! then `sync` on the file system, because not everybody flushes what was written. Memory is the
//! largest sum of what the processes of a contestant held at once, looked at every 10 ms.
#![forbid(unsafe_code)]

mod image;
mod ours;
mod peers;
mod setup;
mod watch;

use aci_benches::contest::{Contestant, take_turns};
use aci_benches::report::{self, Comparison, Table};
use anyhow::Context as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// From the start of the program to its end, in milliseconds.
const PULLED: &str = "pulled and unpacked";
/// The same and a flush of the file system.
const ON_DISK: &str = "on disk";
/// In MiB.
const MEMORY: &str = "peak memory, MiB";

fn main() -> anyhow::Result<()> {
    if let Some(place) = std::env::var_os(ours::PLACE) {
        return ours::pull(&PathBuf::from(place));
    }
    let arguments: Vec<String> = std::env::args().collect();
    // Cargo says so when it is asked for benches; as a test there is nothing to do.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("SKIPPED: it only runs as a bench (cargo bench)");
        return Ok(());
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|have| have == name)?;
        arguments.get(at + 1).cloned()
    };
    let runs: usize = match value("--runs") {
        Some(text) => text
            .parse()
            .with_context(|| format!("--runs '{text}': give a whole number"))?,
        None => 5,
    };
    let alone = arguments.iter().any(|argument| argument == "--alone");
    let peers = if alone {
        Vec::new()
    } else {
        match value("--peer") {
            Some(one) => vec![one],
            None => ["podman", "umoci", "ctr"].map(str::to_owned).into(),
        }
    };
    let keep = value("--keep").map(PathBuf::from);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(bench(runs.max(1), &peers, keep))
}

async fn bench(runs: usize, peers: &[String], keep: Option<PathBuf>) -> anyhow::Result<()> {
    let setup = Rc::new(setup::Setup::new(keep)?);
    let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(ours::Ours::new(&setup, true)?)];
    contestants.push(Box::new(ours::Ours::new(&setup, false)?));
    let mut files: Vec<(&str, String)> = Vec::new();
    let mut add = |file: &'static str, peer: anyhow::Result<Box<dyn Contestant>>| match peer {
        Ok(peer) => {
            files.push((file, peer.name().to_owned()));
            contestants.push(peer);
        }
        Err(error) => println!("SKIPPED {file}: {error:#}"),
    };
    for peer in peers {
        match peer.as_str() {
            "podman" => add("pull-podman", peers::Podman::new(&setup).map(boxed)),
            "umoci" => add("pull-umoci", peers::Umoci::new(&setup).map(boxed)),
            "ctr" => add("pull-ctr", peers::Ctr::new(&setup).map(boxed)),
            other => anyhow::bail!("--peer '{other}': give podman, umoci or ctr"),
        }
    }
    let before = report::load();
    let series = take_turns(contestants, 1, runs, Duration::from_millis(500)).await?;
    let load = [before, report::load()];

    println!("\n{}", report::machine());
    println!("{}", setup.image());
    println!(
        "{runs} runs in turns; load before {before:?}, after {:?}\n",
        load[1]
    );
    let mut table = Table::new(&["", "median", "p10", "p90", "ours/this"]);
    let (ours, _) = series.split_first().context("nobody ran")?;
    for one in &series {
        for part in [PULLED, ON_DISK, MEMORY] {
            let (Some(this), Some(ours)) = (one.summary(part), ours.summary(part)) else {
                continue;
            };
            table.row(&[
                format!("{}: {part}", one.name),
                format!("{:.0}", this.median),
                format!("{:.0}", this.p10),
                format!("{:.0}", this.p90),
                format!("{:.3}", ours.median / this.median),
            ]);
            let Some((file, _)) = files.iter().find(|(_, name)| *name == one.name) else {
                continue;
            };
            let (suffix, unit) = match part {
                ON_DISK => ("-on-disk", "ms"),
                MEMORY => ("-memory", "MiB"),
                _ => ("", "ms"),
            };
            let comparison = Comparison {
                name: format!("{file}{suffix}"),
                what: format!("pull and unpack of {}: {part}", setup.image()),
                ours,
                peer_name: one.name.clone(),
                peer: this,
                unit,
                load,
            };
            comparison.write(&report::directory())?;
        }
    }
    println!("{table}");
    println!("written to {}", report::directory().display());
    Ok(())
}

fn boxed(contestant: impl Contestant + 'static) -> Box<dyn Contestant> {
    Box::new(contestant)
}
