//! `gitRepo` volumes: a copy of a repository as it is when the group starts.

mod checkout;
mod fetch;
mod plan;
mod web;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::contract::{
    ProvidedVolume, VolumeDriver, VolumeEvent, VolumeProgress, VolumeRequest, VolumeSource,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::Volume;
use async_trait::async_trait;
use tokio::runtime::Handle;

use self::plan::Plan;
use self::web::{Session, Stop, failed};
use super::shelf::Shelf;
use crate::registry::{Connector, Proxies, Registries, TlsRoots};

/// How large a copy may become and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitLimits {
    /// Bytes from the server. Default 1 GiB.
    pub download: u64,
    /// Bytes of one file, and of every other object; also what memory is bounded by, to a few times
    /// of it. Default 128 MiB.
    pub file: u64,
    /// Bytes of all files. Default 4 GiB.
    pub bytes: u64,
    /// Files and directories. Default 250,000.
    pub files: u64,
    /// From the first connection to the last file. Default 5 min.
    pub time: Duration,
}

impl Default for GitLimits {
    fn default() -> Self {
        Self {
            download: 1 << 30,
            file: 128 << 20,
            bytes: 4 << 30,
            files: 250_000,
            time: Duration::from_secs(300),
        }
    }
}

/// From where [`GitRepos`] copies, and how much.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct GitReposOptions {
    /// Bounds.
    pub limits: GitLimits,
    /// Which certificates are trusted. Default: those of the system.
    pub roots: TlsRoots,
    /// Proxies on the way. Default: none.
    pub proxies: Proxies,
    /// Hosts that may be asked, without port; `None`, the default: all that this host reaches. Set
    /// it where documents come from strangers: this program asks, not the group.
    pub hosts: Option<Vec<String>>,
}

/// Provides `gitRepo` volumes, by the crates of `gix`.
///
/// The repository is fetched by HTTP or HTTPS when the sandbox is made; nothing else is spoken, and no
/// path of this host is read. User and password may stand in the address; they are sent to that
/// server only and written nowhere. `revision` may be a branch, a tag or a commit, also a shortened
/// one. Of the history only the newest commit comes from servers that speak version 2 of git's
/// protocol (git 2.18 and later); from others, and for a shortened commit, all of it. As in ACI,
/// `directory` names the directory that the copy goes into: `.` makes the volume itself the copy, and
/// without one it is named after the repository. It is one name, without `/` (CVE-2024-10220,
/// CVE-2025-1767).
///
/// The copy is the container's own: it may change it, and a `.git` with the commit is beside the
/// files. Symbolic links are made as they are; they lead where they lead inside of the container. No
/// hook or filter runs, attributes (line ends, encodings) are not applied, files of Git LFS are
/// pointers, and submodules are empty directories.
///
/// Of each copy the group's events say that it begins (`Cloning`) and what it came to (`Cloned`);
/// between them, who watches is told how many bytes have come.
///
/// Content survives restarts of containers and of the program; a new sandbox gets a new copy.
#[derive(Clone, Debug)]
pub struct GitRepos {
    shelf: Arc<Shelf>,
    connector: Arc<Connector>,
    options: GitReposOptions,
}

impl GitRepos {
    /// Copies below a directory, which is made with mode 0700 if it is not there. What an earlier
    /// program began and did not end is deleted.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) or [`Internal`](ErrorKind::Internal) if it
    /// cannot be written.
    pub fn open(base: impl AsRef<Path>, options: GitReposOptions) -> Result<Self> {
        let settings = Registries {
            roots: options.roots.clone(),
            proxies: options.proxies.clone(),
            ..Registries::default()
        };
        Ok(Self {
            shelf: Arc::new(Shelf::open(base.as_ref(), "repositories")?),
            connector: Arc::new(Connector::new(settings)),
            options,
        })
    }

