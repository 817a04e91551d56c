//! What an operator is shown of a network.

use aci_core::contract::Attachment;
use ipnet::IpNet;
use serde::Serialize;

/// A network as its journal and the kernel have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkReport {
    /// Virtual networks with their subnets.
    pub networks: Vec<NetworkUse>,
    /// Attachments, by sandbox.
    pub attachments: Vec<AttachmentReport>,
    /// Public addresses that groups have.
    pub public_addresses: usize,
    /// Freed addresses that are not given out yet.
    pub resting_addresses: usize,
    /// Links that bear our marks and belong to no attachment; [`BridgeNetwork::collect`] removes
    /// them.
    ///
    /// [`BridgeNetwork::collect`]: crate::BridgeNetwork::collect
    pub stray_links: Vec<String>,
    /// The same for routes.
    pub stray_routes: Vec<IpNet>,
}

/// A virtual network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkUse {
    /// Its name.
    pub name: String,
    /// Its subnets: name and ranges.
    pub subnets: Vec<(String, Vec<IpNet>)>,
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachmentReport {
    /// What the engine was told.
    pub attachment: Attachment,
    /// The virtual network.
    pub network: String,
    /// The subnet.
    pub subnet: String,
    /// The host's link.
    pub link: String,
    /// Whether traffic is let in.
    pub ready: bool,
    /// Whether it is being removed.
    pub leaving: bool,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Attachments of sandboxes that are gone.
    pub detached: Vec<aci_core::id::SandboxId>,
    /// How many links, routes and addresses belonged to nothing.
    pub strays: usize,
}
