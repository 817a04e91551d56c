//! Directories of bounded size: each an ext4 file system in a sparse file of its own.
//!
//! Project quotas would need no loop device, but a file system that was mounted for them, which few
//! hosts have; a file works on every one. It is made by `mkfs.ext4` and mounted by `mount` (packages
//! `e2fsprogs` and `mount`, there on every Debian), so no device is touched here. The mount
//! belongs to no process and outlives the program; its loop device goes with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use aci_core::contract::{ProvidedVolume, VolumeSource};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use rustix::mount::UnmountFlags;

use super::entries;
use super::shelf::Shelf;
use crate::fail;

/// The least that a file system is made in.
pub(super) const LEAST: u64 = 1 << 20;

const IMAGE: &str = "image";
const CONTENT: &str = "content";

/// Bounded volumes, at `bounded/SANDBOX/NAME/content`.
#[derive(Debug)]
pub(super) struct Bounded {
    shelf: Arc<Shelf>,
    volumes: PathBuf,
    drafts: PathBuf,
    /// All sizes together.
    total: Option<u64>,
    /// Held from asking what there is until there is more.
    making: Mutex<()>,
}

/// Why bounds cannot be kept here, and what would help; `None` if they can.
pub(super) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("bounded emptyDir volumes on disk need root, to mount them".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some(
            "bounded emptyDir volumes on disk need loop devices (modprobe loop)".to_owned(),
        );
    }
    let programs = [("mkfs.ext4", "e2fsprogs"), ("mount", "mount")];
    let absent = programs.iter().find(|(name, _)| program(name).is_none());
    absent.map(|(name, package)| {
        format!("bounded emptyDir volumes on disk need {name} (package {package})")
    })
}

/// Where a program of the system is; a service's PATH often lacks the half of it.
fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
}

fn run(name: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let failed = |why: String| {
        Error::new(
            ErrorKind::Unsupported,
            "volumes.provide",
            format!("{name} failed: {why}"),
        )
    };
    let program = program(name).ok_or_else(|| failed("it is not installed".to_owned()))?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

impl Bounded {
    pub(super) fn open(base: &Path, total: Option<u64>) -> Result<Self> {
        let shelf = Arc::new(Shelf::open(base, "bounded")?);
        let base =
            std::path::absolute(base).map_err(|e| fail::io("volumes.open", "find it", base, e))?;
        Ok(Self {
            shelf,
            volumes: base.join("bounded"),
            drafts: base.join("bounded-trash"),
            total,
            making: Mutex::default(),
        })
    }

    pub(super) async fn provide(
        self: &Arc<Self>,
        sandbox: SandboxId,
        name: String,
        size: u64,
    ) -> Result<VolumeSource> {
        let bounded = Arc::clone(self);
        let fill = move |draft: &Path| bounded.make(draft, size);
        let open = move |place: PathBuf| mount(&place, size);
        let shelf = Arc::clone(&self.shelf);
        let asked = shelf.provide_opened(sandbox.clone(), name.clone(), fill, open);
        let made = asked.await;
        if made.is_err() {
            // What could not be mounted has nothing in it.
            self.release(&sandbox, &name).await?;
        }
        made
    }

    /// An image in a directory that only this user enters.
    fn make(&self, draft: &Path, size: u64) -> Result<()> {
        let failed = |e| fail::io("volumes.provide", "make it", draft, e);
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(total) = self.total {
            let used = self.used()?;
            if used.saturating_add(size) > total {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    "volumes.provide",
                    format!(
                        "an emptyDir volume of {size} bytes does not fit: {used} of {total} are given away"
                    ),
                )
                .hint("EmptyDirsOptions::total bounds all of them together"));
            }
        }
        fs::set_permissions(draft, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        fs::create_dir(draft.join(CONTENT)).map_err(failed)?;
        let image = draft.join(IMAGE);
        fs::File::create(&image)
            .and_then(|file| file.set_len(size))
            .map_err(failed)?;
        format_image(&image)
    }

    /// The sizes of all images, also of those that are being made.
    fn used(&self) -> Result<u64> {
        let all = entries::volumes(&self.volumes)?;
        let mut images: Vec<PathBuf> = all
            .iter()
            .map(|v| self.volumes.join(v.sandbox.as_str()).join(&v.name))
            .collect();
        let drafts = fs::read_dir(&self.drafts)
            .map_err(|e| fail::io("volumes.provide", "list it", &self.drafts, e))?;
        images.extend(drafts.flatten().map(|entry| entry.path()));
        let sizes = images.iter().map(|place| fs::metadata(place.join(IMAGE)));
        Ok(sizes.flatten().map(|meta| meta.len()).sum())
    }

    pub(super) async fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        let close = |place: &Path| {
            let content = place.join(CONTENT);
            while is_mounted(&content) {
                rustix::mount::unmount(&content, UnmountFlags::DETACH)
                    .map_err(|e| fail::io("volumes.release", "unmount it", &content, e))?;
            }
            Ok(())
        };
        self.shelf.release_closed(sandbox, name, close).await
    }

    pub(super) async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        self.shelf.list().await
    }
}

/// Without a journal: what a crash of the machine leaves is not used again.
fn format_image(image: &Path) -> Result<()> {
    let options = [
        "-q",
        "-F",
        "-m",
        "0",
        "-O",
        "^has_journal",
        "-E",
        "nodiscard,lazy_itable_init=1,root_owner=0:0",
    ];
    let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(AsRef::as_ref).collect();
    arguments.push(image.as_ref());
    run("mkfs.ext4", &arguments)
}

/// Whether something is mounted at a directory.
fn is_mounted(directory: &Path) -> bool {
    let device = |path: &Path| rustix::fs::lstat(path).map(|stat| stat.st_dev);
    let Some(Ok(outside)) = directory.parent().map(device) else {
        return false;
    };
    device(directory).is_ok_and(|inside| inside != outside)
}

/// Mounts a volume's image, if it is not mounted yet, and gives the mount's directory.
fn mount(place: &Path, size: u64) -> Result<PathBuf> {
    let (image, content) = (place.join(IMAGE), place.join(CONTENT));
    if is_mounted(&content) {
        return Ok(content);
    }
    let failed = |e| fail::io("volumes.provide", "make it", place, e);
    // Mounted before, and not any more: the machine was started anew, and the content with it.
    if place.join("used").exists() {
        fs::File::create(&image)
            .and_then(|file| file.set_len(size))
            .map_err(failed)?;
        format_image(&image)?;
    }
    fs::write(place.join("used"), "").map_err(failed)?;
    let options = ["-t", "ext4", "-o", "loop,nosuid,nodev,discard"];
    let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(AsRef::as_ref).collect();
    arguments.extend([image.as_os_str(), content.as_os_str()]);
    run("mount", &arguments)?;
    let ready = fs::remove_dir(content.join("lost+found"))
        .and_then(|()| fs::set_permissions(&content, fs::Permissions::from_mode(0o777)));
    ready.map_err(failed)?;
    Ok(content)
}
