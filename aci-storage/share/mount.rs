//! Showing the share as a directory, by FUSE.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::fs::Files;
use crate::wire::{self, Cause, Failure};

/// What a mount is listed as.
pub(crate) const KIND: &str = "aci-azurefile";

/// How far the kernel reads ahead, in KiB; FUSE's own 128 KiB waste a network's speed.
const READ_AHEAD: &str = "8192";

fn failed(what: &str, error: &io::Error) -> Failure {
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            ": this kernel has no FUSE; load it with 'modprobe fuse'"
        }
        Some(libc::EPERM | libc::EACCES) => {
            ": install fusermount3 (package fuse3) to mount as an ordinary user"
        }
        _ => "",
    };
    Failure {
        cause: Cause::Host,
        message: format!("cannot {what}: {error}{hint}"),
    }
}

/// Mounts and answers the kernel's greeting.
pub(crate) fn mount(config: &wire::Config, files: Files) -> Result<Session<Files>, Failure> {
    let mut settings = Config::default();
    settings.acl = SessionACL::All;
    settings.n_threads = Some(2);
    settings.clone_fd = true;
    let session = if rustix::process::geteuid().is_root() {
        let device = attach(config).map_err(|e| failed("mount by FUSE", &e))?;
        Session::from_fd(files, device, SessionACL::All, settings)
            .map_err(|e| failed("greet the kernel", &e))?
    } else {
        settings.acl = SessionACL::Owner;
        settings.mount_options = vec![
            MountOption::FSName(source(config)),
            MountOption::Subtype(KIND.to_owned()),
            MountOption::NoSuid,
            MountOption::NoDev,
            // As `attach`; the kernel refuses the session without it.
            MountOption::DefaultPermissions,
        ];
        if config.read_only {
            settings.mount_options.push(MountOption::RO);
        }
        Session::new(files, &config.mountpoint, &settings)
            .map_err(|e| failed("mount by FUSE", &e))?
    };
    Ok(session)
}

/// As `mount` and `df` show it; no secret is in it.
fn source(config: &wire::Config) -> String {
    format!("//{}/{}", config.host, config.share)
}

/// Mounts by the new calls, which need no helper; answers the descriptor that requests come from.
fn attach(config: &wire::Config) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = &context;
    fsconfig_set_string(context, "source", source(config))?;
    fsconfig_set_string(context, "subtype", KIND)?;
    fsconfig_set_string(context, "fd", device.as_raw_fd().to_string())?;
    fsconfig_set_string(context, "rootmode", "40000")?;
    fsconfig_set_string(context, "user_id", "0")?;
    fsconfig_set_string(context, "group_id", "0")?;
    fsconfig_set_flag(context, "allow_other")?;
    // The kernel checks the modes that are shown; needed for idmapped mounts of it.
    fsconfig_set_flag(context, "default_permissions")?;
    if config.read_only {
        fsconfig_set_flag(context, "ro")?;
    }
    fsconfig_create(context)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    if config.read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let detached = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(
        &detached,
        "",
        rustix::fs::CWD,
        &config.mountpoint,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(device)
}

/// Lets the kernel read far ahead; only root may say so, and it works without.
pub(crate) fn read_ahead(mountpoint: &Path) {
    if let Ok(stat) = rustix::fs::stat(mountpoint) {
        let (major, minor) = (
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev),
        );
        let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        let _ = fs::write(knob, READ_AHEAD);
    }
}

/// Takes the directory away, even from those who use it.
pub(crate) fn detach(mountpoint: &Path) {
    let gone = unmount(mountpoint, UnmountFlags::DETACH);
    if gone.is_err() && !rustix::process::geteuid().is_root() {
        let _ = std::process::Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(mountpoint)
            .status();
    }
}
