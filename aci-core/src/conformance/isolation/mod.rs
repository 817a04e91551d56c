//! The suite of [`Isolation`] and [`Sandbox`].
//!
//! It needs programs to run. A [`Behaviour`] says what one should do; a harness says which command
//! does it: [`Behaviour::shell`] for real sandboxes with a POSIX shell, [`Behaviour::scripted`] for
//! the programs of [`FakeIsolation`](crate::fake::FakeIsolation).

mod behaviour;
pub mod crash;
pub mod exec;
pub mod logs;
pub mod process;
pub mod resources;
pub mod sandbox;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::behaviour::Behaviour;
use super::{in_time, run, skip, works};
use crate::contract::{
    ContainerSpec, ExitStatus, Isolation, LogLine, LogQuery, MountSpec, ProcessSpec, RootFs,
    RootFsKey, RunState, Sandbox, SandboxSpec, SandboxVolume, SecurityPolicy, UserSpec,
};
use crate::id::SandboxId;
use crate::model::Secret;
use crate::size::Limits;

/// Longest time that a simple thing may take in a sandbox, such as the end of `exit 0`.
pub(super) const SOON: Duration = Duration::from_secs(60);
/// How long the suite waits to see that something does not happen.
pub(super) const QUIET: Duration = Duration::from_millis(300);

/// What the suite needs of an implementation.
#[async_trait]
pub trait IsolationHarness: Send + Sync {
    /// The isolation; the same at each call.
    fn isolation(&self) -> Arc<dyn Isolation>;

    /// The command for a behaviour; `None` if the harness has no program for it, then the cases
    /// that need it are skipped.
    fn argv(&self, behaviour: &Behaviour<'_>) -> Option<Vec<String>>;

    /// A fresh root file system with the programs of [`IsolationHarness::argv`].
    async fn rootfs(&self, key: &RootFsKey) -> RootFs;

    /// Another isolation over the same state, as a program has it that starts after a crash of the
    /// first; `None` if sandboxes do not outlive their program.
    async fn reopen(&self) -> Option<Arc<dyn Isolation>>;

    /// Kills a sandbox's supervisor from outside; false if that cannot be done here.
    async fn kill_supervisor(&self, id: &SandboxId) -> bool;
}

/// Runs all cases.
pub async fn all(harness: &dyn IsolationHarness) {
    sandbox::all(harness).await;
    process::all(harness).await;
    resources::all(harness).await;
    exec::all(harness).await;
    logs::all(harness).await;
    volumes::all(harness).await;
    crash::all(harness).await;
}

/// Runs a case and removes what sandboxes it left.
async fn case(harness: &dyn IsolationHarness, name: &str, case: impl Future<Output = ()>) {
    let isolation = harness.isolation();
    let before = works(isolation.list().await, "list");
    run(name, case, async || {
        let mut left = Vec::new();
        for id in works(isolation.list().await, "list") {
            if !before.contains(&id) {
                works(isolation.remove(&id).await, "remove");
                left.push(id.to_string());
            }
        }
        left
    })
    .await;
}

/// Whether the harness has no program for one of the behaviours; then says that a case is skipped.
fn lacks(harness: &dyn IsolationHarness, case: &str, behaviours: &[Behaviour<'_>]) -> bool {
    let missing = behaviours.iter().find(|b| harness.argv(b).is_none());
    if let Some(missing) = missing {
        skip(case, &format!("no program for {missing:?}"));
    }
    missing.is_some()
}

/// A sandbox of the suite.
struct Bench<'a> {
    harness: &'a dyn IsolationHarness,
    sandbox: Arc<dyn Sandbox>,
}

/// What a sandbox without wishes is made from.
fn plain(id: &SandboxId) -> SandboxSpec {
    SandboxSpec {
        id: id.clone(),
        hostname: "conformance".to_owned(),
        limits: Limits::default(),
        volumes: Vec::new(),
    }
}

impl<'a> Bench<'a> {
    async fn new(harness: &'a dyn IsolationHarness) -> Self {
        Self::with_volumes(harness, Vec::new()).await
    }

