//! Many idle groups: what each costs in memory, whether the last starts as fast as the first, and
//! how long the statistics of all take.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use aci_benches::contest::milliseconds;
use aci_benches::report::{self, Comparison, Table};
use aci_benches::stats::Summary;
use aci_core::contract::{NetworkEndpoint, Sandbox};
use anyhow::Context as _;

use crate::ours::{self, CONTAINER, Maker};
use crate::row;

/// Groups that live side by side.
const GROUPS: usize = 250;
/// So many at each end are compared for growth.
const SIDE: usize = 25;
/// How often statistics are taken.
const ROUNDS: usize = 30;
/// Private dirty memory that an idle group may cost, in KiB: the aim.
const MEMORY_AIM: f64 = 300.0;

fn exactly(value: f64) -> Summary {
    Summary {
        runs: 1,
        median: value,
        p10: value,
        p90: value,
    }
}

pub(crate) async fn measure(maker: &Maker) -> anyhow::Result<()> {
    let before = report::load();
    let mut sandboxes: Vec<Arc<dyn Sandbox>> = Vec::with_capacity(GROUPS);
    let mut starts = Vec::with_capacity(GROUPS);
    for _ in 0..GROUPS {
        let container = maker.container(0, &["/bin/first", "stay"])?;
        let begin = Instant::now();
        let sandbox = maker.sandbox().await?;
        sandbox.start(container).await?;
        starts.push(milliseconds(begin.elapsed()));
        sandboxes.push(sandbox);
    }
    let outcome = compare(&sandboxes, &starts, before).await;
    for sandbox in sandboxes {
        sandbox.destroy().await?;
    }
    outcome
}

async fn compare(
    sandboxes: &[Arc<dyn Sandbox>],
    starts: &[f64],
    before: [f64; 3],
) -> anyhow::Result<()> {
    let title = format!("{GROUPS} idle groups");
    let mut table = Table::new(&[title.as_str(), "median", "p10", "p90", "ours/other"]);
    let add = |table: &mut Table, name: &str, what: &str, unit, ours, peer_name: &str, peer| {
        let comparison = Comparison {
            name: name.to_owned(),
            what: what.to_owned(),
            ours,
            peer_name: peer_name.to_owned(),
            peer,
            unit,
            load: [before, report::load()],
        };
        table.row(&row(
            &format!("{what}, {unit}"),
            &ours,
            format!("{:.3}", comparison.ratio()),
        ));
        table.row(&row(&format!("  {peer_name}"), &peer, String::new()));
        comparison.write(&report::directory()).map(drop)
    };

    let side = |part: &[f64]| Summary::of(part).context("no group was started");
    let (first, last) = (
        side(&starts[..SIDE])?,
        side(&starts[starts.len() - SIDE..])?,
    );
    let what = format!("create and start, the last {SIDE} of {GROUPS}");
    add(
        &mut table,
        "growth-first",
        &what,
        "ms",
        last,
        &format!("the first {SIDE}"),
        first,
    )?;

    let (mut shared, mut private) = (Vec::new(), Vec::new());
    let mut places = Vec::new();
    for sandbox in sandboxes {
        let NetworkEndpoint::Namespace(handle) = sandbox.network() else {
            continue;
        };
        let (pss, dirty) = ours::memory(handle.pid)?;
        shared.push(f64::from(u32::try_from(pss)?));
        private.push(f64::from(u32::try_from(dirty)?));
        places.push(files(sandbox.id().as_str(), handle.pid)?);
    }
    let aim = exactly(MEMORY_AIM);
    let summary = Summary::of(&private).context("no group was measured")?;
    add(
        &mut table,
        "memory-aim",
        "private dirty memory of a group",
        "KiB",
        summary,
        "the aim",
        aim,
    )?;
    if let Some(pss) = Summary::of(&shared) {
        table.row(&row("proportional (PSS), KiB", &pss, String::new()));
    }

    let (mut ours, mut naive) = (Vec::new(), Vec::new());
    for sandbox in sandboxes {
        sandbox.stats().await?;
    }
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for sandbox in sandboxes {
            let stats = sandbox.stats().await?;
            anyhow::ensure!(stats.containers.len() == 1, "a container is missing");
        }
        ours.push(milliseconds(begin.elapsed()));
        let begin = Instant::now();
        for files in &places {
            for file in files {
                std::fs::read(file).with_context(|| file.display().to_string())?;
            }
        }
        naive.push(milliseconds(begin.elapsed()));
    }
    let (ours, naive) = (Summary::of(&ours), Summary::of(&naive));
    if let (Some(ours), Some(naive)) = (ours, naive) {
        let what = format!("statistics of all {GROUPS}");
        add(
            &mut table,
            "stats-reading",
            &what,
            "ms",
            ours,
            "opening and reading the same files",
            naive,
        )?;
        add(
            &mut table,
            "stats-aim",
            &what,
            "ms",
            ours,
            "the aim",
            exactly(1.0),
        )?;
    }
    println!("{table}");
    Ok(())
}

/// The files that tell what one group uses, wherever this machine's controllers are.
fn files(sandbox: &str, agent: u32) -> anyhow::Result<Vec<PathBuf>> {
    const NAMES: [&str; 8] = [
        "cpuacct/cpuacct.usage",
        "memory/memory.usage_in_bytes",
        "memory/memory.max_usage_in_bytes",
        "memory/memory.stat",
        "pids/pids.current",
        "blkio/blkio.throttle.io_service_bytes",
        "cpu.stat",
        "memory.current",
    ];
    let base = Path::new("/sys/fs/cgroup");
    let parent = ours::cgroup_parent(0);
    let mut found: Vec<PathBuf> = NAMES
        .iter()
        .filter_map(|name| {
            let (controller, file) = name.rsplit_once('/').unwrap_or(("", name));
            let at = base
                .join(controller)
                .join(&parent)
                .join(sandbox)
                .join(CONTAINER)
                .join(file);
            at.exists().then_some(at)
        })
        .collect();
    found.push(PathBuf::from(format!("/proc/{agent}/net/dev")));
    anyhow::ensure!(
        found.len() > 1,
        "no cgroup of {sandbox} is below {}",
        base.display()
    );
    Ok(found)
}
