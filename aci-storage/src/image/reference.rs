//! Image references as people write them.

use std::fmt;
use std::str::FromStr;

use aci_core::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// The registry of references that name none.
const DOCKER_HUB: &str = "docker.io";

/// The name of an image, normalised as Docker does: `nginx` means
/// `docker.io/library/nginx:latest`.
///
/// The rules are those of the `distribution/reference` grammar: the part before the first `/` is a
/// registry if it has a `.`, a `:` or an upper-case letter or is `localhost`; a name of one part on
/// Docker Hub is below `library/`; without tag and digest the tag is `latest`. With both a tag and
/// a digest the digest decides and the tag is only kept for readers.
///
/// ```
/// use aci_storage::Reference;
/// let nginx: Reference = "nginx".parse()?;
/// assert_eq!(nginx.to_string(), "docker.io/library/nginx:latest");
/// assert_eq!(nginx.familiar(), "nginx:latest");
/// let mcr: Reference = "mcr.microsoft.com/azuredocs/aci-helloworld".parse()?;
/// assert_eq!(mcr.registry(), "mcr.microsoft.com");
/// assert_eq!(mcr.tag(), Some("latest"));
/// assert!("UPPER".parse::<Reference>().is_err());
/// # Ok::<(), aci_core::error::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Longest registry and repository together, in bytes.
    pub const MAX_NAME: usize = 255;
    /// Longest tag, in bytes.
    pub const MAX_TAG: usize = 128;

    /// The registry's host, with a port if it has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` if only a digest is given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The short form that people write: without `docker.io/` and `library/`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else {
            return full;
        };
        let short = match rest.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short,
            _ => rest,
        };
        // `docker.io/a.b/app` must not become the repository `app` of a registry `a.b`.
        match parse(short) {
            Ok(same) if same == *self => short.to_owned(),
            _ => full,
        }
    }

    /// What two references to the same thing have in common: name and digest, or name and tag.
    pub(crate) fn key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => self.name(),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| {
            Error::new(
                ErrorKind::Invalid,
                "reference.parse",
                format!("'{text}' is not an image reference: {why}"),
            )
            .hint("write it like nginx, user/app:1.2 or registry.example/team/app@sha256:...")
        })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest: Digest = digest
                .parse()
                .map_err(|_| "after '@' must follow 'sha256:' and 64 of 0-9 and a-f".to_owned())?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash starts the tag; one before it belongs to the registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (first, path),
        _ => (DOCKER_HUB, name),
    };
    check_registry(registry)?;
    let registry = match registry {
        "index.docker.io" => DOCKER_HUB,
        other => other,
    };
    let repository = if registry == DOCKER_HUB && !path.contains('/') {
        if path.len() == 64 && Digest::from_hex(path).is_some() {
            return Err("64 hexadecimal digits are an identifier, not a name".to_owned());
        }
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > Reference::MAX_NAME {
        return Err(format!(
            "the name is longer than {} bytes",
            Reference::MAX_NAME
        ));
    }
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag,
        digest,
    })
}

fn is_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("the registry '{registry}' {why}"));
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return bad("has no closing ']'");
        };
        let hex = |b: u8| b.is_ascii_hexdigit() || b == b':';
        if address.is_empty() || !address.bytes().all(hex) {
            return bad("is not an IPv6 address");
        }
        let port = (!port.is_empty()).then(|| port.strip_prefix(':').unwrap_or_default());
        ("v6", port)
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        }
    };
    if let Some(port) = port
        && (port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()))
    {
        return bad("has a port that is not a number");
    }
    for label in host.split('.') {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if label.is_empty()
            || label.starts_with('-')
            || label.ends_with('-')
            || !label.bytes().all(inside)
        {
            return bad("is not a host name");
        }
    }
    Ok(())
}

