//! What the host library and the agent of a sandbox say to each other.
//!
//! These sources are compiled into both sides, so the two always agree within one build; across
//! builds [`VERSION`] is compared when a host connects to an agent that an earlier program left.
//! A conversation is one connection: a request, then its reply (and for a further process, later,
//! its end). Nothing is remembered about a connection, so a lost one costs nothing.

pub(crate) mod frame;
pub(crate) mod socket;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::devices::{Gate, Rule};

/// Grows with every change that an older side would misread.
pub(crate) const VERSION: u32 = 3;

/// Bytes that may be secret: never printed, wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hidden(pub(crate) Vec<u8>);

impl Drop for Hidden {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// Bounds of a sandbox or a container; the units are those of the contract's `Limits`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bounds {
    pub(crate) cpu_max: Option<u32>,
    pub(crate) cpu_request: Option<u32>,
    pub(crate) memory_max: Option<u64>,
    pub(crate) memory_request: Option<u64>,
    pub(crate) pids_max: Option<u32>,
    /// Bytes a second that are read from, and written to, each disk.
    pub(crate) io_max: Option<u64>,
}

/// Where this machine's cgroups are; see `cgroup::Layout`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupPlan {
    /// Mount point of the v2 hierarchy.
    pub(crate) v2: Option<String>,
    /// Controllers that the v2 hierarchy has.
    pub(crate) v2_controllers: Vec<String>,
    /// v1 controllers and the mount point of each.
    pub(crate) v1: Vec<(String, String)>,
    /// How devices are held back.
    pub(crate) devices: Gate,
    /// `major:minor` of the host's disks.
    pub(crate) disks: Vec<String>,
    /// Path below each mount point under which sandboxes are made, without leading slash.
    pub(crate) parent: String,
    /// Who makes them.
    pub(crate) driver: Driver,
}

/// An implementation of cgroups; see `cgroup::tree::Driver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Driver {
    #[default]
    Files,
    CgroupsRs,
}

/// How user ids inside are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Users {
    /// The host's own, as root.
    Host,
    /// As root: a user namespace whose ids from 0 on are the host's from `first` on. The agent
    /// stays outside of it.
    Mapped { first: u32, count: u32 },
    /// A user namespace in which only user 0 exists: the caller.
    Single { uid: u32, gid: u32 },
    /// A user namespace with the caller as user 0 and further ranges from `/etc/subuid` and
    /// `/etc/subgid` from 1 on, set by `newuidmap` and `newgidmap`.
    Ranges {
        uid: u32,
        gid: u32,
        uids: (u32, u32),
        gids: (u32, u32),
    },
}

impl Users {
    /// What user or group `id` of the sandbox is for the agent.
    pub(crate) fn outside(&self, id: u32) -> u32 {
        match self {
            Self::Mapped { first, .. } => first.saturating_add(id),
            _ => id,
        }
    }

    /// Whether the agent is itself inside the sandbox's user namespace.
    pub(crate) fn rootless(&self) -> bool {
        matches!(self, Self::Single { .. } | Self::Ranges { .. })
    }
}

/// The first message to an agent: what it can prepare before it is known whose it will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) version: u32,
    pub(crate) purpose: Purpose,
    pub(crate) users: Users,
    pub(crate) cgroup: Option<CgroupPlan>,
    /// Deliberate holes; only agents that were built for tests know any.
    pub(crate) holes: u32,
}

/// What an agent is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Only tries whether namespaces and overlayfs can be had, answers and ends.
    Probe,
    /// Waits for an [`Identity`], which may be on its way already.
    Sandbox,
    /// The same, and answers [`Reply::Done`] with its own pidfd when it has begun to wait.
    Spare,
}

/// The second message to an agent: what to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) hostname: String,
    /// The sandbox's directory of the state directory.
    pub(crate) dir: String,
    pub(crate) bounds: Bounds,
    pub(crate) volumes: Vec<Volume>,
}

/// A volume of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) read_only: bool,
    pub(crate) source: Source,
}

/// Where its content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    Directory(String),
    Memory(Option<u64>),
    /// Names and contents; the flag tells secret (mode 0400) from public (0444).
    Files(bool, Vec<(String, Hidden)>),
}

/// A layer of a root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Layer {
    Directory(String),
    Erofs(String),
}

/// Where a root file system is written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Upper {
    /// Nowhere.
    None,
    /// Upper and work directory.
    Directory(String, String),
    /// In memory that counts as the container's, and goes with it.
    Memory,
}

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) argv: Vec<Hidden>,
    /// `NAME=value` each; the last of a name wins.
    pub(crate) env: Vec<Hidden>,
    pub(crate) cwd: String,
    /// The image's `User`.
    pub(crate) user: Option<String>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// Rows and columns of a terminal.
    pub(crate) terminal: Option<(u16, u16)>,
}

