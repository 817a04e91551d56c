//! Making, filling, reading and removing cgroup directories.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{layout, translate};
use crate::protocol::{Bounds, CgroupPlan};

/// The cgroup of all agents; no sandbox id contains an underscore.
pub(crate) const AGENTS: &str = "_agents";

/// The file of a v1 directory that a single-threaded process joins by writing "0"
/// (cgroup-v1/cgroups.rst). A write to
/// `cgroup.procs` stops all forks and exits of the machine, which waits for an RCU grace period (8 to
/// 12 ms after a pause); for the writing thread alone the kernel needs no such stop (since 5.4).
pub(crate) const JOIN_V1: &str = "tasks";

/// The v2 controllers that sandboxes want.
const WANTED: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Every directory of a cgroup path below the parent, one for each hierarchy, v2 first.
pub(crate) fn directories(plan: &CgroupPlan, path: &str) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = Vec::new();
    let points = plan.v2.iter().chain(plan.v1.iter().map(|(_, point)| point));
    for point in points {
        let directory = Path::new(point).join(&plan.parent).join(path);
        // cpu and cpuacct are often one mount.
        if !out.contains(&directory) {
            out.push(directory);
        }
    }
    out
}

/// Makes a cgroup in every hierarchy and sets its limits. `path` is below the parent; `leaf` tells
/// whether processes (not further cgroups) will be in it, `reaper` whether a container's init is.
pub(crate) fn create(
    plan: &CgroupPlan,
    path: &str,
    bounds: &Bounds,
    leaf: bool,
    reaper: bool,
) -> io::Result<()> {
    for directory in directories(plan, path) {
        fs::create_dir_all(&directory).map_err(|e| context(e, &directory))?;
    }
    let mut settings = Vec::new();
    let io = bounds.io_max.filter(|_| reaper);
    let io = io.map_or_else(Vec::new, |max| translate::io(&plan.disks, max));
    for setting in translate::v1(bounds, reaper).into_iter().chain(io.clone()) {
        if let Some((_, point)) = plan.v1.iter().find(|(name, _)| name == setting.controller) {
            settings.push((Path::new(point).join(&plan.parent).join(path), setting));
        }
    }
    if let Some(point) = &plan.v2 {
        let mut directory = PathBuf::from(point);
        let steps = Path::new(&plan.parent).join(path);
        let steps: Vec<_> = steps.components().collect();
        for (index, step) in steps.iter().enumerate() {
            delegate(plan, &directory);
            directory.push(step);
            if index + 1 == steps.len() && !leaf {
                delegate(plan, &directory);
            }
        }
        for setting in translate::v2(bounds, reaper).into_iter().chain(io) {
            if plan
                .v2_controllers
                .iter()
                .any(|name| name == setting.controller)
            {
                settings.push((directory.clone(), setting));
            }
        }
    }
    for (directory, setting) in settings {
        let file = directory.join(setting.file);
        match fs::write(&file, &setting.value) {
            Err(error) if setting.required => {
                return Err(context(
                    error,
                    &format!("{} = {}", file.display(), setting.value),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Moves this single-threaded process into a cgroup of every v1 hierarchy and gives the directory of
/// the v2 hierarchy, for children to be born in (clone3(2), CLONE_INTO_CGROUP): moving a process
/// there would stop all forks and exits of the machine, see [`JOIN_V1`].
pub(crate) fn join(plan: &CgroupPlan, path: &str) -> io::Result<Option<OwnedFd>> {
    let mut v2 = None;
    for directory in directories(plan, path) {
        if is_v2(plan, &directory) {
            v2 = Some(File::open(&directory)?.into());
        } else {
            fs::write(directory.join(JOIN_V1), "0")?;
        }
    }
    Ok(v2)
}

/// Whether a directory is one of the v2 hierarchy.
pub(crate) fn is_v2(plan: &CgroupPlan, directory: &Path) -> bool {
    let point = plan.v2.as_ref();
    point.is_some_and(|point| directory.starts_with(point))
}

/// Lets the children of a v2 directory have its controllers; what cannot be had is found out when
/// a limit is set.
fn delegate(plan: &CgroupPlan, directory: &Path) {
    // In the hybrid form there is nothing to hand down, and each look costs a start its time.
    if !plan
        .v2_controllers
        .iter()
        .any(|have| WANTED.contains(&have.as_str()))
    {
        return;
    }
    let control = directory.join("cgroup.subtree_control");
    let present = fs::read_to_string(&control).unwrap_or_default();
    for name in WANTED {
        if plan.v2_controllers.iter().any(|have| have == name)
            && !present.split_whitespace().any(|have| have == name)
        {
            let _ = fs::write(&control, format!("+{name}"));
        }
    }
}

fn context(error: io::Error, what: &(impl AsRef<Path> + ?Sized)) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("{}: {error}", what.as_ref().display()),
    )
}

/// Kills every process below a cgroup path, as one act where the kernel has `cgroup.kill` (5.14),
/// otherwise by signalling until nobody is left.
pub(crate) fn kill(plan: &CgroupPlan, path: &str) {
    if let Some(point) = &plan.v2 {
        let directory = Path::new(point).join(&plan.parent).join(path);
        if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
            return;
        }
    }
    for directory in directories(plan, path) {
        for pid in members(&directory) {
            let _ = crate::sys::kill(pid, 9);
        }
    }
}

/// Where a cgroup path is frozen: the file, what to write for frozen and thawed, and where to read
/// that it is so (cgroup-v2.rst, `cgroup.freeze`; cgroup-v1/freezer-subsystem.rst).
fn freezer(plan: &CgroupPlan, path: &str) -> Option<Freezer> {
    if let Some(point) = &plan.v2 {
        let directory = Path::new(point).join(&plan.parent).join(path);
        return Some(Freezer {
            file: directory.join("cgroup.freeze"),
            values: ["0", "1"],
            told: directory.join("cgroup.events"),
            lines: ["frozen 0", "frozen 1"],
        });
    }
    let (_, point) = plan.v1.iter().find(|(name, _)| name == layout::FREEZER)?;
    let file = Path::new(point)
        .join(&plan.parent)
        .join(path)
        .join("freezer.state");
    Some(Freezer {
        told: file.clone(),
        file,
        values: ["THAWED", "FROZEN"],
        lines: ["THAWED", "FROZEN"],
    })
}

struct Freezer {
    file: PathBuf,
    values: [&'static str; 2],
    told: PathBuf,
    lines: [&'static str; 2],
}

/// Whether this machine's cgroups can be frozen.
pub(crate) fn can_freeze(plan: &CgroupPlan) -> bool {
    freezer(plan, "").is_some()
}

/// Freezes or thaws everything below a cgroup path and waits until it is so, at most as long as
/// given. Blocks.
pub(crate) fn freeze(
    plan: &CgroupPlan,
    path: &str,
    frozen: bool,
    patience: Duration,
) -> io::Result<()> {
    let Some(freezer) = freezer(plan, path) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let which = usize::from(frozen);
    fs::write(&freezer.file, freezer.values[which]).map_err(|e| context(e, &freezer.file))?;
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(&freezer.told).map_err(|e| context(e, &freezer.told))?;
        if text.lines().any(|line| line == freezer.lines[which]) {
            return Ok(());
        }
        if begun.elapsed() > patience {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All processes in a directory and below.
pub(crate) fn members(directory: &Path) -> Vec<i32> {
    let mut out: Vec<i32> = fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect();
    for child in children(directory) {
        out.extend(members(&child));
    }
    out
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a cgroup path with everything below it from every hierarchy. Nobody may be in it.
pub(crate) fn remove(plan: &CgroupPlan, path: &str) -> io::Result<()> {
    let mut outcome = Ok(());
    for directory in directories(plan, path) {
        if let Err(error) = remove_directory(&directory) {
            outcome = Err(context(error, &directory));
        }
    }
    outcome
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            for child in children(directory) {
                remove_directory(&child)?;
            }
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        }
        Ok(()) => Ok(()),
    }
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
            if fs::remove_dir(parent).is_ok() || children(parent).iter().any(|at| *at != directory)
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
