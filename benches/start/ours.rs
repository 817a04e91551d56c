//! Our own contestants: a container in a new sandbox, and one in a sandbox that is there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aci_benches::contest::{Contestant, Sample, milliseconds};
use aci_core::contract::{
    ContainerSpec, Isolation, Layer, LogQuery, ProcessSpec, RootFs, RunState, Sandbox, SandboxSpec,
    SecurityPolicy,
};
use aci_core::id::SandboxId;
use aci_core::size::Limits;
use aci_isolation::{Namespaces, NamespacesOptions};
use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::StreamExt;

use crate::setup::{MEMORY, PIDS, Setup, since};
use crate::{END, FIRST, TOTAL};

pub(crate) const CONTAINER: &str = "bench";

/// Makes sandboxes and containers for the bench.
pub(crate) struct Maker {
    isolation: Namespaces,
    setup: Arc<Setup>,
}

/// The cgroup of a maker with so many spares.
pub(crate) fn cgroup_parent(spares: usize) -> String {
    format!("aci-bench-{}-{spares}", std::process::id())
}

fn limits() -> Limits {
    Limits {
        cpu_max: Some(100),
        memory_max: Some(MEMORY),
        pids_max: Some(PIDS),
        ..Limits::default()
    }
}

impl Maker {
    /// With so many sandboxes made ahead of need.
    pub(crate) fn new(setup: Arc<Setup>, spares: usize) -> anyhow::Result<Arc<Self>> {
        let options = NamespacesOptions::default()
            .state_dir(setup.directory().join(format!("state-{spares}")))
            .cgroup_parent(cgroup_parent(spares))
            .spares(spares);
        let isolation = Namespaces::new(options)?;
        let missing = isolation.capability().missing;
        if !missing.is_empty() {
            println!("ours lacks here: {}", missing.join("; "));
        }
        Ok(Arc::new(Self { isolation, setup }))
    }

    pub(crate) async fn sandbox(&self) -> anyhow::Result<Arc<dyn Sandbox>> {
        let spec = SandboxSpec {
            id: SandboxId::generate("bench"),
            hostname: "bench".to_owned(),
            limits: limits(),
            volumes: Vec::new(),
        };
        Ok(self.isolation.create(spec).await?)
    }

    /// A container with a fresh writable root file system.
    pub(crate) fn container(&self, attempt: u32, argv: &[&str]) -> anyhow::Result<ContainerSpec> {
        let roots = self.setup.directory().join("roots");
        let base = roots.join(SandboxId::generate("root").as_str());
        let (upper, work) = (base.join("upper"), base.join("work"));
        std::fs::create_dir_all(&upper)?;
        std::fs::create_dir_all(&work)?;
        Ok(ContainerSpec {
            name: CONTAINER.to_owned(),
            attempt,
            rootfs: RootFs {
                layers: vec![Layer::Directory(self.setup.root())],
                upper: Some((upper, work)),
            },
            process: ProcessSpec {
                argv: argv.iter().map(|text| (*text).to_owned()).collect(),
                ..ProcessSpec::default()
            },
            mounts: Vec::new(),
            files: Vec::new(),
            limits: limits(),
            security: SecurityPolicy::default(),
            log_bytes: 1 << 20,
            gpus: 0,
        })
    }

    /// Removes whatever is left.
    pub(crate) async fn clean(&self) -> anyhow::Result<()> {
        for id in self.isolation.list().await? {
            self.isolation.remove(&id).await?;
        }
        Ok(())
    }
}

async fn ended(sandbox: &dyn Sandbox, attempt: u32) -> anyhow::Result<()> {
    let mut seen = 0;
    loop {
        let status = sandbox.changed(seen).await?;
        seen = status.generation;
        for container in status.containers {
            if container.attempt == attempt
                && let RunState::Exited { status, .. } = container.state
            {
                anyhow::ensure!(status.code == 0, "it ended with {}", status.code);
                return Ok(());
            }
        }
    }
}

