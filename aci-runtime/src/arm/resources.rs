//! Resources of other providers that container groups and templates refer to: they are kept and
//! answered, and what of them has an effect is the engine's parts' to know.
//!
//! | type | effect here |
//! |---|---|
//! | `Microsoft.Network/virtualNetworks`, `.../subnets`, `.../virtualNetworkPeerings` | made by the host's [`NetworkAdmin`](super::network::NetworkAdmin), where it has one |
//! | `Microsoft.Network/networkSecurityGroups`, `.../routeTables`, `.../natGateways`, `.../publicIPAddresses` | in force for the subnets that name them |
//! | `Microsoft.Network/networkProfiles` | a name for groups' `networkProfile` |
//! | `Microsoft.Storage/storageAccounts`, `.../fileServices/shares` | `listKeys` answers keys of its own |
//! | `Microsoft.ManagedIdentity/userAssignedIdentities` | a name with ids of its own |

use std::collections::BTreeMap;
use std::sync::Arc;

use aci_core::time::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::network::rules;
use super::records::Change;
use super::route::Route;
use super::{Front, groups, network, page, profile, reply, scope};
use crate::identity::{IdentityIds, IdentityRef};

/// A type that is kept: its namespace and type, and what the names stand for.
pub(crate) struct Kind {
    pub(crate) namespace: &'static str,
    /// `virtualNetworks/subnets`.
    pub(crate) name: &'static str,
}

pub(crate) const KINDS: &[Kind] = &[
    Kind {
        namespace: "Microsoft.Network",
        name: "virtualNetworks",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "virtualNetworks/subnets",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "virtualNetworks/virtualNetworkPeerings",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "networkSecurityGroups",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "networkSecurityGroups/securityRules",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "routeTables",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "routeTables/routes",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "natGateways",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "publicIPAddresses",
    },
    Kind {
        namespace: "Microsoft.Network",
        name: "networkProfiles",
    },
    Kind {
        namespace: "Microsoft.Storage",
        name: "storageAccounts",
    },
    Kind {
        namespace: "Microsoft.Storage",
        name: "storageAccounts/fileServices",
    },
    Kind {
        namespace: "Microsoft.Storage",
        name: "storageAccounts/fileServices/shares",
    },
    Kind {
        namespace: "Microsoft.ManagedIdentity",
        name: "userAssignedIdentities",
    },
];

impl Kind {
    fn full(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The kind by its full name, in any case.
    pub(crate) fn of(full: &str) -> Option<&'static Self> {
        KINDS.iter().find(|k| k.full().eq_ignore_ascii_case(full))
    }
}

/// A resource as it is journaled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) location: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) properties: Value,
    /// All else of the body that answers show: `sku`, `kind`, `identity`, `zones`.
    pub(crate) extra: Map<String, Value>,
    /// Keys of a storage account; never shown but by `listKeys`.
    pub(crate) keys: Vec<String>,
    created: Timestamp,
}

/// What the keys of all of them begin with.
pub(crate) const ALL: &str = "resource/";

pub(crate) fn key(id: &str) -> String {
    format!("resource{id}").to_lowercase()
}

impl Kept {
    /// A resource that stands in the body of another one.
    pub(crate) fn inner(
        front: &Front,
        kind: &str,
        id: &str,
        name: &str,
        mut properties: Map<String, Value>,
    ) -> Self {
        properties.insert("provisioningState".to_owned(), json!("Succeeded"));
        Self {
            id: id.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            location: None,
            tags: BTreeMap::new(),
            properties: Value::Object(properties),
            extra: Map::new(),
            keys: Vec::new(),
            created: front.engine.now(),
        }
    }

    pub(crate) fn value(&self) -> Value {
        let mut value = json!({
            "id": self.id,
            "name": self.name,
            "type": self.kind,
            "properties": self.properties,
        });
        if let Some(map) = value.as_object_mut() {
            if let Some(location) = &self.location {
                map.insert("location".to_owned(), json!(location));
                map.insert("tags".to_owned(), json!(self.tags));
            }
            for (name, extra) in &self.extra {
                map.insert(name.clone(), extra.clone());
            }
        }
        value
    }

    pub(crate) fn list_keys(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .enumerate()
            .map(|(i, key)| json!({"keyName": format!("key{}", i + 1), "value": key, "permissions": "FULL"}))
            .collect();
        json!({ "keys": keys })
    }
}

