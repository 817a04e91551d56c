//! A sandbox in the host's eyes: every call is a conversation with its agent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{
    ContainerSpec, ContainerStats, ContainerStatus, Duplex, ExecSpec, ExitStatus, Layer, LogLine,
    LogQuery, LogStream, NamespaceHandle, NetworkEndpoint, NetworkStats, Process, ProcessControl,
    ProcessSpec, RunState, Sandbox, SandboxStats, SandboxStatus, SeccompPolicy, Signal,
    TerminalSize, VolumeSource,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::size::Limits;
use aci_core::time::Timestamp;
use async_trait::async_trait;
use futures_util::stream;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::capabilities;
use crate::cgroup::tree;
use crate::channel::{Address, Channel, unexpected};
use crate::logs::Reader;
use crate::meters::Meters;
use crate::namespaces::Shared;
use crate::protocol::{self, Bounds, Exit, Hidden, Program, Reply, Request, Rights, Start, Upper};
use crate::seccomp;
use crate::stream::{from_process, terminal, to_process};

/// A sandbox of [`Namespaces`](crate::Namespaces).
#[derive(Debug)]
pub(crate) struct NamespaceSandbox {
    pub(crate) id: SandboxId,
    pub(crate) address: Address,
    pub(crate) network: Arc<OwnedFd>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) meters: Arc<Meters>,
}

pub(crate) fn bounds(limits: &Limits) -> Bounds {
    Bounds {
        cpu_max: limits.cpu_max,
        cpu_request: limits.cpu_request,
        memory_max: limits.memory_max,
        memory_request: limits.memory_request,
        pids_max: limits.pids_max,
        io_max: None,
    }
}

/// A path as text; the protocol carries no other.
pub(crate) fn text(path: &Path, operation: &'static str) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            operation,
            format!("the path {} is not UTF-8", path.display()),
        )
    })
}

fn program(spec: &ProcessSpec) -> Program {
    Program {
        argv: spec
            .argv
            .iter()
            .map(|argument| Hidden(argument.as_bytes().to_vec()))
            .collect(),
        env: spec
            .env
            .iter()
            .map(|(name, value)| {
                Hidden([name.as_bytes(), b"=", value.expose().as_bytes()].concat())
            })
            .collect(),
        cwd: spec.cwd.clone(),
        user: spec.user.image.clone(),
        uid: spec.user.uid,
        gid: spec.user.gid,
        terminal: spec.terminal.map(|size| (size.rows, size.cols)),
    }
}

fn exit_status(exit: Exit) -> ExitStatus {
    ExitStatus {
        code: exit.code,
        signal: exit
            .signal
            .and_then(|number| Signal::from_number(number).ok()),
        oom: exit.oom,
        at: Timestamp::from_micros(exit.at),
    }
}

fn status(generation: u64, containers: Vec<protocol::Status>) -> SandboxStatus {
    SandboxStatus {
        generation,
        containers: containers
            .into_iter()
            .map(|status| {
                let since = Timestamp::from_micros(status.since);
                ContainerStatus {
                    name: status.name,
                    attempt: status.attempt,
                    state: match status.exit {
                        None => RunState::Running { since },
                        Some(exit) => RunState::Exited {
                            since,
                            status: exit_status(exit),
                        },
                    },
                }
            })
            .collect(),
    }
}

async fn ask_status(address: &Address, seen: Option<u64>) -> Result<SandboxStatus> {
    const OPERATION: &str = "sandbox.status";
    match address.ask(OPERATION, &Request::Status { seen }).await? {
        (
            Reply::Status {
                generation,
                containers,
            },
            _,
        ) => Ok(status(generation, containers)),
        _ => Err(unexpected(OPERATION)),
    }
}

impl NamespaceSandbox {
    pub(crate) async fn done(&self, operation: &'static str, request: &Request) -> Result<()> {
        match self.address.ask(operation, request).await? {
            (Reply::Done, _) => Ok(()),
            _ => Err(unexpected(operation)),
        }
    }

    fn rights(&self, container: &ContainerSpec) -> Result<Rights> {
        let security = &container.security;
        let granted = capabilities::granted(security)?;
        let filter = match (&security.seccomp, security.privileged) {
            (_, true) | (SeccompPolicy::Unconfined, _) => Vec::new(),
            (SeccompPolicy::Default, _) => seccomp::default_filter(granted)?,
            (SeccompPolicy::Profile(json), _) => seccomp::custom_filter(json, granted)?,
        };
        Ok(Rights {
            privileged: security.privileged,
            no_new_privs: !security.allow_privilege_escalation && !security.privileged,
            capabilities: granted,
            filter,
        })
    }

