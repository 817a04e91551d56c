//! `azureFile` volumes: shares of file servers, mounted by SMB.

mod kernel;
mod options;
mod server;
#[path = "../../../share/wire.rs"]
mod wire;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{ProvidedVolume, VolumeDriver, VolumeRequest, VolumeSource};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::{AzureFileVolume, Secret, Volume};
use async_trait::async_trait;

pub use options::{AzureFilesOptions, CachePolicy, FileServer, ShareDriver};

use self::wire::{Answer, Cause, Config, Failure, Password, Request, Started};
use super::{check_component, entries};
use crate::fail::{self, blocking};
use crate::tree::make_private_dir;
use crate::turns::Turns;

/// Provides `azureFile` volumes.
///
/// Each is mounted once for a group, at `volumes/SANDBOX/NAME/share` below a base directory that
/// only this user can enter, by a process of its own: a *share server*, a static program that is
/// embedded in this crate, which speaks SMB to the file server and FUSE to the kernel. It lives as
/// long as the group, so the files stay when the program that provided them dies; the next one
/// finds it again by its socket. It gets the key over a pipe; no argument list, environment, mount
/// table or file has it.
///
/// What is spoken is SMB 3.1.1 with AES-GCM, from the login on. A server that does not encrypt, or
/// takes the account for a guest, is refused. What a container sees is what ACI shows: everything
/// belongs to root with mode 0777, no symbolic or hard links, locks that hold across machines, and
/// names with all characters that Linux allows (mapped as the kernel's cifs maps them).
///
/// An ordinary user needs `fusermount3` (Debian package `fuse3`), which wants a user that has a name,
/// and a `/dev/fuse` that everybody may open, as udev makes it; files belong to that user then, who
/// is root inside of the group.
///
/// A second process, the *keeper*, holds the mount's device and what the share server notes of names,
/// open files and locks. If the share server is killed, another one goes on: the mount, working
/// directories, open files and their locks stay, who asks meanwhile waits. What was being answered
/// fails with `ECONNABORTED` (it may have been done), and a write that was answered without being on
/// the server yet is told as `EIO` by the file's next write, `fsync` or `close`. If the keeper is
/// killed as well, the mount is without answers (`ENOTCONN`) until the volume is provided again, which
/// new containers see and running ones do not.
///
/// Neither process is in the group's cgroup: volumes are provided before there is one, and the
/// contract names none. They are in the host program's; what they hold grows with what the group has
/// under way and with the largest directory that it lists.
///
/// # When the server goes
///
/// Operations wait, at most [`patience`](AzureFilesOptions::patience); connections are made anew by
/// themselves, open files are asked back from the server with their locks, or opened again if they
/// are the same files as before. Writes that the server has not answered are sent again, so nothing
/// is lost while the share server lives; what cannot be sent is told by the next write, `fsync` or
/// `close` ([`CachePolicy`]). An open file that is another one now, or whose locks somebody else took
/// meanwhile, fails with `ESTALE`.
///
/// # What is different from a disk
///
/// What was read is not kept between an open and the next; names, also that one is not there, and
/// attributes are believed for [`actimeo`](AzureFilesOptions::actimeo). Locks are mandatory, as SMB's are. A directory that is
/// renamed over an empty one is not replaced in one step. Deleted files that are still open keep a
/// name that begins with `.aci-deleted-` on the server until they are closed. `chmod` keeps only
/// whether a file can be written, `chown` has no effect.
#[derive(Clone, Debug)]
pub struct AzureFiles {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    volumes: PathBuf,
    options: AzureFilesOptions,
    turns: Turns<(SandboxId, String)>,
}

/// How a mounted share stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareStatus {
    /// Whether there is a connection right now.
    pub connected: bool,
    /// How often a connection was made.
    pub connections: u64,
    /// Why there is none, if there is none.
    pub problem: Option<String>,
    /// Files that are open now.
    pub open_files: u64,
    /// Bytes read from the server.
    pub bytes_read: u64,
    /// Bytes written to the server.
    pub bytes_written: u64,
}

