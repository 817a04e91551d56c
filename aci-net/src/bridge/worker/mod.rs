//! The one thread that changes the kernel and the journal. It takes what has queued up as one
//! batch: many attachments share one change of the rules, and many detachments one wait of the kernel.

mod configure;
mod naming;
mod open;
mod request;

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use aci_core::contract::{AttachRequest, Attachment, NetworkEndpoint};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::time::Timestamp;
use ipnet::IpNet;
use tokio::sync::oneshot;

use crate::bridge::firewall::{Elements, Rules};
use crate::bridge::host::{DETACH, Host};
use crate::bridge::journal::{Header, Journal};
use crate::bridge::ledger::{ATTACH, Entry, Ledger, Phase, Record};
use crate::bridge::names::Names;
use crate::bridge::options::BridgeOptions;
use crate::bridge::policy::{elements, followed_ports};
use crate::bridge::report::NetworkReport;
use crate::bridge::sweeper::{Job, Sweeper};
use crate::dns::Server;
use crate::ipam::{Family, VirtualNetwork};
use crate::resolv::HostFile;
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
    /// Who has an address.
    Owner(IpAddr, Reply<Option<SandboxId>>),
    /// A listener for the metadata service.
    Metadata(Reply<TcpListener>),
    Configure(Vec<VirtualNetwork>, Reply<()>),
    Report(Reply<NetworkReport>),
    /// Removes what belongs to no attachment.
    Sweep(Reply<usize>),
    /// The sweeper has removed what there was of these, or could not.
    Swept(Vec<SandboxId>, Result<()>),
    /// Nobody asks any more.
    Close,
}

/// The thread's state.
pub(in crate::bridge) struct Worker {
    /// Before the journal: its sockets are closed before another program may open that.
    server: Server,
    options: BridgeOptions,
    /// What the host's own resolver is told.
    resolv: HostFile,
    journal: Journal,
    header: Header,
    ledger: Ledger,
    host: Host,
    names: Names,
    sweeper: Sweeper,
    /// Indexes of the links on which we switched forwarding on.
    uplinks: Vec<(Family, u32)>,
    /// Whether the rules in force are those of the configuration.
    in_force: bool,
    /// The port of the metadata service.
    metadata: Option<u16>,
    /// Sandboxes that the sweeper is at work on, with those who wait for it.
    sweeping: BTreeMap<SandboxId, Vec<Reply<()>>>,
    /// What all groups share is being removed.
    closing: bool,
    /// Attachments that wait for the sweeper.
    held: Vec<(Box<AttachRequest>, Reply<Attachment>)>,
}

impl Worker {
    /// Prepares what all groups share, before the first one.
    fn prepare(&mut self) -> Result<()> {
        self.host.base(&self.header.networks)?;
        if self.in_force {
            return Ok(());
        }
        self.open_uplinks()?;
        self.enforce(ATTACH)
    }

    /// Puts in force what the ledger says.
    fn enforce(&mut self, operation: &'static str) -> Result<()> {
        let rules = Rules {
            group: self.names.live_group(),
            networks: self.header.networks.clone(),
            uplinks: self.uplinks.clone(),
            outbound: self.options.outbound,
            names: self.options.names,
            metadata: self.metadata,
        };
        let mut all = Elements::default();
        for entry in self.ledger.entries() {
            if entry.phase != Phase::Leaving {
                all.extend(self.elements(entry));
            }
        }
        let gateways = self.host.guarded_gateways(&self.header.networks);
        all.guarded.extend(gateways);
        self.host.enforce(operation, Some((&rules, &all)))?;
        self.in_force = true;
        Ok(())
    }

    fn elements(&self, entry: &Entry) -> Elements {
        elements(entry, &self.names, |a| self.host.guards(a))
    }

    /// Changes elements of the rules in force; makes them anew if somebody else changed them.
    fn change(&mut self, operation: &'static str, out: &Elements, into: &Elements) -> Result<()> {
        if self.in_force && self.host.change(operation, out, into)? {
            return Ok(());
        }
        self.enforce(operation)
    }

