//! Credentials from Docker's `config.json` (and Podman's `auth.json`, which has the same form).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use aci_core::contract::RegistryLogin;
use aci_core::error::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::fail;
use crate::image::Reference;

/// Longest file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Docker Hub's entry is called by the address of an interface that is long gone.
const HUB: [&str; 4] = [
    "index.docker.io",
    "docker.io",
    "registry-1.docker.io",
    "index.docker.io/v1",
];

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// It has no `Debug`, because it holds a password.
#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<Zeroizing<String>>,
    username: Option<String>,
    password: Option<Zeroizing<String>>,
}

/// The credentials that the file has for an image. A file that is not there has none.
pub(super) fn login(path: &Path, reference: &Reference) -> Result<Option<RegistryLogin>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let failed = |e| fail::io("registry.docker_config", "read it", path, e);
    match std::fs::File::open(path) {
        Ok(file) => file
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let wrong = |why: &str| {
        Error::new(ErrorKind::Invalid, "registry.docker_config", why)
            .on(path.display())
            .hint("log in again with docker or podman, or set no docker_config")
    };
    if bytes.len() as u64 > MAX_FILE {
        return Err(wrong("the file is larger than 1 MiB"));
    }
    // The parser's own words may repeat what stands there.
    let file: File = serde_json::from_slice(&bytes).map_err(|e| {
        wrong(&format!(
            "it is not a Docker configuration (line {})",
            e.line()
        ))
    })?;
    let Some((server, entry)) = find(file.auths, reference) else {
        return Ok(None);
    };
    let (username, password) = match (entry.auth.as_deref(), entry.username, entry.password) {
        (Some(auth), ..) if !auth.is_empty() => {
            let pair = STANDARD
                .decode(auth.trim())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .map(Zeroizing::new)
                .ok_or_else(|| wrong(&format!("the entry '{server}' has no usable 'auth'")))?;
            match pair.split_once(':') {
                // Docker pads old entries with NUL bytes.
                Some((user, password)) => (
                    user.to_owned(),
                    Zeroizing::new(password.trim_end_matches('\0').to_owned()),
                ),
                None => return Err(wrong(&format!("the entry '{server}' has no usable 'auth'"))),
            }
        }
        (_, Some(user), Some(password)) => (user, password),
        // An empty entry stands for a credential helper, which is a program and not run.
        _ => return Ok(None),
    };
    Ok(Some(RegistryLogin {
        server: reference.registry().to_owned(),
        username,
        password: password.as_str().to_owned().into(),
    }))
}

/// The entry whose key is the longest part of the image's name, as containers-auth.json(5) says.
fn find(all: BTreeMap<String, Entry>, reference: &Reference) -> Option<(String, Entry)> {
    let hub = reference.registry() == "docker.io";
    let full = format!("{}/{}", reference.registry(), reference.repository());
    let fits = |key: &str| {
        let key = key
            .strip_prefix("https://")
            .or_else(|| key.strip_prefix("http://"))
            .unwrap_or(key)
            .trim_end_matches('/');
        // Docker writes addresses of interfaces, `host/v1/`.
        let host = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2"));
        if hub && HUB.contains(&key) {
            return Some(0);
        }
        let part = host.unwrap_or(key);
        let rest = full.strip_prefix(part)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(part.len())
    };
    all.into_iter()
        .filter_map(|(key, entry)| fits(&key).map(|length| (length, key, entry)))
        .max_by_key(|(length, ..)| *length)
        .map(|(_, key, entry)| (key, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str, image: &str) -> Result<Option<(String, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let reference: Reference = image.parse().unwrap();
        let login = login(&path, &reference)?;
        Ok(login.map(|l| (l.username, l.password.expose().to_owned())))
    }

    #[test]
    fn entries_are_found_by_host_and_by_path() {
        let pair = |user: &str| STANDARD.encode(format!("{user}:p:w"));
        let text = serde_json::json!({
            "auths": {
                "https://index.docker.io/v1/": {"auth": pair("hub")},
                "r.example:5000": {"auth": pair("host")},
                "r.example:5000/team": {"auth": pair("team")},
                "https://old.example/v1/": {"username": "old", "password": "p:w"},
                "helped.example": {}
            },
            "credsStore": "desktop"
        })
        .to_string();
        let user = |image: &str| ask(&text, image).unwrap();
        let with = |user: &str| Some((user.to_owned(), "p:w".to_owned()));
        assert_eq!(user("nginx"), with("hub"));
        assert_eq!(user("r.example:5000/app"), with("host"));
        assert_eq!(user("r.example:5000/team/app:1"), with("team"));
        assert_eq!(user("r.example:5000/teams/app"), with("host"));
        assert_eq!(user("old.example/x"), with("old"));
        assert_eq!(user("helped.example/x"), None);
        assert_eq!(user("r.example/app"), None);
    }

    #[test]
    fn a_broken_file_is_named_and_not_repeated() {
        for text in [
            r#"{"auths": {"r.example": {"auth": "aHVudGVyMg=="}}}"#,
            r#"{"auths": {"r.example": {"auth": "hunter2!"}}}"#,
            r#"{"auths": {"r.example": "hunter2"}}"#,
            "hunter2",
        ] {
            let error = ask(text, "r.example/x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.resource().unwrap().ends_with("config.json"));
            let all = format!("{error:?} {}", error.chain());
            assert!(!all.contains("hunter2") && !all.contains("aHVu"), "{all}");
        }
        let missing = login(Path::new("/nowhere/config.json"), &"x".parse().unwrap());
        assert!(missing.unwrap().is_none());
    }
}
