//! The isolation by namespaces: makes, adopts, lists and removes sandboxes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use aci_core::contract::{Isolation, IsolationCapability, Sandbox, SandboxSpec, VolumeSource};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use async_trait::async_trait;
use base64::Engine as _;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::cdi::Gpus;
use crate::cgroup::tree;
use crate::channel::{Address, error_of, unexpected};
use crate::host::{self, Host};
use crate::meters::Meters;
use crate::options::NamespacesOptions;
use crate::protocol::{
    self, Boot, CgroupPlan, Hidden, Identity, Kind, Purpose, Reply, Request, Source, Users, VERSION,
};
use crate::ranges::{self, Ranges};
use crate::sandbox::{NamespaceSandbox, bounds, text};
use crate::spares::{Recipe, Spares};
use crate::{claim, launch, procfs, sys};

/// Sandboxes made of Linux namespaces and cgroups, each kept by a small agent of its own.
///
/// Works as root and, with user namespaces, without; [`Isolation::capability`] tells what is
/// missing then.
#[derive(Clone)]
pub struct Namespaces {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespaces")
            .field("directory", &self.shared.directory)
            .finish_non_exhaustive()
    }
}

/// What the isolation and its sandboxes have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    _claim: Arc<claim::Claim>,
    directory: PathBuf,
    host: Host,
    pub(crate) gpus: Gpus,
    spares: Spares,
    patience: Duration,
    io_max: Option<u64>,
    /// One for each id that is being made or removed, so that what a dropped future left running
    /// is over before the next call on the same id begins.
    busy: std::sync::Mutex<BTreeMap<SandboxId, Weak<Mutex<()>>>>,
    meters: std::sync::Mutex<BTreeMap<SandboxId, Weak<Meters>>>,
}

impl Namespaces {
    /// Looks at the machine and makes the state directory.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] or [`ErrorKind::PermissionDenied`] with the switch to flip if
    /// sandboxes cannot be made here, or with the feature that an option needs; [`ErrorKind::Conflict`] if another program has the state
    /// directory; [`ErrorKind::Internal`] if it cannot be made or is another user's.
    pub fn new(options: NamespacesOptions) -> Result<Self> {
        let mut host = Host::probe(&options.cgroup_parent, options.cgroup_driver)?;
        let directory = match options.state_dir {
            Some(directory) => directory,
            None => host::default_state_dir(),
        };
        host::make_state_dir(&directory)?;
        let fail = |kind, message: &str| {
            Error::new(kind, "namespaces.new", message).on(directory.display())
        };
        let claim = claim::claim(&directory)
            .map_err(|e| fail(ErrorKind::Internal, "locking the state directory").because(e))?
            .ok_or_else(|| {
                fail(
                    ErrorKind::Conflict,
                    "another program has this state directory",
                )
                .hint("end it, or choose another directory by NamespacesOptions::state_dir")
            })?;
        if options.io_max.is_some() && !host.bounds_io() {
            return Err(fail(
                ErrorKind::Unsupported,
                "io cannot be bounded here: no cgroup has the controller io or blkio",
            )
            .hint("leave NamespacesOptions::io_max out, or have the controller delegated"));
        }
        let ranges = user_ranges(
            &mut host,
            options.user_ids.as_ref(),
            options.user_count,
            &directory,
        )?;
        if ranges.is_none() {
            try_out(&host.users)?;
        }
        let gpus = Gpus::find(
            &options.cdi_dirs,
            options.gpu_sku,
            options.cdi_skip_hooks,
            &directory,
            &mut host.missing,
        );
        let recipe = Arc::new(Recipe {
            users: host.users.clone(),
            cgroup: host.cgroup.clone(),
            ranges: ranges.map(Arc::new),
            #[cfg(feature = "weaken")]
            holes: options.holes.0,
            #[cfg(not(feature = "weaken"))]
            holes: 0,
        });
        let spares = Spares::new(recipe, options.spares)
            .map_err(|e| fail(ErrorKind::Internal, "starting a thread").because(e))?;
        Ok(Self {
            shared: Arc::new(Shared {
                _claim: claim,
                directory,
                host,
                gpus,
                spares,
                patience: options.patience,
                io_max: options.io_max,
                busy: std::sync::Mutex::default(),
                meters: std::sync::Mutex::default(),
            }),
        })
    }

    /// How many spare sandboxes are ready now; see [`NamespacesOptions::spares`].
    #[must_use]
    pub fn spares_ready(&self) -> usize {
        self.shared.spares.ready()
    }

