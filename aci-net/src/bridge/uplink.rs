//! The links by which the host is reached from outside: forwarding is switched on there while groups
//! are attached, and only if it was off.

use std::path::PathBuf;

use aci_core::error::Result;

use super::host::Host;
use crate::error::refused;
use crate::netlink::route::{self, Ipv4Setting, Link};

const ATTACH: &str = "network.attach";

impl Host {
    /// The links of the default routes and those that are named, with IPv4 forwarding off.
    pub(super) fn closed_uplinks(&mut self, named: &[String]) -> Result<Vec<String>> {
        let routes = self.routes()?;
        let is_default = |link: &Link| {
            routes.iter().any(|r| {
                r.link == Some(link.index)
                    && r.destination.prefix_len() == 0
                    && r.destination.addr().is_ipv4()
            })
        };
        let mut links = self.links(ATTACH)?;
        links.retain(|l| !l.forwards && (named.contains(&l.name) || is_default(l)));
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
    pub(super) fn forward_from(&mut self, names: &[String], on: bool) -> Result<Vec<u32>> {
        let mut indexes = Vec::new();
        for name in names {
            let found = route::link(self.socket(), name).map_err(|r| refused(ATTACH, r))?;
            let Some(link) = found else { continue };
            indexes.push(link.index);
            if link.forwards == on {
                continue;
            }
            self.step(if on { "uplink.on" } else { "uplink.off" });
            // Through the file the kernel also stops network cards from merging packets, which must
            // not be forwarded merged. Where the file cannot be written, the setting alone has to do.
            let path: PathBuf = ["/proc/sys/net/ipv4/conf", name.as_str(), "forwarding"]
                .iter()
                .collect();
            if std::fs::write(&path, if on { "1" } else { "0" }).is_err() {
                let setting = [(Ipv4Setting::Forwarding, u32::from(on))];
                self.socket()
                    .one(route::set_ipv4(link.index, &setting))
                    .map_err(|r| refused(ATTACH, r))?;
            }
        }
        Ok(indexes)
    }
}
