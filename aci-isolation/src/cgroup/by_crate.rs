//! The same by the crate `cgroups-rs`, with the feature of this name.
//!
//! The crate knows version 1 or version 2, found at fixed places; here each side of the plan is a
//! hierarchy of its own, so that a machine with both has both. What the crate cannot do is done
//! beside it, as little as possible:
//!
//! | what | why |
//! |---|---|
//! | controllers are handed down by [`files::hand_down`] | it reads which there are from `/sys/fs/cgroup` only, and would hand down all |
//! | limits are set one by one, not by `Cgroup::apply` | that drops the errors of memory and io, and a container would run unbounded |
//! | processes are born in a v2 cgroup | it can only move them there, which stops all forks and exits of the machine |
//! | killing on version 1, and below | it kills on version 2 only, and lists one cgroup's processes |
//! | waiting until a v2 cgroup is frozen | it reads back what was asked for |
//! | removing what is below a v2 cgroup | it does so on version 1 only |
//! | devices | it has no BPF program for version 2; the lines of the v1 controller are the agent's too |
//! | `io.stat`, `memory.events` and pressure of version 2 | its reader of the first looks for another sign than the kernel writes, so that it always says 0 (and panics at minor numbers above 32767); it has none for the others |

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::cgroups_rs::fs::blkio::BlkIoController;
use ::cgroups_rs::fs::cpu::CpuController;
use ::cgroups_rs::fs::cpuacct::CpuAcctController;
use ::cgroups_rs::fs::error::Error;
use ::cgroups_rs::fs::freezer::FreezerController;
use ::cgroups_rs::fs::memory::MemController;
use ::cgroups_rs::fs::pid::PidController;
use ::cgroups_rs::fs::{Cgroup, Controller as _, Hierarchy, MaxValue, Resources, Subsystem};
use ::cgroups_rs::{CgroupPid, FreezerState};

use super::meter::{self, Meter, PRESSURE, Reading};
use super::tree::{Door, Driver, Way, kind_of, place};
use super::{files, layout, translate};
use crate::protocol::{Bounds, CgroupPlan};

/// Asks the crate.
#[derive(Debug)]
pub(super) struct CgroupsRs;

/// The hierarchies of one version, for the crate.
#[derive(Clone, Debug)]
struct Side {
    v2: bool,
    /// Mount points by controller.
    points: Vec<(String, PathBuf)>,
    root: PathBuf,
}

impl Side {
    fn two(plan: &CgroupPlan) -> Option<Self> {
        let root = PathBuf::from(plan.v2.as_ref()?);
        // Every v2 cgroup can be frozen.
        let freezer = (layout::FREEZER.to_owned(), root.clone());
        let controllers = plan.v2_controllers.iter();
        let points = controllers.map(|name| (name.clone(), root.clone()));
        Some(Self {
            v2: true,
            points: points.chain([freezer]).collect(),
            root,
        })
    }

    fn one(plan: &CgroupPlan) -> Option<Self> {
        let points = plan.v1.iter();
        let points: Vec<_> = points
            .map(|(name, point)| (name.clone(), PathBuf::from(point)))
            .collect();
        let root = points.first()?.1.clone();
        Some(Self {
            v2: false,
            points,
            root,
        })
    }

    /// A cgroup, whether it is there or not.
    fn cgroup(&self, below: &Path) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), below)
    }
}

impl Hierarchy for Side {
    fn subsystems(&self) -> Vec<Subsystem> {
        let base = PathBuf::new;
        self.points
            .iter()
            .filter_map(|(name, point)| {
                let at = point.clone();
                Some(match name.as_str() {
                    "cpu" => Subsystem::Cpu(CpuController::new(at, base(), self.v2)),
                    "cpuacct" => Subsystem::CpuAcct(CpuAcctController::new(at, base())),
                    "memory" => Subsystem::Mem(MemController::new(at, base(), self.v2)),
                    "pids" => Subsystem::Pid(PidController::new(at, base(), self.v2)),
                    "blkio" | "io" => Subsystem::BlkIo(BlkIoController::new(at, base(), self.v2)),
                    "devices" => Subsystem::Devices(
                        ::cgroups_rs::fs::devices::DevicesController::new(at, base()),
                    ),
                    layout::FREEZER => {
                        Subsystem::Freezer(FreezerController::new(at, base(), self.v2))
                    }
                    _ => return None,
                })
            })
            .collect()
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        self.cgroup(Path::new(""))
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        let parent = Path::new(path).parent();
        self.cgroup(parent.unwrap_or_else(|| Path::new("")))
    }

