//! The root itself: layers of an image, or a directory as it stands.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags};

use super::{
    DIRECTORY, MODE_755, PLAIN, Recipe, Result, attach, copy_of, failed, failed_io, new_mount,
    own_directory, strict,
};
use crate::protocol::{Failure, Kind, Layer, Upper};
use crate::{sys, users};

fn descriptor_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Mounts the layers and opens the result.
pub(super) fn mount_root(recipe: &Recipe<'_>, scratch: &OwnedFd) -> Result<OwnedFd> {
    if let ([], Upper::Directory(root, _)) = (recipe.start.layers.as_slice(), &recipe.start.upper) {
        return mount_in_place(recipe, root, scratch);
    }
    let mut layers = Vec::new();
    for (index, layer) in recipe.start.layers.iter().enumerate() {
        layers.push(match layer {
            Layer::Directory(path) => match recipe.inside {
                Some(users) => map_directory(path, &format!("layer{index}"), users, scratch)?,
                None => rustix::fs::open(path.as_str(), DIRECTORY, Mode::empty())
                    .map_err(failed(format!("opening the layer {path}")))?,
            },
            Layer::Erofs(path) => mount_erofs(path, index, scratch, recipe.inside)?,
        });
    }
    let (upper, work) = match &recipe.start.upper {
        Upper::Directory(upper, work) => {
            let open = |path: &str| {
                rustix::fs::open(path, DIRECTORY, Mode::empty())
                    .map_err(failed(format!("opening {path}")))
            };
            match recipe.inside {
                Some(users) => {
                    // Both on one mount, as overlayfs wants them.
                    let (base, upper, work) = users::common_base(upper, work);
                    let base = map_directory(&base, "writable", users, scratch)?;
                    let below = |path: &str| {
                        strict(&base, path).map_err(failed(format!("opening {path}")))
                    };
                    (below(&upper)?, below(&work)?)
                }
                None => (open(upper)?, open(work)?),
            }
        }
        // A read-only root gets its mount points in memory first and is protected afterwards.
        Upper::None | Upper::Memory => {
            let make = |name: &str| {
                own_directory(scratch, name, MODE_755).map_err(failed("making scratch space"))
            };
            (make("upper")?, make("work")?)
        }
    };
    let point = own_directory(scratch, "root", MODE_755).map_err(failed("making scratch space"))?;
    overlay(recipe, &layers, &upper, &work, &point)?;
    strict(scratch, "root").map_err(failed("opening the root"))
}

/// A directory of the host that is the root as it stands.
fn mount_in_place(recipe: &Recipe<'_>, path: &str, scratch: &OwnedFd) -> Result<OwnedFd> {
    let what = || failed(format!("the root directory {path}"));
    let tree = copy_of(CWD, path, false).map_err(what())?;
    if let Some(users) = recipe.inside {
        users::map(&tree, users, false, path)?;
    }
    sys::mount_setattr(&tree, sys::ATTR_NODEV, false).map_err(failed_io("protecting the root"))?;
    let point = own_directory(scratch, "root", MODE_755).map_err(failed("making scratch space"))?;
    attach(&tree, &point).map_err(what())?;
    strict(scratch, "root").map_err(what())
}

/// A directory of the host, seen with the ids of the sandbox's user namespace, on scratch space.
fn map_directory(
    path: &str,
    name: &str,
    inside: &OwnedFd,
    scratch: &OwnedFd,
) -> Result<OwnedFd> {
    let tree =
        copy_of(CWD, path, false).map_err(failed(format!("opening the directory {path}")))?;
    users::map(&tree, inside, false, path)?;
    let point = own_directory(scratch, name, MODE_755).map_err(failed("making scratch space"))?;
    attach(&tree, &point).map_err(failed("mounting a layer"))?;
    strict(scratch, name).map_err(failed("opening a layer"))
}

