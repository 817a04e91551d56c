//! Virtual networks as clients describe them, and the contract of the host that makes them.
//!
//! The front keeps `Microsoft.Network/virtualNetworks` with their subnets and peerings, and what
//! subnets name: network security groups, route tables and NAT gateways with public addresses. What
//! they come to is a list of [`VirtualNetworkSpec`]; a host that can make networks implements
//! [`NetworkAdmin`] and gives it to [`ArmApiBuilder::networks`](super::ArmApiBuilder::networks).
//! Then a request is answered when the host has put the list in force, a group's `subnetIds` must
//! name subnets that are there, and what groups use stays. Without it the resources are kept and
//! answered only.

pub(crate) mod rules;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use aci_core::contract::ResourceStore;
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::ContainerGroup;
use async_trait::async_trait;
use http::StatusCode;
use ipnet::IpNet;
use serde_json::Value;
use tokio::sync::OwnedRwLockReadGuard;

use super::Front;
use super::error::{ArmError, ArmResult};
use super::records::{Change, Records};
use super::resources::{self, Kept};

pub use rules::{RouteSpec, RouteTableSpec, SecurityGroupSpec, SecurityRuleSpec};

/// The type of virtual networks.
pub(crate) const NETWORK: &str = "Microsoft.Network/virtualNetworks";
pub(crate) const SUBNET: &str = "Microsoft.Network/virtualNetworks/subnets";
pub(crate) const PEERING: &str = "Microsoft.Network/virtualNetworks/virtualNetworkPeerings";

/// A virtual network that clients want.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VirtualNetworkSpec {
    /// Its id, as it was written.
    pub id: String,
    /// Its name; two resource groups may have one of the same.
    pub name: String,
    /// Its ranges.
    pub prefixes: Vec<IpNet>,
    /// Its subnets, by name; there may be none yet.
    pub subnets: Vec<SubnetSpec>,
    /// Ids of the networks that this side is peered with; in force where both sides are.
    pub peers: Vec<String>,
}

/// A subnet of a [`VirtualNetworkSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubnetSpec {
    /// Its id, as groups' `subnetIds` name it.
    pub id: String,
    /// Its name, unique in its network.
    pub name: String,
    /// Its ranges, inside of those of its network.
    pub prefixes: Vec<IpNet>,
    /// Its network security group.
    pub security_group: Option<SecurityGroupSpec>,
    /// Its route table.
    pub route_table: Option<RouteTableSpec>,
    /// The addresses of its NAT gateway; none: it has none. They are clients' words: whether the
    /// host has them is for the host to say.
    pub nat_gateway: Vec<IpAddr>,
}

/// Makes virtual networks: what a host implements that has them.
///
/// The front calls it one call at a time, once when it is built and then before each change is
/// journaled; a change whose call fails was never made.
#[async_trait]
pub trait NetworkAdmin: Send + Sync + fmt::Debug {
    /// Puts exactly these virtual networks in force, beside those that are the host's own.
    /// Idempotent. Networks without subnets may be left out, because no group can be in them.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) or [`Unsupported`](ErrorKind::Unsupported) for networks that
    /// the host cannot make, [`Conflict`](ErrorKind::Conflict) for those that clash with the host's
    /// own or would take their place from groups. Then those of before stay in force.
    ///
    /// # Cancel safety
    /// It may have been done; the front calls it again.
    async fn configure(&self, networks: Vec<VirtualNetworkSpec>) -> Result<()>;
}

/// The virtual networks that are journaled in a store: for a host that has to open its network
/// with them before there is an engine, and so a front.
///
/// # Errors
/// The store's.
///
/// # Cancel safety
/// Dropping the future changes nothing.
pub async fn journaled(store: impl ResourceStore + 'static) -> Result<Vec<VirtualNetworkSpec>> {
    let records = Records::load(Arc::new(store)).await?;
    Ok(specs(&kept(&records)))
}

/// The networks of the records, with all that belongs to them, by key.
fn kept(records: &Records) -> BTreeMap<String, Kept> {
    let all = records.list::<Kept>(resources::ALL);
    all.into_iter().filter(|(_, k)| is_network(k)).collect()
}

fn is_network(kept: &Kept) -> bool {
    let kind = kept.kind.as_str();
    [NETWORK, SUBNET, PEERING].contains(&kind) || rules::KINDS.contains(&kind)
}

fn ranges(value: &Value) -> Vec<IpNet> {
    let one = |value: &Value| -> Option<IpNet> { value.as_str()?.parse().ok() };
    match value {
        Value::Array(many) => many.iter().filter_map(one).collect(),
        value => one(value).into_iter().collect(),
    }
}

