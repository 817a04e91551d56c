//! Asking one server for one image: proof, redirects, tries.

use std::sync::Mutex;
use std::time::Duration;

use aci_core::contract::RegistryLogin;
use aci_core::error::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;

use super::address::{Address, Origin};
use super::challenge::{self, Challenge};
use super::connect::{Connector, Idle, Trouble, lost};
use super::faults::{bad_answer, inaccessible};
use super::retry::{Patience, is_passing, retry_after};
use crate::image::{Reference, lock};

/// More redirects are a loop.
const MAX_REDIRECTS: usize = 5;
/// Longest answer of a token server, in bytes.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
const AGENT: &str = concat!("aci-storage/", env!("CARGO_PKG_VERSION"));

/// What to ask for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Below `/v2/REPOSITORY/`.
    pub(super) what: String,
    pub(super) headers: Vec<(HeaderName, String)>,
}

/// An answer with a status of success.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// Who gave it in the end.
    pub(super) from: Origin,
}

/// One server for one image. It has no `Debug`, because it holds credentials.
pub(super) struct Session<'a> {
    pub(super) connector: &'a Connector,
    pub(super) reference: &'a Reference,
    /// The reference as it was asked for.
    pub(super) asked: &'a str,
    pub(super) endpoint: Origin,
    login: Option<&'a RegistryLogin>,
    /// What proved who asks, for later requests.
    proof: Mutex<Option<HeaderValue>>,
    idle: Idle,
}

impl<'a> Session<'a> {
    /// Credentials are for the registry itself, so a mirror is to get none.
    pub(super) fn new(
        connector: &'a Connector,
        reference: &'a Reference,
        asked: &'a str,
        endpoint: Origin,
        login: Option<&'a RegistryLogin>,
    ) -> Self {
        Self {
            connector,
            reference,
            asked,
            endpoint,
            login,
            proof: Mutex::new(None),
            idle: Idle::default(),
        }
    }

    pub(super) const fn patience(&self) -> Patience {
        let settings = &self.connector.settings;
        Patience::new(settings.retries, settings.longest_pause)
    }

    /// Waits until the next try, or says why there is none.
    pub(super) async fn pause(&self, patience: &mut Patience, trouble: Trouble) -> Result<()> {
        let (asked, error) = match trouble {
            Trouble::Final(error) => return Err(error),
            // Whoever waits for the name can ask again; an image on a machine without network is
            // simply not to be had.
            Trouble::Unresolved(host) => {
                return Err(inaccessible(
                    ErrorKind::Unavailable,
                    self.asked,
                    format!(
                        "it is not in the store, and the name of the registry '{host}' cannot be resolved; check the name and the network, or import the image"
                    ),
                ));
            }
            Trouble::Lost(host, why) => (None, bad_answer(&host, why)),
            Trouble::Busy(host, 429, asked) => {
                let when = asked
                    .map(|a| format!("; it asks to come back in {} s", a.as_secs()))
                    .unwrap_or_default();
                let why = format!("too many requests (429){when}");
                (asked, bad_answer(&host, why))
            }
            Trouble::Busy(host, status, asked) => {
                (asked, bad_answer(&host, format!("status {status}")))
            }
        };
        match patience.failed(asked) {
            Some(pause) => {
                metrics::counter!("aci_storage_registry_retries_total").increment(1);
                tracing::debug!(error = %error.chain(), ?pause, "the registry is asked again");
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    /// One try: proves who asks if that is wanted and follows redirects.
    pub(super) async fn attempt(&self, ask: &Ask) -> Result<Answer, Trouble> {
        let mut answer = self.once(ask).await?;
        if answer.response.status() == 401 && answer.from == self.endpoint {
            let proof = self.prove(&answer.response).await?;
            *lock(&self.proof) = Some(proof);
            answer = self.once(ask).await?;
        }
        let status = answer.response.status();
        match status.as_u16() {
            200..=299 => Ok(answer),
            // Not every registry knows HEAD; its answer just says nothing then.
            405 | 501 if ask.method == Method::HEAD => Ok(answer),
            401 | 403 => Err(self.denied().into()),
            404 => Err(inaccessible(
                ErrorKind::NotFound,
                self.asked,
                format!(
                    "the registry '{}' does not have it; check the name and the tag",
                    self.endpoint
                ),
            )
            .into()),
            passing if is_passing(passing) => {
                let after = text(&answer.response, &header::RETRY_AFTER).and_then(retry_after);
                Err(Trouble::Busy(answer.from, passing, after))
            }
            other => Err(bad_answer(&answer.from, format!("status {other}")).into()),
        }
    }

    /// [`Session::attempt`] and the whole of a small answer, tried again as long as it makes sense.
    pub(super) async fn small(
        &self,
        ask: &Ask,
        most: u64,
    ) -> Result<(http::HeaderMap, Bytes, Origin)> {
        let mut patience = self.patience();
        loop {
            let tried = async {
                let answer = self.attempt(ask).await?;
                let (head, body) = answer.response.into_parts();
                let bytes = self.read_small(&answer.from, body, most).await?;
                Ok((head.headers, bytes, answer.from))
            };
            match tried.await {
                Ok(done) => return Ok(done),
                Err(trouble) => self.pause(&mut patience, trouble).await?,
            }
        }
    }

    async fn once(&self, ask: &Ask) -> Result<Answer, Trouble> {
        let path = format!("/v2/{}/{}", self.reference.repository(), ask.what);
        let mut at = Address {
            origin: self.endpoint.clone(),
            path,
        };
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = ask.headers.clone();
            headers.push((header::ACCEPT_ENCODING, "identity".to_owned()));
            // Nobody but the registry sees its credentials (CVE-2020-15157).
            let proof = if at.origin == self.endpoint {
                lock(&self.proof).clone()
            } else {
                None
            };
            let response = self.send(&ask.method, &at, &headers, proof).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer {
                    response,
                    from: at.origin,
                });
            }
            let next = text(&response, &header::LOCATION)
                .ok_or_else(|| "a redirect leads nowhere".to_owned())
                .and_then(|location| at.resolve(location))
                .map_err(|why| bad_answer(&at.origin, format!("a redirect: {why}")))?;
            self.may_speak_to(&next.origin)
                .map_err(|why| bad_answer(&at.origin, format!("a redirect: {why}")))?;
            at = next;
        }
        let why = format!("more than {MAX_REDIRECTS} redirects");
        Err(bad_answer(&self.endpoint, why).into())
    }

