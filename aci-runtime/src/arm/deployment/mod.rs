//! Deployments of templates: evaluated by `aci-core`, carried out in the order of their
//! dependencies, journaled step by step.
//!
//! A crash in between is gone on with: what a step puts, it may put twice.

mod plan;
mod record;
mod run;

use std::sync::Arc;

use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::operation::{Operation, Subject};
use super::records::Change;
use super::route::Route;
use super::{Front, page, reply, resources, scope};
use plan::request;
pub(crate) use record::Key;
use record::{Kept, State, key_of};
pub(crate) use run::run;

const NESTED: &str = "Microsoft.Resources/deployments";

macro_rules! one {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.Resources/deployments/{deploymentName}",
            $rest
        )
    };
}

pub(crate) fn routes() -> Vec<Route> {
    const READ: &str = "Microsoft.Resources/deployments/read";
    const WRITE: &str = "Microsoft.Resources/deployments/write";
    vec![
        Route::new(Method::GET, one!(""), READ, |call| get(call).boxed()),
        Route::new(Method::HEAD, one!(""), READ, |call| head(call).boxed()),
        Route::new(Method::PUT, one!(""), WRITE, |call| put(call).boxed()),
        Route::new(
            Method::DELETE,
            one!(""),
            "Microsoft.Resources/deployments/delete",
            |call| delete(call).boxed(),
        ),
        Route::new(
            Method::POST,
            one!("/validate"),
            "Microsoft.Resources/deployments/validate/action",
            |call| validate(call).boxed(),
        ),
        Route::new(
            Method::POST,
            one!("/whatIf"),
            "Microsoft.Resources/deployments/whatIf/action",
            |call| what_if(call).boxed(),
        ),
        Route::new(
            Method::POST,
            one!("/cancel"),
            "Microsoft.Resources/deployments/cancel/action",
            |call| cancel(call).boxed(),
        ),
        Route::new(
            Method::POST,
            one!("/exportTemplate"),
            "Microsoft.Resources/deployments/exportTemplate/action",
            |call| export(call).boxed(),
        ),
        Route::new(
            Method::GET,
            one!("/operations"),
            "Microsoft.Resources/deployments/operations/read",
            |call| steps(call).boxed(),
        ),
        // The SDKs ask for them without the provider.
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/deployments/{deploymentName}/operations",
            "Microsoft.Resources/deployments/operations/read",
            |call| steps(call).boxed(),
        ),
        Route::new(
            Method::GET,
            one!("/operationStatuses/{operationId}"),
            "Microsoft.Resources/deployments/operationstatuses/read",
            |call| status(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.Resources/deployments",
            READ,
            |call| list(call).boxed(),
        ),
    ]
}

async fn put(call: Call) -> ArmResult {
    let (mut kept, _) = request(&call).await?;
    let front = Arc::clone(&call.front);
    let key = kept.key.record();
    let _turn = front.turn(&key).await;
    let before: Option<Kept> = front.records.get(&key);
    if before.as_ref().is_some_and(|b| b.state == State::Running) {
        return Err(ArmError::new(
            StatusCode::CONFLICT,
            "DeploymentActive",
            format!(
                "Unable to edit or replace deployment '{}': previous deployment is still active.",
                kept.name
            ),
        ));
    }
    let operation = Operation::new(
        call.subscription(),
        Subject::Deployment(kept.key.clone()),
        kept.begun,
    );
    kept.operation.clone_from(&operation.id);
    front
        .records
        .apply(vec![Change::put(&key, &kept)?, operation.change()?])
        .await?;
    front.follow(operation);
    let status = if before.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut value = kept.value();
    value["properties"]["provisioningState"] = json!("Accepted");
    let mut response = reply::json(status, &value);
    let link = format!(
        "{}{}/operationStatuses/{}?api-version={}",
        call.base(),
        kept.id(),
        kept.operation,
        call.version
    );
    reply::header(&mut response, "azure-asyncoperation", &link);
    let wait = front.options.retry_after.to_string();
    reply::header(&mut response, "retry-after", &wait);
    Ok(response)
}

async fn validate(call: Call) -> ArmResult {
    let (kept, evaluated) = request(&call).await?;
    let mut value = kept.value();
    let properties = &mut value["properties"];
    properties["provisioningState"] = json!("Succeeded");
    properties["validatedResources"] = evaluated
        .resources
        .iter()
        .map(|resource| json!({"id": resource.id}))
        .collect();
    Ok(reply::ok(&value))
}

