//! Opening: the journal is read, and the kernel made to agree with it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use aci_core::contract::NetworkCapability;
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;

use super::configure::moved;
use super::{Command, Worker};
use crate::bridge::choose::choose;
use crate::bridge::flows::Flows;
use crate::bridge::host::{Host, ranges};
use crate::bridge::journal::{Header, Journal, VERSION};
use crate::bridge::ledger::{Entry, Ledger, Phase, Record};
use crate::bridge::names::Names;
use crate::bridge::options::BridgeOptions;
use crate::bridge::policy::followed_ports;
use crate::bridge::sweeper::Sweeper;
use crate::dns::{Server, Settings};
use crate::ipam::{Family, PublicPool, VirtualNetwork, check_together, local_v6};
use crate::resolv::HostFile;

/// How long opening waits for a program that is ending to let go of the directory.
const PATIENCE: Duration = Duration::from_secs(1);

impl Worker {
    /// Opens the journal and makes the kernel agree with it. Runs in the host's namespace; `back`
    /// leads to this worker.
    pub(in crate::bridge) fn open(
        options: BridgeOptions,
        home: Arc<OwnedFd>,
        boot: String,
        back: Sender<Command>,
    ) -> Result<Self> {
        if let Some(networks) = &options.networks {
            check_together(networks)?;
        }
        let (mut journal, found) = Journal::open(&options.directory, PATIENCE, &boot)?;
        let instance = match &found {
            Some((header, _)) => header.instance.clone(),
            None => random()?,
        };
        let names = Names::new(&instance);
        let mut host = Host::open(home, names.clone(), options.firewall, options.step)?;
        host.check_rights()?;
        let routes = host.foreign_routes()?;
        host.choose_mtu(options.mtu, &routes)?;
        host.learn_addresses()?;
        let given = options.networks.as_deref();
        let (kept, records) = match found {
            Some((header, records)) => (Some(header.networks), records),
            None => (None, Vec::new()),
        };
        let standing = match &kept {
            Some(networks) => replay(networks, &options, &records)?,
            None => Ledger::new(&[], PublicPool::default()),
        };
        let attached = |e: &&Entry| e.phase == Phase::Attached;
        let networks = match (kept, given) {
            // Groups are attached: their subnets stay, everything else may be new.
            (Some(_), Some(given)) if standing.entries().any(|e| attached(&e)) => {
                let lost = standing.entries().filter(attached).find(|e| !e.fits(given));
                if let Some(entry) = lost {
                    return Err(moved(entry, given));
                }
                given.to_vec()
            }
            (Some(kept), None) => kept,
            (kept, given) => choose(given, kept.as_deref(), &routes, local_v6(&instance))?,
        };
        // What was half done may be of a subnet that is no more; it is mended below.
        let (half, whole): (Vec<Entry>, Vec<Entry>) = standing
            .entries()
            .cloned()
            .partition(|e| e.phase != Phase::Attached && !e.fits(&networks));
        let mut records = standing.records();
        records.retain(|r| match r {
            Record::Intend(entry) => whole.contains(entry),
            _ => true,
        });
        let ledger = replay(&networks, &options, &records)?;
        let header = Header {
            version: VERSION,
            instance,
            boot,
            networks,
        };
        journal.rewrite(&header, ledger.records())?;
        let sweeper = Sweeper::start(names.clone(), options.step, back)?;
        let server = Server::new(Settings {
            zone: options.zone.clone(),
            upstreams: options.name_servers.clone(),
            resolv_conf: options.resolv_conf.clone(),
        });
        let mut worker = Self {
            server,
            resolv: HostFile::new(options.resolv_conf.clone()),
            options,
            journal,
            header,
            ledger,
            host,
            names,
            sweeper,
            uplinks: Vec::new(),
            in_force: false,
            metadata: None,
            sweeping: BTreeMap::new(),
            closing: false,
            held: Vec::new(),
        };
        worker.mend(half.len())?;
        if worker.ledger.len() == 0 {
            worker.choose_again()?;
        }
        Ok(worker)
    }

