//! Groups in virtual machines of their own: the same agent, behind a hypervisor.
//!
//! ```no_run
//! use aci_core::contract::{Isolation, SandboxSpec};
//! use aci_isolation::microvm::{Accelerator, MicroVm, MicroVmOptions};
//!
//! # async fn example(spec: SandboxSpec) -> aci_core::error::Result<()> {
//! // By name: instructions are translated, which is slow and holds nobody.
//! let isolation = MicroVm::new(MicroVmOptions::new(Accelerator::Emulation))?;
//! let sandbox = isolation.create(spec).await?;
//! sandbox.destroy().await
//! # }
//! ```
//!
//! # How it is built
//!
//! ```text
//! host program ── line.rs ──┐ Unix socket
//!   jail: a sandbox of Namespaces
//!     container "machine": QEMU ── virtio-serial ──┐
//!     container "share": virtiofsd ── virtiofs ──┐ │
//!       guest: Linux, the agent as first process (agent/guest.rs)
//!              and the agent as on a host, one wall further in: the group's containers
//! ```
//!
//! - **The jail** of a machine's monitor is a sandbox of [`Namespaces`] with two
//!   containers, so everything that holds a container holds QEMU: a user of its own without any
//!   right, the group's own network, its own mounts, pids and cgroup, Docker's filter (and QEMU's own), no
//!   capability. It outlives the program, is adopted, ended and accounted as any sandbox is; what
//!   the guest's console says is that container's log.
//! - **The guest** has nothing but the agent: it is the first process, which mounts, loads modules
//!   and then connects the line with a second process of the same program, which is the agent as
//!   it runs on a host. So exec, logs, probes and limits are the same code.
//! - **The line** is one virtio-serial port. The module `tunnel` makes of it as many
//!   conversations as wanted, with descriptors: pipes and terminals become channels with a window
//!   each. A new host program greets and goes on.
//! - **Files** of the host (layers, directory volumes) are shown to virtiofsd's container one by
//!   one when they are needed, and reach the guest by virtiofs. The guest sees nothing else of the
//!   host. Writable layers, `emptyDir` in memory, secrets and logs are in the guest's memory.
//! - **The network** of a group is that of its jail: a network driver attaches the jail's namespace as
//!   it would attach any sandbox. The address that it gives moves into the guest, MAC and routes with
//!   it, when the first container starts; in the jail's namespace two ports of a bridge are left
//!   (`net.rs`). So policy, names and published ports are the same as with namespaces.
//! - **The kernel** is the distribution's, unpacked once ([`Kernel`]); the initramfs is assembled here
//!   from the agent and modules, the same bytes each time.
//!
//! # What is not there yet
//!
//! [`Isolation::capability`] says it too: containers' user 0 is the guest's; what containers write to their root counts as
//! memory; no KVM, so no boundary. A frozen guest that another program takes over goes on.

mod initramfs;
mod jail;
mod kernel;
mod line;
mod modules;
mod net;
mod qemu;
mod sandbox;
mod size;
#[cfg(test)]
mod tests;
mod vmm;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{Isolation, IsolationCapability, Sandbox, SandboxSpec};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use async_trait::async_trait;
use tokio::sync::OnceCell;

pub use self::kernel::Kernel;
pub(crate) use self::line::Line;
pub use self::qemu::Qemu;
pub use self::vmm::{Accelerator, Launch, Machine, Sockets, Vmm};
use crate::namespaces::Namespaces;
use crate::options::NamespacesOptions;

/// The directory of the state directory with what machines are made of. It is no sandbox id.
const PARTS: &str = ".machines";
/// Modules that every guest needs; what they depend on comes with them.
const MODULES: [&str; 5] = [
    "virtio_mmio",
    "virtio_console",
    "virtiofs",
    "virtio_net",
    "overlay",
];

