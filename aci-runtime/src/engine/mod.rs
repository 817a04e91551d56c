//! The engine: it runs container groups over whatever implementations it was given.

mod act;
mod actor;
mod admission;
mod builder;
mod check;
mod compose;
mod guard;
mod handle;
mod logs;
mod meter;
mod notice;
mod options;
#[cfg(feature = "arm-api")]
mod parts;
mod probe;
mod reopen;
mod reply;
mod scope;
mod secrets;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aci_core::bill::Rate;
use aci_core::contract::{
    Clock, GroupRecord, GroupStore, Image, ImageStore, Isolation, IsolationCapability,
    NetworkCapability, NetworkDriver, PullPolicy, PullRequest, Sandbox, SecretResolver,
    VolumeDriver,
};
use aci_core::dns_label::{self, DEFAULT_TENANT, Owner};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use aci_core::id::{GroupRef, SandboxId};
use aci_core::lifecycle::{Action, Command, Lifecycle, Plan};
use aci_core::model::{ContainerGroup, DnsNameLabelReusePolicy};
use aci_core::size::{Capacity, GroupSize, InUse, Limits, Quota};
use aci_core::time::Timestamp;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use actor::{Actor, JOURNAL_RETRY, Member, Message, Wish};
use admission::Seats;

use crate::turns::{Turn, Turns};

pub use builder::EngineBuilder;
#[cfg(feature = "arm-api")]
pub(crate) use guard::said;
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

/// What holds for a group that its document cannot say. In Azure a container group profile can.
///
/// It holds from one [`Engine::create_or_update_with`] to the next, over restarts and new starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Terms {
    /// From the polite stop signal to the kill, in place of [`EngineOptions::grace`].
    pub grace: Option<Duration>,
    /// How long the group stays after it has succeeded or failed; then it is deleted.
    pub time_to_live: Option<Duration>,
}

