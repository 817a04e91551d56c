//! A simulated image store and its registry.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::{Faults, lock};
use crate::contract::{
    Clock, Image, ImageConfig, ImageStore, Layer, PullEvent, PullPhase, PullPolicy, PullProgress,
    PullRequest, RegistryLogin, RootFs, RootFsKey,
};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Secret;

/// Why the pull of a reference fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFailure {
    /// The registry refuses: ACI's `InaccessibleImage`.
    Denied,
    /// The registry does not answer or answers wrongly: ACI's `RegistryErrorResponse`.
    RegistryError,
    /// The image is for another operating system: ACI's `OsVersionNotSupported`.
    OtherPlatform,
    /// The bytes do not have the digest that they should have.
    WrongBytes,
}

/// An image as the registry has it.
#[derive(Clone, Debug)]
struct Remote {
    digest: String,
    config: ImageConfig,
    size: u64,
    login: Option<(String, Secret)>,
}

#[derive(Debug, Default)]
struct Inner {
    registry: BTreeMap<String, Remote>,
    failures: BTreeMap<String, PullFailure>,
    /// What was pulled, by normalised reference.
    stored: BTreeMap<String, Image>,
    prepared: BTreeSet<RootFsKey>,
    asked: u64,
}

/// A registry and a store in memory. Clones share everything.
///
/// The registry has the images that were added, under any reference; a reference without tag means
/// `:latest`. Their root file systems are empty; what they run are the programs of
/// [`FakeIsolation`](super::FakeIsolation). A pull takes the time that
/// [`with_pull_time`](Self::with_pull_time) says, by default none.
#[derive(Clone, Debug)]
pub struct FakeImages {
    inner: Arc<Mutex<Inner>>,
    clock: Arc<dyn Clock>,
    faults: Faults,
    pull_time: Duration,
}

impl FakeImages {
    /// An empty registry and store, without faults.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_faults(clock, Faults::none())
    }

    /// An empty registry and store under a plan of faults.
    #[must_use]
    pub fn with_faults(clock: Arc<dyn Clock>, faults: Faults) -> Self {
        Self {
            inner: Arc::default(),
            clock,
            faults,
            pull_time: Duration::ZERO,
        }
    }

    /// Lets every download take so long on the clock.
    #[must_use]
    pub fn with_pull_time(mut self, time: Duration) -> Self {
        self.pull_time = time;
        self
    }

    /// Adds an image that runs a command, such as `["serve", "80"]`, by default.
    #[must_use]
    pub fn with_image(self, reference: &str, command: &[&str]) -> Self {
        self.add_image(
            reference,
            ImageConfig {
                cmd: command.iter().map(|&word| word.to_owned()).collect(),
                ..ImageConfig::default()
            },
        );
        self
    }

    /// Adds an image to the registry, or moves its tag to another.
    pub fn add_image(&self, reference: &str, config: ImageConfig) {
        let digest = digest(reference, &config);
        let remote = Remote {
            digest,
            config,
            size: 1 << 20,
            login: None,
        };
        lock(&self.inner).registry.insert(normal(reference), remote);
    }

    /// From now on an image of the registry is only given to whoever logs in so. Unknown
    /// references are ignored.
    pub fn require_login(&self, reference: &str, username: &str, password: impl Into<Secret>) {
        if let Some(remote) = lock(&self.inner).registry.get_mut(&normal(reference)) {
            remote.login = Some((username.to_owned(), password.into()));
        }
    }

    /// From now on pulls of a reference fail, or with `None` no longer.
    pub fn fail_pulls(&self, reference: &str, failure: Option<PullFailure>) {
        let mut inner = lock(&self.inner);
        match failure {
            Some(failure) => inner.failures.insert(normal(reference), failure),
            None => inner.failures.remove(&normal(reference)),
        };
    }

    /// How often the registry was asked.
    #[must_use]
    pub fn registry_requests(&self) -> u64 {
        lock(&self.inner).asked
    }

    /// Whether no root file system is left. Images may stay: they are a cache.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.inner).prepared.is_empty()
    }

    async fn pull_now(
        &self,
        request: &PullRequest,
        progress: Option<&PullProgress>,
    ) -> Result<Image> {
        let key = normal(&request.reference);
        let event = |layer: Option<&str>, phase, done, total| {
            if let Some(progress) = progress {
                progress(PullEvent {
                    layer: layer.map(str::to_owned),
                    phase,
                    done,
                    total,
                });
            }
        };
        event(None, PullPhase::Resolving, 0, None);
        let stored = lock(&self.inner).stored.get(&key).cloned();
        let known = match (request.policy, stored) {
            (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image)) => Some(image),
            (PullPolicy::Never, None) => {
                return Err(error(
                    ErrorKind::NotFound,
                    request,
                    "it is not in the store and may not be pulled",
                )
                .code("InaccessibleImage"));
            }
            _ => None,
        };
        if let Some(image) = known {
            event(None, PullPhase::Done, image.size, Some(image.size));
            return Ok(Image {
                reference: request.reference.clone(),
                ..image
            });
        }
        let remote = self.resolve(&key, request)?;
        let layer = layer_of(&remote.digest);
        let total = Some(remote.size);
        event(Some(&layer), PullPhase::Downloading, 0, total);
        if !self.pull_time.is_zero() {
            let half = self.pull_time / 2;
            self.clock.sleep_until(self.clock.now() + half).await;
            event(Some(&layer), PullPhase::Downloading, remote.size / 2, total);
            let rest = self.pull_time - half;
            self.clock.sleep_until(self.clock.now() + rest).await;
        }
        event(Some(&layer), PullPhase::Downloading, remote.size, total);
        event(Some(&layer), PullPhase::Unpacking, remote.size, total);
        event(Some(&layer), PullPhase::Done, remote.size, total);
        let image = Image {
            reference: request.reference.clone(),
            digest: remote.digest,
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            size: remote.size,
            config: remote.config,
        };
        lock(&self.inner).stored.insert(key, image.clone());
        event(None, PullPhase::Done, image.size, total);
        Ok(image)
    }

    /// Asks the registry.
    fn resolve(&self, key: &str, request: &PullRequest) -> Result<Remote> {
        let mut inner = lock(&self.inner);
        inner.asked += 1;
        let denied = |message| {
            error(ErrorKind::PermissionDenied, request, message).code("InaccessibleImage")
        };
        match inner.failures.get(key) {
            None => {}
            Some(PullFailure::Denied) => return Err(denied("the registry refuses access")),
            Some(PullFailure::RegistryError) => {
                let message = "an error response is received from the registry; try again later";
                return Err(
                    error(ErrorKind::Unavailable, request, message).code("RegistryErrorResponse")
                );
            }
            Some(PullFailure::OtherPlatform) => {
                let message = "the image is not for this operating system";
                return Err(
                    error(ErrorKind::Unsupported, request, message).code("OsVersionNotSupported")
                );
            }
            Some(PullFailure::WrongBytes) => {
                let message = "the bytes do not have the digest that the manifest states";
                return Err(error(ErrorKind::Corrupt, request, message));
            }
        }
        let Some(remote) = inner.registry.get(key) else {
            let message = "the registry has no such image";
            return Err(error(ErrorKind::NotFound, request, message).code("InaccessibleImage"));
        };
        match (&remote.login, &request.login) {
            (None, _) => Ok(remote.clone()),
            (
                Some((name, secret)),
                Some(RegistryLogin {
                    username, password, ..
                }),
            ) if name == username && secret == password => Ok(remote.clone()),
            (Some(_), Some(_)) => Err(denied("the registry does not accept the credentials")),
            (Some(_), None) => Err(denied("the registry asks for credentials")),
        }
    }
}

