//! What the provider says of itself: operations, usages, capabilities, cached images.

use futures_util::FutureExt as _;
use http::Method;
use serde_json::json;

use super::call::Call;
use super::error::ArmResult;
use super::reply;
use super::route::{FIRST, Route, Versions};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::GET,
            "/providers/Microsoft.ContainerInstance/operations",
            "Microsoft.ContainerInstance/operations/read",
            |call| operations(call).boxed(),
        )
        .versions(Versions::Aci(FIRST)),
    ]
}

/// The actions that roles can be made of, from the table of routes.
async fn operations(call: Call) -> ArmResult {
    let mut actions: Vec<&str> = call
        .front
        .routes
        .iter()
        .map(|route| route.action)
        .filter(|action| action.starts_with("Microsoft.ContainerInstance/"))
        .collect();
    actions.sort_unstable();
    actions.dedup();
    let value: Vec<_> = actions
        .into_iter()
        .map(|action| {
            let (resource, operation) = action.rsplit_once('/').unwrap_or((action, ""));
            let resource = resource.trim_start_matches("Microsoft.ContainerInstance/");
            json!({
                "name": action,
                "display": {
                    "provider": "Microsoft Container Instance",
                    "resource": resource,
                    "operation": operation,
                    "description": format!("{operation} of {resource}"),
                },
                "origin": "User",
            })
        })
        .collect();
    Ok(reply::ok(&json!({ "value": value })))
}
