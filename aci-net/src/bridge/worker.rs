//! The one thread that changes the kernel and the journal. It takes what has queued up as one
//! batch: the intents of many attachments share a sync of the disk, and many detachments share one
//! wait of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use aci_core::contract::{
    AttachRequest, Attachment, NetworkCapability, NetworkEndpoint, PublishedPort,
};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::{IpAddressType, Protocol};
use tokio::sync::oneshot;

use super::choose::choose;
use super::firewall::{Policy, PortKey};
use super::host::Host;
use super::journal::{Header, Journal};
use super::ledger::{ATTACH, Entry, Ledger, Phase, Record, Wish, port_taken};
use super::names::Names;
use super::options::BridgeOptions;
use crate::ipam::VirtualNetwork;
use crate::resolv;

/// The most commands in a batch.
const BATCH: usize = 64;

/// How long opening waits for a program that is ending to let go of the directory.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the thread is asked to do.
pub(super) enum Command {
    Attach(Box<AttachRequest>, Reply<Attachment>),
    Detach(SandboxId, Reply<()>),
    Ready(SandboxId, bool, Reply<()>),
    List(Reply<Vec<Attachment>>),
}

/// The thread's state.
pub(super) struct Worker {
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
    /// Opens the journal and makes the kernel agree with it. Runs in the host's namespace.
    pub(super) fn open(options: BridgeOptions, home: Arc<OwnedFd>, boot: String) -> Result<Self> {
        let (mut journal, found) = Journal::open(&options.directory, PATIENCE)?;
        let instance = match &found {
            Some((header, _)) => header.instance.clone(),
            None => random()?,
        };
        let names = Names::new(&instance);
        let mut host = Host::open(home, names.clone(), options.firewall, options.step)?;
        host.check_rights()?;
        let mut routes = host.routes()?;
        host.choose_mtu(options.mtu, &routes)?;
        routes.retain(|r| !names.owns_route(r));
        let (network, records) = match found {
            Some((header, records)) if header.boot == boot => (header.network, records),
            // Another boot: nothing of what the records tell is there any more.
            Some((header, _)) => (header.network, Vec::new()),
            None => (choose(options.network.as_ref(), None, &routes)?, Vec::new()),
        };
        let ledger = replay(&network, &records)?;
        if attached(&ledger) > 0
            && let Some(given) = options.network.as_ref().filter(|given| **given != network)
        {
            return Err(other_network(given, &network, attached(&ledger)));
        }
        let header = Header {
            version: super::journal::VERSION,
            instance,
            boot,
            network,
        };
        journal.rewrite(&header, ledger.records())?;
        let mut worker = Self {
            options,
            journal,
            header,
            ledger,
            host,
            names,
            uplinks: Vec::new(),
        };
        worker.mend()?;
        if worker.ledger.len() == 0 {
            worker.choose_again()?;
        }
        Ok(worker)
    }

    /// What the driver can do here, and what would bring the rest.
    pub(super) fn capability(&self) -> NetworkCapability {
        let firewall = self.host.has_firewall();
        let publish = firewall && !self.options.publish_on.is_empty();
        let outbound = firewall && self.options.outbound;
        let mut missing = Vec::new();
        if !firewall {
            missing.push("the kernel's firewall cannot be used, so groups do not reach the internet, ports are not published, and a group that is not ready cannot send to the outside either: the kernel needs CONFIG_NF_TABLES with NF_TABLES_INET, NFT_NAT, NFT_MASQ, NFT_CT, NFT_FIB_INET and NFT_REJECT".to_owned());
        } else if publish {
            missing.push("published ports do not answer on the host's loopback (127.0.0.1): use another address of the host, or the group's".to_owned());
        } else {
            missing.push("ports are not published on the host: reach a group by its own address, or choose addresses of the host by `BridgeOptions::publish_on`".to_owned());
        }
        if firewall && !outbound {
            missing.push(
                "groups do not reach the internet: `BridgeOptions::outbound` is off".to_owned(),
            );
        }
        missing.push("dnsNameLabel gets no name, and ipAddress.fqdn stays empty: no name server is part of this driver; use the group's address".to_owned());
        let six = "/proc/sys/net/ipv6/conf/default/force_forwarding";
        missing.push(if std::path::Path::new(six).exists() {
            "the internet is reached by IPv4 only; IPv6 leads to the host and to other groups".to_owned()
        } else {
            "IPv6 leads to the host only: groups reach each other by it on Linux 6.17 and later, which forward it by link".to_owned()
        });
        NetworkCapability {
            name: "bridge".to_owned(),
            addresses: true,
            publish,
            outbound,
            names: false,
            missing,
        }
    }

