//! The front on fakes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use aci_core::fake::{FakeHost, TokioClock};
use aci_core::model::ContainerGroup;
use axum::body::Body;
use futures_util::FutureExt as _;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::{ArmApi, ArmApiBuilder, danger};
use crate::Engine;

mod deployments;
mod networks;
mod operations;

const RG: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg";

async fn builder(host: &FakeHost) -> ArmApiBuilder {
    let engine = Engine::builder()
        .isolation(host.isolation.clone())
        .images(host.images.clone())
        .network(host.network.clone())
        .volumes(host.volumes.clone())
        .store(host.store.clone())
        .build()
        .await
        .unwrap();
    ArmApi::builder(engine).store(host.store.clone())
}

async fn open() -> ArmApi {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    builder(&host)
        .await
        .authorizer(danger::Everybody)
        .build()
        .await
        .unwrap()
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

async fn ask(api: &ArmApi, method: Method, target: &str, body: Option<Value>) -> Answer {
    ask_with(api, method, target, body, &[]).await
}

async fn ask_with(
    api: &ArmApi,
    method: Method,
    target: &str,
    body: Option<Value>,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = Request::builder().method(method).uri(target);
    request = request.header("host", "localhost:1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = match body {
        // Texts are sent as they are.
        Some(Value::String(text)) if text.starts_with('{') => request
            .header("content-type", "application/json")
            .body(Body::from(text)),
        Some(body) => request
            .header("content-type", "application/json")
            .body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    let answer = crate::arm::dispatch::dispatch(Arc::clone(&api.front), request.unwrap()).await;
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        },
    }
}

/// The routes are read from the router itself: one that is added later is tried too.
#[tokio::test]
async fn nothing_is_open_without_an_authorizer() {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    let api = builder(&host).await.build().await.unwrap();
    let mut closed = 0;
    for route in api.routes() {
        if route.need == crate::arm::Need::Open {
            continue;
        }
        let target = format!(
            "{}?api-version=2023-05-01",
            route.path.replace(['{', '}'], "")
        );
        let answer = ask(&api, route.method.clone(), &target, None).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{route:?}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        closed += 1;
    }
    assert!(closed > 1);
    let answer = ask(&api, Method::GET, "/nothing/here", None).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn paths_are_taken_in_any_case_and_with_double_slashes() {
    let api = open().await;
    let text = "name: web\nproperties:\n  osType: Linux\n  containers:\n  - name: a\n    properties: {image: hello, resources: {requests: {cpu: 1, memoryInGB: 1}}}\n";
    let group =
        aci_core::id::GroupRef::new(aci_core::id::GroupRef::DEFAULT_SUBSCRIPTION, "rg", "web");
    let document = ContainerGroup::from_yaml(text).unwrap();
    api.front
        .engine
        .create_or_update_as(group, document)
        .boxed()
        .await
        .unwrap();
    for target in [
        format!(
            "{RG}/providers/Microsoft.ContainerInstance/containerGroups/web?api-version=2021-10-01"
        ),
        format!(
            "/{}//PROVIDERS/microsoft.containerinstance/containergroups/WEB/?API-Version=2021-10-01",
            RG.to_uppercase()
        ),
    ] {
        let answer = ask(&api, Method::GET, &target, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{target}: {}", answer.body);
        assert_eq!(answer.body["name"], "web");
        assert!(answer.headers.contains_key("x-ms-request-id"));
    }
    let missing = format!(
        "{RG}/providers/Microsoft.ContainerInstance/containerGroups/none?api-version=2021-10-01"
    );
    let answer = ask(&api, Method::GET, &missing, None).await;
    assert_eq!(
        (answer.status, &answer.body["error"]["code"]),
        (StatusCode::NOT_FOUND, &"ResourceNotFound".into())
    );
}

#[tokio::test]
async fn api_versions_are_asked_for_and_judged() {
    let api = open().await;
    for (version, code) in [
        ("", "MissingApiVersionParameter"),
        ("?api-version=yesterday", "InvalidApiVersionParameter"),
        (
            "?api-version=2017-08-01-preview",
            "NoRegisteredProviderFound",
        ),
        ("?api-version=2031-01-01", "NoRegisteredProviderFound"),
        ("?api-version=2018-04-01", ""),
        ("?api-version=2026-06-01-preview", ""),
    ] {
        let target = format!("/providers/Microsoft.ContainerInstance/operations{version}");
        let answer = ask(&api, Method::GET, &target, None).await;
        let wanted = if code.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        };
        assert_eq!(answer.status, wanted, "{version}");
        if !code.is_empty() {
            assert_eq!(answer.body["error"]["code"], code);
        }
    }
    let answer = ask(
        &api,
        Method::DELETE,
        "/providers/Microsoft.ContainerInstance/operations",
        None,
    )
    .await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers["allow"], "GET");
}

/// An answer that was given without reading the body left the rest of it in the connection, which
/// the server then closed; a client that sent its next request into it saw it break.
#[tokio::test]
async fn a_body_that_nobody_wants_is_read_or_ends_the_connection() {
    let api = open().await;
    for (bytes, closes) in [(100, false), (1 << 20, true)] {
        let body = Some(Value::from("x".repeat(bytes)));
        let answer = ask(&api, Method::PUT, "/nothing/here", body).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.headers.contains_key("connection"), closes, "{bytes}");
    }
    let target = format!(
        "{RG}/providers/Microsoft.ContainerInstance/containerGroups/a?api-version=2021-10-01"
    );
    let body = Some(Value::from("x".repeat(5 << 20)));
    let answer = ask(&api, Method::PUT, &target, body).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.headers["connection"], "close");
}
