//! The agent's loop: connections of hosts, containers, their processes and their output.
//!
//! Everything waits in one epoll; nothing in here blocks for long, and no source gets more than a
//! bounded amount of work in one turn.

mod attempts;
mod connections;
mod dials;
mod output;
mod processes;
mod shares;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::boot::Volumes;
use crate::cgroup::tree;
use crate::container::{Container, Phase, Process};
use crate::init::Handles;
use crate::devices::{self, Gate};
use crate::protocol::{CgroupPlan, Failure, Hidden, Kind, Reply, Request, Start, Users, VERSION, frame};
use crate::{files, sys, users};

/// What one readable stream may cost in one turn, in bytes.
const TURN: usize = 64 * 1024;
/// What is read of an ended container's streams at most; more can only come from outside.
const DRAIN: usize = 1 << 20;
/// Connections at once.
const MAX_CONNECTIONS: usize = 4096;

/// What the agent was set up with.
pub(crate) struct Parts {
    pub(crate) id: String,
    pub(crate) dir: String,
    pub(crate) users: Users,
    /// The sandbox's user namespace, if the agent is outside of it.
    pub(crate) inside: Option<OwnedFd>,
    pub(crate) cgroup: Option<CgroupPlan>,
    pub(crate) volumes: Volumes,
    pub(crate) shm: PathBuf,
    pub(crate) listener: OwnedFd,
    pub(crate) network: OwnedFd,
}

/// What an event in the epoll belongs to; with a number it is the event's data.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Connection,
    Ready,
    InitEnd,
    Report,
    ProcessEnd,
    Output0,
    Output1,
    Dial,
}

impl Source {
    const ALL: [Self; 9] = [
        Self::Listener,
        Self::Connection,
        Self::Ready,
        Self::InitEnd,
        Self::Report,
        Self::ProcessEnd,
        Self::Output0,
        Self::Output1,
        Self::Dial,
    ];

    fn data(self, key: u64) -> EventData {
        EventData::new_u64((self as u64) << 56 | key)
    }

    fn of(data: u64) -> Option<(Self, u64)> {
        let kind = usize::try_from(data >> 56).ok()?;
        Some((*Self::ALL.get(kind)?, data & (u64::MAX >> 8)))
    }
}

struct Connection {
    socket: OwnedFd,
    decoder: frame::Decoder,
    fds: VecDeque<OwnedFd>,
    out: VecDeque<(Vec<u8>, usize, Vec<OwnedFd>)>,
    writing: bool,
}

