//! Reading what a container's cgroup uses.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::protocol::CgroupPlan;

/// What reads the use of one container's cgroup; see [`tree::meter`](super::tree::meter).
#[derive(Debug)]
pub(crate) enum Meter {
    Files(Kept),
    #[cfg(feature = "cgroups-rs")]
    CgroupsRs(super::by_crate::Gauge),
}

impl Meter {
    /// How often the out-of-memory killer acted here since the cgroup was made.
    pub(crate) fn oom_kills(&self) -> u64 {
        match self {
            Self::Files(files) => files.oom_kills(),
            #[cfg(feature = "cgroups-rs")]
            Self::CgroupsRs(gauge) => gauge.oom_kills(),
        }
    }

    /// What the cgroup uses now; `None` when it has been removed.
    pub(crate) fn read(&self) -> Option<Reading> {
        match self {
            Self::Files(files) => files.read(),
            #[cfg(feature = "cgroups-rs")]
            Self::CgroupsRs(gauge) => gauge.read(),
        }
    }
}

/// The files of one container's cgroup, kept open: reading them again costs one call each.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    files: BTreeMap<&'static str, File>,
    /// What was read last, and when.
    known: Cell<Option<(Instant, u64, Reading)>>,
}

/// How long a container that has used no CPU time since, and as much memory as then, is taken to be
/// as it was. Who does not run starts no process, reads and writes nothing; the kernel alone can
/// still change a little (write back, reclaim, memory of sockets), so it is looked at anew from time
/// to time. `memory.stat` alone costs the kernel more than all else that is read.
const SETTLED: Duration = Duration::from_secs(5);

/// What a [`Meter`] reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) cpu_micros: u64,
    pub(crate) memory: u64,
    pub(crate) peak: Option<u64>,
    pub(crate) pids: u64,
    pub(crate) io: Option<(u64, u64)>,
    /// Microseconds of waiting for CPU, memory and io.
    pub(crate) pressure: Option<(u64, u64, u64)>,
}

impl Kept {
    /// Opens what there is of a cgroup path. `None` if neither CPU nor memory can be measured.
    pub(super) fn open(plan: &CgroupPlan, path: &str) -> Option<Self> {
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
        for file in PRESSURE {
            add(file, v2.as_ref(), file);
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

    /// The content of a file that holds one number.
    fn number(&self, key: &str) -> Option<u64> {
        let file = self.files.get(key)?;
        let mut buffer = [0; 32];
        let read = file.read_at(&mut buffer, 0).ok()?;
        let text = std::str::from_utf8(&buffer[..read]).ok()?;
        text.trim().parse().ok()
    }

    fn oom_kills(&self) -> u64 {
        self.text("oom")
            .and_then(|text| field(&text, "oom_kill"))
            .unwrap_or(0)
    }

    fn read(&self) -> Option<Reading> {
        let usage = self.number("usage")?;
        let cpu_micros = match self.number("cpuacct.usage") {
            Some(nanos) => nanos / 1000,
            None => self
                .text("cpu.stat")
                .and_then(|text| field(&text, "usage_usec"))
                .unwrap_or(0),
        };
        if let Some((at, known_usage, known)) = self.known.get()
            && (known.cpu_micros, known_usage) == (cpu_micros, usage)
            && at.elapsed() < SETTLED
        {
            return Some(known);
        }
        let stat = self.text("stat").unwrap_or_default();
        let inactive = field(&stat, "total_inactive_file")
            .or_else(|| field(&stat, "inactive_file"))
            .unwrap_or(0);
        let waited = |file| self.text(file).and_then(|text| stalled(&text));
        let [cpu, memory, io] = PRESSURE.map(waited);
        let reading = Reading {
            cpu_micros,
            memory: usage.saturating_sub(inactive),
            peak: self.number("peak"),
            // The container's own init is not the user's.
            pids: self.number("pids").unwrap_or(0).saturating_sub(1),
            io: self
                .text("blkio")
                .map(|text| io_v1(&text))
                .or_else(|| self.text("io.stat").map(|text| io_v2(&text))),
            pressure: cpu
                .zip(memory)
                .zip(io)
                .map(|((cpu, memory), io)| (cpu, memory, io)),
        };
        self.known.set(Some((Instant::now(), usage, reading)));
        Some(reading)
    }
}

/// Pressure stall information of a v2 directory, which is there without controllers too.
pub(super) const PRESSURE: [&str; 3] = ["cpu.pressure", "memory.pressure", "io.pressure"];

/// The total of `some avg10=0.00 avg60=0.00 avg300=0.00 total=12` in microseconds (psi.rst).
pub(super) fn stalled(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.rsplit_once("total=")?.1.trim().parse().ok()
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
pub(super) fn io_v2(text: &str) -> (u64, u64) {
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
