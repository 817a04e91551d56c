//! A group's pair of links: one end in its namespace, one on the host.

use std::os::fd::{AsFd, BorrowedFd};

use aci_core::error::Result;
use ipnet::IpNet;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Host, INSIDE, PROTOCOL, READY, addresses, foreign};
use crate::bridge::ledger::{ATTACH, Entry, Phase};
use crate::error::refused;
use crate::ipam::{VirtualNetwork, gateway};
use crate::netlink::codec::Request;
use crate::netlink::route::{self, Ipv4Setting, Pair};
use crate::netlink::{Refusal, Socket};

/// The index of a group's link, inside: a fixed one need not be asked for.
const INSIDE_INDEX: u32 = 0x0061_0000;

/// IPv4 settings of the host's side of a pair. Forwarding is switched on for what comes in here and
/// nowhere else. The reverse path filter drops packets with a sender's address that is not the
/// group's own, also where the host has loosened it for all links, because this one has no address.
/// The host's loopback is out of reach, and no ARP request is answered.
const HOST_SIDE: [(Ipv4Setting, u32); 6] = [
    (Ipv4Setting::Forwarding, 1),
    (Ipv4Setting::ReversePathFilter, 1),
    (Ipv4Setting::RouteLocalnet, 0),
    (Ipv4Setting::AcceptRedirects, 0),
    (Ipv4Setting::SendRedirects, 0),
    (Ipv4Setting::ArpIgnore, 8),
];

impl Host {
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
        if let Err(errno) = enter(self.home.as_fd()) {
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
        networks: &[VirtualNetwork],
        entry: &Entry,
        namespace: BorrowedFd<'_>,
    ) -> Result<()> {
        self.base(networks)?;
        self.answer_for(entry, true)?;
        let explain = |r| refused(ATTACH, r).on(&entry.attachment.sandbox);
        let mut inside = self.inside(namespace)?;
        if entry.phase == Phase::Intended {
            // Nothing of a new attachment is there, unless the kernel says so.
            let made = self.connect(entry, None, namespace, &mut inside);
            if !matches!(&made, Err(refusal) if refusal.errno == Errno::EXIST) {
                if made.is_err() {
                    self.undo(entry)?;
                }
                return made.map_err(explain);
            }
        }
        let found = route::link(&mut self.socket, &entry.link).map_err(explain)?;
        let found = match found {
            Some(link) if !self.names.owns(&link.name, link.group) => return Err(foreign(&link)),
            // Its other end may have gone to a namespace that is no more.
            Some(link) if route::link(&mut inside, INSIDE).map_err(explain)?.is_none() => {
                super::remove::delete_links(&mut self.socket, &self.names, ATTACH, &[link])?;
                None
            }
            other => other.map(|l| l.index),
        };
        let made = found.is_none();
        let result = self
            .connect(entry, found, namespace, &mut inside)
            .map_err(explain);
        if result.is_err() && made {
            self.undo(entry)?;
        }
        result
    }

    /// Makes the pair; returns the index of the host's end and of the group's.
    fn new_pair(
        &mut self,
        entry: &Entry,
        namespace: BorrowedFd<'_>,
        inside: &mut Socket,
    ) -> Result<(u32, u32), Refusal> {
        let (mac, peer_mac) = self.names.macs(&entry.attachment.sandbox);
        let group = self.names.live_group();
        let mtu = self.mtu;
        let pair = |index, peer_index| {
            route::new_pair(&Pair {
                name: &entry.link,
                index,
                group,
                mac,
                peer: INSIDE,
                peer_index,
                peer_mac,
                namespace,
                mtu,
            })
        };
        let index = self.next_index;
        self.next_index += 1;
        self.step("attach.link");
        match self.socket.one(pair(index, INSIDE_INDEX)) {
            Ok(()) => return Ok((index, INSIDE_INDEX)),
            // One of the indexes is taken.
            Err(refusal) if matches!(refusal.errno, Errno::BUSY | Errno::EXIST) => {}
            Err(refusal) => return Err(refusal),
        }
        self.socket.one(pair(0, 0))?;
        let eth0 = route::link(inside, INSIDE)?;
        let eth0 = eth0.map(|l| l.index).ok_or(NO_PEER)?;
        Ok((self.index_of(&entry.link)?, eth0))
    }

    fn connect(
        &mut self,
        entry: &Entry,
        found: Option<u32>,
        namespace: BorrowedFd<'_>,
        inside: &mut Socket,
    ) -> Result<(), Refusal> {
        let (mac, _) = self.names.macs(&entry.attachment.sandbox);
        let (index, eth0) = match found {
            Some(index) => {
                let eth0 = route::link(inside, INSIDE)?;
                (index, eth0.map(|l| l.index).ok_or(NO_PEER)?)
            }
            None => self.new_pair(entry, namespace, inside)?,
        };
        self.step("attach.host");
        self.host_side(entry, index)?;
        self.step("attach.inside");
        let mut requests = vec![
            route::configure(eth0, None, &[], self.ipv6),
            route::set_up(eth0),
        ];
        for address in addresses(entry) {
            requests.push(route::new_address(eth0, address.addr()));
            let gateway = gateway(&address.trunc());
            requests.push(route::new_neighbour(eth0, gateway, mac));
            requests.push(route::default_route(gateway, eth0));
        }
        inside.all(requests)
    }

    /// Configures the host's end of a pair.
    pub(super) fn host_side(&mut self, entry: &Entry, index: u32) -> Result<(), Refusal> {
        let (_, peer_mac) = self.names.macs(&entry.attachment.sandbox);
        let alias = self.names.alias(&entry.attachment.sandbox);
        let mut requests = vec![
            route::configure(index, Some(&alias), &HOST_SIDE, self.ipv6),
            route::set_up(index),
        ];
        for address in addresses(entry) {
            requests.push(route::new_neighbour(index, address.addr(), peer_mac));
            requests.push(self.way_in(entry, address, index));
        }
        self.socket.all(requests)?;
        if addresses(entry).any(|a| a.addr().is_ipv6()) {
            // Linux 6.17 and later forward IPv6 by link; earlier ones only for all links, which is
            // not ours to switch.
            let _ = std::fs::write(
                format!("/proc/sys/net/ipv6/conf/{}/force_forwarding", entry.link),
                "1",
            );
        }
        match &entry.bandwidth {
            Some(limit) => self.shape(entry, index, *limit),
            None => Ok(()),
        }
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

const NO_PEER: Refusal = Refusal {
    what: "find the group's end of its pair",
    errno: Errno::NODEV,
    text: None,
};
