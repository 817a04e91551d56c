//! Carrying out one action of a group's state machine, and reporting what came of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{
    AttachRequest, Attachment, GroupRecord, LogQuery, NetworkEndpoint, PullPolicy, PullRequest,
    RegistryLogin, RootFsKey, Sandbox, SandboxSpec, SandboxVolume, Signal, VolumeDriver,
    VolumeRequest, VolumeSource,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::lifecycle::{Action, Observation, ProbeKind};
use aci_core::model::{Probe, Volume};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::actor::Message;
use super::notice::Notice;
use super::{Shared, compose, logs, probe};

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
        Action::DestroySandbox { .. } => "destroy_sandbox",
        Action::Forget => "forget",
    }
}

/// Carries out an action. Its outcome goes to the group's task.
pub(crate) async fn carry_out(task: Task, action: Action) {
    tracing::debug!(group = %task.record.group, ?action, "action");
    metrics::counter!("aci_actions_total", "action" => kind(&action)).increment(1);
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
            if let Err(error) = send_signal(&task, &container, attempt, signal, all).await {
                tracing::warn!(group = %task.record.group, %container, error = %error.chain(), "signal");
            }
        }
        Action::Probe {
            epoch: _,
            container,
            attempt,
            kind,
            number,
        } => run_probe(&task, container, attempt, kind, number).await,
        Action::SetReady { ready, .. } => {
            if let Err(error) = task
                .shared
                .network
                .set_ready(&task.record.sandbox, ready)
                .await
            {
                tracing::warn!(group = %task.record.group, error = %error.chain(), "traffic could not be switched");
            }
        }
        Action::DestroySandbox {
            epoch: _,
            number,
            save_logs,
            keep_address,
        } => destroy(&task, number, save_logs, !keep_address).await,
        // The group's task does it itself.
        Action::Forget => {}
    }
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
    let request = PullRequest {
        login: login(task, &image),
        reference: image.clone(),
        policy: if fresh {
            PullPolicy::Always
        } else {
            PullPolicy::IfNotPresent
        },
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
    match task.shared.images.pull(request, Some(progress)).await {
        Ok(pulled) => task.report(Message::Image {
            image,
            number,
            stop_signal: compose::stop_signal(&pulled),
            digest: pulled.digest,
        }),
        Err(error) => {
            let retryable = error.is_retryable();
            task.saw(Observation::PullFailed {
                image,
                number,
                message: told(&error),
                code: error.aci_code().map(str::to_owned),
                retryable,
            });
        }
    }
}

/// The document's credentials for an image's registry: the server is what stands before the first
/// slash, as Docker reads references; without one it is Docker Hub.
fn login(task: &Task, reference: &str) -> Option<RegistryLogin> {
    let server = match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    };
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    task.record
        .document
        .properties
        .image_registry_credentials
        .iter()
        .find(|c| {
            c.server.eq_ignore_ascii_case(server)
                || (hub.contains(&server) && hub.iter().any(|h| c.server.eq_ignore_ascii_case(h)))
        })
        .and_then(|c| {
            Some(RegistryLogin {
                server: server.to_owned(),
                username: c.username.clone()?,
                password: c.password.clone()?,
            })
        })
}

async fn create(task: &Task, epoch: u64) {
    match try_create(task).await {
        Ok((sandbox, attachment)) => task.report(Message::Up(epoch, sandbox, attachment)),
        Err(error) => {
            tracing::warn!(group = %task.record.group, error = %error.chain(), "the sandbox could not be made");
            if let Err(error) = clear(task, true).await {
                tracing::warn!(group = %task.record.group, error = %error.chain(), "clearing a half-made sandbox");
            }
            task.saw(Observation::SandboxFailed {
                epoch,
                message: told(&error),
                code: error.aci_code().map(str::to_owned),
                retryable: error.is_retryable(),
            });
        }
    }
}

async fn try_create(task: &Task) -> Result<(Arc<dyn Sandbox>, Option<Attachment>)> {
    let (shared, record) = (&task.shared, &task.record);
    let properties = &record.document.properties;
    // What a crashed try left is not worth mending.
    shared.isolation.remove(&record.sandbox).await?;
    let mut volumes = Vec::new();
    for volume in &properties.volumes {
        let source = driver(shared, volume)?
            .provide(VolumeRequest {
                sandbox: record.sandbox.clone(),
                volume: volume.clone(),
            })
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
    for container in &properties.containers {
        if let Some(map) = &container.properties.config_map {
            let files = map
                .key_value_pairs
                .iter()
                .map(|(key, value)| (key.clone(), Bytes::from(value.clone())))
                .collect();
            volumes.push(SandboxVolume {
                name: compose::config_map_volume(&container.name),
                source: VolumeSource::Files(files),
                read_only: true,
            });
        }
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
            endpoint,
            hostname,
            ip_address: properties.ip_address.clone(),
            subnets,
            dns: properties.dns_config.clone(),
        })
        .await?;
    Ok((sandbox, Some(attachment)))
}