/// The last line of the container's log.
pub(crate) async fn printed(sandbox: &dyn Sandbox) -> anyhow::Result<String> {
    let query = LogQuery {
        tail: Some(1),
        ..LogQuery::default()
    };
    let mut lines = sandbox.logs(CONTAINER, query).await?;
    let line = lines.next().await.context("it printed nothing")??;
    Ok(String::from_utf8_lossy(&line.line).into_owned())
}

/// The sandbox is taken and removed each time: made from nothing, or, with spares, made ahead of
/// need while nobody waited.
pub(crate) struct NewSandbox {
    name: &'static str,
    maker: Arc<Maker>,
    spares: usize,
}

impl NewSandbox {
    pub(crate) fn new(name: &'static str, maker: &Arc<Maker>, spares: usize) -> Self {
        Self {
            name,
            maker: Arc::clone(maker),
            spares,
        }
    }
}

#[async_trait(?Send)]
impl Contestant for NewSandbox {
    fn name(&self) -> &str {
        self.name
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let container = self.maker.container(0, &["/bin/first"])?;
        for _ in 0..500 {
            if self.maker.isolation.spares_ready() >= self.spares {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (begin, clock) = (Instant::now(), SystemTime::now());
        let sandbox = self.maker.sandbox().await?;
        let created = begin.elapsed();
        sandbox.start(container).await?;
        let started = begin.elapsed();
        ended(&*sandbox, 0).await?;
        let end = begin.elapsed();
        // Reading the log is the bench's affair.
        let first = since(clock, &printed(&*sandbox).await?)?;
        let destroying = Instant::now();
        sandbox.destroy().await?;
        let destroyed = destroying.elapsed();
        Ok(vec![
            (FIRST, first),
            (END, milliseconds(end)),
            (TOTAL, milliseconds(end + destroyed)),
            ("create returned", milliseconds(created)),
            ("start returned", milliseconds(started)),
            ("destroy alone", milliseconds(destroyed)),
        ])
    }
}

/// A further container in a sandbox that is there, as when a container of a group is restarted.
pub(crate) struct SameSandbox {
    maker: Arc<Maker>,
    sandbox: Arc<dyn Sandbox>,
    attempt: u32,
}

impl SameSandbox {
    pub(crate) async fn new(maker: Arc<Maker>) -> anyhow::Result<Self> {
        let sandbox = maker.sandbox().await?;
        Ok(Self {
            maker,
            sandbox,
            attempt: 0,
        })
    }
}

#[async_trait(?Send)]
impl Contestant for SameSandbox {
    fn name(&self) -> &str {
        crate::FURTHER
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let container = self.maker.container(self.attempt, &["/bin/first"])?;
        let (begin, clock) = (Instant::now(), SystemTime::now());
        self.sandbox.start(container).await?;
        let started = begin.elapsed();
        ended(&*self.sandbox, self.attempt).await?;
        let end = begin.elapsed();
        let first = since(clock, &printed(&*self.sandbox).await?)?;
        self.attempt += 1;
        Ok(vec![
            (FIRST, first),
            (END, milliseconds(end)),
            ("start returned", milliseconds(started)),
        ])
    }
}

/// Memory of the processes that we add to a group, in KiB: proportional and private dirty.
pub(crate) fn memory(agent: u32) -> anyhow::Result<(u64, u64)> {
    let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"))?;
    let children = children.split_whitespace().map(str::to_owned);
    let mut sum = (0, 0);
    for pid in std::iter::once(agent.to_string()).chain(children) {
        let process = Path::new("/proc").join(&pid);
        // The container's own program is the user's.
        if std::fs::read_link(process.join("exe"))?.ends_with("first") {
            continue;
        }
        let text = std::fs::read_to_string(process.join("smaps_rollup"))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(value
                .with_context(|| format!("no {name} in smaps_rollup"))?
                .parse()?)
        };
        sum = (sum.0 + field("Pss:")?, sum.1 + field("Private_Dirty:")?);
    }
    Ok(sum)
}
