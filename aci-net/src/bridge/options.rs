//! How a [`BridgeNetwork`](super::BridgeNetwork) is opened.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{Clock, SystemClock};
use aci_core::dns_label::DEFAULT_TENANT;

use super::ledger::Bounds;
use ipnet::IpNet;

use crate::dns::DEFAULT_ZONE;
use crate::ipam::{Bandwidth, VirtualNetwork};

/// Settings of a [`BridgeNetwork`](super::BridgeNetwork).
#[derive(Clone)]
pub struct BridgeOptions {
    pub(super) directory: PathBuf,
    pub(super) networks: Option<Vec<VirtualNetwork>>,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) public: Vec<IpNet>,
    pub(super) bounds: Bounds,
    pub(super) rest: Duration,
    pub(super) mtu: Option<u32>,
    pub(super) resolv_conf: PathBuf,
    pub(super) names: bool,
    pub(super) zone: String,
    pub(super) tenant: String,
    pub(super) name_servers: Option<Vec<SocketAddr>>,
    pub(super) outbound: bool,
    pub(super) publish_on: Vec<IpAddr>,
    pub(super) uplinks: Vec<String>,
    pub(super) host: Option<Arc<OwnedFd>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) boot: Option<String>,
    pub(super) firewall: bool,
    pub(super) step: Option<fn(&'static str)>,
}

