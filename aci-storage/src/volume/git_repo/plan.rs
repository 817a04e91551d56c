//! What a document's repository, directory and revision mean: pure functions.

use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::GitRepoVolume;
use gix_hash::ObjectId;
use gix_protocol::handshake::Ref;
use http::HeaderValue;

use crate::registry::{Address, Origin};

/// A repository, taken apart.
#[derive(Clone)]
pub(super) struct Plan {
    /// Its address without a user name and password.
    pub(super) url: String,
    pub(super) origin: Origin,
    /// User and password of the address, for its origin only.
    pub(super) login: Option<HeaderValue>,
    /// Where the checkout goes below the volume; `None`: the volume itself is the checkout.
    pub(super) directory: Option<String>,
    pub(super) revision: Option<String>,
}

/// An error in the terms of the document's author.
pub(super) fn invalid(volume: &str, field: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        "volumes.provide",
        format!("'{field}' of the gitRepo volume '{volume}' {why}"),
    )
    .code("InvalidGitRepoVolume")
}

impl Plan {
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) naming the field and the rule; an address is not repeated.
    pub(super) fn of(volume: &str, repository: &GitRepoVolume) -> Result<Self> {
        let wrong = |field, why: &str| invalid(volume, field, why);
        let whole = repository.repository.expose();
        let (url, login) = without_login(whole);
        let address = Address::parse(&url)
            .map_err(|why| wrong("repository", &format!("cannot be: {why}")))?;
        if address.path.contains(['?', '#']) || whole.contains('#') {
            return Err(wrong("repository", "has a query or a fragment"));
        }
        if address.origin.host.starts_with('-') {
            return Err(wrong("repository", "names a host that begins with '-'"));
        }
        let login = match login {
            None => None,
            Some(pair) => {
                Some(basic(&pair).ok_or_else(|| wrong("repository", "has an unusable password"))?)
            }
        };
        let directory = match repository.directory.as_deref() {
            Some(".") => None,
            None | Some("") => {
                let name = own_name(&address.path);
                Some(name.ok_or_else(|| {
                    wrong(
                        "repository",
                        "gives no name for a directory; set 'directory'",
                    )
                })?)
            }
            Some(name) => Some(name.to_owned()),
        };
        if let Some(name) = &directory {
            directory_rule(name).map_err(|why| wrong("directory", why))?;
        }
        let revision = repository.revision.clone().filter(|r| !r.is_empty());
        if let Some(revision) = &revision {
            revision_rule(revision).map_err(|why| wrong("revision", why))?;
        }
        let authority = address.origin.authority();
        let scheme = if address.origin.tls { "https" } else { "http" };
        let path = address.path.trim_end_matches('/');
        Ok(Self {
            url: format!("{scheme}://{authority}{path}"),
            origin: address.origin,
            login,
            directory,
            revision,
        })
    }
}

/// One path component that is no part of git's own and no option (CVE-2024-10220,
/// CVE-2025-1767).
fn directory_rule(name: &str) -> Result<(), &'static str> {
    match name {
        _ if name.contains('/') || name.contains('\\') => {
            Err("must be one directory name, without '/'")
        }
        _ if name.starts_with("..") => Err("must not begin with '..'"),
        _ if name.starts_with('-') => Err("must not begin with '-'"),
        _ if name.contains(|c: char| c.is_control()) => Err("has a control character"),
        _ if name.len() > 255 => Err("is longer than 255 bytes"),
        _ if component(name.as_bytes()).is_err() => Err("is a name that git keeps for itself"),
        _ => Ok(()),
    }
}

fn revision_rule(revision: &str) -> Result<(), &'static str> {
    if revision.starts_with('-') {
        return Err("must not begin with '-'");
    }
    if revision.len() > 255 {
        return Err("is longer than 255 bytes");
    }
    gix_validate::reference::name_partial(revision.into())
        .map(drop)
        .map_err(|_| "is no name of a branch or tag, and no commit")
}

/// A name in a tree: none that leads elsewhere, and none that any file system takes for `.git`.
pub(super) fn component(name: &[u8]) -> Result<(), ()> {
    let options = gix_validate::path::component::Options {
        protect_windows: false,
        protect_hfs: true,
        protect_ntfs: true,
    };
    match gix_validate::path::component(name.into(), None, options) {
        Ok(_) if name.len() <= 255 && !name.contains(&0) => Ok(()),
        _ => Err(()),
    }
}

