//! The engine: it runs container groups over whatever implementations it was given.

mod act;
mod actor;
mod admission;
mod builder;
mod check;
mod compose;
mod handle;
mod logs;
mod notice;
mod options;
mod probe;
mod reply;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aci_core::bill::Rate;
use aci_core::contract::{
    Clock, GroupRecord, GroupStore, ImageStore, Isolation, IsolationCapability, NetworkCapability,
    NetworkDriver, SandboxStats, VolumeDriver,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::{GroupRef, SandboxId};
use aci_core::lifecycle::{Command, Lifecycle, Plan, UpdateKind, update_kind};
use aci_core::model::ContainerGroup;
use aci_core::size::{Capacity, GroupSize, InUse, Limits, Quota};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use actor::{Actor, Member, Message};
use admission::Seats;

pub use builder::EngineBuilder;
pub use handle::{ContainerHandle, ContainerUsage, ExecOptions, Group, GroupUsage, LogOptions};
pub use notice::{Notice, Notices};
pub use options::EngineOptions;

/// Runs container groups.
///
/// A clone is a second handle of the same engine. The engine lives until
/// [`Engine::shutdown`]; when the last handle is dropped without it, its tasks end as if it had
/// been [`Shutdown::LeaveRunning`].
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    /// Ends the tasks when the last handle goes.
    _last: Arc<LastHandle>,
}

struct LastHandle(CancellationToken);

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What [`Engine::shutdown`] does with the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// They go on; the next engine over the same stores adopts them.
    LeaveRunning,
    /// They are stopped, each with its grace period; they stay in the journal as stopped.
    StopGroups,
}

/// How much of a host is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What the host gives.
    pub capacity: Capacity,
    /// What may be used.
    pub quota: Quota,
    /// What is used.
    pub in_use: InUse,
    /// Groups that wait for room.
    pub waiting: u32,
}

