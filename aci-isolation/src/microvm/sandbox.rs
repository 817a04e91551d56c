//! A machine as a sandbox: made, adopted, removed; what it does is done by the agent in it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aci_core::contract::{
    ContainerSpec, Duplex, ExecSpec, Isolation, LogQuery, LogStream, NetworkEndpoint, Process,
    RunState, Sandbox, SandboxSpec, SandboxStats, SandboxStatus, Signal, VolumeSource,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::time::Timestamp;
use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::vmm::{Machine, Sockets};
use super::{Line, Shared, jail, net, size};
use crate::channel::{Address, Channel, unexpected};
use crate::devices::Gate;
use crate::namespaces::source;
use crate::protocol::{
    Boot, CgroupPlan, Driver, Identity, Layer, Purpose, Reply, Request, Source, Upper, Users,
    VERSION, Volume,
};
use crate::ranges::Ranges;
use crate::rtnl::Wire;
use crate::sandbox::{NamespaceSandbox, bounds, text};
use crate::tunnel::Target;

const CREATE: &str = "sandbox.create";
const ADOPT: &str = "sandbox.adopt";
const REMOVE: &str = "sandbox.remove";

/// Where the sandbox is in its guest.
const DIRECTORY: &str = "/run/aci";
/// Where the host's directories are in the guest.
const SHARED: &str = "/share";
/// Between looks for a socket that is about to appear.
const PAUSE: Duration = Duration::from_millis(5);

/// A sandbox of [`MicroVm`](super::MicroVm).
#[derive(Debug)]
pub(crate) struct MachineSandbox {
    /// Around the monitor.
    jail: Arc<NamespaceSandbox>,
    /// The agent in the guest.
    guest: NamespaceSandbox,
    shared: Arc<Shared>,
    /// Whether the guest has what the network driver gave.
    networked: tokio::sync::Mutex<bool>,
    /// What a stopped guest, which does not answer, was when it was stopped: it stays so.
    frozen: watch::Sender<Option<Frozen>>,
}

#[derive(Clone, Debug)]
struct Frozen {
    status: SandboxStatus,
    stats: SandboxStats,
}

fn internal(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::new(ErrorKind::Internal, CREATE, what).because(error)
}

/// Makes a machine and boots it.
pub(super) async fn create(shared: &Arc<Shared>, spec: SandboxSpec) -> Result<MachineSandbox> {
    let id = spec.id.clone();
    let files = shared.files().await?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let size = size::of(&spec.limits, u32::try_from(cpus).unwrap_or(1));
    let machine = Machine {
        accelerator: shared.accelerator,
        cpus: size.cpus,
        memory_mib: size.memory_mib,
        kernel: files.kernel.clone(),
        initramfs: files.initramfs.clone(),
        arguments: vec!["aci.share".to_owned()],
        sockets: Sockets {
            line: PathBuf::from("/sockets/line"),
            control: PathBuf::from("/sockets/control"),
            share: (PathBuf::from("/sockets/share"), "share".to_owned()),
        },
        tap: net::can_tap().then(|| net::TAP.to_owned()),
    };
    let launch = shared.vmm.launch(&machine);
    let place = shared.place(&id);
    let jail = SandboxSpec {
        id: id.clone(),
        hostname: spec.hostname.clone(),
        limits: jail::limits(&spec.limits, size.memory_mib, launch.overhead),
        volumes: jail::volumes(&place),
    };
    if shared.jails.list().await?.contains(&id) {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            CREATE,
            "a sandbox of this id exists already",
        )
        .hint("adopt or remove it first")
        .on(&id));
    }
    make_place(&place).map_err(internal("making the machine's directory"))?;
    let made = async {
        let jail = Arc::new(shared.jails.make(jail).await?);
        let begun = Instant::now();
        start(&jail, jail::share(&shared.virtiofsd, &place)?).await?;
        let share = place.join("sockets/share");
        appear(&jail, jail::SHARE, shared.boot_patience, || {
            share.exists().then_some(())
        })
        .await?;
        if machine.tap.is_some() {
            make_tap(&jail).await?;
        }
        let program = jail::machine(&launch, &place, machine.tap.is_some())?;
        start(&jail, program).await?;
        let sandbox = reach(shared, &id, jail).await?;
        sandbox.boot(&spec).await?;
        tracing::debug!(sandbox = %id, took = ?begun.elapsed(), "the guest serves");
        Ok::<_, Error>(sandbox)
    };
    match made.await {
        Ok(sandbox) => {
            metrics::counter!("aci_isolation_sandboxes_created_total").increment(1);
            Ok(sandbox)
        }
        Err(error) => {
            if error.kind() != ErrorKind::AlreadyExists {
                shared.remove(&id).await?;
            }
            Err(error.on(&id))
        }
    }
}

