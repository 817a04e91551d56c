//! Where a group runs: sandboxes and the containers in them.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::image::RootFs;
use super::process::{Duplex, ExecSpec, ExitStatus, Process, ProcessSpec, Signal};
use super::volume::VolumeSource;
use crate::error::Result;
use crate::id::SandboxId;
use crate::size::{Gpus, Limits};
use crate::time::Timestamp;

/// What an isolation can do on this machine, and what it cannot, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsolationCapability {
    /// The implementation's name, for example `namespaces`.
    pub name: String,
    /// Whether a hostile container is meant to be held; `false` for fakes and emulation.
    pub boundary: bool,
    /// Whether CPU and memory limits are enforced.
    pub limits: bool,
    /// Whether sandboxes outlive the program that made them.
    pub survives_host: bool,
    /// Whether sandboxes can be stopped in their course ([`Sandbox::freeze`]).
    pub freeze: bool,
    /// Whether containers may run as more than one user id.
    pub many_users: bool,
    /// Whether `sku: Confidential` can be met.
    pub confidential: bool,
    /// Whether `osType: Windows` can be met.
    pub windows: bool,
    /// GPUs that it can give to containers, by kind.
    pub gpus: Vec<Gpus>,
    /// Each missing ability in one sentence for an operator, with what would bring it.
    pub missing: Vec<String>,
}

/// Makes sandboxes: one for each deployment of a group.
///
/// Clones of an `Arc` share everything. Sandboxes are known by id, on disk and in the kernel, so a
/// second program over the same state directory finds them.
#[async_trait]
pub trait Isolation: Send + Sync + fmt::Debug {
    /// What it can do here. Cheap; the value does not change.
    fn capability(&self) -> IsolationCapability;

    /// Makes a sandbox without containers: namespaces or a machine, group limits, volumes.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::error::ErrorKind::AlreadyExists) if the id is taken;
    /// [`PermissionDenied`](crate::error::ErrorKind::PermissionDenied) or
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported) with the switch to flip. Nothing is
    /// left behind.
    ///
    /// # Cancel safety
    /// A sandbox may exist afterwards; `list` shows it and [`Isolation::remove`] removes it.
    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>>;

    /// Takes over a sandbox that an earlier program left running.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if nothing of it exists;
    /// [`Lost`](crate::error::ErrorKind::Lost) if its supervisor is dead (then only
    /// [`Isolation::remove`] is left to do).
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn adopt(&self, id: &SandboxId) -> Result<Arc<dyn Sandbox>>;

    /// All sandboxes of which anything is left, running or not.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if the state cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn list(&self) -> Result<Vec<SandboxId>>;

    /// Kills and removes everything of a sandbox, whatever its state. Idempotent: an unknown id is
    /// no error.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) naming what could not be removed.
    ///
    /// # Cancel safety
    /// A part may be removed; call it again.
    async fn remove(&self, id: &SandboxId) -> Result<()>;
}

/// What a sandbox is made from.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// Its id.
    pub id: SandboxId,
    /// The host name inside (RFC 1123 label).
    pub hostname: String,
    /// Limits of all containers together.
    pub limits: Limits,
    /// Volumes that containers may mount, by name.
    pub volumes: Vec<SandboxVolume>,
}

/// A volume inside a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxVolume {
    /// The document's volume name.
    pub name: String,
    /// Where its content comes from.
    pub source: VolumeSource,
    /// No container may write to it.
    pub read_only: bool,
}

/// A network namespace and the process that keeps it.
#[derive(Clone, Debug)]
pub struct NamespaceHandle {
    /// A process inside, on the host.
    pub pid: u32,
    /// The network namespace.
    pub net: Arc<OwnedFd>,
}

/// What a network driver attaches to.
#[derive(Clone, Debug)]
pub enum NetworkEndpoint {
    /// A network namespace with only loopback in it, which is up.
    Namespace(NamespaceHandle),
    /// Nothing to attach to (fakes).
    None,
}

/// A mount of a sandbox's volume in one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// The volume's name.
    pub volume: String,
    /// Absolute path in the container; made if missing; symlinks of the image cannot lead out.
    pub path: String,
    /// Not writable through this mount.
    pub read_only: bool,
}

/// A small file that is laid over the root file system (`/etc/hosts`, `/etc/resolv.conf`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Absolute path in the container.
    pub path: String,
    /// Its content.
    pub content: Bytes,
    /// Its mode, for example `0o644`.
    pub mode: u32,
}

/// Which system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompPolicy {
    /// The default profile, the same as Docker's.
    #[default]
    Default,
    /// A profile in the OCI/Docker JSON form (ACI's `seccompProfile`, decoded).
    Profile(String),
    /// No filter. Only privileged containers get it.
    Unconfined,
}