macro_rules! paths {
    ($($ns:literal $kind:literal $path:literal $list:literal;)*) => {
        vec![$(
            Route::new(Method::GET, concat!("/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/", $path),
                concat!($ns, "/", $kind, "/read"), |call| get(call).boxed()),
            Route::new(Method::PUT, concat!("/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/", $path),
                concat!($ns, "/", $kind, "/write"), |call| put(call).boxed()),
            Route::new(Method::DELETE, concat!("/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/", $path),
                concat!($ns, "/", $kind, "/delete"), |call| delete(call).boxed()),
            Route::new(Method::GET, concat!("/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/", $list),
                concat!($ns, "/", $kind, "/read"), |call| list(call).boxed()),
        )*]
    };
}

pub(crate) fn routes() -> Vec<Route> {
    let mut routes = paths! {
        "Microsoft.Network" "virtualNetworks" "Microsoft.Network/virtualNetworks/{name1}" "Microsoft.Network/virtualNetworks";
        "Microsoft.Network" "virtualNetworks/subnets" "Microsoft.Network/virtualNetworks/{name1}/subnets/{name2}" "Microsoft.Network/virtualNetworks/{name1}/subnets";
        "Microsoft.Network" "virtualNetworks/virtualNetworkPeerings" "Microsoft.Network/virtualNetworks/{name1}/virtualNetworkPeerings/{name2}" "Microsoft.Network/virtualNetworks/{name1}/virtualNetworkPeerings";
        "Microsoft.Network" "networkSecurityGroups" "Microsoft.Network/networkSecurityGroups/{name1}" "Microsoft.Network/networkSecurityGroups";
        "Microsoft.Network" "networkSecurityGroups/securityRules" "Microsoft.Network/networkSecurityGroups/{name1}/securityRules/{name2}" "Microsoft.Network/networkSecurityGroups/{name1}/securityRules";
        "Microsoft.Network" "routeTables" "Microsoft.Network/routeTables/{name1}" "Microsoft.Network/routeTables";
        "Microsoft.Network" "routeTables/routes" "Microsoft.Network/routeTables/{name1}/routes/{name2}" "Microsoft.Network/routeTables/{name1}/routes";
        "Microsoft.Network" "natGateways" "Microsoft.Network/natGateways/{name1}" "Microsoft.Network/natGateways";
        "Microsoft.Network" "publicIPAddresses" "Microsoft.Network/publicIPAddresses/{name1}" "Microsoft.Network/publicIPAddresses";
        "Microsoft.Network" "networkProfiles" "Microsoft.Network/networkProfiles/{name1}" "Microsoft.Network/networkProfiles";
        "Microsoft.Storage" "storageAccounts" "Microsoft.Storage/storageAccounts/{name1}" "Microsoft.Storage/storageAccounts";
        "Microsoft.Storage" "storageAccounts/fileServices" "Microsoft.Storage/storageAccounts/{name1}/fileServices/{name2}" "Microsoft.Storage/storageAccounts/{name1}/fileServices";
        "Microsoft.Storage" "storageAccounts/fileServices/shares" "Microsoft.Storage/storageAccounts/{name1}/fileServices/{name2}/shares/{name3}" "Microsoft.Storage/storageAccounts/{name1}/fileServices/{name2}/shares";
        "Microsoft.ManagedIdentity" "userAssignedIdentities" "Microsoft.ManagedIdentity/userAssignedIdentities/{name1}" "Microsoft.ManagedIdentity/userAssignedIdentities";
    };
    routes.extend([
        Route::new(
            Method::POST,
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.Storage/storageAccounts/{name1}/listKeys",
            "Microsoft.Storage/storageAccounts/listKeys/action",
            |call| list_keys(call).boxed(),
        ),
        Route::new(
            Method::DELETE,
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.Network/virtualNetworks/{name1}/subnets/{name2}/providers/Microsoft.ContainerInstance/serviceAssociationLinks/default",
            "Microsoft.ContainerInstance/serviceAssociationLinks/delete",
            |call| unlink(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/resources",
            "Microsoft.Resources/subscriptions/resources/read",
            |call| everything(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/resources",
            "Microsoft.Resources/subscriptions/resourceGroups/resources/read",
            |call| everything(call).boxed(),
        ),
    ]);
    routes
}

/// The kind and the id that a path names.
fn named(call: &Call) -> ArmResult<(&'static Kind, String, String)> {
    let parts = super::route::parts(call.parts.uri.path())?;
    // subscriptions, id, resourceGroups, name, providers, namespace, type, name, ...
    let namespace = parts.get(5).map_or("", String::as_str);
    let rest = parts.get(6..).unwrap_or_default();
    let types: Vec<&str> = rest.iter().step_by(2).map(String::as_str).collect();
    let names: Vec<&str> = rest.iter().skip(1).step_by(2).map(String::as_str).collect();
    let types = types.join("/");
    let types = types.strip_suffix("/listKeys").unwrap_or(&types);
    let kind = Kind::of(&format!("{namespace}/{types}"))
        .ok_or_else(|| ArmError::not_found(namespace, types, call.resource_group()))?;
    let id = id(kind, call.subscription(), call.resource_group(), &names);
    Ok((
        kind,
        id,
        names.last().map_or_else(String::new, |n| (*n).to_owned()),
    ))
}

fn id(kind: &Kind, subscription: &str, resource_group: &str, names: &[&str]) -> String {
    let mut id = format!(
        "/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/{}",
        kind.namespace
    );
    for (i, part) in kind.name.split('/').enumerate() {
        id.push('/');
        id.push_str(part);
        if let Some(name) = names.get(i) {
            id.push('/');
            id.push_str(name);
        }
    }
    id
}

fn missing(kind: &Kind, name: &str, resource_group: &str) -> ArmError {
    ArmError::not_found(&kind.full(), name, resource_group)
}

/// The resource with what is kept of it elsewhere: a virtual network shows its subnets.
fn shown(front: &Front, kept: &Kept) -> Value {
    let mut value = kept.value();
    if kept
        .kind
        .eq_ignore_ascii_case("Microsoft.Network/virtualNetworks")
    {
        let subnets: Vec<Value> = front
            .records
            .list::<Kept>(&format!("{}/subnets/", key(&kept.id)))
            .into_iter()
            .map(|(_, subnet)| subnet.value())
            .collect();
        value["properties"]["subnets"] = json!(subnets);
        let peerings = format!("{}/virtualNetworkPeerings/", key(&kept.id));
        let peerings = front.records.list::<Kept>(&peerings);
        let peerings = peerings.iter().map(|(_, peering)| shown(front, peering));
        value["properties"]["virtualNetworkPeerings"] = peerings.collect();
    } else if kept.kind == network::PEERING {
        let both = network::is_mutual(front, kept);
        let state = if both { "Connected" } else { "Initiated" };
        value["properties"]["peeringState"] = json!(state);
    } else {
        rules::show(front, kept, &mut value);
    }
    value
}

async fn get(call: Call) -> ArmResult {
    let (kind, id, name) = named(&call)?;
    match call.front.records.get::<Kept>(&key(&id)) {
        Some(kept) => Ok(reply::ok(&shown(&call.front, &kept))),
        None if !scope::exists(&call.front, call.subscription(), call.resource_group()) => {
            Err(ArmError::resource_group_not_found(call.resource_group()))
        }
        None => Err(missing(kind, &name, call.resource_group())),
    }
}

async fn put(call: Call) -> ArmResult {
    let (kind, id, name) = named(&call)?;
    let body = call.value_of_body()?;
    let front = Arc::clone(&call.front);
    let _turn = front.turn(&key(&id)).await;
    let new = front.records.get::<Kept>(&key(&id)).is_none();
    let kept = keep(&front, kind, &id, &name, &body, call.resource_group()).await?;
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(reply::json(status, &shown(&front, &kept)))
}

/// Keeps a resource: the id is its address, whatever the body says.
///
/// # Errors
/// What is wrong with it; that its parent is not there; the store's.
pub(crate) async fn keep(
    front: &Arc<Front>,
    kind: &'static Kind,
    id: &str,
    name: &str,
    body: &Value,
    resource_group: &str,
) -> ArmResult<Kept> {
    let content = |message: &str| ArmError::bad_request("InvalidRequestContent", message);
    let Some(map) = body.as_object() else {
        return Err(content("The body must be an object."));
    };
    let parts: Vec<&str> = id.split('/').collect();
    let subscription = parts.get(2).copied().unwrap_or_default();
    if kind.name.contains('/') {
        let parent = parts
            .len()
            .checked_sub(2)
            .and_then(|end| parts.get(..end))
            .unwrap_or_default()
            .join("/");
        // File services are there with their account.
        let service = parent.to_lowercase().ends_with("/fileservices/default");
        if !service && front.records.get::<Kept>(&key(&parent)).is_none() {
            return Err(ArmError::new(
                StatusCode::NOT_FOUND,
                "ParentResourceNotFound",
                format!(
                    "Can not perform requested operation on nested resource. Parent resource of '{name}' not found."
                ),
            ));
        }
    }
    let field = |wanted: &str| {
        map.iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
    };
    let tags: BTreeMap<String, String> = match field("tags") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(tags) => serde_json::from_value(tags.clone())
            .map_err(|_| content("'tags' must be an object of texts.").target("tags"))?,
    };
    groups::tags_fit(&tags)?;
    let mut properties = match field("properties") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(properties)) => properties.clone(),
        Some(_) => return Err(content("'properties' must be an object.").target("properties")),
    };
    let location = field("location").and_then(Value::as_str).map(str::to_owned);
    let before = front.records.get::<Kept>(&key(id));
    let mut changes = Vec::new();
    if let scope::Placed::New(change) =
        scope::place(front, subscription, resource_group, location.as_deref())?
    {
        changes.push(change);
    }
    let mut keys = before.as_ref().map(|b| b.keys.clone()).unwrap_or_default();
    let full = kind.full();
    match kind.name {
        "virtualNetworks" => {
            // Subnets are resources of their own; those that the body leaves out are gone.
            if let Some(subnets) = properties.remove("subnets") {
                let old = front.records.keys(&format!("{}/subnets/", key(id)));
                changes.extend(old.iter().map(|key| Change::remove(key)));
                for subnet in subnets.as_array().into_iter().flatten() {
                    let Some(name) = subnet["name"].as_str() else {
                        return Err(
                            content("Each subnet needs a 'name'.").target("properties.subnets")
                        );
                    };
                    let inner = subnet["properties"]
                        .as_object()
                        .cloned()
                        .unwrap_or_default();
                    let subnet_id = format!("{id}/subnets/{name}");
                    subnet_fits(&inner)?;
                    let kept = Kept::inner(front, network::SUBNET, &subnet_id, name, inner);
                    changes.push(Change::put(&key(&subnet_id), &kept)?);
                }
            }
            // Peerings stay where the body leaves them out.
            let peerings = properties.remove("virtualNetworkPeerings");
            for peering in peerings.iter().filter_map(Value::as_array).flatten() {
                let (Some(name), Some(inner)) =
                    (peering["name"].as_str(), peering["properties"].as_object())
                else {
                    return Err(content("Each peering needs a 'name' and 'properties'.")
                        .target("properties.virtualNetworkPeerings"));
                };
                let peering_id = format!("{id}/virtualNetworkPeerings/{name}");
                peering_fits(inner)?;
                let kept = Kept::inner(front, network::PEERING, &peering_id, name, inner.clone());
                changes.push(Change::put(&key(&peering_id), &kept)?);
            }
            let prefixes = &properties
                .get("addressSpace")
                .map(|a| a["addressPrefixes"].clone());
            for prefix in prefixes.iter().filter_map(Value::as_array).flatten() {
                self::prefix(prefix)?;
            }
        }
        "virtualNetworks/subnets" => subnet_fits(&properties)?,
        "virtualNetworks/virtualNetworkPeerings" => peering_fits(&properties)?,
        "networkSecurityGroups" | "routeTables" => {
            changes.extend(rules::inner(front, kind.name, id, &mut properties)?);
        }
        "storageAccounts" => {
            let fits = (3..=24).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            if !fits {
                return Err(ArmError::bad_request(
                    "AccountNameInvalid",
                    format!(
                        "{name} is not a valid storage account name. It has 3 to 24 lower-case letters and digits."
                    ),
                ));
            }
            if keys.is_empty() {
                keys = (0..2).map(|_| new_key()).collect();
            }
            properties.entry("primaryEndpoints").or_insert_with(|| {
                json!({"file": format!("https://{name}.file.core.windows.net/"), "blob": format!("https://{name}.blob.core.windows.net/")})
            });
        }
        "userAssignedIdentities" => {
            let ids = match &front.identities {
                Some(provider) => {
                    let identity = IdentityRef::User(id.to_owned());
                    provider.ids(None, &identity).await?
                }
                None => {
                    let old = |name: &str| {
                        let id = before.as_ref().and_then(|b| b.properties[name].as_str());
                        id.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
                    };
                    IdentityIds {
                        principal_id: old("principalId"),
                        client_id: old("clientId"),
                        tenant_id: front.options.tenant_id.clone(),
                    }
                }
            };
            for (name, id) in [
                ("principalId", ids.principal_id),
                ("clientId", ids.client_id),
                ("tenantId", ids.tenant_id),
            ] {
                properties.insert(name.to_owned(), json!(id));
            }
        }
        _ => {}
    }
    properties.insert("provisioningState".to_owned(), json!("Succeeded"));
    let properties = Value::Object(properties);
    rules::fits(&full, name, &properties)?;
    let own = [
        "id",
        "name",
        "type",
        "apiversion",
        "location",
        "tags",
        "properties",
        "dependson",
        "etag",
    ];
    let extra = map
        .iter()
        .filter(|(name, _)| !own.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let kept = Kept {
        id: id.to_owned(),
        kind: full,
        name: name.to_owned(),
        location: if kind.name.contains('/') {
            None
        } else {
            location.or_else(|| Some(front.engine.options().location.clone()))
        },
        tags,
        properties,
        extra,
        keys,
        created: before.map_or_else(|| front.engine.now(), |b| b.created),
    };
    changes.push(Change::put(&key(id), &kept)?);
    network::apply(front, changes).await?;
    Ok(kept)
}