    pub(crate) fn start_request(&self, container: &ContainerSpec) -> Result<Start> {
        const OPERATION: &str = "container.start";
        let layers: Result<Vec<_>> = container
            .rootfs
            .layers
            .iter()
            .map(|layer| {
                Ok(match layer {
                    Layer::Directory(path) => protocol::Layer::Directory(text(path, OPERATION)?),
                    Layer::Erofs(path) => protocol::Layer::Erofs(text(path, OPERATION)?),
                })
            })
            .collect();
        let upper = container
            .rootfs
            .upper
            .as_ref()
            .map(|(upper, work)| Ok::<_, Error>((text(upper, OPERATION)?, text(work, OPERATION)?)))
            .transpose()?;
        Ok(Start {
            name: container.name.clone(),
            attempt: container.attempt,
            layers: layers?,
            upper: upper.map_or(Upper::None, |(upper, work)| Upper::Directory(upper, work)),
            program: program(&container.process),
            mounts: container
                .mounts
                .iter()
                .map(|mount| (mount.volume.clone(), mount.path.clone(), mount.read_only))
                .collect(),
            files: container
                .files
                .iter()
                .map(|file| (file.path.clone(), Hidden(file.content.to_vec()), file.mode))
                .collect(),
            bounds: Bounds {
                io_max: self.shared.io_max(),
                ..bounds(&container.limits)
            },
            rights: self.rights(container)?,
            log_bytes: container.log_bytes,
            devices: Vec::new(),
            binds: Vec::new(),
            rlimits: Vec::new(),
        })
    }

    fn log_path(&self, container: &str) -> Option<PathBuf> {
        let plain = !container.is_empty() && !container.contains(['/', '\0']) && container != "..";
        plain.then(|| {
            self.address
                .directory
                .join("log")
                .join(format!("{container}.log"))
        })
    }
}

