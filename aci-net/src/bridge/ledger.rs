//! Who is attached and with which addresses: a pure value that changes by records, so that a
//! journal of records gives the same value again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aci_core::contract::{Attachment, DnsSettings, PublishedPort};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::{GroupRef, SandboxId};
use aci_core::model::Protocol;
use aci_core::time::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::firewall::protocol_number;
use crate::ipam::{Bandwidth, Family, Pool, PublicPool, Subnet, Taken, VirtualNetwork};

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
    /// The virtual network's name.
    pub(crate) network: String,
    /// The subnet's name.
    pub(crate) subnet: String,
    /// Its public addresses, one of a family at most.
    pub(crate) public: Vec<IpAddr>,
    /// Protocol numbers and ports of the document's `ipAddress`, by which alone it is reached.
    pub(crate) listed: Option<Vec<(u8, u16)>>,
    /// The limit of what it sends and receives.
    pub(crate) bandwidth: Option<Bandwidth>,
    /// The group, which decides who finds it by its name.
    pub(crate) group: GroupRef,
    /// Its host name.
    pub(crate) hostname: String,
}

impl Entry {
    /// Its own addresses and its public ones.
    pub(crate) fn all_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let own = self.attachment.addresses.iter().map(IpNet::addr);
        own.chain(self.public.iter().copied())
    }

    /// Whether its subnet, with the ranges of its addresses, is among these networks.
    pub(crate) fn fits(&self, networks: &[VirtualNetwork]) -> bool {
        let network = networks.iter().find(|n| n.name() == self.network);
        let subnet = network.and_then(|n| n.subnets().iter().find(|s| s.name() == self.subnet));
        subnet.is_some_and(|s| {
            let mut own = self.attachment.addresses.iter();
            own.all(|a| s.prefixes().contains(&a.trunc()))
        })
    }
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
    Uplinks(Family, Vec<String>),
}

/// Upper bounds, those of Azure's network plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Groups on this host.
    pub(crate) groups: usize,
    /// Addresses in a virtual network.
    pub(crate) addresses: usize,
}

/// What a sandbox wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) sandbox: &'a SandboxId,
    pub(crate) link: String,
    pub(crate) network: &'a VirtualNetwork,
    pub(crate) subnet: &'a Subnet,
    /// A certain address instead of any.
    pub(crate) fixed: Option<IpAddr>,
    /// Whether the document asks for an `ipAddress`.
    pub(crate) shown: bool,
    pub(crate) dns: DnsSettings,
    pub(crate) group: &'a GroupRef,
    pub(crate) hostname: &'a str,
    /// The whole name of its label.
    pub(crate) fqdn: Option<String>,
    /// Ports of the host that lead to it.
    pub(crate) published: Vec<PublishedPort>,
    /// The ports of a public address of its own, if it is to have one.
    pub(crate) public: Option<Vec<(Protocol, u16)>>,
    /// The document's ports, if it has an `ipAddress`.
    pub(crate) listed: Option<Vec<(Protocol, u16)>>,
    pub(crate) bandwidth: Option<Bandwidth>,
}

/// All attachments and the addresses of the virtual networks.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// With the name of the virtual network of each.
    pools: Vec<(String, Pool)>,
    public: PublicPool,
    entries: BTreeMap<SandboxId, Entry>,
    uplinks: [Vec<String>; 2],
}

impl Ledger {
    /// Nothing attached.
    pub(crate) fn new(networks: &[VirtualNetwork], public: PublicPool) -> Self {
        let pools = networks.iter().flat_map(|network| {
            let prefixes = network.subnets().iter().flat_map(Subnet::prefixes);
            prefixes.map(|prefix| (network.name().to_owned(), Pool::new(*prefix)))
        });
        Self {
            pools: pools.collect(),
            public,
            entries: BTreeMap::new(),
            uplinks: Default::default(),
        }
    }

    /// The links of the host on which we switched forwarding on.
    pub(crate) fn uplinks(&self, family: Family) -> &[String] {
        &self.uplinks[family as usize]
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
        self.pools.iter().map(|(_, pool)| pool.used()).sum()
    }

    /// How many public addresses are taken.
    pub(crate) fn public_addresses(&self) -> usize {
        self.public.used()
    }

    /// How many addresses rest.
    pub(crate) fn resting(&self) -> usize {
        let own = self.pools.iter().map(|(_, pool)| pool.resting().count());
        own.sum::<usize>() + self.public.resting().count()
    }