/// How [`MicroVm`] is set up.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct MicroVmOptions {
    /// What executes the guests' instructions. There is no default: emulation is no boundary.
    pub accelerator: Accelerator,
    /// The guests' kernel; `None` looks for a packaged one ([`Kernel::find`]).
    pub kernel: Option<Kernel>,
    /// The virtual machine monitor; [`Qemu`] by default.
    pub vmm: Arc<dyn Vmm>,
    /// The program that serves files to guests (vhost-user); `None` looks for `virtiofsd` where
    /// distributions put it.
    pub virtiofsd: Option<PathBuf>,
    /// The jails of monitors. Its state directory, `/run/aci-vm` by default, must not be that of
    /// another [`Namespaces`].
    pub jail: NamespacesOptions,
    /// How long a guest may take to boot; 60 seconds by default.
    pub boot_patience: Duration,
}

impl MicroVmOptions {
    /// With an accelerator, and defaults.
    #[must_use]
    pub fn new(accelerator: Accelerator) -> Self {
        Self {
            accelerator,
            kernel: None,
            vmm: Arc::new(Qemu::default()),
            virtiofsd: None,
            jail: NamespacesOptions::default().state_dir("/run/aci-vm"),
            boot_patience: Duration::from_secs(60),
        }
    }

    /// With this kernel.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// With another monitor.
    #[must_use]
    pub fn vmm(mut self, vmm: Arc<dyn Vmm>) -> Self {
        self.vmm = vmm;
        self
    }

    /// With another server of files.
    #[must_use]
    pub fn virtiofsd(mut self, program: impl Into<PathBuf>) -> Self {
        self.virtiofsd = Some(program.into());
        self
    }

    /// With other jails.
    #[must_use]
    pub fn jail(mut self, jail: NamespacesOptions) -> Self {
        self.jail = jail;
        self
    }

    /// With another patience.
    #[must_use]
    pub const fn boot_patience(mut self, patience: Duration) -> Self {
        self.boot_patience = patience;
        self
    }
}

/// Sandboxes that are virtual machines.
#[derive(Clone)]
pub struct MicroVm {
    shared: Arc<Shared>,
}

impl fmt::Debug for MicroVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MicroVm")
            .field("jails", &self.shared.jails)
            .field("vmm", &self.shared.vmm)
            .finish_non_exhaustive()
    }
}

/// What the isolation and its sandboxes have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    jails: Namespaces,
    vmm: Arc<dyn Vmm>,
    accelerator: Accelerator,
    kernel: Kernel,
    virtiofsd: PathBuf,
    boot_patience: Duration,
    missing: Vec<String>,
    files: OnceCell<Files>,
}

/// What machines boot from, on disk.
#[derive(Clone, Debug)]
struct Files {
    kernel: PathBuf,
    initramfs: PathBuf,
}

const NEW: &str = "microvm.new";

impl MicroVm {
    /// Looks at the machine: the monitor, the kernel, the server of files, and the jail.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the package to install; [`ErrorKind::PermissionDenied`]
    /// without root; otherwise as [`Namespaces::new`].
    pub fn new(options: MicroVmOptions) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                NEW,
                "machines are made by root only so far: their monitors are jailed by cgroups and \
                 user ids that others do not have",
            )
            .hint("run as root, or use Namespaces"));
        }
        options.vmm.probe(options.accelerator)?;
        let kernel = match options.kernel {
            Some(kernel) => kernel,
            None => Kernel::find(Path::new("/"))?,
        };
        let virtiofsd = match options.virtiofsd {
            Some(program) => program,
            None => find_virtiofsd()?,
        };
        let jails = Namespaces::new(options.jail)?;
        let capability = jails.capability();
        let mut missing = capability.missing;
        if !options.accelerator.boundary() {
            missing.push(
                "emulation is not an isolation boundary: use it for development and tests only"
                    .to_owned(),
            );
            tracing::warn!(
                vmm = options.vmm.name(),
                "guests are emulated, which is not an isolation boundary"
            );
        }
        missing.extend(
            [
                "user 0 in containers is user 0 of the guest",
                "what containers write to their root file systems is in the group's memory",
                "GPUs are not given to guests",
            ]
            .map(str::to_owned),
        );
        if !net::can_tap() {
            missing.push(format!(
                "groups have no network but loopback: there is no {}; load the module tun \
                 (`modprobe tun`)",
                net::TUN
            ));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                jails,
                vmm: options.vmm,
                accelerator: options.accelerator,
                kernel,
                virtiofsd,
                boot_patience: options.boot_patience,
                missing,
                files: OnceCell::new(),
            }),
        })
    }
}

