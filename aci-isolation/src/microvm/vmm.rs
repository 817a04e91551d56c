//! What a virtual machine monitor is asked for: machines as values, programs as answers.
//!
//! A monitor is a program that runs in a jail which the isolation makes, so a driver starts
//! nothing by itself: it says what to run for a machine, and what to say to it while it runs.

use std::fmt;
use std::path::{Path, PathBuf};

use aci_core::error::Result;
use async_trait::async_trait;

/// What executes a guest's instructions.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// Instructions are translated by the monitor (QEMU's TCG). Slow, works everywhere, and **not
    /// an isolation boundary**, as QEMU itself says: for development and tests.
    Emulation,
}

impl Accelerator {
    /// Whether a hostile guest is meant to be held.
    #[must_use]
    pub const fn boundary(self) -> bool {
        match self {
            Self::Emulation => false,
        }
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What executes its instructions.
    pub accelerator: Accelerator,
    /// Virtual processors, 1 or more.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// An ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// The first file system.
    pub initramfs: PathBuf,
    /// Further words of the kernel's command line.
    pub arguments: Vec<String>,
    /// Sockets and ports.
    pub sockets: Sockets,
    /// The name of a tap, in the network namespace that the monitor runs in, which its user may
    /// open (`/dev/net/tun`): the guest's first network link. `None` for a machine without one.
    pub tap: Option<String>,
}

/// Where a machine's sockets are, as its monitor sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// Made by the monitor: the guest's port `aci`.
    pub line: PathBuf,
    /// Made by the monitor: takes its commands.
    pub control: PathBuf,
    /// Made by a server of files (vhost-user), with the tag by which the guest mounts them.
    pub share: (PathBuf, String),
}

/// A program to run for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Files and directories of the host that it needs, read-only.
    pub needs: Vec<PathBuf>,
    /// Memory that it uses above the guest's, in bytes.
    pub overhead: u64,
}

/// A virtual machine monitor.
#[async_trait]
pub trait Vmm: Send + Sync + fmt::Debug {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Whether it can be used on this host. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`NotFound`](aci_core::error::ErrorKind::NotFound) naming the package to install;
    /// [`Unsupported`](aci_core::error::ErrorKind::Unsupported) with what was found.
    fn probe(&self, accelerator: Accelerator) -> Result<()>;

    /// What to run for a machine.
    fn launch(&self, machine: &Machine) -> Launch;

    /// Stops the guest's processors, or lets them go on.
    ///
    /// # Errors
    /// [`Lost`](aci_core::error::ErrorKind::Lost) if the monitor does not answer.
    ///
    /// # Cancel safety
    /// The guest may be stopped or going on; call it again.
    async fn pause(&self, control: &Path, stopped: bool) -> Result<()>;
}
