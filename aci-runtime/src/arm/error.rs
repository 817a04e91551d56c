//! Errors as Azure Resource Manager wraps them.

use std::fmt;

use aci_core::error::{Error, ErrorKind};
use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

/// What a handler answers.
pub type ArmResult<T = Response> = Result<T, ArmError>;

/// An answer that refuses: a status and `{"error": {"code", "message", "target", "details"}}`.
///
/// Messages name fields and rules, never secrets.
#[derive(Clone, Debug)]
pub struct ArmError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    status: StatusCode,
    code: String,
    message: String,
    target: Option<String>,
    details: Vec<ArmError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ArmError {
    /// An error with a code of ARM's or ACI's and a sentence.
    pub fn new(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            status,
            code: code.into(),
            message: message.into(),
            target: None,
            details: Vec::new(),
            headers: Vec::new(),
        }))
    }

    /// 400 with a code.
    pub fn bad_request(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 401 that asks for a bearer token.
    #[must_use]
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "AuthenticationFailed", message)
            .header(WWW_AUTHENTICATE, "Bearer")
    }

    /// 403: the caller is known and may not do this.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "AuthorizationFailed", message)
    }

    /// 404 with ARM's `ResourceNotFound`.
    #[must_use]
    pub fn not_found(kind: &str, name: &str, resource_group: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "ResourceNotFound",
            format!(
                "The Resource '{kind}/{name}' under resource group '{resource_group}' was not found. \
                 For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            ),
        )
    }

    /// 404 with ARM's `ResourceGroupNotFound`.
    #[must_use]
    pub fn resource_group_not_found(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "ResourceGroupNotFound",
            format!("Resource group '{name}' could not be found."),
        )
    }

    /// 405 with the methods that the path has.
    #[must_use]
    pub fn method_not_allowed(allowed: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "The requested resource does not support this http method.",
        )
        .header(ALLOW, allowed)
    }

    /// 412: an `If-Match` or `If-None-Match` that does not hold.
    #[must_use]
    pub fn precondition_failed(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "PreconditionFailed",
            message,
        )
    }

    /// 429 with the seconds after which it may succeed.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after: u64) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "SubscriptionRequestsThrottled",
            message,
        )
        .header(RETRY_AFTER, &retry_after.to_string())
    }

    /// 500 without anything of the inside.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            "An unexpected error occurred; the server's log has it under the request id.",
        )
    }

    /// What it is about: a property or a resource.
    #[must_use]
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.0.target = Some(target.into());
        self
    }

    /// One more of several errors.
    #[must_use]
    pub fn detail(mut self, detail: Self) -> Self {
        self.0.details.push(detail);
        self
    }

    /// A header of the answer. A value that is no header is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.push((name, value));
        }
        self
    }

    /// The status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether a request's body could not be read to its end.
    pub(crate) fn is_of_body(&self) -> bool {
        matches!(
            self.0.status,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT
        )
    }

    /// The value of `error` in the body.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({"code": self.0.code, "message": self.0.message});
        if let Some(target) = &self.0.target {
            value["target"] = json!(target);
        }
        if !self.0.details.is_empty() {
            value["details"] = self.0.details.iter().map(Self::to_value).collect();
        }
        value
    }

    /// The same for what is not answered at once: operations and deployments keep it.
    pub(crate) fn into_error(self) -> Error {
        let kind = match self.0.status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::CONFLICT => ErrorKind::Conflict,
            status if status.is_server_error() => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, "arm.request", self.message()).code(self.code())
    }

    /// The answer.
    #[must_use]
    pub fn into_response(self) -> Response {
        let body = json!({"error": self.to_value()}).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=utf-8"),
        );
        if let Ok(code) = HeaderValue::from_str(&self.0.code) {
            headers.insert(HeaderName::from_static("x-ms-error-code"), code);
        }
        for (name, value) in self.0.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl fmt::Display for ArmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.status, self.0.code, self.0.message)
    }
}

impl std::error::Error for ArmError {}

/// The status of an error of the engine, where its code does not say otherwise.
fn status(error: &Error) -> StatusCode {
    match error.aci_code() {
        Some("ServiceUnavailable") => return StatusCode::CONFLICT,
        Some("ContainerGroupStopped") => return StatusCode::BAD_REQUEST,
        Some("ContainerGroupQuotaReached") => return StatusCode::BAD_REQUEST,
        _ => {}
    }
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::Unsupported => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::Exhausted => {
            StatusCode::CONFLICT
        }
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::Unavailable | ErrorKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The code of an error that has none of ACI's.
fn code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "InvalidRequestContent",
        ErrorKind::Unsupported => "NotSupported",
        ErrorKind::NotFound => "ResourceNotFound",
        ErrorKind::AlreadyExists | ErrorKind::Conflict => "Conflict",
        ErrorKind::Exhausted | ErrorKind::Unavailable | ErrorKind::Cancelled => {
            "ServiceUnavailable"
        }
        ErrorKind::PermissionDenied => "AuthorizationFailed",
        ErrorKind::Timeout => "GatewayTimeout",
        _ => "InternalServerError",
    }
}

impl From<Error> for ArmError {
    /// All problems of a document are in `details`, each with its place as `target`. Of an error
    /// that should not happen only the log has the text.
    fn from(error: Error) -> Self {
        let status = status(&error);
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %error.chain(), "a request failed");
            return Self::internal();
        }
        let code = error
            .aci_code()
            .map_or_else(|| code(error.kind()).to_owned(), str::to_owned);
        let mut message = error.message().to_owned();
        if error.problems().len() == 1 {
            message.clone_from(&error.problems()[0].message);
        }
        if let Some(hint) = error.next_step() {
            message = format!("{message} ({hint})");
        }
        let mut answer = Self::new(status, code, message);
        match error.problems() {
            [] => {}
            [one] => answer.0.target = (!one.path.is_empty()).then(|| one.path.clone()),
            many => {
                answer.0.details = many
                    .iter()
                    .map(|p| {
                        let mut detail = Self::new(status, &p.code, &p.message);
                        detail.0.target = (!p.path.is_empty()).then(|| p.path.clone());
                        detail
                    })
                    .collect();
            }
        }
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ) {
            answer = answer.header(RETRY_AFTER, "5");
        }
        answer
    }
}
