//! JSON Web Tokens (RFC 7519) against keys that the host gives (RFC 7517).
//!
//! RS256 and ES256 only, which is what Entra ID and nearly everybody signs with; the algorithm is
//! the key's, never the token's word alone. `jsonwebtoken` is not used: since version 10 it brings
//! a second cryptography beside the one that TLS has already.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aci_core::contract::Clock;
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::time::Timestamp;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::Value;

use super::super::auth::Principal;
use super::{Authenticator, Credentials, Refusal};

/// Longest token that is looked at, in bytes; Entra's have some 2,000.
const LONGEST: usize = 16 << 10;

#[derive(Clone)]
enum Key {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
}

/// Public keys as a token service publishes them (`jwks_uri`).
#[derive(Clone, Default)]
pub struct Jwks(Vec<(Option<String>, Key)>);

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(id, _)| id))
            .finish()
    }
}

impl Jwks {
    /// Reads a set of keys: `{"keys": [...]}`. Keys of other kinds than RSA and P-256, and those
    /// for encryption, are left out, as RFC 7517 asks.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if it is no set of keys, or none of them can be used.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, "access.jwks", why);
        let value: Value = serde_json::from_str(text)
            .map_err(|e| invalid(format!("the keys are no JSON: {e}")))?;
        let keys = value["keys"]
            .as_array()
            .ok_or_else(|| invalid("the keys have no list 'keys'".to_owned()))?;
        let keys: Vec<_> = keys.iter().filter_map(read_key).collect();
        if keys.is_empty() {
            return Err(invalid(
                "there is no key for RS256 (RSA, 2,048 bits or more) or ES256 (P-256)".to_owned(),
            ));
        }
        Ok(Self(keys))
    }
}

fn read_key(value: &Value) -> Option<(Option<String>, Key)> {
    if value["use"].as_str().is_some_and(|u| u != "sig") {
        return None;
    }
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(value[name].as_str()?).ok();
    let alg = value["alg"].as_str();
    let key = match value["kty"].as_str()? {
        "RSA" if alg.is_none_or(|a| a == "RS256") => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            if n.len() < 256 {
                return None;
            }
            Key::Rsa { n, e }
        }
        "EC" if value["crv"] == "P-256" && alg.is_none_or(|a| a == "ES256") => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != 32 || y.len() != 32 {
                return None;
            }
            let mut point = vec![4];
            point.extend(x);
            point.extend(y);
            Key::P256(point)
        }
        _ => return None,
    };
    Some((value["kid"].as_str().map(str::to_owned), key))
}

/// Which tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// `iss`: whose tokens; at least one.
    pub issuers: Vec<String>,
    /// `aud`: for whom. A slash at the end makes no difference. Default: Azure Resource Manager's
    /// two names.
    pub audiences: Vec<String>,
    /// How far clocks may differ. Default 60 s.
    pub leeway: Duration,
}

impl JwtOptions {
    /// Tokens of one issuer for Azure Resource Manager.
    pub fn new(issuer: impl Into<String>) -> Self {
        Self {
            issuers: vec![issuer.into()],
            audiences: vec![
                "https://management.azure.com".to_owned(),
                "https://management.core.windows.net".to_owned(),
            ],
            leeway: Duration::from_secs(60),
        }
    }

    /// Adds an audience.
    #[must_use]
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }
}

/// Bearer tokens that a token service has signed.
///
/// The principal's id is the claim `oid`, or `sub`; its name `preferred_username`, `upn`, `name` or
/// the id.
#[derive(Debug)]
pub struct JwtTokens {
    options: JwtOptions,
    keys: RwLock<Arc<Jwks>>,
    clock: Arc<dyn Clock>,
}

impl JwtTokens {
    /// Tokens signed by one of the keys.
    #[must_use]
    pub fn new(options: JwtOptions, keys: Jwks, clock: Arc<dyn Clock>) -> Self {
        Self {
            options,
            keys: RwLock::new(Arc::new(keys)),
            clock,
        }
    }

