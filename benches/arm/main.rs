//! How fast a group is answered, and a list of groups: our management interface against the REST
//! service of podman (`podman system service`), one machine, in turns.
//!
//! Both are asked over HTTP/1.1 without TLS on loopback, over connections that stay open. Ours has
//! groups on the in-memory host of `aci-core`, so that what is timed is the front and the engine and
//! not containers; podman has containers that were created and not started, in a storage of its own
//! (driver vfs). Both answer from what they know: ours with the group's document, events and
//! instance view, podman with `inspect`.
//!
//! `cargo bench -p aci-benches --bench arm -- [--runs N] [--groups N]`, as root; package podman.
#![allow(missing_docs)]

mod http;
mod ours;
mod podman;

use std::time::Duration;

use aci_benches::contest::{Contestant, Series, take_turns};
use aci_benches::report::{Comparison, Table, directory, load, machine};
use anyhow::Context as _;

/// Requests of one turn on each connection, for one resource and for lists.
const GETS: usize = 200;
const LISTS: usize = 5;
/// Connections that ask at the same time for the rate.
const CONNECTIONS: usize = 4;

fn argument(name: &str, default: usize) -> anyhow::Result<usize> {
    let mut words = std::env::args();
    match words.by_ref().find(|word| word == name) {
        Some(_) => words
            .next()
            .with_context(|| format!("{name} needs a number"))?
            .parse()
            .with_context(|| format!("{name} needs a number")),
        None => Ok(default),
    }
}

/// What is compared: the part, our file's name, and words.
const COMPARED: &[(&str, &str, &str)] = &[
    (
        "get p50",
        "arm-get-podman",
        "GET of one group against inspect of one container, median latency",
    ),
    (
        "get p99",
        "arm-get-p99-podman",
        "GET of one group against inspect of one container, 99th percentile",
    ),
    (
        "get each",
        "arm-get-rate-podman",
        "GET of one group on 4 connections, time over requests",
    ),
    (
        "list 1 p50",
        "arm-list1-podman",
        "list of 1 group against list of 1 container, median latency",
    ),
    (
        "list p50",
        "arm-list-podman",
        "list of all groups against list of all containers, median latency",
    ),
    (
        "list p99",
        "arm-list-p99-podman",
        "list of all groups against list of all containers, 99th percentile",
    ),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let runs = argument("--runs", 20)?;
    let groups = argument("--groups", 1_000)?;
    println!("{}; {groups} groups or containers", machine());
    let before = load();
    let ours = ours::Ours::start(groups).await?;
    let podman = podman::Podman::start(groups).await?;
    let peer_name = podman.version().to_owned();
    let contestants: Vec<Box<dyn Contestant>> = vec![Box::new(ours), Box::new(podman)];
    let series = take_turns(contestants, 1, runs, Duration::from_millis(50)).await?;
    let after = load();
    let [ours, podman] = series.as_slice() else {
        anyhow::bail!("there is nobody to compare with");
    };
    print(&series);
    for (part, name, what) in COMPARED {
        let (Some(mine), Some(theirs)) = (ours.summary(part), podman.summary(part)) else {
            continue;
        };
        let comparison = Comparison {
            name: (*name).to_owned(),
            what: format!("{what}; {groups} of them exist"),
            ours: mine,
            peer_name: peer_name.clone(),
            peer: theirs,
            unit: "ms",
            load: [before, after],
        };
        println!("{}", comparison.write(&directory())?.display());
    }
    Ok(())
}

fn print(series: &[Series]) {
    let mut table = Table::new(&["ms, median of the turns", "ours", "podman", "ours / theirs"]);
    let shown = |value: f64| format!("{value:.3}");
    for (part, _, _) in COMPARED {
        let values: Vec<f64> = series
            .iter()
            .filter_map(|s| Some(s.summary(part)?.median))
            .collect();
        if let [ours, theirs] = values.as_slice() {
            table.row(&[
                (*part).to_owned(),
                shown(*ours),
                shown(*theirs),
                shown(ours / theirs),
            ]);
            if *part == "get each" {
                let rate = |value: f64| format!("{:.0}", 1_000.0 / value);
                table.row(&[
                    "requests a second".to_owned(),
                    rate(*ours),
                    rate(*theirs),
                    String::new(),
                ]);
            }
        }
    }
    println!("{table}");
}