#[async_trait]
impl Sandbox for NamespaceSandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn network(&self) -> NetworkEndpoint {
        NetworkEndpoint::Namespace(NamespaceHandle {
            pid: self.address.pid.unsigned_abs(),
            net: Arc::clone(&self.network),
        })
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %self.id, container = %container.name, attempt = container.attempt))]
    async fn start(&self, container: ContainerSpec) -> Result<()> {
        const OPERATION: &str = "container.start";
        let mut start = self.start_request(&container)?;
        self.shared
            .gpus
            .give(&self.address.directory, container.gpus, &mut start)?;
        let request = Request::Start(Box::new(start));
        self.done(OPERATION, &request)
            .await
            .map_err(|error| error.on(&container.name))?;
        if let Some(plan) = self.shared.plan() {
            self.meters.started(plan, self.id.as_str(), &container.name);
        }
        metrics::counter!("aci_isolation_container_starts_total").increment(1);
        Ok(())
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %self.id, container))]
    async fn exec(&self, container: &str, exec: ExecSpec) -> Result<Process> {
        const OPERATION: &str = "container.exec";
        let internal = |error: std::io::Error| {
            Error::new(ErrorKind::Internal, OPERATION, "making the streams")
                .on(container)
                .because(error)
        };
        let request = Request::Exec {
            container: container.to_owned(),
            program: program(&exec.process),
        };
        let mut channel = self.address.connect().await?;
        let mut send = async |fds: &[&OwnedFd]| -> Result<(u64, Vec<OwnedFd>)> {
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            channel
                .send(&request, &fds)
                .await
                .map_err(|error| self.address.broken(OPERATION, error))?;
            match channel.answer(&self.address, OPERATION).await {
                Ok((Reply::Started { process }, fds)) => Ok((process, fds)),
                Ok(_) => Err(unexpected(OPERATION)),
                Err(error) => Err(error.on(container)),
            }
        };
        let (process, stdin, stdout, stderr, outer): (
            u64,
            Option<aci_core::contract::BoxWrite>,
            aci_core::contract::BoxRead,
            Option<aci_core::contract::BoxRead>,
            Option<OwnedFd>,
        ) = if exec.process.terminal.is_some() {
            let (process, mut fds) = send(&[]).await?;
            let outer = fds.pop().ok_or_else(|| unexpected(OPERATION))?;
            let again = outer.try_clone().map_err(internal)?;
            let (reader, writer) = terminal(outer).map_err(internal)?;
            let stdin = exec.stdin.then(|| Box::new(writer) as _);
            (process, stdin, Box::new(reader), None, Some(again))
        } else {
            let (stdin, input) = if exec.stdin {
                let (write, read) = to_process().map_err(internal)?;
                (Some(Box::new(write) as _), read)
            } else {
                let null = std::fs::File::open("/dev/null").map_err(internal)?;
                (None, null.into())
            };
            let (stdout, output) = from_process().map_err(internal)?;
            let (stderr, errors) = from_process().map_err(internal)?;
            let (process, _) = send(&[&input, &output, &errors]).await?;
            (
                process,
                stdin,
                Box::new(stdout),
                Some(Box::new(stderr) as _),
                None,
            )
        };
        metrics::counter!("aci_isolation_execs_total").increment(1);
        Ok(Process {
            stdin,
            stdout,
            stderr,
            control: Arc::new(ExecControl {
                address: self.address.clone(),
                process,
                terminal: outer,
                waiting: Mutex::new(Waiting {
                    channel,
                    exit: None,
                }),
            }),
        })
    }

    async fn signal(&self, container: &str, signal: Signal, all: bool) -> Result<()> {
        let request = Request::Signal {
            container: container.to_owned(),
            signal: signal.number(),
            all,
        };
        self.done("container.signal", &request).await
    }

    async fn status(&self) -> Result<SandboxStatus> {
        ask_status(&self.address, None).await
    }

    async fn changed(&self, seen: u64) -> Result<SandboxStatus> {
        ask_status(&self.address, Some(seen)).await
    }

    async fn logs(&self, container: &str, query: LogQuery) -> Result<LogStream> {
        const OPERATION: &str = "container.logs";
        let path = self
            .log_path(container)
            .ok_or_else(|| never_started(container))?;
        #[cfg(feature = "microvm")]
        let opened = match &self.address.line {
            Some(line) => {
                let stream = line.open(&crate::tunnel::Target::Log(container.to_owned()));
                blocking(move || {
                    let remote = crate::logfiles::Remote::open(stream?)?;
                    Ok::<_, std::io::Error>(Reader::remote(remote, query))
                })
                .await?
            }
            None => blocking(move || Reader::open(path, query)).await?,
        };
        #[cfg(not(feature = "microvm"))]
        let opened = blocking(move || Reader::open(path, query)).await?;
        if opened.is_err() {
            // Without its directory the sandbox is gone; then this fails with `Lost`.
            self.address.connect().await?;
        }
        let reader = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => never_started(container),
            _ => Error::new(ErrorKind::Internal, OPERATION, "opening the log")
                .on(container)
                .because(error),
        })?;
        let follow = Follow {
            reader: Some(reader),
            ready: VecDeque::new(),
            stage: Stage::Tail,
            query,
            container: container.to_owned(),
            address: self.address.clone(),
            seen: None,
            error: None,
        };
        Ok(Box::pin(stream::unfold(follow, Follow::next)))
    }

    async fn stats(&self) -> Result<SandboxStats> {
        const OPERATION: &str = "sandbox.stats";
        if let Some((containers, network)) = self.meters.read() {
            return Ok(SandboxStats {
                at: Timestamp::from(std::time::SystemTime::now()),
                containers,
                network: network.map(|(rx_bytes, tx_bytes)| NetworkStats { rx_bytes, tx_bytes }),
            });
        }
        let starts = self.meters.starts();
        let (reply, _) = self.address.ask(OPERATION, &Request::Stats).await?;
        let Reply::Stats {
            containers,
            network,
        } = reply
        else {
            return Err(unexpected(OPERATION));
        };
        if let Some(plan) = self.shared.plan()
            && self.address.is_here()
        {
            let running = containers.iter().map(|usage| usage.name.as_str());
            self.meters
                .open(plan, self.id.as_str(), self.address.pid, starts, running);
        }
        Ok(SandboxStats {
            at: Timestamp::from(std::time::SystemTime::now()),
            containers: containers
                .into_iter()
                .map(|usage| ContainerStats {
                    name: usage.name,
                    cpu: Duration::from_micros(usage.cpu_micros),
                    memory_bytes: usage.memory,
                    memory_peak_bytes: usage.peak,
                    pids: usage.pids,
                    io_bytes: usage.io,
                    pressure: usage.pressure.map(crate::meters::pressure),
                    exact: usage.exact,
                })
                .collect(),
            network: network.map(|(rx_bytes, tx_bytes)| NetworkStats { rx_bytes, tx_bytes }),
        })
    }

    async fn dial(&self, address: SocketAddr, timeout: Duration) -> Result<Box<dyn Duplex>> {
        const OPERATION: &str = "sandbox.dial";
        let unavailable = |why: String| {
            Error::new(
                ErrorKind::Unavailable,
                OPERATION,
                format!("nothing answers at {address}: {why}"),
            )
            .on(&self.id)
        };
        let request = Request::Dial {
            ip: address.ip(),
            port: address.port(),
            scope: match address {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(address) => address.scope_id(),
            },
        };
        let dialing = async {
            let (reply, fds) = self.address.ask(OPERATION, &request).await?;
            let (Reply::Dialed, Some(socket)) = (reply, fds.into_iter().next()) else {
                return Err(unexpected(OPERATION));
            };
            // A guest's is a Unix socket that leads there; only reading and writing is done with it.
            let stream = std::net::TcpStream::from(socket);
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream))
                .map_err(|error| unavailable(error.to_string()))?;
            stream
                .writable()
                .await
                .map_err(|error| unavailable(error.to_string()))?;
            match stream.take_error() {
                Ok(None) => Ok(stream),
                Ok(Some(error)) | Err(error) => Err(unavailable(error.to_string())),
            }
        };
        match tokio::time::timeout(timeout, dialing).await {
            Ok(outcome) => Ok(Box::new(outcome?)),
            Err(_) => Err(unavailable(format!("no answer within {timeout:?}"))),
        }
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %self.id, volume))]
    async fn replace_files(&self, volume: &str, files: VolumeSource) -> Result<()> {
        const OPERATION: &str = "sandbox.replace_files";
        let request = Request::Files {
            volume: volume.to_owned(),
            files: crate::namespaces::files(OPERATION, volume, &files)?,
        };
        self.done(OPERATION, &request)
            .await
            .map_err(|error| error.on(&self.id))
    }

    async fn freeze(&self, frozen: bool) -> Result<()> {
        const OPERATION: &str = "sandbox.freeze";
        // Fails with `Lost` if the sandbox is gone.
        self.address.connect().await?;
        let Some(plan) = self.shared.plan().cloned() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                "this machine has no cgroups that can be frozen",
            )
            .on(&self.id));
        };
        let (id, patience) = (self.id.to_string(), self.shared.patience());
        let froze = blocking(move || tree::freeze(&plan, &id, frozen, patience)).await?;
        froze.map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::Unsupported => ErrorKind::Unsupported,
                _ => ErrorKind::Internal,
            };
            Error::new(kind, OPERATION, "freezing the sandbox's cgroup")
                .on(&self.id)
                .because(error)
        })
    }

    async fn destroy(&self) -> Result<()> {
        self.shared.remove(&self.id).await
    }
}

