//! The acts on the kernel: making, mending and removing the objects of attachments.

mod remove;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bridge::firewall::{Firewall, Nftables, Policy, PortKey};
use crate::bridge::ledger::{ATTACH, Entry};
use crate::bridge::names::Names;
use crate::error::refused;
use crate::ipam::{VirtualNetwork, gateway};
use crate::netlink::codec::Request;
use crate::netlink::route::{self, Ipv4Setting, Link, Pair, Route};
use crate::netlink::{Refusal, Socket};

/// The name of a group's link, inside.
pub(in crate::bridge) const INSIDE: &str = "eth0";
const OPEN: &str = "network.open";
const DETACH: &str = "network.detach";
const READY: &str = "network.set_ready";
/// `NETLINK_ROUTE`.
const PROTOCOL: isize = 0;

/// IPv4 settings of the host's side of a pair. Forwarding is switched on for what comes in here and
/// nowhere else. The reverse path filter drops packets with a sender's address that is not the
/// group's own, also where the host has loosened it for all links, because this one has no address.
/// The host's loopback is out of reach.
const HOST_SIDE: [(Ipv4Setting, u32); 5] = [
    (Ipv4Setting::Forwarding, 1),
    (Ipv4Setting::ReversePathFilter, 1),
    (Ipv4Setting::RouteLocalnet, 0),
    (Ipv4Setting::AcceptRedirects, 0),
    (Ipv4Setting::SendRedirects, 0),
];

/// The host's network namespace, used by one thread.
#[derive(Debug)]
pub(in crate::bridge) struct Host {
    socket: Socket,
    home: Arc<OwnedFd>,
    names: Names,
    mtu: u32,
    /// Whether the gateway stands.
    based: bool,
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
            names,
            mtu: 1500,
            based: false,
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

    /// The socket in the host's namespace.
    pub(in crate::bridge) const fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Whether rules can be put in force.
    pub(in crate::bridge) const fn has_firewall(&self) -> bool {
        self.firewall.is_some()
    }

