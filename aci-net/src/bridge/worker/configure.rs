//! Everything that concerns all groups at once: uplinks, the metadata service, changed virtual
//! networks, and what operators ask for.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::Worker;
use crate::bridge::host::ranges;
use crate::bridge::ledger::{ATTACH, Entry, Phase, Record};
use crate::bridge::report::{AttachmentReport, NetworkReport, NetworkUse};
use crate::ipam::{Family, SERVICE_ADDRESS, VirtualNetwork, check_together};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

impl Worker {
    /// Whether groups have addresses of a family.
    fn has(&self, family: Family) -> bool {
        let of = |r: &IpNet| Family::of(&r.addr()) == family;
        ranges(&self.header.networks).iter().any(of)
    }

    /// Switches forwarding on where packets for groups come in.
    pub(super) fn open_uplinks(&mut self) -> Result<()> {
        let wanted = self.options.outbound
            || !self.options.publish_on.is_empty()
            || !self.options.public.is_empty()
            || self
                .header
                .networks
                .iter()
                .any(|n| !n.premises().is_empty());
        if !wanted || !self.host.has_firewall() {
            return Ok(());
        }
        let named = self.options.uplinks.clone();
        for family in Family::BOTH {
            if !self.has(family) || !self.ledger.uplinks(family).is_empty() {
                continue;
            }
            let closed = self.host.closed_uplinks(family, &named)?;
            if closed.is_empty() {
                continue;
            }
            self.step("journal.uplinks");
            self.record(vec![Record::Uplinks(family, closed.clone())])?;
            // Before it is switched on: who closes looks whether others rely on it.
            self.host.declare(self.all_uplinks())?;
            // The rules that keep the host from routing for others come first.
            let indexes = self.host.indexes(&closed)?;
            self.uplinks
                .extend(indexes.into_iter().map(|i| (family, i)));
            self.enforce(ATTACH)?;
            self.host.forward_from(family, &closed, true)?;
        }
        Ok(())
    }

    /// The links of the host that forward for our groups.
    pub(super) fn all_uplinks(&self) -> Vec<(Family, String)> {
        let of = |family| {
            let names = self.ledger.uplinks(family).iter();
            names.map(move |name| (family, name.clone()))
        };
        Family::BOTH.into_iter().flat_map(of).collect()
    }

    /// Takes back what all groups share, after the last one.
    pub(super) fn close(&mut self) -> Result<()> {
        self.host.release_uplinks(&self.all_uplinks())?;
        self.uplinks.clear();
        self.in_force = false;
        self.host.enforce("network.detach", None)?;
        for family in Family::BOTH {
            if !self.ledger.uplinks(family).is_empty() {
                self.record(vec![Record::Uplinks(family, Vec::new())])?;
            }
        }
        Ok(())
    }

    /// A listener of the host to which groups are led that ask for metadata.
    pub(super) fn listen(&mut self) -> Result<TcpListener> {
        let failed = |what: &str, errno: rustix::io::Errno| {
            Error::new(
                ErrorKind::Internal,
                "network.metadata",
                format!("cannot {what} at {SERVICE_ADDRESS}"),
            )
            .because(errno)
        };
        if !self.host.has_firewall() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "network.metadata",
                "groups cannot be led to a listener without the kernel's firewall",
            )
            .hint("the kernel needs CONFIG_NF_TABLES with NF_TABLES_INET and NFT_NAT"));
        }
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| failed("make a socket", e))?;
        // The address is there while groups are attached only.
        sockopt::set_ip_freebind(&socket, true).map_err(|e| failed("bind a socket", e))?;
        bind(&socket, &SocketAddrV4::new(SERVICE_ADDRESS, 0))
            .map_err(|e| failed("bind a socket", e))?;
        listen(&socket, BACKLOG).map_err(|e| failed("listen", e))?;
        let listener = TcpListener::from(socket);
        let port = listener.local_addr().map(|a| a.port()).map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                "network.metadata",
                "cannot tell the port",
            )
            .because(e)
        })?;
        self.metadata = Some(port);
        if self.in_force {
            self.enforce("network.metadata")?;
        }
        Ok(listener)
    }

    /// Puts other virtual networks in force.
    pub(super) fn configure(&mut self, networks: Vec<VirtualNetwork>) -> Result<()> {
        check_together(&networks)?;
        if let Some(entry) = self.ledger.entries().find(|e| !e.fits(&networks)) {
            return Err(moved(entry, &networks));
        }
        let routes = self.host.foreign_routes()?;
        let networks = crate::bridge::choose::choose(Some(&networks), None, &routes, None)?;
        let mut header = self.header.clone();
        header.networks = networks;
        let ledger = super::open::replay(&header.networks, &self.options, &self.ledger.records())?;
        self.step("journal.configure");
        self.journal.rewrite(&header, ledger.records())?;
        self.options.networks = Some(header.networks.clone());
        self.header = header;
        self.ledger = ledger;
        if !self.in_force {
            return Ok(());
        }
        self.in_force = false;
        self.sweep()?;
        self.open_uplinks()?;
        self.enforce("network.configure")
    }

    fn attached(&self) -> Vec<Entry> {
        let attached = |e: &&Entry| e.phase == Phase::Attached;
        self.ledger.entries().filter(attached).cloned().collect()
    }

    pub(super) fn sweep(&mut self) -> Result<usize> {
        if !self.sweeping.is_empty() {
            // What is being removed is not astray.
            return Ok(0);
        }
        let entries = self.attached();
        let entries: Vec<&Entry> = entries.iter().collect();
        self.host.sweep(&self.header.networks, &entries)
    }

    pub(super) fn report(&mut self) -> Result<NetworkReport> {
        let entries: Vec<Entry> = self.ledger.entries().cloned().collect();
        let all: Vec<&Entry> = entries.iter().collect();
        let (links, stray_routes) = self.host.strays(&self.header.networks, &all)?;
        let networks = self.header.networks.iter().map(|n| NetworkUse {
            name: n.name().to_owned(),
            subnets: n
                .subnets()
                .iter()
                .map(|s| (s.name().to_owned(), s.prefixes().to_vec()))
                .collect(),
        });
        Ok(NetworkReport {
            networks: networks.collect(),
            public_addresses: self.ledger.public_addresses(),
            resting_addresses: self.ledger.resting(),
            stray_links: links.into_iter().map(|l| l.name).collect(),
            stray_routes,
            attachments: entries
                .into_iter()
                .map(|e| AttachmentReport {
                    network: e.network,
                    subnet: e.subnet,
                    link: e.link,
                    ready: e.ready,
                    leaving: e.phase == Phase::Leaving,
                    attachment: e.attachment,
                })
                .collect(),
        })
    }
}

/// The error for networks in which an attached group has no place.
pub(super) fn moved(entry: &Entry, networks: &[VirtualNetwork]) -> Error {
    let given: Vec<String> = networks
        .iter()
        .map(|n| {
            let ranges = ranges(std::slice::from_ref(n));
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            format!("{} ({})", n.name(), ranges.join(", "))
        })
        .collect();
    let own = entry.attachment.addresses.first().map_or_else(
        || Ipv4Addr::UNSPECIFIED.to_string(),
        |a| a.addr().to_string(),
    );
    Error::new(
        ErrorKind::Conflict,
        "network.open",
        format!(
            "sandbox {} is attached with {own} in subnet '{}' of virtual network '{}', which is not so in {}",
            entry.attachment.sandbox,
            entry.subnet,
            entry.network,
            given.join(", ")
        ),
    )
    .hint("detach it first, or leave the subnets of attached groups as they are")
}
