//! Who is attached and with which addresses: a pure value that changes by records, so that a
//! journal of records gives the same value again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aci_core::contract::{Attachment, DnsSettings, PublishedPort};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::time::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ipam::{Pool, Subnet, Taken, VirtualNetwork};

pub(super) const ATTACH: &str = "network.attach";

/// How far an attachment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// It may be made in part.
    Intended,
    /// It is made.
    Attached,
    /// It may be removed in part.
    Leaving,
}

/// A sandbox's place in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What the engine was or will be told.
    pub(crate) attachment: Attachment,
    /// The name of the host's link.
    pub(crate) link: String,
    /// How far it has come.
    pub(crate) phase: Phase,
    /// Whether traffic from outside may come in.
    pub(crate) ready: bool,
}

/// A change of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// An attachment begins; its addresses are taken.
    Intend(Box<Entry>),
    /// An attachment is made.
    Commit(SandboxId),
    /// Traffic is let in or withheld.
    Ready(SandboxId, bool),
    /// A detachment begins.
    Leave(SandboxId),
    /// A detachment is done; its addresses rest until then.
    Free(SandboxId, Timestamp),
    /// An address rests until then.
    Rest(IpAddr, Timestamp),
    /// The links of the host on which we switch forwarding on; it was off before.
    Uplinks(Vec<String>),
}

/// Upper bounds, those of Azure's network plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Groups on this host.
    pub(crate) groups: usize,
    /// Addresses in the virtual network.
    pub(crate) addresses: usize,
}

/// What a sandbox wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) sandbox: &'a SandboxId,
    pub(crate) link: String,
    pub(crate) subnet: &'a Subnet,
    /// A certain address instead of any.
    pub(crate) fixed: Option<IpAddr>,
    /// Whether the document asks for an `ipAddress`.
    pub(crate) shown: bool,
    pub(crate) dns: DnsSettings,
    /// Ports of the host that lead to it.
    pub(crate) published: Vec<PublishedPort>,
}

/// All attachments and the addresses of one virtual network.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pools: Vec<Pool>,
    entries: BTreeMap<SandboxId, Entry>,
    uplinks: Vec<String>,
}

impl Ledger {
    /// Nothing attached.
    pub(crate) fn new(network: &VirtualNetwork) -> Self {
        Self {
            pools: network
                .subnets()
                .iter()
                .flat_map(Subnet::prefixes)
                .map(|prefix| Pool::new(*prefix))
                .collect(),
            entries: BTreeMap::new(),
            uplinks: Vec::new(),
        }
    }

    /// The links of the host on which we switched forwarding on.
    pub(crate) fn uplinks(&self) -> &[String] {
        &self.uplinks
    }

    /// All entries, by sandbox.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// A sandbox's entry.
    pub(crate) fn get(&self, sandbox: &SandboxId) -> Option<&Entry> {
        self.entries.get(sandbox)
    }

    /// How many sandboxes have an entry.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many addresses are taken.
    pub(crate) fn addresses(&self) -> usize {
        self.pools.iter().map(Pool::used).sum()
    }

    /// The records that lead from an empty ledger to this one.
    pub(crate) fn records(&self) -> Vec<Record> {
        let resting = self
            .pools
            .iter()
            .flat_map(Pool::resting)
            .map(|(address, until)| Record::Rest(address, until));
        let entries = self
            .entries
            .values()
            .map(|entry| Record::Intend(Box::new(entry.clone())));
        let uplinks = (!self.uplinks.is_empty()).then(|| Record::Uplinks(self.uplinks.clone()));
        resting.chain(entries).chain(uplinks).collect()
    }

