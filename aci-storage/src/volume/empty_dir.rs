//! `emptyDir` volumes: directories that live as long as the group, or memory.

use std::path::Path;
use std::sync::Arc;

use aci_core::contract::{ProvidedVolume, VolumeDriver, VolumeRequest, VolumeSource};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::Volume;
use async_trait::async_trait;

use super::bounded::{self, Bounded};
use super::check_component;
use super::shelf::Shelf;

/// What [`EmptyDirs`] lets volumes hold.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmptyDirsOptions {
    /// Bytes of a volume on disk whose document does not say (ACI's property `emptyDir` has no size;
    /// its volumes hold 50 GB). Default: no bound.
    pub limit: Option<u64>,
    /// Bytes of all bounded volumes on disk together. Default: no bound.
    pub total: Option<u64>,
}

/// What [`EmptyDirs`] can do on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmptyDirsCapability {
    /// Whether volumes on disk can have a bound. Those in memory always can.
    pub bounded: bool,
    /// Why not, in one sentence, with what would help.
    pub missing: Option<String>,
}

/// Provides `emptyDir` volumes.
///
/// On disk each is a directory `volumes/SANDBOX/NAME` below a base directory that only this user
/// can enter, with mode 0777, because containers of the group may run as any user (as in ACI).
/// The extension `medium: Memory` gives memory instead, with `sizeLimitInGB` as its bound; nothing
/// is kept on the host then, and so nothing listed.
///
/// A volume on disk with a bound, by `sizeLimitInGB` or [`EmptyDirsOptions::limit`], is an ext4 file
/// system in a sparse file of that size: who fills it gets `ENOSPC`, and nobody else notices. The
/// file system's own records take a part of it: 2 MiB of 16. It needs what
/// [`EmptyDirs::capability`] tells; without that a document that asks for a bound on disk is refused.
/// A bound reserves nothing.
///
/// Content survives restarts of containers and of the program, that of bounded volumes not those of
/// the machine; `release` deletes it, whatever names, modes, links and depth containers gave it. Run
/// by an ordinary user it deletes what belongs to that user, and what a container left whose user
/// namespace maps further ids with the help of `unshare` and `newuidmap`; where they are missing, the
/// error names the path.
#[derive(Clone, Debug)]
pub struct EmptyDirs {
    shelf: Arc<Shelf>,
    bounded: Arc<Bounded>,
    limit: Option<u64>,
    missing: Option<String>,
}

impl EmptyDirs {
    /// Volumes below a directory, which is made with mode 0700 if it is not there, without bounds but
    /// for those of documents. What an earlier program began to delete is deleted.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) or [`Internal`](ErrorKind::Internal) if it
    /// cannot be written.
    pub fn open(base: impl AsRef<Path>) -> Result<Self> {
        Self::with_options(base, EmptyDirsOptions::default())
    }

    /// The same with bounds.
    ///
    /// # Errors
    /// As [`EmptyDirs::open`]; [`Unsupported`](ErrorKind::Unsupported) if a bound is asked for that
    /// cannot be kept here; [`Invalid`](ErrorKind::Invalid) for one below 1 MiB.
    pub fn with_options(base: impl AsRef<Path>, options: EmptyDirsOptions) -> Result<Self> {
        let base = base.as_ref();
        let missing = bounded::missing();
        if let Some(limit) = options.limit {
            possible(limit, missing.as_deref())?;
        }
        Ok(Self {
            shelf: Arc::new(Shelf::open(base, "volumes")?),
            bounded: Arc::new(Bounded::open(base, options.total)?),
            limit: options.limit,
            missing,
        })
    }

    /// What can be done on this machine.
    #[must_use]
    pub fn capability(&self) -> EmptyDirsCapability {
        EmptyDirsCapability {
            bounded: self.missing.is_none(),
            missing: self.missing.clone(),
        }
    }
}

/// Whether a volume on disk can have this bound.
fn possible(limit: u64, missing: Option<&str>) -> Result<()> {
    let error = |kind, why: String| Error::new(kind, "volumes.provide", why);
    if let Some(missing) = missing {
        let hint = "leave 'sizeLimitInGB' out, or set 'medium: Memory'";
        return Err(error(ErrorKind::Unsupported, missing.to_owned()).hint(hint));
    }
    if limit < bounded::LEAST {
        let why = format!("an emptyDir volume on disk has 1 MiB at least, not {limit} bytes");
        return Err(error(ErrorKind::Invalid, why));
    }
    Ok(())
}

/// A GB has 2^30 bytes, as for memory.
fn bytes(gb: f64) -> u64 {
    // Saturating by definition of the cast; a limit beyond that is none.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let bytes = (gb * f64::from(1_u32 << 30)).ceil() as u64;
    bytes
}

