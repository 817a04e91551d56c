//! Sandboxes of container groups, made of Linux namespaces and cgroups: an implementation of
//! [`Isolation`](aci_core::contract::Isolation) that needs nothing installed, no daemon, and no
//! root unless you want limits and addresses that others reach.
//!
//! ```no_run
//! use aci_core::contract::{Isolation, SandboxSpec};
//! use aci_isolation::{Namespaces, NamespacesOptions};
//!
//! # async fn example(spec: SandboxSpec) -> aci_core::error::Result<()> {
//! let isolation = Namespaces::new(NamespacesOptions::default())?;
//! for missing in isolation.capability().missing {
//!     println!("{missing}");
//! }
//! let sandbox = isolation.create(spec).await?;
//! sandbox.destroy().await
//! # }
//! ```
//!
//! # How it is built
//!
//! Each sandbox has an **agent**, a static single-threaded program that the build script builds
//! and that this crate carries as bytes. It is started from a sealed memory file by posix_spawn:
//! the host program never forks, whatever its size and its threads, and no file on disk can be
//! swapped. The agent belongs to nobody afterwards. When the host program ends, however it ends,
//! containers run on, their logs and exit codes are kept, and the next program takes over with
//! [`Isolation::adopt`](aci_core::contract::Isolation::adopt). When an agent ends, the kernel ends
//! everything in its sandbox, because the agent is the first process of the sandbox's pid
//! namespace.
//!
//! | namespace | of | what for |
//! |---|---|---|
//! | user | sandbox | rights over the others; user 0 inside is nobody outside |
//! | net, ipc, uts | sandbox | containers of a group reach each other on localhost, share `/dev/shm` and the host name |
//! | mount | agent | volumes, mounted once, seen by nobody else |
//! | pid | sandbox, and each container | nobody outlives the agent; containers do not see each other |
//! | mount, cgroup | container | its own root, its own view of its limits |
//!
//! A container has an **init** of its own, which is the agent's code in a child: it builds the file
//! system, then reaps. The container's program and those of exec are children of the agent that
//! join the container's namespaces and then give up every right that they shall not have: user,
//! capabilities, `no_new_privs`, system call filter. When the container's program ends, its init
//! is killed, and the kernel kills everybody else in there as one act.
//!
//! # What holds a container
//!
//! - Docker's default system call filter, compiled here to a tree-shaped BPF program, or the
//!   document's `seccompProfile`.
//! - Docker's 14 capabilities, more or fewer as the document says. Everything that a container can
//!   write to is mounted `nodev`, so that a device made by `mknod` is of no use.
//! - `/proc` and `/sys` masked as Docker does, by mounts that are placed through the file systems'
//!   own descriptors.
//! - A device gate in the container's cgroup (a BPF program, or the v1 controller): only the
//!   default devices open, whatever nodes a container gets hold of.
//! - Landlock for the container's own program where the kernel has it, unless it may mount: nothing
//!   outside of the root, and no look into processes that exec starts.
//! - Resource limits that do not depend on those of the embedding program.
//! - Paths that an image can shape are resolved by openat2 inside the root.
//! - No descriptor of the agent reaches a program; a working directory outside of the root is
//!   refused; the agent's own program is a sealed memory file.
//!
//! - A user namespace for each sandbox, with host ids of its own
//!   ([`NamespacesOptions::user_ids`], [`NamespacesOptions::user_count`]). What is on disk is shown
//!   through idmapped mounts, so that ids on disk are those of the image. A privileged container has
//!   all rights in that namespace, none on the host. The agent of root's sandboxes stays outside of it.
//! - A container's mount namespace is a copy that belongs to the user namespace: the kernel locks
//!   every mount and every flag in it, so that `CAP_SYS_ADMIN` inside takes no mask away.
//! - The memory of the agent, of inits and of processes before their exec can be read by nobody
//!   but the host's root.
//!
//! Idmapped mounts for overlayfs need Linux 5.19 and a file system that has them (ext4, xfs, btrfs,
//! tmpfs, ...). Without them, [`Isolation::capability`](aci_core::contract::Isolation::capability)
//! says that user 0 is the host's. A volume on a file system without them takes the user namespace
//! from its own sandbox only, with a warning, unless the volume is open to everybody (mode 0777,
//! as Azure file shares are mounted); image layers on one are refused with a hint.
//!
//! # Limits
//!
//! Cgroups of version 1, version 2 and both at once. CPU is exact to a hundredth of a core, swap is
//! not granted on top of memory, and a bound of processes is the user's own: the init comes on top.
//! Without root they need a version 2 cgroup that systemd has delegated; otherwise there are no
//! limits, and [`Isolation::capability`](aci_core::contract::Isolation::capability) says so.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `cgroups-rs` | [`CgroupDriver::CgroupsRs`]: cgroups made, entered, limited, frozen, killed, measured and removed by the crate of this name, in the host and in the agent |
//! | `microvm` | `MicroVm`: groups in virtual machines of their own |
//!
//! Cgroups are made by this crate's own few hundred lines unless an option says otherwise. The crate
//! `cgroups-rs` 0.5.1 passes the same suite and keeps the same limits, also in guests with version 2
//! alone, and is not the default for what it costs and lacks:
//!
//! - of a container that waits, all statistics are read in 0.31 ms (here: 0.045 ms) and again in 0.20 ms
//!   (0.003 ms), because every file is opened anew and many that nobody asked for are read; the agent has
//!   1.88 MB (1.71). Starts and removals take as long, as far as a machine with 2 cores at load 6 can tell:
//!   22 ms (23) and 17 ms (16), 60 runs in turns (`cargo bench -p aci-benches --features cgroups-rs --bench
//!   cgroups`);
//! - it brings 64 crates, among them a second async runtime for a D-Bus that is not used;
//! - it knows version 1 or version 2, at fixed mount points: both at once, and the handing down of
//!   controllers, are done beside it;
//! - its way of setting all limits at once drops the errors of memory and io, so that limits are set one
//!   by one; it cannot start a process in a version 2 cgroup (only move it there, which stops all forks
//!   and exits of the machine), kill on version 1, wait until a version 2 cgroup is frozen, nor remove
//!   what is below one;
//! - it has no pressure and no count of out-of-memory kills for version 2, and its reader of `io.stat`
//!   always says 0 (the files are read beside it);
//! - a cgroup that somebody is still leaving holds the agent up for up to 150 ms a controller.
//!
//! # Speed
//!
//! Making a sandbox is mostly making its namespaces. With
//! [`NamespacesOptions::spares`] some are made ahead of need, by a thread of their own while nobody
//! asks for one. Statistics are read from files that stay open after they were asked for once: about
//! ten descriptors for each container that runs, here and in its agent.
//!
//! # Metrics
//!
//! | counter | counts |
//! |---|---|
//! | `aci_isolation_sandboxes_created_total` | sandboxes made |
//! | `aci_isolation_sandboxes_adopted_total` | sandboxes taken over from an earlier program |
//! | `aci_isolation_sandboxes_removed_total` | sandboxes removed |
//! | `aci_isolation_container_starts_total` | containers started |
//! | `aci_isolation_execs_total` | further processes started |
//!
//! # Building
//!
//! The build script links the agent with the static C library of the gnu target (Debian's
//! `libc6-dev` has it, Fedora's is `glibc-static`). The environment variable `ACI_AGENT` names an
//! agent that was built elsewhere, to be embedded instead.

