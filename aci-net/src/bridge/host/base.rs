//! What all groups share: a bridge without ports that holds the gateways' addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aci_core::error::Result;

use super::{Host, OPEN, foreign, ranges};
use crate::bridge::ledger::{ATTACH, Entry};
use crate::error::refused;
use crate::ipam::{Family, SERVICE_ADDRESS, Subnet, VirtualNetwork, gateway};
use crate::netlink::route;

impl Host {
    /// Learns which addresses the host has without us.
    pub(in crate::bridge) fn learn_addresses(&mut self) -> Result<()> {
        let anchor = route::link(&mut self.socket, &self.names.anchor())
            .map_err(|r| refused(OPEN, r))?
            .map(|l| l.index);
        let all = route::addresses(&mut self.socket).map_err(|r| refused(OPEN, r))?;
        let own = all.into_iter().filter(|(link, _)| Some(*link) != anchor);
        self.own_addresses = own.map(|(_, address)| address).collect();
        Ok(())
    }

    /// The addresses on the bridge, besides those of public groups.
    fn anchored(&self, networks: &[VirtualNetwork]) -> BTreeSet<IpAddr> {
        let nat = networks
            .iter()
            .flat_map(VirtualNetwork::subnets)
            .flat_map(Subnet::nat);
        ranges(networks)
            .iter()
            .map(gateway)
            .chain([IpAddr::V4(SERVICE_ADDRESS)])
            .chain(nat.copied().filter(|a| self.guards(a)))
            .collect()
    }

    /// The addresses of NAT gateways that the host answers for only on behalf of groups.
    pub(in crate::bridge) fn guarded_gateways(
        &self,
        networks: &[VirtualNetwork],
    ) -> BTreeSet<IpAddr> {
        let nat = networks
            .iter()
            .flat_map(VirtualNetwork::subnets)
            .flat_map(Subnet::nat);
        nat.copied().filter(|a| self.guards(a)).collect()
    }

    /// Makes the bridge with the gateways' addresses, and routes that keep unused addresses of the
    /// networks from leaving the host. A part of it may stand already.
    pub(in crate::bridge) fn base(&mut self, networks: &[VirtualNetwork]) -> Result<()> {
        if self.anchor.is_some() {
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
        let alias = self.names.anchor_alias(&self.uplinks);
        let mut requests = vec![
            route::configure(index, Some(&alias), &[], self.ipv6),
            route::set_up(index),
        ];
        for address in self.anchored(networks) {
            requests.push(route::new_address(index, address));
        }
        for range in ranges(networks) {
            requests.push(route::route_unreachable(range, self.names.metric()));
        }
        self.socket.all(requests).map_err(explain)?;
        self.anchor = Some(index);
        Ok(())
    }

    /// Tells other programs, by the bridge's alias, which links forward for our groups.
    pub(in crate::bridge) fn declare(&mut self, uplinks: Vec<(Family, String)>) -> Result<()> {
        self.uplinks = uplinks;
        let Some(index) = self.anchor else {
            return Ok(());
        };
        self.step("uplink.declare");
        let alias = self.names.anchor_alias(&self.uplinks);
        let request = route::configure(index, Some(&alias), &[], false);
        self.socket.one(request).map_err(|r| refused(ATTACH, r))
    }

    /// The addresses of the host but those that it has for groups.
    pub(in crate::bridge) fn addresses_of_others(&mut self) -> Result<Vec<IpAddr>> {
        let all = route::addresses(&mut self.socket).map_err(|r| refused(ATTACH, r))?;
        let others = all
            .into_iter()
            .filter(|(link, _)| Some(*link) != self.anchor);
        Ok(others.map(|(_, address)| address).collect())
    }

    /// Forgets that the bridge stands.
    pub(in crate::bridge) const fn unbase(&mut self) {
        self.anchor = None;
    }

    /// Answers for the public addresses of an entry, or no longer.
    pub(in crate::bridge) fn answer_for(&mut self, entry: &Entry, on: bool) -> Result<()> {
        let Some(index) = self.anchor else {
            return Ok(());
        };
        let public = entry.public.iter().filter(|a| self.guards(a));
        let requests: Vec<_> = public
            .map(|a| {
                if on {
                    route::new_address(index, *a)
                } else {
                    route::delete_address(index, *a)
                }
            })
            .collect();
        if requests.is_empty() {
            return Ok(());
        }
        self.step("public");
        for answer in self.socket.batch(requests) {
            if let Err(refusal) = answer
                && (on || refusal.errno != rustix::io::Errno::ADDRNOTAVAIL)
            {
                return Err(refused(ATTACH, refusal).on(&entry.attachment.sandbox));
            }
        }
        Ok(())
    }

    /// Takes addresses from the bridge that nothing explains; returns how many.
    pub(in crate::bridge) fn sweep_addresses(
        &mut self,
        networks: &[VirtualNetwork],
        entries: &[&Entry],
    ) -> Result<usize> {
        let Some(index) = self.anchor else {
            return Ok(0);
        };
        let mut expected = self.anchored(networks);
        expected.extend(entries.iter().flat_map(|e| e.public.iter().copied()));
        let all = route::addresses(&mut self.socket).map_err(|r| refused(OPEN, r))?;
        let stray: Vec<IpAddr> = all
            .into_iter()
            .filter(|(link, address)| *link == index && !expected.contains(address))
            .map(|(_, address)| address)
            .collect();
        let requests = stray
            .iter()
            .map(|a| route::delete_address(index, *a))
            .collect();
        self.socket.all(requests).map_err(|r| refused(OPEN, r))?;
        Ok(stray.len())
    }
}