/// How full a share is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareUsage {
    /// How many bytes the share may hold: its quota, where the server has one for each share, as
    /// Azure Files has.
    pub total: u64,
    /// How many bytes can still be written.
    pub free: u64,
}

impl ShareUsage {
    /// How many bytes are used.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }
}

fn nonsense(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Internal,
        operation,
        "the share server answered something else",
    )
}

impl AzureFiles {
    /// Shares mounted below a directory, which is made with mode 0700 if it is not there. Shares
    /// that an earlier program mounted stay mounted.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) or [`Internal`](ErrorKind::Internal) if
    /// the directory cannot be written.
    pub fn open(base: impl AsRef<Path>, options: AzureFilesOptions) -> Result<Self> {
        let base = base.as_ref();
        make_private_dir(base)?;
        let base =
            std::path::absolute(base).map_err(|e| fail::io("volumes.open", "find it", base, e))?;
        let volumes = base.join("shares");
        make_private_dir(&volumes)?;
        Ok(Self {
            inner: Arc::new(Inner {
                volumes,
                options,
                turns: Turns::new(),
            }),
        })
    }

    /// Gives a running mount a new key, for when an account's key was changed: it is used from the
    /// next connection on, without a new mount. The volume's document is not changed.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the volume is not provided or its share server is gone.
    ///
    /// # Cancel safety
    /// The new key may be in use; call it again.
    pub async fn rotate_secret(&self, sandbox: &SandboxId, name: &str, key: &Secret) -> Result<()> {
        let password = Password::new(key.expose());
        if let Some(place) = self.by_kernel(sandbox, name)? {
            return blocking("volumes.rotate", move || {
                kernel::rotate(&place, &password)
                    .map_err(|e| fail::io("volumes.rotate", "give cifs the key of", &place, e))
            })
            .await;
        }
        let request = Request::Rotate(password);
        self.ask(sandbox, name, request).await.map(drop)
    }

    /// How a mounted share stands.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the volume is not provided or its share server is gone.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn status(&self, sandbox: &SandboxId, name: &str) -> Result<ShareStatus> {
        if self.by_kernel(sandbox, name)?.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "volumes.status",
                "the share is mounted by the kernel's cifs, which does not tell",
            )
            .on(format!("{sandbox}/{name}")));
        }
        match self.ask(sandbox, name, Request::Status).await? {
            Answer::Status(status) => Ok(ShareStatus {
                connected: status.connected,
                connections: status.connections,
                problem: status.failure.map(|f| f.message),
                open_files: status.open_files,
                bytes_read: status.bytes_read,
                bytes_written: status.bytes_written,
            }),
            _ => Err(nonsense("volumes.status")),
        }
    }

    /// How full a mounted share is, as its server tells it now.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the volume is not provided or its share server is gone,
    /// [`Unavailable`](ErrorKind::Unavailable) if the file server does not answer within 4 seconds.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn usage(&self, sandbox: &SandboxId, name: &str) -> Result<ShareUsage> {
        if let Some(place) = self.by_kernel(sandbox, name)? {
            return blocking("volumes.usage", move || {
                let room = rustix::fs::statvfs(&place)
                    .map_err(|e| fail::io("volumes.usage", "ask", &place, e))?;
                Ok(ShareUsage {
                    total: room.f_blocks.saturating_mul(room.f_frsize),
                    free: room.f_bavail.saturating_mul(room.f_frsize),
                })
            })
            .await;
        }
        match self.ask(sandbox, name, Request::Usage).await? {
            Answer::Usage(usage) => Ok(ShareUsage {
                total: usage.total,
                free: usage.free,
            }),
            Answer::Failed(failure) => Err(Error::new(
                ErrorKind::Unavailable,
                "volumes.usage",
                format!("the share cannot be asked: {}", failure.message),
            )
            .on(format!("{sandbox}/{name}"))),
            _ => Err(nonsense("volumes.usage")),
        }
    }

    /// Where the kernel's driver has a volume mounted, if it has.
    fn by_kernel(&self, sandbox: &SandboxId, name: &str) -> Result<Option<PathBuf>> {
        check_component("volumes.ask", "a volume", name)?;
        let place = self.inner.place(sandbox, name).join("share");
        Ok(kernel::is_mounted(&place).then_some(place))
    }

    async fn ask(&self, sandbox: &SandboxId, name: &str, request: Request) -> Result<Answer> {
        check_component("volumes.ask", "a volume", name)?;
        let control = self.inner.control(sandbox, name);
        let place = format!("{sandbox}/{name}");
        blocking("volumes.ask", move || {
            server::ask(&control, &request).map_err(|cause| {
                Error::new(
                    ErrorKind::NotFound,
                    "volumes.ask",
                    "no share server runs for this volume",
                )
                .on(place)
                .because(cause)
            })
        })
        .await
    }
}