pub(crate) struct Shared {
    pub(crate) isolation: Arc<dyn Isolation>,
    pub(crate) images: Arc<dyn ImageStore>,
    pub(crate) network: Arc<dyn NetworkDriver>,
    pub(crate) volumes: Vec<Arc<dyn VolumeDriver>>,
    pub(crate) store: Arc<dyn GroupStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: EngineOptions,
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: TaskTracker,
    notices: broadcast::Sender<Notice>,
    members: Mutex<BTreeMap<GroupRef, Member>>,
    seats: Mutex<Seats>,
    /// The last measurement of each group, to tell the load since then.
    samples: Mutex<BTreeMap<GroupRef, SandboxStats>>,
    /// Held while a group is created or updated, so that two of one name cannot both be new.
    accepting: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("isolation", &self.isolation)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// A poisoned lock only means that a reader panicked; what it guards is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn tell(&self, notice: Notice) {
        // Nobody needs to listen.
        let _ = self.notices.send(notice);
    }

    pub(crate) fn rate(&self, document: &ContainerGroup) -> Rate {
        GroupSize::of(document)
            .map(|size| size.rate())
            .unwrap_or_default()
    }

    fn size(&self, document: &ContainerGroup) -> Result<GroupSize> {
        GroupSize::of(document).map_err(|e| {
            Error::new(ErrorKind::Invalid, "group.size", e.to_string())
                .code("ResourceRequestsNotSpecified")
        })
    }

    pub(crate) fn group_limits(&self, document: &ContainerGroup) -> Result<Limits> {
        Ok(self.size(document)?.limits())
    }

    pub(crate) fn container_limits(
        &self,
        document: &ContainerGroup,
        container: &str,
    ) -> Result<Limits> {
        let size = self.size(document)?;
        let limits = match size.container(container) {
            Some(container) => container.limits(),
            None => size.init_container_limits(),
        };
        Ok(Limits {
            pids_max: Some(self.options.pids_max),
            ..limits
        })
    }

    /// Gives back what belongs to a deployment outside of its sandbox: address and volumes.
    pub(crate) async fn release(&self, sandbox: &SandboxId) -> Result<()> {
        self.network.detach(sandbox).await?;
        for driver in &self.volumes {
            for volume in driver.list().await? {
                if volume.sandbox == *sandbox {
                    driver.release(sandbox, &volume.name).await?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn member(&self, group: &GroupRef) -> Option<Member> {
        lock(&self.members).get(group).cloned()
    }

    /// Takes a group that is gone out of the list and lets the next one in.
    pub(crate) fn forget(&self, group: &GroupRef) {
        lock(&self.members).remove(group);
        lock(&self.samples).remove(group);
        self.leave(group);
        metrics::gauge!("aci_groups").decrement(1.0);
    }

    /// A group gave up its place; those that wait and fit now are started.
    pub(crate) fn leave(&self, group: &GroupRef) {
        let admitted = lock(&self.seats).leave(group);
        for next in admitted {
            let Some(member) = self.member(&next) else {
                lock(&self.seats).leave(&next);
                continue;
            };
            let (reply, _) = tokio::sync::oneshot::channel();
            // A group that refuses to start gives its place up again by itself.
            let _ = member.sender.send(Message::Command(Command::Start, reply));
        }
    }
}

impl Engine {
    /// Begins to put an engine together.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Creates a group, or changes the one of the same name, in the default scope; see
    /// [`Engine::create_or_update_as`].
    ///
    /// # Errors
    /// As [`Engine::create_or_update_as`].
    ///
    /// # Cancel safety
    /// As [`Engine::create_or_update_as`].
    pub async fn create_or_update(&self, document: ContainerGroup) -> Result<Group> {
        let group = GroupRef::from(&document.name);
        self.create_or_update_as(group, document).await
    }

    /// Creates a group or changes an existing one. It returns as soon as the wish is in the
    /// journal; the group then comes up by itself, and [`Group::running`] waits for it.
    ///
    /// As in ACI the document replaces the former one as a whole, and a change restarts all
    /// containers in place.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) with all problems of the document, or with
    /// `InvalidContainerGroupUpdate`; [`Exhausted`](ErrorKind::Exhausted) beyond quota or
    /// capacity; [`Conflict`](ErrorKind::Conflict) with `ContainerGroupTransitioning`;
    /// [`Unsupported`](ErrorKind::Unsupported) for what this engine's parts cannot do. Nothing has
    /// changed then.
    ///
    /// # Cancel safety
    /// The group was accepted as a whole or not at all; [`Engine::get`] tells.
    #[tracing::instrument(skip_all, fields(group = %group))]
    pub async fn create_or_update_as(
        &self,
        group: GroupRef,
        mut document: ContainerGroup,
    ) -> Result<Group> {
        let shared = &self.shared;
        if shared.stop.is_cancelled() {
            return Err(closed("group.create"));
        }
        if document.name.is_empty() {
            group.name().clone_into(&mut document.name);
        }
        document
            .location
            .get_or_insert_with(|| shared.options.location.clone());
        reply::without_read_only(&mut document);
        shared.check(&document)?;
        // The work goes on when the caller gives up, so that acceptance is never half done.
        let (shared, task_group) = (Arc::clone(shared), group.clone());
        let accepted = tokio::spawn(async move { shared.accept(task_group, document).await }).await;
        match accepted {
            Ok(member) => Ok(Group::new(Arc::clone(&self.shared), group, member?)),
            Err(e) => Err(Error::new(
                ErrorKind::Internal,
                "group.create",
                "the accepting task failed",
            )
            .on(group)
            .because(e)),
        }
    }

    /// A group by name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) with ARM's `ResourceNotFound`.
    pub fn get(&self, group: impl Into<GroupRef>) -> Result<Group> {
        let group = group.into();
        let member = self
            .shared
            .member(&group)
            .ok_or_else(|| not_found(&group))?;
        Ok(Group::new(Arc::clone(&self.shared), group, member))
    }

    /// All groups, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Group> {
        let members: Vec<(GroupRef, Member)> = lock(&self.shared.members)
            .iter()
            .map(|(group, member)| (group.clone(), member.clone()))
            .collect();
        members
            .into_iter()
            .map(|(group, member)| Group::new(Arc::clone(&self.shared), group, member))
            .collect()
    }

    /// Deletes a group and waits until nothing of it is left. A group that does not exist is no
    /// error.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) if the engine shuts down before it is done; the next
    /// engine goes on with it.
    ///
    /// # Cancel safety
    /// Once the wish is in the journal the deletion goes on without the caller.
    pub async fn delete(&self, group: impl Into<GroupRef>) -> Result<()> {
        match self.get(group) {
            Ok(group) => group.delete().await,
            Err(_) => Ok(()),
        }
    }

    /// What happens to all groups from now on.
    #[must_use]
    pub fn watch(&self) -> Notices {
        Notices::new(self.shared.notices.subscribe(), None)
    }

    /// How much of the host is in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        lock(&self.shared.seats).usage()
    }

    /// What the isolation can do on this machine.
    #[must_use]
    pub fn isolation_capability(&self) -> IsolationCapability {
        self.shared.isolation.capability()
    }

    /// What the network can do on this machine.
    #[must_use]
    pub fn network_capability(&self) -> NetworkCapability {
        self.shared.network.capability()
    }

    /// Ends the engine.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) naming the groups that did not stop within their grace
    /// period and a minute; they are left as they are.
    ///
    /// # Cancel safety
    /// Groups may be stopping; call it again.
    pub async fn shutdown(&self, how: Shutdown) -> Result<()> {
        let mut late = Vec::new();
        if how == Shutdown::StopGroups {
            let groups = self.list();
            let stops = groups.iter().map(|group| async move {
                let limit = self.shared.options.grace + std::time::Duration::from_secs(60);
                match tokio::time::timeout(limit, group.stop()).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(format!("{}: {error}", group.name())),
                    Err(_) => Some(group.name().to_string()),
                }
            });
            late = futures_util::future::join_all(stops)
                .await
                .into_iter()
                .flatten()
                .collect();
        }
        self.shared.stop.cancel();
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
        lock(&self.shared.members).clear();
        if late.is_empty() {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Timeout,
                "engine.shutdown",
                format!("not stopped in time: {}", late.join(", ")),
            ))
        }
    }
}