    /// Decides a new attachment: which addresses it gets. Changes nothing but the order in which
    /// addresses are given out; the caller applies [`Record::Intend`].
    pub(crate) fn plan(&mut self, wish: Wish<'_>, bounds: Bounds, now: Timestamp) -> Result<Entry> {
        let full = |message: String| Error::new(ErrorKind::Exhausted, ATTACH, message);
        if self.entries.len() >= bounds.groups {
            return Err(full(format!(
                "{} groups of this host have a network, which is the most that are allowed",
                self.entries.len()
            ))
            .hint("delete a group, or open the network with a larger `max_groups`"));
        }
        let wanted = wish.subnet.prefixes().len();
        if self.addresses() + wanted > bounds.addresses {
            return Err(full(format!(
                "{} addresses of the virtual network are in use, which is the most that are allowed",
                self.addresses()
            ))
            .hint("delete a group, or open the network with a larger `max_addresses`"));
        }
        for port in &wish.published {
            self.check_port(port)?;
        }
        let mut addresses = Vec::with_capacity(wanted);
        for prefix in wish.subnet.prefixes() {
            let pool = self
                .pools
                .iter_mut()
                .find(|pool| pool.prefix() == *prefix)
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Invalid,
                        ATTACH,
                        format!("the virtual network has no range {prefix}"),
                    )
                })?;
            let fixed = wish
                .fixed
                .filter(|a| a.is_ipv4() == prefix.addr().is_ipv4());
            let address = match fixed {
                Some(address) => {
                    pool.check(address, now)
                        .map_err(|taken| refused(address, prefix, taken))?;
                    address
                }
                None => pool
                    .choose(now)
                    .ok_or_else(|| none_left(pool, wish.subnet))?,
            };
            addresses.push(with_prefix(address, prefix));
        }
        let shown = addresses.first().map(IpNet::addr).filter(|_| wish.shown);
        Ok(Entry {
            attachment: Attachment {
                sandbox: wish.sandbox.clone(),
                addresses,
                ip: shown,
                fqdn: None,
                published: wish.published,
                dns: wish.dns,
            },
            link: wish.link,
            phase: Phase::Intended,
            ready: true,
        })
    }

    /// Refuses a port that another group has, on the same address or on all of them.
    fn check_port(&self, wanted: &PublishedPort) -> Result<()> {
        let clash = |other: &&PublishedPort| {
            other.port == wanted.port
                && other.protocol == wanted.protocol
                && other.address.is_ipv4() == wanted.address.is_ipv4()
                && (other.address == wanted.address
                    || other.address.is_unspecified()
                    || wanted.address.is_unspecified())
        };
        let owner = self
            .entries
            .values()
            .find(|e| e.attachment.published.iter().find(clash).is_some());
        match owner {
            None => Ok(()),
            Some(entry) => Err(port_taken(
                wanted,
                &format!("sandbox {} has it", entry.attachment.sandbox),
            )),
        }
    }

    /// Carries a record out.
    ///
    /// # Errors
    /// A sentence if the record does not follow from the state; then nothing is changed.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Intend(entry) => {
                let sandbox = &entry.attachment.sandbox;
                if self.entries.contains_key(sandbox) {
                    return Err(format!("sandbox {sandbox} is attached twice"));
                }
                let mut taken = Vec::new();
                for address in &entry.attachment.addresses {
                    let address = address.addr();
                    if !self.pools.iter_mut().any(|pool| pool.take(address)) {
                        for address in taken {
                            self.rest(address, Timestamp::EPOCH);
                        }
                        return Err(format!(
                            "address {address} of sandbox {sandbox} is taken or in no subnet"
                        ));
                    }
                    taken.push(address);
                }
                self.entries.insert(sandbox.clone(), Entry::clone(entry));
            }
            Record::Commit(sandbox) => self.entry(sandbox)?.phase = Phase::Attached,
            Record::Ready(sandbox, ready) => self.entry(sandbox)?.ready = *ready,
            Record::Leave(sandbox) => self.entry(sandbox)?.phase = Phase::Leaving,
            Record::Free(sandbox, until) => {
                let entry = self
                    .entries
                    .remove(sandbox)
                    .ok_or_else(|| format!("sandbox {sandbox} is not attached"))?;
                for address in &entry.attachment.addresses {
                    self.rest(address.addr(), *until);
                }
            }
            Record::Rest(address, until) => self.rest(*address, *until),
            Record::Uplinks(links) => self.uplinks.clone_from(links),
        }
        Ok(())
    }

    fn entry(&mut self, sandbox: &SandboxId) -> Result<&mut Entry, String> {
        self.entries
            .get_mut(sandbox)
            .ok_or_else(|| format!("sandbox {sandbox} is not attached"))
    }

    fn rest(&mut self, address: IpAddr, until: Timestamp) {
        for pool in &mut self.pools {
            pool.rest(address, until);
        }
    }
}

/// The error for a port of the host that cannot be had.
pub(super) fn port_taken(port: &PublishedPort, why: &str) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        ATTACH,
        format!(
            "ipAddress.ports: {} port {} of the host cannot be published on {}: {why}",
            port.protocol, port.port, port.address
        ),
    )
    .hint("choose another port, or publish the groups on different addresses of the host")
}

fn with_prefix(address: IpAddr, prefix: &IpNet) -> IpNet {
    IpNet::new(address, prefix.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
}

fn refused(address: IpAddr, prefix: &IpNet, taken: Taken) -> Error {
    let error = |kind, code: &str, why: String| {
        Error::new(
            kind,
            ATTACH,
            format!("ipAddress.ip {address} cannot be given: {why}"),
        )
        .code(code)
    };
    match taken {
        Taken::Outside => error(
            ErrorKind::Invalid,
            "PrivateIPAddressNotInSubnet",
            format!("it is not in the subnet's range {prefix}"),
        ),
        Taken::Reserved => error(
            ErrorKind::Invalid,
            "PrivateIPAddressInReservedRange",
            format!("the first four addresses and the last one of {prefix} are reserved"),
        ),
        Taken::InUse => error(
            ErrorKind::AlreadyExists,
            "PrivateIPAddressIsAllocated",
            "another group has it".to_owned(),
        ),
        Taken::Resting(until) => error(
            ErrorKind::Conflict,
            "PrivateIPAddressIsAllocated",
            format!("it was another group's and rests until {until}"),
        ),
    }
}

fn none_left(pool: &Pool, subnet: &Subnet) -> Error {
    let mut message = format!(
        "subnet '{}' ({}) has no free address: {} are in use",
        subnet.name(),
        pool.prefix(),
        pool.used()
    );
    if let Some(until) = pool.next_free() {
        message.push_str(&format!(
            ", the next of the others is free again at {until}"
        ));
    }
    Error::new(ErrorKind::Exhausted, ATTACH, message)
        .code("SubnetIsFull")
        .hint("delete a group, or open the network with a larger subnet")
}

#[cfg(test)]
mod tests;
