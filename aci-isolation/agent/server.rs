//! The agent's loop: connections of hosts, containers, their processes and their output.
//!
//! Everything waits in one epoll; nothing in here blocks for long, and no source gets more than a
//! bounded amount of work in one turn.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;

use crate::boot::Volumes;
use crate::cgroup::tree::{self, Meter};
use crate::container::{Container, Init, Phase, Pipe, Process};
use crate::init::{self, Cradle, Said};
use crate::log::{self, Lines, Log};
use crate::process::{self, Birth, Streams};
use crate::protocol::{
    CgroupPlan, Exit, Failure, Kind, Program, Reply, Request, Start, Users, VERSION, frame, socket,
};
use crate::root::{self, Recipe};
use crate::sys::{self, Forked};

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
}

impl Source {
    const ALL: [Self; 8] = [
        Self::Listener,
        Self::Connection,
        Self::Ready,
        Self::InitEnd,
        Self::Report,
        Self::ProcessEnd,
        Self::Output0,
        Self::Output1,
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
    connections: BTreeMap<u64, Connection>,
    containers: BTreeMap<String, Container>,
    processes: BTreeMap<u64, Process>,
    next: u64,
    generation: u64,
    waiting: Vec<(u64, u64)>,
    /// Starts that wait for what becomes of an earlier one.
    queued: Vec<(u64, Box<Start>)>,
    /// Connections that asked for the end.
    destroying: Vec<u64>,
    ending: bool,
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
            connections: BTreeMap::new(),
            containers: BTreeMap::new(),
            processes: BTreeMap::new(),
            next: 1,
            generation: 1,
            waiting: Vec::new(),
            queued: Vec::new(),
            destroying: Vec::new(),
            ending: false,
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
        }
    }

    fn sweep(&mut self) {
        if let Some(plan) = &self.parts.cgroup {
            self.leftovers
                .retain(|path| tree::remove(plan, path).is_err());
        }
    }

    // Connections.

    fn accept(&mut self) {
        for _ in 0..16 {
            let accepted = rustix::net::accept_with(
                &self.parts.listener,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            );
            let Ok(socket) = accepted else {
                return;
            };
            // The directory already keeps others out; this is the second lock.
            let trusted = sys::peer_user(&socket).is_ok_and(|uid| uid == 0);
            if !trusted || self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            let key = self.number();
            if self
                .watch(&socket, Source::Connection, key, EventFlags::IN)
                .is_ok()
            {
                self.connections.insert(
                    key,
                    Connection {
                        socket,
                        decoder: frame::Decoder::default(),
                        fds: VecDeque::new(),
                        out: VecDeque::new(),
                        writing: false,
                    },
                );
            }
        }
    }

    fn close(&mut self, key: u64) {
        self.connections.remove(&key);
        self.waiting.retain(|(connection, _)| *connection != key);
        self.destroying.retain(|connection| *connection != key);
        self.queued.retain(|(connection, _)| *connection != key);
        for process in self.processes.values_mut() {
            if process.connection == Some(key) {
                process.connection = None;
            }
        }
    }

    fn connection(&mut self, key: u64, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) && self.flush(key).is_err() {
            return self.close(key);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let mut buffer = zeroize::Zeroizing::new(vec![0; TURN]);
        match socket::receive(&connection.socket, &mut buffer, &mut connection.fds) {
            Ok(0) => return self.close(key),
            Ok(read) => connection.decoder.push(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(_) => return self.close(key),
        }
        loop {
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            match connection.decoder.next::<Request>() {
                Ok(None) => return,
                Ok(Some((request, count))) => {
                    if connection.fds.len() < usize::from(count) {
                        return self.close(key);
                    }
                    let fds = connection.fds.drain(..usize::from(count)).collect();
                    self.request(key, request, fds);
                }
                Err(malformed) => {
                    let failure = Failure::new(Kind::Invalid, malformed.to_string());
                    self.reply(key, &Reply::Failed(failure), Vec::new());
                    return self.close(key);
                }
            }
        }
    }

    fn reply(&mut self, key: u64, reply: &Reply, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
        let Ok(bytes) = frame::encode(reply, count) else {
            return self.close(key);
        };
        connection.out.push_back((bytes, 0, fds));
        if self.flush(key).is_err() {
            self.close(key);
        }
    }

    fn flush(&mut self, key: u64) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&key) else {
            return Ok(());
        };
        while let Some((bytes, sent, fds)) = connection.out.front_mut() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match socket::send(&connection.socket, &bytes[*sent..], &borrowed) {
                Ok(count) => {
                    *sent += count;
                    fds.clear();
                    if *sent == bytes.len() {
                        connection.out.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let writing = !connection.out.is_empty();
        if writing != connection.writing {
            connection.writing = writing;
            let mut flags = EventFlags::IN;
            if writing {
                flags |= EventFlags::OUT;
            }
            epoll::modify(
                &self.epoll,
                &connection.socket,
                Source::Connection.data(key),
                flags,
            )?;
        }
        Ok(())
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
            Request::Dial { address } => {
                dial(&address).map(|socket| Some((Reply::Dialed, vec![socket])))
            }
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

    // Containers.

    fn start_queued(&mut self) {
        for (key, start) in std::mem::take(&mut self.queued) {
            if let Err(failure) = self.start(key, start) {
                self.reply(key, &Reply::Failed(failure), Vec::new());
            }
        }
    }

    fn cgroup_path(&self, name: &str) -> String {
        format!("{}/{name}", self.parts.id)
    }

    fn start(&mut self, key: u64, start: Box<Start>) -> Result<(), Failure> {
        let name = start.name.clone();
        if self.ending {
            return Err(Failure::new(
                Kind::Conflict,
                "the sandbox is being destroyed",
            ));
        }
        if name.is_empty()
            || name.starts_with('_')
            || name.contains(['/', '\0'])
            || name == ".."
            || name == "."
        {
            return Err(Failure::new(
                Kind::Invalid,
                format!("'{name}' cannot be a container's name"),
            ));
        }
        let previous = match self.containers.get(&name) {
            // It is being started already, perhaps by a host that has gone away since: what comes
            // of that decides.
            Some(container) if container.request.is_some() => {
                self.queued.push((key, start));
                return Ok(());
            }
            Some(container) if container.phase != Phase::Ended => {
                return Err(Failure::new(
                    Kind::Conflict,
                    format!("the container '{name}' is already running"),
                ));
            }
            Some(container) => container.status(&name),
            None => None,
        };
        let container = self.cradle(start, previous, key);
        match container {
            Ok(mut container) => {
                // The log goes on over all attempts.
                container.log = self.containers.remove(&name).and_then(|before| before.log);
                self.containers.insert(name, container);
                Ok(())
            }
            Err(failure) => {
                self.remove_cgroup(&name);
                Err(failure)
            }
        }
    }

    /// Makes the cgroup and the init of an attempt.
    fn cradle(
        &mut self,
        start: Box<Start>,
        previous: Option<crate::protocol::Status>,
        request: u64,
    ) -> Result<Container, Failure> {
        let path = self.cgroup_path(&start.name);
        let key = self.number();
        let (mut cgroup, mut procs, mut meter) = (None, Vec::new(), None);
        if let Some(plan) = &self.parts.cgroup {
            tree::create(plan, &path, &start.bounds, true, true)
                .map_err(internal("making the container's cgroup"))?;
            for directory in tree::directories(plan, &path) {
                let is_v2 = plan
                    .v2
                    .as_ref()
                    .is_some_and(|point| directory.starts_with(point));
                let what = || root::failed(format!("opening {}", directory.display()));
                if is_v2 {
                    cgroup = Some(
                        rustix::fs::open(
                            &directory,
                            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                            Mode::empty(),
                        )
                        .map_err(what())?,
                    );
                } else {
                    procs.push(
                        rustix::fs::open(
                            directory.join("cgroup.procs"),
                            OFlags::WRONLY | OFlags::CLOEXEC,
                            Mode::empty(),
                        )
                        .map_err(what())?,
                    );
                }
            }
            meter = Meter::open(plan, &path);
        }
        let mut mounts = Vec::new();
        for (volume, path, read_only) in &start.mounts {
            let Some((place, always)) = self.parts.volumes.get(volume) else {
                return Err(Failure::new(
                    Kind::Invalid,
                    format!("the volume '{volume}' is not one of the sandbox's"),
                ));
            };
            let tree = root::copy_of(rustix::fs::CWD, &place.to_string_lossy(), true).map_err(
                root::failed(format!("copying the mount of volume '{volume}'")),
            )?;
            mounts.push((tree, path.clone(), *read_only || *always));
        }
        let shm = root::copy_of(rustix::fs::CWD, &self.parts.shm.to_string_lossy(), false)
            .map_err(root::failed("copying the mount of /dev/shm"))?;
        let scratch = format!("{}/mnt/scratch", self.parts.dir);
        let (ready, ready_inner) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(root::failed("a socket pair"))?;
        let (control_inner, control) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(root::failed("a pipe"))?;
        let cradle = Cradle {
            recipe: Recipe {
                start: &start,
                scratch: &scratch,
                mounts: &mounts,
                shm: &shm,
                rootless: self.parts.users != Users::Host,
                tty_group: !matches!(self.parts.users, Users::Single { .. }),
                cgroup2: self
                    .parts
                    .cgroup
                    .as_ref()
                    .is_some_and(|plan| !plan.v2_controllers.is_empty() && plan.v1.is_empty()),
            },
            cgroups: &procs,
            ready: ready_inner,
            control: control_inner,
        };
        let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
        let (pid, pidfd) = match sys::clone(namespaces, cgroup.as_ref().map(AsFd::as_fd))
            .map_err(internal("starting the container's init"))?
        {
            Forked::Child => init::run(&cradle),
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(cradle);
        drop(mounts);
        let watched = self
            .watch(&pidfd, Source::InitEnd, key, EventFlags::IN)
            .and_then(|()| self.watch(&ready, Source::Ready, key, EventFlags::IN));
        if let Err(error) = watched {
            let _ = sys::pidfd_signal(&pidfd, libc::SIGKILL);
            return Err(internal("watching the container's init")(error));
        }
        Ok(Container {
            key,
            attempt: start.attempt,
            phase: Phase::Building,
            since: now(),
            start: Some(start),
            init: Some(Init {
                pid,
                pidfd,
                control,
                ready: Some(ready),
            }),
            root: None,
            proc: None,
            meter,
            cgroup,
            procs,
            main: None,
            exit: None,
            failure: None,
            log: None,
            pipes: [None, None],
            request: Some(request),
            ended_cpu: 0,
            previous,
        })
    }

    fn by_key(&self, key: u64) -> Option<String> {
        self.containers
            .iter()
            .find(|(_, container)| container.key == key)
            .map(|(name, _)| name.clone())
    }

    fn init_said(&mut self, key: u64) {
        let Some(name) = self.by_key(key) else {
            return;
        };
        let Some(ready) = self
            .containers
            .get_mut(&name)
            .and_then(|container| container.init.as_mut()?.ready.take())
        else {
            return;
        };
        self.unwatch(&ready);
        match init::hear(&ready) {
            Said::Ready { root, proc } => {
                if let Some(container) = self.containers.get_mut(&name) {
                    container.root = Some(root);
                    container.proc = Some(proc);
                    if container.phase != Phase::Building {
                        return;
                    }
                    container.phase = Phase::Launching;
                }
                if let Err(failure) = self.launch(&name) {
                    self.fail(&name, failure);
                }
            }
            Said::Failed(failure) => self.fail(&name, failure),
        }
    }

    /// Starts the container's own program.
    fn launch(&mut self, name: &str) -> Result<(), Failure> {
        let Some(container) = self.containers.get(name) else {
            return Ok(());
        };
        let Some(start) = &container.start else {
            return Ok(());
        };
        let null = || self.null.try_clone().map_err(internal("opening /dev/null"));
        let pipe = || -> Result<(OwnedFd, OwnedFd), Failure> {
            let (read, write) =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(root::failed("a pipe"))?;
            rustix::io::ioctl_fionbio(&read, true).map_err(root::failed("a pipe"))?;
            Ok((read, write))
        };
        let (streams, outputs) = if let Some(size) = start.program.terminal {
            let (outer, inner) = open_terminal(container, size)?;
            rustix::io::ioctl_fionbio(&outer, true).map_err(root::failed("a terminal"))?;
            (Streams::Terminal(inner), [Some(outer), None])
        } else {
            let (out_read, out_write) = pipe()?;
            let (err_read, err_write) = pipe()?;
            (
                Streams::Three([null()?, out_write, err_write]),
                [Some(out_read), Some(err_read)],
            )
        };
        let process = self.spawn(name, &start.program, streams)?;
        let key = self.register(process)?;
        if let Some(container) = self.containers.get_mut(name) {
            container.main = Some(key);
            let mut streams = ["stdout", "stderr"].into_iter();
            container.pipes = outputs.map(|fd| {
                let stream = streams.next().unwrap_or("stdout");
                fd.map(|fd| Pipe {
                    fd,
                    stream,
                    lines: Lines::default(),
                })
            });
        }
        Ok(())
    }

    /// Makes a child that joins a container and becomes a program.
    fn spawn(&self, name: &str, program: &Program, streams: Streams) -> Result<Process, Failure> {
        let gone = || {
            Failure::new(
                Kind::NotFound,
                format!("the container '{name}' is not running"),
            )
        };
        let container = self.containers.get(name).ok_or_else(gone)?;
        let (Some(init), Some(start)) = (&container.init, &container.start) else {
            return Err(gone());
        };
        let (report, report_inner) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(root::failed("a pipe"))?;
        let birth = Birth {
            init: init.pidfd.as_fd(),
            cgroups: &container.procs,
            program,
            env: if program.env.is_empty() {
                &start.program.env
            } else {
                &program.env
            },
            rights: &start.rights,
            streams,
            report: report_inner,
            single_user: matches!(self.parts.users, Users::Single { .. }),
        };
        // Only children are affected: the agent itself stays in its pid namespace.
        sys::setns(&init.pidfd, libc::CLONE_NEWPID).map_err(|_| gone())?;
        let cloned = sys::clone(0, container.cgroup.as_ref().map(AsFd::as_fd));
        let (pid, pidfd) = match cloned {
            Ok(Forked::Child) => process::become_program(birth),
            Ok(Forked::Parent { pid, pidfd }) => (pid, pidfd),
            Err(error) => {
                let _ = sys::setns(&self.own_pids, libc::CLONE_NEWPID);
                return Err(match error.raw_os_error() {
                    Some(libc::EAGAIN) => Failure::new(
                        Kind::Unavailable,
                        format!("the container '{name}' has reached its limit of processes"),
                    ),
                    // The namespace's init has ended.
                    Some(libc::ENOMEM) => gone(),
                    _ => internal("starting a process")(error),
                });
            }
        };
        if sys::setns(&self.own_pids, libc::CLONE_NEWPID).is_err() {
            // Further containers would nest; better to end and be seen as lost.
            sys::exit_now(1);
        }
        drop(birth);
        Ok(Process {
            container: name.to_owned(),
            pid,
            pidfd,
            report: Some(report),
            connection: None,
            terminal: None,
            oom_before: container.meter.as_ref().map_or(0, Meter::oom_kills),
        })
    }

    fn register(&mut self, process: Process) -> Result<u64, Failure> {
        let key = self.number();
        let watched = self
            .watch(&process.pidfd, Source::ProcessEnd, key, EventFlags::IN)
            .and_then(|()| match &process.report {
                Some(report) => self.watch(report, Source::Report, key, EventFlags::IN),
                None => Ok(()),
            });
        if let Err(error) = watched {
            let _ = sys::pidfd_signal(&process.pidfd, libc::SIGKILL);
            return Err(internal("watching a process")(error));
        }
        self.processes.insert(key, process);
        Ok(key)
    }

    fn exec(
        &mut self,
        connection: u64,
        name: &str,
        program: &Program,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let container = self
            .containers
            .get(name)
            .filter(|container| container.phase == Phase::Running)
            .ok_or_else(|| {
                Failure::new(
                    Kind::NotFound,
                    format!("the container '{name}' is not running"),
                )
            })?;
        let (streams, terminal) = if let Some(size) = program.terminal {
            let (outer, inner) = open_terminal(container, size)?;
            (Streams::Terminal(inner), Some(outer))
        } else {
            let three: [OwnedFd; 3] = fds
                .try_into()
                .map_err(|_| Failure::new(Kind::Invalid, "an exec needs three descriptors"))?;
            (Streams::Three(three), None)
        };
        let mut process = self.spawn(name, program, streams)?;
        process.connection = Some(connection);
        process.terminal = terminal;
        self.register(process).map(drop)
    }

    /// A process became its program, or said why not.
    fn reported(&mut self, key: u64) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let Some(report) = process.report.take() else {
            return;
        };
        let _ = epoll::delete(&self.epoll, &report);
        let mut bytes = vec![0; 16 * 1024];
        let read = loop {
            match rustix::io::read(&report, &mut bytes[..]) {
                Err(Errno::INTR) => {}
                other => break other.unwrap_or(0),
            }
        };
        let failure: Option<Failure> = (read > 0).then(|| {
            postcard::from_bytes(&bytes[..read]).unwrap_or_else(|_| {
                Failure::new(Kind::Internal, "the process said nothing legible")
            })
        });
        let name = process.container.clone();
        let connection = process.connection;
        let terminal = process.terminal.take();
        let is_main = self
            .containers
            .get(&name)
            .is_some_and(|container| container.main == Some(key));
        match (is_main, failure) {
            (true, Some(failure)) => self.fail(&name, failure),
            (true, None) => self.running(&name),
            (false, Some(failure)) => {
                if let Some(process) = self.processes.get_mut(&key) {
                    process.connection = None;
                }
                if let Some(connection) = connection {
                    self.reply(connection, &Reply::Failed(failure), Vec::new());
                }
            }
            (false, None) => {
                if let Some(connection) = connection {
                    let started = Reply::Started { process: key };
                    self.reply(connection, &started, terminal.into_iter().collect());
                }
            }
        }
    }

    fn running(&mut self, name: &str) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        if container.phase != Phase::Launching {
            return;
        }
        let bytes = container.start.as_ref().map_or(0, |start| start.log_bytes);
        let path = PathBuf::from(&self.parts.dir)
            .join("log")
            .join(format!("{name}.log"));
        match &mut container.log {
            Some(log) => log.bound(bytes),
            None => match Log::create(path, bytes) {
                Ok(log) => container.log = Some(log),
                Err(error) => return self.fail(name, internal("making the log file")(error)),
            },
        }
        container.phase = Phase::Running;
        container.since = now();
        let (key, request) = (container.key, container.request.take());
        let container = &self.containers[name];
        for (pipe, source) in container
            .pipes
            .iter()
            .zip([Source::Output0, Source::Output1])
        {
            if let Some(pipe) = pipe {
                let _ = self.watch(&pipe.fd, source, key, EventFlags::IN);
            }
        }
        self.generation += 1;
        if let Some(request) = request {
            self.reply(request, &Reply::Done, Vec::new());
        }
    }

    /// Gives an attempt up; its request is answered when nothing of it is left.
    fn fail(&mut self, name: &str, failure: Failure) {
        if let Some(container) = self.containers.get_mut(name) {
            container.failure.get_or_insert(failure);
        }
        self.end(name);
    }

    /// Kills everything in a container, as one act.
    fn end(&mut self, name: &str) {
        if let Some(container) = self.containers.get_mut(name)
            && let Some(init) = &container.init
        {
            let _ = sys::pidfd_signal(&init.pidfd, libc::SIGKILL);
            container.phase = Phase::Ending;
        }
    }

    fn signal(&mut self, name: &str, signal: u8, all: bool) {
        let Some(container) = self.containers.get(name) else {
            return;
        };
        let Some(init) = &container.init else {
            return;
        };
        if all && i32::from(signal) == libc::SIGKILL {
            let _ = sys::pidfd_signal(&init.pidfd, libc::SIGKILL);
        } else if all {
            let _ = rustix::io::write(&init.control, &[signal]);
        } else if let Some(main) = container.main
            && let Some(process) = self.processes.get(&main)
        {
            let _ = sys::pidfd_signal(&process.pidfd, i32::from(signal));
        }
    }

    fn process_ended(&mut self, key: u64) {
        // Both can be known at once, in any order; the report comes first.
        self.reported(key);
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        let Ok(Some((_, ended))) = sys::reap(process.pid) else {
            return;
        };
        let Some(process) = self.processes.remove(&key) else {
            return;
        };
        self.unwatch(&process.pidfd);
        let mut exit = Exit {
            code: ended.code,
            signal: ended.signal,
            oom: false,
            at: now(),
        };
        if let Some(container) = self.containers.get_mut(&process.container) {
            container.ended_cpu += ended.cpu_micros;
            let kills = container.meter.as_ref().map_or(0, Meter::oom_kills);
            exit.oom = kills > process.oom_before;
            if container.main == Some(key) {
                container.main = None;
                container.exit = Some(exit);
                let name = process.container.clone();
                self.end(&name);
            }
        }
        if let Some(connection) = process.connection {
            self.reply(connection, &Reply::Exited(exit), Vec::new());
        }
    }

    /// The init and with it everything in the container is gone.
    fn init_ended(&mut self, key: u64) {
        let Some(name) = self.by_key(key) else {
            return;
        };
        self.init_said(key);
        let members: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, process)| process.container == name)
            .map(|(key, _)| *key)
            .collect();
        for member in members {
            self.process_ended(member);
        }
        let Some(container) = self.containers.get_mut(&name) else {
            return;
        };
        let Some(init) = &container.init else {
            return;
        };
        match sys::reap(init.pid) {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(_) => {}
        }
        let init = container.init.take();
        container.root = None;
        container.proc = None;
        container.cgroup = None;
        container.procs.clear();
        container.meter = None;
        if let Some(init) = init {
            self.unwatch(&init.pidfd);
        }
        for index in 0..2 {
            self.drain(&name, index);
        }
        self.remove_cgroup(&name);
        self.publish_end(&name);
    }

    fn remove_cgroup(&mut self, name: &str) {
        let path = self.cgroup_path(name);
        if let Some(plan) = &self.parts.cgroup
            && tree::remove(plan, &path).is_err()
        {
            self.leftovers.push(path);
        }
    }

    fn publish_end(&mut self, name: &str) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        container.start = None;
        container.phase = Phase::Ended;
        let request = container.request.take();
        if let Some(request) = request {
            // It never ran: back to the attempt before.
            let failure = container.failure.take().unwrap_or_else(|| {
                Failure::new(
                    Kind::Internal,
                    "the container ended before its program was started",
                )
            });
            let previous = container.previous.take();
            match previous.and_then(|status| status.exit.map(|exit| (status, exit))) {
                Some((status, exit)) => {
                    container.attempt = status.attempt;
                    container.since = status.since;
                    container.exit = Some(exit);
                }
                None => {
                    self.containers.remove(name);
                }
            }
            return self.reply(request, &Reply::Failed(failure), Vec::new());
        }
        container.previous = None;
        container.exit.get_or_insert(Exit {
            code: 128 + libc::SIGKILL,
            signal: u8::try_from(libc::SIGKILL).ok(),
            oom: false,
            at: now(),
        });
        self.generation += 1;
    }

    // Output.

    /// Reads what a stream has, at most `most` bytes; `false` when it has ended.
    fn pump(&mut self, name: &str, index: usize, most: usize) -> bool {
        let Some(container) = self.containers.get_mut(name) else {
            return false;
        };
        let (Some(pipe), Some(log)) = (&mut container.pipes[index], &mut container.log) else {
            return false;
        };
        let mut buffer = vec![0; TURN.min(most)];
        let mut total = 0;
        let mut open = true;
        while total < most {
            match rustix::io::read(&pipe.fd, &mut buffer[..]) {
                // EIO is how a terminal says that its other end is closed.
                Ok(0) | Err(Errno::IO) => {
                    open = false;
                    break;
                }
                Ok(read) => {
                    total += read;
                    let stamp = stamp();
                    let Pipe { lines, stream, .. } = pipe;
                    lines.push(&buffer[..read], |line, partial| {
                        log.record(&stamp, stream, partial, without_return(line));
                    });
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if !open {
            let stamp = stamp();
            let Pipe { lines, stream, .. } = pipe;
            lines.finish(|line, partial| log.record(&stamp, stream, partial, without_return(line)));
        }
        log.flush();
        open
    }

    fn output(&mut self, key: u64, index: usize) {
        let Some(name) = self.by_key(key) else {
            return;
        };
        if !self.pump(&name, index, TURN) {
            self.close_pipe(&name, index);
        }
    }

    fn drain(&mut self, name: &str, index: usize) {
        if self.pump(name, index, DRAIN)
            && let Some(container) = self.containers.get_mut(name)
            && let (Some(pipe), Some(log)) = (&mut container.pipes[index], &mut container.log)
        {
            // Somebody outside still holds the other end; what is there now is all that counts.
            let stamp = stamp();
            let Pipe { lines, stream, .. } = pipe;
            lines.finish(|line, partial| log.record(&stamp, stream, partial, without_return(line)));
            log.flush();
        }
        self.close_pipe(name, index);
    }

    fn close_pipe(&mut self, name: &str, index: usize) {
        if let Some(pipe) = self
            .containers
            .get_mut(name)
            .and_then(|container| container.pipes[index].take())
        {
            self.unwatch(&pipe.fd);
        }
    }
}

/// Terminals end lines with CR LF.
fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn stamp() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    log::stamp(since.as_secs(), since.subsec_nanos())
}

/// A new terminal of the container's own `/dev/pts`: outer and inner end. The inner one is got
/// through the outer one's descriptor, not through a path that the container could change.
fn open_terminal(
    container: &Container,
    (rows, cols): (u16, u16),
) -> Result<(OwnedFd, OwnedFd), Failure> {
    let what = || root::failed("opening a terminal");
    let Some(directory) = &container.root else {
        return Err(Failure::new(Kind::NotFound, "the container is not running"));
    };
    let outer = rustix::fs::openat2(
        directory,
        "dev/pts/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(what())?;
    let stat = rustix::fs::fstat(&outer).map_err(what())?;
    if stat.st_rdev != rustix::fs::makedev(5, 2) {
        return Err(Failure::new(
            Kind::Conflict,
            "the container has replaced its /dev/pts/ptmx",
        ));
    }
    rustix::pty::unlockpt(&outer).map_err(what())?;
    let inner = rustix::pty::ioctl_tiocgptpeer(
        &outer,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .map_err(what())?;
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&outer, size).map_err(what())?;
    Ok((outer, inner))
}

/// Begins a connection from the group's network; the host waits for it.
fn dial(address: &SocketAddr) -> Result<OwnedFd, Failure> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(root::failed("opening a socket"))?;
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(Failure::new(
            Kind::Unavailable,
            format!(
                "nothing answers at {address}: {}",
                io::Error::from_raw_os_error(errno.raw_os_error())
            ),
        )),
    }
}
