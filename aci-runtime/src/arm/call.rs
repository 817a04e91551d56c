//! One request on its way to its handler.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aci_core::document::tree::Node;
use aci_core::document::{self, Format};
use aci_core::id::GroupRef;
use aci_core::model::ApiVersion;
use aci_core::template;
use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;

use super::auth::Principal;
use super::error::{ArmError, ArmResult};
use super::{ArmOptions, Front};

/// What the server knows of a request's connection; put into the request's extensions by whoever
/// accepts connections. Without it a connection counts as plain and its peer as unknown.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Whether it is encrypted: links in answers are `https` then.
    pub tls: bool,
    /// Who is at the other end.
    pub peer: Option<SocketAddr>,
    /// The client's certificate in DER, if it gave one and it was verified.
    pub client_certificate: Option<Arc<[u8]>>,
}

/// A request that was let in, with everything that a handler needs.
pub(crate) struct Call {
    pub(crate) front: Arc<Front>,
    pub(crate) parts: Parts,
    /// The body, whole.
    pub(crate) content: Bytes,
    /// The values in the path, as written.
    pub(crate) values: BTreeMap<&'static str, String>,
    /// The query, decoded; of a name that stands twice the first. Names in lower case.
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) version: ApiVersion,
    pub(crate) principal: Principal,
    pub(crate) request_id: String,
}

impl Call {
    /// A value of the path; empty if the route has no such name.
    pub(crate) fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// A parameter of the query.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .get(&name.to_ascii_lowercase())
            .map(String::as_str)
    }

    pub(crate) fn subscription(&self) -> &str {
        self.value("subscriptionId")
    }

    pub(crate) fn resource_group(&self) -> &str {
        self.value("resourceGroupName")
    }

    pub(crate) fn group(&self) -> GroupRef {
        GroupRef::new(
            self.subscription(),
            self.resource_group(),
            self.value("containerGroupName"),
        )
    }

    /// Where clients reach this server, without a slash at the end: `https://host:port`.
    pub(crate) fn base(&self) -> String {
        base(&self.front.options.base_url, &self.parts)
    }

    /// The body as a JSON value, for what has no model here.
    ///
    /// # Errors
    /// As [`Call::json`].
    pub(crate) fn value_of_body(&self) -> ArmResult<serde_json::Value> {
        // Read twice, so that limits of size and depth hold and a key that stands twice is told.
        let text = self.text()?;
        document::parse(&text, Format::Json)?;
        serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| {
            ArmError::bad_request(
                "InvalidRequestContent",
                format!(
                    "The body is not JSON (line {}, column {}).",
                    e.line(),
                    e.column()
                ),
            )
        })
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// `InvalidRequestContent` if it is no JSON, `UnsupportedMediaType` if the
    /// request says that it is something else.
    pub(crate) fn json(&self) -> ArmResult<Node> {
        let text = self.text()?;
        Ok(document::parse(&text, Format::Json)?)
    }

    /// The body as JSON with the liberties of deployment templates.
    ///
    /// # Errors
    /// As [`Call::json`].
    pub(crate) fn relaxed(&self) -> ArmResult<serde_json::Value> {
        template::parse_json(&self.text()?)
            .map_err(|e| ArmError::bad_request("InvalidRequestContent", e.to_string()))
    }

    fn text(&self) -> ArmResult<String> {
        let bytes = &self.content;
        if !bytes.is_empty() && !is_json(&self.parts.headers) {
            return Err(ArmError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                "The request's content type is not supported; send 'application/json'.",
            ));
        }
        Ok(document::decode(bytes)?)
    }
}

/// Reads a request's body.
///
/// # Errors
/// 413 beyond the limit; 400 if it breaks off; 408 if it takes too long.
pub(crate) async fn content(options: &ArmOptions, parts: &Parts, body: Body) -> ArmResult<Bytes> {
    let limit = options.max_body;
    let declared = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let too_large = || {
        ArmError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("The request's body is larger than {limit} bytes."),
        )
    };
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let reading = http_body_util::Limited::new(body, limit).collect();
    match tokio::time::timeout(options.body_timeout, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(ArmError::bad_request(
            "InvalidRequestContent",
            "The request's body broke off.",
        )),
        Err(_) => Err(ArmError::new(
            StatusCode::REQUEST_TIMEOUT,
            "RequestTimeout",
            "The request's body did not arrive in time.",
        )),
    }
}

/// Reads what is left of a body that nobody wants, so that the connection can be used again; `false`
/// if that is too much or takes too long.
pub(crate) async fn drained(body: Body) -> bool {
    let reading = http_body_util::Limited::new(body, 64 << 10).collect();
    let read = tokio::time::timeout(Duration::from_secs(1), reading).await;
    matches!(read, Ok(Ok(_)))
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let kind = kind.to_str().unwrap_or("").to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or("").trim();
    kind.is_empty() || kind == "text/json" || kind == "application/json" || kind.ends_with("+json")
}

pub(crate) fn base(fixed: &Option<String>, parts: &Parts) -> String {
    if let Some(fixed) = fixed {
        return fixed.trim_end_matches('/').to_owned();
    }
    let tls = parts
        .extensions
        .get::<Connection>()
        .is_some_and(|connection| connection.tls);
    let scheme = if tls { "https" } else { "http" };
    let host = parts
        .uri
        .authority()
        .map(|a| a.as_str())
        .or_else(|| parts.headers.get(header::HOST)?.to_str().ok())
        // It goes into links: nothing but a host and a port.
        .filter(|h| {
            h.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
        })
        .unwrap_or("localhost");
    format!("{scheme}://{host}")
}

/// The query in names and values.
pub(crate) fn query(text: Option<&str>) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for pair in text
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
    {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        map.entry(decode(name).to_ascii_lowercase())
            .or_insert_with(|| decode(value));
    }
    map
}
