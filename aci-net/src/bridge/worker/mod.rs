//! The one thread that changes the kernel and the journal. It takes what has queued up as one
//! batch: the intents of many attachments share a sync of the disk, and many detachments share one
//! wait of the kernel.

mod open;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use aci_core::contract::{AttachRequest, Attachment, NetworkEndpoint};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::time::Timestamp;
use ipnet::IpNet;
use tokio::sync::oneshot;

use crate::bridge::firewall::{Policy, PortKey};
use crate::bridge::host::{Host, ranges};
use crate::bridge::journal::{Header, Journal};
use crate::bridge::ledger::{ATTACH, Entry, Ledger, Phase, Record};
use crate::bridge::names::Names;
use crate::bridge::options::BridgeOptions;
use request::{listened, wish};

/// The most commands in a batch.
const BATCH: usize = 64;

/// Where an answer goes.
pub(in crate::bridge) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the thread is asked to do.
pub(in crate::bridge) enum Command {
    Attach(Box<AttachRequest>, Reply<Attachment>),
    Detach(SandboxId, Reply<()>),
    Ready(SandboxId, bool, Reply<()>),
    List(Reply<Vec<Attachment>>),
}

/// The thread's state.
pub(in crate::bridge) struct Worker {
    options: BridgeOptions,
    journal: Journal,
    header: Header,
    ledger: Ledger,
    host: Host,
    names: Names,
    /// Indexes of the links on which we switched forwarding on.
    uplinks: Vec<u32>,
}

impl Worker {
    /// Prepares what all groups share, before the first one.
    fn prepare(&mut self) -> Result<()> {
        self.host.base(&self.header.network)?;
        let wanted = self.options.outbound || !self.options.publish_on.is_empty();
        if wanted && self.host.has_firewall() && self.ledger.uplinks().is_empty() {
            let closed = self.host.closed_uplinks(&self.options.uplinks)?;
            if !closed.is_empty() {
                self.record(vec![Record::Uplinks(closed.clone())], true)?;
                // The rules that keep the host from routing for others come first.
                self.uplinks = self.host.indexes(&closed)?;
                self.enforce(ATTACH)?;
                self.host.forward_from(&closed, true)?;
            }
        }
        self.enforce(ATTACH)
    }

    /// Takes back what all groups share, after the last one.
    fn close(&mut self) -> Result<()> {
        let names = self.ledger.uplinks().to_vec();
        self.host.forward_from(&names, false)?;
        self.uplinks.clear();
        self.host.enforce("network.detach", None)?;
        if names.is_empty() {
            return Ok(());
        }
        self.record(vec![Record::Uplinks(Vec::new())], false)
    }

    /// Puts in force what the ledger says.
    fn enforce(&mut self, operation: &'static str) -> Result<()> {
        let standing = |e: &&Entry| e.phase != Phase::Leaving;
        let policy = Policy {
            group: self.names.live_group(),
            ranges: ranges(&self.header.network),
            uplinks: self.uplinks.clone(),
            outbound: self.options.outbound,
            withheld: self
                .ledger
                .entries()
                .filter(standing)
                .filter(|e| !e.ready)
                .flat_map(|e| e.attachment.addresses.iter().map(IpNet::addr))
                .collect(),
            published: self
                .ledger
                .entries()
                .filter(standing)
                .flat_map(ports)
                .collect(),
        };
        self.host.enforce(operation, Some(&policy))
    }