    /// [`Isolation::create`] with the type that it makes.
    pub(crate) async fn make(&self, spec: SandboxSpec) -> Result<NamespaceSandbox> {
        let shared = Arc::clone(&self.shared);
        let id = spec.id.clone();
        let busy = self.shared.busy(&id).await;
        let work = tokio::task::spawn_blocking(move || {
            let _busy = busy;
            shared.create(&spec)
        });
        let outcome = work.await.map_err(|error| {
            Error::new(ErrorKind::Cancelled, CREATE, "the runtime is shutting down")
                .applied(Applied::Unknown)
                .because(error)
        })?;
        match outcome {
            Ok(sandbox) => {
                metrics::counter!("aci_isolation_sandboxes_created_total").increment(1);
                Ok(sandbox)
            }
            Err(error) => {
                if error.kind() != ErrorKind::AlreadyExists {
                    self.shared.remove(&id).await?;
                }
                Err(error.on(&id))
            }
        }
    }

    /// Where the state of the sandboxes is kept.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.shared.directory
    }
}

#[async_trait]
impl Isolation for Namespaces {
    fn capability(&self) -> IsolationCapability {
        IsolationCapability {
            gpus: self.shared.gpus.amounts(),
            ..self.shared.host.capability()
        }
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %spec.id))]
    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        Ok(Arc::new(self.make(spec).await?))
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %id))]
    async fn adopt(&self, id: &SandboxId) -> Result<Arc<dyn Sandbox>> {
        let sandbox = self.shared.adopt(id).await?;
        metrics::counter!("aci_isolation_sandboxes_adopted_total").increment(1);
        Ok(Arc::new(sandbox))
    }

    async fn list(&self) -> Result<Vec<SandboxId>> {
        self.shared.list()
    }

    #[tracing::instrument(level = "debug", skip_all, fields(sandbox = %id))]
    async fn remove(&self, id: &SandboxId) -> Result<()> {
        self.shared.remove(id).await
    }
}

const CREATE: &str = "sandbox.create";
const ADOPT: &str = "sandbox.adopt";
const REMOVE: &str = "sandbox.remove";

/// Starts an agent that only tries what every sandbox needs; a few milliseconds.
fn try_out(users: &Users) -> Result<()> {
    const OPERATION: &str = "namespaces.new";
    let boot = Boot {
        version: VERSION,
        purpose: Purpose::Probe,
        users: users.clone(),
        cgroup: None,
        holes: 0,
    };
    match launch::begin(&boot, None, None).and_then(|agent| agent.answer()) {
        Ok((Reply::Done, _)) => Ok(()),
        Ok((Reply::Failed(failure), _)) => Err(error_of(failure, OPERATION)),
        Ok(_) => Err(unexpected(OPERATION)),
        Err(error) => Err(not_started(OPERATION, "", error)),
    }
}

/// The ids for user namespaces, if root wants them and the machine has all that they need; what
/// is missing is told in the capability.
fn user_ranges(
    host: &mut Host,
    ids: Option<&Range<u32>>,
    count: u32,
    state: &Path,
) -> Result<Option<Ranges>> {
    let (Some(ids), Users::Host) = (ids, &host.users) else {
        return Ok(None);
    };
    if count < ranges::COUNT {
        return Err(Error::new(
            ErrorKind::Invalid,
            "namespaces.new",
            format!(
                "user_count {count} must be {} or more: images use as many",
                ranges::COUNT
            ),
        ));
    }
    if ids.end.saturating_sub(ids.start) < count || ids.start < ranges::COUNT {
        return Err(Error::new(
            ErrorKind::Invalid,
            "namespaces.new",
            format!(
                "user_ids {}..{} must begin at {} or above and hold {count} or more",
                ids.start,
                ids.end,
                ranges::COUNT
            ),
        ));
    }
    let first = Users::Mapped {
        first: ids.start,
        count,
    };
    match try_out(&first) {
        Ok(()) => Ok(Some(Ranges::new(ids, count, state))),
        Err(error) => {
            host.miss(format!(
                "user 0 in containers is user 0 of the host, held by capabilities and filters \
                 alone, because user namespaces cannot be had: {}",
                error.chain()
            ));
            Ok(None)
        }
    }
}