fn error(kind: ErrorKind, request: &PullRequest, message: &str) -> Error {
    Error::new(kind, "image.pull", message).on(&request.reference)
}

/// A reference with its tag.
fn normal(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    if name.contains([':', '@']) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

fn digest(reference: &str, config: &ImageConfig) -> String {
    hash(&format!("{reference}\n{config:?}"))
}

fn layer_of(digest: &str) -> String {
    hash(&format!("layer of {digest}"))
}

fn hash(text: &str) -> String {
    let mut digest = "sha256:".to_owned();
    for byte in Sha256::digest(text.as_bytes()) {
        // Writing into a string cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

#[async_trait]
impl ImageStore for FakeImages {
    async fn pull(&self, request: PullRequest, progress: Option<PullProgress>) -> Result<Image> {
        let body = self.pull_now(&request, progress.as_ref());
        self.faults
            .run(&*self.clock, "image.pull", &request.reference, body)
            .await
    }

    async fn get(&self, reference: &str) -> Result<Image> {
        let body = async {
            let inner = lock(&self.inner);
            let by_digest = || inner.stored.values().find(|i| i.digest == reference);
            inner
                .stored
                .get(&normal(reference))
                .or_else(by_digest)
                .cloned()
                .ok_or_else(|| {
                    let message = "the image is not in the store";
                    Error::new(ErrorKind::NotFound, "image.get", message).on(reference)
                })
        };
        self.faults
            .run(&*self.clock, "image.get", reference, body)
            .await
    }

    async fn list(&self) -> Result<Vec<Image>> {
        let body = async { Ok(lock(&self.inner).stored.values().cloned().collect()) };
        self.faults
            .run(&*self.clock, "image.list", "all", body)
            .await
    }

    async fn remove(&self, reference: &str) -> Result<()> {
        let body = async {
            lock(&self.inner).stored.remove(&normal(reference));
            Ok(())
        };
        self.faults
            .run(&*self.clock, "image.remove", reference, body)
            .await
    }

    async fn prepare(&self, digest: &str, key: &RootFsKey) -> Result<RootFs> {
        let body = async {
            let mut inner = lock(&self.inner);
            if !inner.stored.values().any(|image| image.digest == digest) {
                let message = "the image is not in the store";
                return Err(Error::new(ErrorKind::NotFound, "image.prepare", message).on(digest));
            }
            inner.prepared.insert(key.clone());
            let own = PathBuf::from("/fake/roots")
                .join(key.sandbox.as_str())
                .join(&key.container);
            Ok(RootFs {
                layers: vec![Layer::Directory(
                    PathBuf::from("/fake/layers").join(layer_of(digest)),
                )],
                upper: Some((own.join("upper"), own.join("work"))),
            })
        };
        self.faults
            .run(&*self.clock, "image.prepare", digest, body)
            .await
    }

    async fn release(&self, key: &RootFsKey) -> Result<()> {
        let body = async {
            lock(&self.inner).prepared.remove(key);
            Ok(())
        };
        self.faults
            .run(&*self.clock, "image.release", &key.container, body)
            .await
    }

    async fn prepared(&self) -> Result<Vec<RootFsKey>> {
        let body = async { Ok(lock(&self.inner).prepared.iter().cloned().collect()) };
        self.faults
            .run(&*self.clock, "image.prepared", "all", body)
            .await
    }
}
