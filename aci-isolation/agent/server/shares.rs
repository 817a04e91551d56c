//! Directories that a running container gets to show on: the one that serves a guest's files.

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{Server, internal};
use crate::container::Phase;
use crate::protocol::{Failure, Kind, Layer};
use crate::sys::{self, Forked};
use crate::{root, users};

/// Where they are in the container.
const PLACE: &str = "/share";
/// What the child that mounts exits with if it was there already.
const THERE: i32 = 250;
/// And if it failed without the kernel's saying why.
const FAILED: i32 = 251;

impl Server {
    pub(super) fn share(
        &mut self,
        container: &str,
        layer: &Layer,
        name: &str,
        deep: bool,
        read_only: bool,
    ) -> Result<(), Failure> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(Failure::new(
                Kind::Invalid,
                format!("'{name}' cannot be a directory's name"),
            ));
        }
        let handles = self
            .containers
            .get(container)
            .filter(|container| container.phase == Phase::Running)
            .and_then(|container| container.handles.as_ref())
            .ok_or_else(|| {
                Failure::new(
                    Kind::NotFound,
                    format!("the container '{container}' is not running"),
                )
            })?;
        let inside = self.parts.inside.as_ref();
        let tree = match layer {
            Layer::Erofs(path) => root::erofs(path, inside)?,
            Layer::Directory(path) => {
                let tree = root::copy_of(CWD, path, deep)
                    .map_err(root::failed(format!("opening the directory {path}")))?;
                match inside {
                    Some(inside) if deep => users::map_volume(&tree, inside, path)?,
                    Some(inside) => users::map(&tree, inside, false, path)?,
                    None => {}
                }
                tree
            }
        };
        let mut attributes = sys::ATTR_NODEV | sys::ATTR_NOSUID;
        if read_only {
            attributes |= sys::ATTR_RDONLY;
        }
        sys::mount_setattr(&tree, attributes, true).map_err(internal("protecting a directory"))?;
        // A child, as the agent itself stays in its own mount namespace.
        let (pid, _pidfd) = match sys::clone(0, None).map_err(internal("starting a process"))? {
            Forked::Child => {
                let code = match sys::setns(&handles.mounts, libc::CLONE_NEWNS) {
                    Ok(()) => match put(&tree, name) {
                        Ok(()) => 0,
                        Err(Errno::EXIST) => THERE,
                        Err(errno) => errno.raw_os_error().clamp(1, THERE - 1),
                    },
                    Err(_) => FAILED,
                };
                sys::exit_now(code)
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        let code = sys::wait_for(pid);
        match code {
            0 | THERE => Ok(()),
            FAILED | ..0 => Err(Failure::new(
                Kind::Internal,
                format!("the container '{container}' cannot be entered"),
            )),
            code => Err(root::failed("mounting a directory for the guest")(
                Errno::from_raw_os_error(code),
            )),
        }
    }
}

fn put(tree: &std::os::fd::OwnedFd, name: &str) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(PLACE, flags, Mode::empty())?;
    rustix::fs::mkdirat(&place, name, Mode::from_raw_mode(0o755))?;
    let point = rustix::fs::openat(&place, name, flags, Mode::empty())?;
    root::attach(tree, &point).inspect_err(|_| {
        let _ = rustix::fs::unlinkat(&place, name, rustix::fs::AtFlags::REMOVEDIR);
    })
}