fn never_started(container: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "container.logs",
        "no container of this name was ever started here",
    )
    .on(container)
}

/// Runs what reads files where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Error::new(
            ErrorKind::Cancelled,
            "sandbox.call",
            "the runtime is shutting down",
        )
        .because(error)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was read yet.
    Tail,
    /// On with what is written.
    Grow,
    /// The container has ended; one more look.
    Last,
    Over,
}

/// A log being read as a stream.
struct Follow {
    reader: Option<Reader>,
    ready: VecDeque<LogLine>,
    stage: Stage,
    query: LogQuery,
    container: String,
    address: Address,
    seen: Option<SandboxStatus>,
    /// Why the log ends early.
    error: Option<Error>,
}

impl Follow {
    /// Between looks at a growing file.
    const PAUSE: Duration = Duration::from_millis(50);

    async fn next(mut self) -> Option<(Result<LogLine>, Self)> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some((Ok(line), self));
            }
            match self.stage {
                Stage::Over => return None,
                Stage::Tail => {
                    // Without a tail the log is handed on as it is read.
                    let read = match self.query.tail {
                        Some(_) => self.read(Reader::tail).await,
                        None => self.read(Reader::more).await,
                    };
                    match read {
                        Ok(true) if self.query.tail.is_none() => {}
                        Ok(_) if self.query.follow => self.stage = Stage::Grow,
                        Ok(_) => self.stage = Stage::Over,
                        Err(error) => return self.broken(error).await,
                    }
                }
                Stage::Grow => {
                    // The state before the look, so that nothing written until the end is missed.
                    match self.ended().await {
                        Ok(false) => {}
                        Ok(true) => {
                            self.stage = Stage::Last;
                            continue;
                        }
                        Err(error) => {
                            self.error = Some(error);
                            self.stage = Stage::Last;
                            continue;
                        }
                    }
                    match self.read(Reader::more).await {
                        Ok(true) => {}
                        Ok(false) => tokio::time::sleep(Self::PAUSE).await,
                        Err(error) => return self.broken(error).await,
                    }
                }
                Stage::Last => match self.read(Reader::more).await {
                    Ok(true) => {}
                    Ok(false) => {
                        self.stage = Stage::Over;
                        if let Some(error) = self.error.take() {
                            return Some((Err(error), self));
                        }
                    }
                    Err(error) => return self.broken(error).await,
                },
            }
        }
    }

    /// A guest's log goes with its machine: that the sandbox is gone is then the better reason.
    async fn broken(mut self, error: Error) -> Option<(Result<LogLine>, Self)> {
        self.stage = Stage::Over;
        let error = match self.error.take() {
            Some(gone) => gone,
            None => self.address.connect().await.err().unwrap_or(error),
        };
        Some((Err(error), self))
    }

    /// Reads on; whether there was anything.
    async fn read(
        &mut self,
        how: impl FnOnce(&mut Reader) -> std::io::Result<Vec<LogLine>> + Send + 'static,
    ) -> Result<bool> {
        let Some(mut reader) = self.reader.take() else {
            return Ok(false);
        };
        let (reader, lines) = blocking(move || {
            let lines = how(&mut reader);
            (reader, lines)
        })
        .await?;
        self.reader = Some(reader);
        let lines = lines.map_err(|error| {
            Error::new(ErrorKind::Internal, "container.logs", "reading the log")
                .on(&self.container)
                .because(error)
        })?;
        self.ready.extend(lines);
        Ok(!self.ready.is_empty())
    }

    /// Whether the attempt that ran at the beginning has ended.
    async fn ended(&mut self) -> Result<bool> {
        let now = ask_status(&self.address, None).await?;
        let find = |status: &SandboxStatus| {
            status
                .containers
                .iter()
                .find(|container| container.name == self.container)
                .map(|container| (container.attempt, container.state))
        };
        let first = self.seen.as_ref().and_then(find);
        let Some((attempt, state)) = find(&now) else {
            return Ok(true);
        };
        let another = first.is_some_and(|(first, _)| first != attempt);
        if self.seen.is_none() {
            self.seen = Some(now);
        }
        Ok(another || matches!(state, RunState::Exited { .. }))
    }
}

