//! Names: the server follows the ledger.

use std::net::IpAddr;

use aci_core::contract::{AttachRequest, DnsSettings};
use aci_core::dns_label::{self, Owner};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use ipnet::IpNet;

use super::Worker;
use crate::bridge::host::ranges;
use crate::bridge::ledger::{ATTACH, Entry, Phase};
use crate::bridge::options::BridgeOptions;
use crate::dns::{self, Member};
use crate::ipam::{Subnet, gateway};
use crate::resolv::{self, HostFile};

/// Whether names are served, for groups that are attached now.
pub(super) enum Naming {
    Served,
    /// Switched off.
    Off,
    /// The reason.
    Broken(std::io::Error),
}

impl Worker {
    fn gateways(&self) -> Vec<IpAddr> {
        ranges_of(&self.header.networks).map(gateway).collect()
    }

    /// Lets the name server run; for the first group and whenever it could not before.
    pub(super) fn serve_names(&mut self) -> Naming {
        if !self.options.names {
            return Naming::Off;
        }
        let gateways = self.gateways();
        match self.server.ensure(&gateways) {
            Ok(()) => Naming::Served,
            Err(error) => {
                tracing::error!(%error, "names cannot be served: port 53 of the gateways' addresses cannot be had");
                Naming::Broken(error)
            }
        }
    }

    /// Tells the name server who is there; without anybody it ends.
    pub(super) fn publish_names(&mut self) {
        let standing = |e: &&Entry| e.phase != Phase::Leaving;
        let members: Vec<Member> = self.ledger.entries().filter(standing).map(member).collect();
        let ranges = ranges(&self.header.networks);
        self.server.publish(ranges, self.gateways(), members);
    }

    /// Tells the name server of further groups.
    pub(super) fn add_names<'a>(&self, sandboxes: impl IntoIterator<Item = &'a SandboxId>) {
        let entries = sandboxes.into_iter().filter_map(|s| self.ledger.get(s));
        self.server.add(entries.map(member));
    }

    /// Tells the name server of groups that leave.
    pub(super) fn remove_names<'a>(&mut self, sandboxes: impl IntoIterator<Item = &'a SandboxId>) {
        let entries = sandboxes.into_iter().filter_map(|s| self.ledger.get(s));
        let firsts = entries.filter_map(|e| Some(e.attachment.addresses.first()?.addr()));
        self.server.remove(firsts);
    }
}

fn ranges_of(networks: &[crate::ipam::VirtualNetwork]) -> impl Iterator<Item = &IpNet> {
    let subnets = networks.iter().flat_map(|n| n.subnets());
    subnets.flat_map(Subnet::prefixes)
}

fn member(entry: &Entry) -> Member {
    let addresses: Vec<IpAddr> = entry.attachment.addresses.iter().map(IpNet::addr).collect();
    Member {
        network: entry.network.clone(),
        subscription: entry.group.subscription().to_owned(),
        resource_group: entry.group.resource_group().to_owned(),
        hostname: entry.hostname.to_ascii_lowercase(),
        fqdn: entry.attachment.fqdn.clone(),
        shown: if entry.public.is_empty() {
            addresses.clone()
        } else {
            entry.public.clone()
        },
        addresses,
    }
}

/// The whole name that a request's label becomes.
pub(super) fn fqdn(
    request: &AttachRequest,
    options: &BridgeOptions,
    naming: &Naming,
) -> Result<Option<String>> {
    let owner = Owner {
        tenant: &options.tenant,
        group: &request.group,
        sandbox: &request.sandbox,
    };
    let address = request.ip_address.as_ref();
    let Some(name) = address.and_then(|a| dns_label::name(a, &request.location, &owner)) else {
        return Ok(None);
    };
    match naming {
        Naming::Served => Ok(Some(format!("{name}.{}", options.zone))),
        Naming::Off => Ok(None),
        Naming::Broken(error) => Err(Error::new(
            ErrorKind::Unavailable,
            ATTACH,
            format!(
                "ipAddress.dnsNameLabel: '{name}' cannot be served, because port 53 of the subnets' gateways cannot be had: {error}"
            ),
        )
        .on(&request.sandbox)
        .hint("let the host's own name server listen on its own addresses only, not on all")),
    }
}

/// What the containers are told: the document's settings, or our server, or the host's.
pub(super) fn settings(
    request: &AttachRequest,
    subnet: &Subnet,
    options: &BridgeOptions,
    host: &mut HostFile,
    naming: &Naming,
) -> Result<DnsSettings> {
    if let Some(dns) = &request.dns {
        return resolv::from_document(dns);
    }
    let mut settings = host.settings();
    if let Naming::Served = naming {
        settings.name_servers = subnet.prefixes().iter().map(gateway).collect();
        settings.search.insert(0, dns::search(&options.zone));
    }
    Ok(settings)
}
