//! Making, filling, reading and removing cgroup directories.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::translate;
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
    for setting in translate::v1(bounds, reaper) {
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
        for setting in translate::v2(bounds, reaper) {
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
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// The files of one container's cgroup, kept open: reading them again costs one call each.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    files: BTreeMap<&'static str, File>,
    v2: bool,
}

/// What a [`Meter`] reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) cpu_micros: u64,
    pub(crate) memory: u64,
    pub(crate) peak: Option<u64>,
    pub(crate) pids: u64,
    pub(crate) io: Option<(u64, u64)>,
}

impl Meter {
    /// Opens what there is of a cgroup path. `None` if neither CPU nor memory can be measured.
    pub(crate) fn open(plan: &CgroupPlan, path: &str) -> Option<Self> {
        let mut meter = Self::default();
        let v1 = |controller: &str| {
            plan.v1
                .iter()
                .find(|(name, _)| name == controller)
                .map(|(_, point)| Path::new(point).join(&plan.parent).join(path))
        };
        let v2 = plan
            .v2
            .as_ref()
            .map(|point| Path::new(point).join(&plan.parent).join(path));
        meter.v2 = plan.v2_controllers.iter().any(|name| name == "memory");
        let mut add = |key: &'static str, directory: Option<&PathBuf>, file: &str| {
            if let Some(directory) = directory
                && let Ok(open) = File::open(directory.join(file))
            {
                meter.files.insert(key, open);
            }
        };
        add("cpuacct.usage", v1("cpuacct").as_ref(), "cpuacct.usage");
        add("cpu.stat", v2.as_ref(), "cpu.stat");
        let (pids, blkio) = (v1("pids"), v1("blkio"));
        add("pids", pids.as_ref().or(v2.as_ref()), "pids.current");
        if let Some(memory) = v1("memory") {
            add("usage", Some(&memory), "memory.usage_in_bytes");
            add("stat", Some(&memory), "memory.stat");
            add("peak", Some(&memory), "memory.max_usage_in_bytes");
            add("oom", Some(&memory), "memory.oom_control");
        } else {
            add("usage", v2.as_ref(), "memory.current");
            add("stat", v2.as_ref(), "memory.stat");
            add("peak", v2.as_ref(), "memory.peak");
            add("oom", v2.as_ref(), "memory.events");
        }
        match blkio {
            Some(directory) => add("blkio", Some(&directory), "blkio.throttle.io_service_bytes"),
            None => add("io.stat", v2.as_ref(), "io.stat"),
        }
        let enough = meter.files.contains_key("usage")
            && (meter.files.contains_key("cpuacct.usage") || meter.files.contains_key("cpu.stat"));
        enough.then_some(meter)
    }

    fn text(&self, key: &str) -> Option<String> {
        let file = self.files.get(key)?;
        let mut buffer = [0; 16 * 1024];
        let read = file.read_at(&mut buffer, 0).ok()?;
        Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.trim().parse().ok()
    }

    /// How often the out-of-memory killer acted here since the cgroup was made.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.text("oom")
            .and_then(|text| field(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// What the cgroup uses now; `None` when it has been removed.
    pub(crate) fn read_if_there(&self) -> Option<Reading> {
        let mut byte = [0; 1];
        self.files.get("usage")?.read_at(&mut byte, 0).ok()?;
        Some(self.read())
    }

    /// What the cgroup uses now.
    pub(crate) fn read(&self) -> Reading {
        let stat = self.text("stat").unwrap_or_default();
        let inactive = field(&stat, "total_inactive_file")
            .or_else(|| field(&stat, "inactive_file"))
            .unwrap_or(0);
        let cpu_micros = match self.number("cpuacct.usage") {
            Some(nanos) => nanos / 1000,
            None => self
                .text("cpu.stat")
                .and_then(|text| field(&text, "usage_usec"))
                .unwrap_or(0),
        };
        Reading {
            cpu_micros,
            memory: self.number("usage").unwrap_or(0).saturating_sub(inactive),
            peak: self.number("peak"),
            // The container's own init is not the user's.
            pids: self.number("pids").unwrap_or(0).saturating_sub(1),
            io: self
                .text("blkio")
                .map(|text| io_v1(&text))
                .or_else(|| self.text("io.stat").map(|text| io_v2(&text))),
        }
    }
}

/// The number after a name at the beginning of a line.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

/// `8:0 Read 4096` lines of `blkio.throttle.io_service_bytes`, summed over devices.
fn io_v1(text: &str) -> (u64, u64) {
    let mut sum = (0u64, 0u64);
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (kind, value) = (
            words.next(),
            words.next().and_then(|v| v.parse::<u64>().ok()),
        );
        match (kind, value) {
            (Some("Read"), Some(value)) => sum.0 = sum.0.saturating_add(value),
            (Some("Write"), Some(value)) => sum.1 = sum.1.saturating_add(value),
            _ => {}
        }
    }
    sum
}

/// `8:0 rbytes=1 wbytes=2 ...` lines of `io.stat`, summed over devices.
fn io_v2(text: &str) -> (u64, u64) {
    let mut sum = (0u64, 0u64);
    for word in text.split_whitespace() {
        match word.split_once('=') {
            Some(("rbytes", value)) => sum.0 = sum.0.saturating_add(value.parse().unwrap_or(0)),
            Some(("wbytes", value)) => sum.1 = sum.1.saturating_add(value.parse().unwrap_or(0)),
            _ => {}
        }
    }
    sum
}