/// The rights of a container's processes, decided by the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rights {
    pub(crate) privileged: bool,
    pub(crate) no_new_privs: bool,
    /// One bit a capability, by number.
    pub(crate) capabilities: u64,
    /// A compiled filter (`struct sock_filter`s in memory order); empty for none.
    pub(crate) filter: Vec<u8>,
}

/// A device of the host in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    /// Absolute path in the container.
    pub(crate) path: String,
    /// What it is and how it may be used.
    pub(crate) rule: Rule,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A container to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    /// Topmost first.
    pub(crate) layers: Vec<Layer>,
    pub(crate) upper: Upper,
    pub(crate) program: Program,
    /// Volume, path, read-only.
    pub(crate) mounts: Vec<(String, String, bool)>,
    /// Path, content, mode.
    pub(crate) files: Vec<(String, Hidden, u32)>,
    pub(crate) bounds: Bounds,
    pub(crate) rights: Rights,
    pub(crate) log_bytes: u64,
    /// Besides the default ones.
    pub(crate) devices: Vec<Device>,
    /// A file or directory of the host, where it goes, read-only.
    pub(crate) binds: Vec<(String, String, bool)>,
    /// Number of a resource (`RLIMIT_*`), soft and hard limit.
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
}

/// What a host asks. Descriptors go along where the variant says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Answered by [`Reply::Hello`], with the network namespace's descriptor.
    Hello,
    Start(Box<Start>),
    /// With the descriptors of standard input, output and error, in this order, unless a terminal
    /// is asked for; then [`Reply::Started`] brings the terminal's.
    Exec {
        container: String,
        program: Program,
    },
    Signal {
        container: String,
        signal: u8,
        all: bool,
    },
    /// A process of an `Exec`, by the number of its `Started`.
    SignalProcess {
        process: u64,
        signal: u8,
    },
    /// Answered when the generation is higher; `None` answers at once.
    Status {
        seen: Option<u64>,
    },
    Stats,
    /// Answered by [`Reply::Dialed`] with the socket when it is connected.
    Dial {
        ip: std::net::IpAddr,
        port: u16,
        /// The interface of a link-local IPv6 address (serde's form of a socket address lacks it).
        scope: u32,
    },
    /// Ends every container, then the agent.
    Destroy,
    /// Other files for a volume of files: names and contents. At the end of the list, so that agents
    /// that do not know it misread nothing.
    Files {
        volume: String,
        files: Vec<(String, Hidden)>,
    },
    /// Shows a layer, or a directory with all that is mounted in it, to a running container that
    /// shows it on: a name in its directory `/share`. What is there already stays.
    Share {
        container: String,
        layer: Layer,
        name: String,
        deep: bool,
        read_only: bool,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: Option<u8>,
    pub(crate) oom: bool,
    /// Microseconds since 1970.
    pub(crate) at: u64,
}

/// One container's latest attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    /// Microseconds since 1970.
    pub(crate) since: u64,
    pub(crate) exit: Option<Exit>,
}

/// What one container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) name: String,
    pub(crate) cpu_micros: u64,
    pub(crate) memory: u64,
    pub(crate) peak: Option<u64>,
    pub(crate) pids: u64,
    pub(crate) io: Option<(u64, u64)>,
    /// Microseconds of waiting for CPU, memory and io.
    pub(crate) pressure: Option<(u64, u64, u64)>,
    pub(crate) exact: bool,
}

/// What an agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Hello {
        version: u32,
        id: String,
    },
    Done,
    Failed(Failure),
    Started {
        process: u64,
    },
    Exited(Exit),
    Status {
        generation: u64,
        containers: Vec<Status>,
    },
    Stats {
        containers: Vec<Usage>,
        /// Received and transmitted bytes without loopback.
        network: Option<(u64, u64)>,
    },
    Dialed,
}

/// What kind of failure, in the contract's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Invalid,
    NotFound,
    Conflict,
    Unsupported,
    PermissionDenied,
    Unavailable,
    /// A file system cannot show its files to a user namespace (mount_setattr(2)).
    Unmappable,
    Internal,
}

/// A failure in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// What a shell would exit with, for a program that could not be executed.
    pub(crate) exit_code: Option<i32>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            exit_code: None,
        }
    }

    pub(crate) fn exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

// The agent is built without tests; these run with the library's.
#[cfg(test)]
mod tests;
