//! What a sandbox or a container may use.

use serde::{Deserialize, Serialize};

/// Bounds and shares of one container or of a whole sandbox; `None` means unbounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Upper bound of CPU time, in hundredths of a core (150 is one and a half cores).
    pub cpu_max: Option<u32>,
    /// CPU request in hundredths of a core; it becomes the weight against its neighbours.
    pub cpu_request: Option<u32>,
    /// Upper bound of memory in bytes; swap is not granted on top.
    pub memory_max: Option<u64>,
    /// Memory request in bytes; it is protected from reclaim where the kernel can.
    pub memory_request: Option<u64>,
    /// Upper bound of processes and threads.
    pub pids_max: Option<u32>,
}
