//! Where a request goes.

use std::fmt;

use http::Uri;

/// The part of a URL that names a server. Two addresses with the same origin may see the same
/// credentials (RFC 6454, section 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    /// In lower case; an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// `host` or `host:port` as references write it.
    pub(crate) fn of_host(host: &str, tls: bool) -> Result<Self, String> {
        let scheme = if tls { "https" } else { "http" };
        Ok(Address::parse(&format!("{scheme}://{host}/"))?.origin)
    }

    /// As the header `Host` wants it: the port only where it is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == default_port(self.tls) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// A URL. It has no `Debug` or `Display`: the query of a redirect is often a signed credential.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) origin: Origin,
    /// Path and query.
    pub(crate) path: String,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| "it is not a URL".to_owned())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it is neither https nor http".to_owned()),
        };
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("it carries a user name".to_owned());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_ascii_lowercase();
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        // `Authority::port` is silent on numbers that are no ports.
        let port = match authority.as_str().get(authority.host().len()..) {
            None | Some("" | ":") => default_port(tls),
            Some(port) => port
                .trim_start_matches(':')
                .parse()
                .map_err(|_| "its port is no port".to_owned())?,
        };
        Ok(Self {
            origin: Origin { tls, host, port },
            path: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), |p| p.as_str().to_owned()),
        })
    }

    /// Where a `Location` leads that was found here (RFC 3986, section 5.2; of relative forms
    /// those that start with `/`, which are the only ones that registries use).
    pub(crate) fn resolve(&self, location: &str) -> Result<Self, String> {
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.origin.tls { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        if location.starts_with('/') {
            let path = location.split('#').next().unwrap_or_default();
            path.parse::<Uri>()
                .map_err(|_| "it is not a URL".to_owned())?;
            return Ok(Self {
                origin: self.origin.clone(),
                path: path.to_owned(),
            });
        }
        Self::parse(location)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn urls_are_taken_apart() {
        let a = at("https://Host.Example/v2/a?b=c");
        assert!(a.origin.tls);
        assert_eq!(
            (a.origin.host.as_str(), a.origin.port),
            ("host.example", 443)
        );
        assert_eq!(a.path, "/v2/a?b=c");
        assert_eq!(at("http://h").path, "/");
        assert_eq!(at("http://[::1]:5000/x").origin.authority(), "[::1]:5000");
        assert_eq!(at("http://h:80/").origin.authority(), "h");
        assert_eq!(at("https://h:443/").origin, at("https://h/").origin);
        for bad in [
            "",
            "/v2/",
            "ftp://h/",
            "file:///etc/passwd",
            "https://user:pw@h/",
            "https://h:99999/",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn locations_are_resolved() {
        let base = at("https://h:5000/v2/a");
        let to = |location: &str| base.resolve(location).unwrap_or_else(|e| panic!("{e}"));
        assert!(to("/x?y") == at("https://h:5000/x?y"));
        assert!(to("//other/x") == at("https://other/x"));
        assert!(to("http://other/x") == at("http://other/x"));
        assert!(base.resolve("x y").is_err());
    }

    proptest! {
        #[test]
        fn no_location_panics(text in "\\PC{0,60}") {
            let _ = at("https://h/").resolve(&text);
        }

        #[test]
        fn a_host_keeps_its_port(host in "[a-z]{1,9}(\\.[a-z]{2,3})?", port in 1u16.., tls: bool) {
            let origin = Origin::of_host(&format!("{host}:{port}"), tls).unwrap();
            prop_assert_eq!(origin, Origin { tls, host, port });
        }
    }
}