fn subnet_fits(properties: &Map<String, Value>) -> ArmResult<()> {
    let many = properties.get("addressPrefixes").and_then(Value::as_array);
    let one = properties.get("addressPrefix").into_iter();
    one.chain(many.into_iter().flatten())
        .try_for_each(|text| prefix(text).map(drop))
}

fn peering_fits(properties: &Map<String, Value>) -> ArmResult<()> {
    let remote = properties.get("remoteVirtualNetwork");
    if remote.is_some_and(|r| r["id"].is_string()) {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "InvalidRequestContent",
        "A peering needs 'properties.remoteVirtualNetwork.id'.",
    )
    .target("properties.remoteVirtualNetwork"))
}

/// Reads a range.
///
/// # Errors
/// `InvalidCIDRNotation`.
pub(crate) fn prefix(value: &Value) -> ArmResult<ipnet::IpNet> {
    let text = value.as_str().unwrap_or_default();
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(60).collect();
        ArmError::bad_request(
            "InvalidCIDRNotation",
            format!(
                "The address prefix '{shown}' is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24."
            ),
        )
    })
}

/// A key of 64 random bytes, as storage accounts have.
fn new_key() -> String {
    let mut bytes = Vec::with_capacity(64);
    for _ in 0..4 {
        bytes.extend_from_slice(Uuid::new_v4().as_bytes());
    }
    STANDARD.encode(bytes)
}

