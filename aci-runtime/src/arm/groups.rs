//! Container groups: create, change, read, list, tag, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use aci_core::document;
use aci_core::document::tree::{Data, Node};
use aci_core::error::{Error, ErrorKind, Problem};
use aci_core::id::GroupRef;
use aci_core::model::{ApiVersion, ContainerGroup, SystemData};
use aci_core::time::Timestamp;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::auth::Principal;
use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::operation::{Operation, Subject, announce};
use super::records::Change;
use super::route::{FIRST, Route, Versions};
use super::{Front, network, page, profile, reply, scope, shape};
use crate::Group;
use crate::identity::{IdentityIds, IdentityRef, identities};

/// The address of one group.
pub(crate) const GROUP: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups/{containerGroupName}";

pub(crate) fn routes() -> Vec<Route> {
    let aci = |route: Route| route.versions(Versions::Aci(FIRST));
    const READ: &str = "Microsoft.ContainerInstance/containerGroups/read";
    const WRITE: &str = "Microsoft.ContainerInstance/containerGroups/write";
    vec![
        aci(Route::new(Method::GET, GROUP, READ, |call| {
            get(call).boxed()
        })),
        aci(Route::new(Method::PUT, GROUP, WRITE, |call| {
            put(call).boxed()
        })),
        aci(Route::new(Method::PATCH, GROUP, WRITE, |call| {
            patch(call).boxed()
        })),
        aci(Route::new(
            Method::DELETE,
            GROUP,
            "Microsoft.ContainerInstance/containerGroups/delete",
            |call| delete(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/providers/Microsoft.ContainerInstance/containerGroups",
            READ,
            |call| list(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups",
            READ,
            |call| list(call).boxed(),
        )),
    ]
}

/// What the front keeps of a group beside the engine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The resource group as it was first written.
    resource_group: String,
    /// Grows with every change; the ETag.
    version: u64,
    created_by: String,
    created_by_type: String,
    modified_by: String,
    modified_by_type: String,
    modified: Timestamp,
    /// What its identities are called: by resource id, its own by the empty text.
    #[serde(default)]
    identities: BTreeMap<String, IdentityIds>,
}

/// What the identities of a document are called.
///
/// # Errors
/// `FailedIdentityOperation` for one that the host does not know.
async fn named(
    front: &Front,
    key: &GroupRef,
    document: &ContainerGroup,
) -> ArmResult<BTreeMap<String, IdentityIds>> {
    let mut names = BTreeMap::new();
    let Some(provider) = &front.identities else {
        return Ok(names);
    };
    for identity in identities(document) {
        let ids = match provider.ids(Some(key), &identity).await {
            Ok(ids) => ids,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(ArmError::bad_request(
                    "FailedIdentityOperation",
                    format!("The identity is not known: {}", error.message()),
                )
                .target("identity"));
            }
            Err(error) => return Err(error.into()),
        };
        let name = match identity {
            IdentityRef::System => String::new(),
            IdentityRef::User(id) => id,
        };
        names.insert(name, ids);
    }
    Ok(names)
}

/// What the keys of what is noted of groups begin with.
pub(crate) const META: &str = "group/";

pub(crate) fn meta_key(group: &GroupRef) -> String {
    format!(
        "{META}{}/{}/{}",
        group.subscription(),
        group.resource_group(),
        group.name()
    )
}

