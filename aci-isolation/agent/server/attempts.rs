//! Attempts of containers, from the request to the last trace.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::{Server, Source, internal, now};
use crate::cgroup::tree;
use crate::container::{Container, Init, Phase};
use crate::init::{self, Cradle, Said};
use crate::log::Log;
use crate::ownership;
use crate::devices::{self, Gate};
use crate::protocol::{Bounds, CgroupPlan, Exit, Failure, Kind, Reply, Start, Upper, Users};
use crate::root::{self, Recipe};
use crate::sys::{self, Forked};
use crate::{holes, weak};

/// Lets a container use the default devices and those that it was given, and no others.
fn hold_devices(
    plan: &CgroupPlan,
    path: &str,
    directory: Option<&OwnedFd>,
    default: Option<&OwnedFd>,
    start: &Start,
) -> Result<(), Failure> {
    let what = || internal("holding devices back");
    let rules: Vec<devices::Rule> = devices::DEFAULT
        .into_iter()
        .chain(start.devices.iter().map(|device| device.rule))
        .collect();
    match (plan.devices, directory) {
        (Gate::Program, Some(directory)) => match default {
            Some(program) if start.devices.is_empty() => devices::attach(program, directory),
            _ => devices::load(&rules).and_then(|program| devices::attach(program, directory)),
        }
        .map_err(what()),
        (Gate::Controller, _) => {
            let base = plan.v1.iter().find(|(name, _)| name == "devices");
            let Some((_, point)) = base else {
                return Ok(());
            };
            let base = PathBuf::from(point).join(&plan.parent).join(path);
            std::fs::write(base.join("devices.deny"), "a").map_err(what())?;
            for line in devices::lines(&rules) {
                std::fs::write(base.join("devices.allow"), line).map_err(what())?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

impl Server {
    pub(super) fn start_queued(&mut self) {
        for (key, start) in std::mem::take(&mut self.queued) {
            if let Err(failure) = self.start(key, start) {
                self.reply(key, &Reply::Failed(failure), Vec::new());
            }
        }
    }

    pub(super) fn cgroup_path(&self, name: &str) -> String {
        format!("{}/{name}", self.parts.id)
    }

    pub(super) fn start(&mut self, key: u64, start: Box<Start>) -> Result<(), Failure> {
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
    pub(super) fn cradle(
        &mut self,
        start: Box<Start>,
        previous: Option<crate::protocol::Status>,
        request: u64,
    ) -> Result<Container, Failure> {
        let path = self.cgroup_path(&start.name);
        let key = self.number();
        let mut door = None;
        if let Some(plan) = &self.parts.cgroup {
            let bounds = if weak::is(holes::LIMITS) {
                Bounds::default()
            } else {
                start.bounds
            };
            tree::create(plan, &path, &bounds, true, true)
                .map_err(internal("making the container's cgroup"))?;
            let way = tree::door(plan, &path).map_err(internal("opening the container's cgroup"))?;
            let directory = door.insert(way).birth();
            if !start.rights.privileged && !weak::is(holes::DEVICES) {
                hold_devices(plan, &path, directory, self.device_program.as_ref(), &start)?;
            }
        }
        let mut mounts = Vec::new();
        for (volume, path, read_only) in &start.mounts {
            let Some(place) = self.parts.volumes.get(volume) else {
                return Err(Failure::new(
                    Kind::Invalid,
                    format!("the volume '{volume}' is not one of the sandbox's"),
                ));
            };
            let tree = root::copy_of(rustix::fs::CWD, &place.path.to_string_lossy(), true).map_err(
                root::failed(format!("copying the mount of volume '{volume}'")),
            )?;
            mounts.push((tree, path.clone(), *read_only || place.read_only));
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
                rootless: self.parts.users.rootless(),
                users: &self.parts.users,
                inside: self.parts.inside.as_ref(),
                tty_group: !matches!(self.parts.users, Users::Single { .. }),
                cgroup2: self
                    .parts
                    .cgroup
                    .as_ref()
                    .is_some_and(|plan| !plan.v2_controllers.is_empty() && plan.v1.is_empty()),
            },
            door: door.as_ref(),
            ready: ready_inner,
            control: control_inner,
        };
        let mut namespaces = libc::CLONE_NEWNS;
        if !weak::is(holes::PIDS) {
            namespaces |= libc::CLONE_NEWPID;
        }
        let (pid, pidfd) = match sys::clone(namespaces, tree::birth(door.as_ref()))
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
            handles: None,
            // The init builds its file system meanwhile.
            meter: self
                .parts
                .cgroup
                .as_ref()
                .and_then(|plan| tree::meter(plan, &path)),
            door,
            main: None,
            had_main: false,
            exit: None,
            failure: None,
            log: None,
            pipes: [None, None],
            request: Some(request),
            ended_cpu: 0,
            previous,
        })
    }

    pub(super) fn by_key(&self, key: u64) -> Option<String> {
        self.containers
            .iter()
            .find(|(_, container)| container.key == key)
            .map(|(name, _)| name.clone())
    }

    pub(super) fn init_said(&mut self, key: u64) {
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
            Said::Ready(handles) => {
                if let Some(container) = self.containers.get_mut(&name) {
                    container.handles = Some(handles);
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

    pub(super) fn running(&mut self, name: &str) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        if container.phase != Phase::Launching {
            return;
        }
        let mut bytes = container.start.as_ref().map_or(0, |start| start.log_bytes);
        if weak::is(holes::LOGS) {
            bytes = u64::MAX;
        }
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
    pub(super) fn fail(&mut self, name: &str, failure: Failure) {
        if let Some(container) = self.containers.get_mut(name) {
            container.failure.get_or_insert(failure);
        }
        self.end(name);
    }

    /// Kills everything in a container, as one act.
    pub(super) fn end(&mut self, name: &str) {
        if let Some(container) = self.containers.get_mut(name)
            && let Some(init) = &container.init
        {
            let _ = sys::pidfd_signal(&init.pidfd, libc::SIGKILL);
            container.phase = Phase::Ending;
        }
    }

    pub(super) fn signal(&mut self, name: &str, signal: u8, all: bool) {
        let Some(container) = self.containers.get(name) else {
            return;
        };
        let Some(init) = &container.init else {
            return;
        };
        if weak::is(holes::POLITE) {
            let _ = rustix::io::write(&init.control, &[15]);
        } else if all && i32::from(signal) == libc::SIGKILL {
            let _ = sys::pidfd_signal(&init.pidfd, libc::SIGKILL);
        } else if all {
            let _ = rustix::io::write(&init.control, &[signal]);
        } else if let Some(main) = container.main
            && let Some(process) = self.processes.get(&main)
        {
            let _ = sys::pidfd_signal(&process.pidfd, i32::from(signal));
        }
    }

    /// The init and with it everything in the container is gone.
    pub(super) fn init_ended(&mut self, key: u64) {
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
        let upper = container
            .start
            .as_ref()
            .map(|start| start.upper.clone());
        let init = container.init.take();
        // To close them unmounts the root file system, which takes milliseconds: after the end is
        // known.
        self.closing.extend(container.handles.take());
        container.door = None;
        container.meter = None;
        if let Some(init) = init {
            self.unwatch(&init.pidfd);
        }
        if let (Users::Ranges { .. }, Some(Upper::Directory(upper, _))) = (&self.parts.users, upper) {
            ownership::give_back(&upper);
        }
        for index in 0..2 {
            self.drain(&name, index);
        }
        self.remove_cgroup(&name);
        self.publish_end(&name);
    }

    pub(super) fn remove_cgroup(&mut self, name: &str) {
        let path = self.cgroup_path(name);
        if let Some(plan) = &self.parts.cgroup
            && tree::remove(plan, &path).is_err()
        {
            self.leftovers.push(path);
        }
    }

    pub(super) fn publish_end(&mut self, name: &str) {
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
}