async fn delete(call: Call) -> ArmResult {
    let (_, id, _) = named(&call)?;
    let front = &call.front;
    let _turn = front.turn(&key(&id)).await;
    if front.records.get::<Kept>(&key(&id)).is_none() {
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    }
    let users = network::users(front, &id);
    if let Some(user) = users.first() {
        return Err(ArmError::bad_request(
            "InUseSubnetCannotBeDeleted",
            format!("The resource {id} is in use by {user} and cannot be deleted."),
        ));
    }
    let mut changes = vec![Change::remove(&key(&id))];
    let inner = front.records.keys(&format!("{}/", key(&id)));
    changes.extend(inner.iter().map(|key| Change::remove(key)));
    network::apply(front, changes).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// Nothing links a subnet here but the groups in it.
async fn unlink(call: Call) -> ArmResult {
    let id = format!(
        "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Network/virtualNetworks/{}/subnets/{}",
        call.subscription(),
        call.resource_group(),
        call.value("name1"),
        call.value("name2")
    );
    if let Some(user) = network::users(&call.front, &id).first() {
        return Err(ArmError::new(
            StatusCode::CONFLICT,
            "SubnetInUse",
            format!("The subnet is in use by {user}; delete it first."),
        ));
    }
    let there = call.front.records.get::<Kept>(&key(&id)).is_some();
    Ok(reply::empty(if there {
        StatusCode::OK
    } else {
        StatusCode::NO_CONTENT
    }))
}

async fn list(call: Call) -> ArmResult {
    let parts = super::route::parts(call.parts.uri.path())?;
    let prefix = key(&format!("/{}/", parts.join("/")));
    if !scope::exists(&call.front, call.subscription(), call.resource_group()) {
        return Err(ArmError::resource_group_not_found(call.resource_group()));
    }
    let found = call.front.records.list::<Kept>(&prefix).into_iter();
    // Not what is inside of them.
    let found = found.filter(|(key, _)| !key[prefix.len()..].contains('/'));
    let page = page::page(&call, found, |kept| shown(&call.front, &kept))?;
    Ok(reply::ok(&page))
}

async fn list_keys(call: Call) -> ArmResult {
    let (kind, id, name) = named(&call)?;
    let name = if name.is_empty() {
        call.value("name1").to_owned()
    } else {
        name
    };
    match call.front.records.get::<Kept>(&key(&id)) {
        Some(kept) => Ok(reply::ok(&kept.list_keys())),
        None => Err(missing(kind, &name, call.resource_group())),
    }
}

/// All top-level resources of a subscription or of one of its resource groups, as short as `az
/// resource list` wants them, by their ids in lower case.
fn all(front: &Front, subscription: &str, resource_group: &str) -> BTreeMap<String, Value> {
    let subscription = subscription.to_lowercase();
    let resource_group = resource_group.to_lowercase();
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for group in front.engine.list() {
        let name = group.name();
        if name.subscription() == subscription
            && (resource_group.is_empty() || name.resource_group() == resource_group)
        {
            let view = group.summary();
            let id = name.resource_id();
            all.insert(
                id.to_lowercase(),
                json!({"id": id, "name": view.name, "type": aci_core::model::ContainerGroup::RESOURCE_TYPE, "location": view.location, "tags": view.tags}),
            );
        }
    }
    let prefix = if resource_group.is_empty() {
        format!("/subscriptions/{subscription}/")
    } else {
        format!("/subscriptions/{subscription}/resourceGroups/{resource_group}/")
    };
    for (_, kept) in front.records.list::<Kept>(&key(&prefix)) {
        // Only top-level resources are listed.
        if kept.location.is_some() {
            all.insert(
                kept.id.to_lowercase(),
                json!({"id": kept.id, "name": kept.name, "type": kept.kind, "location": kept.location, "tags": kept.tags}),
            );
        }
    }
    for value in profile::short(front, &subscription, &resource_group) {
        let id = value["id"].as_str().unwrap_or_default().to_lowercase();
        all.insert(id, value);
    }
    all
}

/// The ids of all top-level resources of a resource group, by themselves in lower case.
pub(crate) fn ids(
    front: &Front,
    subscription: &str,
    resource_group: &str,
) -> BTreeMap<String, String> {
    all(front, subscription, resource_group)
        .into_iter()
        .map(|(key, value)| (key, value["id"].as_str().unwrap_or_default().to_owned()))
        .collect()
}

async fn everything(call: Call) -> ArmResult {
    let front = &call.front;
    if !call.resource_group().is_empty()
        && !scope::exists(front, call.subscription(), call.resource_group())
    {
        return Err(ArmError::resource_group_not_found(call.resource_group()));
    }
    let wanted = wanted_kind(call.query("$filter"))?;
    let mut all = all(front, call.subscription(), call.resource_group());
    all.retain(|_, value| {
        let kind = value["type"].as_str().unwrap_or_default();
        wanted
            .as_ref()
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(kind))
    });
    let page = page::page(&call, all, |value| value)?;
    Ok(reply::ok(&page))
}

/// The type of `$filter=resourceType eq '...'`.
fn wanted_kind(filter: Option<&str>) -> ArmResult<Option<String>> {
    let Some(filter) = filter.map(str::trim).filter(|f| !f.is_empty()) else {
        return Ok(None);
    };
    let kind = filter
        .strip_prefix("resourceType")
        .map(str::trim_start)
        .and_then(|rest| rest.strip_prefix("eq"))
        .map(str::trim)
        .and_then(|rest| rest.strip_prefix('\'')?.strip_suffix('\''));
    match kind {
        Some(kind) if !kind.contains('\'') => Ok(Some(kind.to_owned())),
        _ => Err(ArmError::bad_request(
            "InvalidFilterInQueryString",
            "Invalid $filter specified in the query string: only \"resourceType eq '...'\" is understood.",
        )),
    }
}