/// The ranges of a subnet; `addressPrefixes` goes before `addressPrefix`, as in Azure.
fn subnet_ranges(properties: &Value) -> Vec<IpNet> {
    let many = ranges(&properties["addressPrefixes"]);
    if many.is_empty() {
        ranges(&properties["addressPrefix"])
    } else {
        many
    }
}

/// What the records come to.
fn specs(kept: &BTreeMap<String, Kept>) -> Vec<VirtualNetworkSpec> {
    let below = |network: &Kept, kind: &'static str| {
        let prefix = format!("{}/", resources::key(&network.id));
        kept.iter()
            .filter(move |(key, k)| k.kind == kind && key.starts_with(&prefix))
            .map(|(_, kept)| kept)
    };
    kept.values()
        .filter(|k| k.kind == NETWORK)
        .map(|network| VirtualNetworkSpec {
            id: network.id.clone(),
            name: network.name.clone(),
            prefixes: ranges(&network.properties["addressSpace"]["addressPrefixes"]),
            subnets: below(network, SUBNET)
                .map(|subnet| {
                    let rules = rules::of(kept, subnet);
                    SubnetSpec {
                        id: subnet.id.clone(),
                        name: subnet.name.clone(),
                        prefixes: subnet_ranges(&subnet.properties),
                        security_group: rules.security,
                        route_table: rules.routes,
                        nat_gateway: rules.nat,
                    }
                })
                .collect(),
            peers: below(network, PEERING)
                .filter_map(|p| p.properties["remoteVirtualNetwork"]["id"].as_str())
                .map(str::to_owned)
                .collect(),
        })
        .collect()
}

/// Whether the other side of a peering has one, too.
pub(crate) fn is_mutual(front: &Front, peering: &Kept) -> bool {
    let (own, _) = peering
        .id
        .split_once("/virtualNetworkPeerings/")
        .unwrap_or_default();
    let remote = peering.properties["remoteVirtualNetwork"]["id"].as_str();
    let back = format!(
        "{}/virtualNetworkPeerings/",
        resources::key(remote.unwrap_or_default())
    );
    let back = front.records.list::<Kept>(&back);
    back.iter().any(|(_, other)| {
        let id = other.properties["remoteVirtualNetwork"]["id"].as_str();
        id.is_some_and(|id| id.eq_ignore_ascii_case(own))
    })
}

