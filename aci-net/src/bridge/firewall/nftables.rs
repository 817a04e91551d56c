//! The firewall of Linux, nf_tables: one table of our own, changed by transactions.

use rustix::io::Errno;

use super::compile::{self, Table};
use super::{Elements, Firewall, Rules};
use crate::netlink::codec::Request;
use crate::netlink::nft;
use crate::netlink::{Refusal, Socket};

/// Elements in one message: the length of its list has 16 bits.
const CHUNK: usize = 256;

/// The table of one driver.
#[derive(Debug)]
pub(in crate::bridge) struct Nftables {
    socket: Socket,
    table: String,
}

impl Nftables {
    /// A firewall in the calling thread's network namespace. What stands there under the table's
    /// name is replaced by the first rules.
    pub(in crate::bridge) fn open(table: String) -> Result<Self, Refusal> {
        let mut socket = Socket::open(nft::PROTOCOL)
            .map_err(|e| Refusal::io("open a socket to the firewall", &e))?;
        // A table of many rules is one message.
        socket.allow_large();
        Ok(Self { socket, table })
    }

    fn send(&mut self, requests: Vec<Request>) -> Result<(), Refusal> {
        self.socket.transaction(nft::begin(), requests, nft::end())
    }
}

impl Firewall for Nftables {
    fn check(&mut self) -> Result<(), Refusal> {
        // Made and deleted within one transaction, so nothing of it is ever in force.
        let table = format!("{}-check", self.table);
        let rules = Rules {
            outbound: true,
            names: true,
            metadata: Some(1),
            ..Rules::default()
        };
        let mut requests = whole(&table, &rules, &Elements::default());
        requests.push(nft::delete_table(&table));
        self.send(requests)
    }

    fn replace(&mut self, rules: &Rules, elements: &Elements) -> Result<(), Refusal> {
        // Making the table first lets its deletion succeed whether it stood or not.
        let mut requests = vec![nft::new_table(&self.table), nft::delete_table(&self.table)];
        requests.extend(whole(&self.table, rules, elements));
        self.send(requests)
    }

    fn change(&mut self, out: &Elements, into: &Elements) -> Result<(), Refusal> {
        let mut requests = Vec::new();
        for (set, elements) in compile::elements(out) {
            for chunk in elements.chunks(CHUNK) {
                requests.push(nft::delete_elements(&self.table, &set, chunk));
            }
        }
        requests.extend(fill(&self.table, compile::elements(into)));
        if requests.is_empty() {
            return Ok(());
        }
        self.send(requests)
    }

    fn remove(&mut self) -> Result<(), Refusal> {
        match self.send(vec![nft::delete_table(&self.table)]) {
            Err(refusal) if refusal.errno == Errno::NOENT => Ok(()),
            other => other,
        }
    }
}

fn fill(table: &str, lists: Vec<(nft::Name, Vec<nft::Element>)>) -> Vec<Request> {
    let mut requests = Vec::new();
    for (set, elements) in lists {
        for chunk in elements.chunks(CHUNK) {
            requests.push(nft::add_elements(table, &set, chunk));
        }
    }
    requests
}

/// The requests that make the table.
fn whole(table: &str, rules: &Rules, elements: &Elements) -> Vec<Request> {
    let Table {
        sets,
        chains,
        hooks,
        rules,
        elements: fixed,
    } = compile::table(rules);
    let mut requests = vec![nft::new_table(table)];
    requests.extend(sets.iter().map(|set| nft::new_set(table, set)));
    requests.extend(fill(table, fixed));
    for (name, hook) in hooks {
        requests.push(nft::new_chain(table, &name, hook));
    }
    for name in chains {
        requests.push(nft::new_plain_chain(table, &name));
    }
    for (chain, steps) in rules {
        requests.push(nft::new_rule(table, &chain, &steps));
    }
    requests.extend(fill(table, compile::elements(elements)));
    requests
}

#[cfg(test)]
mod tests;