/// The last part of the address without `.git`, as `git clone` names its directory.
fn own_name(path: &str) -> Option<String> {
    let last = path.trim_end_matches('/').rsplit('/').next()?;
    let last = last.strip_suffix(".git").unwrap_or(last);
    let name = percent(last)?;
    (!name.is_empty()).then_some(name)
}

/// Takes `USER:PASSWORD@` out of an address.
fn without_login(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((login, host)) => (
            format!("{scheme}://{host}{}", &rest[end..]),
            Some(login.to_owned()),
        ),
        None => (url.to_owned(), None),
    }
}

fn basic(login: &str) -> Option<HeaderValue> {
    use base64::Engine as _;
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let pair = zeroize::Zeroizing::new(format!("{}:{}", percent(user)?, percent(password)?));
    let text = base64::engine::general_purpose::STANDARD.encode(pair.as_bytes());
    let mut value = HeaderValue::from_str(&format!("Basic {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Takes `%XX` back (RFC 3986, section 2.1).
fn percent(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// What `HEAD` of the copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Branch(String),
    Detached,
}

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One object and nothing before it.
    One(ObjectId, Head),
    /// Everything, to look for a commit by its (perhaps shortened) hash.
    Search(Vec<ObjectId>),
}

/// What a revision means in a repository with these references, if anything. A branch comes before
/// a tag of the same name, as for `git checkout`.
pub(super) fn choose(revision: Option<&str>, refs: &[Ref]) -> Option<Wanted> {
    let find = |wanted: &str| {
        refs.iter().find_map(|r| {
            let (name, target, _) = r.unpack();
            let unborn = matches!(r, Ref::Unborn { .. });
            (name == wanted.as_bytes() && !unborn).then_some((r, target?.to_owned()))
        })
    };
    let branch = |name: &str| {
        let (_, id) = find(&format!("refs/heads/{name}"))?;
        Some(Wanted::One(id, Head::Branch(name.to_owned())))
    };
    let Some(revision) = revision.filter(|r| *r != "HEAD") else {
        let (head, id) = find("HEAD")?;
        let name = match head {
            Ref::Symbolic { target, .. } => target
                .strip_prefix(b"refs/heads/")
                .and_then(|name| std::str::from_utf8(name).ok())
                // The server says it, and it becomes a path.
                .filter(|name| revision_rule(name).is_ok()),
            _ => None,
        };
        let head = name.map_or(Head::Detached, |name| Head::Branch(name.to_owned()));
        return Some(Wanted::One(id, head));
    };
    if let Some(name) = revision.strip_prefix("refs/heads/") {
        return branch(name);
    }
    let named = branch(revision).or_else(|| {
        ["", "refs/tags/", "refs/"].iter().find_map(|prefix| {
            let name = format!("{prefix}{revision}");
            let (_, id) = name.starts_with("refs/").then(|| find(&name))??;
            Some(Wanted::One(id, Head::Detached))
        })
    });
    named.or_else(|| {
        if !(4..=40).contains(&revision.len()) {
            return None;
        }
        if let Ok(id) = ObjectId::from_hex(revision.as_bytes()) {
            return Some(Wanted::One(id, Head::Detached));
        }
        revision
            .bytes()
            .all(|b| b.is_ascii_hexdigit())
            .then(|| Wanted::Search(tips(refs)))
    })
}

/// The ends of all branches and tags.
pub(super) fn tips(refs: &[Ref]) -> Vec<ObjectId> {
    let mut ids: Vec<ObjectId> = refs
        .iter()
        .filter_map(|r| {
            let (name, target, _) = r.unpack();
            let known = name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/");
            known.then(|| target.map(ToOwned::to_owned))?
        })
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(repository: &str, directory: Option<&str>, revision: Option<&str>) -> Result<Plan> {
        let repository = GitRepoVolume {
            repository: repository.into(),
            directory: directory.map(str::to_owned),
            revision: revision.map(str::to_owned),
            ..GitRepoVolume::default()
        };
        Plan::of("source", &repository)
    }

    #[test]
    fn addresses_and_directories_are_taken_apart() {
        let at = |url, directory| plan(url, directory, None).unwrap();
        let a = at("https://u%40x:p%3Aw@Host.Example:8443/team/app.git/", None);
        assert_eq!(a.url, "https://host.example:8443/team/app.git");
        assert_eq!(a.directory.as_deref(), Some("app"));
        assert_eq!(a.login.unwrap().as_bytes(), b"Basic dUB4OnA6dw==");
        assert_eq!(at("http://h/a", Some(".")).directory, None);
        assert_eq!(at("http://h/a", Some("x")).directory.as_deref(), Some("x"));
        let a = at("http://h/a%20b", None);
        assert_eq!(a.directory.as_deref(), Some("a b"));
    }

    #[test]
    fn what_leads_elsewhere_is_refused_without_showing_a_password() {
        for repository in [
            "file:///etc",
            "/etc",
            "../x",
            "ext::sh -c id",
            "ssh://h/x",
            "git://h/x",
            "h:x",
            "-u",
            "http://-h/x",
            "https://u:hunter2@/x",
            "https://u:hunter2@h:99999/x",
            "https://u:%ff@h/x",
            "https://h/x?y=hunter2",
            "https://h/x#hunter2",
            "https://h/",
            "https://h/..",
            "https://h/a/-x",
            "https://h/.git",
            "https://h/a/%2e%2e",
            "https://h/%2fetc",
        ] {
            let error = plan(repository, None, None).err().expect(repository);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{repository}");
            assert_eq!(error.aci_code(), Some("InvalidGitRepoVolume"));
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
        }
        for directory in [
            "..",
            "../x",
            "a/b",
            "/x",
            "-x",
            "..x",
            ".git",
            ".GIT",
            "git~1",
            "a\\b",
            "a\0b",
            ".g\u{200c}it",
        ] {
            let error = plan("https://h/x", Some(directory), None).err();
            let error = error.expect(directory);
            assert!(error.to_string().contains("'directory'"), "{error}");
        }
        for revision in [
            "-x",
            "--upload-pack=id",
            "a b",
            "a..b",
            "x~1",
            "a:b",
            "@{1}",
        ] {
            let error = plan("https://h/x", None, Some(revision)).err();
            let error = error.expect(revision);
            assert!(error.to_string().contains("'revision'"), "{error}");
        }
    }

    fn direct(name: &str, id: u8) -> Ref {
        Ref::Direct {
            full_ref_name: name.into(),
            object: object(id),
        }
    }

    fn object(id: u8) -> ObjectId {
        ObjectId::from_hex(format!("{id:02x}").repeat(20).as_bytes()).unwrap()
    }

    #[test]
    fn revisions_mean_what_they_mean_for_git_checkout() {
        let refs = [
            Ref::Symbolic {
                full_ref_name: "HEAD".into(),
                target: "refs/heads/main".into(),
                tag: None,
                object: object(1),
            },
            direct("refs/heads/main", 1),
            direct("refs/heads/both", 2),
            direct("refs/tags/both", 3),
            Ref::Peeled {
                full_ref_name: "refs/tags/v1".into(),
                tag: object(4),
                object: object(5),
            },
        ];
        let one = |id, head: Head| Some(Wanted::One(object(id), head));
        let branch = |name: &str| Head::Branch(name.to_owned());
        assert_eq!(choose(None, &refs), one(1, branch("main")));
        assert_eq!(choose(Some("HEAD"), &refs), one(1, branch("main")));
        assert_eq!(choose(Some("both"), &refs), one(2, branch("both")));
        assert_eq!(
            choose(Some("refs/tags/both"), &refs),
            one(3, Head::Detached)
        );
        assert_eq!(choose(Some("v1"), &refs), one(4, Head::Detached));
        let hash = object(9).to_string();
        assert_eq!(choose(Some(&hash), &refs), one(9, Head::Detached));
        let all = [1, 2, 3, 4].map(object).to_vec();
        assert_eq!(choose(Some("0909"), &refs), Some(Wanted::Search(all)));
        assert_eq!(choose(Some("nothing"), &refs), None);
        assert_eq!(choose(None, &[]), None);
    }

    #[test]
    fn a_servers_branch_cannot_become_a_path_that_leads_out() {
        for target in [
            "refs/heads/../../../x",
            "refs/heads//etc/x",
            "refs/heads/.",
            "x",
        ] {
            let head = Ref::Symbolic {
                full_ref_name: "HEAD".into(),
                target: target.into(),
                tag: None,
                object: object(1),
            };
            let wanted = Some(Wanted::One(object(1), Head::Detached));
            assert_eq!(choose(None, &[head]), wanted, "{target}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_panics_or_leads_out(
            repository in "(https?://)?\\PC{0,40}",
            directory in proptest::option::of("\\PC{0,20}"),
            revision in proptest::option::of("\\PC{0,20}"),
        ) {
            if let Ok(plan) = plan(&repository, directory.as_deref(), revision.as_deref()) {
                let directory = plan.directory.unwrap_or_default();
                prop_assert!(!directory.contains('/') && directory != "..");
                prop_assert!(plan.url.starts_with("http"));
            }
        }
    }
}
