//! Managed identity inside groups: the metadata endpoint that SDKs ask for tokens.
//!
//! Programs in a container ask `http://169.254.169.254/metadata/identity/oauth2/token` as on any
//! machine of Azure's. Who asks is known by the address of the connection, which a group cannot
//! choose; the network leads such connections to a listener of the host (`BridgeNetwork` has
//! `metadata_listener`). Which identity is meant and whether containers may use it
//! (`identityAcls`) is decided here; tokens are the host's, by its [`IdentityProvider`].
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use aci_runtime::{Engine, identity::{self, IdentityProvider}};
//! # use aci_runtime::server::{Server, ServerOptions};
//! # async fn example(engine: Engine, provider: Arc<dyn IdentityProvider>,
//! #     listener: tokio::net::TcpListener) {
//! let stop = tokio_util::sync::CancellationToken::new();
//! let server = Server::new(listener, None, ServerOptions::default());
//! server.run(identity::router(engine, provider), stop).await;
//! # }
//! ```

mod choose;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::Clock;
use aci_core::error::{ErrorKind, Result};
use aci_core::id::GroupRef;
use aci_core::model::Secret;
use aci_core::time::Timestamp;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Engine;
use crate::arm::Connection;
use choose::Wanted;
pub(crate) use choose::identities;

/// How long the host may take for a token.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which of a group's identities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdentityRef {
    /// The one that lives and dies with the group.
    System,
    /// One that lives on its own, by its resource id as the document writes it.
    User(String),
}

/// What the host calls an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityIds {
    /// The client id (the application's), a GUID.
    pub client_id: String,
    /// The principal's object id, a GUID.
    pub principal_id: String,
    /// The tenant, a GUID.
    pub tenant_id: String,
}

/// A token.
#[derive(Clone, Debug)]
pub struct IdentityToken {
    /// The token itself.
    pub access_token: Secret,
    /// When it ends.
    pub expires_on: Timestamp,
}

/// Gives identities their tokens: what the host implements.
///
/// It may be asked often, so it keeps tokens until shortly before they end.
#[async_trait]
pub trait IdentityProvider: Send + Sync + fmt::Debug {
    /// What an identity is called; `group` is whose, `None` where one that lives on its own is made.
    /// The same identity is always called the same.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the host does not know it.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn ids(&self, group: Option<&GroupRef>, identity: &IdentityRef) -> Result<IdentityIds>;

    /// A token of a group's identity for a resource, such as `https://vault.azure.net`.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a resource that is unknown;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if the identity may not;
    /// [`Unavailable`](ErrorKind::Unavailable) if the token service does not answer.
    ///
    /// # Cancel safety
    /// A token may have been made; nobody has it then.
    async fn token(
        &self,
        group: &GroupRef,
        identity: &IdentityRef,
        resource: &str,
    ) -> Result<IdentityToken>;
}

/// The metadata endpoint of an engine's groups. Requests need a [`Connection`] in their extensions,
/// which [`Server`](crate::server::Server) puts there; its peer says which group asks.
pub fn router(engine: Engine, provider: Arc<dyn IdentityProvider>) -> Router {
    Router::new().fallback(move |request: Request| {
        let (engine, provider) = (engine.clone(), Arc::clone(&provider));
        async move {
            // It has no body to read, and only the rest can be shared.
            let (parts, _) = request.into_parts();
            match answer(&engine, &*provider, &parts).await {
                Ok(value) => reply(StatusCode::OK, &value),
                Err(Refused(status, error, description)) => reply(
                    status,
                    &json!({"error": error, "error_description": description}),
                ),
            }
        }
    })
}

fn reply(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(
        http::header::CACHE_CONTROL,
        HeaderValue::from_static("no-store"),
    );
    response
}

/// A refusal as Azure's metadata service words it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(StatusCode, &'static str, String);

fn bad(description: impl Into<String>) -> Refused {
    Refused(
        StatusCode::BAD_REQUEST,
        "invalid_request",
        description.into(),
    )
}

async fn answer(
    engine: &Engine,
    provider: &dyn IdentityProvider,
    request: &Parts,
) -> Result<Value, Refused> {
    let headers = &request.headers;
    let metadata = headers.get("metadata").and_then(|h| h.to_str().ok());
    if !metadata.is_some_and(|m| m.trim().eq_ignore_ascii_case("true")) {
        return Err(bad("Required metadata header not specified"));
    }
    // A request that somebody was made to forward (SSRF).
    if headers.contains_key("x-forwarded-for") {
        return Err(bad("Requests must not be forwarded"));
    }
    let path = request.uri.path().trim_end_matches('/');
    if !path.eq_ignore_ascii_case("/metadata/identity/oauth2/token") {
        return Err(Refused(
            StatusCode::NOT_FOUND,
            "not_found",
            "Only /metadata/identity/oauth2/token is answered here".to_owned(),
        ));
    }
    if request.method != Method::GET {
        return Err(Refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Only GET is answered here".to_owned(),
        ));
    }
    let peer = request.extensions.get::<Connection>().and_then(|c| c.peer);
    let group = peer.and_then(|peer| engine.at(peer.ip())).ok_or_else(|| {
        Refused(
            StatusCode::FORBIDDEN,
            "forbidden",
            "Only container groups are answered here".to_owned(),
        )
    })?;
    let query = crate::arm::query(request.uri.query());
    let wanted = Wanted::read(&query)?;
    let name = group.name();
    let document = group.view();
    let mut ids = Vec::new();
    for identity in identities(&document) {
        let called = provider.ids(Some(name), &identity).await.map_err(failed)?;
        ids.push((identity, called));
    }
    let (identity, called) = choose::one(&wanted, &ids)?;
    choose::allowed(&document, identity)?;
    let asking = provider.token(name, identity, &wanted.resource);
    let token = match tokio::time::timeout(PATIENCE, asking).await {
        Ok(token) => token.map_err(failed)?,
        Err(_) => return Err(unavailable()),
    };
    tracing::info!(group = %name, ?identity, resource = wanted.resource, "a token was given");
    let now = engine.clock().now();
    let seconds = |time: Timestamp| time.since(Timestamp::EPOCH).as_secs();
    let left = seconds(token.expires_on)
        .saturating_sub(seconds(now))
        .to_string();
    Ok(json!({
        "access_token": token.access_token.expose(),
        "client_id": called.client_id,
        "expires_in": left,
        "expires_on": seconds(token.expires_on).to_string(),
        "ext_expires_in": left,
        "not_before": seconds(now).to_string(),
        "resource": wanted.resource,
        "token_type": "Bearer",
    }))
}

fn unavailable() -> Refused {
    Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "temporarily_unavailable",
        "The token service does not answer; retry later".to_owned(),
    )
}

/// The host's error; clients try again after 5xx and not after 4xx.
fn failed(error: aci_core::error::Error) -> Refused {
    tracing::warn!(error = %error.chain(), "no token could be given");
    match error.kind() {
        ErrorKind::NotFound => bad("Identity not found"),
        ErrorKind::Invalid => Refused(
            StatusCode::BAD_REQUEST,
            "invalid_resource",
            error.message().to_owned(),
        ),
        ErrorKind::PermissionDenied => Refused(
            StatusCode::FORBIDDEN,
            "unauthorized_client",
            error.message().to_owned(),
        ),
        _ => unavailable(),
    }
}
