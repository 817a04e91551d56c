//! Carrying out one action of a group's state machine, and reporting what came of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{
    AttachRequest, Attachment, Clock, GroupRecord, LogQuery, NetworkEndpoint, PullPolicy,
    PullRequest, RootFsKey, Sandbox, SandboxSpec, SandboxVolume, Signal, VolumeDriver, VolumeEvent,
    VolumeProgress, VolumeRequest,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use aci_core::lifecycle::{Action, Observation, ProbeKind};
use aci_core::model::{ContainerGroup, Probe, Volume};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::actor::Message;
use super::guard::{self, ACTION_LIMIT, LOGS_LIMIT, PULL_LIMIT};
use super::notice::Notice;
use super::secrets::without_references;
use super::{Shared, compose, logs, meter, probe};

/// How long to wait before something is tried again that has to succeed.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// How often a sandbox is asked again before it is given up.
const WATCH_TRIES: u32 = 30;

/// What an action works with: the record as it was journaled with the decision.
pub(crate) struct Task {
    pub(crate) shared: Arc<Shared>,
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) sandbox: Option<Arc<dyn Sandbox>>,
    pub(crate) sender: mpsc::UnboundedSender<Message>,
}

impl Task {
    fn report(&self, message: Message) {
        // Without a receiver the engine is shutting down; a later one resumes from the journal.
        let _ = self.sender.send(message);
    }

    fn saw(&self, observation: Observation) {
        self.report(Message::Saw(observation));
    }

    /// A call into a part, which may neither panic nor hang.
    async fn limited<T>(
        &self,
        limit: Duration,
        operation: &'static str,
        future: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        guard::limited(&*self.shared.clock, limit, operation, future).await
    }

    fn failed(&self, action: &'static str, error: &Error) {
        meter::action_error(action);
        tracing::warn!(group = %self.record.group, action, error = %error.chain(), "an action failed");
    }

    fn sandbox(&self) -> Result<&Arc<dyn Sandbox>> {
        self.sandbox.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Lost, "group.act", "the sandbox is gone").on(&self.record.group)
        })
    }

    fn key(&self, container: &str) -> RootFsKey {
        RootFsKey {
            sandbox: self.record.sandbox.clone(),
            container: container.to_owned(),
        }
    }
}

const fn kind(action: &Action) -> &'static str {
    match action {
        Action::PullImage { .. } => "pull_image",
        Action::CreateSandbox { .. } => "create_sandbox",
        Action::StartContainer { .. } => "start_container",
        Action::Signal { .. } => "signal",
        Action::Probe { .. } => "probe",
        Action::SetReady { .. } => "set_ready",
        Action::WriteFiles { .. } => "write_files",
        Action::DestroySandbox { .. } => "destroy_sandbox",
        Action::Forget => "forget",
    }
}

/// Carries out an action. Its outcome goes to the group's task.
#[tracing::instrument(name = "action", level = "debug", skip_all, fields(group = %task.record.group, action = kind(&action)))]
pub(crate) async fn carry_out(task: Task, action: Action) {
    tracing::debug!(?action, "action");
    meter::action(kind(&action));
    match action {
        Action::PullImage {
            image,
            number,
            fresh,
        } => pull(&task, image, number, fresh).await,
        Action::CreateSandbox { epoch } => create(&task, epoch).await,
        Action::StartContainer {
            epoch,
            container,
            attempt,
        } => start(&task, epoch, container, attempt).await,
        Action::Signal {
            container,
            attempt,
            signal,
            all,
            ..
        } => {
            let sending = send_signal(&task, &container, attempt, signal, all);
            if let Err(error) = task.limited(ACTION_LIMIT, "sandbox.signal", sending).await {
                // The state machine sends another one if the container does not end.
                task.failed("signal", &error);
            }
        }
        Action::Probe {
            epoch: _,
            container,
            attempt,
            kind,
            number,
        } => run_probe(&task, container, attempt, kind, number).await,
        Action::DestroySandbox {
            epoch: _,
            number,
            save_logs,
            keep_address,
        } => destroy(&task, number, save_logs, !keep_address).await,
        // `keep` and the group's task do these.
        Action::SetReady { .. } | Action::WriteFiles { .. } | Action::Forget => {}
    }
}