/// A container's rights: ACI's `securityContext`, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityPolicy {
    /// All capabilities, no masks, no filter.
    pub privileged: bool,
    /// Whether set-user-id programs and file capabilities may add rights
    /// (`no_new_privs` is the opposite).
    pub allow_privilege_escalation: bool,
    /// Capabilities to add to the default 14, such as `NET_ADMIN` (with or without `CAP_`), or
    /// `ALL`.
    pub add_capabilities: Vec<String>,
    /// Capabilities to take away; applied before adding, as Kubernetes and Docker do.
    pub drop_capabilities: Vec<String>,
    /// The system call filter.
    pub seccomp: SeccompPolicy,
}

/// A container to start.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// The document's name of it; unique in the group.
    pub name: String,
    /// 0 for the first start, one more for each restart.
    pub attempt: u32,
    /// Its root file system, from [`ImageStore::prepare`](super::ImageStore::prepare).
    pub rootfs: RootFs,
    /// What to run.
    pub process: ProcessSpec,
    /// Volumes to mount.
    pub mounts: Vec<MountSpec>,
    /// Files to lay over the root.
    pub files: Vec<FileEntry>,
    /// Its own limits.
    pub limits: Limits,
    /// Its rights.
    pub security: SecurityPolicy,
    /// Upper bound of the log that is kept, in bytes.
    pub log_bytes: u64,
    /// How many GPUs it gets, for itself alone as long as the sandbox exists.
    pub gpus: u32,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Its process runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Its process ended; nothing of it is left but its log.
    Exited {
        /// When it had started.
        since: Timestamp,
        /// How it ended.
        status: ExitStatus,
    },
}

/// One container's latest attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Which attempt.
    pub attempt: u32,
    /// What it does.
    pub state: RunState,
}

/// All containers of a sandbox at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Grows with every change; to be given to [`Sandbox::changed`].
    pub generation: u64,
    /// The latest attempt of every container that was ever started, by name.
    pub containers: Vec<ContainerStatus>,
}

/// A sandbox: the wall around one group.
///
/// All its calls may be made at once from many tasks. State is level-triggered: a caller that was
/// away asks [`Sandbox::changed`] and misses nothing, because a new attempt of a container is only
/// started by a caller that has seen the end of the one before.
#[async_trait]
pub trait Sandbox: Send + Sync + fmt::Debug {
    /// Its id.
    fn id(&self) -> &SandboxId;

    /// Where a network driver attaches.
    fn network(&self) -> NetworkEndpoint;

    /// Starts a container's process. Returns when its program was executed (or could not be).
    ///
    /// Without a program ([`argv`](super::ProcessSpec::argv) empty) everything of the container is
    /// made and it waits, running in the eyes of `status`: the first process that
    /// [`Sandbox::exec`] starts in it is then its own, with the streams of that call instead of
    /// the log, and its end is the container's. Until then [`Signal::KILL`] to all ends it.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::ErrorKind::Invalid) for what the container's author can mend, in
    /// words for him: a program that is not there
    /// ([`program_exit_code`](crate::error::Error::program_exit_code) 127) or may not be executed
    /// (126), an unknown user, an unknown volume, a bad mount path;
    /// [`Conflict`](crate::error::ErrorKind::Conflict) if the container runs;
    /// [`Lost`](crate::error::ErrorKind::Lost) if the sandbox is gone. On an error nothing of the
    /// attempt is left: `status` answers as before.
    ///
    /// # Cancel safety
    /// The container may have been started; `status` tells.
    async fn start(&self, container: ContainerSpec) -> Result<()>;

    /// Runs a further process in a running container, or the first in one that waits for its
    /// program: in its namespaces, cgroup and rights.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if no such container runs; otherwise as
    /// [`Sandbox::start`].
    ///
    /// # Cancel safety
    /// The process may have been started; its streams are closed.
    async fn exec(&self, container: &str, exec: ExecSpec) -> Result<Process>;

    /// Signals a container's own process, or with `all` every process in it (then
    /// [`Signal::KILL`] is one act that no fork escapes). Ended or unknown containers are no error.
    ///
    /// # Errors
    /// [`Lost`](crate::error::ErrorKind::Lost) if the sandbox is gone.
    ///
    /// # Cancel safety
    /// The signal may have been sent.
    async fn signal(&self, container: &str, signal: Signal, all: bool) -> Result<()>;

    /// The containers now.
    ///
    /// # Errors
    /// [`Lost`](crate::error::ErrorKind::Lost) if the sandbox is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn status(&self) -> Result<SandboxStatus>;

    /// Waits until the generation is higher than `seen`, then answers like [`Sandbox::status`].
    ///
    /// # Errors
    /// [`Lost`](crate::error::ErrorKind::Lost) as soon as the sandbox is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn changed(&self, seen: u64) -> Result<SandboxStatus>;

