//! The syntax of image references, as the distribution project defines it:
//! `[host[:port]/]path[:tag][@algorithm:hex]`.

/// What is wrong with an image reference, if anything.
pub(super) fn image_fault(reference: &str) -> Option<&'static str> {
    if reference
        .chars()
        .any(|c| c.is_whitespace() || c.is_control())
    {
        return Some("it has white space");
    }
    if reference.contains("://") {
        return Some("it must not have a protocol such as https://");
    }
    let (named, digest) = match reference.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (reference, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some("after '@' a digest such as sha256:<64 hexadecimal digits> is expected");
    }
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Some(
            "a tag has 1 to 128 letters, digits, underscores, periods and hyphens and starts with neither of the last \
             two",
        );
    }
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (Some(first), rest)
        }
        _ => (None, name),
    };
    if host.is_some_and(|host| !is_host(host)) {
        return Some("the part before the first '/' is no host name");
    }
    if path.is_empty() {
        return Some("the name is empty");
    }
    if path.len() > 255 {
        return Some("the name is longer than 255 characters");
    }
    if !path.split('/').all(is_component) {
        return Some(
            "a name consists of lower-case letters and digits, joined by single periods, one or two underscores, or \
             hyphens",
        );
    }
    None
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let wanted = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == wanted && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|&b| word(b))
        && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-')
}

/// A host name or address with an optional port.
pub(super) fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                (
                    "",
                    rest.strip_prefix(':')
                        .or_else(|| (!rest.is_empty()).then_some("?")),
                )
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    port && (text.starts_with('[') || is_host_name(name))
}

/// A host name: labels of letters, digits and hyphens, joined by periods.
pub(super) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Runs of lower-case letters and digits, joined by `.`, `_`, `__` or any number of hyphens.
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = text.starts_with(alphanumeric) && text.ends_with(alphanumeric);
    ends && text
        .split(alphanumeric)
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_of_every_form_are_taken() {
        let digest = format!("nginx@sha256:{}", "0a".repeat(32));
        let both = format!("nginx:1.25@sha256:{}", "0a".repeat(32));
        for good in [
            "nginx",
            "nginx:1.25",
            "microsoft/aci-helloworld:latest",
            "mcr.microsoft.com/azuredocs/aci-helloworld",
            "localhost/x",
            "localhost:5000/my_app__x/y--z:T_1.2-3",
            "127.0.0.1:5000/x",
            "[::1]:5000/x",
            "Registry.Example.com/x",
            &digest,
            &both,
        ] {
            assert_eq!(image_fault(good), None, "{good}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let short = format!("nginx@sha256:{}", "0a".repeat(31));
        for bad in [
            "",
            "Nginx",
            "a b",
            "https://example.com/x",
            "nginx:",
            "nginx:.x",
            "nginx@latest",
            "-nginx",
            "a..b",
            "a___b",
            "a/",
            "/a",
            "a//b",
            "exa_mple.com/x",
            "host:99999/x",
            "<your-image>",
            &short,
        ] {
            assert!(image_fault(bad).is_some(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,80}") {
            let _ = image_fault(&text);
        }
    }
}
