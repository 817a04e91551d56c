//! The acts on the kernel: making, mending and removing the objects of attachments.

mod base;
mod pair;
mod remove;
mod shape;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;
use rustix::io::Errno;

use crate::bridge::firewall::{Elements, Firewall, Nftables, Rules};
use crate::bridge::ledger::{ATTACH, Entry};
use crate::bridge::names::Names;
use crate::error::refused;
use crate::ipam::{Family, VirtualNetwork};
use crate::netlink::route::{self, Link, Route};
use crate::netlink::{Refusal, Socket};
pub(in crate::bridge) use remove::{Doomed, remove};

/// The name of a group's link, inside.
pub(in crate::bridge) const INSIDE: &str = "eth0";
const OPEN: &str = "network.open";
pub(in crate::bridge) const DETACH: &str = "network.detach";
const READY: &str = "network.set_ready";
/// `NETLINK_ROUTE`.
pub(in crate::bridge) const PROTOCOL: isize = 0;

/// The host's network namespace, used by one thread.
#[derive(Debug)]
pub(in crate::bridge) struct Host {
    socket: Socket,
    home: Arc<OwnedFd>,
    names: Names,
    mtu: u32,
    /// The index that the next link gets.
    next_index: u32,
    /// Whether this machine has IPv6.
    ipv6: bool,
    /// The index of the bridge with the gateways' addresses, while it stands.
    anchor: Option<u32>,
    /// Addresses that the host has without us.
    own_addresses: BTreeSet<IpAddr>,
    /// Links of the host that forward for groups; the bridge's alias tells of them.
    uplinks: Vec<(Family, String)>,
    firewall: Option<Box<dyn Firewall>>,
    step: Option<fn(&'static str)>,
}

impl Host {
    /// Opens the namespace that this thread is in.
    pub(in crate::bridge) fn open(
        home: Arc<OwnedFd>,
        names: Names,
        with_firewall: bool,
        step: Option<fn(&'static str)>,
    ) -> Result<Self> {
        let socket = Socket::open(PROTOCOL).map_err(|e| {
            refused(OPEN, Refusal::io("open a netlink socket", &e))
                .hint("the kernel needs CONFIG_NET, and the program's seccomp filter must allow AF_NETLINK")
        })?;
        let firewall = match Nftables::open(names.table()) {
            Ok(_) if !with_firewall => None,
            Ok(firewall) => Some(Box::new(firewall) as Box<dyn Firewall>),
            Err(refusal) => {
                tracing::warn!(%refusal, "no firewall");
                None
            }
        };
        Ok(Self {
            firewall,
            socket,
            home,
            mtu: 1500,
            next_index: names.first_index(),
            ipv6: std::path::Path::new("/proc/sys/net/ipv6").exists(),
            names,
            anchor: None,
            own_addresses: BTreeSet::new(),
            uplinks: Vec::new(),
            step,
        })
    }

    pub(in crate::bridge) fn step(&self, name: &'static str) {
        if let Some(step) = self.step {
            step(name);
        }
    }

    /// Checks the right to change links, without changing any.
    pub(in crate::bridge) fn check_rights(&mut self) -> Result<()> {
        match self.socket.one(route::may_change_links()) {
            Err(refusal) if matches!(refusal.errno, Errno::PERM | Errno::ACCESS) => {
                return Err(refused(OPEN, refusal));
            }
            _ => {}
        }
        if let Some(firewall) = &mut self.firewall
            && let Err(refusal) = firewall.check()
        {
            tracing::warn!(%refusal, what = refusal.what, "the kernel's firewall cannot be used");
            self.firewall = None;
        }
        Ok(())
    }

    /// The names of what is ours.
    pub(in crate::bridge) const fn names(&self) -> &Names {
        &self.names
    }

    /// The socket in the host's namespace.
    pub(in crate::bridge) const fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Whether rules can be put in force.
    pub(in crate::bridge) const fn has_firewall(&self) -> bool {
        self.firewall.is_some()
    }

    /// Whether the host answers for an address only on behalf of groups.
    pub(in crate::bridge) fn guards(&self, address: &IpAddr) -> bool {
        !self.own_addresses.contains(address)
    }

    /// Puts rules with all their elements in force, or nothing of ours for `None`.
    pub(in crate::bridge) fn enforce(
        &mut self,
        operation: &'static str,
        policy: Option<(&Rules, &Elements)>,
    ) -> Result<()> {
        self.step("rules.replace");
        let Some(firewall) = &mut self.firewall else {
            return Ok(());
        };
        let done = match policy {
            Some((rules, elements)) => firewall.replace(rules, elements),
            None => firewall.remove(),
        };
        done.map_err(|r| refused(operation, r))
    }

    /// Takes elements out of the rules in force and puts others in. `false` if the rules are no
    /// longer as they were made, and must be made again.
    pub(in crate::bridge) fn change(
        &mut self,
        operation: &'static str,
        out: &Elements,
        into: &Elements,
    ) -> Result<bool> {
        self.step("rules.change");
        let Some(firewall) = &mut self.firewall else {
            return Ok(true);
        };
        match firewall.change(out, into) {
            Ok(()) => Ok(true),
            // Somebody removed the table or its elements (`nft flush ruleset`).
            Err(refusal) if matches!(refusal.errno, Errno::NOENT | Errno::EXIST) => {
                tracing::warn!(%refusal, what = refusal.what, "the firewall's rules were changed by somebody else; made again");
                Ok(false)
            }
            Err(refusal) => Err(refused(operation, refusal)),
        }
    }

    /// Chooses the size of packets: the given one, or that of the default route's link.
    pub(in crate::bridge) fn choose_mtu(
        &mut self,
        given: Option<u32>,
        routes: &[Route],
    ) -> Result<()> {
        if let Some(mtu) = given {
            if !(1280..=65535).contains(&mtu) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    OPEN,
                    format!("mtu is {mtu}: it must be 1280 to 65535"),
                ));
            }
            self.mtu = mtu;
            return Ok(());
        }
        let links = self.links(OPEN)?;
        self.mtu = routes
            .iter()
            .filter(|r| r.destination.prefix_len() == 0 && r.kind == 1)
            .find_map(|r| links.iter().find(|l| Some(l.index) == r.link))
            .map_or(1500, |l| l.mtu.clamp(1280, 65535));
        Ok(())
    }

    pub(in crate::bridge) fn links(&mut self, operation: &'static str) -> Result<Vec<Link>> {
        route::links(&mut self.socket).map_err(|r| refused(operation, r))
    }

    /// The host's routes without ours, and without those of the addresses on our links.
    pub(in crate::bridge) fn foreign_routes(&mut self) -> Result<Vec<Route>> {
        let own: BTreeSet<u32> = self.own_links(OPEN)?.into_iter().map(|l| l.index).collect();
        let mut routes = self.routes()?;
        let ours = |r: &Route| self.names.owns_route(r) || r.link.is_some_and(|l| own.contains(&l));
        routes.retain(|r| !ours(r));
        Ok(routes)
    }

    /// All routes of the host.
    pub(in crate::bridge) fn routes(&mut self) -> Result<Vec<Route>> {
        route::routes(&mut self.socket).map_err(|r| refused(OPEN, r))
    }

    fn index_of(&mut self, name: &str) -> Result<u32, Refusal> {
        route::link(&mut self.socket, name)?
            .map(|l| l.index)
            .ok_or(Refusal {
                what: "find a link that was just made",
                errno: Errno::NODEV,
                text: None,
            })
    }
}

fn addresses(entry: &Entry) -> impl Iterator<Item = &IpNet> {
    entry.attachment.addresses.iter()
}

/// The ranges of all subnets.
pub(in crate::bridge) fn ranges(networks: &[VirtualNetwork]) -> Vec<IpNet> {
    networks
        .iter()
        .flat_map(VirtualNetwork::subnets)
        .flat_map(|s| s.prefixes().iter().copied())
        .collect()
}

fn foreign(link: &Link) -> Error {
    Error::new(
        ErrorKind::Conflict,
        ATTACH,
        format!("a link named {} exists that is not ours", link.name),
    )
    .hint("remove it or open the network with a new state directory")
}
