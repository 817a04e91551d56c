//! Images: pulled, kept, and made into root file systems.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::SandboxId;
use crate::model::Secret;

/// Credentials for one registry.
#[derive(Clone, Debug)]
pub struct RegistryLogin {
    /// The registry's host, as in the image reference.
    pub server: String,
    /// The user's name.
    pub username: String,
    /// The password or token.
    pub password: Secret,
}

/// When to ask the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Only if the image is not in the store.
    #[default]
    IfNotPresent,
    /// Always ask whether the tag has moved.
    Always,
    /// Never.
    Never,
}

/// An image to have in the store.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// As the document writes it: `nginx`, `registry/name:tag`, `name@sha256:...`.
    pub reference: String,
    /// Credentials, if the document has any for this registry.
    pub login: Option<RegistryLogin>,
    /// When to ask the registry.
    pub policy: PullPolicy,
}

/// What a pull does at the moment. A layer may be unpacked while it is still being fetched, so its
/// steps of these two phases come in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPhase {
    /// Asking the registry or the store.
    Resolving,
    /// Fetching bytes.
    Downloading,
    /// Checking and unpacking.
    Unpacking,
    /// This layer, or without a layer the whole image, is there.
    Done,
}

/// One step of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullEvent {
    /// The layer's digest; `None` for the image as a whole.
    pub layer: Option<String>,
    /// What is done with it.
    pub phase: PullPhase,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// Hears of the steps of a pull; called often, so it must return at once.
pub type PullProgress = Arc<dyn Fn(PullEvent) + Send + Sync>;

/// What an image says about its process (OCI image configuration, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and first arguments.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Signal for a polite stop, as text.
    pub stop_signal: Option<String>,
    /// `80/tcp` and the like; information only.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The reference that it was asked for by.
    pub reference: String,
    /// The manifest's digest, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// `linux`, `windows`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// Bytes of its layers in the store.
    pub size: u64,
    /// What it says about its process.
    pub config: ImageConfig,
}

/// Whose root file system: one container of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RootFsKey {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The container's name.
    pub container: String,
}

/// A read-only part of a root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// A directory tree, in overlayfs form (whiteouts as 0/0 character devices or
    /// `user.overlay.whiteout`, opaque directories by `opaque` attributes).
    Directory(PathBuf),
    /// A file that holds an EROFS image.
    Erofs(PathBuf),
}

/// How to build a root file system: a recipe, not a mount. The isolation mounts it inside its own
/// wall, so nothing of it is seen on the host and nothing is left when the wall is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// The layers, topmost first. None if the first directory of `upper` is the root as it stands
    /// and is written in place, as in an OCI bundle.
    pub layers: Vec<Layer>,
    /// An empty directory for what the container writes, and one for overlayfs itself (not used
    /// without layers), on one file system. Without it the root is read-only.
    pub upper: Option<(PathBuf, PathBuf)>,
}

/// Keeps images and makes root file systems of them.
///
/// What `pull` returned stays until `remove`. Concurrent pulls of one image share the work.
#[async_trait]
pub trait ImageStore: Send + Sync + fmt::Debug {
    /// Has an image in the store, verified and unpacked.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) or
    /// [`PermissionDenied`](crate::error::ErrorKind::PermissionDenied) with ACI's code
    /// `InaccessibleImage`; [`Unavailable`](crate::error::ErrorKind::Unavailable) with
    /// `RegistryErrorResponse`, or with `InaccessibleImage` if the registry's name cannot be
    /// resolved; [`Unsupported`](crate::error::ErrorKind::Unsupported) with
    /// `OsVersionNotSupported` for another platform; [`Corrupt`](crate::error::ErrorKind::Corrupt)
    /// for wrong bytes. The store is as before.
    ///
    /// # Cancel safety
    /// The image is there as a whole or not at all; fetched parts may be kept for the next try.
    async fn pull(&self, request: PullRequest, progress: Option<PullProgress>) -> Result<Image>;

    /// An image that is in the store, by reference or digest.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound).
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn get(&self, reference: &str) -> Result<Image>;

    /// All images in the store (ACI's `cachedImages`).
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if the store cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn list(&self) -> Result<Vec<Image>>;

    /// Forgets a reference; content that nothing uses is deleted. Idempotent.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if the store cannot be written.
    ///
    /// # Cancel safety
    /// The reference may be gone and its content still there until the next removal.
    async fn remove(&self, reference: &str) -> Result<()>;

    /// A fresh root file system of an image (by digest) for a container. What an earlier one of
    /// the same key held is deleted.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if the image is not in the store.
    ///
    /// # Cancel safety
    /// It may have been made; `prepared` shows it and `release` removes it.
    async fn prepare(&self, digest: &str, key: &RootFsKey) -> Result<RootFs>;

    /// Deletes what a container wrote. Idempotent.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) naming the path.
    ///
    /// # Cancel safety
    /// A part may be deleted; call it again.
    async fn release(&self, key: &RootFsKey) -> Result<()>;

    /// Every key that `prepare` was called for and `release` was not.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if the store cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn prepared(&self) -> Result<Vec<RootFsKey>>;
}
