//! Limits of what a group sends and receives. What it receives waits before the host's end of its
//! pair; what it sends is led through a link of its own and waits there, outside of the group's reach.

use super::Host;
use crate::bridge::ledger::Entry;
use crate::ipam::Bandwidth;
use crate::netlink::{Refusal, route, traffic};

/// What may wait, as a part of a second: a twentieth.
const WAIT: u64 = 20;
/// What may pass at once: a hundredth of a second's worth, but two of the largest packets (which the
/// kernel splits only where it has to).
const AT_ONCE: u64 = 100;
const LEAST: u64 = 2 * 65_536;

fn token_bucket(index: u32, bits: u64) -> crate::netlink::codec::Request {
    let rate = bits / 8;
    let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let burst = small((rate / AT_ONCE).max(LEAST));
    let queue = small((rate / WAIT).max(LEAST)).saturating_add(burst);
    traffic::limit(index, rate, burst, queue)
}

impl Host {
    pub(super) fn shape(
        &mut self,
        entry: &Entry,
        index: u32,
        limit: Bandwidth,
    ) -> Result<(), Refusal> {
        self.step("attach.limit");
        let mut requests = Vec::new();
        if let Some(bits) = limit.inbound() {
            requests.push(token_bucket(index, bits));
        }
        if let Some(bits) = limit.outbound() {
            let name = self.names.shaper(&entry.attachment.sandbox);
            let shaper = match route::link(&mut self.socket, &name)? {
                Some(link) => link.index,
                None => {
                    let group = self.names.live_group();
                    self.socket.one(route::new_shaper(&name, group, self.mtu))?;
                    self.index_of(&name)?
                }
            };
            let alias = self.names.alias(&entry.attachment.sandbox);
            requests.extend([
                route::configure(shaper, Some(&alias), &[], self.ipv6),
                route::set_up(shaper),
                token_bucket(shaper, bits),
                traffic::ingress(index),
                traffic::redirect(index, shaper),
            ]);
        }
        self.socket.all(requests)
    }
}
