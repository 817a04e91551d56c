//! Secrets by reference: looked up where they are needed, and kept no longer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use aci_core::contract::{RegistryLogin, SecretRequest};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use aci_core::model::{ContainerGroup, ImageRegistryCredential, Secret, SecretVolume, Volume};
use base64::Engine as _;
use futures_util::future::try_join_all;

use super::act::RETRY;
use super::{Shared, guard};

/// Values by the names of their references.
pub(crate) type Values = BTreeMap<String, Secret>;

/// What a driver is asked for: a volume of secret references is one of secrets whose contents are
/// not known yet, and the key of a share is given as such.
pub(crate) fn without_references(volume: &Volume) -> Cow<'_, Volume> {
    if volume.secret_reference.is_none() {
        return Cow::Borrowed(volume);
    }
    let mut volume = volume.clone();
    volume.secret_reference = None;
    volume.secret = Some(SecretVolume::default());
    Cow::Owned(volume)
}

impl Shared {
    /// What some of a document's secret references stand for now, each asked for once.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) without a resolver; the resolver's, with ACI's code
    /// if another try is of no use; [`Timeout`](ErrorKind::Timeout) if it does not answer.
    pub(crate) async fn secrets<'a>(
        &self,
        group: &GroupRef,
        document: &ContainerGroup,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Values> {
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        try_join_all(names.into_iter().map(async |name| {
            let value = self.secret(group, document, name).await?;
            Ok((name.to_owned(), value))
        }))
        .await
        .map(Values::from_iter)
    }

    async fn secret(
        &self,
        group: &GroupRef,
        document: &ContainerGroup,
        name: &str,
    ) -> Result<Secret> {
        const OPERATION: &str = "secret.resolve";
        let failed = |kind, why: &str| {
            Error::new(
                kind,
                OPERATION,
                format!("the secret reference '{name}' cannot be resolved: {why}"),
            )
            .on(group)
        };
        let references = &document.properties.secret_references;
        let Some(reference) = references.iter().find(|r| r.name == name) else {
            let why = "it is not among the group's 'secretReferences'";
            return Err(failed(ErrorKind::Invalid, why).code("InvalidSecretReference"));
        };
        let Some(resolver) = &self.secrets else {
            let why = "this engine has no resolver for secret references";
            return Err(failed(ErrorKind::Unsupported, why)
                .hint("give the engine's builder one, or the values themselves"));
        };
        let end = self.clock.now() + self.options.secret_timeout;
        loop {
            let asking = resolver.resolve(SecretRequest {
                group: group.clone(),
                reference: reference.clone(),
            });
            let left = end.since(self.clock.now());
            let error = match guard::limited(&*self.clock, left, OPERATION, asking).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let next = self.clock.now() + RETRY;
            if error.is_retryable() && next < end {
                tracing::debug!(%group, reference = name, error = %error.chain(), "a secret cannot be had now; asked again");
                self.clock.sleep_until(next).await;
                continue;
            }
            let why = format!("{} ({})", error.message(), resolver.name());
            let told = failed(error.kind(), &why);
            let told = match error.next_step() {
                Some(step) => told.hint(step),
                None => told,
            };
            return Err(if error.is_retryable() {
                told
            } else {
                told.code(error.aci_code().unwrap_or("InvalidSecretReference"))
            });
        }
    }

    /// A volume with values in the place of its references: a key, or the contents of files.
    pub(crate) async fn resolved<'a>(
        &self,
        group: &GroupRef,
        document: &ContainerGroup,
        volume: &'a Volume,
    ) -> Result<Cow<'a, Volume>> {
        let mut resolved = without_references(volume);
        if let Some(files) = &volume.secret_reference {
            let names = files.values().map(String::as_str);
            let values = self.secrets(group, document, names).await?;
            let base64 = |value: &Secret| {
                Secret::new(base64::engine::general_purpose::STANDARD.encode(value.expose()))
            };
            let files = files.iter().filter_map(|(file, name)| {
                let value = values.get(name)?;
                Some((file.clone(), base64(value)))
            });
            resolved.to_mut().secret = Some(files.collect());
        }
        let key = volume
            .azure_file
            .as_ref()
            .and_then(|share| share.storage_account_key_reference.as_deref());
        if let Some(name) = key {
            let mut values = self.secrets(group, document, [name]).await?;
            if let Some(share) = &mut resolved.to_mut().azure_file {
                share.storage_account_key = values.remove(name);
                share.storage_account_key_reference = None;
            }
        }
        Ok(resolved)
    }

    /// The credentials that a document has for an image.
    pub(crate) async fn login(
        &self,
        group: &GroupRef,
        document: &ContainerGroup,
        reference: &str,
    ) -> Result<Option<RegistryLogin>> {
        let server = registry(reference);
        let Some(credential) = credential(document, server) else {
            return Ok(None);
        };
        let password = match (&credential.password, &credential.password_reference) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(name)) => self
                .secrets(group, document, [name.as_str()])
                .await?
                .remove(name),
            (None, None) => None,
        };
        let username = credential.username.clone();
        Ok(username
            .zip(password)
            .map(|(username, password)| RegistryLogin {
                server: server.to_owned(),
                username,
                password,
            }))
    }
}

/// An image's registry: what stands before the first slash, as Docker reads references; without
/// one it is Docker Hub.
fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

fn credential<'a>(
    document: &'a ContainerGroup,
    server: &str,
) -> Option<&'a ImageRegistryCredential> {
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    let credentials = &document.properties.image_registry_credentials;
    credentials.iter().find(|c| {
        c.server.eq_ignore_ascii_case(server)
            || (hub.contains(&server) && hub.iter().any(|h| c.server.eq_ignore_ascii_case(h)))
    })
}