/// An agent that could not be started or did not come up, with what it left to say.
fn not_started(operation: &'static str, said: &str, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let kind = if denied {
        ErrorKind::PermissionDenied
    } else {
        ErrorKind::Internal
    };
    let message = match said.trim() {
        "" => "the sandbox's agent did not start".to_owned(),
        said => format!("the sandbox's agent did not start: {said}"),
    };
    let outcome = Error::new(kind, operation, message).because(error);
    if denied {
        outcome.hint(
            "it is executed from memory: the sysctl vm.memfd_noexec must be below 2, and /proc \
             must be mounted",
        )
    } else {
        outcome
    }
}

/// Who an agent is, as it recorded itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    version: u32,
    pid: i32,
    started: u64,
    system: String,
}

impl Record {
    fn read(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(directory.join("agent")).ok()?;
        let mut words = text.split_whitespace();
        Some(Self {
            version: words.next()?.parse().ok()?,
            pid: words.next()?.parse().ok().filter(|pid| *pid > 1)?,
            started: words.next()?.parse().ok()?,
            system: words.next().unwrap_or_default().to_owned(),
        })
    }

    /// Whether that very process still lives: same start of the system, same pid, same start time,
    /// and no zombie.
    fn alive(&self) -> bool {
        let system = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if system.trim() != self.system {
            return false;
        }
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        let zombie = stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
        !zombie && procfs::start_time(&stat) == Some(self.started)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // With the last spare the cgroup of the agents may be empty.
        if self.spares.stop()
            && let Some(plan) = self.plan()
        {
            tree::remove_parents(plan);
        }
    }
}

impl Shared {
    fn sandbox_directory(&self, id: &SandboxId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// Waits until nothing else is done with an id, and keeps others waiting.
    pub(crate) async fn busy(&self, id: &SandboxId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| lock.strong_count() > 0);
            match all.get(id).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(Mutex::new(()));
                    all.insert(id.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// The open statistics of a sandbox, shared by all its handles: a start through one of them is
    /// counted by the others.
    fn meters(&self, id: &SandboxId) -> Arc<Meters> {
        let mut all = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, meters| meters.strong_count() > 0);
        if let Some(meters) = all.get(id).and_then(Weak::upgrade) {
            return meters;
        }
        let meters = Arc::new(Meters::default());
        all.insert(id.clone(), Arc::downgrade(&meters));
        meters
    }

    pub(crate) fn io_max(&self) -> Option<u64> {
        self.io_max
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    pub(crate) fn plan(&self) -> Option<&CgroupPlan> {
        self.host.cgroup.as_ref()
    }

    fn create(self: &Arc<Self>, spec: &SandboxSpec) -> Result<NamespaceSandbox> {
        let internal = |what: &str, error: io::Error| {
            Error::new(ErrorKind::Internal, CREATE, what.to_owned()).because(error)
        };
        let identity = self.identity(spec)?;
        let directory = self.sandbox_directory(&spec.id);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Error::new(
                    ErrorKind::AlreadyExists,
                    CREATE,
                    "a sandbox of this id exists already",
                )
                .hint("adopt or remove it first"),
                _ => internal("making the sandbox's directory", error),
            })?;
        for name in ["log", "mnt"] {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(directory.join(name))
                .map_err(|error| internal("making the sandbox's directory", error))?;
        }
        let record = |first| match first {
            Some(first) => Ranges::record(&directory, first, self.spares.recipe().user_count())
                .map_err(|error| internal("recording the sandbox's user ids", error)),
            None => Ok(()),
        };
        let launch = |boot: &Boot| {
            let errors = directory.join("agent.err");
            launch::begin(boot, Some(&identity), Some(&errors))
                .and_then(|agent| agent.answer())
                .map_err(|error| {
                    let said = fs::read_to_string(errors).unwrap_or_default();
                    not_started(CREATE, &said, error)
                })
        };
        let ready = match self.spares.take() {
            Some(spare) => {
                record(spare.first_user())?;
                // One that has ended meanwhile is done without.
                spare.become_agent(&spec.id, &identity).ok()
            }
            None => None,
        };
        let (mut reply, mut fds) = match ready {
            Some(answer) => answer,
            None => {
                let _ = fs::remove_file(directory.join("agent.sock"));
                let (boot, first) = self.spares.recipe().boot(&spec.id, Purpose::Sandbox);
                record(first)?;
                launch(&boot)?
            }
        };
        if let Reply::Failed(failure) = &reply
            && failure.kind == Kind::Unmappable
        {
            tracing::warn!(
                sandbox = %spec.id,
                "no user namespace for this sandbox: {}",
                failure.message
            );
            (reply, fds) = launch(&Boot {
                version: VERSION,
                purpose: Purpose::Sandbox,
                users: Users::Host,
                cgroup: self.host.cgroup.clone(),
                holes: 0,
            })?;
        }
        let network = match (reply, fds.into_iter().next()) {
            (Reply::Failed(failure), _) => return Err(error_of(failure, CREATE)),
            (Reply::Hello { .. }, Some(network)) => network,
            _ => return Err(unexpected(CREATE)),
        };
        let record = Record::read(&directory).ok_or_else(|| unexpected(CREATE))?;
        Ok(self.sandbox(&spec.id, record.pid, network))
    }

