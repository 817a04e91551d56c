//! Deliberate holes, for tests that show that they would notice one.
//!
//! Only with the feature `weaken`, which refuses to be built without debug assertions: neither the
//! host library nor the agent of a release has any of this.

/// The memory and the program of the agent and of inits can be read.
pub(crate) const AGENT_OPEN: u32 = 1;
/// Programs inherit a descriptor of the host's root, and working directories are not checked.
pub(crate) const LEAKS: u32 = 1 << 1;
/// Masks are the image's own `/dev/null`, found by path (CVE-2025-31133).
pub(crate) const MASK_BY_PATH: u32 = 1 << 2;
/// `/dev/console` is mounted by path, before `/dev` is ours (CVE-2025-52565).
pub(crate) const CONSOLE_BY_PATH: u32 = 1 << 3;
/// A new process writes its settings through the container's own `/proc` (CVE-2025-52881).
pub(crate) const PROC_BY_PATH: u32 = 1 << 4;
/// Containers have no pid namespaces.
pub(crate) const PIDS: u32 = 1 << 5;
/// Mounts go back to the host.
pub(crate) const PROPAGATION: u32 = 1 << 6;
/// Containers have no cgroup namespaces.
pub(crate) const CGROUPS: u32 = 1 << 7;
/// Devices are held back neither by mount flags nor by cgroups.
pub(crate) const DEVICES: u32 = 1 << 8;
/// `no_new_privs` is never set.
pub(crate) const PRIVILEGES: u32 = 1 << 9;
/// There is no system call filter.
pub(crate) const FILTER: u32 = 1 << 10;
/// Places in the root are found by plain paths.
pub(crate) const PATHS: u32 = 1 << 11;
/// There are no limits of memory and processes.
pub(crate) const LIMITS: u32 = 1 << 12;
/// Logs have no bound.
pub(crate) const LOGS: u32 = 1 << 13;
/// Resource limits are not set.
pub(crate) const RESOURCES: u32 = 1 << 14;
/// The end of a container is asked for, not enforced.
pub(crate) const POLITE: u32 = 1 << 15;