#[async_trait]
impl VolumeDriver for EmptyDirs {
    fn name(&self) -> &str {
        "emptyDir"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    #[tracing::instrument(name = "volumes.provide", skip_all, fields(sandbox = %request.sandbox, volume = %request.volume.name))]
    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        let VolumeRequest {
            sandbox, volume, ..
        } = request;
        check_component("volumes.provide", "a volume", &volume.name)?;
        let empty = volume.empty_dir.unwrap_or_default();
        let size = empty.size_limit_in_gb().map(bytes);
        if empty.in_memory() {
            return Ok(VolumeSource::Memory { size });
        }
        let asked = size.or(self.limit);
        if let Some(limit) = asked {
            possible(limit, self.missing.as_deref()).map_err(|e| e.on(&volume.name))?;
            return self.bounded.provide(sandbox, volume.name, limit).await;
        }
        let shelf = Arc::clone(&self.shelf);
        shelf.provide(sandbox, volume.name, |_| Ok(())).await
    }

    #[tracing::instrument(name = "volumes.release", skip(self), fields(sandbox = %sandbox))]
    async fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        self.bounded.release(sandbox, name).await?;
        self.shelf.release(sandbox, name).await
    }

    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        let mut all = self.shelf.list().await?;
        all.extend(self.bounded.list().await?);
        all.sort_by(|a, b| (&a.sandbox, &a.name).cmp(&(&b.sandbox, &b.name)));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use aci_core::model::EmptyDir;

    fn volume(name: &str, body: serde_json::Value) -> Volume {
        Volume {
            name: name.to_owned(),
            empty_dir: Some(EmptyDir(body.as_object().unwrap().clone())),
            ..Volume::default()
        }
    }

    async fn provide(driver: &EmptyDirs, sandbox: &str, volume: Volume) -> Result<VolumeSource> {
        let sandbox = sandbox.parse().unwrap();
        driver.provide(VolumeRequest::new(sandbox, volume)).await
    }

    #[tokio::test]
    async fn content_stays_until_release_and_modes_do_not_hinder_it() {
        let base = tempfile::tempdir().unwrap();
        let driver = EmptyDirs::open(base.path().join("v")).unwrap();
        let made = provide(&driver, "s1", volume("work", serde_json::json!({}))).await;
        let VolumeSource::Directory(path) = made.unwrap() else {
            panic!("not a directory")
        };
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/file"), "x").unwrap();
        fs::set_permissions(path.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();

        drop(driver);
        let driver = EmptyDirs::open(base.path().join("v")).unwrap();
        provide(&driver, "s1", volume("work", serde_json::json!({})))
            .await
            .unwrap();
        assert!(path.join("a").exists());
        let s1: SandboxId = "s1".parse().unwrap();
        let listed = driver.list().await.unwrap();
        assert_eq!(
            listed,
            [ProvidedVolume {
                sandbox: s1.clone(),
                name: "work".into()
            }]
        );
        for _ in 0..2 {
            driver.release(&s1, "work").await.unwrap();
            assert!(driver.list().await.unwrap().is_empty());
        }
        assert_eq!(
            fs::read_dir(base.path().join("v/volumes")).unwrap().count(),
            0
        );
        assert_eq!(
            fs::read_dir(base.path().join("v/trash")).unwrap().count(),
            0
        );
    }

    #[tokio::test]
    async fn memory_keeps_nothing_on_the_host() {
        let base = tempfile::tempdir().unwrap();
        let driver = EmptyDirs::open(base.path()).unwrap();
        let body = serde_json::json!({"medium": "Memory", "sizeLimitInGB": 0.5});
        let made = provide(&driver, "s1", volume("fast", body)).await.unwrap();
        assert!(matches!(
            made,
            VolumeSource::Memory {
                size: Some(536_870_912)
            }
        ));
        assert!(driver.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn names_cannot_lead_out() {
        let base = tempfile::tempdir().unwrap();
        let driver = EmptyDirs::open(base.path()).unwrap();
        let s1: SandboxId = "s1".parse().unwrap();
        for name in ["", ".", "..", "a/b", "../../etc", "a\0b", &"x".repeat(256)] {
            let made = provide(&driver, "s1", volume(name, serde_json::json!({}))).await;
            assert_eq!(made.unwrap_err().kind(), ErrorKind::Invalid, "{name}");
            assert_eq!(
                driver.release(&s1, name).await.unwrap_err().kind(),
                ErrorKind::Invalid
            );
        }
        assert!(driver.list().await.unwrap().is_empty());
    }
}