    fn sandbox(self: &Arc<Self>, id: &SandboxId, pid: i32, network: OwnedFd) -> NamespaceSandbox {
        NamespaceSandbox {
            id: id.clone(),
            address: Address::here(self.sandbox_directory(id), pid),
            network: Arc::new(network),
            shared: Arc::clone(self),
            meters: self.meters(id),
        }
    }

    fn identity(&self, spec: &SandboxSpec) -> Result<Identity> {
        let volumes: Result<Vec<_>> = spec
            .volumes
            .iter()
            .map(|volume| {
                Ok(protocol::Volume {
                    name: volume.name.clone(),
                    read_only: volume.read_only,
                    source: source(&volume.name, &volume.source)?,
                })
            })
            .collect();
        Ok(Identity {
            id: spec.id.to_string(),
            hostname: spec.hostname.clone(),
            dir: text(&self.sandbox_directory(&spec.id), CREATE)?,
            bounds: bounds(&spec.limits),
            volumes: volumes?,
        })
    }

    pub(crate) async fn adopt(self: &Arc<Self>, id: &SandboxId) -> Result<NamespaceSandbox> {
        let lost = |why: &str| Error::new(ErrorKind::Lost, ADOPT, why.to_owned()).on(id);
        let directory = self.sandbox_directory(id);
        if !directory.is_dir() {
            if self.list()?.contains(id) {
                return Err(lost("only its cgroup is left"));
            }
            return Err(
                Error::new(ErrorKind::NotFound, ADOPT, "no sandbox of this id exists").on(id),
            );
        }
        let record =
            Record::read(&directory).ok_or_else(|| lost("it was never set up completely"))?;
        if !record.alive() {
            return Err(lost("its agent is dead"));
        }
        let address = Address::here(directory, record.pid);
        let asking = address.ask(ADOPT, &Request::Hello);
        let (reply, fds) = tokio::time::timeout(self.patience, asking)
            .await
            .map_err(|_| lost("its agent does not answer"))?
            .map_err(|error| error.on(id))?;
        match (reply, fds.into_iter().next()) {
            (Reply::Hello { version, id: named }, Some(network)) => {
                if version != VERSION {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        ADOPT,
                        format!("its agent speaks version {version}, this program {VERSION}"),
                    )
                    .on(id)
                    .hint("take it over with the program version that made it, or remove it"));
                }
                if named != id.as_str() {
                    return Err(lost("its socket is served by another sandbox's agent"));
                }
                Ok(self.sandbox(id, record.pid, network))
            }
            _ => Err(unexpected(ADOPT)),
        }
    }

    fn list(&self) -> Result<Vec<SandboxId>> {
        let internal = |error: io::Error| {
            Error::new(
                ErrorKind::Internal,
                "sandbox.list",
                "reading the state directory",
            )
            .on(self.directory.display())
            .because(error)
        };
        let mut out: Vec<SandboxId> = Vec::new();
        let mut add = |name: std::ffi::OsString| {
            if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
                out.push(id);
            }
        };
        for entry in fs::read_dir(&self.directory).map_err(internal)? {
            add(entry.map_err(internal)?.file_name());
        }
        Ok(out)
    }

    /// Ends and removes whatever there is of a sandbox.
    pub(crate) async fn remove(&self, id: &SandboxId) -> Result<()> {
        let busy = self.busy(id).await;
        let directory = self.sandbox_directory(id);
        if let Some(record) = Record::read(&directory).filter(Record::alive) {
            self.end(&directory, &record).await;
        }
        let plan = self.plan().cloned();
        let name = id.to_string();
        // As long as there are spares, their cgroup stays; it goes with them.
        let with_parents = !self.spares.wanted();
        let work = tokio::task::spawn_blocking(move || {
            let _busy = busy;
            clear(plan.as_ref(), &name, &directory, with_parents)
        });
        let outcome = work.await.map_err(|error| {
            Error::new(ErrorKind::Cancelled, REMOVE, "the runtime is shutting down").because(error)
        })?;
        if let Some(ranges) = &self.spares.recipe().ranges {
            ranges.release(id);
        }
        outcome.map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                REMOVE,
                format!("something is left: {error}"),
            )
            .on(id)
            .applied(Applied::Partly)
        })?;
        metrics::counter!("aci_isolation_sandboxes_removed_total").increment(1);
        Ok(())
    }

    /// Asks an agent to end, kills it if it does not, and waits until it is gone.
    async fn end(&self, directory: &Path, record: &Record) {
        let Some(pid) = rustix::process::Pid::from_raw(record.pid) else {
            return;
        };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)
            .or_else(|_| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()))
        else {
            return;
        };
        // The descriptor may be of a later process of the same number only if the record's died.
        if !record.alive() {
            return;
        }
        let address = Address::here(directory.to_owned(), record.pid);
        if let (Some(plan), Some(id)) = (self.plan(), directory.file_name()) {
            // In a v1 hierarchy what is frozen does not die.
            let _ = tree::freeze(plan, &id.to_string_lossy(), false, Duration::ZERO);
        }
        let asking = address.ask(REMOVE, &Request::Destroy);
        let polite = matches!(tokio::time::timeout(self.patience, asking).await, Ok(Ok(_)));
        if !polite {
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        }
        let patience = self.patience;
        let waiting = tokio::task::spawn_blocking(move || {
            if !gone(&pidfd, patience) {
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
                gone(&pidfd, patience);
            }
        });
        let _ = waiting.await;
        sys::reap(record.pid);
    }
}