    async fn with_volumes(harness: &'a dyn IsolationHarness, volumes: Vec<SandboxVolume>) -> Self {
        let spec = SandboxSpec {
            volumes,
            ..plain(&SandboxId::generate("conf"))
        };
        let sandbox = works(harness.isolation().create(spec).await, "create");
        Self { harness, sandbox }
    }

    /// A container that behaves so; the caller has asked [`lacks`] before.
    async fn container(&self, name: &str, behaviour: &Behaviour<'_>) -> ContainerSpec {
        let key = RootFsKey {
            sandbox: self.sandbox.id().clone(),
            container: name.to_owned(),
        };
        ContainerSpec {
            name: name.to_owned(),
            attempt: 0,
            rootfs: self.harness.rootfs(&key).await,
            process: process(self.harness, behaviour),
            mounts: Vec::new(),
            files: Vec::new(),
            limits: Limits::default(),
            security: SecurityPolicy::default(),
            log_bytes: 4 << 20,
            gpus: 0,
        }
    }

    async fn start(&self, name: &str, behaviour: &Behaviour<'_>) {
        let spec = self.container(name, behaviour).await;
        self.start_spec(spec).await;
    }

    async fn start_spec(&self, spec: ContainerSpec) {
        let what = format!("start of '{}'", spec.name);
        works(self.sandbox.start(spec).await, &what);
    }

    /// Starts a container and waits for its end.
    async fn ran(&self, name: &str, behaviour: &Behaviour<'_>) -> ExitStatus {
        self.start(name, behaviour).await;
        self.ended(name).await
    }

    async fn ran_spec(&self, spec: ContainerSpec) -> ExitStatus {
        let name = spec.name.clone();
        self.start_spec(spec).await;
        self.ended(&name).await
    }

    /// Waits for the end of a container.
    async fn ended(&self, name: &str) -> ExitStatus {
        ended(&*self.sandbox, name).await
    }

    /// The state of a container now.
    async fn state(&self, name: &str) -> Option<RunState> {
        state(&*self.sandbox, name).await
    }

    async fn is_running(&self, name: &str) -> bool {
        matches!(self.state(name).await, Some(RunState::Running { .. }))
    }

    /// The lines of a container's log.
    async fn lines(&self, name: &str) -> Vec<String> {
        let log = self.sandbox.logs(name, LogQuery::default()).await;
        texts(&collect(works(log, "logs")).await)
    }

    async fn destroy(self) {
        works(self.sandbox.destroy().await, "destroy");
    }
}

async fn state(sandbox: &dyn Sandbox, name: &str) -> Option<RunState> {
    let status = works(sandbox.status().await, "status");
    let found = status.containers.into_iter().find(|c| c.name == name);
    found.map(|container| container.state)
}

async fn ended(sandbox: &dyn Sandbox, name: &str) -> ExitStatus {
    let what = format!("the end of '{name}'");
    in_time(SOON, &what, async {
        let mut status = works(sandbox.status().await, "status");
        loop {
            let found = status.containers.iter().find(|c| c.name == name);
            if let Some(RunState::Exited { status, .. }) = found.map(|c| c.state) {
                return status;
            }
            status = works(sandbox.changed(status.generation).await, "changed");
        }
    })
    .await
}

fn process(harness: &dyn IsolationHarness, behaviour: &Behaviour<'_>) -> ProcessSpec {
    ProcessSpec {
        argv: harness
            .argv(behaviour)
            .expect("the case asks for the behaviour first"),
        env: vec![(
            "PATH".to_owned(),
            Secret::new("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        )],
        cwd: String::new(),
        user: UserSpec::default(),
        terminal: None,
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> MountSpec {
    MountSpec {
        volume: volume.to_owned(),
        path: path.to_owned(),
        read_only,
    }
}

async fn collect(mut log: crate::contract::LogStream) -> Vec<LogLine> {
    use futures_util::StreamExt as _;
    let mut lines = Vec::new();
    while let Some(line) = in_time(SOON, "the next line or the end of a log", log.next()).await {
        lines.push(works(line, "a line of a log"));
    }
    lines
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines
        .iter()
        .map(|line| String::from_utf8_lossy(&line.line).into_owned())
        .collect()
}