fn overlay(
    recipe: &Recipe<'_>,
    layers: &[OwnedFd],
    upper: &OwnedFd,
    work: &OwnedFd,
    point: &OwnedFd,
) -> Result<()> {
    // Descriptor paths are short, hide the host's paths from /proc/self/mountinfo inside, and need
    // no quoting.
    let context = open_overlay()?;
    let attempt = || -> std::result::Result<OwnedFd, Errno> {
        for layer in layers {
            rustix::mount::fsconfig_set_string(&context, "lowerdir+", descriptor_path(layer))?;
        }
        rustix::mount::fsconfig_set_string(&context, "upperdir", descriptor_path(upper))?;
        rustix::mount::fsconfig_set_string(&context, "workdir", descriptor_path(work))?;
        if recipe.rootless {
            rustix::mount::fsconfig_set_flag(&context, "userxattr")?;
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NODEV,
        )
    };
    match attempt() {
        Ok(mount) => return attach(&mount, point).map_err(failed("mounting the root")),
        // Kernels before 6.8 have no `lowerdir+`.
        Err(Errno::INVAL) => {}
        Err(errno) => {
            return Err(failed("mounting the root as overlay")(errno).hint(said(&context)));
        }
    }
    let lower: Vec<String> = layers.iter().map(descriptor_path).collect();
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        descriptor_path(upper),
        descriptor_path(work)
    );
    if recipe.rootless {
        options.push_str(",userxattr");
    }
    let data = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount(
        "overlay",
        descriptor_path(point).as_str(),
        "overlay",
        MountFlags::NODEV,
        Some(data.as_c_str()),
    )
    .map_err(|errno| failed("mounting the root as overlay")(errno).hint(said(&context)))
}

fn open_overlay() -> Result<OwnedFd> {
    rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        let (kind, hint) = match errno {
            Errno::NODEV => (Kind::Unsupported, "load it with: modprobe overlay"),
            Errno::NOSYS => (Kind::Unsupported, "sandboxes need Linux 5.12 or newer"),
            _ => (
                Kind::PermissionDenied,
                "overlayfs in user namespaces needs Linux 5.11 or newer; otherwise run as root",
            ),
        };
        Failure {
            kind,
            ..failed("overlayfs is not available")(errno)
        }
        .hint(hint)
    })
}

/// Whether root file systems can be mounted here.
pub(crate) fn probe() -> Result<()> {
    open_overlay()?;
    new_mount("tmpfs", &[], PLAIN)
        .map(drop)
        .map_err(failed("mounting a tmpfs in a new mount namespace"))
}

/// What the kernel has to say about a failed file system context.
fn said(context: &OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 512];
    while let Ok(read) = rustix::io::read(context, &mut buffer[..]) {
        if read == 0 {
            break;
        }
        if !text.is_empty() {
            text.extend_from_slice(b"; ");
        }
        text.extend_from_slice(buffer[..read].trim_ascii());
    }
    if text.is_empty() {
        "see the kernel log (dmesg) for the reason".to_owned()
    } else {
        format!("the kernel says: {}", String::from_utf8_lossy(&text))
    }
}

/// An EROFS image mounted from its file (Linux 6.12), not attached yet.
pub(crate) fn erofs(path: &str, inside: Option<&OwnedFd>) -> Result<OwnedFd> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(format!("opening the layer {path}")))?;
    let mount = new_mount(
        "erofs",
        &[("source", &descriptor_path(&file))],
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .map_err(|errno| {
        failed(format!("mounting the EROFS layer {path}"))(errno)
            .hint("EROFS images are mounted from files by Linux 6.12 and newer, as root")
    })?;
    if let Some(users) = inside {
        users::map(&mount, users, false, path)?;
    }
    Ok(mount)
}

/// Mounts an EROFS image and opens its root.
fn mount_erofs(
    path: &str,
    index: usize,
    scratch: &OwnedFd,
    inside: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    let mount = erofs(path, inside)?;
    let name = format!("layer{index}");
    let point = own_directory(scratch, &name, MODE_755).map_err(failed("making scratch space"))?;
    attach(&mount, &point).map_err(failed("mounting an EROFS layer"))?;
    strict(scratch, &name).map_err(failed("opening an EROFS layer"))
}
