//! Container group profiles, their revisions, and groups made from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aci_core::document::{self, SecretMode, WriteOptions};
use aci_core::model::{
    ApiVersion, ContainerGroup, ContainerGroupProfile, ContainerGroupProperties,
};
use aci_core::validate::{Rules, validate_profile};
use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::records::Change;
use super::route::{Route, Versions};
use super::{Front, groups, page, reply, scope, shape};
use crate::Terms;

macro_rules! one {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroupProfiles/{containerGroupProfileName}",
            $rest
        )
    };
}

pub(crate) fn routes() -> Vec<Route> {
    // The first preview that has them; stable from 2025-09-01 on.
    let aci = |route: Route| route.versions(Versions::Aci("2024-05-01-preview"));
    const READ: &str = "Microsoft.ContainerInstance/containerGroupProfiles/read";
    const WRITE: &str = "Microsoft.ContainerInstance/containerGroupProfiles/write";
    const REVISIONS: &str = "Microsoft.ContainerInstance/containerGroupProfiles/revisions/read";
    vec![
        aci(Route::new(Method::GET, one!(""), READ, |call| {
            get(call).boxed()
        })),
        aci(Route::new(Method::PUT, one!(""), WRITE, |call| {
            put(call).boxed()
        })),
        aci(Route::new(Method::PATCH, one!(""), WRITE, |call| {
            patch(call).boxed()
        })),
        aci(Route::new(
            Method::DELETE,
            one!(""),
            "Microsoft.ContainerInstance/containerGroupProfiles/delete",
            |call| delete(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            one!("/revisions"),
            REVISIONS,
            |call| revisions(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            one!("/revisions/{revisionNumber}"),
            REVISIONS,
            |call| revision(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/providers/Microsoft.ContainerInstance/containerGroupProfiles",
            READ,
            |call| list(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroupProfiles",
            READ,
            |call| list(call).boxed(),
        )),
    ]
}

/// A profile as it is journaled: all revisions, with their secrets.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    id: String,
    name: String,
    tags: BTreeMap<String, String>,
    version: u64,
    /// By number; documents as they were accepted.
    revisions: BTreeMap<u32, Value>,
}

pub(crate) fn key(subscription: &str, resource_group: &str, name: &str) -> String {
    format!("profile/{subscription}/{resource_group}/{name}")
}

impl Kept {
    fn latest(&self) -> u32 {
        self.revisions.keys().next_back().copied().unwrap_or(0)
    }

    fn etag(&self) -> String {
        format!("\"{:x}-{:x}\"", self.latest(), self.version)
    }

    /// A revision's document; `None` if there is no such revision.
    fn document(&self, revision: u32) -> Option<ContainerGroupProfile> {
        let value = self.revisions.get(&revision)?;
        serde_json::from_value(value.clone()).ok()
    }

    /// A revision as answers show it.
    fn value(&self, revision: u32, version: ApiVersion) -> Option<Value> {
        let mut profile = self.document(revision)?;
        profile.id = Some(self.id.clone());
        profile.name.clone_from(&self.name);
        profile.type_ = Some(ContainerGroupProfile::RESOURCE_TYPE.to_owned());
        profile.api_version = None;
        profile.tags = self.tags.clone();
        profile.properties.revision = Some(revision);
        profile.properties.registered_revisions = self.revisions.keys().copied().collect();
        let mut value = profile.to_value(WriteOptions::default().version(version));
        let root = value.as_object_mut()?;
        root.entry("tags").or_insert_with(|| json!({}));
        if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
            shape::completed(properties, version);
        }
        Some(value)
    }
}

fn missing(call: &Call) -> ArmError {
    ArmError::not_found(
        ContainerGroupProfile::RESOURCE_TYPE,
        call.value("containerGroupProfileName"),
        call.resource_group(),
    )
}

fn key_of(call: &Call) -> String {
    key(
        call.subscription(),
        call.resource_group(),
        call.value("containerGroupProfileName"),
    )
}

fn found(call: &Call) -> ArmResult<Kept> {
    match call.front.records.get(&key_of(call)) {
        Some(kept) => Ok(kept),
        None if !scope::exists(&call.front, call.subscription(), call.resource_group()) => {
            Err(ArmError::resource_group_not_found(call.resource_group()))
        }
        None => Err(missing(call)),
    }
}

fn answer(call: &Call, kept: &Kept, revision: u32, status: StatusCode) -> ArmResult {
    let value = kept
        .value(revision, call.version)
        .ok_or_else(|| missing(call))?;
    let mut response = reply::json(status, &value);
    reply::header(&mut response, "etag", &kept.etag());
    Ok(response)
}

async fn get(call: Call) -> ArmResult {
    let kept = found(&call)?;
    answer(&call, &kept, kept.latest(), StatusCode::OK)
}

async fn put(call: Call) -> ArmResult {
    let node = call.json()?;
    let reading = document::inspect_as(&node, true).into_result()?;
    let profile = reading.profiles.into_iter().next();
    let profile = profile.ok_or_else(|| {
        ArmError::bad_request(
            "InvalidRequestContent",
            "The body is no container group profile.",
        )
    })?;
    let front = Arc::clone(&call.front);
    let name = call.value("containerGroupProfileName").to_owned();
    let (kept, new) = keep(
        &front,
        call.subscription(),
        call.resource_group(),
        &name,
        profile,
        Some(&call.parts.headers),
    )
    .await?;
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    answer(&call, &kept, kept.latest(), status)
}

/// Accepts a profile as its next revision. One that says what the latest revision says makes none.
async fn keep(
    front: &Arc<Front>,
    subscription: &str,
    resource_group: &str,
    name: &str,
    mut profile: ContainerGroupProfile,
    headers: Option<&http::HeaderMap>,
) -> ArmResult<(Kept, bool)> {
    name.clone_into(&mut profile.name);
    profile.id = None;
    profile.type_ = None;
    profile.api_version = None;
    profile.system_data = None;
    profile.properties.revision = None;
    profile.properties.registered_revisions.clear();
    profile
        .location
        .get_or_insert_with(|| front.engine.options().location.clone());
    let rules = Rules {
        location: front.engine.options().location.clone(),
        ..front.engine.options().rules.clone()
    };
    validate_profile(&profile, &rules).into_result()?;
    groups::tags_fit(&profile.tags)?;
    let key = key(subscription, resource_group, name);
    let _turn = front.turn(&key).await;
    let before: Option<Kept> = front.records.get(&key);
    if let Some(headers) = headers {
        groups::conditions(headers, before.as_ref().map(Kept::etag).as_deref())?;
    }
    let mut changes = Vec::new();
    let placed = scope::place(
        front,
        subscription,
        resource_group,
        profile.location.as_deref(),
    )?;
    let resource_group = match placed {
        scope::Placed::There(name) => name,
        scope::Placed::New(change) => {
            changes.push(change);
            resource_group.to_owned()
        }
    };
    let new = before.is_none();
    let mut kept = before.unwrap_or_else(|| Kept {
        id: format!(
            "/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/{}/{name}",
            ContainerGroupProfile::RESOURCE_TYPE
        ),
        name: name.to_owned(),
        tags: BTreeMap::new(),
        version: 0,
        revisions: BTreeMap::new(),
    });
    kept.tags = std::mem::take(&mut profile.tags);
    kept.version += 1;
    let value = profile.to_value(WriteOptions::default().secrets(SecretMode::Reveal));
    if kept.revisions.get(&kept.latest()) != Some(&value) {
        kept.revisions.insert(kept.latest() + 1, value);
    }
    changes.push(Change::put(&key, &kept)?);
    front.records.apply(changes).await?;
    Ok((kept, new))
}

/// Accepts a profile of a template.
pub(crate) async fn deploy(
    front: &Arc<Front>,
    subscription: &str,
    resource_group: &str,
    name: &str,
    profile: ContainerGroupProfile,
) -> ArmResult<()> {
    keep(front, subscription, resource_group, name, profile, None)
        .await
        .map(drop)
}

async fn patch(call: Call) -> ArmResult {
    let tags = groups::tags_of(&call.json()?)?;
    let front = Arc::clone(&call.front);
    let key = key_of(&call);
    let _turn = front.turn(&key).await;
    let mut kept = found(&call)?;
    groups::conditions(&call.parts.headers, Some(&kept.etag()))?;
    if let Some(tags) = tags {
        kept.tags = tags.into_iter().collect();
        kept.version += 1;
        front.records.put(&key, &kept).await?;
    }
    answer(&call, &kept, kept.latest(), StatusCode::OK)
}

/// Groups that were made from it stay: they have its properties, not itself.
async fn delete(call: Call) -> ArmResult {
    let key = key_of(&call);
    let _turn = call.front.turn(&key).await;
    let kept: Option<Kept> = call.front.records.get(&key);
    groups::conditions(
        &call.parts.headers,
        kept.as_ref().map(Kept::etag).as_deref(),
    )?;
    if kept.is_none() {
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    }
    call.front.records.remove(&key).await?;
    Ok(reply::empty(StatusCode::OK))
}

async fn revisions(call: Call) -> ArmResult {
    let kept = found(&call)?;
    let all = kept.revisions.keys().filter_map(|number| {
        let value = kept.value(*number, call.version)?;
        Some((format!("{number:010}"), value))
    });
    let page = page::page(&call, all, |value| value)?;
    Ok(reply::ok(&page))
}

async fn revision(call: Call) -> ArmResult {
    let kept = found(&call)?;
    let text = call.value("revisionNumber");
    let Ok(number) = text.parse::<u32>() else {
        let shown: String = text.chars().take(40).collect();
        return Err(ArmError::bad_request(
            "InvalidRevisionNumber",
            format!("'{shown}' is no number of a revision: write a whole number from 1."),
        )
        .target("revisionNumber"));
    };
    if !kept.revisions.contains_key(&number) {
        return Err(ArmError::not_found(
            "Microsoft.ContainerInstance/containerGroupProfiles/revisions",
            &format!("{}/{number}", kept.name),
            call.resource_group(),
        ));
    }
    answer(&call, &kept, number, StatusCode::OK)
}

async fn list(call: Call) -> ArmResult {
    let resource_group = call.resource_group();
    let prefix = if resource_group.is_empty() {
        format!("profile/{}/", call.subscription())
    } else if scope::exists(&call.front, call.subscription(), resource_group) {
        key(call.subscription(), resource_group, "")
    } else {
        return Err(ArmError::resource_group_not_found(resource_group));
    };
    let all = call.front.records.list::<Kept>(&prefix);
    let page = page::page(&call, all, |kept| {
        kept.value(kept.latest(), call.version).unwrap_or_default()
    })?;
    Ok(reply::ok(&page))
}

/// Profiles as lists of all resources show them.
pub(crate) fn short(front: &Front, subscription: &str, resource_group: &str) -> Vec<Value> {
    let prefix = if resource_group.is_empty() {
        format!("profile/{subscription}/")
    } else {
        key(subscription, resource_group, "")
    };
    let all = front.records.list::<Kept>(&prefix);
    all.into_iter()
        .map(|(_, kept)| {
            let location = kept.document(kept.latest()).and_then(|d| d.location);
            json!({
                "id": kept.id,
                "name": kept.name,
                "type": ContainerGroupProfile::RESOURCE_TYPE,
                "location": location,
                "tags": kept.tags,
            })
        })
        .collect()
}

/// A group's document with what its profile says. What the group says itself wins; of containers
/// that both have, the group gives config maps and environment variables (ACI: a group from a
/// profile overrides config maps only).
///
/// # Errors
/// The profile or its revision is not there; a container that the profile has not.
pub(crate) fn applied(
    front: &Front,
    mut group: ContainerGroup,
) -> ArmResult<(ContainerGroup, Terms)> {
    let Some(reference) = group.properties.container_group_profile.clone() else {
        return Ok((group, Terms::default()));
    };
    let target = "properties.containerGroupProfile";
    let invalid = |message: String| {
        ArmError::bad_request("InvalidContainerGroupProfile", message).target(target)
    };
    let id = reference.id.unwrap_or_default();
    let parts = super::route::parts(&id)?;
    let place = |i: usize| parts.get(i).map_or("", String::as_str);
    let kind = format!("{}/{}", place(5), place(6));
    if parts.len() != 8 || !kind.eq_ignore_ascii_case(ContainerGroupProfile::RESOURCE_TYPE) {
        return Err(invalid(format!(
            "The 'id' of the container group profile is not the id of one: '{}'.",
            id.chars().take(200).collect::<String>()
        )));
    }
    let key = key(place(1), place(3), place(7));
    let kept: Kept = front.records.get(&key).ok_or_else(|| {
        invalid(format!(
            "The container group profile '{}' was not found.",
            place(7)
        ))
    })?;
    let number = reference.revision.unwrap_or_else(|| kept.latest());
    let profile = kept.document(number).ok_or_else(|| {
        invalid(format!(
            "The container group profile '{}' has no revision {number}; its latest is {}.",
            place(7),
            kept.latest()
        ))
    })?;
    let from = profile.properties;
    let terms = Terms {
        grace: from.shutdown_grace_period.as_deref().and_then(duration),
        time_to_live: from.time_to_live.as_deref().and_then(duration),
    };
    let own: &mut ContainerGroupProperties = &mut group.properties;
    let given = std::mem::replace(&mut own.containers, from.containers);
    for container in given {
        let Some(base) = own.containers.iter_mut().find(|c| c.name == container.name) else {
            return Err(invalid(format!(
                "The container '{}' is not one of the container group profile's.",
                container.name
            )));
        };
        if container.properties.config_map.is_some() {
            base.properties.config_map = container.properties.config_map;
        }
        for variable in container.properties.environment_variables {
            let variables = &mut base.properties.environment_variables;
            variables.retain(|known| known.name != variable.name);
            variables.push(variable);
        }
    }
    if let Some(context) = from.security_context {
        for container in &mut own.containers {
            container
                .properties
                .security_context
                .get_or_insert_with(|| context.clone());
        }
    }
    macro_rules! option { ($($field:ident),*) => { $( if own.$field.is_none() { own.$field = from.$field; } )* } }
    macro_rules! list { ($($field:ident),*) => { $( if own.$field.is_empty() { own.$field = from.$field; } )* } }
    option!(
        sku,
        encryption_properties,
        restart_policy,
        ip_address,
        os_type,
        diagnostics,
        priority,
        confidential_compute_properties
    );
    list!(
        init_containers,
        extensions,
        image_registry_credentials,
        volumes
    );
    if let Some(reference) = &mut own.container_group_profile {
        reference.revision = Some(number);
    }
    if group.location.is_none() {
        group.location = profile.location;
    }
    if group.zones.is_empty() {
        group.zones = profile.zones;
    }
    Ok((group, terms))
}

/// A duration of ISO 8601, which was judged when the profile was accepted.
fn duration(text: &str) -> Option<Duration> {
    let signed: jiff::SignedDuration = text.parse().ok()?;
    signed.try_into().ok()
}