/// The group that a key is of.
pub(crate) fn of_meta_key(key: &str) -> Option<GroupRef> {
    let mut parts = key.strip_prefix(META)?.split('/');
    let group = GroupRef::new(parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(group)
}

impl Meta {
    fn of(front: &Front, group: &GroupRef) -> Option<Self> {
        front.records.get(&meta_key(group))
    }

    /// A change by somebody.
    fn changed(before: Option<Self>, resource_group: &str, by: &Principal, now: Timestamp) -> Self {
        let mut meta = before.unwrap_or_else(|| Self {
            resource_group: resource_group.to_owned(),
            created_by: by.name.clone(),
            created_by_type: by.kind.clone(),
            ..Self::default()
        });
        meta.version += 1;
        meta.modified_by.clone_from(&by.name);
        meta.modified_by_type.clone_from(&by.kind);
        meta.modified = now;
        meta
    }

    fn etag(meta: Option<&Self>, created: Timestamp) -> String {
        let version = meta.map_or(0, |m| m.version);
        format!("\"{:x}-{version:x}\"", created.as_micros())
    }
}

/// The group in the shape of the request's version, with the instance view.
pub(crate) fn value(call: &Call, group: &Group) -> Value {
    let meta = Meta::of(&call.front, group.name());
    shown(group, group.view(), meta.as_ref(), call.version)
}

fn shown(
    group: &Group,
    mut view: ContainerGroup,
    meta: Option<&Meta>,
    version: ApiVersion,
) -> Value {
    if let Some(meta) = meta {
        let name = group.name();
        view.id = Some(format!(
            "/subscriptions/{}/resourceGroups/{}/providers/{}/{}",
            name.subscription(),
            meta.resource_group,
            ContainerGroup::RESOURCE_TYPE,
            view.name
        ));
        if let Some(identity) = &mut view.identity {
            if let Some(own) = meta.identities.get("") {
                identity.principal_id = Some(own.principal_id.clone());
                identity.tenant_id = Some(own.tenant_id.clone());
            }
            for (id, shown) in &mut identity.user_assigned_identities {
                if let Some(ids) = meta.identities.get(id) {
                    shown.principal_id = Some(ids.principal_id.clone());
                    shown.client_id = Some(ids.client_id.clone());
                }
            }
        }
        let time = |t: Timestamp| Some(std::time::SystemTime::from(t).into());
        let text = |t: &String| (!t.is_empty()).then(|| t.clone());
        view.system_data = Some(SystemData {
            created_by: text(&meta.created_by),
            created_by_type: text(&meta.created_by_type),
            created_at: time(group.created()),
            last_modified_by: text(&meta.modified_by),
            last_modified_by_type: text(&meta.modified_by_type),
            last_modified_at: time(meta.modified),
            ..SystemData::default()
        });
    }
    shape::group(&view, version)
}

/// An answer with a group and its ETag.
fn answer(call: &Call, group: &Group, status: StatusCode, pending: bool) -> Response {
    let meta = Meta::of(&call.front, group.name());
    let mut value = shown(group, group.view(), meta.as_ref(), call.version);
    if pending && !group.is_provisioned() {
        // What was asked for is under way, whatever runs meanwhile.
        value["properties"]["provisioningState"] = json!("Pending");
    }
    let mut response = reply::json(status, &value);
    let etag = Meta::etag(meta.as_ref(), group.created());
    reply::header(&mut response, "etag", &etag);
    response
}

/// Judges `If-Match` and `If-None-Match` (RFC 9110) by the ETag of what is there now.
///
/// # Errors
/// 412 where they do not hold.
pub(crate) fn conditions(headers: &HeaderMap, present: Option<&str>) -> ArmResult<()> {
    let given = |name| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .map(|v| v.trim().trim_start_matches("W/").to_owned())
            .filter(|v| !v.is_empty())
            .collect::<Vec<_>>()
    };
    let matches = |tags: &[String]| {
        present.is_some_and(|present| tags.iter().any(|tag| tag == "*" || tag == present))
    };
    let wanted = given(header::IF_MATCH);
    if !wanted.is_empty() && !matches(&wanted) {
        return Err(ArmError::precondition_failed(
            "The condition 'If-Match' is not satisfied: the resource is not there or was changed since.",
        ));
    }
    if matches(&given(header::IF_NONE_MATCH)) {
        return Err(ArmError::precondition_failed(
            "The condition 'If-None-Match' is not satisfied: the resource is there already.",
        ));
    }
    Ok(())
}

async fn get(call: Call) -> ArmResult {
    let group = call.front.engine.get(call.group())?;
    let meta = Meta::of(&call.front, group.name());
    let etag = Meta::etag(meta.as_ref(), group.created());
    let unchanged = call
        .parts
        .headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.trim() == etag);
    // The instance view changes without a new ETag, so 304 is only for who asks for it.
    if unchanged {
        let mut response = reply::empty(StatusCode::NOT_MODIFIED);
        reply::header(&mut response, "etag", &etag);
        return Ok(response);
    }
    Ok(answer(&call, &group, StatusCode::OK, false))
}

