//! Opening: the journal is read, and the kernel made to agree with it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::NetworkCapability;
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;

use super::Worker;
use crate::bridge::choose::choose;
use crate::bridge::host::{Host, ranges};
use crate::bridge::journal::{Header, Journal, VERSION};
use crate::bridge::ledger::{Entry, Ledger, Phase, Record};
use crate::bridge::names::Names;
use crate::bridge::options::BridgeOptions;
use crate::ipam::VirtualNetwork;

/// How long opening waits for a program that is ending to let go of the directory.
const PATIENCE: Duration = Duration::from_secs(1);

impl Worker {
    /// Opens the journal and makes the kernel agree with it. Runs in the host's namespace.
    pub(in crate::bridge) fn open(
        options: BridgeOptions,
        home: Arc<OwnedFd>,
        boot: String,
    ) -> Result<Self> {
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
            version: VERSION,
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
    pub(in crate::bridge) fn capability(&self) -> NetworkCapability {
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

    /// Before the first attachment: the range must still be free. Another program may have taken it
    /// since.
    pub(super) fn choose_again(&mut self) -> Result<()> {
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
}

/// How many attachments are made.
fn attached(ledger: &Ledger) -> usize {
    ledger
        .entries()
        .filter(|e| e.phase == Phase::Attached)
        .count()
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
            ranges(kept)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            given.name()
        ),
    )
    .hint("detach them first, or open the network as it was")
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
