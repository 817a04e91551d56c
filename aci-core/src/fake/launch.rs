//! Containers and processes put on their way in a simulated sandbox.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::container::{BASE_MEMORY, Container, Launch, Memory, Streams, Work, run, work};
use super::files::{FileTree, Files, Mount, normal};
use super::lock;
use super::log::{Log, LogWriter};
use super::pipes::{HangUp, SharedWriter};
use super::process::{Cause, CpuMeter, ProcessState, lost};
use super::program::Program;
use super::sandbox::{Entry, PIPE, SandboxCore};
use crate::contract::{
    BoxRead, BoxWrite, ContainerSpec, ExecSpec, OutputStream, Process, ProcessControl, RunState,
    Signal, UserSpec,
};
use crate::error::{Error, ErrorKind, Result};

impl SandboxCore {
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
        let program = match spec.process.argv.as_slice() {
            [] => None,
            argv => Some(
                self.program("sandbox.start", argv)
                    .map_err(|e| e.on(&spec.name))?,
            ),
        };
        let mounts = self.mounts(&spec).map_err(|e| e.on(&spec.name))?;
        let user = user(&spec.process.user).map_err(|e| e.on(&spec.name))?;
        if spec.rootfs.layers.is_empty() && spec.rootfs.upper.is_none() {
            let message = "the root file system has neither layers nor a writable directory";
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
        let (waiting, handed_in) = oneshot::channel::<Work>();
        let container = Arc::new(Container {
            waiting: Mutex::new(program.is_none().then_some(waiting)),
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
        let work = match program {
            Some(program) => {
                let state = Arc::clone(&state);
                let spec = &spec.process;
                let launch = Launch {
                    program,
                    spec,
                    user,
                    streams,
                    state,
                };
                work(self, &container, launch)
            }
            None => Work(Box::pin(async move {
                match handed_in.await {
                    Ok(work) => work.0.await,
                    Err(_) => std::future::pending().await,
                }
            })),
        };
        run(self, &container, state, killed, true, work);
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
        let waiting = lock(&container.waiting).take().zip(container.main());
        let (waiting, state, killed) = match waiting {
            Some((waiting, main)) => {
                *lock(&main.terminal) = exec.process.terminal;
                (Some(waiting), main, None)
            }
            None => {
                let (state, killed) = ProcessState::new(self.id.clone(), exec.process.terminal);
                (None, state, Some(killed))
            }
        };
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
        let launch = Launch {
            program,
            spec: &exec.process,
            user,
            streams: Streams {
                stdin,
                stdout,
                stderr,
            },
            state: Arc::clone(&state),
        };
        let work = work(self, &container, launch);
        match (waiting, killed) {
            // If it has been killed meanwhile, nobody takes the work, and `state` has the end.
            (Some(waiting), _) => drop(waiting.send(work)),
            (None, Some(killed)) => {
                container.add(Arc::clone(&state));
                run(self, &container, Arc::clone(&state), killed, false, work);
            }
            (None, None) => {}
        }
        // The container or the sandbox may have ended while the process was made.
        if !container.is_running() {
            state.kill(Cause::Signal(Signal::KILL));
        }
        if self.is_gone() {
            self.die();
            return Err(lost("sandbox.exec", &self.id));
        }
        Ok(process)
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
