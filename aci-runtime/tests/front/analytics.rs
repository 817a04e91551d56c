//! Logs and events on their way to a workspace that fails at first.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::model::ContainerGroup;
use aci_runtime::analytics::{self, LogAnalyticsOptions};
use aci_runtime::server::{Server, ServerOptions};
use axum::Router;
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use ring::hmac;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::lab::Lab;

const WORKSPACE: &str = "0e4bdc24-0f51-4a4b-8ec2-6cf2dea8a5f1";
const KEY: &str = "Y2FuYXJ5LXdvcmtzcGFjZS1rZXk=";

#[derive(Default)]
struct Workspace {
    /// How many requests are still refused.
    failing: u32,
    records: Vec<(String, Value)>,
    tries: u32,
}

type Shared = Arc<Mutex<Workspace>>;

/// Checks a request as the service does: the signature over length, type, date and path.
fn signed(headers: &HeaderMap, length: usize) -> bool {
    let get = |name: &str| headers[name].to_str().unwrap();
    let text = format!(
        "POST\n{length}\napplication/json\nx-ms-date:{}\n/api/logs",
        get("x-ms-date")
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
    let expected = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    get("authorization") == format!("SharedKey {WORKSPACE}:{expected}")
}

async fn workspace(failing: u32) -> (String, Shared, CancellationToken) {
    let shared = Shared::default();
    shared.lock().unwrap().failing = failing;
    let own = Arc::clone(&shared);
    let router = Router::new().fallback(move |request: Request| {
        let own = Arc::clone(&own);
        async move {
            assert_eq!(
                request.uri().to_string(),
                "/api/logs?api-version=2016-04-01"
            );
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let mut own = own.lock().unwrap();
            own.tries += 1;
            if !signed(&parts.headers, body.len()) {
                return StatusCode::FORBIDDEN;
            }
            if own.failing > 0 {
                own.failing -= 1;
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            let table = parts.headers["log-type"].to_str().unwrap().to_owned();
            assert!(
                parts.headers["x-ms-azureresourceid"]
                    .to_str()
                    .unwrap()
                    .contains("/containerGroups/")
            );
            let records: Vec<Value> = serde_json::from_slice(&body).unwrap();
            own.records
                .extend(records.into_iter().map(|r| (table.clone(), r)));
            StatusCode::OK
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(Server::new(listener, None, ServerOptions::default()).run(router, stop.clone()));
    (endpoint, shared, stop)
}

fn options(lab: &Lab, endpoint: &str) -> LogAnalyticsOptions {
    let tls = Arc::new(lab.client_config());
    let mut options = LogAnalyticsOptions::new(lab.dir.path().join("analytics"), tls);
    options.endpoint = endpoint.to_owned();
    options.collect = Duration::from_millis(200);
    options
}

fn document(name: &str, script: &str) -> ContainerGroup {
    let document = json!({"name": name, "location": "local", "properties": {
        "osType": "Linux", "restartPolicy": "Always",
        "containers": [{"name": "c", "properties": {
            "image": "sh", "command": ["sh", "-c", script],
            "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}}}],
        "diagnostics": {"logAnalytics": {"workspaceId": WORKSPACE, "workspaceKey": KEY,
            "logType": "ContainerInstanceLogs", "metadata": {"team": "blue", "ContainerName": "forged"}}}}});
    ContainerGroup::from_json(&document.to_string()).unwrap()
}

async fn until(shared: &Shared, holds: impl Fn(&Workspace) -> bool) {
    let waiting = async {
        while !holds(&shared.lock().unwrap()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "{:?}", shared.lock().unwrap().records);
}

fn messages(workspace: &Workspace) -> Vec<String> {
    let lines = workspace
        .records
        .iter()
        .filter(|(table, _)| table == "ContainerInstanceLog");
    lines
        .map(|(_, record)| record["Message"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_events_arrive_once_and_in_order_after_failures() {
    let lab = Lab::start().await;
    let (endpoint, shared, stop) = workspace(2).await;
    analytics::start(&lab.engine, options(&lab, &endpoint)).unwrap();
    let script = "echo one; echo two; sleep 1; echo three; sleep 3600";
    lab.engine
        .create_or_update(document("g", script))
        .await
        .unwrap();
    until(&shared, |w| messages(w).len() >= 3).await;
    until(&shared, |w| {
        w.records.iter().any(|(_, r)| r["Name"] == "Started")
    })
    .await;
    let got = shared.lock().unwrap().records.clone();
    assert_eq!(messages(&shared.lock().unwrap()), ["one", "two", "three"]);
    let (_, line) = got
        .iter()
        .find(|(t, _)| t == "ContainerInstanceLog")
        .unwrap();
    for (name, value) in [
        ("ContainerGroup", "g"),
        ("ContainerName", "c"),
        ("ContainerImage", "sh"),
        ("Source", "stdout"),
        ("OSType", "Linux"),
        ("team", "blue"),
    ] {
        assert_eq!(line[name], value, "{line}");
    }
    assert!(shared.lock().unwrap().tries > 2);
    // The key is nowhere but in the journal; what was sent is off the disk.
    let mut files = vec![lab.dir.path().join("analytics")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                !text.contains(KEY) && !text.contains("canary"),
                "{}",
                path.display()
            );
        }
    }
    stop.cancel();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_is_away_holds_up_no_container_and_gets_everything_later() {
    let lab = Lab::start().await;
    // Nobody listens there.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    analytics::start(&lab.engine, options(&lab, &format!("http://{gone}"))).unwrap();
    let group = lab
        .engine
        .create_or_update(document("g", "tick 0.001 2000; sleep 3600"))
        .await
        .unwrap();
    group.running().await.unwrap();
    let log = || async {
        group
            .container("c")
            .unwrap()
            .logs(aci_runtime::LogOptions::default())
            .await
    };
    while !log().await.unwrap_or_default().contains("tick 2000") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let spool = lab.dir.path().join("analytics").join(WORKSPACE);
    let kept = || -> String {
        let files = std::fs::read_dir(&spool).into_iter().flatten().flatten();
        files
            .map(|f| std::fs::read_to_string(f.path()).unwrap_or_default())
            .collect()
    };
    while !kept().contains("tick 2000") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The program is started again, and the workspace is back.
    lab.stop.cancel();
    lab.engine
        .shutdown(aci_runtime::Shutdown::LeaveRunning)
        .await
        .unwrap();
    let host = &lab.host;
    let engine = aci_runtime::Engine::builder()
        .isolation(host.isolation.clone())
        .images(host.images.clone())
        .network(host.network.clone())
        .volumes(host.volumes.clone())
        .store(host.store.clone())
        .build()
        .await
        .unwrap();
    let (endpoint, shared, stop) = workspace(0).await;
    analytics::start(&engine, options(&lab, &endpoint)).unwrap();
    until(&shared, |w| messages(w).len() >= 2_000).await;
    let expected: Vec<_> = (1..=2_000).map(|n| format!("tick {n}")).collect();
    assert_eq!(messages(&shared.lock().unwrap()), expected);
    stop.cancel();
    engine
        .shutdown(aci_runtime::Shutdown::StopGroups)
        .await
        .unwrap();
}
