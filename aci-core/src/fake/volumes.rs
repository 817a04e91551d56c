//! Simulated volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine as _;

use super::{Faults, lock};
use crate::contract::{
    Clock, ProvidedVolume, SecretFile, VolumeDriver, VolumeRequest, VolumeSource,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::model::Volume;

type Key = (SandboxId, String);

/// Provides volumes of every kind, in memory. Clones share everything.
///
/// `emptyDir` and `secret` are what they are; a share of Azure Files becomes the simulated host
/// directory `/shares/<account>/<share>`, the same for all groups, and a git repository and secret
/// references become directories with nothing in them; see
/// [`FakeIsolation::put_host_file`](super::FakeIsolation::put_host_file).
#[derive(Clone, Debug)]
pub struct FakeVolumes {
    provided: Arc<Mutex<BTreeMap<Key, VolumeSource>>>,
    clock: Arc<dyn Clock>,
    faults: Faults,
}

impl FakeVolumes {
    /// No volumes yet, without faults.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_faults(clock, Faults::none())
    }

    /// No volumes yet, under a plan of faults.
    #[must_use]
    pub fn with_faults(clock: Arc<dyn Clock>, faults: Faults) -> Self {
        Self {
            provided: Arc::default(),
            clock,
            faults,
        }
    }

    /// How many volumes are provided.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.provided).len()
    }

    /// Whether no volume is provided.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.provided).is_empty()
    }

    fn provide_now(&self, request: &VolumeRequest) -> Result<VolumeSource> {
        let key = (request.sandbox.clone(), request.volume.name.clone());
        let mut provided = lock(&self.provided);
        if let Some(known) = provided.get(&key) {
            return Ok(known.clone());
        }
        let source = source(request)?;
        provided.insert(key, source.clone());
        Ok(source)
    }
}

fn source(request: &VolumeRequest) -> Result<VolumeSource> {
    let volume = &request.volume;
    let invalid = |message: String| {
        Error::new(ErrorKind::Invalid, "volume.provide", message).on(&volume.name)
    };
    if let Some(secret) = &volume.secret {
        let mut files = Vec::new();
        for (name, content) in secret.iter() {
            if name.is_empty() || name == "." || name.starts_with("..") || name.contains('/') {
                return Err(invalid(format!("'{name}' is not a file name")));
            }
            base64::engine::general_purpose::STANDARD
                .decode(content.expose())
                .map_err(|_| invalid(format!("the content of '{name}' is not base64")))?;
            files.push(SecretFile {
                name: name.clone(),
                base64: content.clone(),
            });
        }
        return Ok(VolumeSource::Secret(files));
    }
    if volume.empty_dir.is_some() {
        let size = volume.empty_dir.as_ref().and_then(|e| e.size_limit_in_gb());
        // A size in GB that people write fits a double, and its bytes a u64, by far.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let size = size.map(|gb| (gb * 1e9) as u64);
        return Ok(VolumeSource::Memory { size });
    }
    if let Some(share) = &volume.azure_file {
        let path = PathBuf::from("/shares")
            .join(&share.storage_account_name)
            .join(&share.share_name);
        return Ok(VolumeSource::Directory(path));
    }
    let kind = if volume.git_repo.is_some() {
        "repositories"
    } else if volume.secret_reference.is_some() {
        "references"
    } else {
        return Err(invalid("the volume has no kind".to_owned()));
    };
    let path = PathBuf::from("/")
        .join(kind)
        .join(request.sandbox.as_str())
        .join(&volume.name);
    Ok(VolumeSource::Directory(path))
}

#[async_trait]
impl VolumeDriver for FakeVolumes {
    fn name(&self) -> &str {
        "fake"
    }

    fn supports(&self, _: &Volume) -> bool {
        true
    }

    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        let body = async { self.provide_now(&request) };
        self.faults
            .run(&*self.clock, "volume.provide", &request.volume.name, body)
            .await
    }

    async fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        let body = async {
            lock(&self.provided).remove(&(sandbox.clone(), name.to_owned()));
            Ok(())
        };
        self.faults
            .run(&*self.clock, "volume.release", name, body)
            .await
    }

    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        let body = async {
            let provided = lock(&self.provided);
            Ok(provided
                .keys()
                .map(|(sandbox, name)| ProvidedVolume {
                    sandbox: sandbox.clone(),
                    name: name.clone(),
                })
                .collect())
        };
        self.faults
            .run(&*self.clock, "volume.list", "all", body)
            .await
    }
}