fn make_place(place: &Path) -> io::Result<()> {
    let make = |path: &Path| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
    };
    make(place)?;
    for name in ["sockets", "root"] {
        let path = place.join(name);
        let _ = fs::remove_dir_all(&path);
        make(&path)?;
    }
    // An empty lower layer, which everybody may enter.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(place.join("root"), fs::Permissions::from_mode(0o755))
}

async fn start(jail: &NamespaceSandbox, start: crate::protocol::Start) -> Result<()> {
    jail.done(CREATE, &Request::Start(Box::new(start))).await
}

/// Waits for something that a container of the jail brings about, and explains why it does not.
async fn appear<T>(
    jail: &NamespaceSandbox,
    container: &str,
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if let Some(why) = ended(jail, container).await? {
            return Err(jail::not_booted(&why, &console(jail, container).await));
        }
        if begun.elapsed() > patience {
            return Err(jail::not_booted(
                &format!("'{container}' was not ready within {patience:?}"),
                &console(jail, container).await,
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How a container of the jail has ended, if it has.
async fn ended(jail: &NamespaceSandbox, container: &str) -> Result<Option<String>> {
    let status = jail.status().await?;
    let found = status.containers.iter().find(|c| c.name == container);
    Ok(match found.map(|container| container.state) {
        Some(RunState::Running { .. }) => None,
        Some(RunState::Exited { status, .. }) if status.oom => {
            Some(format!("'{container}' was killed for want of memory"))
        }
        Some(RunState::Exited { status, .. }) => {
            Some(format!("'{container}' ended with code {}", status.code))
        }
        None => Some(format!("'{container}' does not run")),
    })
}

/// The last lines that a container of the jail has written.
async fn console(jail: &NamespaceSandbox, container: &str) -> Vec<String> {
    let query = LogQuery {
        tail: Some(40),
        ..LogQuery::default()
    };
    let Ok(log) = jail.logs(container, query).await else {
        return Vec::new();
    };
    log.filter_map(|line| async move { line.ok() })
        .map(|line| {
            String::from_utf8_lossy(&line.line)
                .chars()
                .filter(|c| !c.is_control())
                .collect()
        })
        .collect()
        .await
}

/// Connects with a guest that is booting or running.
async fn reach(
    shared: &Arc<Shared>,
    id: &SandboxId,
    jail: Arc<NamespaceSandbox>,
) -> Result<MachineSandbox> {
    let path = shared.place(id).join("sockets/line");
    let patience = shared.boot_patience;
    let line = appear(&jail, jail::MACHINE, patience, || Line::at(&path).ok()).await?;
    let begun = Instant::now();
    loop {
        let greeted = tokio::time::timeout(Duration::from_millis(200), line.greeted()).await;
        match greeted {
            Ok(Ok(())) => break,
            Ok(Err(why)) => {
                // The monitor's end is the better reason.
                tokio::time::sleep(PAUSE).await;
                let why = ended(&jail, jail::MACHINE).await?.unwrap_or(why);
                let console = console(&jail, jail::MACHINE).await;
                return Err(jail::not_booted(&why, &console));
            }
            Err(_) if begun.elapsed() > patience => {
                let console = console(&jail, jail::MACHINE).await;
                let why = format!("the guest did not answer within {patience:?}");
                return Err(jail::not_booted(&why, &console));
            }
            Err(_) => {}
        }
    }
    let address = Address {
        directory: jail.address.directory.clone(),
        pid: jail.address.pid,
        line: Some(line),
    };
    let guest = NamespaceSandbox {
        id: id.clone(),
        address,
        network: Arc::clone(&jail.network),
        shared: Arc::clone(&jail.shared),
        meters: Arc::default(),
    };
    Ok(MachineSandbox {
        jail,
        guest,
        shared: Arc::clone(shared),
        networked: tokio::sync::Mutex::new(false),
        frozen: watch::Sender::new(None),
    })
}

/// Makes the monitor's tap in its jail's network.
async fn make_tap(jail: &NamespaceSandbox) -> Result<()> {
    let network = Arc::clone(&jail.network);
    // The monitor is user 0 of its jail.
    let owner = Ranges::recorded(&jail.address.directory).unwrap_or(0);
    let make = move || net::make_tap(&network, owner);
    blocking(make)
        .await?
        .map_err(internal("making the machine's tap"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Error::new(ErrorKind::Cancelled, CREATE, "the runtime is shutting down").because(error)
    })
}

/// Takes over a machine that an earlier program left.
pub(super) async fn adopt(shared: &Arc<Shared>, id: &SandboxId) -> Result<MachineSandbox> {
    let lost = |error: Error| {
        Error::new(ErrorKind::Lost, ADOPT, "its machine does not answer")
            .on(id)
            .because(error)
    };
    let jail = match shared.jails.shared.adopt(id).await {
        Ok(jail) => Arc::new(jail),
        Err(error) if error.kind() == ErrorKind::NotFound && shared.place(id).is_dir() => {
            return Err(lost(error));
        }
        Err(error) => return Err(error),
    };
    // One that was stopped goes on: it could not tell who it is.
    if shared.jails.capability().freeze {
        jail.freeze(false).await.map_err(lost)?;
    }
    let sandbox = reach(shared, id, jail).await.map_err(lost)?;
    let asking = sandbox.guest.address.ask(ADOPT, &Request::Hello);
    let (reply, _) = tokio::time::timeout(shared.boot_patience, asking)
        .await
        .map_err(|_| Error::new(ErrorKind::Lost, ADOPT, "its agent does not answer").on(id))?
        .map_err(|error| error.on(id))?;
    match reply {
        Reply::Hello { version, .. } if version != VERSION => Err(Error::new(
            ErrorKind::Unsupported,
            ADOPT,
            format!("its agent speaks version {version}, this program {VERSION}"),
        )
        .on(id)
        .hint("take it over with the program version that made it, or remove it")),
        Reply::Hello { id: named, .. } if named == id.as_str() => {
            metrics::counter!("aci_isolation_sandboxes_adopted_total").increment(1);
            Ok(sandbox)
        }
        _ => Err(unexpected(ADOPT)),
    }
}

impl Shared {
    /// Ends and removes whatever there is of a machine.
    pub(super) async fn remove(&self, id: &SandboxId) -> Result<()> {
        self.jails.remove(id).await?;
        match fs::remove_dir_all(self.place(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::new(
                ErrorKind::Internal,
                REMOVE,
                "removing the machine's directory",
            )
            .on(id)
            .because(error)),
            _ => Ok(()),
        }
    }
}

/// What a layer or volume is called among the shared directories: the same for the same.
fn share_name(kind: &str, path: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    format!("{kind}{:016x}", hasher.finish())
}

impl MachineSandbox {
    /// Shows a directory of the host to the guest; where it is there.
    async fn share(&self, kind: &str, layer: Layer, read_only: bool) -> Result<String> {
        let (Layer::Directory(path) | Layer::Erofs(path)) = &layer;
        let name = share_name(kind, Path::new(path));
        let request = Request::Share {
            container: jail::SHARE.to_owned(),
            layer,
            name: name.clone(),
            deep: kind == "volume",
            read_only,
        };
        self.jail.done("container.start", &request).await?;
        Ok(format!("{SHARED}/{name}"))
    }

    /// Adds to the loss of a guest how its machine ended, and what its console said last.
    async fn told<T>(&self, result: Result<T>) -> Result<T> {
        let error = match result {
            Err(error) if error.kind() == ErrorKind::Lost => error,
            other => return other,
        };
        // The line's end is seen a moment before the monitor's.
        let mut why = None;
        for _ in 0..40 {
            why = match ended(&self.jail, jail::MACHINE).await {
                Ok(why) => why,
                // The jail is gone too: removed, or its agent killed.
                Err(_) => return Err(error),
            };
            if why.is_some() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let Some(why) = why else {
            return Err(error);
        };
        let told = jail::not_booted(&why, &console(&self.jail, jail::MACHINE).await);
        let lost = Error::new(ErrorKind::Lost, error.operation(), "its machine has ended");
        Err(lost.on(&self.guest.id).because(told))
    }

    /// Moves what a network driver gave into the guest, once; nothing if no driver has given anything.
    async fn bring_network(&self) -> Result<()> {
        const OPERATION: &str = "sandbox.network";
        let mut networked = self.networked.lock().await;
        if *networked || !net::can_tap() {
            return Ok(());
        }
        let failed = |what: &'static str| {
            move |error: io::Error| Error::new(ErrorKind::Internal, OPERATION, what).because(error)
        };
        let namespace = Arc::clone(&self.jail.network);
        let noted = self.shared.place(&self.guest.id).join("network");
        // Noted first: once the link is a port of the bridge, it has no address to be read any more.
        let look = move || {
            if let Ok(bytes) = fs::read(&noted) {
                return serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(io::Error::from);
            }
            let wire = net::given(&namespace)?;
            if let Some(wire) = &wire {
                let new = noted.with_extension("new");
                fs::write(&new, serde_json::to_vec(wire)?)?;
                fs::rename(new, &noted)?;
            }
            Ok(wire)
        };
        let wire: Option<Wire> = blocking(look)
            .await?
            .map_err(failed("reading what the network driver gave"))?;
        let Some(wire) = wire else {
            return Ok(());
        };
        let line = self.guest.address.line.as_ref();
        let line = line.ok_or_else(|| unexpected(OPERATION))?;
        let answer = line
            .open(&Target::Network(wire.clone()))
            .and_then(UnixStream::from_std)
            .map_err(failed("speaking with the guest"))?;
        let mut why = String::new();
        let mut answer = answer.take(4096);
        let reading = answer.read_to_string(&mut why);
        match tokio::time::timeout(self.shared.boot_patience, reading).await {
            Ok(Ok(_)) if why.is_empty() => {}
            Ok(Ok(_)) => {
                return Err(failed("the guest does not take its address")(
                    io::Error::other(why),
                ));
            }
            Ok(Err(error)) => return Err(failed("speaking with the guest")(error)),
            Err(_) => {
                return Err(failed("the guest does not answer")(
                    io::ErrorKind::TimedOut.into(),
                ));
            }
        }
        let namespace = Arc::clone(&self.jail.network);
        blocking(move || net::join(&namespace, &wire))
            .await?
            .map_err(failed("joining the machine's tap with the group's link"))?;
        *networked = true;
        Ok(())
    }

    /// Makes the agent of a booted guest.
    async fn boot(&self, spec: &SandboxSpec) -> Result<()> {
        let mut volumes = Vec::new();
        for volume in &spec.volumes {
            let source = match &volume.source {
                VolumeSource::Directory(path) => {
                    let layer = Layer::Directory(text(path, CREATE)?);
                    Source::Directory(self.share("volume", layer, volume.read_only).await?)
                }
                other => source(&volume.name, other)?,
            };
            volumes.push(Volume {
                name: volume.name.clone(),
                read_only: volume.read_only,
                source,
            });
        }
        let jails = self.shared.jails.shared.plan();
        let boot = Boot {
            version: VERSION,
            purpose: Purpose::Sandbox,
            users: Users::Host,
            cgroup: Some(CgroupPlan {
                v2: Some("/sys/fs/cgroup".to_owned()),
                v2_controllers: ["cpu", "memory", "pids", "io"].map(str::to_owned).into(),
                v1: Vec::new(),
                devices: Gate::Program,
                disks: Vec::new(),
                parent: "aci".to_owned(),
                driver: jails.map_or_else(Driver::default, |plan| plan.driver),
            }),
            holes: 0,
        };
        let identity = Identity {
            id: spec.id.to_string(),
            hostname: spec.hostname.clone(),
            dir: DIRECTORY.to_owned(),
            bounds: bounds(&spec.limits),
            volumes,
        };
        let address = &self.guest.address;
        let broken = |error| address.broken(CREATE, error);
        let line = address.line.as_ref().ok_or_else(|| unexpected(CREATE))?;
        let stream = line
            .open(&Target::Boot)
            .and_then(UnixStream::from_std)
            .map_err(broken)?;
        let mut channel = Channel::over(stream);
        channel.send(&boot, &[]).await.map_err(broken)?;
        channel.send(&identity, &[]).await.map_err(broken)?;
        let answer =
            tokio::time::timeout(self.shared.boot_patience, channel.answer(address, CREATE));
        match answer.await {
            Ok(Ok((Reply::Hello { .. }, _))) => Ok(()),
            Ok(Ok(_)) => Err(unexpected(CREATE)),
            Ok(Err(error)) if error.kind() == ErrorKind::Lost => {
                let console = console(&self.jail, jail::MACHINE).await;
                Err(jail::not_booted(
                    "the guest's agent did not start",
                    &console,
                ))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let console = console(&self.jail, jail::MACHINE).await;
                Err(jail::not_booted(
                    "the guest's agent did not answer",
                    &console,
                ))
            }
        }
    }
}

#[async_trait]
impl Sandbox for MachineSandbox {
    fn id(&self) -> &SandboxId {
        &self.guest.id
    }

    fn network(&self) -> NetworkEndpoint {
        if net::can_tap() {
            self.jail.network()
        } else {
            NetworkEndpoint::None
        }
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %self.guest.id, container = %container.name, attempt = container.attempt))]
    async fn start(&self, container: ContainerSpec) -> Result<()> {
        const OPERATION: &str = "container.start";
        let on = |error: Error| error.on(&container.name);
        if container.gpus > 0 {
            return Err(on(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                "GPUs are not given to machines",
            )));
        }
        if container.rootfs.layers.is_empty() {
            return Err(on(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                "a machine cannot use a directory of the host as a writable root; give it layers",
            )));
        }
        self.bring_network().await.map_err(on)?;
        let mut start = self.guest.start_request(&container)?;
        let mut layers = Vec::new();
        for layer in start.layers {
            let place = self.share("layer", layer, true).await.map_err(on)?;
            layers.push(Layer::Directory(place));
        }
        start.layers = layers;
        if start.upper != Upper::None {
            start.upper = Upper::Memory;
        }
        let request = Request::Start(Box::new(start));
        let done = self.guest.done(OPERATION, &request).await;
        self.told(done).await.map_err(on)?;
        metrics::counter!("aci_isolation_container_starts_total").increment(1);
        Ok(())
    }

    async fn exec(&self, container: &str, exec: ExecSpec) -> Result<Process> {
        self.told(self.guest.exec(container, exec).await).await
    }

    async fn signal(&self, container: &str, signal: Signal, all: bool) -> Result<()> {
        if signal == Signal::KILL && self.shared.jails.capability().freeze {
            // A stopped guest kills nobody.
            self.freeze(false).await?;
        }
        self.told(self.guest.signal(container, signal, all).await)
            .await
    }

    async fn replace_files(&self, volume: &str, files: VolumeSource) -> Result<()> {
        self.told(self.guest.replace_files(volume, files).await)
            .await
    }

    async fn status(&self) -> Result<SandboxStatus> {
        let frozen = self.frozen.borrow().clone();
        match frozen {
            Some(frozen) => Ok(frozen.status),
            None => self.told(self.guest.status().await).await,
        }
    }

    async fn changed(&self, seen: u64) -> Result<SandboxStatus> {
        let mut frozen = self.frozen.subscribe();
        // A guest that is stopped while it is asked answers when it goes on.
        loop {
            let now = frozen.borrow_and_update().clone();
            match now {
                None => return self.told(self.guest.changed(seen).await).await,
                Some(frozen) if frozen.status.generation > seen => return Ok(frozen.status),
                Some(_) => {
                    let _ = frozen.changed().await;
                }
            }
        }
    }

    /// Stops the monitor, and with it the guest's processors. What is asked of it meanwhile (exec,
    /// logs, signals but KILL) waits; its state and its use are those of the moment when it stopped.
    async fn freeze(&self, frozen: bool) -> Result<()> {
        if !frozen {
            self.jail.freeze(false).await?;
            self.frozen.send_replace(None);
            return Ok(());
        }
        if self.frozen.borrow().is_none() {
            let now = Frozen {
                status: self.status().await?,
                stats: self.stats().await?,
            };
            // Before it stops: who asks from now on does not wait for an answer that does not come.
            self.frozen.send_replace(Some(now));
        }
        let stopped = self.jail.freeze(true).await;
        if stopped.is_err() {
            self.frozen.send_replace(None);
        }
        stopped
    }

    async fn logs(&self, container: &str, query: LogQuery) -> Result<LogStream> {
        self.told(self.guest.logs(container, query).await).await
    }

    async fn stats(&self) -> Result<SandboxStats> {
        let frozen = self.frozen.borrow().clone();
        match frozen {
            Some(frozen) => Ok(SandboxStats {
                at: Timestamp::from(std::time::SystemTime::now()),
                ..frozen.stats
            }),
            None => self.told(self.guest.stats().await).await,
        }
    }

    async fn dial(&self, address: SocketAddr, timeout: Duration) -> Result<Box<dyn Duplex>> {
        self.told(self.guest.dial(address, timeout).await).await
    }

    async fn destroy(&self) -> Result<()> {
        self.shared.remove(&self.guest.id).await
    }
}