    /// Plain HTTP only where it is allowed by name.
    fn may_speak_to(&self, origin: &Origin) -> Result<(), String> {
        if origin.tls || self.connector.settings.is_insecure(&origin.authority()) {
            return Ok(());
        }
        Err(format!(
            "'{origin}' is to be spoken to without TLS and is not named as insecure"
        ))
    }

    async fn send(
        &self,
        method: &Method,
        at: &Address,
        headers: &[(HeaderName, String)],
        proof: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Trouble> {
        let mut request = Request::builder()
            .method(method)
            .uri(&at.path)
            .header(header::HOST, at.origin.authority())
            .header(header::USER_AGENT, AGENT);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(proof) = proof {
            request = request.header(header::AUTHORIZATION, proof);
        }
        let request = request
            .body(Full::default())
            .map_err(|_| bad_answer(&at.origin, "an address that cannot be asked for"))?;
        self.connector.send(&self.idle, &at.origin, request).await
    }

    /// Gets what the registry takes as proof.
    async fn prove(&self, refusal: &Response<Incoming>) -> Result<HeaderValue, Trouble> {
        let challenges: Vec<_> = refusal
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let bearer = challenges.iter().find_map(|c| match c {
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => Some((realm, service.as_deref(), scope.as_deref())),
            Challenge::Basic => None,
        });
        if let Some((realm, service, scope)) = bearer {
            return self.token(realm, service, scope).await;
        }
        match self.basic() {
            Some(proof) if challenges.contains(&Challenge::Basic) => Ok(proof),
            _ => Err(self.denied().into()),
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<HeaderValue, Trouble> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let broken = |why: String| bad_answer(&self.endpoint, format!("its token server: {why}"));
        let mut at = Address::parse(realm).map_err(broken)?;
        self.may_speak_to(&at.origin).map_err(broken)?;
        let pull = format!("repository:{}:pull", self.reference.repository());
        let mut query = vec![("scope", scope.unwrap_or(&pull))];
        query.extend(service.map(|s| ("service", s)));
        for (name, value) in query {
            at.path.push(if at.path.contains('?') { '&' } else { '?' });
            at.path.push_str(name);
            at.path.push('=');
            at.path.push_str(&encoded(value));
        }
        let response = self.send(&Method::GET, &at, &[], self.basic()).await?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(self.denied().into()),
            passing if is_passing(passing) => {
                let after = text(&response, &header::RETRY_AFTER).and_then(retry_after);
                return Err(Trouble::Busy(at.origin, passing, after));
            }
            other => return Err(broken(format!("status {other}")).into()),
        }
        let body = response.into_body();
        let bytes = self.read_small(&at.origin, body, MAX_TOKEN_ANSWER).await?;
        serde_json::from_slice::<Token>(&bytes)
            .ok()
            .and_then(|t| t.token.or(t.access_token))
            .and_then(|token| sensitive(&format!("Bearer {token}")))
            .ok_or_else(|| broken("its answer holds no token".to_owned()).into())
    }

    fn basic(&self) -> Option<HeaderValue> {
        let login = self.login?;
        let pair = format!("{}:{}", login.username, login.password.expose());
        sensitive(&format!("Basic {}", STANDARD.encode(pair)))
    }

    fn denied(&self) -> Error {
        let host = &self.endpoint;
        let hint = match self.login {
            Some(_) => format!(
                "the registry '{host}' does not accept these credentials for it; check the user name and the password in imageRegistryCredentials"
            ),
            None => format!(
                "the registry '{host}' shows it to nobody without credentials; check the name, or add imageRegistryCredentials with the server '{}'",
                self.reference.registry()
            ),
        };
        inaccessible(ErrorKind::PermissionDenied, self.asked, hint)
    }

    async fn read_small(
        &self,
        from: &Origin,
        mut body: Incoming,
        most: u64,
    ) -> Result<Bytes, Trouble> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(from, &mut body).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > most {
                let why = format!("an answer of more than {most} bytes");
                return Err(bad_answer(from, why).into());
            }
        }
        Ok(bytes.into())
    }

    /// The next piece of an answer.
    pub(super) async fn chunk(
        &self,
        from: &Origin,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, Trouble> {
        let silence: Duration = self.connector.settings.silence_timeout;
        loop {
            match timeout(silence, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => {
                    return Err(lost(from, format!("the answer broke off: {error}")));
                }
                Ok(None) => return Ok(None),
                Err(_) => return Err(lost(from, "the answer stopped")),
            }
        }
    }
}

/// A header's text.
pub(super) fn text<'r>(response: &'r Response<Incoming>, name: &HeaderName) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// For a query (RFC 3986, section 2.3: what may stand as it is).
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            super::encoded("repository:a/b:pull"),
            "repository%3Aa%2Fb%3Apull"
        );
        assert_eq!(super::encoded("a&b=c d-é"), "a%26b%3Dc%20d-%C3%A9");
    }
}
