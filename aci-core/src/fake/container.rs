//! One attempt of a container in a simulated sandbox.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::files::Files;
use super::lock;
use super::process::{Cause, CpuMeter, End, ProcessState, status_of};
use super::program::{FakeProcess, Program};
use super::sandbox::SandboxCore;
use crate::contract::{BoxRead, BoxWrite, Clock, ExitStatus, ProcessSpec, Signal};
use crate::model::Secret;
use crate::size::Limits;
use crate::time::Timestamp;

/// Memory that a process uses before it asks for any, in bytes.
pub(super) const BASE_MEMORY: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) limits: Limits,
    pub(super) env: Vec<(String, Secret)>,
    pub(super) cwd: String,
    pub(super) files: Files,
    pub(super) since: Timestamp,
    /// The container's own process first, then those of `exec`.
    pub(super) processes: Mutex<Vec<Arc<ProcessState>>>,
    pub(super) cpu: Mutex<CpuMeter>,
    pub(super) memory: Mutex<Memory>,
    /// Where its program is to be handed in, as long as it waits for one.
    pub(super) waiting: Mutex<Option<oneshot::Sender<Work>>>,
}

/// A program at work; its exit code.
pub(super) struct Work(pub(super) BoxFuture<'static, i32>);

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) now: u64,
    pub(super) peak: u64,
}

impl Container {
    /// Its own process.
    pub(super) fn main(&self) -> Option<Arc<ProcessState>> {
        lock(&self.processes).first().cloned()
    }

    pub(super) fn is_running(&self) -> bool {
        self.main().is_some_and(|process| process.is_running())
    }

    /// Signals its own process or all.
    pub(super) fn signal(&self, signal: Signal, all: bool) {
        let processes = lock(&self.processes).clone();
        let count = if all { processes.len() } else { 1 };
        for process in processes.iter().take(count) {
            process.deliver(signal);
        }
    }

    /// Ends all its processes.
    pub(super) fn kill(&self, cause: Cause) {
        for process in &*lock(&self.processes) {
            process.kill(cause);
        }
    }

    pub(super) fn set_load(&self, hundredths: u32, clock: &dyn Clock) {
        let bound = self.limits.cpu_max.unwrap_or(u32::MAX);
        lock(&self.cpu).set_load(hundredths.min(bound), clock);
    }

    pub(super) fn cpu(&self, now: Timestamp) -> Duration {
        lock(&self.cpu).used(now)
    }

    /// Adds a process, forgetting those that have ended.
    pub(super) fn add(&self, process: Arc<ProcessState>) {
        let mut processes = lock(&self.processes);
        let mut first = true;
        processes.retain(|known| std::mem::take(&mut first) || known.is_running());
        processes.push(process);
    }

    /// Processes that run now.
    pub(super) fn count(&self) -> usize {
        lock(&self.processes)
            .iter()
            .filter(|process| process.is_running())
            .count()
    }
}

/// The three standard streams of a process.
pub(super) struct Streams {
    pub(super) stdin: BoxRead,
    pub(super) stdout: BoxWrite,
    pub(super) stderr: BoxWrite,
}

/// A process to be.
pub(super) struct Launch<'a> {
    pub(super) program: Arc<dyn Program>,
    pub(super) spec: &'a ProcessSpec,
    pub(super) user: String,
    pub(super) streams: Streams,
    pub(super) state: Arc<ProcessState>,
}

/// A program and its process, ready to be run.
pub(super) fn work(
    sandbox: &Arc<SandboxCore>,
    container: &Arc<Container>,
    launch: Launch<'_>,
) -> Work {
    let Launch {
        program,
        spec,
        user,
        streams,
        state,
    } = launch;
    // An exec without an environment of its own has that of its container.
    let env: BTreeMap<String, Secret> = if spec.env.is_empty() {
        container.env.iter().cloned().collect()
    } else {
        spec.env.iter().cloned().collect()
    };
    let cwd = if spec.cwd.is_empty() {
        container.cwd.clone()
    } else {
        spec.cwd.clone()
    };
    let process = FakeProcess {
        args: spec.argv.clone(),
        env,
        cwd,
        user,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        sandbox: Arc::clone(sandbox),
        container: Arc::clone(container),
        state,
        tasks: JoinSet::new(),
    };
    Work(Box::pin(async move { program.run(process).await }))
}

/// Puts work on its way as a task; `main` tells whether it is the container's own process.
pub(super) fn run(
    sandbox: &Arc<SandboxCore>,
    container: &Arc<Container>,
    state: Arc<ProcessState>,
    killed: oneshot::Receiver<Cause>,
    main: bool,
    work: Work,
) {
    let end = EndOnDrop {
        sandbox: Arc::clone(sandbox),
        container: Arc::clone(container),
        state,
        main,
    };
    let mut frozen = sandbox.frozen.subscribe();
    let work = Box::pin(async move {
        let mut work = work.0;
        loop {
            // The sender outlives the sandbox's processes.
            let _ = frozen.wait_for(|frozen| !frozen).await;
            let stop = std::pin::pin!(frozen.wait_for(|frozen| *frozen));
            // Looked at first: a frozen program takes nothing that came after.
            if let Either::Right((code, _)) = select(stop, &mut work).await {
                return code;
            }
        }
    });
    tokio::spawn(async move {
        let status = match select(work, killed).await {
            Either::Left((code, _)) => ExitStatus {
                code: code & 0xff,
                signal: None,
                oom: false,
                at: end.sandbox.world.clock.now(),
            },
            Either::Right((cause, _)) => status_of(
                cause.unwrap_or(Cause::Signal(Signal::KILL)),
                end.sandbox.world.clock.now(),
            ),
        };
        // The program and so its streams and listeners are dropped by now, its log is complete.
        end.finish(status);
    });
}

/// Ends a process even if its runtime is taken down under it.
struct EndOnDrop {
    sandbox: Arc<SandboxCore>,
    container: Arc<Container>,
    state: Arc<ProcessState>,
    main: bool,
}

impl EndOnDrop {
    fn finish(&self, status: ExitStatus) {
        if self.main {
            // With the first process of a process namespace all others die.
            self.container.kill(Cause::Signal(Signal::KILL));
            lock(&self.container.cpu).stop(&*self.sandbox.world.clock);
            lock(&self.container.memory).now = 0;
        }
        let first = self.state.ended(End::Status(status));
        if self.main {
            // Once more, for a process that joined in this moment.
            self.container.kill(Cause::Signal(Signal::KILL));
        }
        if first && self.main {
            self.sandbox.exited(&self.container, status);
        }
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if self.state.is_running() {
            let now = self.sandbox.world.clock.now();
            self.finish(status_of(Cause::Signal(Signal::KILL), now));
        }
    }
}
