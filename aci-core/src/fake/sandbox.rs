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

use super::container::{BASE_MEMORY, Container, Launch, Memory, Streams, launch};
use super::files::{FileTree, Files, Mount, normal};
use super::isolation::World;
use super::lock;
use super::log::{Follow, Log, LogWriter};
use super::pipes::{HangUp, SharedWriter};
use super::process::{Cause, CpuMeter, End, ProcessState, lost};
use super::program::{FakeListener, Program};
use crate::contract::{
    BoxRead, BoxWrite, ContainerSpec, ContainerStats, ContainerStatus, Duplex, ExecSpec,
    ExitStatus, LogQuery, LogStream, NetworkStats, OutputStream, Process, ProcessControl, RunState,
    SandboxStats, SandboxStatus, Signal, UserSpec,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::size::Limits;

/// Bytes that a pipe or a connection holds before its writer waits, as pipe(7).
const PIPE: usize = 64 * 1024;

/// A volume of a sandbox.
#[derive(Clone, Debug)]
pub(super) struct SandboxTree {
    pub(super) tree: FileTree,
    pub(super) read_only: bool,
}

/// A container by name: its latest attempt and what its attempts share.
struct Entry {
    current: Arc<Container>,
    state: RunState,
    log: Arc<Log>,
}

/// What changes in a sandbox.
#[derive(Clone, Copy, Debug)]
struct Life {
    generation: u64,
    gone: bool,
}

pub(super) struct SandboxCore {
    pub(super) id: SandboxId,
    pub(super) hostname: String,
    pub(super) world: Arc<World>,
    limits: Limits,
    volumes: BTreeMap<String, SandboxTree>,
    containers: Mutex<BTreeMap<String, Entry>>,
    listeners: Mutex<BTreeMap<u16, mpsc::UnboundedSender<DuplexStream>>>,
    life: watch::Sender<Life>,
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

    fn program(&self, operation: &'static str, argv: &[String]) -> Result<Arc<dyn Program>> {
        let Some(path) = argv.first() else {
            return Err(Error::new(
                ErrorKind::Invalid,
                operation,
                "no command is given, neither by the image nor by the document",
            )
            .exit_code(127));
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        self.world.program(name).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                operation,
                format!("there is no program '{path}' in the container"),
            )
            .exit_code(127)
        })
    }

    fn mounts(&self, container: &ContainerSpec) -> Result<Vec<Mount>> {
        let invalid = |message| Error::new(ErrorKind::Invalid, "sandbox.start", message);
        let mut mounts = Vec::new();
        for mount in &container.mounts {
            if !mount.path.starts_with('/') || normal(&mount.path) == "/" {
                let path = &mount.path;
                return Err(invalid(format!(
                    "the mount path '{path}' is not an absolute path below '/'"
                )));
            }
            let Some(volume) = self.volumes.get(&mount.volume) else {
                let name = &mount.volume;
                return Err(invalid(format!("the sandbox has no volume '{name}'")));
            };
            mounts.push(Mount {
                path: normal(&mount.path),
                tree: volume.tree.clone(),
                read_only: volume.read_only || mount.read_only,
            });
        }
        Ok(mounts)
    }

    pub(super) fn start(self: &Arc<Self>, spec: ContainerSpec) -> Result<()> {
        self.alive("sandbox.start")?;
        let program = self
            .program("sandbox.start", &spec.process.argv)
            .map_err(|e| e.on(&spec.name))?;
        let mounts = self.mounts(&spec).map_err(|e| e.on(&spec.name))?;
        let user = user(&spec.process.user).map_err(|e| e.on(&spec.name))?;
        if spec.rootfs.layers.is_empty() {
            let message = "the root file system has no layers";
            return Err(Error::new(ErrorKind::Invalid, "sandbox.start", message).on(&spec.name));
        }
        let clock = Arc::clone(&self.world.clock);
        let now = clock.now();
        let root = FileTree::new(None);
        for file in &spec.files {
            root.put(&normal(&file.path), file.content.clone());
        }
        let mut containers = lock(&self.containers);
        let before = containers.get(&spec.name);
        if before.is_some_and(|entry| entry.current.is_running()) {
            let message = "the container runs already";
            return Err(Error::new(ErrorKind::Conflict, "sandbox.start", message).on(&spec.name));
        }
        let log = before.map_or_else(Log::new, |entry| Arc::clone(&entry.log));
        log.set_bound(spec.log_bytes);
        let used = before.map_or(Duration::ZERO, |entry| entry.current.cpu(now));
        let (state, killed) = ProcessState::new(self.id.clone(), spec.process.terminal);
        let container = Arc::new(Container {
            name: spec.name.clone(),
            attempt: spec.attempt,
            limits: spec.limits,
            env: spec.process.env.clone(),
            cwd: spec.process.cwd.clone(),
            files: Files::new(root, spec.rootfs.upper.is_none(), mounts),
            since: now,
            processes: Mutex::new(vec![Arc::clone(&state)]),
            cpu: Mutex::new(CpuMeter::new(used, now)),
            memory: Mutex::new(Memory {
                now: BASE_MEMORY,
                peak: BASE_MEMORY,
            }),
        });
        containers.insert(
            spec.name.clone(),
            Entry {
                current: Arc::clone(&container),
                state: RunState::Running { since: now },
                log: Arc::clone(&log),
            },
        );
        drop(containers);
        let writer = |stream| {
            Box::new(LogWriter {
                log: Arc::clone(&log),
                clock: Arc::clone(&clock),
                stream,
                begun: Vec::new(),
            })
        };
        let terminal = spec.process.terminal.is_some();
        let streams = Streams {
            stdin: Box::new(tokio::io::empty()),
            stdout: writer(OutputStream::Stdout),
            stderr: writer(if terminal {
                OutputStream::Stdout
            } else {
                OutputStream::Stderr
            }),
        };
        self.life.send_modify(|life| life.generation += 1);
        launch(
            self,
            &container,
            Launch {
                program,
                spec: &spec.process,
                user,
                streams,
                state,
                killed,
                main: true,
            },
        );
        // It may have died while its container was made.
        if self.is_gone() {
            self.die();
            return Err(lost("sandbox.start", &self.id));
        }
        Ok(())
    }

    pub(super) fn exec(self: &Arc<Self>, name: &str, exec: &ExecSpec) -> Result<Process> {
        self.alive("sandbox.exec")?;
        let container = lock(&self.containers)
            .get(name)
            .map(|entry| Arc::clone(&entry.current))
            .filter(|container| container.is_running())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    "sandbox.exec",
                    "no such container runs",
                )
                .on(name)
            })?;
        let program = self
            .program("sandbox.exec", &exec.process.argv)
            .map_err(|e| e.on(name))?;
        let user = user(&exec.process.user).map_err(|e| e.on(name))?;
        let (state, killed) = ProcessState::new(self.id.clone(), exec.process.terminal);
        let (out, stdout) = tokio::io::duplex(PIPE);
        let (input, stdin) = tokio::io::duplex(PIPE);
        let mut process = Process {
            stdin: exec.stdin.then(|| Box::new(input) as BoxWrite),
            stdout: Box::new(out),
            stderr: None,
            control: Arc::clone(&state) as Arc<dyn ProcessControl>,
        };
        let (stdout, stderr): (BoxWrite, BoxWrite) = if exec.process.terminal.is_some() {
            process.stdout = Box::new(HangUp {
                reader: process.stdout,
                process: Arc::clone(&state),
            });
            let terminal = SharedWriter::new(stdout);
            (Box::new(terminal.clone()), Box::new(terminal))
        } else {
            let (err, stderr) = tokio::io::duplex(PIPE);
            process.stderr = Some(Box::new(err));
            (Box::new(stdout), Box::new(stderr))
        };
        let stdin: BoxRead = if exec.stdin {
            Box::new(stdin)
        } else {
            Box::new(tokio::io::empty())
        };
        container.add(Arc::clone(&state));
        launch(
            self,
            &container,
            Launch {
                program,
                spec: &exec.process,
                user,
                streams: Streams {
                    stdin,
                    stdout,
                    stderr,
                },
                state,
                killed,
                main: false,
            },
        );
        Ok(process)
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

/// Names a user as `id` would; a simulated image knows `root`, `nobody` and numbers.
fn user(spec: &UserSpec) -> Result<String> {
    let image = spec.image.as_deref().unwrap_or("0");
    let (name, group) = match image.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (image, None),
    };
    let number = |name: &str| match name {
        "" | "root" => Ok(0),
        "nobody" | "nogroup" => Ok(65534),
        name => name.parse::<u32>().map_err(|_| {
            let message = format!("the image has no user or group '{name}'");
            Error::new(ErrorKind::Invalid, "sandbox.start", message)
        }),
    };
    let uid = match spec.uid {
        Some(uid) => uid,
        None => number(name)?,
    };
    let gid = match (spec.gid, group) {
        (Some(gid), _) => gid,
        (None, Some(group)) => number(group)?,
        (None, None) if uid == 65534 => uid,
        (None, None) => 0,
    };
    Ok(format!("{uid}:{gid}"))
}