/// The agent.
pub(crate) struct Server {
    parts: Parts,
    epoll: OwnedFd,
    own_pids: OwnedFd,
    null: OwnedFd,
    /// What holds the devices of containers without devices of their own back.
    device_program: Option<OwnedFd>,
    connections: BTreeMap<u64, Connection>,
    containers: BTreeMap<String, Container>,
    processes: BTreeMap<u64, Process>,
    /// Connections that are being made, and who waits for them.
    dials: BTreeMap<u64, (u64, OwnedFd)>,
    next: u64,
    generation: u64,
    waiting: Vec<(u64, u64)>,
    /// Starts that wait for what becomes of an earlier one.
    queued: Vec<(u64, Box<Start>)>,
    /// Connections that asked for the end.
    destroying: Vec<u64>,
    ending: bool,
    /// Handles of containers that have ended, to be closed when nobody waits for an answer.
    closing: Vec<Handles>,
    /// Cgroups that could not be removed yet.
    leftovers: Vec<String>,
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

fn internal(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(Kind::Internal, format!("{what}: {error}"))
}

impl Server {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let open = |path: &str| {
            rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).or_else(|_| {
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            })
        };
        let server = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            own_pids: open("/proc/self/ns/pid")?,
            null: open("/dev/null")?,
            device_program: match &parts.cgroup {
                Some(plan) if plan.devices == Gate::Program => {
                    Some(devices::load(&devices::DEFAULT)?)
                }
                _ => None,
            },
            connections: BTreeMap::new(),
            containers: BTreeMap::new(),
            processes: BTreeMap::new(),
            dials: BTreeMap::new(),
            next: 1,
            generation: 1,
            waiting: Vec::new(),
            queued: Vec::new(),
            destroying: Vec::new(),
            ending: false,
            closing: Vec::new(),
            leftovers: Vec::new(),
            parts,
        };
        server.watch(&server.parts.listener, Source::Listener, 0, EventFlags::IN)?;
        Ok(server)
    }

    pub(crate) fn id(&self) -> &str {
        &self.parts.id
    }

    fn watch(&self, fd: impl AsFd, source: Source, key: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, source.data(key), flags)?)
    }

    fn unwatch(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Serves until the sandbox is destroyed.
    pub(crate) fn serve(mut self, host: &OwnedFd) -> ! {
        // The host's socket was standard input; nothing may hold it open.
        let _ = host;
        let _ = sys::put(&self.null, 0);
        sys::ignore(libc::SIGPIPE);
        let mut events = Vec::with_capacity(64);
        loop {
            let timeout = rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: 20_000_000,
            };
            let timeout = (!self.leftovers.is_empty()).then_some(&timeout);
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout,
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => sys::exit_now(1),
            }
            for event in &events {
                let (data, flags) = (event.data.u64(), event.flags);
                if let Some((source, key)) = Source::of(data) {
                    self.handle(source, key, flags);
                }
            }
            self.sweep();
            self.start_queued();
            self.answer_waiting();
            self.closing.clear();
            if self.ending && self.is_empty() {
                for connection in std::mem::take(&mut self.destroying) {
                    self.reply(connection, &Reply::Done, Vec::new());
                }
                let _ = std::fs::remove_file(PathBuf::from(&self.parts.dir).join("agent.sock"));
                sys::exit_now(0);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.containers
            .values()
            .all(|container| container.phase == Phase::Ended)
            && self.leftovers.is_empty()
    }

    fn handle(&mut self, source: Source, key: u64, flags: EventFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Connection => self.connection(key, flags),
            Source::Ready => self.init_said(key),
            Source::InitEnd => self.init_ended(key),
            Source::Report => self.reported(key),
            Source::ProcessEnd => self.process_ended(key),
            Source::Output0 => self.output(key, 0),
            Source::Output1 => self.output(key, 1),
            Source::Dial => self.dialed(key),
        }
    }

    fn sweep(&mut self) {
        if let Some(plan) = &self.parts.cgroup {
            self.leftovers
                .retain(|path| tree::remove(plan, path).is_err());
        }
    }

    fn request(&mut self, key: u64, request: Request, fds: Vec<OwnedFd>) {
        let outcome = match request {
            Request::Hello => {
                let hello = Reply::Hello {
                    version: VERSION,
                    id: self.parts.id.clone(),
                };
                self.parts
                    .network
                    .try_clone()
                    .map(|network| Some((hello, vec![network])))
                    .map_err(internal("the network namespace"))
            }
            Request::Start(start) => self.start(key, start).map(|()| None),
            Request::Exec { container, program } => {
                self.exec(key, &container, &program, fds).map(|()| None)
            }
            Request::Signal {
                container,
                signal,
                all,
            } => {
                self.signal(&container, signal, all);
                Ok(Some((Reply::Done, Vec::new())))
            }
            Request::SignalProcess { process, signal } => {
                if let Some(process) = self.processes.get(&process) {
                    let _ = sys::pidfd_signal(&process.pidfd, i32::from(signal));
                }
                Ok(Some((Reply::Done, Vec::new())))
            }
            Request::Status { seen } => match seen {
                // A sandbox that is being destroyed says nothing more; its end is the answer.
                _ if self.ending => Ok(None),
                Some(seen) if seen >= self.generation => {
                    self.waiting.push((key, seen));
                    Ok(None)
                }
                _ => Ok(Some((self.status(), Vec::new()))),
            },
            Request::Stats => Ok(Some((self.stats(), Vec::new()))),
            Request::Dial { ip, port, scope } => {
                let address = match ip {
                    IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
                    IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
                };
                self.dial(key, &address).map(|()| None)
            }
            Request::Files { volume, files } => self
                .replace_files(&volume, &files)
                .map(|()| Some((Reply::Done, Vec::new()))),
            Request::Share {
                container,
                layer,
                name,
                deep,
                read_only,
            } => self
                .share(&container, &layer, &name, deep, read_only)
                .map(|()| Some((Reply::Done, Vec::new()))),
            Request::Destroy => {
                self.ending = true;
                self.destroying.push(key);
                let names: Vec<String> = self.containers.keys().cloned().collect();
                for name in names {
                    self.end(&name);
                }
                Ok(None)
            }
        };
        match outcome {
            Ok(None) => {}
            Ok(Some((reply, fds))) => self.reply(key, &reply, fds),
            Err(failure) => self.reply(key, &Reply::Failed(failure), Vec::new()),
        }
    }

    fn status(&self) -> Reply {
        Reply::Status {
            generation: self.generation,
            containers: self
                .containers
                .iter()
                .filter_map(|(name, container)| container.status(name))
                .collect(),
        }
    }

    fn answer_waiting(&mut self) {
        if self.ending {
            return;
        }
        let generation = self.generation;
        let ready: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, seen)| *seen < generation)
            .map(|(key, _)| *key)
            .collect();
        if ready.is_empty() {
            return;
        }
        self.waiting.retain(|(_, seen)| *seen >= generation);
        let status = self.status();
        for key in ready {
            self.reply(key, &status, Vec::new());
        }
    }

    fn replace_files(&self, volume: &str, files: &[(String, Hidden)]) -> Result<(), Failure> {
        let Some(place) = self.parts.volumes.get(volume) else {
            return Err(Failure::new(
                Kind::NotFound,
                format!("the volume '{volume}' is not one of the sandbox's"),
            ));
        };
        let Some(secret) = place.files else {
            return Err(Failure::new(
                Kind::Invalid,
                format!("the volume '{volume}' is none of files"),
            ));
        };
        let _owner = users::Owner::new(&self.parts.users);
        files::replace(&place.path, volume, secret, files)
    }

    fn stats(&self) -> Reply {
        Reply::Stats {
            containers: self
                .containers
                .iter()
                .filter(|(_, container)| container.phase == Phase::Running)
                .map(|(name, container)| container.usage(name))
                .collect(),
            network: std::fs::read_to_string("/proc/self/net/dev")
                .ok()
                .map(|text| crate::procfs::network(&text)),
        }
    }
}
