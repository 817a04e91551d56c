//! Routes as data: one table that dispatch, authorisation and tests read.

use std::collections::BTreeMap;
use std::fmt;

use aci_core::model::ApiVersion;
use futures_util::future::BoxFuture;
use http::Method;

use super::auth::Need;
use super::call::Call;
use super::error::{ArmError, ArmResult};

/// What carries out a request.
pub(crate) type Handler = fn(Call) -> BoxFuture<'static, ArmResult>;

/// Which `api-version` a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// One of Azure Container Instances, from the given date on; the answer has its shape.
    Aci(&'static str),
    /// Any date; the answer has one shape.
    Any,
    /// None is needed, and one that is there is not looked at.
    Unversioned,
}

/// The first api-version of Azure Container Instances that is answered.
pub(crate) const FIRST: &str = "2018-04-01";

/// One operation.
#[derive(Clone)]
#[non_exhaustive]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with names in braces: `/subscriptions/{subscriptionId}/...`. Its other parts are
    /// matched without regard to case.
    pub path: &'static str,
    /// ARM's name of the action, such as `Microsoft.ContainerInstance/containerGroups/read`.
    pub action: &'static str,
    /// What it needs of the caller.
    pub need: Need,
    /// Which api-versions it takes.
    pub versions: Versions,
    pub(crate) handler: Handler,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Route {
    /// A route that reads (GET and HEAD) or changes (all others), of any api-version.
    pub(crate) fn new(
        method: Method,
        path: &'static str,
        action: &'static str,
        handler: Handler,
    ) -> Self {
        let need = match method {
            Method::GET | Method::HEAD => Need::Read,
            _ => Need::Write,
        };
        Self {
            method,
            path,
            action,
            need,
            versions: Versions::Any,
            handler,
        }
    }

    /// The api-versions.
    pub(crate) const fn versions(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    /// What it needs of the caller.
    pub(crate) const fn need(mut self, need: Need) -> Self {
        self.need = need;
        self
    }

    /// Takes the api-version of a request.
    ///
    /// # Errors
    /// ARM's, where it is missing, is no date, or is not one that the route takes.
    pub(crate) fn version(&self, given: Option<&str>) -> ArmResult<ApiVersion> {
        let first = match self.versions {
            Versions::Unversioned => return Ok(ApiVersion::LATEST),
            Versions::Any => None,
            Versions::Aci(first) => first.parse::<ApiVersion>().ok(),
        };
        let Some(given) = given.filter(|g| !g.trim().is_empty()) else {
            return Err(ArmError::bad_request(
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            ));
        };
        let Ok(version) = given.parse::<ApiVersion>() else {
            let shown: String = given.chars().take(40).collect();
            return Err(ArmError::bad_request(
                "InvalidApiVersionParameter",
                format!("The api-version '{shown}' is invalid. Write a date such as '2023-05-01'."),
            ));
        };
        let Some(first) = first else {
            return Ok(version);
        };
        // A preview of the first version's own date and after has the operation too.
        let early = version < first && version.to_string().get(..10) < first.to_string().get(..10);
        if early || version > ApiVersion::LATEST {
            let (kind, _) = self.action.rsplit_once('/').unwrap_or((self.action, ""));
            return Err(ArmError::bad_request(
                "NoRegisteredProviderFound",
                format!(
                    "No registered resource provider found for API version '{version}' for type '{kind}'. The \
                     supported api-versions are '{first}' to '{}'.",
                    ApiVersion::LATEST
                ),
            ));
        }
        Ok(version)
    }
}

/// A path in parts, each decoded, without empty ones: double slashes count as one.
///
/// # Errors
/// ARM's `InvalidRequestUri` for parts that are no text, hold control characters or slashes, or are
/// `.` or `..`.
pub(crate) fn parts(path: &str) -> ArmResult<Vec<String>> {
    let invalid = |why: &str| {
        ArmError::bad_request(
            "InvalidRequestUri",
            format!("The request URI is invalid: {why}."),
        )
    };
    let mut parts = Vec::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let part = percent_encoding::percent_decode_str(part)
            .decode_utf8()
            .map_err(|_| invalid("a part of the path is not text in UTF-8"))?;
        if part.chars().any(char::is_control) {
            return Err(invalid("a part of the path holds a control character"));
        }
        if part.contains(['/', '\\']) {
            return Err(invalid("a part of the path holds a slash"));
        }
        if matches!(&*part, "." | "..") {
            return Err(invalid("a part of the path is '.' or '..'"));
        }
        if part.chars().count() > 260 {
            return Err(invalid("a part of the path is longer than 260 characters"));
        }
        parts.push(part.into_owned());
    }
    Ok(parts)
}

/// The values of a pattern's names in a path, if the path is like that.
fn matches(pattern: &'static str, parts: &[String]) -> Option<BTreeMap<&'static str, String>> {
    let mut given = parts.iter();
    let mut values = BTreeMap::new();
    for wanted in pattern.split('/').filter(|p| !p.is_empty()) {
        let part = given.next()?;
        match wanted.strip_prefix('{').and_then(|w| w.strip_suffix('}')) {
            Some(name) => {
                values.insert(name, part.clone());
            }
            None if wanted.eq_ignore_ascii_case(part) => {}
            None => return None,
        }
    }
    given.next().is_none().then_some(values)
}

/// What a request is for.
pub(crate) enum Found<'t> {
    /// A route, and the values in its path.
    Route(&'t Route, BTreeMap<&'static str, String>),
    /// A path with other methods, as the header `Allow` says them.
    Methods(String),
    Nothing,
}

/// Looks a request up. Where a path is like several patterns, the one with fewer names wins.
pub(crate) fn find<'t>(table: &'t [Route], method: &Method, parts: &[String]) -> Found<'t> {
    let mut best: Option<(&Route, BTreeMap<&'static str, String>)> = None;
    let mut allowed: Vec<&str> = Vec::new();
    for route in table {
        let Some(values) = matches(route.path, parts) else {
            continue;
        };
        if route.method != *method {
            allowed.push(route.method.as_str());
            continue;
        }
        if best.as_ref().is_none_or(|(_, b)| values.len() < b.len()) {
            best = Some((route, values));
        }
    }
    match best {
        Some((route, values)) => Found::Route(route, values),
        None if allowed.is_empty() => Found::Nothing,
        None => {
            allowed.sort_unstable();
            allowed.dedup();
            Found::Methods(allowed.join(", "))
        }
    }
}
