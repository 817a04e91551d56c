//! From a request to its answer: who asks, what is meant, may they, in which version.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version};
use tracing::Instrument as _;
use uuid::Uuid;

use super::auth::{Access, Need, Principal};
use super::call::{self, Call};
use super::error::{ArmError, ArmResult};
use super::route::{self, Found};
use super::{Front, reply, scope};

/// Answers a request. Every answer has its ids and headers, and refusals ARM's form.
pub(crate) async fn dispatch(front: Arc<Front>, request: Request) -> Response {
    let request_id = Uuid::new_v4().to_string();
    let correlation = given(request.headers(), "x-ms-correlation-request-id")
        .unwrap_or_else(|| request_id.clone());
    let client = given(request.headers(), "x-ms-client-request-id");
    let is_head = request.method() == Method::HEAD;
    let span = tracing::info_span!(
        "arm.request",
        method = %request.method(),
        path = request.uri().path(),
        request_id,
        correlation
    );
    let answering = answer(front, request, request_id.clone()).instrument(span.clone());
    let answered = AssertUnwindSafe(answering).catch_unwind().await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            span.in_scope(|| tracing::debug!(%error, "refused"));
            error.into_response()
        }
        Err(panic) => {
            let said = crate::engine::said(&*panic);
            span.in_scope(|| tracing::error!(message = said, "a handler panicked"));
            ArmError::internal().into_response()
        }
    };
    if is_head {
        *response.body_mut() = Body::empty();
    }
    reply::header(&mut response, "x-ms-request-id", &request_id);
    reply::header(&mut response, "x-ms-correlation-request-id", &correlation);
    reply::header(
        &mut response,
        "x-ms-routing-request-id",
        &format!("LOCAL:{request_id}"),
    );
    if let Some(client) = client {
        reply::header(&mut response, "x-ms-client-request-id", &client);
    }
    reply::header(&mut response, "cache-control", "no-cache");
    reply::header(&mut response, "pragma", "no-cache");
    reply::header(&mut response, "expires", "-1");
    reply::header(&mut response, "x-content-type-options", "nosniff");
    reply::header(
        &mut response,
        "strict-transport-security",
        "max-age=31536000; includeSubDomains",
    );
    response
}

/// A header of the client's that may go back: short and printable.
fn given(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty() && value.len() <= 128).then(|| value.to_owned())
}

/// An answer after which the connection can be used again, or that says that it cannot: a client
/// that sends its next request into a connection that is being closed sees it break.
async fn answer(front: Arc<Front>, request: Request, request_id: String) -> ArmResult {
    let (parts, body) = request.into_parts();
    let persistent = parts.version == Version::HTTP_11 || parts.version == Version::HTTP_10;
    let mut body = Some(body);
    let answered = handled(front, parts, &mut body, request_id).await;
    let whole = match body {
        Some(body) => call::drained(body).await,
        // It was read to its end, or could not be.
        None => !answered.as_ref().is_err_and(ArmError::is_of_body),
    };
    if whole || !persistent {
        return answered;
    }
    let mut response = answered.unwrap_or_else(ArmError::into_response);
    reply::header(&mut response, "connection", "close");
    Ok(response)
}

async fn handled(
    front: Arc<Front>,
    parts: Parts,
    body: &mut Option<Body>,
    request_id: String,
) -> ArmResult {
    let path = route::parts(parts.uri.path());
    let normal = path
        .as_ref()
        .map_or_else(|_| "/".to_owned(), |p| format!("/{}", p.join("/")));
    let no_parts = Vec::new();
    let found = route::find(
        &front.routes,
        &parts.method,
        path.as_ref().unwrap_or(&no_parts),
    );
    let (need, action, values) = match &found {
        Found::Route(route, values) => (route.need, route.action, Some(values)),
        // Who is not known is not told what exists.
        Found::Methods(_) | Found::Nothing => (Need::Read, "unknown", None),
    };
    let value = |name: &str| values.and_then(|v| v.get(name)).map(String::as_str);
    let principal = match need {
        Need::Open => Principal::default(),
        Need::Read | Need::Write => {
            let access = Access {
                need,
                action,
                subscription: value("subscriptionId"),
                resource_group: value("resourceGroupName"),
                path: &normal,
                request: &parts,
            };
            front.authorizer.authorize(access).await?
        }
    };
    path?;
    let (route, values) = match found {
        Found::Route(route, values) => (route, values),
        Found::Methods(allowed) => return Err(ArmError::method_not_allowed(&allowed)),
        Found::Nothing => {
            return Err(ArmError::new(
                StatusCode::NOT_FOUND,
                "InvalidResourceType",
                format!("The path '{normal}' names no resource type of this server."),
            ));
        }
    };
    let query = call::query(parts.uri.query());
    let version = route.version(query.get("api-version").map(String::as_str))?;
    if let Some(subscription) = values.get("subscriptionId")
        && !scope::knows(&front, subscription)
    {
        let shown: String = subscription.chars().take(60).collect();
        return Err(ArmError::new(
            StatusCode::NOT_FOUND,
            "SubscriptionNotFound",
            format!("The subscription '{shown}' could not be found."),
        ));
    }
    let rates = front.options.rates;
    let subscription = values.get("subscriptionId").map(String::as_str);
    let left = front
        .meter
        .take(rates, subscription, route, front.engine.now())?;
    let body = body.take().unwrap_or_default();
    let content = call::content(&front.options, &parts, body).await?;
    let (handler, changes) = (route.handler, route.need == Need::Write);
    let call = Call {
        front: Arc::clone(&front),
        parts,
        content,
        values,
        query,
        version,
        principal,
        request_id,
    };
    let mut handled = handler(call);
    if changes {
        // What was read whole is carried through, also when the client hangs up on the way.
        let task = tokio::spawn(handled.in_current_span());
        handled = async move {
            let done = task.await;
            done.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ArmError::internal()),
            })
        }
        .boxed();
    }
    let mut response = match handled.await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%error, "refused");
            error.into_response()
        }
    };
    for (name, left) in left {
        reply::header(&mut response, name, &left.to_string());
    }
    Ok(response)
}