impl Shared {
    /// Creates or updates, as one step against all others.
    async fn accept(self: &Arc<Self>, group: GroupRef, document: ContainerGroup) -> Result<Member> {
        let _accepting = self.accepting.lock().await;
        match self.member(&group) {
            Some(member) => {
                self.update(&group, &member, document).await?;
                Ok(member)
            }
            None => self.create(group, document).await,
        }
    }

    async fn create(self: &Arc<Self>, group: GroupRef, document: ContainerGroup) -> Result<Member> {
        let now = self.clock.now();
        let admitted = lock(&self.seats).enter(&group, &document, &self.options)?;
        let record = GroupRecord {
            sandbox: SandboxId::generate(group.name()),
            lifecycle: Lifecycle::new(self.plan(&group, &document), now),
            ledger: aci_core::bill::Ledger::default(),
            attachment: None,
            saved_logs: BTreeMap::new(),
            images: BTreeMap::new(),
            created: now,
            group: group.clone(),
            document,
        };
        if let Err(error) = self.store.put(&record).await {
            self.leave(&group);
            return Err(error);
        }
        let member = Actor::spawn(self, record, None, Vec::new());
        lock(&self.members).insert(group.clone(), member.clone());
        metrics::gauge!("aci_groups").increment(1.0);
        if admitted {
            member
                .ask(&group, |reply| Message::Command(Command::Start, reply))
                .await?;
        }
        Ok(member)
    }

    async fn update(
        self: &Arc<Self>,
        group: &GroupRef,
        member: &Member,
        document: ContainerGroup,
    ) -> Result<()> {
        let record = Arc::clone(&member.snapshot.borrow().record);
        let ended = record.lifecycle.is_settled();
        let kind = if ended {
            UpdateKind::Restart { new_sandbox: true }
        } else {
            update_kind(&record.document, &document)?
        };
        let command = match kind {
            UpdateKind::None | UpdateKind::InPlaceTagsOnly => None,
            // The files of a config map are written when the sandbox is made.
            UpdateKind::ConfigMapOnly => Some(true),
            UpdateKind::Restart { new_sandbox } => Some(new_sandbox),
        }
        .map(|new_sandbox| Command::Update {
            plan: self.plan(group, &document),
            new_sandbox,
        });
        let mut entered = false;
        if ended {
            entered = lock(&self.seats).enter(group, &document, &self.options)?;
            if !entered {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    "group.update",
                    "there is no room to start the group again now",
                )
                .on(group)
                .code("ServiceUnavailable"));
            }
        }
        let done = member
            .ask(group, |reply| {
                Message::Update(Box::new(document), command, reply)
            })
            .await;
        if done.is_err() && entered {
            self.leave(group);
        }
        done
    }

    pub(crate) fn plan(&self, group: &GroupRef, document: &ContainerGroup) -> Plan {
        let mut plan = Plan::from_group(group, document);
        plan.grace = self.options.grace;
        plan.back_off = self.options.back_off;
        plan
    }
}

pub(crate) fn not_found(group: &GroupRef) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "group.get",
        format!(
            "The Resource 'Microsoft.ContainerInstance/containerGroups/{}' under resource group '{}' was not found.",
            group.name(),
            group.resource_group()
        ),
    )
    .on(group)
    .code("ResourceNotFound")
}

pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Cancelled, operation, "the engine was shut down")
}