/// Takes a group's document from a body: the address names it, whatever the body says.
pub(crate) fn read(call: &Call) -> ArmResult<ContainerGroup> {
    let node = call.json()?;
    let reading = document::inspect_as(&node, false).into_result()?;
    for warning in &reading.warnings {
        tracing::debug!(%warning, "in the body");
    }
    let group = reading.groups.into_iter().next();
    let mut group = group.ok_or_else(|| {
        ArmError::bad_request("InvalidRequestContent", "The body is no container group.")
    })?;
    call.value("containerGroupName").clone_into(&mut group.name);
    group.api_version = None;
    Ok(group)
}

async fn put(call: Call) -> ArmResult {
    let document = read(&call)?;
    let key = call.group();
    let resource_group = call.resource_group().to_owned();
    let front = Arc::clone(&call.front);
    let _turn = front.turn(&meta_key(&key)).await;
    let before = front.engine.get(&key).ok();
    let meta = Meta::of(&front, &key);
    let etag = before
        .as_ref()
        .map(|g| Meta::etag(meta.as_ref(), g.created()));
    conditions(&call.parts.headers, etag.as_deref())?;
    let created = before.is_none();
    let (group, operation) =
        create_or_update(&front, key, &resource_group, document, &call.principal).await?;
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut response = answer(&call, &group, status, true);
    announce(&mut response, &call, &operation, true);
    Ok(response)
}

/// Accepts a group: by the engine's journal first, then by the front's. A crash between the two
/// leaves a group whose creation was not answered, and asking again finds it.
pub(crate) async fn create_or_update(
    front: &Arc<Front>,
    key: GroupRef,
    resource_group: &str,
    document: ContainerGroup,
    by: &Principal,
) -> ArmResult<(Group, Operation)> {
    let mut changes = Vec::new();
    let location = document.location.clone();
    let placed = scope::place(
        front,
        key.subscription(),
        resource_group,
        location.as_deref(),
    )?;
    let resource_group = match placed {
        scope::Placed::There(name) => name,
        scope::Placed::New(change) => {
            changes.push(change);
            resource_group.to_owned()
        }
    };
    let (document, terms) = profile::applied(front, document)?;
    tags_fit(&document.tags)?;
    let identities = named(front, &key, &document).await?;
    let _networks = network::present(front, &document).await?;
    // What is noted of a group that went by itself is not of this one.
    let before = front.engine.get(&key).ok();
    let before = before.and_then(|_| Meta::of(front, &key));
    let group = front
        .engine
        .create_or_update_with(key.clone(), document, terms)
        .await?;
    let now = front.engine.now();
    let mut meta = Meta::changed(before, &resource_group, by, now);
    meta.identities = identities;
    let subject = Subject::Provision(key.clone());
    let operation = Operation::new(key.subscription(), subject, now);
    changes.push(Change::put(&meta_key(&key), &meta)?);
    changes.push(operation.change()?);
    front.records.apply(changes).await?;
    front.follow(operation.clone());
    front.sweep();
    Ok((group, operation))
}

/// ARM's bounds of tags.
///
/// # Errors
/// All that do not fit, with ARM's codes.
pub(crate) fn tags_fit<'a>(
    tags: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), Error> {
    let mut problems = Vec::new();
    let mut count = 0;
    for (name, value) in tags {
        count += 1;
        let shown: String = name.chars().take(60).collect();
        let path = format!("tags.{shown}");
        if name.is_empty()
            || name.chars().count() > 512
            || name.contains(['<', '>', '%', '&', '\\', '?', '/'])
        {
            problems.push(Problem::new(
                "InvalidTagNameCharacters",
                path,
                format!("The tag name '{shown}' is invalid: it has 1 to 512 characters, without <, >, %, &, \\, ? and /."),
            ));
        } else if value.chars().count() > 256 {
            problems.push(Problem::new(
                "TagValueTooLong",
                path,
                format!("The value of tag '{shown}' is too long: it has at most 256 characters."),
            ));
        }
    }
    if count > 50 {
        let message = format!("There are {count} tags; a resource has at most 50.");
        problems.push(Problem::new("TooManyTags", "tags", message));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::from_problems("arm.tags", problems))
    }
}

