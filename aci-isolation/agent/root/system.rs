//! What every container's root has besides its image: `/proc`, `/sys`, `/dev` and what is hidden of
//! them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::pty::OpenptFlags;

use super::{
    MODE_755, PLAIN, Recipe, Result, add_device, attach, copy_of, failed, failed_io, new_mount,
    own_directory, strict,
};
use crate::protocol::{Failure, Kind};
use crate::sys;

/// Paths that show or change the host (`/proc`), as Docker and containerd mask them.
const MASKED_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
/// Name, major, minor of the nodes of `/dev`.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// An empty file and an empty directory on a read-only tmpfs, to be laid over what must not show.
pub(super) struct Masks {
    pub(super) file: OwnedFd,
    directory: OwnedFd,
}

impl Masks {
    pub(super) fn new(scratch: &OwnedFd) -> Result<Self> {
        let what = || failed("making masks");
        let point = own_directory(scratch, "masks", MODE_755).map_err(what())?;
        let mount =
            new_mount("tmpfs", &[("mode", "0755"), ("size", "4k")], PLAIN).map_err(what())?;
        attach(&mount, &point).map_err(what())?;
        rustix::fs::mkdirat(&mount, "directory", MODE_755).map_err(what())?;
        rustix::fs::openat(
            &mount,
            "file",
            OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o444),
        )
        .map_err(what())?;
        sys::mount_setattr(&mount, sys::ATTR_RDONLY, false).map_err(failed_io("making masks"))?;
        Ok(Self {
            file: strict(&mount, "file").map_err(what())?,
            directory: strict(&mount, "directory").map_err(what())?,
        })
    }

    /// Covers a path below a mount; what this kernel does not have needs no cover.
    fn cover(&self, mount: &OwnedFd, path: &str) -> Result<()> {
        let what = || failed(format!("masking {path}"));
        let target = match strict(mount, path) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
            Err(errno) => return Err(what()(errno)),
        };
        let stat = rustix::fs::fstat(&target).map_err(what())?;
        let mask = if FileType::from_raw_mode(stat.st_mode).is_dir() {
            &self.directory
        } else {
            &self.file
        };
        let mask = copy_of(mask, "", false).map_err(what())?;
        attach(&mask, &target).map_err(what())
    }
}

/// Covers a path below a mount with a read-only view of itself.
fn make_read_only(mount: &OwnedFd, path: &str) -> Result<()> {
    let what = || failed(format!("protecting {path}"));
    let target = match strict(mount, path) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
        Err(errno) => return Err(what()(errno)),
    };
    let view = copy_of(&target, "", true).map_err(what())?;
    sys::mount_setattr(
        &view,
        sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC,
        true,
    )
    .map_err(failed_io(format!("protecting {path}")))?;
    attach(&view, &target).map_err(what())
}

/// A directory directly below the root that must not be a symlink.
fn system_directory(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    own_directory(root, name, MODE_755).map_err(|errno| {
        if errno == Errno::LOOP || errno == Errno::NOTDIR {
            Failure::new(
                Kind::Invalid,
                format!("the image's /{name} is not a directory"),
            )
        } else {
            failed(format!("making /{name}"))(errno)
        }
    })
}

pub(super) fn mount_proc(root: BorrowedFd<'_>, masks: &Masks, privileged: bool) -> Result<()> {
    let target = system_directory(root, "proc")?;
    let mount = new_mount("proc", &[], PLAIN).map_err(|errno| {
        failed("mounting /proc")(errno).hint(
            "inside another container the outer /proc must not be masked \
             (Docker: --security-opt systempaths=unconfined)",
        )
    })?;
    attach(&mount, &target).map_err(failed("mounting /proc"))?;
    if !privileged {
        for path in READ_ONLY_PROC {
            make_read_only(&mount, path)?;
        }
        for path in MASKED_PROC {
            masks.cover(&mount, path)?;
        }
    }
    Ok(())
}