/// The first driver that takes the volume.
pub(crate) fn driver<'a>(shared: &'a Shared, volume: &Volume) -> Result<&'a Arc<dyn VolumeDriver>> {
    shared
        .volumes
        .iter()
        .find(|d| d.supports(volume))
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
    match try_start(task, &container, attempt).await {
        Ok(()) => task.saw(Observation::Started { container, attempt }),
        // The watcher of the sandbox says so too, and that decides.
        Err(error) if error.kind() == ErrorKind::Lost => {
            task.saw(Observation::SandboxLost {
                epoch,
                message: error.chain(),
            });
        }
        Err(error) => {
            tracing::warn!(group = %task.record.group, %container, error = %error.chain(), "the container could not be started");
            task.saw(Observation::StartFailed {
                container,
                attempt,
                code: error.program_exit_code().unwrap_or(128),
                message: told(&error),
            });
        }
    }
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
    let image = match record.images.get(part.image) {
        Some(digest) => shared.images.get(digest).await?,
        None => shared.images.get(part.image).await?,
    };
    let rootfs = shared
        .images
        .prepare(&image.digest, &task.key(container))
        .await?;
    let hostname = compose::hostname(record.group.name());
    let spec = compose::container(
        part,
        attempt,
        compose::Surroundings {
            image: &image,
            rootfs,
            attachment: record.attachment.as_ref(),
            hostname: &hostname,
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
    let outcome = probe::run(
        &task.shared.clock,
        sandbox,
        &container,
        spec,
        probe_address(&task.record),
        timeout(spec),
    )
    .await;
    metrics::counter!("aci_probes_total", "success" => if outcome.success { "true" } else { "false" })
        .increment(1);
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
    match clear(task, release).await {
        Ok(()) => task.report(Message::Down {
            number,
            logs,
            released: release,
        }),
        Err(error) => {
            tracing::error!(group = %task.record.group, error = %error.chain(), "the sandbox could not be taken down");
            metrics::counter!("aci_destroy_errors_total").increment(1);
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
    if let Some(sandbox) = &task.sandbox {
        sandbox.destroy().await?;
    }
    shared.isolation.remove(&record.sandbox).await?;
    let properties = &record.document.properties;
    let apps = properties.containers.iter().map(|c| &c.name);
    let inits = properties.init_containers.iter().map(|c| &c.name);
    for container in apps.chain(inits) {
        shared.images.release(&task.key(container)).await?;
    }
    if release {
        shared.release(&record.sandbox).await?;
    }
    Ok(())
}

async fn save_logs(task: &Task, sandbox: &Arc<dyn Sandbox>) -> BTreeMap<String, String> {
    let options = &task.shared.options;
    let properties = &task.record.document.properties;
    let apps = properties.containers.iter().map(|c| &c.name);
    let inits = properties.init_containers.iter().map(|c| &c.name);
    let mut saved = BTreeMap::new();
    for container in apps.chain(inits) {
        let query = LogQuery {
            tail: Some(options.stopped_log_lines),
            ..Default::default()
        };
        let Ok(stream) = sandbox.logs(container, query).await else {
            continue;
        };
        let lines: Vec<_> = stream.filter_map(|l| async { l.ok() }).collect().await;
        let text = logs::text(&lines, true);
        let kept = logs::last_bytes(&text, options.stopped_log_bytes);
        saved.insert(container.clone(), kept.to_owned());
    }
    saved
}

/// Tells the group's task what the sandbox's containers do, from the first state on, until the
/// sandbox is gone or given up.
pub(crate) async fn watch_sandbox(
    epoch: u64,
    sandbox: Arc<dyn Sandbox>,
    sender: mpsc::UnboundedSender<Message>,
    stop: CancellationToken,
) {
    let mut seen = None;
    loop {
        let status = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            status = async { match seen {
                None => sandbox.status().await,
                Some(generation) => sandbox.changed(generation).await,
            } } => status,
        };
        let (observation, end) = match status {
            Ok(status) => {
                seen = Some(status.generation);
                (Observation::Sandbox { epoch, status }, false)
            }
            Err(error) => {
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
