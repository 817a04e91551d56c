//! The thread that removes links and lets the kernel forget connections. The kernel waits for its
//! readers (8 to 50 ms) whenever links are removed, and walks its whole table (some milliseconds) to
//! tell which connections there are, so neither must happen where attachments are made; and what has
//! queued up meanwhile is removed as one act.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;

use super::firewall::PortKey;
use super::flows::Flows;
use super::host::{Doomed, PROTOCOL, remove};
use super::names::Names;
use super::worker::Command;
use crate::error::refused;
use crate::netlink::{Refusal, Socket};

const OPEN: &str = "network.open";

/// What is to be removed for some sandboxes, or forgotten.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) sandboxes: Vec<SandboxId>,
    pub(super) doomed: Doomed,
    /// Addresses whose connections are to be forgotten.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Ports with those whom they lead to now; what leads elsewhere is to be forgotten.
    pub(super) ports: BTreeMap<PortKey, IpAddr>,
}

/// The way to the thread; it ends with this value.
#[derive(Debug)]
pub(super) struct Sweeper {
    jobs: Sender<Job>,
}

struct Thread {
    socket: Socket,
    flows: Flows,
    names: Names,
    step: Option<fn(&'static str)>,
}

impl Sweeper {
    /// Starts the thread in the calling thread's network namespace. It answers by `back`.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) if the thread or its socket cannot be made.
    pub(super) fn start(
        names: Names,
        step: Option<fn(&'static str)>,
        back: Sender<Command>,
    ) -> Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let socket = Socket::open(PROTOCOL)
            .map_err(|e| refused(OPEN, Refusal::io("open a netlink socket", &e)))?;
        let sweeper = Thread {
            socket,
            flows: Flows::open(),
            names,
            step,
        };
        thread::Builder::new()
            .name("aci-net-sweep".to_owned())
            .spawn(move || sweeper.run(&queue, &back))
            .map_err(|e| {
                Error::new(ErrorKind::Internal, OPEN, "cannot start a thread").because(e)
            })?;
        Ok(Self { jobs })
    }

    /// Hands a job over; `false` if the thread has ended.
    pub(super) fn begin(&self, job: Job) -> bool {
        self.jobs.send(job).is_ok()
    }
}

impl Thread {
    fn run(mut self, queue: &Receiver<Job>, back: &Sender<Command>) {
        while let Ok(mut job) = queue.recv() {
            while let Ok(more) = queue.try_recv() {
                job.sandboxes.extend(more.sandboxes);
                job.doomed.extend(more.doomed);
                job.addresses.extend(more.addresses);
                job.ports.extend(more.ports);
            }
            if !job.ports.is_empty() {
                self.step("forget.ports");
                self.flows.of_ports(&job.ports);
            }
            if job.sandboxes.is_empty() {
                continue;
            }
            let result = self.work(&job);
            if back.send(Command::Swept(job.sandboxes, result)).is_err() {
                return;
            }
        }
    }

    fn step(&self, name: &'static str) {
        if let Some(step) = self.step {
            step(name);
        }
    }

    fn work(&mut self, job: &Job) -> Result<()> {
        let step = self.step;
        let step = |name| {
            if let Some(step) = step {
                step(name);
            }
        };
        remove(&mut self.socket, &self.names, &job.doomed, &step)?;
        self.step("forget");
        self.flows.of_addresses(&job.addresses);
        Ok(())
    }
}