    fn v2(&self) -> bool {
        self.v2
    }
}

/// A cgroup path below the mount points.
fn below(plan: &CgroupPlan, path: &str) -> PathBuf {
    Path::new(&plan.parent).join(path)
}

/// The crate's error with the kind of its cause.
fn plain(error: &Error) -> io::Error {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    let kind = cause.map_or(io::ErrorKind::Other, kind_of);
    io::Error::new(kind, error.to_string())
}

impl Driver for CgroupsRs {
    fn create(
        &self,
        plan: &CgroupPlan,
        path: &str,
        bounds: &Bounds,
        leaf: bool,
        reaper: bool,
    ) -> io::Result<()> {
        let below = below(plan, path);
        if let (Some(side), Some(point)) = (Side::two(plan), &plan.v2) {
            let hierarchy = Box::new(side.clone());
            Cgroup::new_with_specified_controllers(hierarchy, &below, Some(Vec::new()))
                .map_err(|e| plain(&e))?;
            files::hand_down(plan, point, path, leaf);
            limit(&side.cgroup(&below), plan, bounds, reaper)?;
        }
        if let Some(side) = Side::one(plan) {
            let cgroup = Cgroup::new(Box::new(side), &below).map_err(|e| plain(&e))?;
            limit(&cgroup, plan, bounds, reaper)?;
        }
        Ok(())
    }

    fn door(&self, plan: &CgroupPlan, path: &str) -> io::Result<Door> {
        let birth = plan.v2.as_ref();
        let birth = birth.map(|point| files::open_birth(&place(plan, point, path)));
        let entrance = Side::one(plan).map(|side| side.cgroup(&below(plan, path)));
        Ok(Door::new(
            birth.transpose()?,
            Way::CgroupsRs(Entrance(entrance)),
        ))
    }

    fn kill(&self, plan: &CgroupPlan, path: &str) {
        let below = below(plan, path);
        if let Some(side) = Side::two(plan)
            && side.cgroup(&below).kill().is_ok()
        {
            return;
        }
        for side in [Side::two(plan), Side::one(plan)].into_iter().flatten() {
            kill_below(&side, &below);
        }
    }

