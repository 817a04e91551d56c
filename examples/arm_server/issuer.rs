//! A small token service beside the server, so that Azure's clients can sign in without Azure: the
//! managed identity of an App Service (`IDENTITY_ENDPOINT`, `IDENTITY_HEADER`), and client
//! credentials (OAuth 2.0, section 4.4) for the SDKs. Both want the server's secret.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aci_core::error::{Error, ErrorKind, Result as CoreResult};
use aci_core::id::GroupRef;
use aci_core::time::Timestamp;
use aci_examples::secret;
use aci_runtime::identity::{IdentityIds, IdentityProvider, IdentityRef, IdentityToken};
use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use axum::extract::{DefaultBodyLimit, Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

/// Seconds for which a token is good.
const LIFETIME: u64 = 24 * 60 * 60;

/// Signs tokens (ES256) with a key of its own, kept in the state directory.
pub(crate) struct Issuer {
    pair: EcdsaKeyPair,
    kid: String,
    /// Where clients reach the server.
    base: String,
    tenant: String,
    /// The principal that tokens are for, and its client id.
    operator: String,
    secret: String,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct ManagedIdentity {
    resource: Option<String>,
}

#[derive(Deserialize)]
struct ClientCredentials {
    grant_type: String,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
    resource: Option<String>,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(|d| d.as_secs()).unwrap_or_default()
}

fn refused(status: StatusCode, error: &str, description: &str) -> Response {
    (
        status,
        Json(json!({"error": error, "error_description": description})),
    )
        .into_response()
}

impl Issuer {
    /// Reads the key, or makes it.
    pub(crate) fn open(
        dir: &Path,
        base: &str,
        tenant: &str,
        operator: &str,
        secret: String,
    ) -> Result<Self> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let random = SystemRandom::new();
        let path = dir.join("token.key");
        if !path.exists() {
            let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random)
                .map_err(|_| anyhow!("no randomness"))?;
            secret::write(&path, made.as_ref())?;
        }
        let key = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &key, &random)
            .map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Ok(Self {
            kid: BASE64.encode(&digest.as_ref()[..12]),
            pair,
            base: base.to_owned(),
            tenant: tenant.to_owned(),
            operator: operator.to_owned(),
            secret,
        })
    }

    /// Whose tokens they are (`iss`).
    pub(crate) fn issuer(&self) -> String {
        format!("{}/{}/", self.base, self.tenant)
    }

    /// The public key, as the server is given it.
    pub(crate) fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..]),
        }]})
    }

    /// A token for a resource, with the time at which it ends.
    pub(crate) fn token(&self, resource: &str, subject: &str) -> Result<(String, u64)> {
        let (now, expires) = (now(), now() + LIFETIME);
        let header = json!({"typ": "JWT", "alg": "ES256", "kid": self.kid});
        let claims = json!({
            "aud": resource, "iss": self.issuer(), "iat": now, "nbf": now, "exp": expires,
            "appid": subject, "oid": subject, "sub": subject, "tid": self.tenant, "idtyp": "app",
            "ver": "1.0",
        });
        let part = |value: &Value| BASE64.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .map_err(|_| anyhow!("the token could not be signed"))?;
        Ok((format!("{message}.{}", BASE64.encode(signature)), expires))
    }

    fn knows(&self, secret: &str) -> bool {
        self.secret.as_bytes().ct_eq(secret.as_bytes()).into()
    }

    /// The routes of the token service.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/identity/token", get(managed_identity))
            .route("/{tenant}/oauth2/token", post(client_credentials))
            .route("/{tenant}/oauth2/v2.0/token", post(client_credentials))
            .route("/{tenant}/discovery/v2.0/keys", get(keys))
            .route(
                "/{tenant}/.well-known/openid-configuration",
                get(configuration),
            )
            .route(
                "/{tenant}/v2.0/.well-known/openid-configuration",
                get(configuration),
            )
            .layer(DefaultBodyLimit::max(16 << 10))
            .with_state(self)
    }
}

