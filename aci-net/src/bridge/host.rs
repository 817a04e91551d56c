//! The acts on the kernel: making, mending and removing the objects of attachments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::firewall::{Firewall, Nftables, Policy, PortKey};
use super::ledger::{ATTACH, Entry};
use super::names::Names;
use crate::error::refused;
use crate::ipam::{VirtualNetwork, gateway};
use crate::netlink::codec::Request;
use crate::netlink::route::{self, Ipv4Setting, Link, Pair, Route};
use crate::netlink::{Refusal, Socket};

/// The name of a group's link, inside.
pub(super) const INSIDE: &str = "eth0";
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
pub(super) struct Host {
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
    pub(super) fn open(
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

    pub(super) fn step(&self, name: &'static str) {
        if let Some(step) = self.step {
            step(name);
        }
    }

    /// Checks the right to change links, without changing any.
    pub(super) fn check_rights(&mut self) -> Result<()> {
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
    pub(super) const fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Whether rules can be put in force.
    pub(super) const fn has_firewall(&self) -> bool {
        self.firewall.is_some()
    }

    /// Puts a policy in force.
    pub(super) fn enforce(
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
    pub(super) fn choose_mtu(&mut self, given: Option<u32>, routes: &[Route]) -> Result<()> {
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

    pub(super) fn links(&mut self, operation: &'static str) -> Result<Vec<Link>> {
        route::links(&mut self.socket).map_err(|r| refused(operation, r))
    }

    /// All routes of the host.
    pub(super) fn routes(&mut self) -> Result<Vec<Route>> {
        route::routes(&mut self.socket).map_err(|r| refused(OPEN, r))
    }

    fn own_links(&mut self, operation: &'static str) -> Result<Vec<Link>> {
        let names = self.names.clone();
        let mut links = self.links(operation)?;
        links.retain(|l| names.owns(&l.name, l.group));
        Ok(links)
    }

    /// Removes everything of ours that no entry explains, and mends the host's side of the entries
    /// that are attached. Returns how many things it removed.
    pub(super) fn sweep(&mut self, network: &VirtualNetwork, entries: &[&Entry]) -> Result<usize> {
        let mut keep: BTreeSet<String> = entries.iter().map(|e| e.link.clone()).collect();
        if !keep.is_empty() {
            keep.insert(self.names.anchor());
        }
        let live = self.names.live_group();
        let links = self.own_links(OPEN)?;
        let (kept, extra): (Vec<Link>, Vec<Link>) = links
            .into_iter()
            .partition(|l| l.group == live && keep.contains(&l.name));
        for link in &extra {
            tracing::info!(link = %link.name, "removing a link that no attachment explains");
        }
        self.delete_links(OPEN, &extra)?;
        let expected: BTreeSet<IpNet> = if entries.is_empty() {
            BTreeSet::new()
        } else {
            let addresses = entries
                .iter()
                .flat_map(|e| &e.attachment.addresses)
                .map(|a| IpNet::from(a.addr()));
            ranges(network).into_iter().chain(addresses).collect()
        };
        let mut stray = self.routes()?;
        stray.retain(|r| self.names.owns_route(r) && !expected.contains(&r.destination));
        for route in &stray {
            tracing::info!(destination = %route.destination, "removing a route that no attachment explains");
            self.delete_route(OPEN, route.destination)?;
        }
        if entries.is_empty() {
            self.based = false;
        } else {
            self.base(network)?;
            for entry in entries {
                if let Some(link) = kept.iter().find(|l| l.name == entry.link) {
                    self.host_side(entry, link.index)
                        .map_err(|r| refused(OPEN, r))?;
                }
            }
        }
        Ok(extra.len() + stray.len())
    }

    /// Makes what all groups share: a bridge with the gateways' addresses, and a route that keeps
    /// unused addresses of the network from leaving the host. A part of it may stand already.
    pub(super) fn base(&mut self, network: &VirtualNetwork) -> Result<()> {
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
    pub(super) fn forget(
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
    pub(super) fn attach(
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
    pub(super) fn set_ready(&mut self, entry: &Entry) -> Result<()> {
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

    /// Removes what there is of attachments; with a network, also what all groups share.
    pub(super) fn detach(
        &mut self,
        entries: &[&Entry],
        last_of: Option<&VirtualNetwork>,
    ) -> Result<()> {
        self.step("detach.routes");
        for address in entries.iter().flat_map(|e| addresses(e)) {
            self.delete_route(DETACH, IpNet::from(address.addr()))?;
        }
        if let Some(network) = last_of {
            for range in ranges(network) {
                self.delete_route(DETACH, range)?;
            }
        }
        let mut wanted: Vec<String> = entries.iter().map(|e| e.link.clone()).collect();
        if last_of.is_some() {
            wanted.push(self.names.anchor());
        }
        let mut links = Vec::new();
        for name in wanted {
            let found = route::link(&mut self.socket, &name).map_err(|r| refused(DETACH, r))?;
            links.extend(found.filter(|l| self.names.owns(&l.name, l.group)));
        }
        self.step("detach.links");
        self.delete_links(DETACH, &links)?;
        if last_of.is_some() {
            self.based = false;
        }
        Ok(())
    }

    fn delete_route(&mut self, operation: &'static str, destination: IpNet) -> Result<()> {
        match self
            .socket
            .one(route::delete_route(destination, self.names.metric()))
        {
            Err(refusal) if refusal.errno != Errno::SRCH => Err(refused(operation, refusal)),
            _ => Ok(()),
        }
    }

    /// Deletes links of ours. The kernel waits for its readers once for each deletion (8 to 50 ms),
    /// so several links go to a group of their own and are deleted as one act.
    fn delete_links(&mut self, operation: &'static str, links: &[Link]) -> Result<()> {
        let gone = |r: &Refusal| r.errno == Errno::NODEV;
        if let [link] = links {
            return match self.socket.one(route::delete_link(link.index)) {
                Err(refusal) if !gone(&refusal) => Err(refused(operation, refusal)),
                _ => Ok(()),
            };
        }
        if links.is_empty() {
            return Ok(());
        }
        let doomed = self.names.doomed_group();
        for chunk in links.chunks(64) {
            let marks = chunk
                .iter()
                .map(|l| route::set_group(l.index, doomed))
                .collect();
            for answer in self.socket.batch(marks) {
                if let Err(refusal) = answer
                    && !gone(&refusal)
                {
                    return Err(refused(operation, refusal));
                }
            }
        }
        match self.socket.one(route::delete_group(doomed)) {
            Err(refusal) if !gone(&refusal) => Err(refused(operation, refusal)),
            _ => Ok(()),
        }
    }
}

fn addresses(entry: &Entry) -> impl Iterator<Item = &IpNet> {
    entry.attachment.addresses.iter()
}

/// The ranges of all subnets.
pub(super) fn ranges(network: &VirtualNetwork) -> Vec<IpNet> {
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
