//! Removing: what an attachment made, and what nobody explains.

use std::collections::BTreeSet;

use aci_core::error::Result;
use ipnet::IpNet;
use rustix::io::Errno;

use super::{DETACH, Host, OPEN, addresses, ranges};
use crate::bridge::ledger::Entry;
use crate::error::refused;
use crate::ipam::VirtualNetwork;
use crate::netlink::Refusal;
use crate::netlink::route::{self, Link};

impl Host {
    fn own_links(&mut self, operation: &'static str) -> Result<Vec<Link>> {
        let names = self.names.clone();
        let mut links = self.links(operation)?;
        links.retain(|l| names.owns(&l.name, l.group));
        Ok(links)
    }

    /// Removes everything of ours that no entry explains, and mends the host's side of the entries
    /// that are attached. Returns how many things it removed.
    pub(in crate::bridge) fn sweep(
        &mut self,
        network: &VirtualNetwork,
        entries: &[&Entry],
    ) -> Result<usize> {
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

    /// Removes what there is of attachments; with a network, also what all groups share.
    pub(in crate::bridge) fn detach(
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
    pub(super) fn delete_links(&mut self, operation: &'static str, links: &[Link]) -> Result<()> {
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
