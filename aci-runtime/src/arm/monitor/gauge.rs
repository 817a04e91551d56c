//! From what a sandbox counts to what Azure's metrics say.

use std::collections::BTreeMap;

use aci_core::contract::SandboxStats;
use aci_core::id::{GroupRef, SandboxId};

use super::series::Series;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    CpuUsage,
    MemoryUsage,
    NetworkBytesReceivedPerSecond,
    NetworkBytesTransmittedPerSecond,
}

impl Metric {
    /// All, in the order in which Azure lists them.
    pub(super) const ALL: [Self; 4] = [
        Self::CpuUsage,
        Self::MemoryUsage,
        Self::NetworkBytesReceivedPerSecond,
        Self::NetworkBytesTransmittedPerSecond,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CpuUsage => "CpuUsage",
            Self::MemoryUsage => "MemoryUsage",
            Self::NetworkBytesReceivedPerSecond => "NetworkBytesReceivedPerSecond",
            Self::NetworkBytesTransmittedPerSecond => "NetworkBytesTransmittedPerSecond",
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::CpuUsage => "CPU Usage",
            Self::MemoryUsage => "Memory Usage",
            Self::NetworkBytesReceivedPerSecond => "Network Bytes Received Per Second",
            Self::NetworkBytesTransmittedPerSecond => "Network Bytes Transmitted Per Second",
        }
    }

    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::CpuUsage => "CPU usage on all cores in millicores.",
            Self::MemoryUsage => "Total memory usage in byte.",
            Self::NetworkBytesReceivedPerSecond => "The network bytes received per second.",
            Self::NetworkBytesTransmittedPerSecond => "The network bytes transmitted per second.",
        }
    }

    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::CpuUsage => "Count",
            _ => "Bytes",
        }
    }

    /// Whether it is of containers; the network is the group's.
    pub(super) const fn of_containers(self) -> bool {
        matches!(self, Self::CpuUsage | Self::MemoryUsage)
    }
}

/// One container's measurements.
#[derive(Clone, Debug, Default)]
pub(super) struct Container {
    pub(super) cpu: Series,
    pub(super) memory: Series,
}

/// One group's measurements.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) received: Series,
    pub(super) transmitted: Series,
    last: Option<(SandboxId, SandboxStats)>,
}

#[allow(clippy::cast_precision_loss)] // exact below 8 PiB
const fn float(number: u64) -> f64 {
    number as f64
}

impl Measured {
    /// What was counted last.
    pub(super) fn counted(&self) -> Option<&SandboxStats> {
        self.last.as_ref().map(|(_, stats)| stats)
    }

    /// Takes what a sandbox has counted. A rate needs the count before, of the same sandbox; one
    /// that went back (a restart) is no rate.
    pub(super) fn take(&mut self, sandbox: &SandboxId, stats: SandboxStats) {
        let before = self
            .last
            .take()
            .filter(|(id, before)| id == sandbox && before.at < stats.at)
            .map(|(_, before)| before);
        for container in &stats.containers {
            let own = self.containers.entry(container.name.clone()).or_default();
            own.memory.add(stats.at, float(container.memory_bytes));
            let Some(before) = &before else {
                continue;
            };
            let earlier = before.containers.iter().find(|b| b.name == container.name);
            if let Some(used) = earlier.and_then(|b| container.cpu.checked_sub(b.cpu)) {
                let over = stats.at.since(before.at).as_secs_f64();
                own.cpu.add(stats.at, used.as_secs_f64() / over * 1_000.0);
            }
        }
        if let (Some(now), Some(before)) = (&stats.network, &before)
            && let Some(then) = &before.network
        {
            let over = stats.at.since(before.at).as_secs_f64();
            if let Some(bytes) = now.rx_bytes.checked_sub(then.rx_bytes) {
                self.received.add(stats.at, float(bytes) / over);
            }
            if let Some(bytes) = now.tx_bytes.checked_sub(then.tx_bytes) {
                self.transmitted.add(stats.at, float(bytes) / over);
            }
        }
        self.last = Some((sandbox.clone(), stats));
    }

    /// The series of a metric with the container that each is of.
    pub(super) fn series(&self, metric: Metric) -> Vec<(Option<&str>, &Series)> {
        let of = |pick: fn(&Container) -> &Series| {
            self.containers
                .iter()
                .map(|(name, container)| (Some(name.as_str()), pick(container)))
                .collect()
        };
        match metric {
            Metric::CpuUsage => of(|c| &c.cpu),
            Metric::MemoryUsage => of(|c| &c.memory),
            Metric::NetworkBytesReceivedPerSecond => vec![(None, &self.received)],
            Metric::NetworkBytesTransmittedPerSecond => vec![(None, &self.transmitted)],
        }
    }
}

/// All groups' measurements.
pub(super) type Everything = BTreeMap<GroupRef, Measured>;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aci_core::contract::{ContainerStats, NetworkStats};
    use aci_core::time::Timestamp;

    use super::*;

    fn stats(second: u64, cpu_ms: u64, rx: u64) -> SandboxStats {
        SandboxStats {
            at: Timestamp::from_secs(second),
            containers: vec![ContainerStats {
                name: "c".to_owned(),
                cpu: Duration::from_millis(cpu_ms),
                memory_bytes: 1_000,
                ..Default::default()
            }],
            network: Some(NetworkStats {
                rx_bytes: rx,
                tx_bytes: 2 * rx,
            }),
        }
    }

    fn total(series: &Series) -> Option<(u32, f64)> {
        let (from, to) = (Timestamp::EPOCH, Timestamp::from_secs(3_600));
        series.between(from, to).map(|b| (b.count, b.total))
    }

    #[test]
    fn counts_become_rates() {
        let (one, two) = (SandboxId::generate("a"), SandboxId::generate("b"));
        let mut measured = Measured::default();
        measured.take(&one, stats(0, 100, 0));
        assert_eq!(total(&measured.containers["c"].cpu), None);
        measured.take(&one, stats(10, 5_100, 1_000));
        assert_eq!(total(&measured.containers["c"].cpu), Some((1, 500.0)));
        assert_eq!(total(&measured.received), Some((1, 100.0)));
        assert_eq!(total(&measured.transmitted), Some((1, 200.0)));
        // Restarted: its count began again.
        measured.take(&one, stats(20, 100, 500));
        // Another deployment: nothing to compare with.
        measured.take(&two, stats(30, 900_000, 900_000));
        // The same moment again: no time has passed.
        measured.take(&two, stats(30, 900_001, 900_000));
        assert_eq!(total(&measured.containers["c"].cpu), Some((1, 500.0)));
        assert_eq!(total(&measured.received), Some((1, 100.0)));
        assert_eq!(total(&measured.containers["c"].memory), Some((5, 5_000.0)));
    }
}
