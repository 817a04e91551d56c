//! The user namespace of a sandbox of root's, and file systems that show their files to it.
//!
//! User 0 of such a sandbox is an ordinary id of the host without any right there. The agent stays
//! outside, where its memory and its rights are out of reach; what it makes for containers it makes
//! in the name of the sandbox's user 0 ([`Owner`]), and what is on disk already is shown through
//! idmapped mounts, so that the ids on disk are those of the image, whatever the sandbox's range.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};

use crate::boot::{SHARED, explain_namespaces};
use crate::protocol::{Failure, Kind, Users};
use crate::root;
use crate::sys::{self, Forked};
use crate::{holes, weak};

fn internal(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(Kind::Internal, format!("{what}: {error}"))
}

/// Makes the user namespace with the namespaces that a group shares, which belong to it, enters
/// the latter and gives the former.
pub(crate) fn enter_group(first: u32, count: u32) -> Result<OwnedFd, Failure> {
    let (wait, stop) = io::pipe().map_err(internal("a pipe"))?;
    let (pid, pidfd) =
        match sys::clone(libc::CLONE_NEWUSER | SHARED, None).map_err(explain_namespaces)? {
            Forked::Child => {
                drop(stop);
                let _ = { &wait }.read(&mut [0]);
                sys::exit_now(0)
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
    drop(wait);
    let outcome = (|| {
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{pid}/{file}"), format!("0 {first} {count}"))
                .map_err(internal("writing the map of the user namespace"))?;
        }
        let users = rustix::fs::open(
            format!("/proc/{pid}/ns/user"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(root::failed("opening the user namespace"))?;
        sys::setns(&pidfd, SHARED).map_err(internal("entering the group's namespaces"))?;
        Ok(users)
    })();
    drop(stop);
    sys::wait_for(pid);
    outcome
}

/// Enters the sandbox's user namespace as its user 0 with all rights in it, and none outside.
pub(crate) fn enter(users: &OwnedFd) -> Result<(), Failure> {
    sys::setns(users, libc::CLONE_NEWUSER)
        .and_then(|()| sys::become_user(0, 0, Some(&[])))
        // What the memory was copied from is protected; /proc/sys/fs/suid_dumpable decides
        // otherwise at every change of user.
        .and_then(|()| sys::set_dumpable(weak::is(holes::AGENT_OPEN)))
        .map_err(internal("entering the user namespace"))
}

/// While it lives, new files belong to the sandbox's user 0.
pub(crate) struct Owner(bool);

impl Owner {
    pub(crate) fn new(users: &Users) -> Self {
        let mapped = matches!(users, Users::Mapped { .. });
        if mapped {
            sys::own_files_as(users.outside(0), users.outside(0));
        }
        Self(mapped)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.0 {
            sys::own_files_as(0, 0);
        }
    }
}

/// Shows a detached mount with the namespace's ids.
pub(crate) fn map(
    tree: &OwnedFd,
    users: &OwnedFd,
    deep: bool,
    path: &str,
) -> Result<(), Failure> {
    sys::mount_idmap(tree, users, deep).map_err(|error| {
        Failure::new(
            Kind::Unmappable,
            format!("the file system of {path} cannot be shown to a user namespace: {error}"),
        )
        .hint(
            "keep it on ext4, xfs, btrfs, tmpfs or another file system with idmapped mounts, or \
             switch user namespaces off with NamespacesOptions::user_namespaces",
        )
    })
}

/// Shows a volume with the namespace's ids. One that cannot be mapped but is open to everybody, as
/// a share that was mounted with mode 0777 is, can be used as it is.
pub(crate) fn map_volume(tree: &OwnedFd, users: &OwnedFd, name: &str) -> Result<(), Failure> {
    map(tree, users, true, &format!("volume '{name}'")).or_else(|failure| {
        let open = rustix::fs::fstat(tree).is_ok_and(|stat| stat.st_mode & 0o007 == 0o007);
        if open { Ok(()) } else { Err(failure) }
    })
}

/// Whether a descriptor is a pipe's.
pub(crate) fn is_pipe(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Gives pipes to the sandbox's user 0, so that he can give them on.
pub(crate) fn give_pipes(users: &Users, streams: &[OwnedFd]) {
    if !matches!(users, Users::Mapped { .. }) {
        return;
    }
    for stream in streams.iter().filter(|stream| is_pipe(stream)) {
        let owner = users.outside(0);
        let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
        let _ = rustix::fs::fchown(stream, Some(uid), Some(gid));
    }
}

/// The directory that two paths have in common, and both below it.
pub(crate) fn common_base(one: &str, other: &str) -> (String, String, String) {
    let mut base = Path::new(one);
    while let Some(parent) = base.parent() {
        base = parent;
        if Path::new(other).starts_with(base) {
            break;
        }
    }
    let below = |path: &str| {
        Path::new(path)
            .strip_prefix(base)
            .map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
    };
    (base.to_string_lossy().into_owned(), below(one), below(other))
}

/// Whether the file systems of this machine can be shown to a user namespace.
pub(crate) fn probe(users: &OwnedFd) -> Result<(), Failure> {
    let release = rustix::system::uname();
    let mut numbers = release
        .release()
        .to_str()
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (5, 19) {
        return Err(Failure::new(
            Kind::Unmappable,
            "overlayfs takes idmapped layers from Linux 5.19 on",
        ));
    }
    let tree = root::copy_of(CWD, "/", false).map_err(root::failed("opening /"))?;
    map(&tree, users, false, "/").or_else(|failure| {
        // In an outer container / may be an overlay, while layers lie elsewhere.
        let memory = root::new_mount("tmpfs", &[], rustix::mount::MountAttrFlags::empty())
            .map_err(root::failed("mounting a tmpfs"))?;
        map(&memory, users, false, "a tmpfs").map_err(|_| failure)
    })
}