    /// Puts a policy in force.
    pub(in crate::bridge) fn enforce(
        &mut self,
        operation: &'static str,
        policy: Option<&Policy>,
    ) -> Result<()> {
        self.step(operation);
        match &mut self.firewall {
            Some(firewall) => firewall.put(policy).map_err(|r| refused(operation, r)),
            None => Ok(()),
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

    /// All routes of the host.
    pub(in crate::bridge) fn routes(&mut self) -> Result<Vec<Route>> {
        route::routes(&mut self.socket).map_err(|r| refused(OPEN, r))
    }

    /// Makes what all groups share: a bridge with the gateways' addresses, and a route that keeps
    /// unused addresses of the network from leaving the host. A part of it may stand already.
    pub(in crate::bridge) fn base(&mut self, network: &VirtualNetwork) -> Result<()> {
        if self.based {
            return Ok(());
        }
        let name = self.names.anchor();
        let group = self.names.live_group();
        let explain = |r| refused(ATTACH, r);
        let found = route::link(&mut self.socket, &name).map_err(explain)?;
        let index = match found {
            Some(link) if self.names.owns(&link.name, link.group) => link.index,
            Some(link) => return Err(foreign(&link)),
            None => {
                self.step("base.link");
                self.socket
                    .one(route::new_bridge(&name, group, self.mtu))
                    .map_err(explain)?;
                self.index_of(&name).map_err(explain)?
            }
        };
        self.step("base.configure");
        let mut requests = vec![
            route::set_alias(index, &self.names.anchor_alias()),
            route::set_up(index),
        ];
        for range in ranges(network) {
            requests.push(route::new_address(index, gateway(&range)));
            requests.push(route::route_unreachable(range, self.names.metric()));
        }
        let _ = self.socket.one(route::no_ipv6_autoconf(index));
        self.socket.all(requests).map_err(explain)?;
        self.based = true;
        Ok(())
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

    /// Forgets connections that no longer lead where they did. A kernel that does not tell of its
    /// connections lets them end by themselves.
    pub(in crate::bridge) fn forget(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        ports: &BTreeMap<PortKey, IpAddr>,
    ) {
        self.step("forget");
        match self.firewall.as_mut().map(|f| f.forget(addresses, ports)) {
            Some(Ok(count)) if count > 0 => tracing::debug!(count, "forgot connections"),
            Some(Err(refusal)) => tracing::warn!(%refusal, what = refusal.what, "connections stay"),
            _ => {}
        }
    }

    /// Opens a socket in another network namespace. The thread is there for that one call only.
    fn inside(&self, namespace: BorrowedFd<'_>) -> Result<Socket> {
        let enter = |fd| move_into_link_name_space(fd, Some(LinkNameSpaceType::Network));
        enter(namespace).map_err(|errno| {
            refused(
                ATTACH,
                Refusal {
                    what: "enter the group's network namespace",
                    errno,
                    text: None,
                },
            )
        })?;
        let socket = Socket::open(PROTOCOL);
        if let Err(errno) = enter(std::os::fd::AsFd::as_fd(&*self.home)) {
            // Our own socket stays with the host; the thread merely keeps the other one alive.
            tracing::warn!(%errno, "could not leave a group's network namespace");
        }
        socket.map_err(|e| {
            refused(
                ATTACH,
                Refusal::io("open a netlink socket in the group's namespace", &e),
            )
        })
    }

    /// Makes or mends an attachment.
    ///
    /// # Errors
    /// What was refused; then nothing of a link that was made here is left.
    pub(in crate::bridge) fn attach(
        &mut self,
        network: &VirtualNetwork,
        entry: &Entry,
        namespace: BorrowedFd<'_>,
    ) -> Result<()> {
        self.base(network)?;
        let explain = |r| refused(ATTACH, r).on(&entry.attachment.sandbox);
        let mut inside = self.inside(namespace)?;
        let found = route::link(&mut self.socket, &entry.link).map_err(explain)?;
        let found = match found {
            Some(link) if !self.names.owns(&link.name, link.group) => return Err(foreign(&link)),
            // Its other end may have gone to a namespace that is no more.
            Some(link) if route::link(&mut inside, INSIDE).map_err(explain)?.is_none() => {
                self.delete_links(ATTACH, std::slice::from_ref(&link))?;
                None
            }
            other => other.map(|l| l.index),
        };
        let made = found.is_none();
        let result = self
            .connect(entry, found, namespace, &mut inside)
            .map_err(explain);
        if result.is_err() && made {
            self.detach(&[entry], None)?;
        }
        result
    }

    fn connect(
        &mut self,
        entry: &Entry,
        found: Option<u32>,
        namespace: BorrowedFd<'_>,
        inside: &mut Socket,
    ) -> Result<(), Refusal> {
        let (mac, peer_mac) = self.names.macs(&entry.attachment.sandbox);
        let index = if let Some(index) = found {
            index
        } else {
            self.step("attach.link");
            self.socket.one(route::new_pair(&Pair {
                name: &entry.link,
                group: self.names.live_group(),
                mac,
                peer: INSIDE,
                peer_mac,
                namespace,
                mtu: self.mtu,
            }))?;
            self.index_of(&entry.link)?
        };
        self.step("attach.inside");
        let eth0 = route::link(inside, INSIDE)?
            .map(|l| l.index)
            .ok_or(Refusal {
                what: "find the group's end of its pair",
                errno: Errno::NODEV,
                text: None,
            })?;
        let _ = inside.one(route::no_ipv6_autoconf(eth0));
        let mut requests: Vec<_> = addresses(entry)
            .map(|address| route::new_address(eth0, address.addr()))
            .collect();
        requests.push(route::set_up(eth0));
        for address in addresses(entry) {
            let gateway = gateway(&address.trunc());
            requests.push(route::new_neighbour(eth0, gateway, mac));
            requests.push(route::default_route(gateway, eth0));
        }
        inside.all(requests)?;
        self.step("attach.host");
        self.host_side(entry, index)
    }

    /// Configures the host's end of a pair.
    fn host_side(&mut self, entry: &Entry, index: u32) -> Result<(), Refusal> {
        let (_, peer_mac) = self.names.macs(&entry.attachment.sandbox);
        let alias = self.names.alias(&entry.attachment.sandbox);
        let _ = self.socket.one(route::no_ipv6_autoconf(index));
        if addresses(entry).any(|a| a.addr().is_ipv6()) {
            // Linux 6.17 and later forward IPv6 by link; earlier ones only for all links, which is
            // not ours to switch.
            let _ = std::fs::write(
                format!("/proc/sys/net/ipv6/conf/{}/force_forwarding", entry.link),
                "1",
            );
        }
        let mut requests = vec![
            route::set_alias(index, &alias),
            route::set_ipv4(index, &HOST_SIDE),
            route::set_up(index),
        ];
        for address in addresses(entry) {
            requests.push(route::new_neighbour(index, address.addr(), peer_mac));
            requests.push(self.way_in(entry, address, index));
        }
        self.socket.all(requests)
    }

    /// The route to a group's address: over its link, or nowhere while traffic is withheld.
    fn way_in(&self, entry: &Entry, address: &IpNet, link: u32) -> Request {
        let metric = self.names.metric();
        if entry.ready || self.has_firewall() {
            let source = gateway(&address.trunc());
            route::route_to_link(address.addr(), link, source, metric)
        } else {
            route::route_unreachable(IpNet::from(address.addr()), metric)
        }
    }

    /// Lets traffic in, or withholds it, where the firewall does not.
    pub(in crate::bridge) fn set_ready(&mut self, entry: &Entry) -> Result<()> {
        let explain = |r| refused(READY, r).on(&entry.attachment.sandbox);
        if self.has_firewall() {
            return Ok(());
        }
        let Some(link) = route::link(&mut self.socket, &entry.link).map_err(explain)? else {
            return Ok(());
        };
        let requests = addresses(entry)
            .map(|address| self.way_in(entry, address, link.index))
            .collect();
        self.socket.all(requests).map_err(explain)
    }
}

fn addresses(entry: &Entry) -> impl Iterator<Item = &IpNet> {
    entry.attachment.addresses.iter()
}

/// The ranges of all subnets.
pub(in crate::bridge) fn ranges(network: &VirtualNetwork) -> Vec<IpNet> {
    network
        .subnets()
        .iter()
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