    /// A container's log, oldest line first: that of all its attempts in this sandbox, as far as
    /// [`ContainerSpec::log_bytes`] allows. Following ends with the attempt that runs when it is
    /// asked for, and at once if none runs.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if it was never started;
    /// [`Lost`](crate::error::ErrorKind::Lost) if the sandbox is gone. If it goes while the log is
    /// followed, the stream's last item is that error.
    ///
    /// # Cancel safety
    /// Dropping the future or the stream loses nothing of the log.
    async fn logs(&self, container: &str, query: LogQuery) -> Result<LogStream>;

    /// What the containers use.
    ///
    /// # Errors
    /// [`Lost`](crate::error::ErrorKind::Lost) if the sandbox is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn stats(&self) -> Result<SandboxStats>;

    /// Connects to a TCP address as seen from inside the group's network (loopback included).
    ///
    /// # Errors
    /// [`Unavailable`](crate::error::ErrorKind::Unavailable) if nothing listens or the time is
    /// over; [`Lost`](crate::error::ErrorKind::Lost) if the sandbox is gone.
    ///
    /// # Cancel safety
    /// A connection that was made is closed.
    async fn dial(&self, address: SocketAddr, timeout: Duration) -> Result<Box<dyn Duplex>>;

    /// Replaces the files of a volume that was given as [`VolumeSource::Secret`] or
    /// [`VolumeSource::Files`], in running containers too. It is one step for whoever reads: there
    /// are all files of before, and then all the new ones. Nothing happens if they are the same.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if the sandbox has no such volume;
    /// [`Invalid`](crate::error::ErrorKind::Invalid) if it is none of files, or for files that
    /// cannot be; [`Lost`](crate::error::ErrorKind::Lost) if the sandbox is gone. The files of
    /// before stay.
    ///
    /// # Cancel safety
    /// The files may have been replaced, all of them; call it again.
    async fn replace_files(&self, volume: &str, files: VolumeSource) -> Result<()>;

    /// Stops every process of the containers in its course, or lets all go on. Returns when that is
    /// so. Idempotent. What is asked of a frozen sandbox that needs its processes (`start`, `exec`,
    /// their signals) waits until it goes on, but for [`Signal::KILL`] and `destroy`, which may thaw
    /// it first.
    ///
    /// # Errors
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported) where
    /// [`IsolationCapability::freeze`] is false; [`Lost`](crate::error::ErrorKind::Lost) if the
    /// sandbox is gone.
    ///
    /// # Cancel safety
    /// It may or may not be frozen; call it again.
    async fn freeze(&self, frozen: bool) -> Result<()>;

    /// Kills every process and removes everything of the sandbox. Idempotent.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) naming what could not be removed.
    ///
    /// # Cancel safety
    /// A part may be removed; call it again.
    async fn destroy(&self) -> Result<()>;
}

/// Which part of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last so many lines.
    pub tail: Option<u32>,
    /// Only lines at or after this time.
    pub since: Option<Timestamp>,
    /// Go on with new lines until the container has ended.
    pub follow: bool,
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read from the container.
    pub at: Timestamp,
    /// From which stream.
    pub stream: OutputStream,
    /// The line without its end.
    pub line: Bytes,
    /// Whether the line goes on in the next record of this stream (very long lines are cut).
    pub partial: bool,
}

/// Lines of a log.
pub type LogStream = BoxStream<'static, Result<LogLine>>;

/// How long a container's processes waited since its start: the totals of `some` in the kernel's
/// pressure stall information, in which at least one of them was held up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// For a CPU, its own quota included.
    pub cpu: Duration,
    /// For memory: reclaim, or pages that had been dropped.
    pub memory: Duration,
    /// For block devices.
    pub io: Duration,
}

/// What one container has used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// Its name.
    pub name: String,
    /// CPU time since its start, all attempts that this sandbox counts.
    pub cpu: Duration,
    /// Memory in use now, in bytes, without reclaimable file cache (the working set).
    pub memory_bytes: u64,
    /// The most memory it ever used, in bytes, where the kernel tells.
    pub memory_peak_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from and written to block devices, where the kernel tells.
    pub io_bytes: Option<(u64, u64)>,
    /// How long its processes waited, where the kernel tells.
    pub pressure: Option<Pressure>,
    /// Whether the numbers come from its cgroup; otherwise they are summed over its processes,
    /// and what ended processes used is only known for those that were waited for.
    pub exact: bool,
}

/// Bytes through a group's network interfaces, without loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStats {
    /// Received.
    pub rx_bytes: u64,
    /// Transmitted.
    pub tx_bytes: u64,
}

/// What a sandbox has used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStats {
    /// When it was measured.
    pub at: Timestamp,
    /// Each running container.
    pub containers: Vec<ContainerStats>,
    /// The group's network, if it has one.
    pub network: Option<NetworkStats>,
}
