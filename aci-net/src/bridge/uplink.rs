//! The links by which the host is reached from outside: forwarding is switched on there while groups
//! are attached, and only if it was off. Programs with networks of their own share it: each tells the
//! others what it uses, and who closes last switches it off.

use std::path::PathBuf;

use aci_core::error::Result;

use super::host::{DETACH, Host};
use crate::error::refused;
use crate::ipam::Family;
use crate::netlink::route::{self, Ipv4Setting, Link};

const ATTACH: &str = "network.attach";

/// The switch of a link: for IPv6 the one of Linux 6.17, which leaves alone how the host itself
/// finds its addresses and routes.
fn switch(family: Family, link: &str) -> PathBuf {
    let (family, name) = match family {
        Family::V4 => ("ipv4", "forwarding"),
        Family::V6 => ("ipv6", "force_forwarding"),
    };
    ["/proc/sys/net", family, "conf", link, name]
        .iter()
        .collect()
}

fn reads_one(path: &std::path::Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// Whether packets that come in by a link are forwarded.
fn forwards(family: Family, link: &Link) -> bool {
    match family {
        Family::V4 => link.forwards,
        Family::V6 => {
            let file = switch(family, &link.name);
            // Without the switch there is nothing that could be done.
            reads_one("/proc/sys/net/ipv6/conf/all/forwarding".as_ref())
                || reads_one(&file)
                || !file.exists()
        }
    }
}

impl Host {
    /// The links of the default routes and those that are named, with forwarding off, or switched on
    /// by another program like this one.
    pub(super) fn closed_uplinks(
        &mut self,
        family: Family,
        named: &[String],
    ) -> Result<Vec<String>> {
        let routes = self.routes()?;
        let is_default = |link: &Link| {
            routes.iter().any(|r| {
                r.link == Some(link.index)
                    && r.destination.prefix_len() == 0
                    && r.kind == 1
                    && Family::of(&r.destination.addr()) == family
            })
        };
        let mut links = self.links(ATTACH)?;
        let shared = self.uplinks_of_others(&links);
        links.retain(|l| {
            let wanted = named.contains(&l.name) || is_default(l);
            wanted && (!forwards(family, l) || shared.contains(&(family, l.name.clone())))
        });
        Ok(links.into_iter().map(|l| l.name).collect())
    }

    fn uplinks_of_others(&self, links: &[Link]) -> Vec<(Family, String)> {
        let all = links.iter();
        all.flat_map(|l| self.names().uplinks_of_other(l)).collect()
    }

    /// Switches forwarding off on these links, but where another program needs it.
    pub(super) fn release_uplinks(&mut self, uplinks: &[(Family, String)]) -> Result<()> {
        if uplinks.is_empty() {
            return Ok(());
        }
        self.declare(Vec::new())?;
        let links = self.links(DETACH)?;
        let shared = self.uplinks_of_others(&links);
        let own: Vec<_> = uplinks.iter().filter(|u| !shared.contains(u)).collect();
        for (family, name) in &own {
            self.forward_from(*family, std::slice::from_ref(name), false)?;
        }
        // One that came meanwhile has found it on, and relies on it.
        let links = self.links(DETACH)?;
        let late = self.uplinks_of_others(&links);
        for (family, name) in own.into_iter().filter(|u| late.contains(u)) {
            self.forward_from(*family, std::slice::from_ref(name), true)?;
        }
        Ok(())
    }

    /// The indexes of those of these links that are there.
    pub(super) fn indexes(&mut self, names: &[String]) -> Result<Vec<u32>> {
        let links = self.links(ATTACH)?;
        let named = links.iter().filter(|l| names.contains(&l.name));
        Ok(named.map(|l| l.index).collect())
    }

    /// Switches forwarding on or off for packets that come in by these links; returns the indexes of
    /// those that are there.
    pub(super) fn forward_from(
        &mut self,
        family: Family,
        names: &[String],
        on: bool,
    ) -> Result<Vec<u32>> {
        let mut indexes = Vec::new();
        for name in names {
            let found = route::link(self.socket(), name).map_err(|r| refused(ATTACH, r))?;
            let Some(link) = found else { continue };
            indexes.push(link.index);
            if forwards(family, &link) == on {
                continue;
            }
            self.step(if on { "uplink.on" } else { "uplink.off" });
            // Through the file the kernel also stops network cards from merging packets, which must
            // not be forwarded merged. Where the file cannot be written, the setting alone has to do.
            let written = std::fs::write(switch(family, name), if on { "1" } else { "0" });
            if written.is_err() && family == Family::V4 {
                let setting = [(Ipv4Setting::Forwarding, u32::from(on))];
                self.socket()
                    .one(route::set_ipv4(link.index, &setting))
                    .map_err(|r| refused(ATTACH, r))?;
            }
        }
        Ok(indexes)
    }
}