mod capabilities;
mod cdi;
#[allow(dead_code, reason = "parts of it are the agent's")]
mod cgroup;
mod channel;
mod claim;
#[allow(dead_code, reason = "parts of it are the agent's")]
mod devices;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod launch;
#[allow(dead_code, reason = "parts of it are the agent's, or a guest's")]
mod logfiles;
mod logs;
mod meters;
#[cfg(feature = "microvm")]
pub mod microvm;
mod namespaces;
mod options;
#[allow(dead_code, reason = "parts of it are the agent's")]
mod procfs;
#[allow(dead_code, reason = "parts of it are the agent's")]
mod protocol;
mod ranges;
#[cfg(feature = "microvm")]
#[allow(dead_code, reason = "parts of it are the guest's")]
mod rtnl;
mod sandbox;
mod seccomp;
mod spares;
mod stream;
mod sys;
#[cfg(feature = "microvm")]
#[allow(dead_code, reason = "parts of it are the guest's")]
mod tunnel;
#[cfg(feature = "weaken")]
#[doc(hidden)]
pub mod weaken;
#[cfg(all(feature = "weaken", not(debug_assertions)))]
compile_error!("the feature `weaken` makes holes for tests; it is not for a release");

pub use namespaces::Namespaces;
pub use options::{CgroupDriver, NamespacesOptions};

#[cfg(test)]
#[path = "../agent/log.rs"]
#[allow(dead_code, reason = "only its parts without the agent are tested here")]
mod agent_log;
#[cfg(test)]
#[path = "../agent/user.rs"]
mod agent_user;
