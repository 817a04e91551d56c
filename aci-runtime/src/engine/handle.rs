//! Handles of groups and containers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aci_core::bill::Bill;
use aci_core::contract::{
    ContainerStats, Duplex, ExecSpec, GroupRecord, LogQuery, LogStream, NetworkStats, Process,
    ProcessSpec, Sandbox, SecretFile, Signal, TerminalSize, VolumeSource,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::{GroupRef, SandboxId};
use aci_core::lifecycle::{Command, GroupState, ProvisioningState};
use aci_core::model::{ContainerGroup, ContainerInstanceView, Secret};
use aci_core::time::Timestamp;

#[cfg(feature = "arm-api")]
use aci_core::contract::SandboxStats;

use super::actor::{Member, Snapshot, Wish};
use super::notice::Notices;
use super::{Shared, act, closed, compose, guard, lock, logs, not_found, reply};

/// A group of an engine. A clone is a second handle of the same group.
#[derive(Clone, Debug)]
pub struct Group {
    shared: Arc<Shared>,
    group: GroupRef,
    member: Member,
}

/// A container of a group; init containers too.
#[derive(Clone, Debug)]
pub struct ContainerHandle {
    group: Group,
    name: String,
}

/// Which part of a log, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only the last so many lines.
    pub tail: Option<u32>,
    /// The time of each line in front of it.
    pub timestamps: bool,
}

/// A process to run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// A terminal of this size.
    pub terminal: Option<TerminalSize>,
    /// Whether its standard input will be written to.
    pub stdin: bool,
    /// The environment in place of the container's; empty: the container's.
    pub env: Vec<(String, Secret)>,
}

impl ExecOptions {
    /// A command without input and terminal.
    #[must_use]
    pub fn command<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            ..Default::default()
        }
    }

    /// `/bin/sh` on a terminal of 80 by 24 characters.
    #[must_use]
    pub fn shell() -> Self {
        Self {
            command: vec!["/bin/sh".to_owned()],
            terminal: Some(TerminalSize::default()),
            stdin: true,
            ..Default::default()
        }
    }
}

/// What a container uses.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerUsage {
    /// What was measured.
    pub stats: ContainerStats,
    /// CPU in thousandths of a core, as ACI's metric `CpuUsage`: since the measurement before, or
    /// for the first one since the container's start.
    pub cpu_millicores: f64,
}

/// What a group uses.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupUsage {
    /// When it was measured.
    pub at: Timestamp,
    /// Each running container.
    pub containers: Vec<ContainerUsage>,
    /// The group's network, if it has one.
    pub network: Option<NetworkStats>,
}

impl Group {
    pub(crate) const fn new(shared: Arc<Shared>, group: GroupRef, member: Member) -> Self {
        Self {
            shared,
            group,
            member,
        }
    }

    fn snapshot(&self) -> Snapshot {
        self.member.snapshot.borrow().clone()
    }

    fn record(&self) -> Arc<GroupRecord> {
        Arc::clone(&self.member.snapshot.borrow().record)
    }

    /// How users name it.
    #[must_use]
    pub const fn name(&self) -> &GroupRef {
        &self.group
    }

    /// How the machine names its deployment; kernel objects bear this name.
    #[must_use]
    pub fn sandbox_id(&self) -> SandboxId {
        self.record().sandbox.clone()
    }

    /// The group as ACI's GET answers it: the document, without secrets, with the instance view.
    #[must_use]
    pub fn view(&self) -> ContainerGroup {
        reply::view(&self.record())
    }

    /// The document and its provisioning state, without the instance views: what a list shows.
    #[must_use]
    pub fn summary(&self) -> ContainerGroup {
        reply::summary(&self.record())
    }