fn check_repository(repository: &str) -> Result<(), String> {
    for part in repository.split('/') {
        if part.is_empty() {
            return Err("a part of the name between slashes is empty".to_owned());
        }
        if part.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!("'{part}' has upper-case letters"));
        }
        if !is_path_component(part) {
            return Err(format!(
                "'{part}' may have a-z, 0-9 and between them '.', '_', '__' or dashes"
            ));
        }
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = part.as_bytes();
    loop {
        let letters = rest.iter().take_while(|b| word(**b)).count();
        if letters == 0 {
            return false;
        }
        rest = &rest[letters..];
        if rest.is_empty() {
            return true;
        }
        let gap = rest.iter().take_while(|b| !word(**b)).count();
        let fits = match &rest[..gap] {
            b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|b| *b == b'-'),
        };
        if !fits {
            return false;
        }
        rest = &rest[gap..];
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if tag.is_empty()
        || tag.len() > Reference::MAX_TAG
        || tag.starts_with(['.', '-'])
        || !tag.bytes().all(inside)
    {
        return Err(format!(
            "the tag '{tag}' must have 1 to {} of letters, digits, '_', '.' and '-', and not start with '.' or '-'",
            Reference::MAX_TAG
        ));
    }
    Ok(())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn docker_normalises_so() {
        let hex = "a".repeat(64);
        for (from, to) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:1", "localhost:5000/app:1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("Host/app", "Host/app:latest"),
            (
                "mcr.microsoft.com/oss/nginx/nginx:1.9.15-alpine",
                "mcr.microsoft.com/oss/nginx/nginx:1.9.15-alpine",
            ),
            ("a--b/c__d/e.f_g", "docker.io/a--b/c__d/e.f_g:latest"),
        ] {
            assert_eq!(full(from), to);
        }
        assert_eq!(
            full(&format!("nginx@sha256:{hex}")),
            format!("docker.io/library/nginx@sha256:{hex}")
        );
        assert_eq!(
            full(&format!("nginx:1@sha256:{hex}")),
            format!("docker.io/library/nginx:1@sha256:{hex}")
        );
    }

    #[test]
    fn a_digest_decides_over_a_tag() {
        let digest = Digest::of(b"x");
        let with: Reference = format!("nginx:1@{digest}").parse().unwrap();
        let without: Reference = format!("nginx@{digest}").parse().unwrap();
        assert_eq!(with.key(), without.key());
        assert_eq!(with.tag(), Some("1"));
        assert_eq!(without.tag(), None);
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_reason() {
        let hex = "a".repeat(64);
        for bad in [
            "",
            "/",
            ":tag",
            "nginx:",
            "nginx:-1",
            "Nginx",
            "user/App",
            "a//b",
            "a/",
            "/a",
            "a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "nginx@",
            "nginx@sha256:abc",
            "nginx@md5:abc",
            "https://host/app",
            "host.example:port/app",
            "host..example/app",
            "host.example:/app",
            "[::1/app",
            "a@b@c",
            "../../etc/passwd",
            "nginx\0",
            "nginx\n",
            &hex,
            &"a".repeat(256),
            &format!("a:{}", "t".repeat(129)),
        ] {
            let error = bad.parse::<Reference>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    prop_compose! {
        fn reference()(
            registry in prop::option::of("(localhost|[a-z]{1,8}\\.[a-z]{2,3})(:[1-9][0-9]{0,4})?"),
            parts in prop::collection::vec("[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", 1..4),
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in prop::option::of(any::<[u8; 4]>()),
        ) -> String {
            // A first part with a dot would be taken for a registry.
            let dotted = parts.len() > 1 && parts[0].contains('.');
            let registry = registry.or_else(|| dotted.then(|| "docker.io".to_owned()));
            let mut text = registry.map(|r| r + "/").unwrap_or_default() + &parts.join("/");
            if let Some(tag) = tag { text += &format!(":{tag}"); }
            if let Some(seed) = digest { text += &format!("@{}", Digest::of(&seed)); }
            text
        }
    }

    proptest! {
        #[test]
        fn normal_form_is_a_fixed_point(text in reference()) {
            let once: Reference = text.parse().unwrap();
            let again: Reference = once.to_string().parse().unwrap();
            prop_assert_eq!(&once, &again);
            let short: Reference = once.familiar().parse().unwrap();
            prop_assert_eq!(once, short);
        }

        #[test]
        fn no_text_panics_and_what_is_accepted_is_plain(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let full = reference.to_string();
                prop_assert!(full.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(!full.contains("..") || reference.tag().is_some_and(|t| t.contains("..")));
            }
        }
    }
}
