//! Carrying a deployment out.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use aci_core::document;
use aci_core::document::tree::Node;
use aci_core::error::{Error, ErrorKind};
use aci_core::id::GroupRef;
use aci_core::model::{ContainerGroup, ContainerGroupProfile};
use aci_core::template::{Evaluated, Resource};
use serde_json::{Map, Value, json};

use super::NESTED;
use super::plan::evaluate;
use super::record::{Kept, Key, State, Step};
use crate::arm::error::ArmError;
use crate::arm::records::Change;
use crate::arm::{Front, groups, network, operation, profile, resources};

/// Carries a deployment out; the record says at every moment how far it is.
pub(crate) async fn run(front: &Weak<Front>, key: &Key) -> Result<(), Error> {
    let gone = || {
        Error::new(
            ErrorKind::Cancelled,
            "deployment.run",
            "the front was dropped",
        )
    };
    let front = front.upgrade().ok_or_else(gone)?;
    let outcome = carry_out(&front, key).await;
    if outcome
        .as_ref()
        .is_err_and(|e| e.kind() == ErrorKind::Cancelled)
    {
        return outcome.map(drop);
    }
    let _turn = front.turn(&key.record()).await;
    let Some(mut kept) = current(&front, key) else {
        return Err(operation::unknown("the deployment was deleted"));
    };
    if kept.state == State::Running {
        kept.ended = Some(front.engine.now());
        match &outcome {
            Ok(outputs) => {
                kept.state = State::Succeeded;
                kept.outputs = outputs.clone();
            }
            Err(error) => {
                kept.state = State::Failed;
                let inner = ArmError::from(copy(error)).to_value();
                kept.error = Some(json!({
                    "code": "DeploymentFailed",
                    "message": "At least one resource deployment operation failed. Please list deployment operations for details.",
                    "details": [inner],
                }));
            }
        }
        front.records.put(&key.record(), &kept).await?;
    }
    outcome.map(drop)
}

/// An error in the same words: errors cannot be cloned, and this one is told twice.
fn copy(error: &Error) -> Error {
    let mut copy = if error.problems().is_empty() {
        Error::new(error.kind(), error.operation(), error.message())
    } else {
        Error::from_problems(error.operation(), error.problems().to_vec())
    };
    if let Some(code) = error.aci_code() {
        copy = copy.code(code);
    }
    copy
}

/// The record, if it is still of this run.
fn current(front: &Front, key: &Key) -> Option<Kept> {
    let kept: Option<Kept> = front.records.get(&key.record());
    kept.filter(|kept| kept.key.run == key.run)
}

async fn carry_out(front: &Arc<Front>, key: &Key) -> Result<Value, Error> {
    let unknown = || operation::unknown("the deployment was deleted or replaced");
    let kept = current(front, key).ok_or_else(unknown)?;
    let plan = &evaluate(front, &kept).await?;
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut left: Vec<usize> = (0..plan.resources.len()).collect();
    while !left.is_empty() {
        if current(front, key).ok_or_else(unknown)?.state != State::Running {
            return Err(Error::new(
                ErrorKind::Conflict,
                "deployment.run",
                "The deployment was canceled.",
            )
            .code("DeploymentCanceled"));
        }
        let (ready, rest): (Vec<usize>, Vec<usize>) = left.iter().partition(|i| {
            let wanted = &plan.resources[**i].depends_on;
            wanted.iter().all(|id| {
                let id = id.to_lowercase();
                done.contains(&id) || !plan.resources.iter().any(|r| r.id.to_lowercase() == id)
            })
        });
        if ready.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "deployment.run",
                "The resources wait for each other.",
            )
            .code("InvalidTemplate"));
        }
        let kept = &kept;
        let made = ready.iter().map(|i| async move {
            let resource = &plan_of(front, kept, *i, &plan.resources[*i]).await;
            step(front, key, kept, resource).await
        });
        for made in futures_util::future::join_all(made).await {
            made?;
        }
        done.extend(ready.iter().map(|i| plan.resources[*i].id.to_lowercase()));
        left = rest;
    }
    if kept.complete {
        prune(front, &kept, plan).await?;
    }
    let last = evaluate(front, &kept).await?;
    let mut outputs = Map::new();
    for output in &last.outputs {
        let value = output.complete().map_err(Error::from)?;
        let kind = kind_of(&output.kind);
        let shown = if output.kind.to_ascii_lowercase().starts_with("secure") {
            json!({"type": kind})
        } else {
            json!({"type": kind, "value": value})
        };
        outputs.insert(output.name.clone(), shown);
    }
    Ok(Value::Object(outputs))
}

/// ARM's spelling of an output's type.
fn kind_of(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    let known = [
        "String",
        "Bool",
        "Int",
        "Object",
        "Array",
        "SecureString",
        "SecureObject",
    ];
    let found = known.iter().find(|k| k.to_ascii_lowercase() == lower);
    found.map_or_else(|| kind.to_owned(), |k| (*k).to_owned())
}

/// The resource with the values that are known now.
async fn plan_of(
    front: &Arc<Front>,
    kept: &Kept,
    index: usize,
    first: &Resource,
) -> Result<Resource, Error> {
    if first.pending.is_empty() {
        return Ok(first.clone());
    }
    let again = evaluate(front, kept).await?;
    again
        .resources
        .get(index)
        .filter(|resource| resource.id == first.id)
        .cloned()
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "deployment.run",
                "the template gives other resources now",
            )
        })
}

