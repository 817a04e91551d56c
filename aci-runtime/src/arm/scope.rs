//! Tenants, subscriptions and resource groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use aci_core::document::tree::Node;
use aci_core::error::Error;
use aci_core::time::Timestamp;
use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::operation::{Operation, Subject};
use super::records::Change;
use super::route::Route;
use super::{Front, groups, network, page, reply, resources};

const ONE: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}";

pub(crate) fn routes() -> Vec<Route> {
    const READ: &str = "Microsoft.Resources/subscriptions/resourceGroups/read";
    const WRITE: &str = "Microsoft.Resources/subscriptions/resourceGroups/write";
    vec![
        Route::new(
            Method::GET,
            "/tenants",
            "Microsoft.Resources/tenants/read",
            |call| tenants(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions",
            "Microsoft.Resources/subscriptions/read",
            |call| subscriptions(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}",
            "Microsoft.Resources/subscriptions/read",
            |call| subscription(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/locations",
            "Microsoft.Resources/subscriptions/locations/read",
            |call| locations(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/resourceGroups",
            READ,
            |call| list(call).boxed(),
        ),
        Route::new(Method::GET, ONE, READ, |call| get(call).boxed()),
        Route::new(Method::HEAD, ONE, READ, |call| head(call).boxed()),
        Route::new(Method::PUT, ONE, WRITE, |call| put(call).boxed()),
        Route::new(Method::PATCH, ONE, WRITE, |call| patch(call).boxed()),
        Route::new(
            Method::DELETE,
            ONE,
            "Microsoft.Resources/subscriptions/resourceGroups/delete",
            |call| delete(call).boxed(),
        ),
    ]
}

/// A resource group as it is journaled.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ResourceGroup {
    pub(crate) name: String,
    pub(crate) location: String,
    pub(crate) tags: BTreeMap<String, String>,
    managed_by: Option<String>,
    deleting: bool,
    created: Timestamp,
}

fn key(subscription: &str, name: &str) -> String {
    format!("resourceGroup/{subscription}/{name}")
}

impl ResourceGroup {
    fn value(&self, subscription: &str) -> Value {
        let state = if self.deleting {
            "Deleting"
        } else {
            "Succeeded"
        };
        let mut value = json!({
            "id": format!("/subscriptions/{subscription}/resourceGroups/{}", self.name),
            "name": self.name,
            "type": "Microsoft.Resources/resourceGroups",
            "location": self.location,
            "tags": self.tags,
            "properties": {"provisioningState": state},
        });
        if let Some(by) = &self.managed_by {
            value["managedBy"] = json!(by);
        }
        value
    }
}

/// A resource group, also one that exists only because groups were put into it by other means.
pub(crate) fn find(front: &Front, subscription: &str, name: &str) -> Option<ResourceGroup> {
    if let Some(found) = front.records.get(&key(subscription, name)) {
        return Some(found);
    }
    let subscription = subscription.to_lowercase();
    let name = name.to_lowercase();
    let held = front.engine.list().into_iter().any(|group| {
        group.name().subscription() == subscription && group.name().resource_group() == name
    });
    held.then(|| ResourceGroup {
        name,
        location: front.engine.options().location.clone(),
        ..ResourceGroup::default()
    })
}

pub(crate) fn exists(front: &Front, subscription: &str, name: &str) -> bool {
    find(front, subscription, name).is_some()
}

/// Whether a subscription exists.
pub(crate) fn knows(front: &Front, subscription: &str) -> bool {
    let known = &front.options.subscriptions;
    known.is_empty()
        || known
            .iter()
            .any(|(id, _)| id.eq_ignore_ascii_case(subscription))
}

/// Where something is put.
pub(crate) enum Placed {
    /// Into a resource group of this name, as it was first written.
    There(String),
    /// Into one that is made with it.
    New(Change),
}

/// Finds or makes the resource group that something is put into.
///
/// # Errors
/// `ResourceGroupNotFound` where none is made by itself; `ResourceGroupBeingDeleted`; an invalid name.
pub(crate) fn place(
    front: &Front,
    subscription: &str,
    name: &str,
    location: Option<&str>,
) -> ArmResult<Placed> {
    match find(front, subscription, name) {
        Some(group) if group.deleting => Err(being_deleted(&group.name)),
        Some(group) => Ok(Placed::There(group.name)),
        None if !front.options.implicit_resource_groups => {
            Err(ArmError::resource_group_not_found(name))
        }
        None => {
            checked_name(name)?;
            let location = location.unwrap_or(&front.engine.options().location);
            let group = ResourceGroup {
                name: name.to_owned(),
                location: location.to_owned(),
                created: front.engine.now(),
                ..ResourceGroup::default()
            };
            Ok(Placed::New(Change::put(&key(subscription, name), &group)?))
        }
    }
}

fn being_deleted(name: &str) -> ArmError {
    ArmError::new(
        StatusCode::CONFLICT,
        "ResourceGroupBeingDeleted",
        format!(
            "The resource group '{name}' is in deprovisioning state and cannot perform this operation."
        ),
    )
}

/// ARM's rule of names of resource groups.
fn checked_name(name: &str) -> ArmResult<()> {
    let fits = (1..=90).contains(&name.chars().count())
        && !name.ends_with('.')
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')'));
    if fits {
        return Ok(());
    }
    let shown: String = name.chars().take(100).collect();
    Err(ArmError::bad_request(
        "InvalidResourceGroup",
        format!(
            "The provided resource group name '{shown}' is invalid. It has 1 to 90 letters, digits, '-', '_', '.', '(' \
             and ')', and does not end with '.'."
        ),
    )
    .target("resourceGroupName"))
}

