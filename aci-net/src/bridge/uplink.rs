//! The links by which the host is reached from outside: forwarding is switched on there while groups
//! are attached, and only if it was off.

use std::path::PathBuf;

use aci_core::error::Result;

use super::host::Host;
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
    /// The links of the default routes and those that are named, with forwarding off.
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
        links.retain(|l| (named.contains(&l.name) || is_default(l)) && !forwards(family, l));
        Ok(links.into_iter().map(|l| l.name).collect())
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
