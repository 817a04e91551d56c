//! The default driver: the kernel's files, and nothing that is not needed of them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::meter::{self, Meter};
use super::tree::{Door, Driver, Way, context, place};
use super::{layout, translate};
use crate::protocol::{Bounds, CgroupPlan};

/// The file of a v1 directory that a single-threaded process joins by writing "0"
/// (cgroup-v1/cgroups.rst). A write to
/// `cgroup.procs` stops all forks and exits of the machine, which waits for an RCU grace period (8 to
/// 12 ms after a pause); for the writing thread alone the kernel needs no such stop (since 5.4).
const JOIN_V1: &str = "tasks";

/// The v2 controllers that sandboxes want.
const WANTED: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Writes and reads the kernel's files.
#[derive(Debug)]
pub(super) struct Files;

impl Driver for Files {
    fn create(
        &self,
        plan: &CgroupPlan,
        path: &str,
        bounds: &Bounds,
        leaf: bool,
        reaper: bool,
    ) -> io::Result<()> {
        for directory in directories(plan, path) {
            fs::create_dir_all(&directory).map_err(|e| context(&e, &directory))?;
        }
        let mut settings = Vec::new();
        let io = bounds.io_max.filter(|_| reaper);
        let io = io.map_or_else(Vec::new, |max| translate::io(&plan.disks, max));
        for setting in translate::v1(bounds, reaper).into_iter().chain(io.clone()) {
            if let Some((_, point)) = plan.v1.iter().find(|(name, _)| name == setting.controller) {
                settings.push((place(plan, point, path), setting));
            }
        }
        if let Some(point) = &plan.v2 {
            hand_down(plan, point, path, leaf);
            let directory = place(plan, point, path);
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
                        &error,
                        &format!("{} = {}", file.display(), setting.value),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn door(&self, plan: &CgroupPlan, path: &str) -> io::Result<Door> {
        let (mut birth, mut files) = (None, Vec::new());
        for directory in directories(plan, path) {
            if is_v2(plan, &directory) {
                birth = Some(open_birth(&directory)?);
            } else {
                let file = directory.join(JOIN_V1);
                let open = File::options().write(true).open(&file);
                files.push(open.map_err(|e| context(&e, &file))?.into());
            }
        }
        Ok(Door::new(birth, Way::Files(files)))
    }

    fn kill(&self, plan: &CgroupPlan, path: &str) {
        if let Some(point) = &plan.v2
            && fs::write(place(plan, point, path).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for directory in directories(plan, path) {
            for pid in members(&directory) {
                let _ = crate::sys::kill(pid, 9);
            }
        }
    }

    fn freeze(
        &self,
        plan: &CgroupPlan,
        path: &str,
        frozen: bool,
        patience: Duration,
    ) -> io::Result<()> {
        let Some(freezer) = freezer(plan, path) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let which = usize::from(frozen);
        fs::write(&freezer.file, freezer.values[which]).map_err(|e| context(&e, &freezer.file))?;
        await_line(&freezer.told, freezer.lines[which], patience)
    }

    fn remove(&self, plan: &CgroupPlan, path: &str) -> io::Result<()> {
        let mut outcome = Ok(());
        for directory in directories(plan, path) {
            if let Err(error) = remove_directory(&directory) {
                outcome = Err(context(&error, &directory));
            }
        }
        outcome
    }

    fn meter(&self, plan: &CgroupPlan, path: &str) -> Option<Meter> {
        meter::Kept::open(plan, path).map(Meter::Files)
    }
}

/// Every directory of a cgroup path below the parent, one for each hierarchy, v2 first.
pub(crate) fn directories(plan: &CgroupPlan, path: &str) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = Vec::new();
    let points = plan.v2.iter().chain(plan.v1.iter().map(|(_, point)| point));
    for point in points {
        let directory = place(plan, point, path);
        // cpu and cpuacct are often one mount.
        if !out.contains(&directory) {
            out.push(directory);
        }
    }
    out
}

/// Whether a directory is one of the v2 hierarchy.
fn is_v2(plan: &CgroupPlan, directory: &Path) -> bool {
    let point = plan.v2.as_ref();
    point.is_some_and(|point| directory.starts_with(point))
}

/// Opens a v2 directory for children to be born in.
pub(super) fn open_birth(directory: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let open = File::open(directory).map_err(|e| context(&e, directory))?;
    Ok(open.into())
}

/// Lets every directory on the way to a v2 cgroup, and that one unless it is a leaf, hand its
/// controllers to its children.
pub(super) fn hand_down(plan: &CgroupPlan, point: &str, path: &str, leaf: bool) {
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

/// Where a cgroup path is frozen: the file, what to write for frozen and thawed, and where to read
/// that it is so (cgroup-v2.rst, `cgroup.freeze`; cgroup-v1/freezer-subsystem.rst).
fn freezer(plan: &CgroupPlan, path: &str) -> Option<Freezer> {
    if let Some(point) = &plan.v2 {
        let directory = place(plan, point, path);
        return Some(Freezer {
            file: directory.join("cgroup.freeze"),
            values: ["0", "1"],
            told: directory.join("cgroup.events"),
            lines: FROZEN_V2,
        });
    }
    let (_, point) = plan.v1.iter().find(|(name, _)| name == layout::FREEZER)?;
    let file = place(plan, point, path).join("freezer.state");
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

/// What `cgroup.events` says of a thawed and of a frozen v2 cgroup.
pub(super) const FROZEN_V2: [&str; 2] = ["frozen 0", "frozen 1"];

/// Waits until a file has a line, at most as long as given. Blocks.
pub(super) fn await_line(file: &Path, line: &str, patience: Duration) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(file).map_err(|e| context(&e, file))?;
        if text.lines().any(|have| have == line) {
            return Ok(());
        }
        if begun.elapsed() > patience {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All processes in a directory and below.
fn members(directory: &Path) -> Vec<i32> {
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

/// The directories in a directory.
pub(super) fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
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