    /// Works until all senders are gone.
    pub(in crate::bridge) fn run(mut self, commands: &Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH {
                match commands.try_recv() {
                    Ok(command) => batch.push(command),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            self.work(batch);
            self.measure();
            if self.journal.is_long()
                && let Err(error) = self.journal.rewrite(&self.header, self.ledger.records())
            {
                tracing::error!(error = %error.chain(), "could not shorten the journal");
            }
        }
    }

    fn work(&mut self, batch: Vec<Command>) {
        let mut attaches = Vec::new();
        let mut detaches = Vec::new();
        for command in batch {
            // Commands keep their order: a run of one kind ends where another kind begins.
            if !matches!(command, Command::Attach(..)) {
                self.attach_all(std::mem::take(&mut attaches));
            }
            if !matches!(command, Command::Detach(..)) {
                self.detach_all(std::mem::take(&mut detaches));
            }
            match command {
                Command::Attach(request, reply) => attaches.push((request, reply)),
                Command::Detach(sandbox, reply) => detaches.push((sandbox, reply)),
                Command::Ready(sandbox, ready, reply) => {
                    let _ = reply.send(self.set_ready(&sandbox, ready));
                }
                Command::List(reply) => {
                    let list = self.ledger.entries().map(|e| e.attachment.clone());
                    let _ = reply.send(Ok(list.collect()));
                }
            }
        }
        self.attach_all(attaches);
        self.detach_all(detaches);
    }

    fn record(&mut self, records: Vec<Record>, sync: bool) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.journal.append(&records, sync)?;
        for record in &records {
            self.ledger
                .apply(record)
                .map_err(|why| Error::new(ErrorKind::Internal, "network.journal", why))?;
        }
        Ok(())
    }

    fn rested(&self) -> Timestamp {
        self.options.clock.now() + self.options.rest
    }

    fn attach_all(&mut self, requests: Vec<(Box<AttachRequest>, Reply<Attachment>)>) {
        let started = Instant::now();
        // Plan all, one sync for all intents, then the kernel.
        let mut planned = Vec::new();
        let mut intents = Vec::new();
        for (request, reply) in requests {
            match self.intend(&request) {
                Ok(record) => {
                    intents.extend(record);
                    planned.push((request, reply));
                }
                Err(error) => refuse(reply, error),
            }
        }
        if !intents.is_empty() {
            self.step("journal.intend");
            if let Err(error) = self.journal.append(&intents, true) {
                for record in &intents {
                    if let Record::Intend(entry) = record {
                        self.forget(&entry.attachment.sandbox);
                    }
                }
                for (_, reply) in planned {
                    let copy = Error::new(error.kind(), ATTACH, error.chain());
                    refuse(reply, copy);
                }
                return;
            }
        }
        for (request, reply) in planned {
            let result = self.attach(&request);
            match result {
                Ok(attachment) => {
                    metrics::histogram!("aci_net_attach_seconds").record(started.elapsed());
                    // A caller that is gone finds the attachment by `list`.
                    let _ = reply.send(Ok(attachment));
                }
                Err(error) => refuse(reply, error),
            }
        }
    }

