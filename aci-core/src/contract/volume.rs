//! Volumes: what outlives a container, or comes from elsewhere.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::id::SandboxId;
use crate::model::{Secret, Volume};

/// A file of a secret volume. Its content never shows in `Debug` and is wiped when dropped.
#[derive(Clone, Debug)]
pub struct SecretFile {
    /// File name, one path component.
    pub name: String,
    /// The content as the document has it, base64.
    pub base64: Secret,
}

/// Where a volume's content comes from; the isolation mounts it inside its own wall.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum VolumeSource {
    /// A directory of the host.
    Directory(PathBuf),
    /// Memory of the group, empty at first.
    Memory {
        /// Upper bound in bytes; without it the group's memory limit bounds it.
        size: Option<u64>,
    },
    /// Small read-only files in memory (tmpfs; nosuid, nodev, noexec; mode 0400), as for `secret`.
    Secret(Vec<SecretFile>),
    /// Small public files in memory, as for a `configMap`; mode 0444.
    Files(Vec<(String, Bytes)>),
}

/// What a driver does for a volume that takes long to provide.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeEvent {
    /// Something for the group's events; a few for each volume, without secrets.
    Told {
        /// What, in a word: `Cloning`, `Cloned`.
        name: String,
        /// What, in a sentence.
        message: String,
    },
    /// How far it is.
    Progress {
        /// Bytes done.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
}

/// Hears of what is done for a volume; may be called often, so it must return at once.
pub type VolumeProgress = Arc<dyn Fn(VolumeEvent) + Send + Sync>;

/// A volume to provide for a sandbox.
#[non_exhaustive]
#[derive(Clone)]
pub struct VolumeRequest {
    /// For whom.
    pub sandbox: SandboxId,
    /// The document's volume.
    pub volume: Volume,
    /// Who wants to hear how it goes; drivers that are quick need not say anything.
    pub progress: Option<VolumeProgress>,
}

impl VolumeRequest {
    /// A volume for a sandbox, with nobody who listens.
    #[must_use]
    pub const fn new(sandbox: SandboxId, volume: Volume) -> Self {
        Self {
            sandbox,
            volume,
            progress: None,
        }
    }

    /// Tells this how it goes.
    #[must_use]
    pub fn progress(mut self, progress: VolumeProgress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Says something to who listens, if anybody does.
    pub fn tell(&self, event: VolumeEvent) {
        if let Some(progress) = &self.progress {
            progress(event);
        }
    }
}

impl fmt::Debug for VolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeRequest")
            .field("sandbox", &self.sandbox)
            .field("volume", &self.volume)
            .finish_non_exhaustive()
    }
}

/// A volume that a driver keeps for a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvidedVolume {
    /// For whom.
    pub sandbox: SandboxId,
    /// The volume's name.
    pub name: String,
}

/// Provides volumes of some kinds. An engine asks its drivers in order and takes the first that
/// supports the volume.
#[async_trait]
pub trait VolumeDriver: Send + Sync + fmt::Debug {
    /// The driver's name, for messages.
    fn name(&self) -> &str;

    /// Whether it provides volumes of this kind.
    fn supports(&self, volume: &Volume) -> bool;

    /// Provides a volume. Repeating it for a provided volume answers the same, with its content.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::ErrorKind::Invalid) for values that cannot be used, without
    /// showing secrets; [`Unavailable`](crate::error::ErrorKind::Unavailable) if a server does not
    /// answer. Nothing is left behind.
    ///
    /// # Cancel safety
    /// It may be provided; `list` shows it and `release` removes it.
    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource>;

    /// Gives a volume up and deletes what belonged to the sandbox alone. Idempotent.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) naming what could not be removed.
    ///
    /// # Cancel safety
    /// A part may be removed; call it again.
    async fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()>;

    /// Every volume that is provided and keeps something on the host.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if the state cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn list(&self) -> Result<Vec<ProvidedVolume>>;
}