impl Terms {
    /// Sets the grace period.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Sets the time to live.
    #[must_use]
    pub const fn time_to_live(mut self, time: Duration) -> Self {
        self.time_to_live = Some(time);
        self
    }
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
    pub(crate) secrets: Option<Arc<dyn SecretResolver>>,
    pub(crate) store: Arc<dyn GroupStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: EngineOptions,
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: TaskTracker,
    /// Set when nothing new is accepted any more; `stop` sets it too.
    closing: CancellationToken,
    /// None after the shutdown, so that watchers see the end.
    notices: Mutex<Option<broadcast::Sender<Notice>>>,
    members: Mutex<BTreeMap<GroupRef, Member>>,
    seats: Mutex<Seats>,
    /// Read while a group is created, written by the shutdown.
    accepting: Arc<tokio::sync::RwLock<()>>,
    /// Two groups of one name cannot both be new, and two cannot both get one label.
    turns: Turns,
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
        if let Some(notices) = &*lock(&self.notices) {
            // Nobody needs to listen.
            let _ = notices.send(notice);
        }
    }

    pub(crate) fn notices(&self, only: Option<GroupRef>) -> Notices {
        match &*lock(&self.notices) {
            Some(notices) => Notices::new(notices.subscribe(), only),
            // The sender is gone at once, so the stream has ended.
            None => Notices::new(broadcast::channel(1).1, only),
        }
    }

    /// Whether new groups and starts are accepted.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) when the engine shuts down.
    pub(crate) fn open(&self, operation: &'static str) -> Result<()> {
        if self.closing.is_cancelled() {
            return Err(closed(operation));
        }
        Ok(())
    }

    /// Writes a record, unless the engine ends before.
    ///
    /// # Errors
    /// The store's; [`Cancelled`](ErrorKind::Cancelled) if the engine ends, and then the record may
    /// have been written.
    pub(crate) async fn write(&self, record: &GroupRecord, end: &CancellationToken) -> Result<()> {
        let begun = self.clock.now();
        let written = tokio::select! {
            biased;
            written = guard::caught("store.put", self.store.put(record)) => written,
            () = end.cancelled() => {
                return Err(closed("store.put").on(&record.group).applied(Applied::Unknown));
            }
        };
        meter::journal(written.is_ok(), self.clock.now().since(begun));
        written
    }

    /// Deletes a record, as long as it takes; `false` if the engine ends before.
    pub(crate) async fn erase(&self, group: &GroupRef, end: &CancellationToken) -> bool {
        loop {
            let erased = tokio::select! {
                biased;
                erased = guard::caught("store.remove", self.store.remove(group)) => erased,
                () = end.cancelled() => return false,
            };
            meter::journal(erased.is_ok(), Duration::ZERO);
            let Err(error) = erased else {
                return true;
            };
            tracing::error!(%group, error = %error.chain(), "the record cannot be deleted; tried again");
            tokio::select! {
                () = end.cancelled() => return false,
                () = self.clock.sleep_until(self.clock.now() + JOURNAL_RETRY) => {}
            }
        }
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
        self.release_volumes(sandbox, |_| false).await
    }

    /// Gives back a deployment's volumes, but for some.
    pub(crate) async fn release_volumes(
        &self,
        sandbox: &SandboxId,
        keep: impl Fn(&str) -> bool,
    ) -> Result<()> {
        for driver in &self.volumes {
            for volume in driver.list().await? {
                if volume.sandbox == *sandbox && !keep(&volume.name) {
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
        self.leave(group);
    }

    /// A group gave up its place; those that wait and fit now are started.
    pub(crate) fn leave(&self, group: &GroupRef) {
        let admitted = lock(&self.seats).leave(group);
        self.admitted(admitted);
    }

    /// Tells groups that they have a place. One that has no task yet asks for itself.
    pub(crate) fn admitted(&self, groups: Vec<GroupRef>) {
        for group in groups {
            if let Some(member) = self.member(&group) {
                // Without a receiver the group is gone, and gives its place up by that.
                let _ = member.sender.send(Message::Admitted);
            }
        }
    }

    /// Begins a group's task and lists it, as one step: the task may end at once and take the
    /// group off the list again.
    pub(crate) fn enlist(
        self: &Arc<Self>,
        record: GroupRecord,
        sandbox: Option<Arc<dyn Sandbox>>,
        first: Vec<Action>,
        told: u64,
    ) -> Member {
        let mut members = lock(&self.members);
        let group = record.group.clone();
        let member = Actor::spawn(self, record, sandbox, first, told);
        members.insert(group.clone(), member.clone());
        drop(members);
        // It may have got its place before it could be told.
        if lock(&self.seats).is_seated(&group) {
            let _ = member.sender.send(Message::Admitted);
        }
        member
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
    pub async fn create_or_update_as(
        &self,
        group: GroupRef,
        document: ContainerGroup,
    ) -> Result<Group> {
        self.create_or_update_with(group, document, Terms::default())
            .await
    }

    /// As [`Engine::create_or_update_as`], with what a document cannot say.
    ///
    /// # Errors
    /// As [`Engine::create_or_update_as`].
    ///
    /// # Cancel safety
    /// As [`Engine::create_or_update_as`].
    #[tracing::instrument(skip_all, fields(group = %group))]
    pub async fn create_or_update_with(
        &self,
        group: GroupRef,
        mut document: ContainerGroup,
        terms: Terms,
    ) -> Result<Group> {
        let shared = &self.shared;
        shared.open("group.create")?;
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
        let tracker = shared.tracker.clone();
        let accepted = tracker
            .spawn(
                async move { shared.accept(task_group, document, terms).await }.in_current_span(),
            )
            .await;
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
    /// [`NotFound`](ErrorKind::NotFound) with ARM's `ResourceNotFound`;
    /// [`Cancelled`](ErrorKind::Cancelled) after the shutdown.
    pub fn get(&self, group: impl Into<GroupRef>) -> Result<Group> {
        let group = group.into();
        if self.shared.stop.is_cancelled() {
            return Err(closed("group.get").on(group));
        }
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
        if self.shared.stop.is_cancelled() {
            return Err(closed("group.delete"));
        }
        match self.get(group) {
            Ok(group) => group.delete().await,
            Err(_) => Ok(()),
        }
    }

    /// What happens to all groups from now on.
    #[must_use]
    pub fn watch(&self) -> Notices {
        self.shared.notices(None)
    }

    /// How much of the host is in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        lock(&self.shared.seats).usage()
    }

    /// Whether a document would be accepted, leaving aside whether there is room.
    ///
    /// # Errors
    /// As [`Engine::create_or_update_as`], with all problems of the document.
    pub fn validate(&self, document: &ContainerGroup) -> Result<()> {
        self.shared.check(document)
    }

    /// The images that are on the machine.
    ///
    /// # Errors
    /// The image store's.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn images(&self) -> Result<Vec<Image>> {
        guard::caught("images.list", self.shared.images.list()).await
    }

    /// Has every image of a document in the store before any group needs it, with the document's
    /// credentials, so that a later start only has to ask whether the tags still mean the same.
    /// Images of init containers come first, each image once.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a document that is not valid; the image store's, with
    /// ACI's code, for the first image that cannot be had. Those before it stay in the store.
    ///
    /// # Cancel safety
    /// Images that were complete stay; fetched parts of others may be kept for the next try.
    pub async fn pull_images(&self, document: &ContainerGroup) -> Result<Vec<Image>> {
        self.shared.check(document)?;
        let properties = &document.properties;
        let init = properties.init_containers.iter();
        let init = init.filter_map(|c| c.properties.image.as_deref());
        let main = properties.containers.iter();
        let main = main.filter_map(|c| c.properties.image.as_deref());
        let group = GroupRef::from(&document.name);
        let mut pulled: Vec<Image> = Vec::new();
        let mut asked: Vec<&str> = Vec::new();
        for image in init.chain(main) {
            if asked.contains(&image) {
                continue;
            }
            asked.push(image);
            let request = PullRequest {
                reference: image.to_owned(),
                login: self.shared.login(&group, document, image).await?,
                policy: PullPolicy::Always,
            };
            pulled
                .push(guard::caught("images.pull", self.shared.images.pull(request, None)).await?);
        }
        Ok(pulled)
    }

    /// The settings that the engine was built with.
    #[must_use]
    pub fn options(&self) -> &EngineOptions {
        &self.shared.options
    }

    /// The engine's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
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

    /// Ends the engine. From the call on nothing new is accepted; when it returns no task of the
    /// engine runs any more.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) naming the groups that did not stop within their grace
    /// period and a minute; they are left as they are, for the next engine.
    ///
    /// # Cancel safety
    /// Groups may be stopping; call it again.
    #[tracing::instrument(skip(self))]
    pub async fn shutdown(&self, how: Shutdown) -> Result<()> {
        let shared = &self.shared;
        shared.closing.cancel();
        // What is being accepted now is accepted or refused before the list is made.
        drop(shared.accepting.write().await);
        let mut late = Vec::new();
        // After an earlier call that came so far, groups are stopped or were to be left.
        if how == Shutdown::StopGroups && !shared.stop.is_cancelled() {
            let groups = self.list();
            let limit = shared.options.grace + Duration::from_secs(60);
            let stops = groups.iter().map(|group| async move {
                match guard::within(&*shared.clock, limit, group.stop()).await {
                    Some(Ok(())) => None,
                    // Deleted meanwhile.
                    Some(Err(error)) if error.kind() == ErrorKind::NotFound => None,
                    Some(Err(error)) => Some(format!("{}: {error}", group.name())),
                    None => Some(group.name().to_string()),
                }
            });
            late = futures_util::future::join_all(stops)
                .await
                .into_iter()
                .flatten()
                .collect();
        }
        shared.stop.cancel();
        shared.tracker.close();
        shared.tracker.wait().await;
        lock(&shared.members).clear();
        *lock(&shared.notices) = None;
        tracing::info!("the engine has ended");
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

/// What is held while a group is created.
struct Accepting {
    _open: tokio::sync::OwnedRwLockReadGuard<()>,
    _name: Turn,
}

impl Shared {
    /// Creates or updates, as one step against all others of the same name or label.
    async fn accept(
        self: &Arc<Self>,
        group: GroupRef,
        document: ContainerGroup,
        terms: Terms,
    ) -> Result<Member> {
        let accepting = Accepting {
            _open: Arc::clone(&self.accepting).read_owned().await,
            _name: self.turn(format!("group/{group}")).await?,
        };
        self.open("group.create")?;
        // Held until the group has it, so that nobody else finds it free before.
        let _label = match labelled(&group, &document) {
            Some(name) => Some(self.turn(format!("label/{name}")).await?),
            None => None,
        };
        self.label_is_free(&group, &document)?;
        let Some(member) = self.member(&group) else {
            return self.create(group, document, terms, accepting).await;
        };
        // A group that exists takes its wishes one after the other by itself.
        drop(accepting);
        let wish = Wish::Put(Box::new(document), terms);
        match member.ask(&group, wish).await {
            Ok(()) => Ok(member),
            // It was deleted in this moment.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::new(
                ErrorKind::Conflict,
                "group.create",
                format!(
                    "The container group '{}' is still transitioning, please retry later.",
                    group.name()
                ),
            )
            .on(group)
            .code("ContainerGroupTransitioning")
            .because(error)),
            Err(error) => Err(error),
        }
    }

    /// Waits for a turn, unless the engine shuts down before.
    async fn turn(&self, name: String) -> Result<Turn> {
        tokio::select! {
            biased;
            turn = self.turns.take(name) => Ok(turn),
            () = self.closing.cancelled() => Err(closed("group.create")),
        }
    }

    /// Refuses a name label that another group of this engine has, also one that is stopped. The
    /// network knows of more (other engines), and refuses in its turn.
    fn label_is_free(&self, group: &GroupRef, document: &ContainerGroup) -> Result<()> {
        let Some(name) = labelled(group, document) else {
            return Ok(());
        };
        let members = lock(&self.members);
        let taken = members.iter().any(|(other, member)| {
            other != group
                && labelled(other, &member.snapshot.borrow().record.document).as_ref()
                    == Some(&name)
        });
        if taken {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "group.create",
                format!("ipAddress.dnsNameLabel: the name '{name}' is not available"),
            )
            .on(group)
            .code("DnsNameLabelNotAvailable")
            .hint("choose another label, or another autoGeneratedDomainNameLabelScope"));
        }
        Ok(())
    }

    async fn create(
        self: &Arc<Self>,
        group: GroupRef,
        document: ContainerGroup,
        terms: Terms,
        accepting: Accepting,
    ) -> Result<Member> {
        let now = self.clock.now();
        let (admitted, _) = lock(&self.seats).enter(&group, &document)?;
        let mut lifecycle = Lifecycle::new(self.plan(&group, &document, terms), now);
        let first = if admitted {
            lifecycle.command(Command::Start, now)
        } else {
            Ok(Vec::new())
        };
        let record = GroupRecord {
            sandbox: SandboxId::generate(group.name()),
            lifecycle,
            ledger: aci_core::bill::Ledger::default(),
            attachment: None,
            saved_logs: BTreeMap::new(),
            images: BTreeMap::new(),
            created: now,
            group: group.clone(),
            document,
        };
        let written = match first {
            Ok(first) => self.write(&record, &self.closing).await.map(|()| first),
            Err(error) => Err(error),
        };
        match written {
            Ok(first) => Ok(self.enlist(record, None, first, 0)),
            Err(error) => {
                self.leave(&group);
                if error.state_changed() != Applied::Nothing {
                    // It may be in the journal all the same, where the next engine would find it.
                    let shared = Arc::clone(self);
                    self.tracker.spawn(async move {
                        shared.erase(&group, &shared.closing).await;
                        drop(accepting);
                    });
                }
                Err(error)
            }
        }
    }

    pub(crate) fn plan(&self, group: &GroupRef, document: &ContainerGroup, terms: Terms) -> Plan {
        let mut plan = Plan::from_group(group, document);
        plan.grace = terms.grace.unwrap_or(self.options.grace);
        plan.time_to_live = terms.time_to_live;
        plan.back_off = self.options.back_off;
        plan
    }
}

/// The name that a group's label becomes, without its zone. Nobody else ever has one of scope
/// `Noreuse`.
fn labelled(group: &GroupRef, document: &ContainerGroup) -> Option<String> {
    let address = document.properties.ip_address.as_ref()?;
    if address.dns_name_label_reuse_policy == Some(DnsNameLabelReusePolicy::Noreuse) {
        return None;
    }
    let owner = Owner {
        tenant: DEFAULT_TENANT,
        group,
        // Only `Noreuse` looks at it.
        sandbox: &SandboxId::generate(""),
    };
    let location = document.location.as_deref().unwrap_or_default();
    dns_label::name(address, location, &owner)
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
