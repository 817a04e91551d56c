//! A simulated sandbox: its containers, its network, its state.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};

use super::container::Container;
use super::files::FileTree;
use super::isolation::{World, contents};
use super::lock;
use super::log::{Follow, Log};
use super::process::{Cause, End, lost};
use super::program::FakeListener;
use crate::contract::{
    ContainerStats, ContainerStatus, Duplex, ExitStatus, LogQuery, LogStream, NetworkStats,
    RunState, SandboxStats, SandboxStatus, Signal, VolumeSource,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::size::Limits;

/// Bytes that a pipe or a connection holds before its writer waits, as pipe(7).
pub(super) const PIPE: usize = 64 * 1024;

/// A volume of a sandbox.
#[derive(Clone, Debug)]
pub(super) struct SandboxTree {
    pub(super) tree: FileTree,
    pub(super) read_only: bool,
    /// Whether it was given as files.
    pub(super) of_files: bool,
}

/// A container by name: its latest attempt and what its attempts share.
pub(super) struct Entry {
    pub(super) current: Arc<Container>,
    pub(super) state: RunState,
    pub(super) log: Arc<Log>,
}

/// What changes in a sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) generation: u64,
    pub(super) gone: bool,
}

pub(super) struct SandboxCore {
    pub(super) id: SandboxId,
    pub(super) hostname: String,
    pub(super) world: Arc<World>,
    pub(super) limits: Limits,
    pub(super) volumes: BTreeMap<String, SandboxTree>,
    pub(super) containers: Mutex<BTreeMap<String, Entry>>,
    listeners: Mutex<BTreeMap<u16, mpsc::UnboundedSender<DuplexStream>>>,
    pub(super) life: watch::Sender<Life>,
    pub(super) frozen: watch::Sender<bool>,
}

impl fmt::Debug for SandboxCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSandbox")
            .field("id", &self.id)
            .field("life", &*self.life.borrow())
            .finish_non_exhaustive()
    }
}

