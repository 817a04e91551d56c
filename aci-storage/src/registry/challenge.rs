//! What a registry wants as proof: the header `WWW-Authenticate` (RFC 9110, section 11.6.1).

/// A way to prove who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from elsewhere (the distribution specification's "Token Authentication").
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    /// User and password (RFC 7617).
    Basic,
}

/// Reads all challenges of one header; what is unknown or broken is left out.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header;
    let mut current: Option<(String, Vec<(String, String)>)> = None;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let (word, after) = token(rest);
        if word.is_empty() {
            break; // not of this grammar
        }
        if let Some(value) = after.trim_start().strip_prefix('=') {
            let Some((value, after)) = quoted(value.trim_start()) else {
                break;
            };
            if let Some((_, parameters)) = &mut current {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            found.extend(current.take().and_then(finish));
            current = Some((word.to_ascii_lowercase(), Vec::new()));
            rest = after;
        }
    }
    found.extend(current.take().and_then(finish));
    found
}

fn finish((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let get = |name: &str| {
        parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    };
    match scheme.as_str() {
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }),
        "basic" => Some(Challenge::Basic),
        _ => None,
    }
}

/// RFC 9110, section 5.6.2.
fn token(text: &str) -> (&str, &str) {
    let inside = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !inside(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// A quoted string or a bare value.
fn quoted(text: &str) -> Option<(String, &str)> {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &inner[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn headers_of_registries() {
        let hub = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:library/nginx:pull""#;
        assert_eq!(
            parse(hub),
            [bearer(
                "https://auth.example/token",
                Some("registry.example"),
                Some("repository:library/nginx:pull")
            )]
        );
        assert_eq!(parse("Basic realm=\"r, s\""), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(
            parse("Negotiate, Basic realm=x, Bearer realm=\"https://t/\" , scope=\"a \\\"b\\\"\""),
            [
                Challenge::Basic,
                bearer("https://t/", None, Some("a \"b\""))
            ]
        );
        assert_eq!(parse("Bearer service=\"without realm\""), []);
        assert_eq!(parse("Bearer realm=\"unfinished"), []);
        assert_eq!(parse(""), []);
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_text_survives_quoting(realm in "\\PC{1,30}", scope in "\\PC{1,30}") {
            let quote = |t: &str| t.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{}\", scope=\"{}\"", quote(&realm), quote(&scope));
            prop_assert_eq!(parse(&header), [bearer(&realm, None, Some(&scope))]);
        }
    }
}
