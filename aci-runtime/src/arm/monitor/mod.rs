//! Metrics of groups: measured at a steady pace, kept in a bounded memory, answered as Azure Monitor
//! does and as Prometheus reads them.

mod exposition;
mod gauge;
mod query;
mod series;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures_util::{FutureExt as _, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use serde_json::json;

use super::call::Call;
use super::error::ArmResult;
use super::reply;
use super::route::{Route, Versions};
use crate::Engine;
use gauge::Everything;
use query::Query;

/// Groups that are measured at a time.
const AT_A_TIME: usize = 8;
/// How long one group may take to be measured.
const PATIENCE: Duration = Duration::from_secs(5);
/// Groups that are kept at most: 4 series of 1,440 buckets each at most take about 260 MB then.
const MOST_GROUPS: usize = 1_000;

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Monitor(Mutex<Everything>);

impl Monitor {
    fn all(&self) -> MutexGuard<'_, Everything> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures every running group once, and forgets groups that are gone.
    async fn round(&self, engine: &Engine) {
        let groups = engine.list();
        let names: std::collections::BTreeSet<_> =
            groups.iter().map(|group| group.name().clone()).collect();
        self.all().retain(|name, _| names.contains(name));
        futures_util::stream::iter(groups)
            .for_each_concurrent(AT_A_TIME, |group| async move {
                // What does not run, or does not answer, is measured the next time.
                let Ok(Ok(stats)) = tokio::time::timeout(PATIENCE, group.stats()).await else {
                    return;
                };
                let mut all = self.all();
                if all.len() < MOST_GROUPS || all.contains_key(group.name()) {
                    let measured = all.entry(group.name().clone()).or_default();
                    measured.take(&group.sandbox_id(), stats);
                }
            })
            .await;
    }

    /// Measures until the engine ends. One task; a round that takes longer than the pace delays the
    /// next one.
    pub(crate) fn start(self: &Arc<Self>, engine: &Engine, every: Duration) {
        let monitor = Arc::clone(self);
        engine.accompany(move |engine| {
            Box::pin(async move {
                let clock = Arc::clone(engine.clock());
                loop {
                    monitor.round(&engine).await;
                    clock.sleep_until(clock.now() + every).await;
                }
            })
        });
    }
}

pub(crate) fn routes() -> Vec<Route> {
    const METRICS: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups/{containerGroupName}/providers/Microsoft.Insights/metrics";
    const DEFINITIONS: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups/{containerGroupName}/providers/Microsoft.Insights/metricDefinitions";
    const NAMESPACES: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerInstance/containerGroups/{containerGroupName}/providers/Microsoft.Insights/metricNamespaces";
    vec![
        Route::new(
            Method::GET,
            METRICS,
            "Microsoft.Insights/metrics/read",
            |call| metrics(call).boxed(),
        ),
        Route::new(
            Method::GET,
            DEFINITIONS,
            "Microsoft.Insights/metricDefinitions/read",
            |call| definitions(call).boxed(),
        ),
        Route::new(
            Method::GET,
            NAMESPACES,
            "Microsoft.Insights/metricNamespaces/read",
            |call| namespaces(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/metrics",
            "Microsoft.Insights/metrics/read",
            |call| prometheus(call).boxed(),
        )
        .versions(Versions::Unversioned),
    ]
}

/// The group's address as it was asked for.
fn resource(call: &Call) -> String {
    format!(
        "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerInstance/containerGroups/{}",
        call.subscription(),
        call.resource_group(),
        call.value("containerGroupName")
    )
}

async fn metrics(call: Call) -> ArmResult {
    let group = call.front.engine.get(call.group())?;
    let query = Query::read(&call.query, call.front.engine.clock().now())?;
    let region = &group.view().location.unwrap_or_default();
    let measured = call.front.monitor.all().get(group.name()).cloned();
    let measured = measured.unwrap_or_default();
    Ok(reply::ok(&query.answer(
        &measured,
        &resource(&call),
        region,
    )))
}

async fn definitions(call: Call) -> ArmResult {
    call.front.engine.get(call.group())?;
    Ok(reply::ok(&query::definitions(&resource(&call))))
}

async fn namespaces(call: Call) -> ArmResult {
    call.front.engine.get(call.group())?;
    let id = format!(
        "{}/providers/microsoft.insights/metricnamespaces/{}",
        resource(&call),
        query::NAMESPACE
    );
    Ok(reply::ok(&json!({"value": [{
        "id": id,
        "type": "Microsoft.Insights/metricNamespaces",
        "name": query::NAMESPACE,
        "classification": "Platform",
        "properties": {"metricNamespaceName": query::NAMESPACE},
    }]})))
}

async fn prometheus(call: Call) -> ArmResult<Response> {
    let groups = call.front.engine.list();
    let mut text = exposition::encode(&groups, &call.front.monitor.all())?;
    if let Some(more) = &call.front.exposition {
        // One end-of-file mark, after everything.
        text.truncate(text.trim_end().trim_end_matches("# EOF").len());
        text.push_str(&more());
        text.push_str("# EOF\n");
    }
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    Ok(response)
}
