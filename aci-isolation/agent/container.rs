//! What the agent knows of one attempt of a container, and of one process in it.

use std::os::fd::OwnedFd;

use crate::cgroup::meter::Meter;
use crate::cgroup::tree::Door;
use crate::init::Handles;
use crate::log::{Lines, Log};
use crate::protocol::{Exit, Failure, Start, Status, Usage};

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its init builds the file system.
    Building,
    /// Its program is being executed.
    Launching,
    /// Its program runs.
    Running,
    /// It is being taken down.
    Ending,
    /// Only its status and its log are left.
    Ended,
}

/// A stream of the container's program on its way into the log.
pub(crate) struct Pipe {
    pub(crate) fd: OwnedFd,
    pub(crate) stream: &'static str,
    pub(crate) lines: Lines,
}

/// The container's init process.
pub(crate) struct Init {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Its end ends the init; a byte is a signal to everybody.
    pub(crate) control: OwnedFd,
    /// Where it says that it is ready; gone when it has said so.
    pub(crate) ready: Option<OwnedFd>,
}

/// One attempt of a container.
pub(crate) struct Container {
    pub(crate) key: u64,
    pub(crate) attempt: u32,
    pub(crate) phase: Phase,
    /// Microseconds since 1970.
    pub(crate) since: u64,
    /// What was asked for; gone when it has ended, with the secrets in it.
    pub(crate) start: Option<Box<Start>>,
    pub(crate) init: Option<Init>,
    pub(crate) handles: Option<Handles>,
    pub(crate) meter: Option<Meter>,
    /// The way into its cgroup.
    pub(crate) door: Option<Door>,
    pub(crate) main: Option<u64>,
    /// Whether a container that waited for its program got one.
    pub(crate) had_main: bool,
    pub(crate) exit: Option<Exit>,
    pub(crate) failure: Option<Failure>,
    pub(crate) log: Option<Log>,
    pub(crate) pipes: [Option<Pipe>; 2],
    /// The connection that waits for the start.
    pub(crate) request: Option<u64>,
    /// CPU time of ended processes that the agent waited for.
    pub(crate) ended_cpu: u64,
    /// The attempt before, to go back to when this one cannot be started.
    pub(crate) previous: Option<Status>,
}

impl Container {
    /// Whether its program is still to come, by an exec.
    pub(crate) fn waits(&self) -> bool {
        let without = |start: &Start| start.program.argv.is_empty();
        !self.had_main && self.start.as_deref().is_some_and(without)
    }

    /// The status that hosts see, if this name was ever started.
    pub(crate) fn status(&self, name: &str) -> Option<Status> {
        match self.phase {
            Phase::Building | Phase::Launching => self.previous.clone(),
            Phase::Running => Some(self.status_with(name, None)),
            Phase::Ending if self.failure.is_some() || self.request.is_some() => {
                self.previous.clone()
            }
            Phase::Ending => Some(self.status_with(name, None)),
            Phase::Ended => Some(self.status_with(name, self.exit)),
        }
    }

    fn status_with(&self, name: &str, exit: Option<Exit>) -> Status {
        Status {
            name: name.to_owned(),
            attempt: self.attempt,
            since: self.since,
            exit,
        }
    }

    /// What it uses, from its cgroup or, without one, from its own `/proc`.
    pub(crate) fn usage(&self, name: &str) -> Usage {
        let name = name.to_owned();
        if let Some(meter) = &self.meter {
            let reading = meter.read().unwrap_or_default();
            return Usage {
                name,
                cpu_micros: reading.cpu_micros,
                memory: reading.memory,
                peak: reading.peak,
                pids: reading.pids,
                io: reading.io,
                pressure: reading.pressure,
                exact: true,
            };
        }
        let mut usage = Usage {
            name,
            cpu_micros: self.ended_cpu,
            ..Usage::default()
        };
        let Some(proc) = self.handles.as_ref().map(|handles| &handles.proc) else {
            return usage;
        };
        let tick = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let page = rustix::param::page_size() as u64;
        let Ok(entries) = rustix::fs::openat(
            proc,
            ".",
            rustix::fs::OFlags::RDONLY
                | rustix::fs::OFlags::DIRECTORY
                | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .and_then(rustix::fs::Dir::new) else {
            return usage;
        };
        for entry in entries.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|text| text.parse::<i32>().ok())
            else {
                continue;
            };
            let Some((ticks, threads, pages)) = stat_of(proc, pid) else {
                continue;
            };
            usage.cpu_micros += ticks * tick;
            // The container's own init is not the user's.
            if pid != 1 {
                usage.memory += pages * page;
                usage.pids += threads;
            }
        }
        usage
    }
}

fn stat_of(proc: &OwnedFd, pid: i32) -> Option<(u64, u64, u64)> {
    let file = rustix::fs::openat(
        proc,
        format!("{pid}/stat"),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .ok()?;
    let mut buffer = [0; 2048];
    let read = rustix::io::read(&file, &mut buffer[..]).ok()?;
    crate::procfs::usage(&String::from_utf8_lossy(&buffer[..read]))
}

/// A process that the agent started in a container: its own or one of an exec.
pub(crate) struct Process {
    pub(crate) container: String,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Where it reports why it could not become its program; gone when that is known.
    pub(crate) report: Option<OwnedFd>,
    /// The connection of its exec, to be told of its start and its end.
    pub(crate) connection: Option<u64>,
    /// The terminal's outer end, for the connection.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) oom_before: u64,
}
