//! Container groups.

use aci_core::document::WriteOptions;
use futures_util::FutureExt as _;
use http::Method;

use super::call::Call;
use super::error::ArmResult;
use super::reply;
use super::route::{FIRST, Route, Versions};

const GROUP: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups/{containerGroupName}";

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::GET,
            GROUP,
            "Microsoft.ContainerInstance/containerGroups/read",
            |call| get(call).boxed(),
        )
        .versions(Versions::Aci(FIRST)),
    ]
}

async fn get(call: Call) -> ArmResult {
    let group = call.front.engine.get(call.group())?;
    let options = WriteOptions::default().version(call.version);
    Ok(reply::ok(&group.view().to_value(options)))
}
