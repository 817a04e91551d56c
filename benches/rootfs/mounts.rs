//! The mounts of a root file system, as the agent of a sandbox makes them.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use aci_core::contract::{Layer, RootFs};
use anyhow::Context as _;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};

use crate::image::FILE;

/// Gives this process a mount namespace of its own.
pub(crate) fn enter_namespace() -> anyhow::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .context("a mount namespace: run as root")?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A new mount that is nowhere yet.
fn new_mount(kind: &str, options: &[(&str, &str)]) -> anyhow::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        rustix::mount::fsconfig_set_string(&context, *name, *value)
            .with_context(|| format!("{kind}: {name}={value}"))?;
    }
    rustix::mount::fsconfig_create(&context).with_context(|| kind.to_owned())?;
    let (flags, attributes) = (
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV,
    );
    Ok(rustix::mount::fsmount(&context, flags, attributes)?)
}

/// Mounts a root file system at a directory and finds a file in it. What it returns holds the layers,
/// whose own mounts end with it: no part of mounting.
pub(crate) fn mount(root: &RootFs, at: &Path) -> anyhow::Result<Vec<OwnedFd>> {
    let mut layers = Vec::new();
    for layer in &root.layers {
        layers.push(match layer {
            Layer::Directory(path) => rustix::fs::open(
                path,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?,
            Layer::Erofs(path) => {
                let image = OwnedFd::from(File::open(path)?);
                new_mount("erofs", &[("source", &path_of(&image))])?
            }
        });
    }
    let paths: Vec<String> = layers.iter().map(path_of).collect();
    let (upper, work) = root.upper.as_ref().context("no place to write")?;
    let (upper, work) = (
        upper.to_str().context("not UTF-8")?,
        work.to_str().context("not UTF-8")?,
    );
    let mut options: Vec<(&str, &str)> = paths.iter().map(|path| ("lowerdir+", &**path)).collect();
    options.extend([("upperdir", upper), ("workdir", work)]);
    let overlay = new_mount("overlay", &options)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&overlay, "", rustix::fs::CWD, at, flags)?;
    rustix::fs::stat(at.join(FILE))?;
    layers.push(overlay);
    Ok(layers)
}

pub(crate) fn unmount(at: &Path) -> anyhow::Result<()> {
    Ok(rustix::mount::unmount(at, UnmountFlags::empty())?)
}