/// Azure's rules of subnets: inside of their network, apart from each other.
fn fits(networks: &[VirtualNetworkSpec]) -> ArmResult<()> {
    for network in networks {
        for (at, subnet) in network.subnets.iter().enumerate() {
            let name = &subnet.name;
            let inside = |p: &IpNet| network.prefixes.iter().any(|outer| outer.contains(p));
            if !subnet.prefixes.iter().all(inside) {
                return Err(ArmError::bad_request(
                    "NetcfgInvalidSubnet",
                    format!(
                        "Subnet '{name}' is not valid in virtual network '{}'.",
                        network.name
                    ),
                ));
            }
            let overlap = |other: &&SubnetSpec| {
                let touches = |a: &IpNet| {
                    other
                        .prefixes
                        .iter()
                        .any(|b| a.contains(b) || b.contains(a))
                };
                subnet.prefixes.iter().any(touches)
            };
            if let Some(other) = network.subnets[..at].iter().find(overlap) {
                return Err(ArmError::bad_request(
                    "NetcfgSubnetRangesOverlap",
                    format!(
                        "Subnet '{name}' is not valid because its IP address range overlaps with that of subnet '{}' \
                         in virtual network '{}'.",
                        other.name, network.name
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// What groups use stays as it is.
fn unused(
    front: &Front,
    before: &[VirtualNetworkSpec],
    after: &[VirtualNetworkSpec],
) -> ArmResult<()> {
    let left: Vec<&SubnetSpec> = after.iter().flat_map(|n| &n.subnets).collect();
    for subnet in before.iter().flat_map(|n| &n.subnets) {
        let now = left.iter().find(|s| s.id.eq_ignore_ascii_case(&subnet.id));
        if now.is_some_and(|now| now.prefixes == subnet.prefixes) {
            continue;
        }
        if let Some(user) = users(front, &subnet.id).first() {
            let (code, what) = match now {
                None => ("InUseSubnetCannotBeDeleted", "Subnet"),
                Some(_) => ("InUsePrefixCannotBeDeleted", "The address range of subnet"),
            };
            return Err(ArmError::bad_request(
                code,
                format!(
                    "{what} {} is in use by {user} and cannot be deleted.",
                    subnet.name
                ),
            ));
        }
    }
    Ok(())
}

/// Groups that are in a subnet, or in a subnet of a virtual network.
pub(crate) fn users(front: &Front, id: &str) -> Vec<String> {
    let id = id.to_lowercase();
    let below = format!("{id}/");
    front
        .engine
        .list()
        .into_iter()
        .filter(|group| {
            let subnets = group.summary().properties.subnet_ids;
            subnets.iter().any(|subnet| {
                let subnet = subnet.id.to_lowercase();
                subnet == id || subnet.starts_with(&below)
            })
        })
        .map(|group| group.name().resource_id())
        .collect()
}

/// Holds the networks as they are while a group is put into them.
///
/// # Errors
/// `VirtualNetworkNotFound` for a subnet that is not there, if the host makes networks.
pub(crate) async fn present(
    front: &Arc<Front>,
    document: &ContainerGroup,
) -> ArmResult<Option<OwnedRwLockReadGuard<()>>> {
    if front.networks.is_none() || document.properties.subnet_ids.is_empty() {
        return Ok(None);
    }
    let held = Arc::clone(&front.networking).read_owned().await;
    for (i, subnet) in document.properties.subnet_ids.iter().enumerate() {
        let known: Option<Kept> = front.records.get(&resources::key(&subnet.id));
        if known.is_none_or(|kept| kept.kind != SUBNET) {
            let shown: String = subnet.id.chars().take(300).collect();
            return Err(ArmError::bad_request(
                "VirtualNetworkNotFound",
                format!("The subnet '{shown}' does not exist in this server's virtual networks."),
            )
            .target(format!("properties.subnetIds[{i}].id")));
        }
    }
    Ok(Some(held))
}

/// Journals changes; those of virtual networks when the host has put them in force.
///
/// # Errors
/// What is wrong with the networks; the host's; the store's. Then nothing is changed.
pub(crate) async fn apply(front: &Arc<Front>, changes: Vec<Change>) -> ArmResult<()> {
    let touches = |change: &Change| {
        let key = change.key();
        key.starts_with(resources::ALL) && key.contains("/providers/microsoft.network/")
    };
    if !changes.iter().any(touches) {
        return Ok(front.records.apply(changes).await?);
    }
    // A client that hangs up does not come between the host and the journal.
    let agreeing = tokio::spawn(agreed(Arc::clone(front), changes));
    agreeing.await.unwrap_or_else(|_| Err(ArmError::internal()))
}

async fn agreed(front: Arc<Front>, changes: Vec<Change>) -> ArmResult<()> {
    let _turn = Arc::clone(&front.networking).write_owned().await;
    let kept = kept(&front.records);
    let before = specs(&kept);
    let all = changed(kept.clone(), &changes);
    rules::hold(&kept, &all)?;
    let after = specs(&all);
    fits(&after)?;
    unused(&front, &before, &after)?;
    if front.networks.is_some() {
        rules::have_addresses(&all)?;
    }
    let host = front.networks.as_ref().filter(|_| before != after);
    let Some(host) = host else {
        return Ok(front.records.apply(changes).await?);
    };
    host.configure(after).await.map_err(refused)?;
    if let Err(error) = front.records.apply(changes).await {
        if let Err(error) = host.configure(before).await {
            tracing::error!(error = %error.chain(), "networks that are not journaled stay in force");
        }
        return Err(error.into());
    }
    Ok(())
}

fn changed(mut kept: BTreeMap<String, Kept>, changes: &[Change]) -> BTreeMap<String, Kept> {
    for change in changes {
        match change.value::<Kept>().filter(is_network) {
            Some(new) => kept.insert(change.key().to_owned(), new),
            None => kept.remove(change.key()),
        };
    }
    kept
}

/// The host's refusal, by ARM's codes where it has none.
fn refused(error: Error) -> ArmError {
    let code = match (error.aci_code(), error.kind()) {
        (Some(code), ErrorKind::Invalid | ErrorKind::Conflict) => code.to_owned(),
        (None, ErrorKind::Invalid) => "InvalidRequestFormat".to_owned(),
        (None, ErrorKind::Conflict) => "NetworkConflict".to_owned(),
        (None, ErrorKind::Unsupported) => "NotSupported".to_owned(),
        _ => return error.into(),
    };
    let status = if error.kind() == ErrorKind::Conflict {
        StatusCode::CONFLICT
    } else {
        StatusCode::BAD_REQUEST
    };
    ArmError::new(status, code, error.message())
}

impl Front {
    /// Puts what is journaled in force. What cannot be is told to the operator, and tried again with
    /// the next change: a front that did not start could not be used to mend it.
    pub(crate) async fn network(&self) {
        let Some(host) = &self.networks else { return };
        if let Err(error) = host.configure(specs(&kept(&self.records))).await {
            tracing::error!(error = %error.chain(), "the journaled virtual networks are not in force");
        }
    }
}
