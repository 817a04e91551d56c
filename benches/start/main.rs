//! How long a container takes from "create" to its program's first instruction and until nothing
//! of it is left: ours beside crun, runc, `ctr run` and a raw floor, in turns in one run.
//!
//! `cargo bench -p aci-benches --bench start -- --runs 50` (with `--alone` ours only, with `--rest 0` without the pause of 25 ms before each run); needs root and rustc, and the Debian
//! packages crun, runc and containerd for the peers; one that is missing is left out and named.
//! Every contestant runs the same static program from the same directory with Docker's default
//! profile. Differences that remain: ours mounts an overlay with an upper directory of its own and
//! keeps a log, the peers mount the directory itself and hand their output on; `ctr` sets only the
//! memory limit; the floor has neither cgroup nor system call filter. The peers' time includes the
//! start of their own program, which is how they are used; the floor's does too.
//!
//! Afterwards a further process in a running container and its end by force, beside crun and runc,
//! and 250 idle groups: whether the last starts as fast as the first, memory, statistics.
#![forbid(unsafe_code)]

mod crowd;
mod ours;
mod peers;
mod running;
mod setup;

use std::sync::Arc;
use std::time::Duration;

use aci_benches::contest::{Contestant, Series, take_turns};
use aci_benches::report::{self, Comparison, Table};
use aci_benches::stats::Summary;
use anyhow::Context as _;

/// From the call to the first instruction of the container's program.
const FIRST: &str = "first instruction";
/// From the call until its end was known.
const END: &str = "end known";
/// From the call until everything was removed again.
const TOTAL: &str = "all removed";

const COLD: &str = "ours, from nothing";
const READY: &str = "ours, spare ready";
const FURTHER: &str = "ours, further start in a sandbox";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    // Cargo says so when it is asked for benches; as a test there is nothing to do.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("SKIPPED: it only runs as a bench (cargo bench)");
        return Ok(());
    }
    let number = |name: &str, usual: u32| match arguments.iter().position(|have| have == name) {
        Some(at) => {
            let text = arguments.get(at + 1).map_or("", String::as_str);
            text.parse()
                .with_context(|| format!("{name} '{text}': give a whole number, 0 or more"))
        }
        None => Ok(usual),
    };
    let runs = usize::try_from(number("--runs", 40)?.max(1))?;
    let rest = Duration::from_millis(number("--rest", 25)?.into());
    // To profile one side without the others' noise.
    let alone = arguments.iter().any(|argument| argument == "--alone");
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(bench(runs, rest, alone))
}

async fn bench(runs: usize, rest: Duration, alone: bool) -> anyhow::Result<()> {
    let setup = Arc::new(setup::Setup::new()?);
    let maker = ours::Maker::new(Arc::clone(&setup), 0)?;
    let ready = ours::Maker::new(Arc::clone(&setup), 1)?;
    let outcome = measure(runs, rest, alone, &setup, &maker, &ready).await;
    maker.clean().await?;
    ready.clean().await?;
    outcome
}