impl Inner {
    fn place(&self, sandbox: &SandboxId, name: &str) -> PathBuf {
        self.volumes.join(sandbox.as_str()).join(name)
    }

    fn control(&self, sandbox: &SandboxId, name: &str) -> PathBuf {
        self.place(sandbox, name).join("control")
    }

    fn provide(&self, sandbox: &SandboxId, volume: &Volume) -> Result<PathBuf> {
        let Some(share) = &volume.azure_file else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "volumes.provide",
                format!("'{}' is not an azureFile volume", volume.name),
            ));
        };
        let key = key(&volume.name, share)?;
        let place = self.place(sandbox, &volume.name);
        let mountpoint = place.join("share");
        let control = place.join("control");
        if kernel::is_mounted(&mountpoint)
            && kernel::rotate(&mountpoint, &Password::new(key.expose())).is_ok()
        {
            return Ok(mountpoint);
        }
        if server::stands(&control, &mountpoint) {
            // The document may have a newer key.
            let rotated = server::ask(&control, &Request::Rotate(Password::new(key.expose())));
            if rotated.is_ok() {
                return Ok(mountpoint);
            }
        }
        // What a server left that is gone.
        server::stop(&control, &mountpoint)
            .map_err(|e| fail::io("volumes.provide", "clear it", &place, e))?;
        fs::create_dir_all(&mountpoint)
            .map_err(|e| fail::io("volumes.provide", "make it", &mountpoint, e))?;
        let at = self.options.server(&share.storage_account_name);
        let config = Config {
            mountpoint: mountpoint.clone(),
            control,
            host: at.host.clone(),
            port: at.port,
            share: share.share_name.clone(),
            user: share.storage_account_name.clone(),
            password: Password::new(key.expose()),
            read_only: share.read_only.unwrap_or(false),
            options: self.options.wire(),
        };
        let started = match self.kernel(&volume.name) {
            Ok(true) => kernel::mount(&config).map_or_else(
                |failure| Ok(Started::Failed(failure)),
                |()| Ok(Started::Mounted { pid: 0 }),
            ),
            Ok(false) => server::start(&config),
            Err(refused) => {
                self.remove(sandbox, &volume.name)?;
                return Err(refused);
            }
        };
        let failed = match started {
            Ok(Started::Mounted { pid }) => {
                // 0 is the kernel.
                tracing::info!(pid, server = %at.host, share = %share.share_name, "mounted");
                metrics::counter!("aci_storage_volumes_provided_total").increment(1);
                return Ok(mountpoint);
            }
            Ok(Started::Failed(failure)) => explain(&volume.name, share, &at, &failure),
            Err(cause) => fail::io(
                "volumes.provide",
                "run its share server",
                &mountpoint,
                cause,
            ),
        };
        self.remove(sandbox, &volume.name)?;
        Err(failed)
    }

    /// Whether the kernel's driver is to mount.
    fn kernel(&self, volume: &str) -> Result<bool> {
        let asked = self.options.driver;
        if asked == ShareDriver::UserSpace {
            return Ok(false);
        }
        match kernel::probe() {
            Ok(()) => Ok(true),
            Err(_) if asked == ShareDriver::Automatic => Ok(false),
            Err(why) => Err(Error::new(
                ErrorKind::Unsupported,
                "volumes.provide",
                format!("volume '{volume}' cannot be mounted by the kernel: {why}"),
            )
            .code("FailedMountAzureFileVolume")
            .on(volume)
            .hint("load the module 'cifs', or choose ShareDriver::Automatic")),
        }
    }

    fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        let place = self.place(sandbox, name);
        let there = place.exists();
        let mut tries = 0;
        loop {
            server::stop(&place.join("control"), &place.join("share"))
                .map_err(|e| fail::io("volumes.release", "end its share server", &place, e))?;
            // A server that was about to replace another may have come between.
            tries += 1;
            match self.remove(sandbox, name) {
                Err(_) if tries < 20 => std::thread::sleep(Duration::from_millis(50)),
                done => break done?,
            }
        }
        if there {
            metrics::counter!("aci_storage_volumes_released_total").increment(1);
        }
        Ok(())
    }

    /// Removes the directories, which are empty; never what is in a share.
    fn remove(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        let place = self.place(sandbox, name);
        for path in [place.join("share"), place.clone()] {
            match fs::remove_dir(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(fail::io("volumes.release", "remove it", &path, e));
                }
                _ => {}
            }
        }
        // Stays as long as the sandbox has others.
        let _ = fs::remove_dir(self.volumes.join(sandbox.as_str()));
        Ok(())
    }

    fn list(&self) -> Result<Vec<ProvidedVolume>> {
        entries::volumes(&self.volumes)
    }
}

