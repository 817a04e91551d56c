//! Showing the share as a directory, by FUSE.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use fuser::{Config, Session, SessionACL};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::fs::Files;
use crate::{device, hand};
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

/// Mounts and answers the kernel's greeting; the session, that greeting and the mount's device.
pub(crate) fn mount(
    config: &wire::Config,
    files: Files,
) -> Result<(Session<Files>, Vec<u8>, OwnedFd), Failure> {
    let device = if is_root() {
        attach(config)
    } else {
        ask_helper(config)
    };
    let device = device.map_err(|e| failed("mount by FUSE", &e))?;
    let greeted = device::greeting(&device).and_then(|greeting| {
        let (session, answer) = converse(files, &greeting)?;
        rustix::io::write(&device, &answer)?;
        read_apart(&session, &device)?;
        Ok((session, greeting))
    });
    let (session, greeting) = greeted.map_err(|e| failed("greet the kernel", &e))?;
    Ok((session, greeting, device))
}

/// Goes on with a mount whose server is gone: the kernel greets once only.
pub(crate) fn resume(
    files: Files,
    device: &OwnedFd,
    greeting: Vec<u8>,
) -> Result<Session<Files>, Failure> {
    let resumed = converse(files, &greeting).and_then(|(session, _)| {
        read_apart(&session, device)?;
        Ok(session)
    });
    resumed.map_err(|e| failed("go on with the mount", &e))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A session that was greeted so, and its answer: it speaks to us in the kernel's place.
fn converse(files: Files, greeting: &[u8]) -> io::Result<(Session<Files>, Vec<u8>)> {
    let mut settings = Config::default();
    settings.acl = if is_root() {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    settings.n_threads = Some(2);
    settings.clone_fd = true;
    let (near, far) = hand::pair()?;
    rustix::io::write(&near, greeting)?;
    let session = Session::from_fd(files, far, settings.acl, settings)?;
    let mut answer = vec![0; 1 << 12];
    let got = rustix::io::read(&near, answer.as_mut_slice())?;
    answer.truncate(got);
    Ok((session, answer))
}

/// Lets a session read requests, by a descriptor of its own.
fn read_apart(session: &Session<Files>, device: &OwnedFd) -> io::Result<()> {
    device::replace(session.as_fd(), &device::further(device)?)
}

/// Asks `fusermount3` to mount; it answers with a descriptor.
fn ask_helper(config: &wire::Config) -> io::Result<OwnedFd> {
    let (near, far) = UnixStream::pair()?;
    // The helper inherits its end; nobody else is started from here.
    rustix::io::fcntl_setfd(&far, rustix::io::FdFlags::empty())?;
    // The kernel checks the modes that are shown, as for root.
    let mut options = format!(
        "fsname={},subtype={KIND},nosuid,nodev,default_permissions",
        source(config)
    );
    if config.read_only {
        options.push_str(",ro");
    }
    let helper = Command::new("fusermount3")
        .args(["-o", &options, "--"])
        .arg(&config.mountpoint)
        .env("_FUSE_COMMFD", far.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        // As if it had refused; what is to be done is the same.
        .map_err(|_| io::Error::from_raw_os_error(libc::EPERM))?;
    drop(far);
    let device = hand::descriptor(&near);
    drop(near);
    let said = helper.wait_with_output()?;
    match device? {
        Some(device) => Ok(device),
        None => {
            let said = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            Err(io::Error::new(io::ErrorKind::PermissionDenied, said))
        }
    }
}

/// As `mount` and `df` show it; no secret is in it.
fn source(config: &wire::Config) -> String {
    format!("//{}/{}", config.host, config.share)
}

/// Mounts by the new calls, which need no helper; answers the descriptor that requests come from.
fn attach(config: &wire::Config) -> io::Result<OwnedFd> {
    let device = device::open()?;
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
    // Not by asking the mount: who waits for an answer of its own cannot even be killed.
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut wanted = Vec::new();
    for byte in mountpoint.as_os_str().as_encoded_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => wanted.extend(format!("\\{byte:03o}").bytes()),
            _ => wanted.push(*byte),
        }
    }
    // The last of those at this place is on top.
    let device = table.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let device = words.nth(2)?;
        (words.nth(1) == Some(wanted.as_slice())).then_some(device)
    });
    if let Some(device) = device.and_then(|device| std::str::from_utf8(device).ok()) {
        let knob = format!("/sys/class/bdi/{device}/read_ahead_kb");
        let _ = fs::write(knob, READ_AHEAD);
    }
}

/// Takes the directory away, even from those who use it.
pub(crate) fn detach(mountpoint: &Path) {
    let gone = unmount(mountpoint, UnmountFlags::DETACH);
    if gone.is_err() && !is_root() {
        let _ = Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(mountpoint)
            .status();
    }
}