/// The tags of a body; `None` if it does not speak of tags.
///
/// # Errors
/// `InvalidRequestContent`; ARM's for what does not fit.
pub(crate) fn tags_of(node: &Node) -> ArmResult<Option<Vec<(String, String)>>> {
    let content = |message: &str| ArmError::bad_request("InvalidRequestContent", message);
    if !matches!(node.data, Data::Map(_)) {
        return Err(content("The body must be an object."));
    }
    let entries = match node.get("tags") {
        None => return Ok(None),
        Some(tags) if tags.is_null() => return Ok(None),
        Some(tags) => match &tags.data {
            Data::Map(entries) => entries,
            _ => return Err(content("'tags' must be an object of texts.").target("tags")),
        },
    };
    let mut read = Vec::new();
    for entry in entries {
        let Some(value) = entry.node.text() else {
            let shown: String = entry.key.chars().take(60).collect();
            let target = format!("tags.{shown}");
            return Err(content("The value of a tag must be a text.").target(target));
        };
        read.push((entry.key.clone(), value.to_owned()));
    }
    tags_fit(read.iter().map(|(name, value)| (name, value)))?;
    Ok(Some(read))
}

async fn patch(call: Call) -> ArmResult {
    let tags = tags_of(&call.json()?)?;
    let key = call.group();
    let front = Arc::clone(&call.front);
    let _turn = front.turn(&meta_key(&key)).await;
    let group = front.engine.get(&key)?;
    let meta = Meta::of(&front, &key);
    let etag = Meta::etag(meta.as_ref(), group.created());
    conditions(&call.parts.headers, Some(&etag))?;
    if let Some(tags) = tags {
        group.set_tags(tags).await?;
        let now = front.engine.now();
        let meta = Meta::changed(meta, call.resource_group(), &call.principal, now);
        front.records.put(&meta_key(&key), &meta).await?;
    }
    Ok(answer(&call, &group, StatusCode::OK, false))
}

async fn delete(call: Call) -> ArmResult {
    let key = call.group();
    let front = Arc::clone(&call.front);
    let turn = front.turn(&meta_key(&key)).await;
    let group = match front.engine.get(&key) {
        Ok(group) => group,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if !scope::exists(&front, key.subscription(), key.resource_group()) {
                return Err(ArmError::resource_group_not_found(call.resource_group()));
            }
            conditions(&call.parts.headers, None)?;
            return Ok(reply::empty(StatusCode::NO_CONTENT));
        }
        Err(error) => return Err(error.into()),
    };
    let meta = Meta::of(&front, &key);
    let etag = Meta::etag(meta.as_ref(), group.created());
    conditions(&call.parts.headers, Some(&etag))?;
    // The body of 200 is the group as it was.
    let last = value(&call, &group);
    // Journaled first: whoever polls finds it, and a restart goes on with it.
    let operation = Operation::new(
        key.subscription(),
        Subject::Delete(key.clone()),
        front.engine.now(),
    );
    front.records.apply(vec![operation.change()?]).await?;
    front.follow(operation.clone());
    drop(turn);
    // Versions before 2019-12-01 know no 202.
    let patience = if call.version >= "2019-12-01".parse().unwrap_or_default() {
        front.options.delete_patience
    } else {
        std::time::Duration::from_secs(600)
    };
    match tokio::time::timeout(patience, group.delete()).await {
        Ok(deleted) => {
            deleted?;
            Ok(reply::ok(&last))
        }
        Err(_) => {
            let mut response = reply::empty(StatusCode::ACCEPTED);
            announce(&mut response, &call, &operation, false);
            Ok(response)
        }
    }
}

/// Lists show no instance views, as ACI's.
async fn list(call: Call) -> ArmResult {
    let subscription = call.subscription().to_lowercase();
    let resource_group = call.resource_group().to_lowercase();
    if !resource_group.is_empty() && !scope::exists(&call.front, &subscription, &resource_group) {
        return Err(ArmError::resource_group_not_found(call.resource_group()));
    }
    let groups = call.front.engine.list();
    let mine = groups.into_iter().filter(|group| {
        let name = group.name();
        name.subscription() == subscription
            && (resource_group.is_empty() || name.resource_group() == resource_group)
    });
    let keyed = mine.map(|group| {
        let name = group.name();
        (format!("{}/{}", name.resource_group(), name.name()), group)
    });
    // Engines sort by parts; keys sort as texts.
    let mut keyed: Vec<_> = keyed.collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    let page = page::page(&call, keyed, |group| {
        let meta = Meta::of(&call.front, group.name());
        shown(&group, group.summary(), meta.as_ref(), call.version)
    })?;
    Ok(reply::ok(&page))
}
