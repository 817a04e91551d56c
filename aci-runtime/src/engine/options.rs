//! The engine's settings.

use std::time::Duration;

use aci_core::lifecycle::BackOff;
use aci_core::size::{Capacity, Cpu, Memory, Quota, WhenFull};
use aci_core::validate::{MaxSize, Rules};

/// No bound: what the host has decides.
const LARGEST: MaxSize = MaxSize {
    cpu: Cpu::from_hundredths(u32::MAX),
    memory: Memory::from_tenths(u32::MAX),
};

/// Settings with ACI's values as defaults.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The region's name, in answers and messages. Default `local`.
    pub location: String,
    /// What the host gives to groups. Default: all of the machine's processors and memory.
    pub capacity: Option<Capacity>,
    /// What may be used. Default: no quota.
    pub quota: Quota,
    /// What happens to a group that fits the host but not now. Default: it is refused.
    pub when_full: WhenFull,
    /// By which rules documents are judged. Default: ACI's, but for the largest sizes, which here
    /// are the host's.
    pub rules: Rules,
    /// Time between the stop signal and the kill. Default 10 s, Docker's value (ACI states none;
    /// Kubernetes has 30 s).
    pub grace: Duration,
    /// Waits between restarts. Default: Kubernetes' values, 10 s doubled up to 5 min.
    pub back_off: BackOff,
    /// Log of a running container that is kept, in bytes. Default 4 MiB, as ACI.
    pub running_log_bytes: u64,
    /// Log of a stopped group's container that is kept, in bytes. Default 16 KiB, as ACI.
    pub stopped_log_bytes: usize,
    /// Log of a stopped group's container that is kept, in lines. Default 1,000, as ACI.
    pub stopped_log_lines: u32,
    /// Processes and threads of one container. Default 4,096.
    pub pids_max: u32,
    /// How long looking up a secret reference may take, with further tries every second if the
    /// vault cannot be reached. Default 30 s.
    pub secret_timeout: Duration,
    /// Notices that a slow watcher may be behind before it misses some. Default 1,024.
    pub notices: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            location: "local".to_owned(),
            capacity: None,
            quota: Quota::UNLIMITED,
            when_full: WhenFull::Refuse,
            rules: Rules {
                max_standard: LARGEST,
                max_confidential: LARGEST,
                max_spot: LARGEST,
                ..Rules::default()
            },
            grace: Duration::from_secs(10),
            back_off: BackOff::default(),
            running_log_bytes: 4 << 20,
            stopped_log_bytes: 16 << 10,
            stopped_log_lines: 1_000,
            pids_max: 4_096,
            secret_timeout: Duration::from_secs(30),
            notices: 1_024,
        }
    }
}