    fn freeze(
        &self,
        plan: &CgroupPlan,
        path: &str,
        frozen: bool,
        patience: Duration,
    ) -> io::Result<()> {
        let side = Side::two(plan).or_else(|| Side::one(plan));
        let cgroup = side.map(|side| side.cgroup(&below(plan, path)));
        let freezer = cgroup.iter().flat_map(Cgroup::subsystems);
        let freezer = freezer.into_iter().find_map(|subsystem| match subsystem {
            Subsystem::Freezer(freezer) => Some(freezer),
            _ => None,
        });
        let Some(freezer) = freezer else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let asked = if frozen {
            freezer.freeze()
        } else {
            freezer.thaw()
        };
        asked.map_err(|e| plain(&e))?;
        if let Some(point) = &plan.v2 {
            let events = place(plan, point, path).join("cgroup.events");
            return files::await_line(&events, files::FROZEN_V2[usize::from(frozen)], patience);
        }
        let begun = Instant::now();
        loop {
            match (freezer.state().map_err(|e| plain(&e))?, frozen) {
                (FreezerState::Frozen, true) | (FreezerState::Thawed, false) => return Ok(()),
                _ if begun.elapsed() > patience => return Err(io::ErrorKind::TimedOut.into()),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn remove(&self, plan: &CgroupPlan, path: &str) -> io::Result<()> {
        let below = below(plan, path);
        let two = Side::two(plan).map_or(Ok(()), |side| remove_v2(&side, &below));
        // What is below goes with it, after up to 150 ms of patience for each controller.
        let one = Side::one(plan).map_or(Ok(()), |side| side.cgroup(&below).delete());
        two.and(one).map_err(|e| plain(&e))
    }

    fn meter(&self, plan: &CgroupPlan, path: &str) -> Option<Meter> {
        Gauge::open(plan, path).map(Meter::CgroupsRs)
    }
}

/// Sets the limits of the controllers of one side. Those that not every kernel has may fail.
fn limit(cgroup: &Cgroup, plan: &CgroupPlan, bounds: &Bounds, reaper: bool) -> io::Result<()> {
    let v2 = cgroup.v2();
    for subsystem in cgroup.subsystems() {
        let outcome = match subsystem {
            Subsystem::Cpu(cpu) => limit_cpu(cpu, v2, bounds),
            Subsystem::Mem(memory) => limit_memory(memory, v2, bounds, reaper),
            Subsystem::Pid(pids) => bounds.pids_max.map_or(Ok(()), |max| {
                pids.set_pid_max(MaxValue::Value(i64::from(max) + i64::from(reaper)))
            }),
            Subsystem::BlkIo(io) => match bounds.io_max.filter(|_| reaper) {
                Some(max) => limit_io(io, &plan.disks, max),
                None => Ok(()),
            },
            _ => Ok(()),
        };
        outcome.map_err(|e| plain(&e))?;
    }
    Ok(())
}

fn limit_cpu(cpu: &CpuController, v2: bool, bounds: &Bounds) -> Result<(), Error> {
    if let Some(max) = bounds.cpu_max {
        let quota = i64::try_from(translate::quota(max)).unwrap_or(i64::MAX);
        if v2 {
            cpu.set_cfs_quota_and_period(Some(quota), Some(translate::PERIOD))?;
        } else {
            cpu.set_cfs_period(translate::PERIOD)?;
            cpu.set_cfs_quota(quota)?;
        }
    }
    if let Some(request) = bounds.cpu_request {
        cpu.set_shares(if v2 {
            translate::weight(request)
        } else {
            translate::shares(request)
        })?;
    }
    Ok(())
}

fn limit_memory(
    memory: &MemController,
    v2: bool,
    bounds: &Bounds,
    reaper: bool,
) -> Result<(), Error> {
    let bytes = |bytes| i64::try_from(translate::v1_bytes(bytes)).unwrap_or(i64::MAX);
    if let Some(max) = bounds.memory_max.map(bytes) {
        memory.set_limit(max)?;
        // Memory and swap together on version 1, swap alone on version 2.
        let _ = memory.set_memswap_limit(if v2 { 0 } else { max });
        if !v2 {
            let _ = memory.set_swappiness(0);
        } else if reaper {
            let mut whole = Resources::default();
            let attributes = &mut whole.memory.attrs;
            attributes.insert("memory.oom.group".to_owned(), "1".to_owned());
            memory.apply(&whole)?;
        }
    }
    if let Some(request) = bounds.memory_request.map(bytes) {
        let set = memory.set_soft_limit(request);
        if v2 {
            set?;
        }
    }
    Ok(())
}

fn limit_io(io: &BlkIoController, disks: &[String], max: u64) -> Result<(), Error> {
    for disk in disks {
        let numbers = disk.split_once(':').map(|(a, b)| (a.parse(), b.parse()));
        if let Some((Ok(major), Ok(minor))) = numbers {
            io.throttle_read_bps_for_device(major, minor, max)?;
            io.throttle_write_bps_for_device(major, minor, max)?;
        }
    }
    Ok(())
}

fn kill_below(side: &Side, below: &Path) {
    for CgroupPid { pid } in side.cgroup(below).procs() {
        if let Ok(pid @ 1..) = i32::try_from(pid) {
            let _ = crate::sys::kill(pid, 9);
        }
    }
    let mut names: Vec<_> = side
        .points
        .iter()
        .flat_map(|(_, point)| files::children(&point.join(below)))
        .filter_map(|directory| directory.file_name().map(ToOwned::to_owned))
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        kill_below(side, &below.join(name));
    }
}

fn remove_v2(side: &Side, below: &Path) -> Result<(), Error> {
    let directory = side.root.join(below);
    if !directory.exists() {
        return Ok(());
    }
    for child in files::children(&directory) {
        if let Some(name) = child.file_name() {
            remove_v2(side, &below.join(name))?;
        }
    }
    match side.cgroup(below).delete() {
        Err(_) if !directory.exists() => Ok(()),
        other => other,
    }
}

/// Lets processes into the v1 cgroups of a path.
#[derive(Debug)]
pub(super) struct Entrance(Option<Cgroup>);

impl Entrance {
    /// Moves this single-threaded process. Its number 0 is oneself, and the crate writes it to
    /// `tasks`, which stops nobody else.
    pub(super) fn join(&self) -> io::Result<()> {
        let own = CgroupPid::from(0);
        let joined = self
            .0
            .as_ref()
            .map_or(Ok(()), |cgroup| cgroup.add_task(own));
        joined.map_err(|e| plain(&e))
    }
}

/// Reads a cgroup's use. The crate opens every file anew, and reads many that nobody asked for.
#[derive(Debug)]
pub(crate) struct Gauge {
    one: Option<Cgroup>,
    two: Option<Cgroup>,
    /// The v2 directory.
    directory: Option<PathBuf>,
}

impl Gauge {
    fn open(plan: &CgroupPlan, path: &str) -> Option<Self> {
        let below = below(plan, path);
        let open = |side: Option<Side>| side.map(|side| side.cgroup(&below));
        let gauge = Self {
            one: open(Side::one(plan)),
            two: open(Side::two(plan)),
            directory: plan.v2.as_ref().map(|point| place(plan, point, path)),
        };
        let cpu = gauge.subsystems().any(|(subsystem, v2)| match subsystem {
            Subsystem::CpuAcct(_) => true,
            Subsystem::Cpu(_) => v2,
            _ => false,
        });
        (cpu && gauge.memory()?.exists()).then_some(gauge)
    }

    /// Those of version 1 first, each with whether it is of version 2.
    fn subsystems(&self) -> impl Iterator<Item = (&Subsystem, bool)> {
        [(&self.one, false), (&self.two, true)]
            .into_iter()
            .filter_map(|(cgroup, v2)| Some((cgroup.as_ref()?, v2)))
            .flat_map(|(cgroup, v2)| cgroup.subsystems().iter().map(move |s| (s, v2)))
    }

    fn memory(&self) -> Option<&MemController> {
        self.subsystems()
            .find_map(|(subsystem, _)| match subsystem {
                Subsystem::Mem(memory) => Some(memory),
                _ => None,
            })
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.directory.as_ref()?.join(file)).ok()
    }

    pub(super) fn oom_kills(&self) -> u64 {
        match self.memory() {
            Some(memory) if !memory.v2() => memory.memory_stat().oom_control.oom_kill,
            Some(_) => self
                .text("memory.events")
                .and_then(|text| meter::field(&text, "oom_kill"))
                .unwrap_or(0),
            None => 0,
        }
    }

    pub(super) fn read(&self) -> Option<Reading> {
        let mut reading = Reading::default();
        let (mut cpu, mut pids) = (None, None);
        for (subsystem, v2) in self.subsystems() {
            match subsystem {
                Subsystem::CpuAcct(controller) => {
                    cpu.get_or_insert_with(|| controller.cpuacct().usage / 1000);
                }
                Subsystem::Cpu(controller) if v2 => {
                    let usage = || meter::field(&controller.cpu().stat, "usage_usec");
                    cpu.get_or_insert_with(|| usage().unwrap_or(0));
                }
                Subsystem::Pid(controller) => {
                    pids.get_or_insert_with(|| controller.get_pid_current().unwrap_or(0));
                }
                Subsystem::BlkIo(controller) if !v2 => {
                    let disks = controller.blkio().throttle.io_service_bytes;
                    let sum = |of: fn(&::cgroups_rs::fs::blkio::IoService) -> u64| {
                        disks.iter().map(of).fold(0, u64::saturating_add)
                    };
                    reading.io = Some((sum(|disk| disk.read), sum(|disk| disk.write)));
                }
                _ => {}
            }
        }
        let controller = self.memory()?;
        let memory = controller.memory_stat();
        let inactive = match memory.stat.total_inactive_file {
            0 => memory.stat.inactive_file,
            total => total,
        };
        reading.cpu_micros = cpu.unwrap_or(0);
        reading.memory = memory.usage_in_bytes.saturating_sub(inactive);
        reading.peak = Some(memory.max_usage_in_bytes).filter(|peak| *peak > 0);
        // The container's own init is not the user's.
        reading.pids = pids.unwrap_or(0).saturating_sub(1);
        if reading.io.is_none() {
            reading.io = self.text("io.stat").map(|text| meter::io_v2(&text));
        }
        let [cpu, memory, io] = PRESSURE.map(|file| meter::stalled(&self.text(file)?));
        reading.pressure = cpu
            .zip(memory)
            .zip(io)
            .map(|((cpu, memory), io)| (cpu, memory, io));
        // The crate tells 0 of what is not there.
        controller.exists().then_some(reading)
    }
}