impl SandboxCore {
    pub(super) fn new(
        id: SandboxId,
        hostname: String,
        limits: Limits,
        volumes: BTreeMap<String, SandboxTree>,
        world: Arc<World>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            hostname,
            world,
            limits,
            volumes,
            containers: Mutex::default(),
            listeners: Mutex::default(),
            frozen: watch::Sender::new(false),
            life: watch::Sender::new(Life {
                generation: 0,
                gone: false,
            }),
        })
    }

    pub(super) fn is_gone(&self) -> bool {
        self.life.borrow().gone
    }

    pub(super) fn alive(&self, operation: &'static str) -> Result<()> {
        if self.is_gone() {
            return Err(lost(operation, &self.id));
        }
        Ok(())
    }

    /// Ends everything in it; its handles then answer `Lost`.
    pub(super) fn die(&self) {
        self.life.send_modify(|life| life.gone = true);
        let containers: Vec<_> = lock(&self.containers)
            .values()
            .map(|entry| Arc::clone(&entry.current))
            .collect();
        for container in containers {
            // Nobody is left to tell how the processes ended.
            for process in &*lock(&container.processes) {
                process.ended(End::Lost);
            }
            container.kill(Cause::Signal(Signal::KILL));
        }
        lock(&self.listeners).clear();
    }

    /// Takes note that a container's process has ended.
    pub(super) fn exited(&self, container: &Arc<Container>, status: ExitStatus) {
        if let Some(entry) = lock(&self.containers).get_mut(&container.name)
            && Arc::ptr_eq(&entry.current, container)
        {
            let since = container.since;
            entry.state = RunState::Exited { since, status };
        }
        self.life.send_modify(|life| life.generation += 1);
    }

    pub(super) fn status(&self) -> SandboxStatus {
        let containers = lock(&self.containers);
        SandboxStatus {
            // Read under the lock of what it counts, so that it is never ahead of it.
            generation: self.life.borrow().generation,
            containers: containers
                .iter()
                .map(|(name, entry)| ContainerStatus {
                    name: name.clone(),
                    attempt: entry.current.attempt,
                    state: entry.state,
                })
                .collect(),
        }
    }

    /// Waits for a generation above `seen`, or for the end of the sandbox.
    pub(super) async fn changed(&self, seen: u64) {
        let mut life = self.life.subscribe();
        // The sender lives in `self`, so the channel is open.
        let _ = life
            .wait_for(|life| life.gone || life.generation > seen)
            .await;
    }

    pub(super) fn signal(&self, container: &str, signal: Signal, all: bool) {
        let known = lock(&self.containers)
            .get(container)
            .map(|entry| Arc::clone(&entry.current));
        if let Some(known) = known {
            known.signal(signal, all);
        }
    }

    pub(super) fn listen(self: &Arc<Self>, port: u16) -> io::Result<FakeListener> {
        let mut listeners = lock(&self.listeners);
        if listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, connections) = mpsc::unbounded_channel();
        listeners.insert(port, sender);
        Ok(FakeListener {
            sandbox: Arc::clone(self),
            port,
            connections,
        })
    }

    pub(super) fn unlisten(&self, port: u16) {
        lock(&self.listeners).remove(&port);
    }

    pub(super) fn connect(&self, port: u16) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(PIPE);
        let sent = lock(&self.listeners)
            .get(&port)
            .is_some_and(|listener| listener.send(far).is_ok());
        if sent {
            Ok(near)
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    /// Charges memory to a container; false if that kills it.
    pub(super) fn allocate(&self, container: &Container, bytes: u64) -> bool {
        let running: Vec<_> = lock(&self.containers)
            .values()
            .map(|entry| Arc::clone(&entry.current))
            .collect();
        let group: u64 = running.iter().map(|c| lock(&c.memory).now).sum();
        let fits = {
            let mut memory = lock(&container.memory);
            memory.now = memory.now.saturating_add(bytes);
            let fits = container
                .limits
                .memory_max
                .is_none_or(|max| memory.now <= max)
                && self
                    .limits
                    .memory_max
                    .is_none_or(|max| group.saturating_add(bytes) <= max);
            if fits {
                memory.peak = memory.peak.max(memory.now);
            }
            fits
        };
        if !fits {
            container.kill(Cause::OutOfMemory);
        }
        fits
    }

    pub(super) async fn dial(
        &self,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Box<dyn Duplex>> {
        self.alive("sandbox.dial")?;
        let unavailable =
            |message: &str| Error::new(ErrorKind::Unavailable, "sandbox.dial", message).on(address);
        if silent(address.ip()) {
            let clock = &self.world.clock;
            let over = clock.sleep_until(clock.now() + timeout);
            let mut life = self.life.subscribe();
            let gone = std::pin::pin!(life.wait_for(|life| life.gone));
            return Err(match select(over, gone).await {
                Either::Left(_) => unavailable("nothing answered in time"),
                Either::Right(_) => lost("sandbox.dial", &self.id),
            });
        }
        match self.connect(address.port()) {
            Ok(connection) => Ok(Box::new(connection)),
            Err(_) => Err(unavailable("nothing listens there: connection refused")),
        }
    }

    pub(super) fn replace_files(&self, volume: &str, files: &VolumeSource) -> Result<()> {
        const OPERATION: &str = "sandbox.replace_files";
        self.alive(OPERATION)?;
        let wrong = |kind, message: &str| Error::new(kind, OPERATION, message).on(volume);
        let Some(known) = self.volumes.get(volume) else {
            return Err(wrong(ErrorKind::NotFound, "the sandbox has no such volume"));
        };
        if !known.of_files {
            return Err(wrong(ErrorKind::Invalid, "the volume is none of files"));
        }
        known.tree.replace(contents(OPERATION, volume, files)?);
        Ok(())
    }

    pub(super) fn stats(&self) -> Result<SandboxStats> {
        self.alive("sandbox.stats")?;
        let at = self.world.clock.now();
        let containers = lock(&self.containers)
            .iter()
            .filter(|(_, entry)| entry.current.is_running())
            .map(|(name, entry)| {
                let memory = *lock(&entry.current.memory);
                ContainerStats {
                    name: name.clone(),
                    cpu: entry.current.cpu(at),
                    memory_bytes: memory.now,
                    memory_peak_bytes: Some(memory.peak),
                    pids: entry.current.count() as u64,
                    io_bytes: None,
                    pressure: None,
                    exact: true,
                }
            })
            .collect();
        Ok(SandboxStats {
            at,
            containers,
            network: Some(NetworkStats::default()),
        })
    }

    pub(super) fn logs(&self, name: &str, query: LogQuery) -> Result<LogStream> {
        self.alive("sandbox.logs")?;
        let (log, current) = match lock(&self.containers).get(name) {
            Some(entry) => (Arc::clone(&entry.log), Arc::clone(&entry.current)),
            None => {
                let message = "the container was never started";
                return Err(Error::new(ErrorKind::NotFound, "sandbox.logs", message).on(name));
            }
        };
        let (lines, next) = log.select(&query);
        if !query.follow {
            return Ok(Box::pin(stream::iter(lines.into_iter().map(Ok))));
        }
        let follow = Follow {
            sandbox: self.id.clone(),
            changed: log.watch(),
            log,
            lines,
            next,
            since: query.since,
            process: current.main(),
            done: false,
        };
        Ok(Box::pin(stream::unfold(follow, Follow::next)))
    }
}

/// Addresses where nothing ever answers, not even with a refusal: those for documentation
/// (RFC 5737), so that time-outs can be tried.
fn silent(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_documentation(),
        IpAddr::V6(_) => false,
    }
}