    /// Undoes what was half made, finishes what was half removed, and removes what no record tells
    /// of.
    fn mend(&mut self) -> Result<()> {
        let half: Vec<SandboxId> = self
            .ledger
            .entries()
            .filter(|e| e.phase != Phase::Attached)
            .map(|e| e.attachment.sandbox.clone())
            .collect();
        let kept: Vec<&Entry> = self
            .ledger
            .entries()
            .filter(|e| e.phase == Phase::Attached)
            .collect();
        let alone = kept.is_empty();
        let removed = self.host.sweep(&self.header.network, &kept)?;
        let mut records = Vec::new();
        for sandbox in &half {
            records.push(Record::Leave(sandbox.clone()));
            records.push(Record::Free(sandbox.clone(), self.rested()));
        }
        self.record(records, false)?;
        if alone {
            self.close()?;
        } else {
            let names = self.ledger.uplinks().to_vec();
            self.uplinks = self.host.forward_from(&names, true)?;
            self.enforce("network.open")?;
        }
        if removed + half.len() > 0 {
            tracing::info!(removed, half_done = half.len(), "mended the network");
            metrics::counter!("aci_net_mended_total").increment((removed + half.len()) as u64);
        }
        self.measure();
        Ok(())
    }

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
            ranges: super::host::ranges(&self.header.network),
            uplinks: self.uplinks.clone(),
            outbound: self.options.outbound,
            withheld: self
                .ledger
                .entries()
                .filter(standing)
                .filter(|e| !e.ready)
                .flat_map(|e| e.attachment.addresses.iter().map(ipnet::IpNet::addr))
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
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
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

    fn rested(&self) -> aci_core::time::Timestamp {
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

    /// Before the first attachment: the range must still be free. Another program may have taken it
    /// since.
    fn choose_again(&mut self) -> Result<()> {
        let mut routes = self.host.routes()?;
        routes.retain(|r| !self.names.owns_route(r));
        let given = self.options.network.as_ref();
        let network = choose(given, Some(&self.header.network), &routes)?;
        if network != self.header.network {
            self.header.network = network;
            self.ledger = Ledger::new(&self.header.network);
            self.journal.rewrite(&self.header, Vec::new())?;
        }
        Ok(())
    }

    /// Takes back an intent that was never written.
    fn forget(&mut self, sandbox: &SandboxId) {
        let free = Record::Free(sandbox.clone(), aci_core::time::Timestamp::EPOCH);
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
            Some(entry) if entry.phase == Phase::Attached && entry.ready != ready => {}
            _ => return Ok(()),
        }
        self.record(vec![Record::Ready(sandbox.clone(), ready)], false)?;
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
            .flat_map(|e| e.attachment.addresses.iter().map(ipnet::IpNet::addr))
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
    let to = entry.attachment.addresses.first().map(ipnet::IpNet::addr);
    let ports = entry.attachment.published.iter().map(PortKey::of);
    ports.filter_map(move |port| Some((port, to?)))
}

/// How many attachments are made.
fn attached(ledger: &Ledger) -> usize {
    ledger
        .entries()
        .filter(|e| e.phase == Phase::Attached)
        .count()
}

fn refuse(reply: Reply<Attachment>, error: Error) {
    metrics::counter!("aci_net_refused_total").increment(1);
    let _ = reply.send(Err(error));
}

fn replay(network: &VirtualNetwork, records: &[Record]) -> Result<Ledger> {
    let mut ledger = Ledger::new(network);
    for (at, record) in records.iter().enumerate() {
        ledger.apply(record).map_err(|why| {
            Error::new(
                ErrorKind::Corrupt,
                "network.journal",
                format!(
                    "record {} does not follow from those before it: {why}",
                    at + 1
                ),
            )
        })?;
    }
    Ok(ledger)
}

fn other_network(given: &VirtualNetwork, kept: &VirtualNetwork, groups: usize) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "network.open",
        format!(
            "{groups} groups are attached to virtual network '{}' ({}), and '{}' is another one",
            kept.name(),
            super::host::ranges(kept)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            given.name()
        ),
    )
    .hint("detach them first, or open the network as it was")
}