    /// When the group was first created.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.record().created
    }

    /// The group's state.
    #[must_use]
    pub fn state(&self) -> GroupState {
        self.record().lifecycle.state()
    }

    /// The provisioning state.
    #[must_use]
    pub fn provisioning_state(&self) -> ProvisioningState {
        self.record().lifecycle.provisioning_state()
    }

    /// The address that the host reaches the group at, if it has one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let record = self.record();
        let attachment = record.attachment.as_ref()?;
        attachment.addresses.first().map(ipnet::IpNet::addr)
    }

    /// The group as it is journaled, secrets included.
    #[cfg(feature = "arm-server")]
    pub(crate) fn journaled(&self) -> Arc<GroupRecord> {
        self.record()
    }

    /// Whether the group has an address, be it the one that it is reached at or another.
    #[cfg(feature = "arm-server")]
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        let record = self.record();
        let attachment = record.attachment.as_ref();
        attachment.is_some_and(|a| a.addresses.iter().any(|own| own.addr() == address))
    }

    /// What the group has cost so far.
    #[must_use]
    pub fn bill(&self) -> Bill {
        self.record()
            .ledger
            .bill(self.shared.clock.now() + self.member.ahead)
    }

    /// What happens to this group from now on.
    #[must_use]
    pub fn watch(&self) -> Notices {
        self.shared.notices(Some(self.group.clone()))
    }

    /// A container or init container by name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound).
    pub fn container(&self, name: &str) -> Result<ContainerHandle> {
        let record = self.record();
        if compose::part(&record.document, name).is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "group.container",
                format!(
                    "The container '{name}' in container group '{}' was not found.",
                    self.group.name()
                ),
            )
            .on(&self.group)
            .code("ContainerNotFound"));
        }
        Ok(ContainerHandle {
            group: self.clone(),
            name: name.to_owned(),
        })
    }

    /// Waits until all containers were started and nothing else is under way, or they have ended
    /// well. While an update or a restart goes on, it waits for its end.
    ///
    /// A container that ends again and again counts as started, as in ACI, where its group is
    /// `Running` too: its restart count and its state `Waiting` with `CrashLoopBackOff` tell.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) with ACI's code if the group failed, in the words of what
    /// made it fail; [`Conflict`](ErrorKind::Conflict) if it was stopped;
    /// [`NotFound`](ErrorKind::NotFound) if it was deleted; [`Cancelled`](ErrorKind::Cancelled) if
    /// the engine shut down.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn running(&self) -> Result<()> {
        self.until("group.running", |snapshot| {
            let lifecycle = &snapshot.record.lifecycle;
            match lifecycle.state() {
                GroupState::Running if lifecycle.is_up() => Some(Ok(())),
                GroupState::Succeeded => Some(Ok(())),
                GroupState::Failed => Some(Err(self.failure(&snapshot.record))),
                GroupState::Stopped => Some(Err(stopped(&self.group))),
                GroupState::Running | GroupState::Pending => None,
            }
        })
        .await
    }

    /// Waits until the last creation, change, start or restart has come to its end: all containers
    /// were started, or have ended, or the group was stopped. Unlike [`Group::running`] it does not
    /// mind how containers end.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) with ACI's code if the provisioning failed;
    /// [`NotFound`](ErrorKind::NotFound) if the group was deleted;
    /// [`Cancelled`](ErrorKind::Cancelled) if the engine shut down.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn provisioned(&self) -> Result<()> {
        self.until("group.provisioned", |snapshot| {
            let lifecycle = &snapshot.record.lifecycle;
            if snapshot.record.lifecycle.is_deleting() {
                return Some(Err(not_found(&self.group)));
            }
            match lifecycle.provisioning_state() {
                ProvisioningState::Failed => Some(Err(self.failure(&snapshot.record))),
                ProvisioningState::Succeeded if lifecycle.is_up() || lifecycle.has_ended() => {
                    Some(Ok(()))
                }
                _ => None,
            }
        })
        .await
    }

    /// Whether [`Group::provisioned`] would return at once.
    #[must_use]
    pub fn is_provisioned(&self) -> bool {
        let record = self.record();
        let lifecycle = &record.lifecycle;
        match lifecycle.provisioning_state() {
            ProvisioningState::Failed => true,
            ProvisioningState::Succeeded => lifecycle.is_up() || lifecycle.has_ended(),
            _ => false,
        }
    }

    /// Whether the group is being deleted.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.record().lifecycle.is_deleting()
    }

    /// Waits until the group has ended: succeeded, failed or stopped.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it was deleted; [`Cancelled`](ErrorKind::Cancelled) if
    /// the engine shut down.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ended(&self) -> Result<GroupState> {
        self.until("group.ended", |snapshot| {
            let lifecycle = &snapshot.record.lifecycle;
            let state = lifecycle.state();
            // A group that waits for room has not ended.
            (lifecycle.is_settled() && state != GroupState::Pending).then_some(Ok(state))
        })
        .await
    }

    /// Waits until a condition on the group's view holds.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it was deleted; [`Cancelled`](ErrorKind::Cancelled) if
    /// the engine shut down.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn wait_for(&self, condition: impl Fn(&ContainerGroup) -> bool) -> Result<()> {
        self.until("group.wait", |snapshot| {
            condition(&reply::view(&snapshot.record)).then_some(Ok(()))
        })
        .await
    }

    async fn until<T>(
        &self,
        operation: &'static str,
        decide: impl Fn(&Snapshot) -> Option<Result<T>>,
    ) -> Result<T> {
        let mut snapshot = self.member.snapshot.clone();
        loop {
            let now = snapshot.borrow_and_update().clone();
            if now.gone {
                return Err(not_found(&self.group));
            }
            if let Some(decided) = decide(&now) {
                return decided;
            }
            if snapshot.changed().await.is_err() {
                return Err(closed(operation).on(&self.group));
            }
        }
    }

    fn failure(&self, record: &GroupRecord) -> Error {
        let (code, message) = match record.lifecycle.failure() {
            Some(failure) => (failure.code.clone(), failure.message.clone()),
            None => (None, "a container ended with an error".to_owned()),
        };
        Error::new(ErrorKind::Invalid, "group.running", message)
            .on(&self.group)
            .code(code.unwrap_or_else(|| "DeploymentFailed".to_owned()))
    }

    async fn ask(&self, command: Command) -> Result<()> {
        self.member.ask(&self.group, Wish::Do(command)).await
    }

    /// Starts a stopped or ended group again, as a new deployment. It returns when the wish is in
    /// the journal; if there is no room now and the engine's
    /// [`when_full`](super::EngineOptions::when_full) lets groups wait, the group is `Pending` until
    /// there is.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) if there is no room now;
    /// [`Conflict`](ErrorKind::Conflict) with `ContainerGroupTransitioning`.
    ///
    /// # Cancel safety
    /// The wish was accepted or not; [`Group::state`] tells.
    #[tracing::instrument(skip_all, fields(group = %self.group))]
    pub async fn start(&self) -> Result<()> {
        self.ask(Command::Start).await
    }

    /// Stops the group and waits until it is stopped: each container gets its stop signal, and
    /// after the grace period the kill. Nothing happens if the group has ended by itself; a group
    /// that waits for room gives its place up.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it was deleted; [`Cancelled`](ErrorKind::Cancelled) if
    /// the engine shut down before.
    ///
    /// # Cancel safety
    /// Once accepted the stop goes on without the caller.
    #[tracing::instrument(skip_all, fields(group = %self.group))]
    pub async fn stop(&self) -> Result<()> {
        let rests = self.snapshot().rests;
        self.ask(Command::Stop).await?;
        self.until("group.stop", |snapshot| {
            // It may have been started again since.
            let lifecycle = &snapshot.record.lifecycle;
            let rested = lifecycle.is_settled() || snapshot.rests > rests;
            rested.then_some(Ok(()))
        })
        .await
    }

    /// Restarts all containers in place; a group whose volumes are made of secret references gets a
    /// new sandbox with the same address, and they are looked up again. It returns when the wish is
    /// in the journal.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) with `ContainerGroupStopped` or
    /// `ContainerGroupTransitioning`.
    ///
    /// # Cancel safety
    /// The wish was accepted or not; the restart counts tell.
    #[tracing::instrument(skip_all, fields(group = %self.group))]
    pub async fn restart(&self) -> Result<()> {
        self.ask(Command::Restart).await
    }

    /// Deletes the group and waits until nothing of it is left.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) if the engine shuts down before it is done; the next
    /// engine goes on with it.
    ///
    /// # Cancel safety
    /// Once accepted the deletion goes on without the caller.
    #[tracing::instrument(skip_all, fields(group = %self.group))]
    pub async fn delete(&self) -> Result<()> {
        match self.ask(Command::Delete).await {
            // It was deleted before.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            asked => asked?,
        }
        let gone = self
            .until::<()>("group.delete", |_| None)
            .await
            .err()
            .filter(|e| e.kind() != ErrorKind::NotFound);
        gone.map_or(Ok(()), Err)
    }

    /// Replaces the group's tags, without a restart (ACI's PATCH).
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) if the journal cannot be written.
    ///
    /// # Cancel safety
    /// The tags were replaced or not.
    #[tracing::instrument(skip_all, fields(group = %self.group))]
    pub async fn set_tags(&self, tags: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        let tags = tags.into_iter().collect();
        self.member.ask(&self.group, Wish::Tags(tags)).await
    }

    /// Looks the group's secret references up again and lets its `secretReference` volumes have what
    /// they stand for now, without a restart: in each volume all files change in one step. Keys of
    /// shares, passwords of registries and environments are looked up when they are used next.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) with `ContainerGroupStopped` if the group does not run;
    /// those of the resolver and the isolation, and then later volumes are as they were.
    ///
    /// # Cancel safety
    /// Some volumes may have been changed, each as a whole; call it again.
    #[tracing::instrument(skip_all, fields(group = %self.group))]
    pub async fn refresh_secrets(&self) -> Result<()> {
        let (sandbox, record) = (self.sandbox()?, self.record());
        for volume in &record.document.properties.volumes {
            if volume.secret_reference.is_none() {
                continue;
            }
            let resolving = self.shared.resolved(&self.group, &record.document, volume);
            let secret = resolving.await?.into_owned().secret.unwrap_or_default();
            let files = secret.0.into_iter();
            let files = files.map(|(name, base64)| SecretFile { name, base64 });
            let files = VolumeSource::Secret(files.collect());
            let replacing = sandbox.replace_files(&volume.name, files);
            guard::caught("sandbox.replace_files", replacing).await?;
        }
        Ok(())
    }

    /// What the containers use now.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) with `ContainerGroupStopped` if there is nothing running.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn usage(&self) -> Result<GroupUsage> {
        let sandbox = self.sandbox()?;
        let stats = guard::caught("sandbox.stats", sandbox.stats()).await?;
        let record = self.record();
        let before = lock(&self.member.sample).replace(stats.clone());
        let containers = stats
            .containers
            .iter()
            .map(|c| {
                let earlier = before
                    .as_ref()
                    .filter(|b| b.at < stats.at)
                    .and_then(|b| Some((b.at, b.containers.iter().find(|x| x.name == c.name)?)))
                    .filter(|(_, x)| x.cpu <= c.cpu);
                let (cpu, over) = match earlier {
                    Some((at, earlier)) => (c.cpu - earlier.cpu, stats.at.since(at)),
                    None => {
                        let since = running_since(&record, &c.name).unwrap_or(stats.at);
                        (c.cpu, stats.at.since(since))
                    }
                };
                ContainerUsage {
                    stats: c.clone(),
                    cpu_millicores: millicores(cpu, over),
                }
            })
            .collect();
        Ok(GroupUsage {
            at: stats.at,
            containers,
            network: stats.network,
        })
    }

    /// What the containers have counted so far; unlike [`Group::usage`] it compares with nothing.
    #[cfg(feature = "arm-api")]
    pub(crate) async fn stats(&self) -> Result<SandboxStats> {
        guard::caught("sandbox.stats", self.sandbox()?.stats()).await
    }

    /// Connects to a TCP port inside the group, over its own network.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if nothing listens there;
    /// [`Conflict`](ErrorKind::Conflict) if the group does not run.
    ///
    /// # Cancel safety
    /// A connection that was made is closed.
    pub async fn dial(&self, port: u16) -> Result<Box<dyn Duplex>> {
        let address = act::probe_address(&self.record());
        let sandbox = self.sandbox()?;
        let dialling = sandbox.dial(SocketAddr::new(address, port), Duration::from_secs(10));
        guard::caught("sandbox.dial", dialling).await
    }

    fn sandbox(&self) -> Result<Arc<dyn Sandbox>> {
        let snapshot = self.snapshot();
        if snapshot.gone {
            return Err(not_found(&self.group));
        }
        snapshot.sandbox.ok_or_else(|| stopped(&self.group))
    }
}