/// The handle of a process of an exec: the connection that started it brings its end.
#[derive(Debug)]
struct ExecControl {
    address: Address,
    process: u64,
    terminal: Option<OwnedFd>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    channel: Channel,
    exit: Option<ExitStatus>,
}

#[async_trait]
impl ProcessControl for ExecControl {
    async fn wait(&self) -> Result<ExitStatus> {
        const OPERATION: &str = "process.wait";
        let mut waiting = self.waiting.lock().await;
        if let Some(exit) = waiting.exit {
            return Ok(exit);
        }
        match waiting.channel.answer(&self.address, OPERATION).await? {
            (Reply::Exited(exit), _) => {
                let exit = exit_status(exit);
                waiting.exit = Some(exit);
                Ok(exit)
            }
            _ => Err(unexpected(OPERATION)),
        }
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        const OPERATION: &str = "process.signal";
        let request = Request::SignalProcess {
            process: self.process,
            signal: signal.number(),
        };
        match self.address.ask(OPERATION, &request).await? {
            (Reply::Done, _) => Ok(()),
            _ => Err(unexpected(OPERATION)),
        }
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        #[cfg(feature = "microvm")]
        if let (Some(terminal), Some(line)) = (&self.terminal, &self.address.line) {
            line.resize(terminal, size.rows, size.cols);
            return Ok(());
        }
        if let Some(terminal) = &self.terminal {
            let size = rustix::termios::Winsize {
                ws_row: size.rows,
                ws_col: size.cols,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // A terminal whose process has ended needs no size.
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
        Ok(())
    }
}