/// Does what was said last, again and again until it is done.
pub(crate) async fn keep<T, F>(
    shared: Arc<Shared>,
    group: GroupRef,
    action: &'static str,
    mut wanted: watch::Receiver<T>,
    act: impl Fn(T) -> F,
) where
    T: Clone,
    F: Future<Output = Result<()>>,
{
    loop {
        let latest = wanted.borrow_and_update().clone();
        meter::action(action);
        let acting = act(latest);
        let done = guard::limited(&*shared.clock, ACTION_LIMIT, action, acting);
        let again = async {
            if let Err(error) = done.await {
                meter::action_error(action);
                tracing::warn!(%group, action, error = %error.chain(), "not done; tried again");
                shared.clock.sleep_until(shared.clock.now() + RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = again => {}
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Lets the files of config maps be those of the document.
pub(crate) async fn write_files(document: &ContainerGroup, sandbox: &dyn Sandbox) -> Result<()> {
    for (volume, files) in compose::config_maps(document) {
        sandbox.replace_files(&volume, files).await?;
    }
    Ok(())
}

/// The sandbox only runs the latest attempt of a container; an older one needs no signal.
async fn send_signal(
    task: &Task,
    container: &str,
    attempt: u32,
    signal: Signal,
    all: bool,
) -> Result<()> {
    let sandbox = task.sandbox()?;
    let status = sandbox.status().await?;
    let current = status
        .containers
        .iter()
        .any(|c| c.name == container && c.attempt == attempt);
    if current {
        sandbox.signal(container, signal, all).await?;
    }
    Ok(())
}

async fn pull(task: &Task, image: String, number: u64, fresh: bool) {
    let policy = if fresh {
        PullPolicy::Always
    } else {
        PullPolicy::IfNotPresent
    };
    let (shared, group, name) = (
        Arc::clone(&task.shared),
        task.record.group.clone(),
        image.clone(),
    );
    let progress = Arc::new(move |step| {
        shared.tell(Notice::Pull {
            group: group.clone(),
            image: name.clone(),
            step,
        });
    });
    let begun = task.shared.clock.now();
    let pulling = async {
        let (shared, record) = (&task.shared, &task.record);
        let request = PullRequest {
            login: shared
                .login(&record.group, &record.document, &image)
                .await?,
            reference: image.clone(),
            policy,
        };
        shared.images.pull(request, Some(progress)).await
    };
    let pulled = task.limited(PULL_LIMIT, "image.pull", pulling).await;
    meter::pull(pulled.is_ok(), task.shared.clock.now().since(begun));
    match pulled {
        Ok(pulled) => task.report(Message::Image {
            image,
            number,
            stop_signal: compose::stop_signal(&pulled),
            digest: pulled.digest,
        }),
        Err(error) => {
            task.failed("pull_image", &error);
            let retryable = error.is_retryable();
            // A failure that ends the group shows its code there; of others the event is all there is.
            let message = match error.aci_code() {
                Some(code) if retryable => format!("{code}: {}", told(&error)),
                _ => told(&error),
            };
            task.saw(Observation::PullFailed {
                image,
                number,
                message,
                code: error.aci_code().map(str::to_owned),
                retryable,
            });
        }
    }
}

async fn create(task: &Task, epoch: u64) {
    let making = try_create(task, epoch);
    let error = match task.limited(ACTION_LIMIT, "sandbox.create", making).await {
        Ok((sandbox, attachment)) => return task.report(Message::Up(epoch, sandbox, attachment)),
        Err(error) => error,
    };
    task.failed("create_sandbox", &error);
    // The answer says that nothing is left, so it is given when that is true. A user who does not
    // want to wait stops or deletes the group, which ends this and does the same.
    while let Err(error) = task
        .limited(ACTION_LIMIT, "sandbox.clear", clear(task, true))
        .await
    {
        meter::destroy_error();
        tracing::warn!(group = %task.record.group, error = %error.chain(), "a half-made sandbox could not be removed; tried again");
        task.shared
            .clock
            .sleep_until(task.shared.clock.now() + RETRY)
            .await;
    }
    task.saw(Observation::SandboxFailed {
        epoch,
        message: told(&error),
        code: error.aci_code().map(str::to_owned),
        retryable: error.is_retryable(),
    });
}

async fn try_create(task: &Task, epoch: u64) -> Result<(Arc<dyn Sandbox>, Option<Attachment>)> {
    let (shared, record) = (&task.shared, &task.record);
    let properties = &record.document.properties;
    // What a crashed try left is not worth mending.
    shared.isolation.remove(&record.sandbox).await?;
    let mut volumes = Vec::new();
    for volume in &properties.volumes {
        let resolved = shared
            .resolved(&record.group, &record.document, volume)
            .await?;
        let source =
            driver(shared, volume)?
                .provide(
                    VolumeRequest::new(record.sandbox.clone(), resolved.into_owned())
                        .progress(hear(task, epoch, &volume.name)),
                )
                .await?;
        volumes.push(SandboxVolume {
            name: volume.name.clone(),
            source,
            read_only: volume
                .azure_file
                .as_ref()
                .is_some_and(|f| f.read_only.unwrap_or(false)),
        });
    }
    for (name, source) in compose::config_maps(&record.document) {
        volumes.push(SandboxVolume {
            name,
            source,
            read_only: true,
        });
    }
    let hostname = compose::hostname(record.group.name());
    let sandbox = shared
        .isolation
        .create(SandboxSpec {
            id: record.sandbox.clone(),
            hostname: hostname.clone(),
            limits: shared.group_limits(&record.document)?,
            volumes,
        })
        .await?;
    let endpoint = sandbox.network();
    if matches!(endpoint, NetworkEndpoint::None) && !shared.network.capability().addresses {
        return Ok((sandbox, None));
    }
    let subnets = properties.subnet_ids.iter().map(|s| s.id.clone()).collect();
    let attachment = shared
        .network
        .attach(AttachRequest {
            sandbox: record.sandbox.clone(),
            group: record.group.clone(),
            location: record.document.location.clone().unwrap_or_default(),
            endpoint,
            hostname,
            ip_address: properties.ip_address.clone(),
            subnets,
            dns: properties.dns_config.clone(),
        })
        .await?;
    // A fresh attachment is open; who has a readiness probe is let in when it first succeeds.
    let containers = &properties.containers;
    if containers
        .iter()
        .any(|c| c.properties.readiness_probe.is_some())
    {
        shared.network.set_ready(&record.sandbox, false).await?;
    }
    Ok((sandbox, Some(attachment)))
}

/// Hears what a driver says about a volume: of what is done, the group has events.
fn hear(task: &Task, epoch: u64, volume: &str) -> VolumeProgress {
    let (shared, sender) = (Arc::clone(&task.shared), task.sender.clone());
    let (group, volume) = (task.record.group.clone(), volume.to_owned());
    Arc::new(move |step| {
        if let VolumeEvent::Told { name, message } = &step {
            let (name, message) = (name.clone(), message.clone());
            // As `Task::report`.
            let _ = sender.send(Message::Saw(Observation::VolumeTold {
                epoch,
                name,
                message,
            }));
        }
        shared.tell(Notice::Volume {
            group: group.clone(),
            volume: volume.clone(),
            step,
        });
    })
}

/// The first driver that takes the volume.
pub(crate) fn driver<'a>(shared: &'a Shared, volume: &Volume) -> Result<&'a Arc<dyn VolumeDriver>> {
    let asked = without_references(volume);
    shared
        .volumes
        .iter()
        .find(|d| d.supports(&asked))
        .ok_or_else(|| {
            let names: Vec<&str> = shared.volumes.iter().map(|d| d.name()).collect();
            Error::new(
                ErrorKind::Unsupported,
                "group.volumes",
                format!(
                    "no volume driver of this engine provides '{}' (there are: {})",
                    volume.name,
                    if names.is_empty() {
                        "none".to_owned()
                    } else {
                        names.join(", ")
                    }
                ),
            )
            .hint("give the engine's builder a driver for this kind of volume")
        })
}

async fn start(task: &Task, epoch: u64, container: String, attempt: u32) {
    let view = task.record.lifecycle.container_view(&container);
    if view.is_some_and(|v| v.restart_count.unwrap_or(0) > 0) {
        meter::restart();
    }
    let starting = try_start(task, &container, attempt);
    let error = match task.limited(ACTION_LIMIT, "sandbox.start", starting).await {
        Ok(()) => return task.saw(Observation::Started { container, attempt }),
        Err(error) => error,
    };
    task.failed("start_container", &error);
    // What was not answered may have been done: what the sandbox says counts. It says the same
    // after an earlier engine died in the middle of this start.
    let ran = loop {
        let Ok(sandbox) = task.sandbox() else {
            break false;
        };
        let asking = task.limited(ACTION_LIMIT, "sandbox.status", sandbox.status());
        match asking.await {
            Ok(status) => {
                break status
                    .containers
                    .iter()
                    .any(|c| c.name == container && c.attempt == attempt);
            }
            Err(error) if error.kind() == ErrorKind::Lost => {
                let message = error.chain();
                return task.saw(Observation::SandboxLost { epoch, message });
            }
            Err(_) => {
                let clock = &task.shared.clock;
                clock.sleep_until(clock.now() + RETRY).await;
            }
        }
    };
    task.saw(if ran {
        Observation::Started { container, attempt }
    } else {
        Observation::StartFailed {
            container,
            attempt,
            code: error.program_exit_code().unwrap_or(128),
            message: told(&error),
        }
    });
}

async fn try_start(task: &Task, container: &str, attempt: u32) -> Result<()> {
    let (shared, record) = (&task.shared, &task.record);
    let sandbox = task.sandbox()?;
    let part = compose::part(&record.document, container).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "container.start",
            "the document has no such container",
        )
        .on(container)
    })?;
    // What the latest pull found, whatever the tag points to now.
    let digest = record
        .lifecycle
        .image_digest(container)
        .or_else(|| record.images.get(part.image).map(String::as_str));
    let image = match digest {
        Some(digest) => shared.images.get(digest).await?,
        None => shared.images.get(part.image).await?,
    };
    let rootfs = shared
        .images
        .prepare(&image.digest, &task.key(container))
        .await?;
    let hostname = compose::hostname(record.group.name());
    let secrets = shared
        .secrets(&record.group, &record.document, part.references())
        .await?;
    let spec = compose::container(
        part,
        attempt,
        compose::Surroundings {
            image: &image,
            rootfs,
            attachment: record.attachment.as_ref(),
            hostname: &hostname,
            secrets: &secrets,
            limits: shared.container_limits(&record.document, container)?,
            log_bytes: shared.options.running_log_bytes,
        },
    )?;
    sandbox.start(spec).await
}