/// Makes one resource, and journals its begin and end.
async fn step(
    front: &Arc<Front>,
    key: &Key,
    kept: &Kept,
    resource: &Result<Resource, Error>,
) -> Result<(), Error> {
    let resource = resource.as_ref().map_err(copy)?;
    let begun = front.engine.now();
    let note = async |state: State, error: Option<Value>| -> Result<(), Error> {
        let _turn = front.turn(&key.record()).await;
        let Some(mut kept) = current(front, key) else {
            return Err(operation::unknown("the deployment was deleted or replaced"));
        };
        let step = Step {
            id: resource.id.clone(),
            kind: resource.kind.clone(),
            name: resource.name.clone(),
            state,
            begun,
            ended: (state != State::Running).then(|| front.engine.now()),
            error,
        };
        match kept.steps.iter_mut().find(|s| s.id == step.id) {
            Some(old) => *old = step,
            None => kept.steps.push(step),
        }
        front.records.put(&key.record(), &kept).await
    };
    note(State::Running, None).await?;
    match make(front, kept, resource).await {
        Ok(()) => note(State::Succeeded, None).await,
        Err(error) => {
            let shown = ArmError::from(copy(&error)).to_value();
            if error.kind() != ErrorKind::Cancelled {
                note(State::Failed, Some(shown)).await?;
            }
            Err(error)
        }
    }
}

async fn make(front: &Arc<Front>, kept: &Kept, resource: &Resource) -> Result<(), Error> {
    let value = resource.complete().map_err(Error::from)?;
    let (subscription, group) = place_of(&resource.id, kept);
    if resource
        .kind
        .eq_ignore_ascii_case(ContainerGroup::RESOURCE_TYPE)
    {
        let reading = document::inspect_as(&Node::from(value), false).into_result()?;
        let document = reading.groups.into_iter().next().unwrap_or_default();
        let key = GroupRef::new(&subscription, &group, &resource.name);
        let (made, _) = groups::create_or_update(front, key, &group, document, &kept.by)
            .await
            .map_err(ArmError::into_error)?;
        return made.provisioned().await;
    }
    if resource
        .kind
        .eq_ignore_ascii_case(ContainerGroupProfile::RESOURCE_TYPE)
    {
        let reading = document::inspect_as(&Node::from(value), true).into_result()?;
        let profile = reading.profiles.into_iter().next().unwrap_or_default();
        return profile::deploy(front, &subscription, &group, &resource.name, profile)
            .await
            .map_err(ArmError::into_error);
    }
    // What is in a nested deployment was made by itself.
    if resource.kind.eq_ignore_ascii_case(NESTED) {
        return Ok(());
    }
    match resources::Kind::of(&resource.kind) {
        Some(kind) => {
            let name = resource.name.rsplit('/').next().unwrap_or_default();
            resources::keep(front, kind, &resource.id, name, value, &group)
                .await
                .map(drop)
                .map_err(ArmError::into_error)
        }
        None => Err(Error::new(
            ErrorKind::Unsupported,
            "deployment.make",
            format!(
                "The resource type '{}' is not known to this server.",
                resource.kind
            ),
        )
        .code("NoRegisteredProviderFound")),
    }
}

/// The subscription and resource group of an id; of one without, the deployment's.
fn place_of(id: &str, kept: &Kept) -> (String, String) {
    let parts: Vec<&str> = id.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [_, subscription, kind, group, ..] if kind.eq_ignore_ascii_case("resourceGroups") => {
            ((*subscription).to_owned(), (*group).to_owned())
        }
        _ => (kept.key.subscription.clone(), kept.resource_group.clone()),
    }
}

/// Mode `Complete`: what the template does not have is deleted.
async fn prune(front: &Arc<Front>, kept: &Kept, plan: &Evaluated) -> Result<(), Error> {
    let wanted: BTreeSet<String> = plan.resources.iter().map(|r| r.id.to_lowercase()).collect();
    for group in front.engine.list() {
        let name = group.name().clone();
        if name.subscription() == kept.key.subscription
            && name.resource_group() == kept.key.resource_group
            && !wanted.contains(&name.resource_id().to_lowercase())
        {
            group.delete().await?;
            front.records.remove(&groups::meta_key(&name)).await?;
        }
    }
    let prefix = resources::key(&format!(
        "/subscriptions/{}/resourceGroups/{}/",
        kept.key.subscription, kept.key.resource_group
    ));
    let mut changes = Vec::new();
    for (key, old) in front.records.list::<resources::Kept>(&prefix) {
        let id = old.id.to_lowercase();
        // What is inside of something that stays, stays.
        let inside = wanted
            .iter()
            .any(|wanted| id.starts_with(&format!("{wanted}/")));
        if !wanted.contains(&id) && !inside {
            changes.push(Change::remove(&key));
        }
    }
    for value in profile::short(front, &kept.key.subscription, &kept.key.resource_group) {
        let id = value["id"].as_str().unwrap_or_default().to_lowercase();
        let name = value["name"].as_str().unwrap_or_default();
        if !wanted.contains(&id) {
            changes.push(Change::remove(&profile::key(
                &kept.key.subscription,
                &kept.key.resource_group,
                name,
            )));
        }
    }
    network::apply(front, changes)
        .await
        .map_err(ArmError::into_error)
}
