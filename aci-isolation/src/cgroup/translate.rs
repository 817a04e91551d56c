//! From limits to the values of cgroup files: pure functions.
//!
//! Sources: the kernel's cgroup-v2.rst, sched-bwc.rst and cgroup-v1/memory.rst. They are those of
//! `aci_core::size`, which a test holds them to, with what only a real directory needs added: the
//! agent shares this file and cannot have that crate.

use crate::protocol::Bounds;

/// The CFS period in microseconds; the kernel's default.
pub(crate) const PERIOD: u64 = 100_000;

/// A file below a cgroup directory and what to write into it. `required` tells whether a kernel
/// without the file is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
    pub(crate) required: bool,
}

fn setting(controller: &'static str, file: &'static str, value: impl ToString) -> Setting {
    Setting {
        controller,
        file,
        value: value.to_string(),
        required: true,
    }
}

fn optional(controller: &'static str, file: &'static str, value: impl ToString) -> Setting {
    Setting {
        required: false,
        ..setting(controller, file, value)
    }
}

/// Microseconds of CPU time in each period for hundredths of a core: exact, one hundredth of a
/// core is one millisecond.
pub(crate) fn quota(hundredths: u32) -> u64 {
    u64::from(hundredths.max(1)) * PERIOD / 100
}

/// cgroup v1 `cpu.shares` of a request: 1024 a core.
pub(crate) fn shares(hundredths: u32) -> u64 {
    (u64::from(hundredths) * 1024 / 100).clamp(2, 262_144)
}

/// cgroup v2 `cpu.weight` of a request: 100, the kernel's default, a core, so that weights compare
/// as requests do.
pub(crate) fn weight(hundredths: u32) -> u64 {
    u64::from(hundredths.clamp(1, 10_000))
}

/// The kernel reads a signed number in v1's memory files.
pub(super) fn v1_bytes(bytes: u64) -> u64 {
    bytes.min(i64::MAX.unsigned_abs())
}

/// The values for a v2 directory. `reaper` adds one process for the container's own reaping init,
/// so that the user's bound is his own; it also tells a container from a group.
pub(crate) fn v2(bounds: &Bounds, reaper: bool) -> Vec<Setting> {
    let mut out = Vec::new();
    if let Some(max) = bounds.cpu_max {
        out.push(setting(
            "cpu",
            "cpu.max",
            format!("{} {PERIOD}", quota(max)),
        ));
    }
    if let Some(request) = bounds.cpu_request {
        out.push(setting("cpu", "cpu.weight", weight(request)));
    }
    if let Some(max) = bounds.memory_max {
        out.push(setting("memory", "memory.max", max));
        out.push(optional("memory", "memory.swap.max", 0));
    }
    if let Some(request) = bounds.memory_request {
        out.push(setting("memory", "memory.low", request));
    }
    if reaper && bounds.memory_max.is_some() {
        out.push(optional("memory", "memory.oom.group", 1));
    }
    if let Some(max) = bounds.pids_max {
        out.push(setting(
            "pids",
            "pids.max",
            u64::from(max) + u64::from(reaper),
        ));
    }
    out
}

/// The values for the v1 directories, in the order in which they must be written
/// (`memory.limit_in_bytes` before `memory.memsw.limit_in_bytes`).
pub(crate) fn v1(bounds: &Bounds, reaper: bool) -> Vec<Setting> {
    let mut out = Vec::new();
    if let Some(max) = bounds.cpu_max {
        out.push(setting("cpu", "cpu.cfs_period_us", PERIOD));
        out.push(setting("cpu", "cpu.cfs_quota_us", quota(max)));
    }
    if let Some(request) = bounds.cpu_request {
        out.push(setting("cpu", "cpu.shares", shares(request)));
    }
    if let Some(max) = bounds.memory_max {
        let max = v1_bytes(max);
        out.push(setting("memory", "memory.limit_in_bytes", max));
        // Absent where the kernel does not account swap; then swappiness 0 keeps swap small.
        out.push(optional("memory", "memory.memsw.limit_in_bytes", max));
        out.push(optional("memory", "memory.swappiness", 0));
    }
    if let Some(request) = bounds.memory_request {
        out.push(optional(
            "memory",
            "memory.soft_limit_in_bytes",
            v1_bytes(request),
        ));
    }
    if let Some(max) = bounds.pids_max {
        out.push(setting(
            "pids",
            "pids.max",
            u64::from(max) + u64::from(reaper),
        ));
    }
    out
}

/// The values that bound io on each disk, for either version; the controller tells which.
pub(crate) fn io(disks: &[String], max: u64) -> Vec<Setting> {
    let each = |disk: &String| {
        [
            setting("io", "io.max", format!("{disk} rbps={max} wbps={max}")),
            setting(
                "blkio",
                "blkio.throttle.read_bps_device",
                format!("{disk} {max}"),
            ),
            setting(
                "blkio",
                "blkio.throttle.write_bps_device",
                format!("{disk} {max}"),
            ),
        ]
    };
    disks.iter().flat_map(each).collect()
}
