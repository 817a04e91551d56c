//! Statistics read by this program itself, from descriptors that stay open: asking every agent takes
//! longer than reading the kernel's counters.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aci_core::contract::{ContainerStats, Pressure};
use rustix::event::{PollFd, PollFlags, poll};

use crate::cgroup::meter::{Meter, Reading};
use crate::cgroup::tree;
use crate::procfs;
use crate::protocol::CgroupPlan;

/// The open files of one sandbox; all handles of it share them.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Set when all containers that run are known; each start adds one.
    open: Option<Open>,
    /// How many starts there were, so that none is missed between the agent's answer and its use.
    starts: u64,
}

#[derive(Debug)]
struct Open {
    agent: OwnedFd,
    network: File,
    containers: BTreeMap<String, Meter>,
}

impl Open {
    fn new(pid: i32) -> Option<Self> {
        let process = rustix::process::Pid::from_raw(pid)?;
        let flags = rustix::process::PidfdFlags::empty();
        Some(Self {
            agent: rustix::process::pidfd_open(process, flags).ok()?,
            network: File::open(format!("/proc/{pid}/net/dev")).ok()?,
            containers: BTreeMap::new(),
        })
    }

    fn alive(&self) -> bool {
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.agent, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&now)), Ok(0))
    }
}

/// What one sandbox uses: its containers, and bytes received and sent.
pub(crate) type Use = (Vec<ContainerStats>, Option<(u64, u64)>);

impl Meters {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is used now, if these files tell; otherwise the agent has to be asked.
    pub(crate) fn read(&self) -> Option<Use> {
        let mut state = self.lock();
        let open = state.open.as_mut().filter(|open| open.alive())?;
        let mut out = Vec::with_capacity(open.containers.len());
        // The agent removes a container's cgroup before it tells of its end.
        open.containers.retain(|name, meter| {
            let reading = meter.read();
            out.extend(reading.map(|reading| stats(name, reading)));
            reading.is_some()
        });
        let mut buffer = [0; 4 * 1024];
        let network = open
            .network
            .read_at(&mut buffer, 0)
            .ok()
            .map(|read| procfs::network(&String::from_utf8_lossy(&buffer[..read])));
        Some((out, network))
    }

    /// To be taken before the agent is asked, for [`Meters::open`].
    pub(crate) fn starts(&self) -> u64 {
        self.lock().starts
    }

    /// Opens the files of all containers that run, of which the agent has told, unless others have
    /// been started since `starts` was taken; then the next time.
    pub(crate) fn open<'a>(
        &self,
        plan: &CgroupPlan,
        sandbox: &str,
        agent: i32,
        starts: u64,
        running: impl IntoIterator<Item = &'a str>,
    ) {
        let mut state = self.lock();
        if state.starts != starts {
            return;
        }
        if state.open.is_none() {
            state.open = Open::new(agent);
        }
        for name in running {
            add(&mut state, plan, sandbox, name);
        }
    }

    /// A container has been started.
    pub(crate) fn started(&self, plan: &CgroupPlan, sandbox: &str, name: &str) {
        let mut state = self.lock();
        state.starts += 1;
        add(&mut state, plan, sandbox, name);
    }
}

fn add(state: &mut State, plan: &CgroupPlan, sandbox: &str, name: &str) {
    let Some(open) = &mut state.open else {
        return;
    };
    match tree::meter(plan, &format!("{sandbox}/{name}")) {
        Some(meter) => {
            open.containers.insert(name.to_owned(), meter);
        }
        // It has ended already, or cannot be measured from here; the agent knows.
        None => state.open = None,
    }
}

/// Microseconds of waiting as the contract has them.
pub(crate) fn pressure((cpu, memory, io): (u64, u64, u64)) -> Pressure {
    let micros = std::time::Duration::from_micros;
    Pressure {
        cpu: micros(cpu),
        memory: micros(memory),
        io: micros(io),
    }
}

fn stats(name: &str, reading: Reading) -> ContainerStats {
    ContainerStats {
        name: name.to_owned(),
        cpu: std::time::Duration::from_micros(reading.cpu_micros),
        memory_bytes: reading.memory,
        memory_peak_bytes: reading.peak,
        pids: reading.pids,
        io_bytes: reading.io,
        pressure: reading.pressure.map(pressure),
        exact: true,
    }
}
