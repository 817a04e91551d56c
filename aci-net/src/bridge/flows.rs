//! Connections that the kernel must forget, because their addresses or ports lead elsewhere from now
//! on: a flow that goes on would otherwise never reach its new target.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::firewall::PortKey;
use crate::netlink::conntrack::{self, Flow};
use crate::netlink::{Refusal, Socket, nft};

/// The kernel's connections. A kernel that does not tell of them lets them end by themselves.
#[derive(Debug)]
pub(super) struct Flows {
    socket: Option<Socket>,
}

impl Flows {
    /// Those of the calling thread's network namespace.
    pub(super) fn open() -> Self {
        Self {
            socket: Socket::open(nft::PROTOCOL).ok(),
        }
    }

    fn forget(&mut self, chosen: impl FnMut(&Flow) -> bool) -> usize {
        let forgotten: Option<Result<usize, Refusal>> = self
            .socket
            .as_mut()
            .map(|socket| conntrack::forget(socket, chosen));
        match forgotten {
            Some(Ok(count)) => {
                tracing::debug!(count, "forgot connections");
                count
            }
            Some(Err(refusal)) => {
                tracing::warn!(%refusal, what = refusal.what, "connections stay");
                0
            }
            None => 0,
        }
    }

    /// Forgets connections from or to these addresses.
    pub(super) fn of_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> usize {
        self.forget(|flow| involves(flow, |a| addresses.contains(a)))
    }

    /// Forgets connections to published ports that lead elsewhere now.
    pub(super) fn of_ports(&mut self, ports: &BTreeMap<PortKey, IpAddr>) -> usize {
        self.forget(|flow| {
            ports.iter().any(|(key, to)| {
                key.protocol == flow.protocol
                    && key.port == flow.port
                    && (key.address == flow.to || key.address.is_unspecified())
                    && *to != flow.answers
                    && *to != flow.to
            })
        })
    }

    /// Forgets connections of addresses in these ranges that nobody has.
    pub(super) fn of_nobody(&mut self, ranges: &[IpNet], taken: &BTreeSet<IpAddr>) -> usize {
        let ours = |a: &IpAddr| ranges.iter().any(|r| r.contains(a));
        self.forget(|flow| involves(flow, |a| ours(a) && !taken.contains(a)))
    }
}

fn involves(flow: &Flow, mut chosen: impl FnMut(&IpAddr) -> bool) -> bool {
    chosen(&flow.from) || chosen(&flow.to) || chosen(&flow.answers)
}
