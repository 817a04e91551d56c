//! A simulated key vault.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::{Faults, lock};
use crate::contract::{Clock, SecretRequest, SecretResolver};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Secret;

/// Secrets by their address, in memory. Clones share everything.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> aci_core::error::Result<()> {
/// use std::sync::Arc;
/// use aci_core::contract::{SecretRequest, SecretResolver as _};
/// use aci_core::fake::{FakeSecrets, ManualClock};
/// use aci_core::model::SecretReference;
///
/// let vault = FakeSecrets::new(Arc::new(ManualClock::new()));
/// vault.put("https://v.example/secrets/key", "hunter2");
/// let reference = SecretReference {
///     secret_reference_uri: "https://v.example/secrets/key".into(),
///     ..SecretReference::default()
/// };
/// let request = SecretRequest { group: "web".into(), reference };
/// assert_eq!(vault.resolve(request).await?.expose(), "hunter2");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FakeSecrets {
    secrets: Arc<Mutex<BTreeMap<String, Entry>>>,
    clock: Arc<dyn Clock>,
    faults: Faults,
}

struct Entry {
    value: Secret,
    /// The only identity that may read it, if not every.
    identity: Option<String>,
}

impl fmt::Debug for FakeSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = lock(&self.secrets).len();
        f.debug_struct("FakeSecrets")
            .field("secrets", &count)
            .finish_non_exhaustive()
    }
}

impl FakeSecrets {
    /// An empty vault without faults.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_faults(clock, Faults::none())
    }

    /// An empty vault under a plan of faults; the operation is `secret.resolve`.
    #[must_use]
    pub fn with_faults(clock: Arc<dyn Clock>, faults: Faults) -> Self {
        Self {
            secrets: Arc::default(),
            clock,
            faults,
        }
    }

    /// Puts a secret there that every identity may read, or another value of it.
    pub fn put(&self, uri: impl Into<String>, value: impl Into<Secret>) {
        let entry = Entry {
            value: value.into(),
            identity: None,
        };
        lock(&self.secrets).insert(uri.into(), entry);
    }

    /// Lets only one identity read a secret.
    pub fn allow_only(&self, uri: &str, identity: &str) {
        if let Some(entry) = lock(&self.secrets).get_mut(uri) {
            entry.identity = Some(identity.to_owned());
        }
    }

    /// Removes a secret; an unknown one is ignored.
    pub fn remove(&self, uri: &str) {
        lock(&self.secrets).remove(uri);
    }

    fn look_up(&self, request: &SecretRequest) -> Result<Secret> {
        let reference = &request.reference;
        let wrong = |kind, message: &str| {
            Error::new(kind, "secret.resolve", message).on(&reference.secret_reference_uri)
        };
        match lock(&self.secrets).get(&reference.secret_reference_uri) {
            None => Err(wrong(
                ErrorKind::NotFound,
                "there is no secret at this address",
            )),
            Some(entry)
                if entry
                    .identity
                    .as_ref()
                    .is_some_and(|only| !only.eq_ignore_ascii_case(&reference.identity)) =>
            {
                Err(wrong(
                    ErrorKind::PermissionDenied,
                    "the identity may not read this secret",
                ))
            }
            Some(entry) => Ok(entry.value.clone()),
        }
    }
}

#[async_trait]
impl SecretResolver for FakeSecrets {
    fn name(&self) -> &str {
        "fake"
    }

    async fn resolve(&self, request: SecretRequest) -> Result<Secret> {
        let body = async { self.look_up(&request) };
        let name = &request.reference.name;
        self.faults
            .run(&*self.clock, "secret.resolve", name, body)
            .await
    }
}
