//! How a group is reached.

use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::isolation::NetworkEndpoint;
use crate::error::Result;
use crate::id::{GroupRef, SandboxId};
use crate::model::{DnsConfiguration, IpAddress, Protocol};

/// What a network driver can do on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCapability {
    /// The implementation's name, for example `bridge`.
    pub name: String,
    /// Whether groups get an address that the host and other groups reach.
    pub addresses: bool,
    /// Whether ports can be published on the host.
    pub publish: bool,
    /// Whether groups reach the internet.
    pub outbound: bool,
    /// Whether names (`dnsNameLabel`) are served.
    pub names: bool,
    /// Each missing ability in one sentence for an operator, with what would bring it.
    pub missing: Vec<String>,
}

/// A group's wish for a network.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its end.
    pub endpoint: NetworkEndpoint,
    /// The group, which scopes of name labels and the names within a network are made of.
    pub group: GroupRef,
    /// The document's `location`; empty if it has none.
    pub location: String,
    /// The group's name, for host names.
    pub hostname: String,
    /// The document's `ipAddress`, if any.
    pub ip_address: Option<IpAddress>,
    /// The document's subnets, as ARM ids; empty for the default network.
    pub subnets: Vec<String>,
    /// The document's `dnsConfig`, if any.
    pub dns: Option<DnsConfiguration>,
}

/// A port of the host that leads to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: IpAddr,
    /// The port, outside and inside (ACI maps no ports).
    pub port: u16,
}

/// What the containers are told about names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSettings {
    /// Addresses of name servers.
    pub name_servers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options, such as `ndots:2`.
    pub options: Vec<String>,
}

/// A group's place on the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its addresses with the prefix of their subnet; the first is the one that ACI shows.
    pub addresses: Vec<IpNet>,
    /// The address shown as `ipAddress.ip`, if the group asked for one.
    pub ip: Option<IpAddr>,
    /// The full name shown as `ipAddress.fqdn`, if it has a label.
    pub fqdn: Option<String>,
    /// Published ports.
    pub published: Vec<PublishedPort>,
    /// What the containers are told about names.
    pub dns: DnsSettings,
}

/// Gives groups their network.
///
/// Addresses and kernel objects are named after the sandbox id and journaled before they are made.
#[async_trait]
pub trait NetworkDriver: Send + Sync + fmt::Debug {
    /// What it can do here. Cheap; the value does not change.
    fn capability(&self) -> NetworkCapability;

    /// Attaches a sandbox. Repeating it for an attached sandbox answers the same attachment (and
    /// mends what is missing). A fresh attachment is open, as if [`set_ready`](Self::set_ready) had
    /// said so.
    ///
    /// # Errors
    /// [`Exhausted`](crate::error::ErrorKind::Exhausted) if no address is left;
    /// [`AlreadyExists`](crate::error::ErrorKind::AlreadyExists) with `DnsNameLabelNotAvailable` or
    /// for a port that is taken; [`Invalid`](crate::error::ErrorKind::Invalid) for an unknown
    /// subnet. Nothing is left behind.
    ///
    /// # Cancel safety
    /// It may be attached; `list` shows it and `detach` undoes it.
    async fn attach(&self, request: AttachRequest) -> Result<Attachment>;

    /// Opens or closes the group to traffic from outside (ACI withholds traffic while a readiness
    /// probe fails). Unknown sandboxes are no error.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if the rules could not be changed.
    ///
    /// # Cancel safety
    /// It may have been done; call it again.
    async fn set_ready(&self, sandbox: &SandboxId, ready: bool) -> Result<()>;

    /// Takes a sandbox off the network; it needs not exist any more. Idempotent.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) naming what could not be removed; the
    /// address stays taken until it is.
    ///
    /// # Cancel safety
    /// A part may be removed; call it again.
    async fn detach(&self, sandbox: &SandboxId) -> Result<()>;

    /// All attachments, also those of sandboxes that are gone, and, of a driver that gives addresses,
    /// those that an earlier program made: a sandbox without its attachment is not taken over but
    /// made anew.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if the state cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn list(&self) -> Result<Vec<Attachment>>;
}
