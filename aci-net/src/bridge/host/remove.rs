//! Removing: what an attachment made, and what nobody explains.

use std::collections::BTreeSet;

use aci_core::error::Result;
use ipnet::IpNet;
use rustix::io::Errno;

use super::{DETACH, Host, OPEN, addresses, ranges};
use crate::bridge::ledger::Entry;
use crate::bridge::names::Names;
use crate::error::refused;
use crate::ipam::VirtualNetwork;
use crate::netlink::Socket;
use crate::netlink::route::{self, Link};

/// What is to be removed from the kernel.
#[derive(Debug, Default)]
pub(in crate::bridge) struct Doomed {
    /// Names of links.
    pub(in crate::bridge) links: Vec<String>,
    /// Destinations of routes that do not go with the links.
    pub(in crate::bridge) routes: Vec<IpNet>,
}

impl Doomed {
    /// Adds another one's.
    pub(in crate::bridge) fn extend(&mut self, other: Self) {
        self.links.extend(other.links);
        self.routes.extend(other.routes);
    }
}

/// Removes links and routes of ours, as far as they are there. Links that are not ours stay.
pub(in crate::bridge) fn remove(
    socket: &mut Socket,
    names: &Names,
    doomed: &Doomed,
    step: &dyn Fn(&'static str),
) -> Result<()> {
    if !doomed.routes.is_empty() {
        step("detach.routes");
    }
    for destination in &doomed.routes {
        delete_route(socket, names, DETACH, *destination)?;
    }
    let mut links = Vec::new();
    for name in &doomed.links {
        let found = route::link(socket, name).map_err(|r| refused(DETACH, r))?;
        links.extend(found.filter(|l| names.owns(&l.name, l.group)));
    }
    step("detach.links");
    delete_links(socket, names, DETACH, &links)
}

fn delete_route(
    socket: &mut Socket,
    names: &Names,
    operation: &'static str,
    destination: IpNet,
) -> Result<()> {
    match socket.one(route::delete_route(destination, names.metric())) {
        Err(refusal) if refusal.errno != Errno::SRCH => Err(refused(operation, refusal)),
        _ => Ok(()),
    }
}

/// Deletes links of ours. The kernel waits for its readers once for each deletion (8 to 50 ms), so
/// several links go to a group of their own and are deleted as one act.
pub(super) fn delete_links(
    socket: &mut Socket,
    names: &Names,
    operation: &'static str,
    links: &[Link],
) -> Result<()> {
    let gone = |errno: Errno| errno == Errno::NODEV;
    if let [link] = links {
        return match socket.one(route::delete_link(link.index)) {
            Err(refusal) if !gone(refusal.errno) => Err(refused(operation, refusal)),
            _ => Ok(()),
        };
    }
    if links.is_empty() {
        return Ok(());
    }
    let doomed = names.doomed_group();
    for chunk in links.chunks(64) {
        let marks = chunk
            .iter()
            .map(|l| route::set_group(l.index, doomed))
            .collect();
        for answer in socket.batch(marks) {
            if let Err(refusal) = answer
                && !gone(refusal.errno)
            {
                return Err(refused(operation, refusal));
            }
        }
    }
    match socket.one(route::delete_group(doomed)) {
        Err(refusal) if !gone(refusal.errno) => Err(refused(operation, refusal)),
        _ => Ok(()),
    }
}

impl Host {
    /// What of entries must be removed; with networks, also what all groups share.
    pub(in crate::bridge) fn doomed(
        &self,
        entries: &[&Entry],
        last_of: Option<&[VirtualNetwork]>,
    ) -> Doomed {
        let mut doomed = Doomed::default();
        for entry in entries {
            doomed.links.push(entry.link.clone());
            if entry.bandwidth.is_some_and(|b| b.outbound().is_some()) {
                doomed
                    .links
                    .push(self.names.shaper(&entry.attachment.sandbox));
            }
            // A route over a link goes with it; one that withholds traffic does not.
            if !self.has_firewall() {
                let own = addresses(entry).map(|a| IpNet::from(a.addr()));
                doomed.routes.extend(own);
            }
        }
        if let Some(networks) = last_of {
            doomed.links.push(self.names.anchor());
            doomed.routes.extend(ranges(networks));
        }
        doomed
    }

    /// Removes what there is of an entry, at once.
    pub(in crate::bridge) fn undo(&mut self, entry: &Entry) -> Result<()> {
        let doomed = self.doomed(&[entry], None);
        self.remove_now(&doomed)?;
        self.answer_for(entry, false)
    }

    /// Removes on this thread.
    pub(in crate::bridge) fn remove_now(&mut self, doomed: &Doomed) -> Result<()> {
        let step = self.step;
        remove(&mut self.socket, &self.names, doomed, &|name| {
            if let Some(step) = step {
                step(name);
            }
        })
    }

    pub(super) fn own_links(&mut self, operation: &'static str) -> Result<Vec<Link>> {
        let names = self.names.clone();
        let mut links = self.links(operation)?;
        links.retain(|l| names.owns(&l.name, l.group));
        let first = names.first_index();
        let used = links.iter().map(|l| l.index);
        let used = used.filter(|i| (first..first + 0x10_0000).contains(i));
        self.next_index = used
            .max()
            .map_or(self.next_index, |i| self.next_index.max(i + 1));
        Ok(links)
    }

    /// Links and routes of ours that no entry explains, for people.
    pub(in crate::bridge) fn strays(
        &mut self,
        networks: &[VirtualNetwork],
        entries: &[&Entry],
    ) -> Result<(Vec<Link>, Vec<IpNet>)> {
        let mut keep: BTreeSet<String> = BTreeSet::new();
        let mut expected: BTreeSet<IpNet> = BTreeSet::new();
        if !entries.is_empty() {
            keep.insert(self.names.anchor());
            expected.extend(ranges(networks));
        }
        for entry in entries {
            keep.extend(self.doomed(&[entry], None).links);
            expected.extend(addresses(entry).map(|a| IpNet::from(a.addr())));
        }
        let live = self.names.live_group();
        let mut links = self.own_links(OPEN)?;
        links.retain(|l| l.group != live || !keep.contains(&l.name));
        let mut routes = self.routes()?;
        routes.retain(|r| self.names.owns_route(r) && !expected.contains(&r.destination));
        Ok((links, routes.into_iter().map(|r| r.destination).collect()))
    }

    /// Removes everything of ours that no entry explains, and mends the host's side of the entries
    /// that are attached. Returns how many things it removed.
    pub(in crate::bridge) fn sweep(
        &mut self,
        networks: &[VirtualNetwork],
        entries: &[&Entry],
    ) -> Result<usize> {
        let (links, routes) = self.strays(networks, entries)?;
        for link in &links {
            tracing::info!(link = %link.name, "removing a link that no attachment explains");
        }
        delete_links(&mut self.socket, &self.names, OPEN, &links)?;
        for destination in &routes {
            tracing::info!(%destination, "removing a route that no attachment explains");
            delete_route(&mut self.socket, &self.names, OPEN, *destination)?;
        }
        self.unbase();
        let mut addresses = 0;
        if !entries.is_empty() {
            self.base(networks)?;
            addresses = self.sweep_addresses(networks, entries)?;
            for entry in entries {
                let found = route::link(&mut self.socket, &entry.link);
                if let Some(link) = found.map_err(|r| refused(OPEN, r))? {
                    self.answer_for(entry, true)?;
                    self.host_side(entry, link.index)
                        .map_err(|r| refused(OPEN, r))?;
                }
            }
        }
        Ok(links.len() + routes.len() + addresses)
    }
}
