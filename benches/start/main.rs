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
#![forbid(unsafe_code)]

mod ours;
mod peers;
mod setup;

use std::sync::Arc;
use std::time::Duration;

use aci_benches::contest::{Contestant, Series, take_turns};
use aci_benches::report::{self, Comparison, Table};
use aci_benches::stats::Summary;
use aci_core::contract::{NetworkEndpoint, Sandbox};
use anyhow::Context as _;

/// From the call to the first instruction of the container's program.
const FIRST: &str = "first instruction";
/// From the call until its end was known.
const END: &str = "end known";
/// From the call until everything was removed again.
const TOTAL: &str = "all removed";

const COLD: &str = "ours, from nothing";
const READY: &str = "ours, spare ready";

/// Groups that are looked at for their memory.
const GROUPS: usize = 10;

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
    if !alone {
        add("start-floor", peers::Floor::new(setup).map(boxed));
        add("start-crun", peers::Oci::new(setup, "crun").map(boxed));
        add("start-runc", peers::Oci::new(setup, "runc").map(boxed));
        add("start-ctr", peers::CtrRun::new(setup).map(boxed));
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
    for (side, end) in [(COLD, ""), (READY, "-spare")] {
        let ours = series.iter().find(|one| one.name == side);
        let ours = ours.context("ours did not run")?;
        if let Some(summary) = ours.summary(FIRST) {
            table.row(&row(side, &summary, "1".to_owned()));
        }
        for (file, peer) in &files {
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
                        "one container in a new sandbox ({side}) with the default profile, from the call to: {part}"
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
    idle_memory(maker).await
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

/// Memory of what we add to each of some idle groups.
async fn idle_memory(maker: &ours::Maker) -> anyhow::Result<()> {
    let mut sandboxes: Vec<Arc<dyn Sandbox>> = Vec::new();
    for _ in 0..GROUPS {
        let sandbox = maker.sandbox().await?;
        sandbox
            .start(maker.container(0, &["/bin/first", "stay"])?)
            .await?;
        sandboxes.push(sandbox);
    }
    let (mut shared, mut private) = (Vec::new(), Vec::new());
    for sandbox in &sandboxes {
        let NetworkEndpoint::Namespace(handle) = sandbox.network() else {
            continue;
        };
        let (pss, dirty) = ours::memory(handle.pid)?;
        shared.push(f64::from(u32::try_from(pss)?));
        private.push(f64::from(u32::try_from(dirty)?));
    }
    let title = format!("KiB, agent and init of {GROUPS} idle groups");
    let mut table = Table::new(&[title.as_str(), "median", "p10", "p90", ""]);
    for (name, values) in [("PSS", shared), ("private dirty", private)] {
        if let Some(summary) = Summary::of(&values) {
            table.row(&row(name, &summary, String::new()));
        }
    }
    println!("{table}");
    for sandbox in sandboxes {
        sandbox.destroy().await?;
    }
    Ok(())
}