async fn run_probe(task: &Task, container: String, attempt: u32, kind: ProbeKind, number: u64) {
    let document = &task.record.document;
    let found = document
        .properties
        .containers
        .iter()
        .find(|c| c.name == container)
        .and_then(|c| match kind {
            ProbeKind::Liveness => c.properties.liveness_probe.as_ref(),
            ProbeKind::Readiness => c.properties.readiness_probe.as_ref(),
        });
    let (Some(spec), Ok(sandbox)) = (found, task.sandbox()) else {
        return;
    };
    let (clock, limit) = (&task.shared.clock, timeout(spec));
    let begun = clock.now();
    let address = probe_address(&task.record);
    let running = async { Ok(probe::run(clock, sandbox, &container, spec, address, limit).await) };
    // The probe keeps its time by itself, except where a call into the sandbox hangs.
    let outcome = task
        .limited(limit + RETRY, "sandbox.probe", running)
        .await
        .unwrap_or_else(|error| probe::failed(error.message()));
    meter::probe(kind, outcome.success, clock.now().since(begun));
    task.saw(Observation::Probed {
        container,
        attempt,
        kind,
        number,
        success: outcome.success,
        message: outcome.message,
    });
}

fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(u64::from(probe.timeout_seconds.unwrap_or(1).max(1)))
}

