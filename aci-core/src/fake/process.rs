//! The outside of a simulated process: its end, its signals, its handle.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use super::lock;
use crate::contract::{Clock, ExitStatus, ProcessControl, Signal, TerminalSize};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::time::Timestamp;

/// Why a process is ended from outside.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    Signal(Signal),
    OutOfMemory,
}

/// How a process ended, or that nobody knows because its sandbox went first.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Status(ExitStatus),
    Lost,
}

/// What is known of a process from outside.
pub(super) struct ProcessState {
    pub(super) sandbox: SandboxId,
    pub(super) end: watch::Sender<Option<End>>,
    kill: Mutex<Option<oneshot::Sender<Cause>>>,
    catcher: Mutex<Option<mpsc::UnboundedSender<Signal>>>,
    pub(super) terminal: Mutex<Option<TerminalSize>>,
}

impl fmt::Debug for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeProcess")
            .field("sandbox", &self.sandbox)
            .field("end", &*self.end.borrow())
            .finish_non_exhaustive()
    }
}

impl ProcessState {
    /// A process that is about to run, and what ends it.
    pub(super) fn new(
        sandbox: SandboxId,
        terminal: Option<TerminalSize>,
    ) -> (Arc<Self>, oneshot::Receiver<Cause>) {
        let (kill, killed) = oneshot::channel();
        let state = Self {
            sandbox,
            end: watch::Sender::new(None),
            kill: Mutex::new(Some(kill)),
            catcher: Mutex::new(None),
            terminal: Mutex::new(terminal),
        };
        (Arc::new(state), killed)
    }

    /// From now on signals go to the receiver instead of ending the process.
    pub(super) fn catch(&self) -> mpsc::UnboundedReceiver<Signal> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *lock(&self.catcher) = Some(sender);
        receiver
    }

    /// Signals have their default actions again.
    pub(super) fn release(&self) {
        *lock(&self.catcher) = None;
    }

    /// Delivers a signal with the default actions of signal(7).
    pub(super) fn deliver(&self, signal: Signal) {
        if signal != Signal::KILL
            && let Some(catcher) = &*lock(&self.catcher)
        {
            // A program that no longer listens has caught it none the less.
            let _ = catcher.send(signal);
            return;
        }
        // SIGCHLD, SIGCONT, SIGURG and SIGWINCH are ignored by default; stopping is not simulated.
        if !matches!(signal.number(), 17..=23 | 28) {
            self.kill(Cause::Signal(signal));
        }
    }

    pub(super) fn kill(&self, cause: Cause) {
        if let Some(kill) = lock(&self.kill).take() {
            // It may have ended in this moment.
            let _ = kill.send(cause);
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.end.borrow().is_none()
    }

    /// Notes the end; the first one counts.
    pub(super) fn ended(&self, end: End) -> bool {
        self.end.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(end);
            first
        })
    }

    /// Waits for the end.
    pub(super) async fn wait(&self) -> End {
        let mut end = self.end.subscribe();
        let known = end.wait_for(Option::is_some).await;
        // The sender lives in `self`, so the channel is open.
        known.ok().and_then(|end| *end).unwrap_or(End::Lost)
    }
}

/// The exit status of a process that was ended by something, at a time.
pub(super) fn status_of(cause: Cause, at: Timestamp) -> ExitStatus {
    let (signal, oom) = match cause {
        Cause::Signal(signal) => (signal, false),
        Cause::OutOfMemory => (Signal::KILL, true),
    };
    ExitStatus {
        code: 128 + i32::from(signal.number()),
        signal: Some(signal),
        oom,
        at,
    }
}

/// The error of every operation on a sandbox that is gone.
pub(super) fn lost(operation: &'static str, sandbox: &SandboxId) -> Error {
    Error::new(ErrorKind::Lost, operation, "the sandbox is gone").on(sandbox)
}

#[async_trait]
impl ProcessControl for ProcessState {
    async fn wait(&self) -> Result<ExitStatus> {
        match Self::wait(self).await {
            End::Status(status) => Ok(status),
            End::Lost => Err(lost("process.wait", &self.sandbox)),
        }
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        if matches!(*self.end.borrow(), Some(End::Lost)) {
            return Err(lost("process.signal", &self.sandbox));
        }
        self.deliver(signal);
        Ok(())
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        if matches!(*self.end.borrow(), Some(End::Lost)) {
            return Err(lost("process.resize", &self.sandbox));
        }
        let mut terminal = lock(&self.terminal);
        if terminal.is_some() {
            *terminal = Some(size);
        }
        Ok(())
    }
}

/// Simulated CPU time: it grows with the time of the clock by a load that can change.
#[derive(Debug)]
pub(super) struct CpuMeter {
    used: Duration,
    since: Timestamp,
    /// In hundredths of a core.
    load: u32,
}

impl CpuMeter {
    /// A meter that starts at the default load of one hundredth of a core.
    pub(super) fn new(used: Duration, now: Timestamp) -> Self {
        Self {
            used,
            since: now,
            load: 1,
        }
    }

    pub(super) fn used(&self, now: Timestamp) -> Duration {
        self.used + now.since(self.since) * self.load / 100
    }

    pub(super) fn set_load(&mut self, load: u32, clock: &dyn Clock) {
        let now = clock.now();
        self.used = self.used(now);
        self.since = now;
        self.load = load;
    }

    pub(super) fn stop(&mut self, clock: &dyn Clock) {
        self.set_load(0, clock);
    }
}