    /// Puts other keys in the place of all, when the token service has changed them.
    pub fn replace(&self, keys: Jwks) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

#[async_trait]
impl Authenticator for JwtTokens {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<Principal>, Refusal> {
        let Some(token) = credentials.bearer else {
            return Ok(None);
        };
        // Three parts with a header that is a JSON object: `{"` in base64.
        if token.split('.').count() != 3 || !token.starts_with("eyJ") {
            return Ok(None);
        }
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let claims = verify(token, &keys, &self.options, self.clock.now())?;
        let text = |name: &str| claims[name].as_str().filter(|t| !t.is_empty());
        let id = text("oid")
            .or_else(|| text("sub"))
            .ok_or(Refusal::Unknown)?;
        let name = ["preferred_username", "upn", "name"]
            .iter()
            .find_map(|n| text(n))
            .unwrap_or(id);
        let kind = match text("idtyp") {
            Some("app") => "Application",
            _ => "User",
        };
        Ok(Some(Principal {
            id: id.to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
        }))
    }
}

#[async_trait]
impl<T: Authenticator + ?Sized> Authenticator for Arc<T> {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<Principal>, Refusal> {
        (**self).authenticate(credentials).await
    }
}

/// The claims of a token that is good at a moment.
///
/// # Errors
/// Why it is not.
pub(super) fn verify(
    token: &str,
    keys: &Jwks,
    options: &JwtOptions,
    now: Timestamp,
) -> Result<Value, Refusal> {
    if token.len() > LONGEST {
        return Err(Refusal::Unknown);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Unknown)?;
    let (header, claims) = message.split_once('.').ok_or(Refusal::Unknown)?;
    let json = |part: &str| -> Option<Value> {
        let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
        value.is_object().then_some(value)
    };
    let header = json(header).ok_or(Refusal::Unknown)?;
    // What must be understood and is not makes a token invalid (RFC 7515, 4.1.11).
    if header.get("crit").is_some() {
        return Err(Refusal::Unknown);
    }
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| Refusal::Unknown)?;
    let signed = keys
        .0
        .iter()
        .filter(|(id, _)| match (header["kid"].as_str(), id) {
            (Some(wanted), Some(id)) => wanted == id,
            (Some(_), None) | (None, _) => true,
        })
        .any(|(_, key)| match (header["alg"].as_str(), key) {
            (Some("RS256"), Key::Rsa { n, e }) => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &signature)
                .is_ok(),
            (Some("ES256"), Key::P256(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(message.as_bytes(), &signature)
                    .is_ok()
            }
            _ => false,
        });
    if !signed {
        return Err(Refusal::Unknown);
    }
    // Nothing of the claims is believed before.
    let claims = json(claims).ok_or(Refusal::Unknown)?;
    check(&claims, options, now)?;
    Ok(claims)
}

fn check(claims: &Value, options: &JwtOptions, now: Timestamp) -> Result<(), Refusal> {
    let time = |name: &str| match &claims[name] {
        Value::Null => Ok(None),
        value => match value.as_f64() {
            Some(seconds) if seconds >= 0.0 => Ok(Some(seconds)),
            _ => Err(Refusal::Unknown),
        },
    };
    let now = now.since(Timestamp::EPOCH).as_secs_f64();
    let leeway = options.leeway.as_secs_f64();
    let expires = time("exp")?.ok_or(Refusal::Unknown)?;
    if now >= expires + leeway {
        return Err(Refusal::Expired);
    }
    if time("nbf")?.is_some_and(|begins| now + leeway < begins) {
        return Err(Refusal::NotYetValid);
    }
    let issuer = claims["iss"].as_str().ok_or(Refusal::WrongIssuer)?;
    if !options.issuers.iter().any(|own| own == issuer) {
        return Err(Refusal::WrongIssuer);
    }
    let ours = |audience: &str| {
        let audience = audience.trim_end_matches('/');
        let mut own = options.audiences.iter();
        own.any(|own| own.trim_end_matches('/') == audience)
    };
    let meant = match &claims["aud"] {
        Value::String(one) => ours(one),
        Value::Array(many) => many.iter().filter_map(Value::as_str).any(ours),
        _ => false,
    };
    if meant {
        Ok(())
    } else {
        Err(Refusal::WrongAudience)
    }
}