async fn measure(
    runs: usize,
    rest: Duration,
    alone: bool,
    setup: &Arc<setup::Setup>,
    maker: &Arc<ours::Maker>,
    ready: &Arc<ours::Maker>,
) -> anyhow::Result<()> {
    let mut contestants: Vec<Box<dyn Contestant>> = vec![
        Box::new(ours::NewSandbox::new(COLD, maker, 0)),
        Box::new(ours::NewSandbox::new(READY, ready, 1)),
        Box::new(ours::SameSandbox::new(Arc::clone(maker)).await?),
    ];
    // The file's name, and where the contestant stands, of those who could be set up.
    let mut files: Vec<(&str, String)> = Vec::new();
    let mut add = |file: &'static str, peer: anyhow::Result<Box<dyn Contestant>>| match peer {
        Ok(peer) => {
            files.push((file, peer.name().to_owned()));
            contestants.push(peer);
        }
        Err(error) => println!("SKIPPED {file}: {error:#}"),
    };
    let mut joining: Vec<&str> = Vec::new();
    if !alone {
        add("start-floor", peers::Floor::new(setup).map(boxed));
        add("start-crun", peers::Oci::new(setup, "crun").map(boxed));
        add("start-runc", peers::Oci::new(setup, "runc").map(boxed));
        add("start-ctr", peers::CtrRun::new(setup).map(boxed));
        for (file, program) in [("start-crun-joins", "crun"), ("start-runc-joins", "runc")] {
            add(file, peers::Oci::in_network(setup, program).map(boxed));
            joining.push(file);
        }
    }

    let before = report::load();
    let series = take_turns(contestants, 3, runs, rest).await?;
    let load = [before, report::load()];

    println!("\n{}", report::machine());
    println!(
        "{runs} runs in turns; load before {before:?}, after {:?}\n",
        load[1]
    );
    println!("{}", phases(&series));
    let mut table = Table::new(&["first instruction, ms", "median", "p10", "p90", "ours/peer"]);
    for (side, end) in [(COLD, ""), (READY, "-spare"), (FURTHER, "")] {
        let ours = series.iter().find(|one| one.name == side);
        let ours = ours.context("ours did not run")?;
        if let Some(summary) = ours.summary(FIRST) {
            table.row(&row(side, &summary, "1".to_owned()));
        }
        // Each is compared with who makes as many namespaces.
        let equal = |file: &str| joining.contains(&file) == (side == FURTHER);
        for (file, peer) in files.iter().filter(|(file, _)| equal(file)) {
            let Some(theirs) = series.iter().find(|one| one.name == *peer) else {
                continue;
            };
            for (part, suffix) in [(FIRST, ""), (TOTAL, "-total")] {
                let (Some(ours), Some(peer)) = (ours.summary(part), theirs.summary(part)) else {
                    continue;
                };
                let comparison = Comparison {
                    name: format!("{file}{end}{suffix}"),
                    what: format!(
                        "one container ({side}) with the default profile, from the call to: {part}"
                    ),
                    ours,
                    peer_name: theirs.name.clone(),
                    peer,
                    unit: "ms",
                    load,
                };
                if part == FIRST {
                    let ratio = format!("{:.3}", comparison.ratio());
                    table.row(&row(&theirs.name, &peer, ratio));
                }
                comparison.write(&report::directory())?;
            }
        }
    }
    println!("{table}");
    println!("written to {}\n", report::directory().display());
    if !alone {
        with_running(runs, rest, setup, maker).await?;
    }
    crowd::measure(maker).await
}

fn boxed<'a>(contestant: impl Contestant + 'a) -> Box<dyn Contestant + 'a> {
    Box::new(contestant)
}

fn row(name: &str, summary: &Summary, last: String) -> Vec<String> {
    let number = |value: f64| format!("{value:.2}");
    vec![
        name.to_owned(),
        number(summary.median),
        number(summary.p10),
        number(summary.p90),
        last,
    ]
}

fn phases(series: &[Series]) -> Table {
    let mut table = Table::new(&["ms from the call", "median", "p10", "p90", "runs"]);
    for one in series {
        for (part, values) in &one.parts {
            if let Some(summary) = Summary::of(values) {
                let name = format!("{}: {part}", one.name);
                table.row(&row(&name, &summary, summary.runs.to_string()));
            }
        }
    }
    table
}

/// What is done with a container that runs, beside crun and runc.
async fn with_running(
    runs: usize,
    rest: Duration,
    setup: &setup::Setup,
    maker: &Arc<ours::Maker>,
) -> anyhow::Result<()> {
    let mut execs: Vec<Box<dyn Contestant>> = vec![Box::new(running::OurExec::new(maker).await?)];
    let mut ends: Vec<Box<dyn Contestant>> = vec![Box::new(running::OurEnd(Arc::clone(maker)))];
    let mut files = Vec::new();
    for program in ["crun", "runc"] {
        let made = peers::Oci::new(setup, program)
            .and_then(|peer| Ok((peer.clone(), running::PeerExec::new(peer)?)));
        match made {
            Ok((peer, exec)) => {
                files.push((program, peer.title().to_owned()));
                execs.push(Box::new(exec));
                ends.push(Box::new(running::PeerEnd::new(peer)));
            }
            Err(error) => println!("SKIPPED exec-{program}, teardown-{program}: {error:#}"),
        }
    }
    for (what, part, contestants) in [("exec", FIRST, execs), ("teardown", running::GONE, ends)] {
        let before = report::load();
        let series = take_turns(contestants, 2, runs, rest).await?;
        let load = [before, report::load()];
        println!("{what}\n{}", phases(&series));
        let (ours, peers) = series.split_first().context("nobody ran")?;
        for (program, name) in &files {
            let peer = peers.iter().find(|one| one.name == *name);
            let peer = peer.and_then(|one| one.summary(part));
            if let (Some(ours), Some(peer)) = (ours.summary(part), peer) {
                let comparison = Comparison {
                    name: format!("{what}-{program}"),
                    what: format!("{what} with a running container, from the call to: {part}"),
                    ours,
                    peer_name: name.clone(),
                    peer,
                    unit: "ms",
                    load,
                };
                println!("ours / {name}: {:.3}", comparison.ratio());
                comparison.write(&report::directory())?;
            }
        }
        println!();
    }
    Ok(())
}