/// The account's key, as the document has it.
fn key<'a>(volume: &str, share: &'a AzureFileVolume) -> Result<&'a Secret> {
    let missing = |why: &str, hint: &str| {
        Error::new(
            ErrorKind::Invalid,
            "volumes.provide",
            format!("the azureFile volume '{volume}' {why}"),
        )
        .code("InvalidAzureFileVolume")
        .hint(hint)
    };
    if let Some(key) = &share.storage_account_key {
        return Ok(key);
    }
    Err(if share.user_assigned_identity_client_id.is_some() {
        missing(
            "is to be mounted with a managed identity, which this driver cannot",
            "give 'storageAccountKey' or 'storageAccountKeyReference'",
        )
    } else {
        missing("has no 'storageAccountKey'", "give the account's key")
    })
}

/// A failure as the user of ACI would understand it.
fn explain(volume: &str, share: &AzureFileVolume, at: &FileServer, failure: &Failure) -> Error {
    let (kind, hint) = match failure.cause {
        Cause::Unreachable => (
            ErrorKind::Unavailable,
            "check the account's name, and that port 445 of the server can be reached from here",
        ),
        Cause::Denied => (
            ErrorKind::PermissionDenied,
            "check 'storageAccountKey'; the account's keys may have been changed",
        ),
        Cause::NoShare => (
            ErrorKind::NotFound,
            "check 'shareName'; the share has to exist before the group",
        ),
        Cause::Insecure => (
            ErrorKind::PermissionDenied,
            "the server has to speak SMB 3.1.1 with AES-GCM encryption, to accounts and not guests",
        ),
        Cause::Protocol => (
            ErrorKind::Unavailable,
            "the server may be overloaded; try again",
        ),
        Cause::Host => (
            ErrorKind::Unsupported,
            "file shares are mounted by FUSE: /dev/fuse has to be there, and fusermount3 for an \
             ordinary user",
        ),
    };
    Error::new(
        kind,
        "volumes.provide",
        format!(
            "cannot mount the share '{}' of account '{}' for volume '{volume}' from {}:{}: {}",
            share.share_name, share.storage_account_name, at.host, at.port, failure.message
        ),
    )
    .code("FailedMountAzureFileVolume")
    .on(volume)
    .hint(hint)
}

#[async_trait]
impl VolumeDriver for AzureFiles {
    fn name(&self) -> &str {
        "azureFile"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.azure_file.is_some()
    }

    #[tracing::instrument(name = "volumes.provide", skip_all, fields(sandbox = %request.sandbox, volume = %request.volume.name))]
    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        let VolumeRequest {
            sandbox, volume, ..
        } = request;
        check_component("volumes.provide", "a volume", &volume.name)?;
        let inner = Arc::clone(&self.inner);
        let turn = inner
            .turns
            .take((sandbox.clone(), volume.name.clone()))
            .await;
        blocking("volumes.provide", move || {
            let _turn = turn;
            inner
                .provide(&sandbox, &volume)
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