    fn session(&self, plan: &Plan, stop: &Stop) -> Session {
        Session {
            handle: Handle::current(),
            connector: Arc::clone(&self.connector),
            idle: Default::default(),
            silence: Duration::from_secs(30),
            origin: plan.origin.clone(),
            login: plan.login.clone(),
            hosts: self.options.hosts.clone(),
            stop: stop.clone(),
            most: self.options.limits.download,
            left: Mutex::new(self.options.limits.download),
            failure: Mutex::default(),
            progress: None,
        }
    }
}

/// An event of the group.
fn tell(progress: Option<&VolumeProgress>, name: &str, message: String) {
    if let Some(progress) = progress {
        let name = name.to_owned();
        progress(VolumeEvent::Told { name, message });
    }
}

/// Copies a repository into a directory that is empty. Blocks.
fn copy(
    name: &str,
    session: Session,
    plan: &Plan,
    limits: &GitLimits,
    volume: &Path,
) -> Result<()> {
    let session = Arc::new(session);
    let progress = session.progress.as_ref();
    let url = &plan.url;
    let message = format!("cloning repository \"{url}\" for volume \"{name}\"");
    tell(progress, "Cloning", message);
    let into = match &plan.directory {
        Some(name) => volume.join(name),
        None => volume.to_owned(),
    };
    let git = into.join(".git");
    checkout::skeleton(&git)?;
    let fetched = fetch::fetch(&session, plan, &git, limits)?;
    tracing::info!(commit = %fetched.commit, "fetched");
    let written = checkout::files(&fetched, &into, limits, &session.stop)?;
    checkout::finish(&git, plan, &fetched)?;
    if plan.directory.is_some() {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&into, std::fs::Permissions::from_mode(0o755))
            .map_err(|e| crate::fail::io("volumes.provide", "open it to readers", &into, e))?;
    }
    tracing::info!(files = written.files, bytes = written.bytes, "checked out");
    let (commit, files, bytes) = (fetched.commit, written.files, written.bytes);
    let message = format!(
        "Successfully cloned repository \"{url}\" for volume \"{name}\" at commit {commit}: {files} files \
         and directories, {bytes} bytes"
    );
    tell(progress, "Cloned", message);
    Ok(())
}

/// Ends the work of a future that was dropped.
struct Guard(Stop);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set();
    }
}

#[async_trait]
impl VolumeDriver for GitRepos {
    fn name(&self) -> &str {
        "gitRepo"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.git_repo.is_some()
    }

    #[tracing::instrument(name = "volumes.provide", skip_all, fields(sandbox = %request.sandbox, volume = %request.volume.name))]
    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        let VolumeRequest {
            sandbox,
            volume,
            progress,
            ..
        } = request;
        let Some(repository) = &volume.git_repo else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "volumes.provide",
                format!("'{}' is not a gitRepo volume", volume.name),
            ));
        };
        let plan = Plan::of(&volume.name, repository)?;
        let limits = self.options.limits.clone();
        let stop = Stop::new();
        let guard = Guard(stop.clone());
        let mut session = self.session(&plan, &stop);
        session.progress = progress;
        let time = limits.time;
        let (name, copied) = (volume.name.clone(), volume.name.clone());
        let shelf = Arc::clone(&self.shelf);
        let work = shelf.provide(sandbox, volume.name, move |draft| {
            copy(&copied, session, &plan, &limits, draft)
        });
        let mut work = std::pin::pin!(work);
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            () = tokio::time::sleep(time) => {
                stop.set();
                work.await.map_err(|_| {
                    failed(
                        ErrorKind::Timeout,
                        format!("the repository was not copied within {} s", time.as_secs()),
                    )
                    .hint("GitLimits::time bounds it")
                })
            }
        };
        drop(guard);
        outcome.map_err(|error| error.on(name))
    }

    #[tracing::instrument(name = "volumes.release", skip(self), fields(sandbox = %sandbox))]
    async fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        self.shelf.release(sandbox, name).await
    }

    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        self.shelf.list().await
    }
}
