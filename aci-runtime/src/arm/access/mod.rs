//! An [`Authorizer`] of two parts: who somebody is ([`Authenticator`]) and what
//! he may do ([`Roles`]).
//!
//! ```
//! use aci_runtime::arm::access::{AccessControl, Grant, Role, RoleTable, StaticTokens};
//!
//! let access = AccessControl::new(RoleTable::new([
//!     Grant::everywhere("ci", Role::Contributor),
//!     Grant::everywhere("dashboard", Role::Reader),
//! ]))
//! .authenticator(
//!     StaticTokens::default()
//!         .token("made-by-openssl-rand-base64-32", "ci")?
//!         .token("another-one-of-openssl-rand", "dashboard")?,
//! );
//! # Ok::<(), aci_core::error::Error>(())
//! ```

mod jwt;
mod roles;
mod tokens;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::AUTHORIZATION;

use super::auth::{self, Authorizer, Principal};
use super::call::Connection;
use super::error::{ArmError, ArmResult};

pub use jwt::{Jwks, JwtOptions, JwtTokens};
pub use roles::{Grant, Role, RoleTable, Roles};
pub use tokens::StaticTokens;

/// What a request shows of its sender.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The bearer token.
    pub bearer: Option<&'a str>,
    /// The certificate (DER) that the client showed in the TLS handshake, and that was verified
    /// there.
    pub client_certificate: Option<&'a [u8]>,
}

impl fmt::Debug for Credentials<'_> {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("bearer", &self.bearer.map(|_| "(..)"))
            .field("client_certificate", &self.client_certificate.is_some())
            .finish()
    }
}

/// Why credentials are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token was good and is no longer.
    Expired,
    /// The token is not yet good.
    NotYetValid,
    /// The token is for somebody else than this server.
    WrongAudience,
    /// The token comes from somebody who is not trusted.
    WrongIssuer,
    /// It is nothing that this server knows.
    Unknown,
}

impl Refusal {
    /// ARM's code and a sentence, which tell nothing of the token.
    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Expired => (
                "ExpiredAuthenticationToken",
                "The access token expiry is earlier than the current time.",
            ),
            Self::NotYetValid => (
                "InvalidAuthenticationToken",
                "The access token is not yet valid.",
            ),
            Self::WrongAudience => (
                "InvalidAuthenticationTokenAudience",
                "The access token has been obtained for the wrong audience or resource.",
            ),
            Self::WrongIssuer => (
                "InvalidAuthenticationTokenIssuer",
                "The access token is from the wrong issuer.",
            ),
            Self::Unknown => ("InvalidAuthenticationToken", "The access token is invalid."),
        }
    }
}

/// Says who somebody is.
#[async_trait]
pub trait Authenticator: Send + Sync + fmt::Debug {
    /// The owner of the credentials; `None` if they are of another kind than this authenticator
    /// knows, and then the next one is asked.
    ///
    /// # Errors
    /// They are of its kind, and are refused.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<Principal>, Refusal>;
}

/// Authenticators and roles together: what a front is given.
#[derive(Clone, Debug)]
pub struct AccessControl {
    authenticators: Vec<Arc<dyn Authenticator>>,
    roles: Arc<dyn Roles>,
    realm: Option<String>,
}

impl AccessControl {
    /// Roles; without an authenticator nobody gets in.
    pub fn new(roles: impl Roles + 'static) -> Self {
        Self {
            authenticators: Vec::new(),
            roles: Arc::new(roles),
            realm: None,
        }
    }

    /// Adds an authenticator; they are asked in the order in which they were added.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator + 'static) -> Self {
        self.authenticators.push(Arc::new(authenticator));
        self
    }

    /// Where clients get tokens, told in `WWW-Authenticate` as ARM does (`authorization_uri`). A
    /// text with other characters than those of a URL is left out.
    #[must_use]
    pub fn authority(mut self, url: &str) -> Self {
        let fits = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        self.realm = url.bytes().all(fits).then(|| url.to_owned());
        self
    }

    fn challenge(&self, code: &str, message: &str) -> ArmError {
        let mut challenge = "Bearer".to_owned();
        if let Some(realm) = &self.realm {
            challenge.push_str(&format!(" authorization_uri=\"{realm}\","));
        }
        challenge.push_str(&format!(
            " error=\"invalid_token\", error_description=\"{message}\""
        ));
        ArmError::new(http::StatusCode::UNAUTHORIZED, code, message)
            .header(http::header::WWW_AUTHENTICATE, &challenge)
    }

    async fn who(&self, credentials: Credentials<'_>) -> ArmResult<Principal> {
        for authenticator in &self.authenticators {
            match authenticator.authenticate(credentials).await {
                Ok(Some(principal)) => return Ok(principal),
                Ok(None) => {}
                Err(refusal) => {
                    let (code, message) = refusal.told();
                    return Err(self.challenge(code, message));
                }
            }
        }
        Err(match credentials.bearer {
            Some(_) => {
                let (code, message) = Refusal::Unknown.told();
                self.challenge(code, message)
            }
            None => self.challenge(
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing or holds no bearer \
                 token.",
            ),
        })
    }
}

/// The bearer token of a request. Two of them, or other schemes, are none.
fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[async_trait]
impl Authorizer for AccessControl {
    async fn authorize(&self, access: auth::Access<'_>) -> ArmResult<Principal> {
        let connection = access.request.extensions.get::<Connection>();
        let credentials = Credentials {
            bearer: bearer(&access.request.headers),
            client_certificate: connection.and_then(|c| c.client_certificate.as_deref()),
        };
        let principal = self.who(credentials).await?;
        if self.roles.allows(&principal, &access) {
            return Ok(principal);
        }
        tracing::info!(principal = principal.id, action = access.action, "refused");
        Err(ArmError::forbidden(format!(
            "The client '{}' with object id '{}' does not have authorization to perform action '{}' over \
             scope '{}' or the scope is invalid. If access was recently granted, please refresh your \
             credentials.",
            principal.name, principal.id, access.action, access.path
        )))
    }
}