pub(super) fn mount_sys(
    recipe: &Recipe<'_>,
    root: BorrowedFd<'_>,
    masks: &Masks,
    privileged: bool,
) -> Result<()> {
    let target = system_directory(root, "sys")?;
    let mut attributes = PLAIN;
    if !privileged {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let mount = match new_mount("sysfs", &[], attributes) {
        Ok(mount) => mount,
        // Where the outer world hides parts of its own /sys, a user namespace may not mount one;
        // an empty one is safe.
        Err(Errno::PERM) if recipe.rootless => return Ok(()),
        Err(errno) => return Err(failed("mounting /sys")(errno)),
    };
    attach(&mount, &target).map_err(failed("mounting /sys"))?;
    if recipe.cgroup2
        && let Ok(target) = strict(&mount, "fs/cgroup")
        && let Ok(cgroup) = new_mount("cgroup2", &[], attributes)
    {
        attach(&cgroup, &target).map_err(failed("mounting /sys/fs/cgroup"))?;
    }
    if !privileged {
        for path in MASKED_SYS {
            masks.cover(&mount, path)?;
        }
    }
    Ok(())
}

pub(super) fn mount_dev(
    recipe: &Recipe<'_>,
    root: BorrowedFd<'_>,
    scratch: &OwnedFd,
) -> Result<Option<[OwnedFd; 2]>> {
    let what = || failed("making /dev");
    let target = system_directory(root, "dev")?;
    let dev = new_mount(
        "tmpfs",
        &[("mode", "0755"), ("size", "64k")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .map_err(what())?;
    attach(&dev, &target).map_err(what())?;

    let nodes = own_directory(scratch, "nodes", MODE_755).map_err(what())?;
    for (name, major, minor) in NODES {
        let node = if recipe.rootless {
            copy_of(CWD, &format!("/dev/{name}"), false)
                .map_err(failed(format!("the host's /dev/{name}")))?
        } else {
            // Own nodes: changing their mode or owner inside does not reach the host's.
            rustix::fs::mknodat(
                &nodes,
                name,
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                rustix::fs::makedev(major, minor),
            )
            .map_err(failed(format!("making /dev/{name}")))?;
            copy_of(&nodes, name, false).map_err(what())?
        };
        let stat = rustix::fs::fstat(&node).map_err(what())?;
        if stat.st_rdev != rustix::fs::makedev(major, minor)
            || FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        {
            return Err(Failure::new(
                Kind::Unsupported,
                format!("the host's /dev/{name} is not the device {major}:{minor}"),
            ));
        }
        let place = rustix::fs::openat(
            &dev,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o666),
        )
        .map_err(what())?;
        attach(&node, &place).map_err(what())?;
    }
    for (to, name) in LINKS {
        rustix::fs::symlinkat(to, &dev, name).map_err(what())?;
    }
    for (index, device) in recipe.start.devices.iter().enumerate() {
        add_device(recipe, root, &nodes, index, device)?;
    }

    let place = own_directory(&dev, "pts", MODE_755).map_err(what())?;
    let mut options = vec![("ptmxmode", "0666"), ("mode", "0620")];
    // Group 5 is tty in every image.
    let tty = recipe.users.outside(5).to_string();
    if recipe.tty_group {
        options.push(("gid", &tty));
    }
    let pts = new_mount(
        "devpts",
        &options,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .map_err(failed("mounting /dev/pts"))?;
    attach(&pts, &place).map_err(failed("mounting /dev/pts"))?;
    let terminal = match recipe.start.program.terminal {
        Some(size) => Some(make_console(&dev, &pts, size)?),
        None => None,
    };

    let place = own_directory(&dev, "shm", Mode::from_raw_mode(0o1777)).map_err(what())?;
    attach(recipe.shm, &place).map_err(failed("mounting /dev/shm"))?;

    let place = own_directory(&dev, "mqueue", MODE_755).map_err(what())?;
    match new_mount("mqueue", &[], PLAIN) {
        Ok(queues) => {
            if recipe.inside.is_some() {
                // It was made with the IPC namespace, before there was a user 0 in it.
                let owner = recipe.users.outside(0);
                rustix::fs::chownat(
                    &queues,
                    "",
                    Some(rustix::process::Uid::from_raw(owner)),
                    Some(rustix::process::Gid::from_raw(owner)),
                    AtFlags::EMPTY_PATH,
                )
                .map_err(what())?;
            }
            attach(&queues, &place).map_err(failed("mounting /dev/mqueue"))?;
        }
        // Not built into every kernel.
        Err(Errno::NODEV) => {}
        Err(errno) => return Err(failed("mounting /dev/mqueue")(errno)),
    }
    Ok(terminal)
}

/// The container's terminal, which is also `/dev/console`. The mount is made of the terminal's own
/// descriptor and lies on a file that was made for it a moment ago: no path is followed
/// (CVE-2025-52565).
fn make_console(dev: &OwnedFd, pts: &OwnedFd, size: (u16, u16)) -> Result<[OwnedFd; 2]> {
    let what = || failed("making /dev/console");
    let [outer, inner] = open_terminal(pts, "ptmx", size)?;
    let place = rustix::fs::openat(
        dev,
        "console",
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )
    .map_err(what())?;
    let console = copy_of(&inner, "", false).map_err(what())?;
    attach(&console, &place).map_err(what())?;
    Ok([outer, inner])
}

/// A new terminal of a `/dev/pts`: outer and inner end. The inner one is got through the outer
/// one's descriptor, not through a path that the container could change.
pub(crate) fn open_terminal(
    at: impl AsFd,
    ptmx: &str,
    (rows, cols): (u16, u16),
) -> Result<[OwnedFd; 2]> {
    let what = || failed("opening a terminal");
    let outer = rustix::fs::openat2(
        at,
        ptmx,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(what())?;
    let stat = rustix::fs::fstat(&outer).map_err(what())?;
    if stat.st_rdev != rustix::fs::makedev(5, 2) {
        return Err(Failure::new(
            Kind::Conflict,
            "the container has replaced its /dev/pts/ptmx",
        ));
    }
    rustix::pty::unlockpt(&outer).map_err(what())?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let inner = rustix::pty::ioctl_tiocgptpeer(&outer, flags).map_err(what())?;
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&outer, size).map_err(what())?;
    Ok([outer, inner])
}