impl fmt::Debug for BridgeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeOptions")
            .field("directory", &self.directory)
            .field("networks", &self.networks)
            .field("bandwidth", &self.bandwidth)
            .field("public_addresses", &self.public)
            .field("bounds", &self.bounds)
            .field("rest", &self.rest)
            .field("mtu", &self.mtu)
            .field("resolv_conf", &self.resolv_conf)
            .field("outbound", &self.outbound)
            .field("publish_on", &self.publish_on)
            .field("uplinks", &self.uplinks)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl BridgeOptions {
    /// Settings with a state directory, which is made if missing and is used by one program at a
    /// time. Everything else has a default: a free range for the virtual network, 250 groups,
    /// 16,000 addresses, freed addresses rest for 30 seconds, the MTU of the host's default route.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            networks: None,
            bandwidth: None,
            public: Vec::new(),
            bounds: Bounds {
                groups: 250,
                addresses: 16_000,
            },
            rest: Duration::from_secs(30),
            mtu: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            names: true,
            zone: DEFAULT_ZONE.to_owned(),
            tenant: DEFAULT_TENANT.to_owned(),
            name_servers: None,
            outbound: true,
            publish_on: Vec::new(),
            uplinks: Vec::new(),
            host: None,
            clock: Arc::new(SystemClock::default()),
            boot: None,
            firewall: true,
            step: None,
        }
    }

    /// The virtual network. Without it the first of
    /// [`DEFAULT_RANGES`](crate::DEFAULT_RANGES) that touches no route of the host becomes one
    /// subnet named `default`, with IPv6 addresses of its own (RFC 4193) if the host has a default
    /// route for IPv6.
    #[must_use]
    pub fn network(self, network: VirtualNetwork) -> Self {
        self.networks([network])
    }

    /// Several virtual networks. Documents choose by `subnetIds`; those without get the first subnet
    /// of the first. While groups are attached, the subnets that they are in must stay as they are;
    /// everything else may differ from the last time.
    #[must_use]
    pub fn networks(mut self, networks: impl IntoIterator<Item = VirtualNetwork>) -> Self {
        self.networks = Some(networks.into_iter().collect());
        self
    }

    /// Limits what each group sends and receives; none by default. A subnet's own limit
    /// ([`Subnet::bandwidth`](crate::Subnet::bandwidth)) goes before it.
    #[must_use]
    pub const fn bandwidth(mut self, limit: Bandwidth) -> Self {
        self.bandwidth = Some(limit);
        self
    }

    /// Public addresses that are routed to this host, or lie in an IPv4 network of one of its links:
    /// each group with `ipAddress.type: Public` gets one for itself, by which its listed ports are
    /// reached and with which it sends. With them nothing is published on the host's own addresses.
    #[must_use]
    pub fn public_addresses(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Self {
        self.public = ranges.into_iter().collect();
        self
    }

    /// The most groups on this host, 250 by default (Azure's network plugin).
    #[must_use]
    pub const fn max_groups(mut self, groups: usize) -> Self {
        self.bounds.groups = groups;
        self
    }

    /// The most addresses in a virtual network, 16,000 by default (Azure's network plugin).
    #[must_use]
    pub const fn max_addresses(mut self, addresses: usize) -> Self {
        self.bounds.addresses = addresses;
        self
    }

    /// How long a freed address rests before another group gets it; 30 seconds by default.
    #[must_use]
    pub const fn address_rest(mut self, rest: Duration) -> Self {
        self.rest = rest;
        self
    }

    /// The largest packet in bytes, 1280 to 65535; by default that of the link of the host's default
    /// route, or 1500.
    #[must_use]
    pub const fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// The file with the host's resolvers, which groups without `dnsConfig` get; by default
    /// `/etc/resolv.conf`.
    #[must_use]
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.resolv_conf = path.into();
        self
    }

    /// Whether names are served: on the gateways' addresses, to groups without `dnsConfig`. On by
    /// default.
    #[must_use]
    pub const fn names(mut self, names: bool) -> Self {
        self.names = names;
        self
    }

    /// The zone that names end in, `<label>.<region>.<zone>`; by default `aci.internal`. All names
    /// in it are ours: choose none that is also served elsewhere, such as `azurecontainer.io`,
    /// unless it is to be hidden.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// The tenant's id, which the names of `TenantReuse` and narrower scopes are made of; zeros by
    /// default.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// The servers that are asked for all other names, instead of those of
    /// [`resolv_conf`](Self::resolv_conf).
    #[must_use]
    pub fn name_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.name_servers = Some(servers.into_iter().collect());
        self
    }

    /// Whether groups reach what is outside of the host, with the host's address as sender; on by
    /// default. Port 25 stays closed, as in Azure.
    #[must_use]
    pub const fn outbound(mut self, outbound: bool) -> Self {
        self.outbound = outbound;
        self
    }

    /// The addresses of the host on which the ports of groups with `ipAddress.type: Public` are
    /// published; `0.0.0.0` and `::` for all. None by default: then groups with the same port stand side by
    /// side, each reached by its own address. Port 53 of the gateways' addresses stays with the network's
    /// own name server ([`names`](Self::names)).
    #[must_use]
    pub fn publish_on(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.publish_on = addresses.into_iter().collect();
        self
    }

    /// Links of the host by which it is reached from outside, besides those of its default routes.
    /// While groups are attached, what comes in by them is forwarded to groups, where it was not
    /// forwarded before.
    #[must_use]
    pub fn uplinks(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.uplinks = names.into_iter().collect();
        self
    }

    /// The network namespace that plays the host; by default that of the thread that opens the
    /// network.
    #[must_use]
    pub fn host_namespace(mut self, namespace: OwnedFd) -> Self {
        self.host = Some(Arc::new(namespace));
        self
    }

    /// The clock by which addresses rest; by default the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Plays a kernel without nf_tables.
    #[cfg(test)]
    pub(super) const fn without_firewall(mut self) -> Self {
        self.firewall = false;
        self
    }

    /// Plays another boot of the machine.
    #[cfg(test)]
    pub(super) fn boot(mut self, boot: &str) -> Self {
        self.boot = Some(boot.to_owned());
        self
    }

    /// Called with the name of each step, before it; where a test kills the program.
    #[cfg(test)]
    pub(super) const fn step(mut self, step: fn(&'static str)) -> Self {
        self.step = Some(step);
        self
    }
}