async fn tenants(call: Call) -> ArmResult {
    let tenant = &call.front.options.tenant_id;
    Ok(reply::ok(&json!({"value": [{
        "id": format!("/tenants/{tenant}"),
        "tenantId": tenant,
        "countryCode": "",
        "displayName": "local",
        "domains": [],
        "tenantCategory": "Home",
    }]})))
}

fn subscription_value(front: &Front, id: &str, name: &str) -> Value {
    json!({
        "id": format!("/subscriptions/{id}"),
        "subscriptionId": id,
        "tenantId": front.options.tenant_id,
        "displayName": name,
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": "PayAsYouGo_2014-09-01",
            "spendingLimit": "Off",
        },
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    })
}

async fn subscriptions(call: Call) -> ArmResult {
    let value: Vec<Value> = call
        .front
        .options
        .subscriptions
        .iter()
        .map(|(id, name)| subscription_value(&call.front, id, name))
        .collect();
    let count = json!({"type": "Total", "value": value.len()});
    Ok(reply::ok(&json!({"value": value, "count": count})))
}

async fn subscription(call: Call) -> ArmResult {
    let id = call.subscription();
    let known = call
        .front
        .options
        .subscriptions
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(id));
    let (id, name) = known.map_or((id, id), |(id, name)| (id, name));
    Ok(reply::ok(&subscription_value(&call.front, id, name)))
}

async fn locations(call: Call) -> ArmResult {
    let name = call
        .front
        .engine
        .options()
        .location
        .replace(' ', "")
        .to_lowercase();
    Ok(reply::ok(&json!({"value": [{
        "id": format!("/subscriptions/{}/locations/{name}", call.subscription()),
        "name": name,
        "type": "Region",
        "displayName": call.front.engine.options().location,
        "regionalDisplayName": call.front.engine.options().location,
        "metadata": {"regionType": "Physical", "regionCategory": "Recommended", "pairedRegion": []},
    }]})))
}

async fn list(call: Call) -> ArmResult {
    let subscription = call.subscription().to_lowercase();
    let prefix = key(&subscription, "");
    let mut all: BTreeMap<String, ResourceGroup> = call
        .front
        .records
        .list::<ResourceGroup>(&prefix)
        .into_iter()
        .map(|(key, group)| (key[prefix.len()..].to_owned(), group))
        .collect();
    for group in call.front.engine.list() {
        let name = group.name();
        if name.subscription() == subscription && !all.contains_key(name.resource_group()) {
            let found = find(&call.front, &subscription, name.resource_group());
            all.insert(name.resource_group().to_owned(), found.unwrap_or_default());
        }
    }
    let page = page::page(&call, all, |group| group.value(call.subscription()))?;
    Ok(reply::ok(&page))
}

fn found(call: &Call) -> ArmResult<ResourceGroup> {
    find(&call.front, call.subscription(), call.resource_group())
        .ok_or_else(|| ArmError::resource_group_not_found(call.resource_group()))
}

async fn get(call: Call) -> ArmResult {
    Ok(reply::ok(&found(&call)?.value(call.subscription())))
}

async fn head(call: Call) -> ArmResult {
    let there = exists(&call.front, call.subscription(), call.resource_group());
    Ok(reply::empty(if there {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }))
}

/// A text property of a body.
pub(crate) fn text(node: &Node, name: &str) -> ArmResult<Option<String>> {
    match node.get(name) {
        None => Ok(None),
        Some(value) if value.is_null() => Ok(None),
        Some(value) => match value.text() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(ArmError::bad_request(
                "InvalidRequestContent",
                format!("'{name}' must be a text."),
            )
            .target(name)),
        },
    }
}

