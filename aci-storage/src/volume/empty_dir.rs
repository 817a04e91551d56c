//! `emptyDir` volumes: directories that live as long as the group, or memory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aci_core::contract::{ProvidedVolume, VolumeDriver, VolumeRequest, VolumeSource};
use aci_core::error::Result;
use aci_core::id::SandboxId;
use aci_core::model::Volume;
use async_trait::async_trait;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{check_component, entries};
use crate::fail::{self, blocking};
use crate::tree::{Graveyard, make_private_dir};
use crate::turns::Turns;

/// Provides `emptyDir` volumes.
///
/// On disk each is a directory `volumes/SANDBOX/NAME` below a base directory that only this user
/// can enter, with mode 0777, because containers of the group may run as any user (as in ACI).
/// The extension `medium: Memory` gives memory instead, with `sizeLimitInGB` as its bound; nothing
/// is kept on the host then, and so nothing listed. A bound on disk is not enforced.
///
/// Content survives restarts of containers and of the program; `release` deletes it, whatever
/// names, modes, links and depth containers gave it. Run by an ordinary user it deletes what
/// belongs to that user, and what a container left whose user namespace maps further ids with the
/// help of `unshare` and `newuidmap`; where they are missing, the error names the path.
#[derive(Clone, Debug)]
pub struct EmptyDirs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    volumes: PathBuf,
    graves: Graveyard,
    turns: Turns<(SandboxId, String)>,
}

impl EmptyDirs {
    /// Volumes below a directory, which is made with mode 0700 if it is not there. What an earlier
    /// program began to delete is deleted.
    ///
    /// # Errors
    /// [`PermissionDenied`](aci_core::error::ErrorKind::PermissionDenied) or
    /// [`Internal`](aci_core::error::ErrorKind::Internal) if it cannot be written.
    pub fn open(base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        make_private_dir(base)?;
        let base =
            std::path::absolute(base).map_err(|e| fail::io("volumes.open", "find it", base, e))?;
        let volumes = base.join("volumes");
        // Private even if the base directory was made by somebody else.
        make_private_dir(&volumes)?;
        let graves = Graveyard::open(&base.join("trash"))?;
        graves.empty()?;
        Ok(Self {
            inner: Arc::new(Inner {
                volumes,
                graves,
                turns: Turns::new(),
            }),
        })
    }
}

impl Inner {
    fn provide(&self, sandbox: &SandboxId, name: &str) -> Result<PathBuf> {
        let path = self.volumes.join(sandbox.as_str()).join(name);
        let failed = |e| fail::io("volumes.provide", "make it", &path, e);
        if path.exists() {
            return Ok(path);
        }
        // Its mode is set before it gets its place (mkdir's own would be narrowed by the umask), so
        // that a crash leaves no volume of another mode.
        let draft = self.graves.place();
        fs::create_dir(&draft).map_err(failed)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o777)).map_err(failed)?;
        let here = rustix::fs::CWD;
        loop {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            match rustix::fs::renameat_with(here, &draft, here, &path, RenameFlags::NOREPLACE) {
                Ok(()) => break,
                // Another program was faster.
                Err(Errno::EXIST) => {
                    fs::remove_dir(&draft).map_err(failed)?;
                    return Ok(path);
                }
                // The release of the sandbox's only other volume took the directory away.
                Err(Errno::NOENT) if draft.exists() => {}
                Err(e) => return Err(failed(e.into())),
            }
        }
        metrics::counter!("aci_storage_volumes_provided_total").increment(1);
        Ok(path)
    }

    fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        let parent = self.volumes.join(sandbox.as_str());
        let grave = self.graves.bury(&parent.join(name))?;
        // Fails as long as the sandbox has others, or if it has none at all.
        let _ = fs::remove_dir(&parent);
        if let Some(grave) = grave {
            grave.empty()?;
            metrics::counter!("aci_storage_volumes_released_total").increment(1);
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<ProvidedVolume>> {
        entries::volumes(&self.volumes)
    }
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
        let VolumeRequest { sandbox, volume } = request;
        check_component("volumes.provide", "a volume", &volume.name)?;
        if let Some(empty) = volume.empty_dir.filter(|e| e.in_memory()) {
            let size = empty.size_limit_in_gb().map(bytes);
            return Ok(VolumeSource::Memory { size });
        }
        let inner = Arc::clone(&self.inner);
        let turn = inner
            .turns
            .take((sandbox.clone(), volume.name.clone()))
            .await;
        blocking("volumes.provide", move || {
            let _turn = turn;
            inner
                .provide(&sandbox, &volume.name)
                .map(VolumeSource::Directory)
        })
        .await
    }

    #[tracing::instrument(name = "volumes.release", skip(self), fields(sandbox = %sandbox))]
    async fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        check_component("volumes.release", "a volume", name)?;
        let (inner, sandbox, name) = (Arc::clone(&self.inner), sandbox.clone(), name.to_owned());
        let turn = inner.turns.take((sandbox.clone(), name.clone())).await;
        blocking("volumes.release", move || {
            let _turn = turn;
            inner.release(&sandbox, &name)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        let inner = Arc::clone(&self.inner);
        blocking("volumes.list", move || inner.list()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aci_core::error::ErrorKind;
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
        driver.provide(VolumeRequest { sandbox, volume }).await
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
