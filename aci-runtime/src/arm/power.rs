//! Start, stop and restart; logs; what a group needs of the outside.

use std::sync::Arc;

use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use serde_json::json;

use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::operation::{Operation, Subject, announce};
use super::reply;
use super::route::{FIRST, Route, Versions};
use crate::LogOptions;

pub(crate) fn routes() -> Vec<Route> {
    let aci = |route: Route| route.versions(Versions::Aci(FIRST));
    macro_rules! group {
        ($rest:literal) => {
            concat!(
                "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups/{containerGroupName}",
                $rest
            )
        };
    }
    vec![
        aci(Route::new(
            Method::POST,
            group!("/start"),
            "Microsoft.ContainerInstance/containerGroups/start/action",
            |call| start(call).boxed(),
        )),
        aci(Route::new(
            Method::POST,
            group!("/restart"),
            "Microsoft.ContainerInstance/containerGroups/restart/action",
            |call| restart(call).boxed(),
        )),
        aci(Route::new(
            Method::POST,
            group!("/stop"),
            "Microsoft.ContainerInstance/containerGroups/stop/action",
            |call| stop(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            group!("/containers/{containerName}/logs"),
            "Microsoft.ContainerInstance/containerGroups/containers/logs/read",
            |call| logs(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            group!("/outboundNetworkDependenciesEndpoints"),
            "Microsoft.ContainerInstance/containerGroups/outboundNetworkDependenciesEndpoints/read",
            |call| outbound(call).boxed(),
        )),
    ]
}

/// Journals that a group comes up, and follows it.
async fn accepted(call: Call, status: StatusCode) -> ArmResult {
    let front = &call.front;
    let key = call.group();
    let operation = Operation::new(
        key.subscription(),
        Subject::Provision(key.clone()),
        front.engine.now(),
    );
    front.records.apply(vec![operation.change()?]).await?;
    front.follow(operation.clone());
    front.sweep();
    let mut response = reply::empty(status);
    announce(&mut response, &call, &operation, false);
    Ok(response)
}

async fn start(call: Call) -> ArmResult {
    let group = call.front.engine.get(call.group())?;
    group.start().await?;
    accepted(call, StatusCode::ACCEPTED).await
}

async fn restart(call: Call) -> ArmResult {
    let group = call.front.engine.get(call.group())?;
    group.restart().await?;
    accepted(call, StatusCode::NO_CONTENT).await
}

async fn stop(call: Call) -> ArmResult {
    let group = call.front.engine.get(call.group())?;
    // It goes on when the client goes away.
    let stopping = tokio::spawn(async move { group.stop().await });
    stopping.await.map_err(|_| ArmError::internal())??;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

async fn logs(call: Call) -> ArmResult {
    let group = call.front.engine.get(call.group())?;
    let container = group.container(call.value("containerName"))?;
    let invalid = |name: &str, rule: &str| {
        ArmError::bad_request(
            "InvalidQueryParameterValue",
            format!("The query parameter '{name}' is invalid: it must be {rule}."),
        )
        .target(name)
    };
    let tail = match call.query("tail") {
        None | Some("") => None,
        Some(text) => Some(
            text.trim()
                .parse::<u32>()
                .map_err(|_| invalid("tail", "a whole number of lines from 0"))?,
        ),
    };
    let timestamps = match call.query("timestamps").map(str::to_ascii_lowercase) {
        None => false,
        Some(text) => match text.as_str() {
            "" | "false" => false,
            "true" => true,
            _ => return Err(invalid("timestamps", "'true' or 'false'")),
        },
    };
    let content = container.logs(LogOptions { tail, timestamps }).await?;
    Ok(reply::ok(&json!({ "content": content })))
}

/// Nothing of Azure's is needed here, so there is nothing that a firewall would have to let out.
async fn outbound(call: Call) -> ArmResult {
    let front = Arc::clone(&call.front);
    front.engine.get(call.group())?;
    Ok(reply::ok(&json!([])))
}