async fn put(call: Call) -> ArmResult {
    checked_name(call.resource_group())?;
    let node = call.json()?;
    let tags = groups::tags_of(&node)?;
    let location = text(&node, "location")?;
    let managed_by = text(&node, "managedBy")?;
    let key = key(call.subscription(), call.resource_group());
    let front = Arc::clone(&call.front);
    let _turn = front.turn(&key).await;
    let before = find(&front, call.subscription(), call.resource_group());
    let Some(location) = location.or_else(|| before.as_ref().map(|b| b.location.clone())) else {
        return Err(ArmError::bad_request(
            "LocationRequired",
            "The location property is required for this definition.",
        )
        .target("location"));
    };
    if let Some(before) = &before {
        if before.deleting {
            return Err(being_deleted(&before.name));
        }
        let same = |a: &str, b: &str| {
            let plain = |t: &str| t.replace(' ', "").to_lowercase();
            plain(a) == plain(b)
        };
        if !same(&before.location, &location) {
            return Err(ArmError::new(
                StatusCode::CONFLICT,
                "InvalidResourceGroupLocation",
                format!(
                    "Invalid resource group location '{location}'. The Resource group already exists in location '{}'.",
                    before.location
                ),
            )
            .target("location"));
        }
    }
    let status = if before.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let old = before.unwrap_or_else(|| ResourceGroup {
        name: call.resource_group().to_owned(),
        created: front.engine.now(),
        ..ResourceGroup::default()
    });
    let group = ResourceGroup {
        location,
        tags: tags.unwrap_or_default().into_iter().collect(),
        managed_by: managed_by.or(old.managed_by),
        name: old.name,
        created: old.created,
        deleting: false,
    };
    front.records.put(&key, &group).await?;
    Ok(reply::json(status, &group.value(call.subscription())))
}

async fn patch(call: Call) -> ArmResult {
    let node = call.json()?;
    let tags = groups::tags_of(&node)?;
    let key = key(call.subscription(), call.resource_group());
    let front = Arc::clone(&call.front);
    let _turn = front.turn(&key).await;
    let mut group = found(&call)?;
    if let Some(tags) = tags {
        group.tags = tags.into_iter().collect();
        front.records.put(&key, &group).await?;
    }
    Ok(reply::ok(&group.value(call.subscription())))
}

/// Marks it, then deletes everything in it in the background.
async fn delete(call: Call) -> ArmResult {
    let key = key(call.subscription(), call.resource_group());
    let front = Arc::clone(&call.front);
    let _turn = front.turn(&key).await;
    let mut group = found(&call)?;
    let own = format!(
        "/subscriptions/{}/resourceGroups/{}",
        call.subscription(),
        call.resource_group()
    );
    let inside = format!("{own}/").to_lowercase();
    let users = network::users(&front, &own);
    if let Some(user) = users
        .iter()
        .find(|user| !user.to_lowercase().starts_with(&inside))
    {
        return Err(ArmError::new(
            StatusCode::CONFLICT,
            "ResourceGroupDeletionBlocked",
            format!(
                "The resource group '{}' cannot be deleted: {user} is in one of its virtual networks.",
                group.name
            ),
        ));
    }
    group.deleting = true;
    let subject = Subject::DeleteResourceGroup {
        subscription: call.subscription().to_lowercase(),
        name: call.resource_group().to_lowercase(),
    };
    let operation = Operation::new(call.subscription(), subject, front.engine.now());
    front
        .records
        .apply(vec![Change::put(&key, &group)?, operation.change()?])
        .await?;
    let mut response = reply::empty(StatusCode::ACCEPTED);
    let link = format!(
        "{}/subscriptions/{}/operationresults/{}?api-version={}",
        call.base(),
        call.subscription(),
        operation.id,
        call.version
    );
    front.follow(operation);
    reply::header(&mut response, "location", &link);
    let wait = front.options.retry_after.to_string();
    reply::header(&mut response, "retry-after", &wait);
    Ok(response)
}

/// Deletes all that is in a resource group, then its record.
///
/// # Errors
/// The engine's; the store's.
pub(crate) async fn delete_all(
    front: &Arc<Front>,
    subscription: &str,
    name: &str,
) -> Result<(), Error> {
    let mine = front.engine.list().into_iter().filter(|group| {
        group.name().subscription() == subscription && group.name().resource_group() == name
    });
    let deletions: Vec<_> = mine
        .map(|group| async move { group.delete().await })
        .collect();
    for deleted in futures_util::future::join_all(deletions).await {
        deleted?;
    }
    let mut changes: Vec<Change> = Vec::new();
    for kind in ["group", "profile", "deployment"] {
        let prefix = format!("{kind}/{subscription}/{name}/");
        let found = front.records.keys(&prefix);
        changes.extend(found.iter().map(|key| Change::remove(key)));
    }
    let prefix = resources::key(&format!(
        "/subscriptions/{subscription}/resourceGroups/{name}/"
    ));
    let found = front.records.keys(&prefix);
    changes.extend(found.iter().map(|key| Change::remove(key)));
    changes.push(Change::remove(&key(subscription, name)));
    network::apply(front, changes)
        .await
        .map_err(ArmError::into_error)
}