    /// Plans a new attachment and applies it to the ledger; the caller writes the record. Nothing
    /// for a sandbox that has one.
    fn intend(&mut self, request: &AttachRequest) -> Result<Option<Record>> {
        let sandbox = &request.sandbox;
        let NetworkEndpoint::Namespace(_) = &request.endpoint else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                ATTACH,
                "the sandbox has no network namespace to attach to",
            )
            .on(sandbox)
            .hint("use an isolation with network namespaces, or `LoopbackNetwork`"));
        };
        if self
            .ledger
            .get(sandbox)
            .is_some_and(|e| e.phase == Phase::Leaving)
        {
            self.detach(std::slice::from_ref(sandbox))?;
        }
        if self.ledger.get(sandbox).is_some() {
            return Ok(None);
        }
        if self.ledger.len() == 0 {
            self.choose_again()?;
        }
        let network = self.header.network.clone();
        let wish = wish(request, &network, &self.names, &self.options)?;
        let published = wish.published.clone();
        let now = self.options.clock.now();
        let entry = self.ledger.plan(wish, self.options.bounds, now)?;
        published.iter().try_for_each(listened)?;
        let record = Record::Intend(Box::new(entry));
        self.ledger
            .apply(&record)
            .map_err(|why| Error::new(ErrorKind::Internal, ATTACH, why).on(sandbox))?;
        Ok(Some(record))
    }

    /// Takes back an intent that was never written.
    fn forget(&mut self, sandbox: &SandboxId) {
        let free = Record::Free(sandbox.clone(), Timestamp::EPOCH);
        let _ = self.ledger.apply(&free);
    }

    fn attach(&mut self, request: &AttachRequest) -> Result<Attachment> {
        let sandbox = &request.sandbox;
        let (NetworkEndpoint::Namespace(endpoint), Some(entry)) =
            (&request.endpoint, self.ledger.get(sandbox).cloned())
        else {
            return Err(Error::new(ErrorKind::Internal, ATTACH, "no intent").on(sandbox));
        };
        let made = self.prepare().and_then(|()| {
            self.host
                .attach(&self.header.network, &entry, endpoint.net.as_fd())
        });
        if let Err(error) = made {
            if entry.phase == Phase::Intended
                && let Err(undone) = self.detach(std::slice::from_ref(sandbox))
            {
                tracing::error!(%sandbox, error = %undone.chain(), "could not undo an attachment");
                return Err(error.applied(Applied::Partly));
            }
            return Err(error);
        }
        if entry.phase == Phase::Intended && !entry.attachment.published.is_empty() {
            let ports = ports(&entry).collect();
            self.host.forget(&BTreeSet::new(), &ports);
        }
        self.step("journal.commit");
        if entry.phase == Phase::Intended {
            self.record(vec![Record::Commit(sandbox.clone())], false)?;
        }
        Ok(entry.attachment)
    }

    fn set_ready(&mut self, sandbox: &SandboxId, ready: bool) -> Result<()> {
        match self.ledger.get(sandbox) {
            Some(entry) if entry.phase != Phase::Attached => return Ok(()),
            Some(entry) if entry.ready == ready => {}
            Some(_) => self.record(vec![Record::Ready(sandbox.clone(), ready)], false)?,
            None => return Ok(()),
        }
        self.enforce("network.set_ready")?;
        match self.ledger.get(sandbox) {
            Some(entry) => self.host.set_ready(entry),
            None => Ok(()),
        }
    }

    fn detach_all(&mut self, requests: Vec<(SandboxId, Reply<()>)>) {
        if requests.is_empty() {
            return;
        }
        let started = Instant::now();
        let sandboxes: Vec<SandboxId> = requests.iter().map(|(s, _)| s.clone()).collect();
        let together = self.detach(&sandboxes);
        for (sandbox, reply) in requests {
            // One that cannot be removed must not hold up the others.
            let result = match &together {
                Ok(()) => Ok(()),
                Err(_) => self.detach(std::slice::from_ref(&sandbox)),
            };
            metrics::histogram!("aci_net_detach_seconds").record(started.elapsed());
            let _ = reply.send(result.map_err(|e| e.applied(Applied::Partly)));
        }
    }

    fn detach(&mut self, sandboxes: &[SandboxId]) -> Result<()> {
        let mut known: Vec<SandboxId> = sandboxes
            .iter()
            .filter(|s| self.ledger.get(s).is_some())
            .cloned()
            .collect();
        known.sort();
        known.dedup();
        if known.is_empty() {
            return Ok(());
        }
        self.step("journal.leave");
        let leave = known.iter().cloned().map(Record::Leave).collect();
        self.record(leave, false)?;
        let last = known.len() == self.ledger.len();
        if last {
            self.close()?;
        } else {
            self.enforce("network.detach")?;
        }
        let entries: Vec<&Entry> = known.iter().filter_map(|s| self.ledger.get(s)).collect();
        let addresses = entries
            .iter()
            .flat_map(|e| e.attachment.addresses.iter().map(IpNet::addr))
            .collect();
        self.host
            .detach(&entries, last.then_some(&self.header.network))?;
        self.host.forget(&addresses, &BTreeMap::new());
        self.step("journal.free");
        let until = self.rested();
        let free = known.into_iter().map(|s| Record::Free(s, until)).collect();
        self.record(free, false)
    }

    fn step(&self, name: &'static str) {
        if let Some(step) = self.options.step {
            step(name);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn measure(&self) {
        metrics::gauge!("aci_net_attachments").set(self.ledger.len() as f64);
        metrics::gauge!("aci_net_addresses").set(self.ledger.addresses() as f64);
    }
}

/// The published ports of an entry and the address that they lead to.
fn ports(entry: &Entry) -> impl Iterator<Item = (PortKey, IpAddr)> {
    let to = entry.attachment.addresses.first().map(IpNet::addr);
    let ports = entry.attachment.published.iter().map(PortKey::of);
    ports.filter_map(move |port| Some((port, to?)))
}

fn refuse(reply: Reply<Attachment>, error: Error) {
    metrics::counter!("aci_net_refused_total").increment(1);
    let _ = reply.send(Err(error));
}