    /// Works until nobody asks any more, and what was begun is done.
    pub(in crate::bridge) fn run(mut self, commands: &Receiver<Command>) {
        let mut open = true;
        while open || !self.sweeping.is_empty() {
            let Ok(first) = commands.recv() else { return };
            let mut batch = vec![first];
            while batch.len() < BATCH {
                match commands.try_recv() {
                    Ok(command) => batch.push(command),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            open &= !batch.iter().any(|c| matches!(c, Command::Close));
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
                Command::Owner(address, reply) => {
                    let has = |e: &&Entry| e.all_addresses().any(|a| a == address);
                    let owner = self.ledger.entries().find(has);
                    let _ = reply.send(Ok(owner.map(|e| e.attachment.sandbox.clone())));
                }
                Command::Metadata(reply) => {
                    let _ = reply.send(self.listen());
                }
                Command::Configure(networks, reply) => {
                    let configured = self.configure(networks);
                    if self.ledger.len() > 0 {
                        let _ = self.serve_names();
                        self.publish_names();
                    }
                    let _ = reply.send(configured);
                }
                Command::Report(reply) => {
                    let _ = reply.send(self.report());
                }
                Command::Sweep(reply) => {
                    let _ = reply.send(self.sweep());
                }
                Command::Swept(sandboxes, result) => self.swept(sandboxes, result),
                Command::Close => {}
            }
        }
        self.attach_all(attaches);
        self.detach_all(detaches);
    }

    fn record(&mut self, records: Vec<Record>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.journal.append(&records)?;
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
        // Plan all, one write for all intents, then the kernel.
        let mut planned = Vec::new();
        let mut intents = Vec::new();
        for (request, reply) in requests {
            if self.closing || self.sweeping.contains_key(&request.sandbox) {
                self.held.push((request, reply));
                continue;
            }
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
            if let Err(error) = self.journal.append(&intents) {
                for record in &intents {
                    if let Record::Intend(entry) = record {
                        self.forget(&entry.attachment.sandbox);
                    }
                }
                for (_, reply) in planned {
                    refuse(reply, copy(&error, ATTACH));
                }
                return;
            }
        }
        if planned.is_empty() {
            return;
        }
        // Before the first group the zone is without ranges, or those of an earlier configuration.
        if self.ledger.len() == planned.len() {
            self.publish_names();
        } else {
            self.add_names(planned.iter().map(|(request, _)| &request.sandbox));
        }
        // The rules know all of them before the first link is made, in one change.
        let mut new = Elements::default();
        for (request, _) in &planned {
            if let Some(entry) = self.ledger.get(&request.sandbox) {
                new.extend(self.elements(entry));
            }
        }
        let ruled = self
            .prepare()
            .and_then(|()| self.change(ATTACH, &Elements::default(), &new));
        if let Err(error) = ruled {
            for (request, reply) in planned {
                self.give_up(&request.sandbox);
                refuse(reply, copy(&error, ATTACH));
            }
            return;
        }
        // From here on new packets find the way; of flows that go on, the kernel must be told.
        let taken = planned
            .iter()
            .filter_map(|(r, _)| self.ledger.get(&r.sandbox));
        let taken: BTreeMap<_, _> = taken.flat_map(followed_ports).collect();
        if !taken.is_empty() {
            let job = Job {
                ports: taken,
                ..Job::default()
            };
            if !self.sweeper.begin(job) {
                tracing::error!("the thread that forgets connections has ended");
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
            return Err(Error::new(
                ErrorKind::Conflict,
                ATTACH,
                "an earlier attachment of the sandbox could not be removed",
            )
            .on(sandbox)
            .hint("detach it again"));
        }
        if self.ledger.get(sandbox).is_some() {
            return Ok(None);
        }
        if self.ledger.len() == 0 {
            self.choose_again()?;
        }
        let naming = self.serve_names();
        let networks = &self.header.networks;
        let (names, options, resolv) = (&self.names, &self.options, &mut self.resolv);
        let wish = wish(request, networks, names, options, resolv, &naming)?;
        let published = wish.published.clone();
        let now = self.options.clock.now();
        let entry = self.ledger.plan(wish, self.options.bounds, now)?;
        for port in &published {
            listened(port, || self.host.addresses_of_others())?;
        }
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
        let networks = &self.header.networks;
        let made = self.host.attach(networks, &entry, endpoint.net.as_fd());
        if let Err(error) = made {
            if entry.phase == Phase::Intended && !self.give_up(sandbox) {
                return Err(error.applied(Applied::Partly));
            }
            return Err(error);
        }
        self.step("journal.commit");
        if entry.phase == Phase::Intended {
            self.record(vec![Record::Commit(sandbox.clone())])?;
        }
        Ok(entry.attachment)
    }

    /// Takes back an attachment that was intended; `false` if something may be left of it.
    fn give_up(&mut self, sandbox: &SandboxId) -> bool {
        let Some(entry) = self.ledger.get(sandbox).cloned() else {
            return true;
        };
        if entry.phase != Phase::Intended {
            return true;
        }
        let mut undo = || {
            self.record(vec![Record::Leave(sandbox.clone())])?;
            self.remove_names([sandbox]);
            self.host.undo(&entry)?;
            let out = self.elements(&entry);
            if self.ledger.entries().all(|e| e.phase == Phase::Leaving) {
                self.close()?;
                let doomed = self.host.doomed(&[], Some(&self.header.networks));
                self.host.remove_now(&doomed)?;
                self.host.unbase();
            } else if self.in_force {
                self.change(DETACH, &out, &Elements::default())?;
            }
            self.record(vec![Record::Free(sandbox.clone(), self.rested())])
        };
        match undo() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%sandbox, error = %error.chain(), "could not undo an attachment");
                false
            }
        }
    }

    fn set_ready(&mut self, sandbox: &SandboxId, ready: bool) -> Result<()> {
        const READY: &str = "network.set_ready";
        match self.ledger.get(sandbox) {
            Some(entry) if entry.phase == Phase::Attached && entry.ready != ready => {}
            _ => return Ok(()),
        }
        self.record(vec![Record::Ready(sandbox.clone(), ready)])?;
        let Some(entry) = self.ledger.get(sandbox).cloned() else {
            return Ok(());
        };
        let own = entry.attachment.addresses.iter().map(IpNet::addr);
        let changed = Elements {
            withheld: own.collect(),
            ..Elements::default()
        };
        let none = Elements::default();
        if ready {
            self.change(READY, &changed, &none)?;
        } else {
            self.change(READY, &none, &changed)?;
        }
        self.host.set_ready(&entry)
    }

    fn detach_all(&mut self, requests: Vec<(SandboxId, Reply<()>)>) {
        let mut replies: BTreeMap<SandboxId, Vec<Reply<()>>> = BTreeMap::new();
        for (sandbox, reply) in requests {
            if let Some(waiting) = self.sweeping.get_mut(&sandbox) {
                waiting.push(reply);
            } else if self.ledger.get(&sandbox).is_none() {
                let _ = reply.send(Ok(()));
            } else {
                replies.entry(sandbox).or_default().push(reply);
            }
        }
        if replies.is_empty() {
            return;
        }
        let sandboxes: Vec<SandboxId> = replies.keys().cloned().collect();
        match self.detach(&sandboxes) {
            Ok(()) => self.sweeping.extend(replies),
            Err(error) => {
                for reply in replies.into_values().flatten() {
                    let _ = reply.send(Err(copy(&error, DETACH).applied(Applied::Partly)));
                }
            }
        }
    }

    /// Closes what leads to sandboxes and hands their links to the sweeper.
    fn detach(&mut self, sandboxes: &[SandboxId]) -> Result<()> {
        self.step("journal.leave");
        let leave = sandboxes.iter().cloned().map(Record::Leave).collect();
        self.record(leave)?;
        self.remove_names(sandboxes);
        let entries: Vec<Entry> = sandboxes
            .iter()
            .filter_map(|s| self.ledger.get(s).cloned())
            .collect();
        let last = self.ledger.entries().all(|e| e.phase == Phase::Leaving);
        if last {
            self.close()?;
        } else {
            let mut out = Elements::default();
            for entry in &entries {
                out.extend(self.elements(entry));
            }
            self.change(DETACH, &out, &Elements::default())?;
            for entry in &entries {
                self.host.answer_for(entry, false)?;
            }
        }
        let all: Vec<&Entry> = entries.iter().collect();
        let job = Job {
            sandboxes: sandboxes.to_vec(),
            doomed: self
                .host
                .doomed(&all, last.then_some(&self.header.networks[..])),
            addresses: entries.iter().flat_map(Entry::all_addresses).collect(),
            ports: BTreeMap::new(),
        };
        if last {
            self.host.unbase();
        }
        if !self.sweeper.begin(job) {
            return Err(Error::new(
                ErrorKind::Internal,
                DETACH,
                "the thread that removes links has ended",
            )
            .hint("open the network again; it mends itself"));
        }
        self.closing |= last;
        Ok(())
    }

    /// The sweeper is done with these.
    fn swept(&mut self, sandboxes: Vec<SandboxId>, result: Result<()>) {
        self.step("journal.free");
        let until = self.rested();
        let result = result.and_then(|()| {
            let free = sandboxes.iter().map(|s| Record::Free(s.clone(), until));
            self.record(free.collect())
        });
        for sandbox in &sandboxes {
            for reply in self.sweeping.remove(sandbox).into_iter().flatten() {
                let copied = match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(copy(error, DETACH).applied(Applied::Partly)),
                };
                let _ = reply.send(copied);
            }
        }
        if self.sweeping.is_empty() {
            self.closing = false;
        }
        let held = std::mem::take(&mut self.held);
        self.attach_all(held);
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

/// The same error for another of those who share its cause.
fn copy(error: &Error, operation: &'static str) -> Error {
    Error::new(error.kind(), operation, error.chain())
}

fn refuse(reply: Reply<Attachment>, error: Error) {
    metrics::counter!("aci_net_refused_total").increment(1);
    let _ = reply.send(Err(error));
}