fn running_since(record: &GroupRecord, container: &str) -> Option<Timestamp> {
    let view = record.lifecycle.container_view(container)?;
    let since = view.current_state?.start_time?.to_system_time()?;
    Some(since.into())
}

fn millicores(cpu: Duration, over: Duration) -> f64 {
    if over.is_zero() {
        0.0
    } else {
        cpu.as_secs_f64() / over.as_secs_f64() * 1000.0
    }
}

fn stopped(group: &GroupRef) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "group.sandbox",
        format!(
            "Container Group '{}' in resource group '{}' is stopped.",
            group.name(),
            group.resource_group()
        ),
    )
    .on(group)
    .code("ContainerGroupStopped")
}

impl ContainerHandle {
    /// The container's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is doing.
    #[must_use]
    pub fn view(&self) -> ContainerInstanceView {
        let view = self.group.record().lifecycle.container_view(&self.name);
        view.unwrap_or_default()
    }

    /// Its log as text. Of a running group at most the last
    /// [`running_log_bytes`](super::EngineOptions::running_log_bytes), of a stopped one what was
    /// kept.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) with `ContainerLogNotAvailable` before there is one.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn logs(&self, options: LogOptions) -> Result<String> {
        let snapshot = self.group.snapshot();
        if let Some(sandbox) = &snapshot.sandbox {
            let query = LogQuery {
                tail: options.tail,
                ..Default::default()
            };
            match guard::caught("sandbox.logs", sandbox.logs(&self.name, query)).await {
                Ok(stream) => {
                    let limit = usize::try_from(self.group.shared.options.running_log_bytes);
                    let limit = limit.unwrap_or(usize::MAX);
                    return match logs::end(stream, options.timestamps, limit).await {
                        (_, Some(error)) => Err(error),
                        (text, None) => Ok(text),
                    };
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Lost) => {}
                Err(error) => return Err(error),
            }
        }
        // The sandbox may have been removed since the look above, and the log kept before.
        let snapshot = self.group.snapshot();
        let Some(saved) = snapshot.record.saved_logs.get(&self.name) else {
            return Err(self.no_log());
        };
        let text = options
            .tail
            .map_or(saved.as_str(), |n| logs::last_lines(saved, n));
        Ok(if options.timestamps {
            text.to_owned()
        } else {
            logs::without_times(text)
        })
    }

    /// Its log, line by line, and what follows until it ends.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) with `ContainerLogNotAvailable` before there is one;
    /// [`Conflict`](ErrorKind::Conflict) if the group does not run.
    ///
    /// # Cancel safety
    /// Dropping the future or the stream loses nothing of the log.
    pub async fn follow(&self, options: LogOptions) -> Result<LogStream> {
        let query = LogQuery {
            tail: options.tail,
            since: None,
            follow: true,
        };
        self.stream(query).await
    }

    /// Its log from a time on, and what follows until it ends.
    #[cfg(feature = "arm-server")]
    pub(crate) async fn since(&self, since: Option<Timestamp>) -> Result<LogStream> {
        let query = LogQuery {
            tail: None,
            since,
            follow: true,
        };
        self.stream(query).await
    }

    /// Its output from now on (ACI's attach, which has no input either).
    ///
    /// # Errors
    /// As [`ContainerHandle::follow`].
    ///
    /// # Cancel safety
    /// Dropping the future or the stream loses nothing of the log.
    pub async fn attach(&self) -> Result<LogStream> {
        let query = LogQuery {
            tail: Some(0),
            since: None,
            follow: true,
        };
        self.stream(query).await
    }

    async fn stream(&self, query: LogQuery) -> Result<LogStream> {
        let sandbox = self.group.sandbox()?;
        match guard::caught("sandbox.logs", sandbox.logs(&self.name, query)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.no_log()),
            other => other,
        }
    }

    fn no_log(&self) -> Error {
        Error::new(
            ErrorKind::NotFound,
            "container.logs",
            format!(
                "Log of container '{}' in container group '{}' is not available yet. Please check container \
                 'InstanceView' for more information or retry later.",
                self.name,
                self.group.group.name()
            ),
        )
        .on(&self.group.group)
        .code("ContainerLogNotAvailable")
    }

    /// Sends a signal to its process, such as [`Signal::HUP`] to reload or [`Signal::KILL`] to end
    /// it; what follows its end is the restart policy's.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) with `ContainerGroupStopped` if the group does not run.
    ///
    /// # Cancel safety
    /// The signal may have been sent.
    #[tracing::instrument(skip_all, fields(group = %self.group.group, container = self.name))]
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let sandbox = self.group.sandbox()?;
        let sending = sandbox.signal(&self.name, signal, false);
        guard::caught("sandbox.signal", sending).await
    }

    /// Runs a process in it.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if the program is not there or may not be executed;
    /// [`NotFound`](ErrorKind::NotFound) if the container does not run;
    /// [`Conflict`](ErrorKind::Conflict) with `ContainerGroupStopped`.
    ///
    /// # Cancel safety
    /// The process may have been started; its streams are closed.
    #[tracing::instrument(skip_all, fields(group = %self.group.group, container = self.name))]
    pub async fn exec(&self, options: ExecOptions) -> Result<Process> {
        let sandbox = self.group.sandbox()?;
        let process = ProcessSpec {
            argv: options.command,
            env: options.env,
            terminal: options.terminal,
            ..Default::default()
        };
        let stdin = options.stdin;
        let starting = sandbox.exec(&self.name, ExecSpec { process, stdin });
        guard::caught("sandbox.exec", starting).await
    }
}
