//! The boundary between those who want cgroups and those who make them, which there are two of.
//!
//! A [`Driver`] does what has to be done for the cgroup at a path below the plan's parent, in all
//! hierarchies at once. The plan says which one; the agent and its host follow the same plan, and
//! both drivers make the same directories, so that one may take over from the other.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{self, Files};
use super::layout;
use super::meter::Meter;
use crate::protocol::{self, Bounds, CgroupPlan};

pub(crate) use super::files::directories;

/// The cgroup of all agents; no sandbox id contains an underscore.
pub(crate) const AGENTS: &str = "_agents";

/// An implementation. Paths are below the parent of the plan.
pub(crate) trait Driver {
    /// Makes a cgroup and sets its limits. `leaf` tells whether processes (not further cgroups)
    /// will be in it, `reaper` whether a container's init is.
    fn create(
        &self,
        plan: &CgroupPlan,
        path: &str,
        bounds: &Bounds,
        leaf: bool,
        reaper: bool,
    ) -> io::Result<()>;

    /// The way into a cgroup.
    fn door(&self, plan: &CgroupPlan, path: &str) -> io::Result<Door>;

    /// Kills every process in a cgroup and below, as one act where the kernel has `cgroup.kill`
    /// (5.14), otherwise by signalling.
    fn kill(&self, plan: &CgroupPlan, path: &str);

    /// Freezes or thaws everything in a cgroup and below and waits until it is so, at most as long
    /// as given. Blocks.
    fn freeze(
        &self,
        plan: &CgroupPlan,
        path: &str,
        frozen: bool,
        patience: Duration,
    ) -> io::Result<()>;

    /// Removes a cgroup with everything below it. Nobody may be in it.
    fn remove(&self, plan: &CgroupPlan, path: &str) -> io::Result<()>;

    /// What reads a cgroup's use; `None` if neither CPU nor memory can be measured.
    fn meter(&self, plan: &CgroupPlan, path: &str) -> Option<Meter>;
}

/// The plan's driver.
fn driver(plan: &CgroupPlan) -> &'static dyn Driver {
    match plan.driver {
        protocol::Driver::Files => &Files,
        #[cfg(feature = "cgroups-rs")]
        protocol::Driver::CgroupsRs => &super::by_crate::CgroupsRs,
        // Who asks for what was not built has been refused.
        #[cfg(not(feature = "cgroups-rs"))]
        protocol::Driver::CgroupsRs => &Files,
    }
}

/// Whether a driver was built in.
pub(crate) const fn has_driver(driver: protocol::Driver) -> bool {
    match driver {
        protocol::Driver::Files => true,
        protocol::Driver::CgroupsRs => cfg!(feature = "cgroups-rs"),
    }
}

/// See [`Driver::create`].
pub(crate) fn create(
    plan: &CgroupPlan,
    path: &str,
    bounds: &Bounds,
    leaf: bool,
    reaper: bool,
) -> io::Result<()> {
    driver(plan).create(plan, path, bounds, leaf, reaper)
}

/// See [`Driver::door`].
pub(crate) fn door(plan: &CgroupPlan, path: &str) -> io::Result<Door> {
    driver(plan).door(plan, path)
}

/// See [`Driver::kill`].
pub(crate) fn kill(plan: &CgroupPlan, path: &str) {
    driver(plan).kill(plan, path);
}

/// See [`Driver::freeze`].
pub(crate) fn freeze(
    plan: &CgroupPlan,
    path: &str,
    frozen: bool,
    patience: Duration,
) -> io::Result<()> {
    driver(plan).freeze(plan, path, frozen, patience)
}

/// See [`Driver::remove`].
pub(crate) fn remove(plan: &CgroupPlan, path: &str) -> io::Result<()> {
    driver(plan).remove(plan, path)
}

/// See [`Driver::meter`].
pub(crate) fn meter(plan: &CgroupPlan, path: &str) -> Option<Meter> {
    driver(plan).meter(plan, path)
}

/// The way into a cgroup for this process or for children of it.
#[derive(Debug)]
pub(crate) struct Door {
    /// The directory of the v2 hierarchy, for children to be born in (clone3(2),
    /// CLONE_INTO_CGROUP): moving a process there would stop all forks and exits of the machine,
    /// see [`files::JOIN_V1`].
    birth: Option<OwnedFd>,
    way: Way,
}

/// The way into the v1 hierarchies.
#[derive(Debug)]
pub(super) enum Way {
    /// [`files::JOIN_V1`] in each of them.
    Files(Vec<OwnedFd>),
    #[cfg(feature = "cgroups-rs")]
    CgroupsRs(super::by_crate::Entrance),
}

impl Door {
    pub(super) const fn new(birth: Option<OwnedFd>, way: Way) -> Self {
        Self { birth, way }
    }

    /// The directory of the v2 hierarchy, for children to be born in.
    pub(crate) fn birth(&self) -> Option<&OwnedFd> {
        self.birth.as_ref()
    }

    /// Moves this single-threaded process into the v1 hierarchies.
    pub(crate) fn join(&self) -> io::Result<()> {
        match &self.way {
            Way::Files(files) => files
                .iter()
                .try_for_each(|file| rustix::io::write(file, b"0").map(drop))
                .map_err(io::Error::from),
            #[cfg(feature = "cgroups-rs")]
            Way::CgroupsRs(entrance) => entrance.join(),
        }
    }

    /// What a child that closes all else needs to [`Self::join`].
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = i32> {
        match &self.way {
            Way::Files(files) => files.iter(),
            #[cfg(feature = "cgroups-rs")]
            Way::CgroupsRs(_) => [].iter(),
        }
        .map(AsRawFd::as_raw_fd)
    }
}

/// [`Door::birth`] for `clone`.
pub(crate) fn birth(door: Option<&Door>) -> Option<BorrowedFd<'_>> {
    door.and_then(Door::birth).map(AsFd::as_fd)
}

/// Whether this machine's cgroups can be frozen.
pub(crate) fn can_freeze(plan: &CgroupPlan) -> bool {
    plan.v2.is_some() || plan.v1.iter().any(|(name, _)| name == layout::FREEZER)
}

/// Removes the parent directories that hold nothing any more; others may still use them. Blocks
/// for a moment if an agent that has just ended is not quite out of its cgroup.
pub(crate) fn remove_parents(plan: &CgroupPlan) {
    for directory in directories(plan, AGENTS) {
        let Some(parent) = directory.parent().filter(|_| !plan.parent.is_empty()) else {
            continue;
        };
        for _ in 0..50 {
            let _ = fs::remove_dir(&directory);
            if fs::remove_dir(parent).is_ok()
                || files::children(parent).iter().any(|at| *at != directory)
            {
                break;
            }
            if !parent.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A cgroup path's directory below a mount point.
pub(super) fn place(plan: &CgroupPlan, point: &str, path: &str) -> PathBuf {
    Path::new(point).join(&plan.parent).join(path)
}

/// An error with what it is about. That a directory goes away under its user is told by ENOENT or
/// by ENODEV, depending on how far it is; both are `NotFound` here, for those who try again.
pub(super) fn context(error: &io::Error, what: &(impl AsRef<Path> + ?Sized)) -> io::Error {
    io::Error::new(
        kind_of(error),
        format!("{}: {error}", what.as_ref().display()),
    )
}

/// See [`context`].
pub(super) fn kind_of(error: &io::Error) -> io::ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENODEV) => io::ErrorKind::NotFound,
        _ => error.kind(),
    }
}