/// Refuses a port that a program of the host listens on: it would lose it without notice.
fn listened(port: &PublishedPort) -> Result<()> {
    let address = SocketAddr::new(port.address, port.port);
    let tried = if port.protocol == Protocol::Udp {
        UdpSocket::bind(address).map(drop)
    } else {
        TcpListener::bind(address).map(drop)
    };
    match tried {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(port_taken(port, "a program of the host listens on it"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            Err(port_taken(port, "the host does not have this address"))
        }
        _ => Ok(()),
    }
}

/// 64 random bits as text.
fn random() -> Result<String> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|e| {
                    Error::new(ErrorKind::Internal, "network.open", "no random numbers").because(e)
                })?;
    }
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// What a request means: the subnet, a fixed address, and what the containers are told.
fn wish<'a>(
    request: &'a AttachRequest,
    network: &'a VirtualNetwork,
    names: &Names,
    options: &BridgeOptions,
) -> Result<Wish<'a>> {
    let invalid =
        |message: String| Error::new(ErrorKind::Invalid, ATTACH, message).on(&request.sandbox);
    let subnet = match request.subnets.as_slice() {
        [] => &network.subnets()[0],
        [id] => network.find(id).ok_or_else(|| {
            let known: Vec<String> = network
                .subnets()
                .iter()
                .map(|s| format!("{}/{}", network.name(), s.name()))
                .collect();
            invalid(format!(
                "subnetIds: '{id}' is unknown here; there is {}",
                known.join(", ")
            ))
            .hint("open the network with this subnet (`BridgeOptions::network`)")
        })?,
        more => {
            return Err(invalid(format!(
                "subnetIds has {} entries: a group is in one subnet",
                more.len()
            )));
        }
    };
    let private = |type_: &IpAddressType| *type_ == IpAddressType::Private;
    // The address of a public type is given by the platform; a document that has one was exported.
    let fixed = request
        .ip_address
        .as_ref()
        .filter(|a| private(&a.type_))
        .and_then(|a| a.ip.as_deref())
        .map(|text| {
            text.parse()
                .map_err(|_| invalid(format!("ipAddress.ip: '{text}' is not an IP address")))
        })
        .transpose()?;
    let dns = match &request.dns {
        Some(dns) => resolv::from_document(dns)?,
        None => std::fs::read_to_string(&options.resolv_conf)
            .map(|text| resolv::from_host(&text))
            .unwrap_or_default(),
    };
    let public = request
        .ip_address
        .as_ref()
        .filter(|a| !private(&a.type_) && !options.publish_on.is_empty());
    let published = public
        .into_iter()
        .flat_map(|a| &a.ports)
        .flat_map(|port| {
            options.publish_on.iter().map(|address| PublishedPort {
                protocol: port.protocol.clone().unwrap_or(Protocol::Tcp),
                address: *address,
                port: port.port,
            })
        })
        .collect();
    Ok(Wish {
        published,
        sandbox: &request.sandbox,
        link: names.link(&request.sandbox),
        subnet,
        fixed,
        shown: request.ip_address.is_some(),
        dns,
    })
}