/// Ids that are the same whenever they are asked for: made from the names of things.
fn id_of(name: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.to_lowercase().as_bytes());
    let hex: String = digest.as_ref()[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

/// Managed identities inside groups: tokens of the same service. They open nothing here, because no
/// role is granted to them; programs elsewhere that trust the service's keys can take them.
#[async_trait]
impl IdentityProvider for Issuer {
    async fn ids(
        &self,
        group: Option<&GroupRef>,
        identity: &IdentityRef,
    ) -> CoreResult<IdentityIds> {
        let name = match identity {
            IdentityRef::System => group.map(GroupRef::resource_id).unwrap_or_default(),
            IdentityRef::User(id) => id.clone(),
        };
        Ok(IdentityIds {
            client_id: id_of(&format!("client {name}")),
            principal_id: id_of(&format!("principal {name}")),
            tenant_id: self.tenant.clone(),
        })
    }

    async fn token(
        &self,
        group: &GroupRef,
        identity: &IdentityRef,
        resource: &str,
    ) -> CoreResult<IdentityToken> {
        let ids = self.ids(Some(group), identity).await?;
        let (token, expires) = Self::token(self, resource, &ids.principal_id)
            .map_err(|e| Error::new(ErrorKind::Internal, "identity.token", e.to_string()))?;
        Ok(IdentityToken {
            access_token: token.into(),
            expires_on: Timestamp::from_secs(expires),
        })
    }
}

async fn keys(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    Json(issuer.jwks())
}

async fn configuration(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    let at = format!("{}/{}", issuer.base, issuer.tenant);
    Json(json!({
        "issuer": issuer.issuer(),
        "token_endpoint": format!("{at}/oauth2/v2.0/token"),
        "authorization_endpoint": format!("{at}/oauth2/v2.0/authorize"),
        "jwks_uri": format!("{at}/discovery/v2.0/keys"),
        "response_types_supported": ["token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
}

/// App Service's endpoint, version 2019-08-01.
async fn managed_identity(
    State(issuer): State<Arc<Issuer>>,
    Query(asked): Query<ManagedIdentity>,
    headers: HeaderMap,
) -> Response {
    let header = headers
        .get("x-identity-header")
        .and_then(|h| h.to_str().ok());
    if !header.is_some_and(|h| issuer.knows(h)) {
        return refused(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "X-IDENTITY-HEADER is missing or wrong",
        );
    }
    let Some(resource) = asked.resource.filter(|r| !r.is_empty()) else {
        return refused(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "'resource' is missing",
        );
    };
    match issuer.token(&resource, &issuer.operator) {
        Ok((token, expires)) => Json(json!({
            "access_token": token, "expires_on": expires.to_string(), "resource": resource,
            "token_type": "Bearer", "client_id": issuer.operator,
        }))
        .into_response(),
        Err(error) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            &error.to_string(),
        ),
    }
}

async fn client_credentials(
    State(issuer): State<Arc<Issuer>>,
    Form(asked): Form<ClientCredentials>,
) -> Response {
    if asked.grant_type != "client_credentials" {
        return refused(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            "only client_credentials is known here",
        );
    }
    let known = asked.client_id.as_deref() == Some(&*issuer.operator)
        && asked.client_secret.is_some_and(|s| issuer.knows(&s));
    if !known {
        return refused(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "client_id or client_secret is wrong",
        );
    }
    let scope = asked.scope.or(asked.resource).unwrap_or_default();
    let resource = scope.trim_end_matches("/.default");
    match issuer.token(resource, &issuer.operator) {
        Ok((token, _)) => Json(json!({
            "access_token": token, "expires_in": LIFETIME, "ext_expires_in": LIFETIME,
            "token_type": "Bearer",
        }))
        .into_response(),
        Err(error) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            &error.to_string(),
        ),
    }
}