/// The group's own address, as Kubernetes probes it; loopback for groups without one.
pub(crate) fn probe_address(record: &GroupRecord) -> IpAddr {
    record
        .attachment
        .as_ref()
        .and_then(|a| a.addresses.first())
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), ipnet::IpNet::addr)
}

/// Keeps the ends of the logs, then takes everything down.
async fn destroy(task: &Task, number: u64, save: bool, release: bool) {
    let logs = match &task.sandbox {
        Some(sandbox) if save => save_logs(task, sandbox).await,
        _ => BTreeMap::new(),
    };
    if !logs.is_empty() {
        // They go with the sandbox, and a crash may follow at once.
        let (kept, journaled) = oneshot::channel();
        task.report(Message::Logs(logs, kept));
        if journaled.await.is_err() {
            // The engine is shutting down; a later one does this again.
            return;
        }
    }
    let clearing = clear(task, release);
    match task.limited(ACTION_LIMIT, "sandbox.clear", clearing).await {
        Ok(()) => task.report(Message::Down {
            number,
            released: release,
        }),
        Err(error) => {
            task.failed("destroy_sandbox", &error);
            meter::destroy_error();
            task.saw(Observation::DestroyFailed {
                number,
                message: error.chain(),
            });
        }
    }
}

/// Removes everything of the deployment; with `release` also its address and its volumes.
async fn clear(task: &Task, release: bool) -> Result<()> {
    let (shared, record) = (&task.shared, &task.record);
    if !release {
        // The address stays, and must not lead to whatever comes next before that is ready.
        shared.network.set_ready(&record.sandbox, false).await?;
    }
    if let Some(sandbox) = &task.sandbox
        && let Err(error) = sandbox.destroy().await
    {
        // `remove` decides: it does without the supervisor.
        tracing::debug!(group = %record.group, error = %error.chain(), "the sandbox did not go by itself");
    }
    shared.isolation.remove(&record.sandbox).await?;
    // Also those of containers that an update has taken out of the document.
    for key in shared.images.prepared().await? {
        if key.sandbox == record.sandbox {
            shared.images.release(&key).await?;
        }
    }
    if release {
        return shared.release(&record.sandbox).await;
    }
    // What containers wrote stays; what the document says is provided anew, for it may have changed.
    let kept = |name: &str| {
        let volumes = &record.document.properties.volumes;
        let volume = volumes.iter().find(|v| v.name == name);
        volume.is_some_and(|v| v.empty_dir.is_some())
    };
    shared.release_volumes(&record.sandbox, kept).await
}

