//! The first process of a container: builds its file system, then reaps what is orphaned.
//!
//! It holds the container together: when it ends, the kernel kills every process of the pid
//! namespace. It ends when the agent closes the control pipe or is gone.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};

use crate::cgroup::tree::Door;
use crate::protocol::{Failure, Kind, socket};
use crate::root::{self, Recipe};
use crate::{holes, process, sys, users, weak};

/// What the agent leaves to the init besides the recipe.
pub(crate) struct Cradle<'a> {
    pub(crate) recipe: Recipe<'a>,
    /// The way into the container's cgroup.
    pub(crate) door: Option<&'a Door>,
    /// A socket: takes [`READY`] with the root's and /proc's descriptors, or a failure.
    pub(crate) ready: OwnedFd,
    /// A pipe's reading end: one byte is a signal for all; its end is the end.
    pub(crate) control: OwnedFd,
}

/// What an init opens of its container for the agent, which may not look into it by itself: the
/// init is protected as the agent is.
#[derive(Debug)]
pub(crate) struct Handles {
    pub(crate) root: OwnedFd,
    pub(crate) proc: OwnedFd,
    pub(crate) mounts: OwnedFd,
    pub(crate) cgroups: OwnedFd,
    pub(crate) pids: OwnedFd,
    /// The container's own terminal: outer and inner end.
    pub(crate) terminal: Option<[OwnedFd; 2]>,
}

/// The byte that says that the file system is built.
pub(crate) const READY: u8 = b'+';

/// Runs as pid 1 of the container and never returns.
pub(crate) fn run(cradle: &Cradle<'_>) -> ! {
    match set_up(cradle) {
        Ok(fds) => {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            if socket::send(&cradle.ready, &[READY], &fds).is_err() {
                sys::exit_now(1);
            }
        }
        Err(failure) => {
            process::report(cradle.ready.as_fd(), &failure);
            sys::exit_now(1);
        }
    }
    let mut keep = vec![cradle.control.as_raw_fd()];
    if sys::close_except(&mut keep).is_err() {
        sys::exit_now(1);
    }
    sys::set_name(c"aci-init");
    reap(&cradle.control)
}

fn set_up(cradle: &Cradle<'_>) -> Result<Vec<OwnedFd>, Failure> {
    let internal = |what: &str, error: std::io::Error| {
        Failure::new(Kind::Internal, format!("{what}: {error}"))
    };
    let mut keep: Vec<i32> = cradle
        .recipe
        .mounts
        .iter()
        .map(|(tree, _, _)| tree.as_raw_fd())
        .chain(cradle.door.into_iter().flat_map(Door::descriptors))
        .chain([
            cradle.recipe.shm.as_raw_fd(),
            cradle.ready.as_raw_fd(),
            cradle.control.as_raw_fd(),
        ])
        .chain(cradle.recipe.inside.map(AsRawFd::as_raw_fd))
        .collect();
    sys::close_except(&mut keep).map_err(|error| internal("closing descriptors", error))?;
    sys::die_with_parent().map_err(|error| internal("tying to the agent", error))?;
    if let Some(door) = cradle.door {
        door.join()
            .map_err(|error| internal("joining the container's cgroup", error))?;
    }
    if !weak::is(holes::CGROUPS) {
        sys::unshare(libc::CLONE_NEWCGROUP)
            .map_err(|error| internal("making a cgroup namespace", error))?;
    }
    let terminal = {
        let _owner = users::Owner::new(cradle.recipe.users);
        root::build(&cradle.recipe)?
    };
    if let Some(inside) = cradle.recipe.inside {
        // The copy of a mount namespace that belongs to a lesser user namespace is locked by the
        // kernel: whatever rights a container has, it can neither take away a mask nor make
        // writable what is not (mount_namespaces(7)).
        users::enter(inside)?;
        sys::unshare(libc::CLONE_NEWNS)
            .map_err(|error| internal("making a mount namespace", error))?;
        // The change of user has undone it.
        sys::die_with_parent().map_err(|error| internal("tying to the agent", error))?;
    }
    let open = |path: &str, flags: OFlags| {
        rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(root::failed(format!("opening {path}")))
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut fds = vec![
        open("/", directory)?,
        open("/proc", directory)?,
        open("/proc/self/ns/mnt", OFlags::RDONLY)?,
        open("/proc/self/ns/cgroup", OFlags::RDONLY)?,
        open("/proc/self/ns/pid", OFlags::RDONLY)?,
    ];
    fds.extend(terminal.into_iter().flatten());
    Ok(fds)
}

fn reap(control: &OwnedFd) -> ! {
    let Ok(children) = sys::signal_descriptor(libc::SIGCHLD) else {
        sys::exit_now(1);
    };
    let mut byte = [0; 1];
    loop {
        while let Ok(Some(_)) = sys::reap(-1) {}
        let mut fds = [
            PollFd::new(control, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        let (asked, died) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if died {
            let mut info = [0; 128];
            let _ = rustix::io::read(&children, &mut info[..]);
        }
        if asked {
            match rustix::io::read(control, &mut byte[..]) {
                // Every process here but this one (kill(2)).
                Ok(1..) => {
                    let _ = sys::kill(-1, i32::from(byte[0]));
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Ok(_) | Err(_) => sys::exit_now(0),
            }
        }
    }
}

/// What an init said: nothing yet, that it is ready, or why it failed.
pub(crate) enum Said {
    Ready(Handles),
    Failed(Failure),
}

/// Reads what an init says. It says one thing only, in one piece.
pub(crate) fn hear(ready: &OwnedFd) -> Said {
    let mut bytes = vec![0; 16 * 1024];
    let mut fds = VecDeque::new();
    let read = socket::receive(ready, &mut bytes, &mut fds).unwrap_or(0);
    if read >= 1
        && bytes[0] == READY
        && let [Some(root), Some(proc), Some(mounts), Some(cgroups), Some(pids)] =
            std::array::from_fn(|_| fds.pop_front())
    {
        let terminal = match [fds.pop_front(), fds.pop_front()] {
            [Some(outer), Some(inner)] => Some([outer, inner]),
            _ => None,
        };
        return Said::Ready(Handles {
            root,
            proc,
            mounts,
            cgroups,
            pids,
            terminal,
        });
    }
    Said::Failed(postcard::from_bytes(&bytes[..read]).unwrap_or_else(|_| {
        Failure::new(
            Kind::Internal,
            "the container's init ended before its file system was built; was its memory limit too small?",
        )
    }))
}