/// What a deployment would do. Values are not compared, so that none is shown: what is there already
/// would be deployed again.
async fn what_if(call: Call) -> ArmResult {
    let (kept, evaluated) = request(&call).await?;
    let front = &call.front;
    let mut there = resources::ids(front, call.subscription(), call.resource_group());
    let mut changes = Vec::new();
    for resource in &evaluated.resources {
        // What is in a nested deployment stands by itself.
        if resource.kind.eq_ignore_ascii_case(NESTED) {
            continue;
        }
        let child = front.records.get::<Value>(&resources::key(&resource.id));
        let before = there.remove(&resource.id.to_lowercase());
        let after = json!({
            "id": resource.id,
            "name": resource.name,
            "type": resource.kind,
            "apiVersion": resource.api_version,
        });
        changes.push(if before.is_some() || child.is_some() {
            json!({"resourceId": resource.id, "changeType": "Deploy"})
        } else {
            json!({"resourceId": resource.id, "changeType": "Create", "after": after})
        });
    }
    let rest = if kept.complete { "Delete" } else { "Ignore" };
    for id in there.values() {
        changes.push(json!({"resourceId": id, "changeType": rest}));
    }
    Ok(reply::ok(
        &json!({"status": "Succeeded", "properties": {"changes": changes}}),
    ))
}

fn found(call: &Call) -> ArmResult<Kept> {
    let name = call.value("deploymentName");
    let key = key_of(call.subscription(), call.resource_group(), name);
    call.front.records.get(&key).ok_or_else(|| {
        if !scope::exists(&call.front, call.subscription(), call.resource_group()) {
            return ArmError::resource_group_not_found(call.resource_group());
        }
        ArmError::new(
            StatusCode::NOT_FOUND,
            "DeploymentNotFound",
            format!("Deployment '{name}' could not be found."),
        )
    })
}

async fn get(call: Call) -> ArmResult {
    Ok(reply::ok(&found(&call)?.value()))
}

async fn head(call: Call) -> ArmResult {
    found(&call)?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Forgets the deployment; what it made stays.
async fn delete(call: Call) -> ArmResult {
    let Ok(kept) = found(&call) else {
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    };
    if kept.state == State::Running {
        return Err(ArmError::new(
            StatusCode::CONFLICT,
            "DeploymentActive",
            format!("The deployment '{}' is still active.", kept.name),
        ));
    }
    call.front.records.remove(&kept.key.record()).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Nothing more is begun; what is under way comes to its end.
async fn cancel(call: Call) -> ArmResult {
    let front = &call.front;
    let name = call.value("deploymentName");
    let key = key_of(call.subscription(), call.resource_group(), name);
    let _turn = front.turn(&key).await;
    let mut kept = found(&call)?;
    if kept.state != State::Running {
        return Err(ArmError::new(
            StatusCode::CONFLICT,
            "DeploymentCannotBeCancelled",
            format!(
                "Unable to cancel deployment '{name}' because it is in state '{}'.",
                kept.state.text()
            ),
        ));
    }
    kept.state = State::Canceled;
    kept.ended = Some(front.engine.now());
    front.records.put(&key, &kept).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

async fn export(call: Call) -> ArmResult {
    Ok(reply::ok(&json!({"template": found(&call)?.template})))
}

async fn steps(call: Call) -> ArmResult {
    let kept = found(&call)?;
    let all = kept.steps.iter().enumerate().map(|(i, step)| {
        let operation = Uuid::new_v5(
            &Uuid::NAMESPACE_URL,
            format!("{}{}", kept.key.run, step.id).as_bytes(),
        );
        let operation = operation.simple().to_string();
        let ended = step.ended.unwrap_or(step.begun);
        let mut properties = json!({
            "provisioningOperation": "Create",
            "provisioningState": step.state.text(),
            "timestamp": ended.to_string(),
            "duration": format!("PT{:.3}S", ended.since(step.begun).as_secs_f64()),
            "statusCode": match step.state {
                State::Succeeded => "OK",
                State::Running => "Accepted",
                State::Failed | State::Canceled => "Conflict",
            },
            "targetResource": {"id": step.id, "resourceType": step.kind, "resourceName": step.name},
        });
        if let Some(error) = &step.error {
            properties["statusMessage"] = json!({"status": "Failed", "error": error});
        }
        let value = json!({
            "id": format!("{}/operations/{operation}", kept.id()),
            "operationId": operation,
            "properties": properties,
        });
        (format!("{i:06}"), value)
    });
    let page = page::page(&call, all, |value| value)?;
    Ok(reply::ok(&page))
}

async fn status(call: Call) -> ArmResult {
    let kept = found(&call)?;
    let mut value = json!({"status": kept.state.text()});
    if let Some(error) = &kept.error {
        value["error"] = error.clone();
    }
    let mut response = reply::ok(&value);
    if kept.state == State::Running {
        let wait = call.front.options.retry_after.to_string();
        reply::header(&mut response, "retry-after", &wait);
    }
    Ok(response)
}

async fn list(call: Call) -> ArmResult {
    if !scope::exists(&call.front, call.subscription(), call.resource_group()) {
        return Err(ArmError::resource_group_not_found(call.resource_group()));
    }
    let prefix = key_of(call.subscription(), call.resource_group(), "");
    let all = call.front.records.list::<Kept>(&prefix);
    let page = page::page(&call, all, |kept| kept.value())?;
    Ok(reply::ok(&page))
}

/// The deployment as answers show it.
pub(crate) fn read(front: &Front, key: &Key) -> Option<Value> {
    let kept: Kept = front.records.get(&key.record())?;
    Some(kept.value())
}