async fn save_logs(task: &Task, sandbox: &Arc<dyn Sandbox>) -> BTreeMap<String, String> {
    let options = &task.shared.options;
    let properties = &task.record.document.properties;
    let apps = properties.containers.iter().map(|c| &c.name);
    let inits = properties.init_containers.iter().map(|c| &c.name);
    let mut saved = BTreeMap::new();
    let saving = async {
        for container in apps.chain(inits) {
            let query = LogQuery {
                tail: Some(options.stopped_log_lines),
                ..Default::default()
            };
            let reading = async {
                let stream = sandbox.logs(container, query).await?;
                Ok(logs::end(stream, true, options.stopped_log_bytes).await.0)
            };
            match guard::caught("sandbox.logs", reading).await {
                Ok(text) => {
                    saved.insert(container.clone(), text);
                }
                // It was never started, or went with its supervisor.
                Err(error) => {
                    tracing::debug!(group = %task.record.group, %container, error = %error.chain(), "no log to keep");
                }
            }
        }
    };
    if guard::within(&*task.shared.clock, LOGS_LIMIT, saving)
        .await
        .is_none()
    {
        tracing::warn!(group = %task.record.group, "the logs could not be read in time and are lost in part");
    }
    saved
}

/// Tells the group's task what the sandbox's containers do, from the first state on, until the
/// sandbox is gone or given up.
pub(crate) async fn watch_sandbox(
    clock: Arc<dyn Clock>,
    epoch: u64,
    sandbox: Arc<dyn Sandbox>,
    sender: mpsc::UnboundedSender<Message>,
    stop: CancellationToken,
) {
    let mut seen = None;
    let mut failures = 0;
    loop {
        let asking = guard::caught("sandbox.changed", async {
            match seen {
                None => sandbox.status().await,
                Some(generation) => sandbox.changed(generation).await,
            }
        });
        let status = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            status = asking => status,
        };
        let (observation, end) = match status {
            Ok(status) => {
                failures = 0;
                seen = Some(status.generation);
                (Observation::Sandbox { epoch, status }, false)
            }
            // A sandbox is not given up for an error of the moment.
            Err(error) if error.kind() != ErrorKind::Lost && failures < WATCH_TRIES => {
                failures += 1;
                tracing::warn!(sandbox = %sandbox.id(), failures, error = %error.chain(), "the sandbox does not say how it is; asked again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = clock.sleep_until(clock.now() + RETRY) => continue,
                }
            }
            Err(error) => {
                tracing::error!(sandbox = %sandbox.id(), error = %error.chain(), "the sandbox is lost");
                let message = error.chain();
                (Observation::SandboxLost { epoch, message }, true)
            }
        };
        if sender.send(Message::Saw(observation)).is_err() || end {
            return;
        }
    }
}

/// The sentence for a person, with the next step.
fn told(error: &Error) -> String {
    match error.next_step() {
        Some(step) => format!("{} ({step})", error.message()),
        None => error.message().to_owned(),
    }
}