    /// The records that lead from an empty ledger to this one.
    pub(crate) fn records(&self) -> Vec<Record> {
        let resting = self
            .pools
            .iter()
            .flat_map(|(_, pool)| pool.resting())
            .chain(self.public.resting())
            .map(|(address, until)| Record::Rest(address, until));
        let entries = self
            .entries
            .values()
            .map(|entry| Record::Intend(Box::new(entry.clone())));
        let uplinks = Family::BOTH.into_iter().filter_map(|family| {
            let names = self.uplinks(family);
            (!names.is_empty()).then(|| Record::Uplinks(family, names.to_vec()))
        });
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
            .code("ContainerGroupQuotaReached")
            .hint("delete a group, or open the network with a larger `max_groups`"));
        }
        let wanted = wish.subnet.prefixes().len();
        let name = wish.network.name();
        let of_network = self.pools.iter().filter(|(network, _)| network == name);
        let used: usize = of_network.map(|(_, pool)| pool.used()).sum();
        if used + wanted > bounds.addresses {
            return Err(full(format!(
                "{used} addresses of virtual network '{name}' are in use, which is the most that are allowed"
            ))
            .code("SubnetIsFull")
            .hint("delete a group, or open the network with a larger `max_addresses`"));
        }
        for port in &wish.published {
            self.check_port(port)?;
        }
        if let Some(fqdn) = &wish.fqdn {
            self.check_name(fqdn)?;
        }
        let mut addresses = Vec::with_capacity(wanted);
        for prefix in wish.subnet.prefixes() {
            let pool = self
                .pools
                .iter_mut()
                .map(|(_, pool)| pool)
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
        let mut published = wish.published;
        let mut public = Vec::new();
        for family in Family::BOTH {
            let has = addresses.iter().any(|a| Family::of(&a.addr()) == family);
            let Some(ports) = wish
                .public
                .as_ref()
                .filter(|_| has && self.public.has(family))
            else {
                continue;
            };
            let address = self.public.choose(family, now)?;
            public.push(address);
            published.extend(ports.iter().map(|(protocol, port)| PublishedPort {
                protocol: protocol.clone(),
                address,
                port: *port,
            }));
        }
        // The address that others use: the public one, a published one, or the group's own.
        let certain = published
            .iter()
            .map(|p| p.address)
            .find(|a| !a.is_unspecified());
        let own = addresses.first().map(IpNet::addr);
        let shown = certain.or(own).filter(|_| wish.shown);
        let listed = wish.listed.map(|ports| {
            let number = |(protocol, port): (Protocol, u16)| (protocol_number(&protocol), port);
            ports.into_iter().map(number).collect()
        });
        Ok(Entry {
            network: name.to_owned(),
            subnet: wish.subnet.name().to_owned(),
            public,
            listed,
            bandwidth: wish.bandwidth,
            group: wish.group.clone(),
            hostname: wish.hostname.to_owned(),
            attachment: Attachment {
                sandbox: wish.sandbox.clone(),
                addresses,
                ip: shown,
                fqdn: wish.fqdn,
                published,
                dns: wish.dns,
            },
            link: wish.link,
            phase: Phase::Intended,
            ready: true,
        })
    }

    /// Refuses a name that another group has.
    fn check_name(&self, fqdn: &str) -> Result<()> {
        let has = |e: &&Entry| e.attachment.fqdn.as_deref() == Some(fqdn);
        if self.entries.values().any(|e| has(&e)) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                ATTACH,
                format!("ipAddress.dnsNameLabel: the name '{fqdn}' is not available"),
            )
            .code("DnsNameLabelNotAvailable")
            .hint("choose another label, or another autoGeneratedDomainNameLabelScope"));
        }
        Ok(())
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
                    if !self.pools.iter_mut().any(|(_, pool)| pool.take(address)) {
                        for address in taken {
                            self.rest(address, Timestamp::EPOCH);
                        }
                        return Err(format!(
                            "address {address} of sandbox {sandbox} is taken or in no subnet"
                        ));
                    }
                    taken.push(address);
                }
                for address in &entry.public {
                    if !self.public.take(*address) {
                        for address in taken {
                            self.rest(address, Timestamp::EPOCH);
                        }
                        return Err(format!(
                            "public address {address} of sandbox {sandbox} is taken"
                        ));
                    }
                    taken.push(*address);
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
                for address in entry.all_addresses() {
                    self.rest(address, *until);
                }
            }
            Record::Rest(address, until) => self.rest(*address, *until),
            Record::Uplinks(family, links) => self.uplinks[*family as usize].clone_from(links),
        }
        Ok(())
    }

    fn entry(&mut self, sandbox: &SandboxId) -> Result<&mut Entry, String> {
        self.entries
            .get_mut(sandbox)
            .ok_or_else(|| format!("sandbox {sandbox} is not attached"))
    }

    fn rest(&mut self, address: IpAddr, until: Timestamp) {
        for (_, pool) in &mut self.pools {
            pool.rest(address, until);
        }
        self.public.rest(address, until);
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
