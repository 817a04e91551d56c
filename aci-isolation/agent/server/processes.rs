//! Processes in containers: how they are started, and what they say at their start and their end.

use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::{Server, Source, internal, now};
use crate::cgroup::meter::Meter;
use crate::cgroup::tree;
use crate::container::{Container, Phase, Pipe, Process};
use crate::log::Lines;
use crate::process::{self, Birth, Streams};
use crate::protocol::{Exit, Failure, Kind, Program, Reply, Users};
use crate::root;
use crate::sys::{self, Forked};
use crate::users;

impl Server {
    /// Starts the container's own program.
    pub(super) fn launch(&mut self, name: &str) -> Result<(), Failure> {
        let terminal = self
            .containers
            .get_mut(name)
            .and_then(|container| container.handles.as_mut()?.terminal.take());
        let Some(container) = self.containers.get(name) else {
            return Ok(());
        };
        let Some(start) = &container.start else {
            return Ok(());
        };
        if start.program.argv.is_empty() {
            self.running(name);
            return Ok(());
        }
        // A program may open its own standard streams again by name: they belong to the group.
        let _owner = users::Owner::new(&self.parts.users);
        let null = || self.null.try_clone().map_err(internal("opening /dev/null"));
        let pipe = || -> Result<(OwnedFd, OwnedFd), Failure> {
            let (read, write) =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(root::failed("a pipe"))?;
            rustix::io::ioctl_fionbio(&read, true).map_err(root::failed("a pipe"))?;
            Ok((read, write))
        };
        let (streams, outputs) = if let Some([outer, inner]) = terminal {
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
    pub(super) fn spawn(
        &self,
        name: &str,
        program: &Program,
        streams: Streams,
    ) -> Result<Process, Failure> {
        let gone = || {
            Failure::new(
                Kind::NotFound,
                format!("the container '{name}' is not running"),
            )
        };
        let container = self.containers.get(name).ok_or_else(gone)?;
        let (Some(handles), Some(start)) = (&container.handles, &container.start) else {
            return Err(gone());
        };
        if container.init.is_none() {
            return Err(gone());
        }
        let (report, report_inner) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(root::failed("a pipe"))?;
        let birth = Birth {
            handles,
            inside: self.parts.inside.as_ref(),
            door: container.door.as_ref(),
            program,
            env: if program.env.is_empty() {
                &start.program.env
            } else {
                &program.env
            },
            rights: &start.rights,
            streams,
            limits: &start.rlimits,
            main: matches!(container.phase, Phase::Launching) || container.waits(),
            report: report_inner,
            single_user: matches!(self.parts.users, Users::Single { .. }),
        };
        // Only children are affected: the agent itself stays in its pid namespace.
        sys::setns(&handles.pids, libc::CLONE_NEWPID).map_err(|_| gone())?;
        let cloned = sys::clone(0, tree::birth(container.door.as_ref()));
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

    pub(super) fn register(&mut self, process: Process) -> Result<u64, Failure> {
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

    pub(super) fn exec(
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
            let _owner = users::Owner::new(&self.parts.users);
            let (outer, inner) = open_terminal(container, size)?;
            (Streams::Terminal(inner), Some(outer))
        } else {
            let three: [OwnedFd; 3] = fds
                .try_into()
                .map_err(|_| Failure::new(Kind::Invalid, "an exec needs three descriptors"))?;
            users::give_pipes(&self.parts.users, &three);
            (Streams::Three(three), None)
        };
        let mut process = self.spawn(name, program, streams)?;
        process.connection = Some(connection);
        process.terminal = terminal;
        self.register(process).map(drop)
    }

    /// A process became its program, or said why not.
    pub(super) fn reported(&mut self, key: u64) {
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
                if let Some(container) = self.containers.get_mut(&name)
                    && container.waits()
                {
                    container.main = Some(key);
                    container.had_main = true;
                }
                if let Some(connection) = connection {
                    let started = Reply::Started { process: key };
                    self.reply(connection, &started, terminal.into_iter().collect());
                }
            }
        }
    }

    pub(super) fn process_ended(&mut self, key: u64) {
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
}

/// A new terminal of the container's own `/dev/pts`: outer and inner end.
fn open_terminal(container: &Container, size: (u16, u16)) -> Result<(OwnedFd, OwnedFd), Failure> {
    let Some(handles) = &container.handles else {
        return Err(Failure::new(Kind::NotFound, "the container is not running"));
    };
    let [outer, inner] = root::open_terminal(&handles.root, "dev/pts/ptmx", size)?;
    Ok((outer, inner))
}