fn find_virtiofsd() -> Result<PathBuf> {
    // Debian 12 (qemu-system-common), Debian 13 and Fedora (virtiofsd).
    let places = [
        "/usr/lib/qemu/virtiofsd",
        "/usr/libexec/virtiofsd",
        "/usr/lib/virtiofsd",
    ];
    places
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(ErrorKind::NotFound, NEW, "there is no virtiofsd").hint(
                "install the package qemu-system-common (Debian 12) or virtiofsd (Debian 13, \
                 Fedora), or name the program by MicroVmOptions::virtiofsd",
            )
        })
}

impl Shared {
    fn parts(&self) -> PathBuf {
        self.jails.state_dir().join(PARTS)
    }

    /// The directory of one machine's sockets and mount points.
    fn place(&self, id: &SandboxId) -> PathBuf {
        self.parts().join(id.as_str())
    }

    /// Writes what machines boot from, once a program.
    async fn files(&self) -> Result<&Files> {
        let make = || async {
            let (kernel, parts) = (self.kernel.clone(), self.parts());
            tokio::task::spawn_blocking(move || write_files(&kernel, &parts))
                .await
                .map_err(|error| {
                    Error::new(ErrorKind::Cancelled, NEW, "the runtime is shutting down")
                        .because(error)
                })?
        };
        self.files.get_or_try_init(make).await
    }
}

/// Blocks.
fn write_files(kernel: &Kernel, parts: &Path) -> Result<Files> {
    let internal = |error: std::io::Error| {
        Error::new(ErrorKind::Internal, NEW, "writing what guests boot from")
            .on(parts.display())
            .because(error)
    };
    let modules = modules::collect(&kernel.modules, &MODULES)?;
    let initramfs = initramfs::assemble(crate::launch::AGENT, &modules);
    let image = kernel.unpacked()?;
    crate::host::make_state_dir(parts)?;
    let write = |name: &str, bytes: &[u8]| {
        use std::os::unix::fs::PermissionsExt;
        let (new, path) = (parts.join(format!("{name}.new")), parts.join(name));
        fs::write(&new, bytes)?;
        // Read by a monitor that is another user.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o444))?;
        // Machines that are starting have the old file.
        fs::rename(new, &path)?;
        Ok::<_, std::io::Error>(path)
    };
    Ok(Files {
        kernel: write("kernel", &image).map_err(internal)?,
        initramfs: write("initramfs", &initramfs).map_err(internal)?,
    })
}

#[async_trait]
impl Isolation for MicroVm {
    fn capability(&self) -> IsolationCapability {
        IsolationCapability {
            name: match self.shared.accelerator {
                Accelerator::Emulation => "microvm (emulated, not an isolation boundary)",
            }
            .to_owned(),
            boundary: self.shared.accelerator.boundary(),
            limits: true,
            survives_host: true,
            freeze: self.shared.jails.capability().freeze,
            many_users: true,
            confidential: false,
            windows: false,
            gpus: Vec::new(),
            missing: self.shared.missing.clone(),
        }
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %spec.id))]
    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        let sandbox = sandbox::create(&self.shared, spec).await?;
        Ok(Arc::new(sandbox))
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %id))]
    async fn adopt(&self, id: &SandboxId) -> Result<Arc<dyn Sandbox>> {
        Ok(Arc::new(sandbox::adopt(&self.shared, id).await?))
    }

    async fn list(&self) -> Result<Vec<SandboxId>> {
        let mut all = self.shared.jails.list().await?;
        // What is left of a machine whose jail is gone.
        for entry in fs::read_dir(self.shared.parts())
            .into_iter()
            .flatten()
            .flatten()
        {
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(id) = id.filter(|id| entry.path().is_dir() && !all.contains(id)) {
                all.push(id);
            }
        }
        Ok(all)
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %id))]
    async fn remove(&self, id: &SandboxId) -> Result<()> {
        self.shared.remove(id).await
    }
}
