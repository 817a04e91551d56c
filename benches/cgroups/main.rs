//! What it costs to have cgroups made by the crate cgroups-rs instead of by `aci-isolation` itself:
//! a start, reading statistics, the removal, in turns in one run.
//!
//! `cargo bench -p aci-benches --features cgroups-rs --bench cgroups -- --runs 50`; needs root and the
//! Debian package busybox-static. Both sides' agents are the one that is built with the feature.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aci_benches::contest::{Contestant, Sample, milliseconds, take_turns};
use aci_benches::report::{self, Comparison, Table};
use aci_benches::stats::Summary;
use aci_core::contract::{
    ContainerSpec, Isolation, Layer, ProcessSpec, RootFs, SandboxSpec, SecurityPolicy,
};
use aci_core::id::SandboxId;
use aci_core::size::Limits;
use aci_isolation::{CgroupDriver, Namespaces, NamespacesOptions};
use anyhow::Context as _;
use async_trait::async_trait;

/// The sandbox and its container are there.
const STARTED: &str = "started";
/// One reading of everything, as of a container that has worked since.
const WHOLE: &str = "statistics, all";
/// One reading of a container that has done nothing since the last.
const IDLE: &str = "statistics, idle";
/// The sandbox is gone.
const REMOVED: &str = "removed";

/// Readings that one value is the mean of.
const READINGS: u32 = 20;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("SKIPPED: it only runs as a bench (cargo bench)");
        return Ok(());
    }
    let runs = match arguments.iter().position(|have| have == "--runs") {
        Some(at) => arguments
            .get(at + 1)
            .and_then(|text| text.parse().ok())
            .context("--runs: give a whole number")?,
        None => 40,
    };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(bench(runs))
}

async fn bench(runs: usize) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("aci-bench").tempdir()?;
    let layer = directory.path().join("layer");
    std::fs::create_dir_all(layer.join("bin"))?;
    std::fs::copy("/bin/busybox", layer.join("bin/busybox"))
        .context("/bin/busybox: install the package busybox-static")?;
    let ours = Side::new("files", CgroupDriver::Files, directory.path())?;
    let theirs = Side::new("cgroups-rs", CgroupDriver::CgroupsRs, directory.path())?;
    let before = report::load();
    let series = take_turns(
        vec![Box::new(ours), Box::new(theirs)],
        3,
        runs,
        Duration::from_millis(25),
    )
    .await?;
    let load = [before, report::load()];
    println!("\n{}", report::machine());
    println!(
        "{runs} runs in turns; load before {before:?}, after {:?}\n",
        load[1]
    );
    let [ours, theirs] = series.as_slice() else {
        anyhow::bail!("a side did not run");
    };
    let mut table = Table::new(&[
        "ms",
        "files",
        "p10 to p90",
        "cgroups-rs",
        "p10 to p90",
        "ratio",
    ]);
    for part in [STARTED, WHOLE, IDLE, REMOVED] {
        let (Some(ours), Some(peer)) = (ours.summary(part), theirs.summary(part)) else {
            continue;
        };
        let comparison = Comparison {
            name: format!("cgroups-{}", part.replace([',', ' '], "")),
            what: format!("cgroups by files and by cgroups-rs: {part}"),
            ours,
            peer_name: "cgroups-rs".to_owned(),
            peer,
            unit: "ms",
            load,
        };
        let range = |of: Summary| format!("{:.3} to {:.3}", of.p10, of.p90);
        table.row(&[
            part.to_owned(),
            format!("{:.3}", ours.median),
            range(ours),
            format!("{:.3}", peer.median),
            range(peer),
            format!("{:.2}", comparison.ratio()),
        ]);
        comparison.write(&report::directory())?;
    }
    println!("{table}\nwritten to {}", report::directory().display());
    Ok(())
}

/// Sandboxes with one of the two.
struct Side {
    name: &'static str,
    isolation: Namespaces,
    directory: PathBuf,
}

impl Side {
    fn new(name: &'static str, driver: CgroupDriver, directory: &Path) -> anyhow::Result<Self> {
        let options = NamespacesOptions::default()
            .state_dir(directory.join(name))
            .cgroup_parent(format!("aci-bench-{}-{name}", std::process::id()))
            .cgroup_driver(driver);
        Ok(Self {
            name,
            isolation: Namespaces::new(options)?,
            directory: directory.to_owned(),
        })
    }

    fn container(&self, name: &str, script: &str) -> anyhow::Result<ContainerSpec> {
        let roots = self.directory.join("roots");
        let base = roots.join(SandboxId::generate("root").as_str());
        let (upper, work) = (base.join("upper"), base.join("work"));
        std::fs::create_dir_all(&upper)?;
        std::fs::create_dir_all(&work)?;
        Ok(ContainerSpec {
            name: name.to_owned(),
            attempt: 0,
            rootfs: RootFs {
                layers: vec![Layer::Directory(self.directory.join("layer"))],
                upper: Some((upper, work)),
            },
            process: ProcessSpec {
                argv: ["/bin/busybox", "sh", "-c", script]
                    .map(str::to_owned)
                    .to_vec(),
                ..ProcessSpec::default()
            },
            mounts: Vec::new(),
            files: Vec::new(),
            limits: Limits {
                cpu_max: Some(50),
                memory_max: Some(128 << 20),
                pids_max: Some(100),
                ..Limits::default()
            },
            security: SecurityPolicy::default(),
            log_bytes: 1 << 20,
            gpus: 0,
        })
    }
}

#[async_trait(?Send)]
impl Contestant for Side {
    fn name(&self) -> &str {
        self.name
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let spec = SandboxSpec {
            id: SandboxId::generate("bench"),
            hostname: "bench".to_owned(),
            limits: Limits::default(),
            volumes: Vec::new(),
        };
        let container = self.container("bench", "exec /bin/busybox sleep 100")?;
        let begun = Instant::now();
        let sandbox = self.isolation.create(spec).await?;
        sandbox.start(container).await?;
        let started = milliseconds(begun.elapsed());
        // The agent answers the first; then files are open, where there are any to keep, and
        // nothing is known of what they say.
        sandbox.stats().await?;
        let begun = Instant::now();
        sandbox.stats().await?;
        let whole = milliseconds(begun.elapsed());
        let begun = Instant::now();
        for _ in 0..READINGS {
            sandbox.stats().await?;
        }
        let idle = milliseconds(begun.elapsed() / READINGS);
        let begun = Instant::now();
        sandbox.destroy().await?;
        Ok(vec![
            (STARTED, started),
            (WHOLE, whole),
            (IDLE, idle),
            (REMOVED, milliseconds(begun.elapsed())),
        ])
    }
}
