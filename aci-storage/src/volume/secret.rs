//! `secret` volumes: files in memory, decoded where they are written.

use std::collections::BTreeSet;

use aci_core::contract::{ProvidedVolume, SecretFile, VolumeDriver, VolumeRequest, VolumeSource};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::{Secret, Volume};
use async_trait::async_trait;
use base64::Engine as _;
use zeroize::Zeroizing;

use super::check_component;

/// Provides `secret` volumes: checks names and contents and hands them on as they are; the
/// isolation decodes them inside the group's wall. Keeps nothing anywhere.
///
/// White space in a content (the line end that a YAML block adds) is taken out. Messages name files,
/// never contents, not even a part of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Secrets;

impl Secrets {
    /// The driver; it has no state.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// Whether a text is base64 as .NET and Go read it: the standard alphabet, padded. The decoded
/// bytes are wiped.
fn is_base64(text: &str) -> bool {
    let mut buffer = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    base64::engine::general_purpose::STANDARD
        .decode_slice(text, &mut buffer)
        .is_ok()
}

fn without_space(text: Secret) -> Secret {
    if text.expose().contains(|c: char| c.is_ascii_whitespace()) {
        Secret::new(text.expose().split_ascii_whitespace().collect::<String>())
    } else {
        text
    }
}

#[async_trait]
impl VolumeDriver for Secrets {
    fn name(&self) -> &str {
        "secret"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    #[tracing::instrument(name = "volumes.provide", skip_all, fields(sandbox = %request.sandbox, volume = %request.volume.name))]
    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        let volume = request.volume;
        let Some(secret) = volume.secret else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "volumes.provide",
                format!("'{}' is not a secret volume", volume.name),
            ));
        };
        let invalid = |why: String| {
            Error::new(
                ErrorKind::Invalid,
                "volumes.provide",
                format!("the secret volume '{}': {why}", volume.name),
            )
        };
        let mut names = BTreeSet::new();
        let mut files = Vec::new();
        for (name, base64) in secret.0 {
            check_component("volumes.provide", "a secret's file", &name)?;
            if name.starts_with("..") {
                let name = name.escape_debug();
                return Err(invalid(format!(
                    "'{name}' cannot be a file: names that begin with '..' are for their replacement"
                )));
            }
            let base64 = without_space(base64);
            if !is_base64(base64.expose()) {
                return Err(invalid(format!(
                    "the content of '{}' is not base64",
                    name.escape_debug()
                ))
                .hint("encode it, for example with base64 -w0; the content is not shown here"));
            }
            if !names.insert(name.clone()) {
                return Err(invalid(format!("there are two files '{name}'")));
            }
            files.push(SecretFile { name, base64 });
        }
        metrics::counter!("aci_storage_volumes_provided_total").increment(1);
        Ok(VolumeSource::Secret(files))
    }

    async fn release(&self, _: &SandboxId, _: &str) -> Result<()> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aci_core::model::SecretVolume;

    fn request(files: &[(&str, &str)]) -> VolumeRequest {
        let files = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Secret::new(*text)));
        VolumeRequest::new(
            "s1".parse().unwrap(),
            Volume {
                name: "keys".into(),
                secret: Some(files.collect::<SecretVolume>()),
                ..Volume::default()
            },
        )
    }

    #[tokio::test]
    async fn contents_are_handed_on_undecoded() {
        let made = Secrets
            .provide(request(&[("a", " aG\nk=\n"), ("empty", "")]))
            .await;
        let VolumeSource::Secret(files) = made.unwrap() else {
            panic!("not a secret")
        };
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].base64.expose(), "aGk=");
        assert!(!format!("{files:?}").contains("aGk"));
        assert!(Secrets.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn bad_names_and_contents_are_refused_without_showing_them() {
        for (name, text) in [
            ("", "aGk="),
            ("..", "aGk="),
            ("..data", "aGk="),
            ("a/b", "aGk="),
            ("key", "hunter2!"),
            ("key", "aGk"),
            ("key", "aGk=aGk="),
        ] {
            let error = Secrets.provide(request(&[(name, text)])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            for shown in [format!("{error}"), format!("{error:?}")] {
                assert!(!shown.contains(text), "{shown}");
            }
        }
    }
}