/// Waits until a process has ended, which makes its descriptor readable. Blocks.
fn gone(pidfd: &OwnedFd, patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let timeout = rustix::event::Timespec::try_from(patience).ok();
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, timeout.as_ref()), Ok(1..))
}

/// Removes what a sandbox has on disk and in the cgroup hierarchies. Its mounts went with the
/// agent's namespace. Blocks.
fn clear(
    plan: Option<&CgroupPlan>,
    id: &str,
    directory: &Path,
    with_parents: bool,
) -> io::Result<()> {
    if let Some(plan) = plan {
        let mut tries = 0;
        // After a kill it takes a moment until the last process is out of its cgroup.
        while let Err(error) = tree::remove(plan, id) {
            tree::kill(plan, id);
            tries += 1;
            if tries > 500 {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(if tries < 20 { 1 } else { 10 }));
        }
        if with_parents {
            tree::remove_parents(plan);
        }
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(crate) fn source(name: &str, source: &VolumeSource) -> Result<Source> {
    let unknown = || {
        Error::new(
            ErrorKind::Unsupported,
            CREATE,
            format!("volume '{name}' is of a kind that namespaces cannot mount"),
        )
    };
    Ok(match source {
        VolumeSource::Directory(path) => Source::Directory(text(path, CREATE)?),
        VolumeSource::Memory { size } => Source::Memory(*size),
        VolumeSource::Secret(_) => Source::Files(true, files(CREATE, name, source)?),
        VolumeSource::Files(_) => Source::Files(false, files(CREATE, name, source)?),
        _ => return Err(unknown()),
    })
}

/// The names and contents of a volume of files.
pub(crate) fn files(
    operation: &'static str,
    name: &str,
    source: &VolumeSource,
) -> Result<Vec<(String, Hidden)>> {
    let invalid = |what: String| {
        Error::new(
            ErrorKind::Invalid,
            operation,
            format!("volume '{name}': {what}"),
        )
    };
    match source {
        VolumeSource::Secret(files) => files
            .iter()
            .map(|file| {
                let text = file.base64.expose().trim();
                // All of it at once, so that nothing is moved and left behind; wiped on failure.
                let mut content = Hidden(vec![0; base64::decoded_len_estimate(text.len())]);
                let length = base64::engine::general_purpose::STANDARD
                    .decode_slice(text, &mut content.0)
                    .map_err(|_| {
                        invalid(format!("the content of '{}' is not base64", file.name))
                    })?;
                content.0.truncate(length);
                Ok((file.name.clone(), content))
            })
            .collect(),
        VolumeSource::Files(files) => Ok(files
            .iter()
            .map(|(name, content)| (name.clone(), Hidden(content.to_vec())))
            .collect()),
        _ => Err(invalid("these are no files".to_owned())),
    }
}
