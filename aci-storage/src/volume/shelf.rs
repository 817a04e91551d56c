//! Volumes as directories `SANDBOX/NAME` that belong to one sandbox each.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aci_core::contract::{ProvidedVolume, VolumeSource};
use aci_core::error::Result;
use aci_core::id::SandboxId;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{check_component, entries};
use crate::fail::{self, blocking};
use crate::tree::{Graveyard, make_private_dir};
use crate::turns::Turns;

/// Directories, each made away from its place, so that a crash leaves none half-made.
#[derive(Debug)]
pub(super) struct Shelf {
    volumes: PathBuf,
    graves: Graveyard,
    turns: Turns<(SandboxId, String)>,
}

impl Shelf {
    /// Directories below `base/name`. What an earlier program began to make or delete is deleted.
    pub(super) fn open(base: &Path, name: &str) -> Result<Self> {
        make_private_dir(base)?;
        let base =
            std::path::absolute(base).map_err(|e| fail::io("volumes.open", "find it", base, e))?;
        let volumes = base.join(name);
        // Private even if the base directory was made by somebody else.
        make_private_dir(&volumes)?;
        let trash = if name == "volumes" {
            "trash".to_owned()
        } else {
            format!("{name}-trash")
        };
        let graves = Graveyard::open(&base.join(trash))?;
        graves.empty()?;
        Ok(Self {
            volumes,
            graves,
            turns: Turns::new(),
        })
    }

    /// The directory of a volume, with mode 0777; one that is not there is filled first.
    pub(super) async fn provide(
        self: Arc<Self>,
        sandbox: SandboxId,
        name: String,
        fill: impl FnOnce(&Path) -> Result<()> + Send + 'static,
    ) -> Result<VolumeSource> {
        let as_it_is = |path: PathBuf| Ok(path);
        self.provide_opened(sandbox, name, fill, as_it_is).await
    }

    /// The same, and what `open` makes of the directory each time.
    pub(super) async fn provide_opened(
        self: Arc<Self>,
        sandbox: SandboxId,
        name: String,
        fill: impl FnOnce(&Path) -> Result<()> + Send + 'static,
        open: impl FnOnce(PathBuf) -> Result<PathBuf> + Send + 'static,
    ) -> Result<VolumeSource> {
        check_component("volumes.provide", "a volume", &name)?;
        let turn = self.turns.take((sandbox.clone(), name.clone())).await;
        blocking("volumes.provide", move || {
            let _turn = turn;
            self.make(&sandbox, &name, fill)
                .and_then(open)
                .map(VolumeSource::Directory)
        })
        .await
    }

    fn make(
        &self,
        sandbox: &SandboxId,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
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
        let placed = fill(&draft).and_then(|()| {
            loop {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(failed)?;
                }
                match rustix::fs::renameat_with(here, &draft, here, &path, RenameFlags::NOREPLACE) {
                    Ok(()) => break Ok(true),
                    // Another program was faster.
                    Err(Errno::EXIST) => break Ok(false),
                    // The release of the sandbox's only other volume took the directory away.
                    Err(Errno::NOENT) if draft.exists() => {}
                    Err(e) => break Err(failed(e.into())),
                }
            }
        });
        if !matches!(placed, Ok(true))
            && let Some(grave) = self.graves.bury(&draft)?
        {
            grave.empty()?;
        }
        if placed? {
            metrics::counter!("aci_storage_volumes_provided_total").increment(1);
        }
        Ok(path)
    }

    /// Deletes a volume.
    pub(super) async fn release(self: &Arc<Self>, sandbox: &SandboxId, name: &str) -> Result<()> {
        self.release_closed(sandbox, name, |_| Ok(())).await
    }

    /// The same, after `close`.
    pub(super) async fn release_closed(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        name: &str,
        close: impl FnOnce(&Path) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        check_component("volumes.release", "a volume", name)?;
        let (shelf, sandbox, name) = (Arc::clone(self), sandbox.clone(), name.to_owned());
        let turn = shelf.turns.take((sandbox.clone(), name.clone())).await;
        blocking("volumes.release", move || {
            let _turn = turn;
            let parent = shelf.volumes.join(sandbox.as_str());
            close(&parent.join(&name))?;
            let grave = shelf.graves.bury(&parent.join(name))?;
            // Fails as long as the sandbox has others, or if it has none at all.
            let _ = fs::remove_dir(&parent);
            if let Some(grave) = grave {
                grave.empty()?;
                metrics::counter!("aci_storage_volumes_released_total").increment(1);
            }
            Ok(())
        })
        .await
    }

    /// All volumes.
    pub(super) async fn list(self: &Arc<Self>) -> Result<Vec<ProvidedVolume>> {
        let shelf = Arc::clone(self);
        blocking("volumes.list", move || entries::volumes(&shelf.volumes)).await
    }
}