    /// What the driver can do here, and what would bring the rest.
    pub(in crate::bridge) fn capability(&self) -> NetworkCapability {
        let firewall = self.host.has_firewall();
        let publish =
            firewall && !(self.options.publish_on.is_empty() && self.options.public.is_empty());
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
        if self.options.names {
            missing.push(format!(
                "names in {} are known to groups and to who asks the subnets' gateways, not to the internet, and are answered while a program has the network open",
                self.options.zone
            ));
        } else {
            missing.push("dnsNameLabel gets no name, and ipAddress.fqdn stays empty: `BridgeOptions::names` is off".to_owned());
        }
        let six = "/proc/sys/net/ipv6/conf/default/force_forwarding";
        let has_six = ranges(&self.header.networks)
            .iter()
            .any(|r| r.addr().is_ipv6());
        if !has_six {
            missing.push("groups have no IPv6 address: give the host a default route for IPv6, or the network an IPv6 range".to_owned());
        } else if !std::path::Path::new(six).exists() {
            missing.push("IPv6 leads to the host only, unless the host forwards IPv6 on all links (`sysctl net.ipv6.conf.all.forwarding=1`): by link it is forwarded on Linux 6.17 and later".to_owned());
        }
        NetworkCapability {
            name: "bridge".to_owned(),
            addresses: true,
            publish,
            outbound,
            names: self.options.names,
            missing,
        }
    }

    /// Undoes what was half made, finishes what was half removed, and removes what no record tells
    /// of.
    fn mend(&mut self, dropped: usize) -> Result<()> {
        let half: Vec<SandboxId> = self
            .ledger
            .entries()
            .filter(|e| e.phase != Phase::Attached)
            .map(|e| e.attachment.sandbox.clone())
            .collect();
        self.host.declare(self.all_uplinks())?;
        let removed = self.sweep()?;
        let mut records = Vec::new();
        for sandbox in &half {
            records.push(Record::Leave(sandbox.clone()));
            records.push(Record::Free(sandbox.clone(), self.rested()));
        }
        self.step("mend.free");
        self.record(records)?;
        if self.ledger.len() == 0 {
            self.close()?;
        } else {
            // If it cannot listen now, the next attachment tries again; groups go on without names.
            let _ = self.serve_names();
            self.publish_names();
            for family in Family::BOTH {
                let names = self.ledger.uplinks(family).to_vec();
                let indexes = self.host.forward_from(family, &names, true)?;
                self.uplinks
                    .extend(indexes.into_iter().map(|i| (family, i)));
            }
            self.open_uplinks()?;
            self.enforce("network.open")?;
        }
        // Connections of addresses that nobody has, so that the next owner does not get them.
        let taken = self.ledger.entries().flat_map(Entry::all_addresses);
        let gateways = ranges(&self.header.networks);
        let taken = taken
            .chain(gateways.iter().map(crate::ipam::gateway))
            .collect();
        let mut flows = Flows::open();
        flows.of_nobody(&gateways, &taken);
        let ports: BTreeMap<_, _> = self.ledger.entries().flat_map(followed_ports).collect();
        if !ports.is_empty() {
            flows.of_ports(&ports);
        }
        let half = half.len() + dropped;
        if removed + half > 0 {
            tracing::info!(removed, half_done = half, "mended the network");
            metrics::counter!("aci_net_mended_total").increment((removed + half) as u64);
        }
        self.measure();
        Ok(())
    }

    /// Before the first attachment: the range must still be free. Another program may have taken it
    /// since.
    pub(super) fn choose_again(&mut self) -> Result<()> {
        let routes = self.host.foreign_routes()?;
        let given = self.options.networks.as_deref();
        let v6 = local_v6(&self.header.instance);
        let networks = choose(given, Some(&self.header.networks), &routes, v6)?;
        if networks != self.header.networks {
            self.header.networks = networks;
            self.ledger = replay(&self.header.networks, &self.options, &[])?;
            self.journal.rewrite(&self.header, Vec::new())?;
        }
        Ok(())
    }
}

/// The ledger that records lead to.
pub(super) fn replay(
    networks: &[VirtualNetwork],
    options: &BridgeOptions,
    records: &[Record],
) -> Result<Ledger> {
    let mut ledger = Ledger::new(networks, PublicPool::new(&options.public)?);
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
