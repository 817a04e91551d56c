//! One task for each group: it feeds the state machine and carries out what that says.
//!
//! Every step is the same: something happened, the machine decides, the record is written to the
//! journal, and only then the actions are begun, each as a task of its own whose outcome comes
//! back as the next thing that happened. What has happened meanwhile goes into the same write, and
//! what a later engine would not miss is not written at all.
//!
//! All wishes of users go through this task, one after the other: it alone knows where the group
//! stands, so it also asks for its place on the host and gives it up.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::contract::{Attachment, GroupRecord, Sandbox, SandboxStats, Signal};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use aci_core::lifecycle::{Action, Command, Observation, UpdateKind, update_kind};
use aci_core::model::ContainerGroup;
use aci_core::time::Timestamp;
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};

use super::admission::Before;
use super::notice::Notice;
use super::scope::{Scope, until};
use super::{Shared, Terms, act, closed, guard, lock, meter};

/// How long to wait before a record that could not be written is tried again.
pub(crate) const JOURNAL_RETRY: Duration = Duration::from_millis(500);

/// How old the record of a group that costs money may get: so much of its bill is lost at most if
/// its sandbox ends with the machine.
const HEARTBEAT: Duration = Duration::from_secs(5 * 60);

/// How many observations go into one write at most.
const BATCH: usize = 64;

/// Where the answer to a wish goes.
pub(crate) type Reply = oneshot::Sender<Result<()>>;

/// What a group's task is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A user's wish.
    Wish(Wish, Reply),
    /// The group, which waited, has a place on the host.
    Admitted,
    /// An action's outcome or something that was seen.
    Saw(Observation),
    /// The sandbox of an epoch is there, with its network.
    Up(u64, Arc<dyn Sandbox>, Option<Attachment>),
    /// An image is in the store.
    Image {
        image: String,
        number: u64,
        digest: String,
        stop_signal: Option<Signal>,
    },
    /// The ends of the logs, to be kept before the sandbox is taken down; answered when they are in
    /// the journal.
    Logs(BTreeMap<String, String>, oneshot::Sender<()>),
    /// The sandbox is gone.
    Down { number: u64, released: bool },
}

/// What a user asks of a group that exists.
#[derive(Debug)]
pub(crate) enum Wish {
    Do(Command),
    /// A document in place of the present one.
    Put(Box<ContainerGroup>, Terms),
    /// Other tags.
    Tags(BTreeMap<String, String>),
}

/// What readers see of a group: the state after the latest step.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) sandbox: Option<Arc<dyn Sandbox>>,
    /// How often the group came to rest; who waits for that must not miss one that was short.
    pub(crate) rests: u64,
    /// Nothing of the group is left.
    pub(crate) gone: bool,
}

/// A group's task, seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) sender: mpsc::UnboundedSender<Message>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    /// How far the group's time is ahead of the clock, because that was set back.
    pub(crate) ahead: Duration,
    /// The last measurement, to tell the load since then.
    pub(crate) sample: Arc<Mutex<Option<SandboxStats>>>,
}

/// What one message or timer leads to.
#[derive(Default)]
struct Step {
    actions: Vec<Action>,
    asked: Option<Asked>,
}

/// A wish that the machine has accepted and the journal has not yet.
struct Asked {
    record: Box<GroupRecord>,
    place: Option<Before>,
    reply: Reply,
}

pub(crate) struct Actor {
    shared: Arc<Shared>,
    record: GroupRecord,
    /// The record as it is in the journal, and since when.
    journaled: GroupRecord,
    written: Timestamp,
    sandbox: Option<Arc<dyn Sandbox>>,
    sender: mpsc::UnboundedSender<Message>,
    inbox: mpsc::UnboundedReceiver<Message>,
    /// A wish that came while observations were collected.
    held: Option<Message>,
    /// Who waits for logs to be in the journal.
    kept: Vec<oneshot::Sender<()>>,
    snapshot: watch::Sender<Snapshot>,
    ahead: Duration,
    /// What is under way for the group, and for its present sandbox.
    own: Scope,
    scope: Scope,
    told: u64,
    /// Whether the group has a seat or a place in the queue.
    placed: bool,
    rests: u64,
    announced: Option<(String, String)>,
    state: meter::InState,
}

impl Actor {
    /// Starts the task of a group whose record is in the journal, with the actions that the last
    /// step has led to. Watchers were told the events up to `told`.
    pub(crate) fn spawn(
        shared: &Arc<Shared>,
        record: GroupRecord,
        sandbox: Option<Arc<dyn Sandbox>>,
        first: Vec<Action>,
        told: u64,
    ) -> Member {
        let (sender, inbox) = mpsc::unbounded_channel();
        let now = shared.clock.now();
        let ahead = record.lifecycle.latest().since(now);
        let (publish, snapshot) = watch::channel(Snapshot {
            record: Arc::new(record.clone()),
            sandbox: sandbox.clone(),
            rests: 0,
            gone: false,
        });
        let mut actor = Self {
            shared: Arc::clone(shared),
            journaled: record.clone(),
            written: now + ahead,
            told,
            record,
            sandbox: None,
            sender: sender.clone(),
            inbox,
            held: None,
            kept: Vec::new(),
            snapshot: publish,
            ahead,
            own: Scope::new(&shared.stop),
            scope: Scope::new(&shared.stop),
            placed: true,
            rests: 0,
            announced: None,
            state: meter::InState::default(),
        };
        if let Some(sandbox) = sandbox {
            actor.take_sandbox(sandbox);
        }
        let group = actor.record.group.clone();
        shared.tracker.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(actor.run(first)).catch_unwind().await {
                let message = guard::said(&*panic);
                tracing::error!(%group, message, "panic; the group is left as it is until the engine is opened again");
            }
        });
        Member {
            sender,
            snapshot,
            ahead,
            sample: Arc::default(),
        }
    }

    async fn run(mut self, first: Vec<Action>) {
        let mut step = Step {
            actions: first,
            asked: None,
        };
        let mut gone = false;
        // The first time even if nothing has changed: the bill may have to begin.
        let mut write = true;
        loop {
            if self.settle(step, write).await {
                gone = true;
                break;
            }
            let Some(message) = self.next().await else {
                break;
            };
            write = matches!(message, Next::Heartbeat);
            step = self.take(message);
        }
        self.own.stop.cancel();
        self.scope.end().await;
        self.own.end().await;
        if gone {
            self.shared.forget(&self.record.group);
            self.publish(true);
            self.shared.tell(Notice::Deleted {
                group: self.record.group.clone(),
            });
        }
    }

    /// What happens next; `None` if the engine shuts down.
    async fn next(&mut self) -> Option<Next> {
        if let Some(message) = self.held.take() {
            return Some(Next::Message(message));
        }
        let beat = (self.record.ledger.is_running()).then(|| self.written + HEARTBEAT);
        let due = self.record.lifecycle.next_deadline();
        let deadline = [beat, due].into_iter().flatten().min();
        let (clock, ahead) = (Arc::clone(&self.shared.clock), self.ahead);
        tokio::select! {
            biased;
            () = self.own.stop.cancelled() => None,
            message = self.inbox.recv() => message.map(Next::Message),
            () = async { match deadline {
                Some(time) => clock.sleep_until(time - ahead).await,
                None => std::future::pending().await,
            } } => Some(if due == deadline { Next::Due } else { Next::Heartbeat }),
        }
    }

    /// The time as the group has it: it does not go back when the machine's clock does.
    fn now(&self) -> Timestamp {
        self.shared.clock.now() + self.ahead
    }

    fn take(&mut self, next: Next) -> Step {
        let message = match next {
            Next::Due | Next::Heartbeat => {
                let actions = self.record.lifecycle.tick(self.now());
                return Step {
                    actions,
                    asked: None,
                };
            }
            Next::Message(message) => message,
        };
        let mut step = self.handle(message);
        for _ in 0..BATCH {
            if step.asked.is_some() {
                break;
            }
            let Ok(message) = self.inbox.try_recv() else {
                break;
            };
            if matches!(message, Message::Wish(..)) {
                // It is accepted or not on its own.
                self.held = Some(message);
                break;
            }
            step.actions.extend(self.handle(message).actions);
        }
        step
    }

    fn handle(&mut self, message: Message) -> Step {
        let now = self.now();
        let actions = match message {
            Message::Wish(wish, reply) => return self.wished(wish, reply),
            Message::Admitted => self.admitted(),
            Message::Saw(observation) => {
                if let Observation::SandboxLost { epoch, .. } = &observation
                    && self.record.lifecycle.sandbox_epoch() == Some(*epoch)
                {
                    meter::sandbox_lost();
                }
                self.record.lifecycle.observe(observation, now)
            }
            Message::Up(epoch, sandbox, attachment) => {
                let seen = Observation::SandboxCreated { epoch };
                let actions = self.record.lifecycle.observe(seen, now);
                // One that came too late is removed with whatever else there is of the group.
                if self.record.lifecycle.sandbox_epoch() == Some(epoch) {
                    self.record.attachment = attachment;
                    self.take_sandbox(sandbox);
                }
                actions
            }
            Message::Image {
                image,
                number,
                digest,
                stop_signal,
            } => {
                self.record.images.insert(image.clone(), digest.clone());
                let seen = Observation::ImagePulled {
                    image,
                    number,
                    digest,
                    stop_signal,
                };
                self.record.lifecycle.observe(seen, now)
            }
            Message::Logs(logs, kept) => {
                self.record.saved_logs.extend(logs);
                self.kept.push(kept);
                Vec::new()
            }
            Message::Down { number, released } => {
                self.sandbox = None;
                if released {
                    self.record.attachment = None;
                }
                self.record
                    .lifecycle
                    .observe(Observation::SandboxDestroyed { number }, now)
            }
        };
        Step {
            actions,
            asked: None,
        }
    }

    fn admitted(&mut self) -> Vec<Action> {
        let (group, now) = (&self.record.group, self.now());
        // It may have been stopped since, and may wait again.
        if !self.record.lifecycle.is_new() || !lock(&self.shared.seats).is_seated(group) {
            return Vec::new();
        }
        self.record
            .lifecycle
            .command(Command::Start, now)
            .unwrap_or_else(|error| {
                tracing::error!(%group, error = %error.chain(), "a waiting group does not start");
                Vec::new()
            })
    }

    /// A wish that is refused changes nothing.
    fn wished(&mut self, wish: Wish, reply: Reply) -> Step {
        let record = self.record.clone();
        let mut place = None;
        match self.decide(wish, &mut place) {
            Ok(actions) => Step {
                actions,
                asked: Some(Asked {
                    record: Box::new(record),
                    place,
                    reply,
                }),
            },
            Err(error) => {
                self.record = record;
                self.put_back(place);
                // The caller may have gone.
                let _ = reply.send(Err(error));
                Step::default()
            }
        }
    }

    fn decide(&mut self, wish: Wish, place: &mut Option<Before>) -> Result<Vec<Action>> {
        let now = self.now();
        match wish {
            Wish::Tags(tags) => {
                self.record.document.tags = tags.into_iter().collect();
                Ok(Vec::new())
            }
            Wish::Do(Command::Start) if self.record.lifecycle.has_ended() => {
                let document = self.record.document.clone();
                let plan = self.record.lifecycle.plan();
                let terms = Terms {
                    grace: Some(plan.grace),
                    time_to_live: plan.time_to_live,
                };
                self.deploy(document, terms, Command::Start, place)
            }
            // It waits for its turn already.
            Wish::Do(Command::Start) if self.record.lifecycle.is_new() => Ok(Vec::new()),
            Wish::Do(command) => self.record.lifecycle.command(command, now),
            Wish::Put(document, terms) => self.put(*document, terms, place),
        }
    }

    fn put(
        &mut self,
        document: ContainerGroup,
        terms: Terms,
        place: &mut Option<Before>,
    ) -> Result<Vec<Action>> {
        let plan = self.shared.plan(&self.record.group, &document, terms);
        let lifecycle = &self.record.lifecycle;
        if lifecycle.has_ended() || lifecycle.is_new() {
            let new_sandbox = true;
            return self.deploy(
                document,
                terms,
                Command::Update { plan, new_sandbox },
                place,
            );
        }
        let command = match update_kind(&self.record.document, &document)? {
            UpdateKind::None | UpdateKind::InPlaceTagsOnly => None,
            UpdateKind::ConfigMapOnly => Some(Command::WriteFiles),
            UpdateKind::Restart { new_sandbox } => Some(Command::Update { plan, new_sandbox }),
        };
        self.record.document = document;
        match command {
            None => Ok(Vec::new()),
            Some(command) => self.record.lifecycle.command(command, self.now()),
        }
    }

    /// Deploys a group that does not run, now or when there is room.
    fn deploy(
        &mut self,
        document: ContainerGroup,
        terms: Terms,
        command: Command,
        place: &mut Option<Before>,
    ) -> Result<Vec<Action>> {
        let (group, now) = (self.record.group.clone(), self.now());
        self.shared.open("group.start")?;
        let (admitted, before) = lock(&self.shared.seats).enter(&group, &document)?;
        *place = Some(before);
        let plan = self.shared.plan(&group, &document, terms);
        self.record.document = document;
        if admitted {
            self.record.lifecycle.command(command, now)
        } else {
            self.record.lifecycle.wait(plan, now).map(|()| Vec::new())
        }
    }

    fn put_back(&self, place: Option<Before>) {
        if let Some(before) = place {
            let admitted = lock(&self.shared.seats).put_back(&self.record.group, before);
            self.shared.admitted(admitted);
        }
    }

    fn take_sandbox(&mut self, sandbox: Arc<dyn Sandbox>) {
        if let Some(epoch) = self.record.lifecycle.sandbox_epoch() {
            self.scope.tasks.spawn(act::watch_sandbox(
                Arc::clone(&self.shared.clock),
                epoch,
                Arc::clone(&sandbox),
                self.sender.clone(),
                self.scope.stop.clone(),
            ));
        }
        self.sandbox = Some(sandbox);
    }

    /// Writes the record, shows it to readers, and begins the actions. Answers whether the group
    /// is gone.
    async fn settle(&mut self, step: Step, write: bool) -> bool {
        let now = self.now();
        if self.record.lifecycle.is_billable() {
            let rate = self.shared.rate(&self.record.document);
            self.record.ledger.start(rate, now);
        } else {
            self.record.ledger.stop(now);
        }
        let mut accepted = None;
        if let Some(asked) = step.asked {
            let Some(reply) = self.accept(asked).await else {
                return false;
            };
            accepted = Some(reply);
        } else if (write || self.differs()) && !self.journal_surely().await {
            return false;
        }
        self.announce();
        let kept = std::mem::take(&mut self.kept);
        let settled = self.record.lifecycle.is_settled();
        let was = self.snapshot.borrow().record.lifecycle.is_settled();
        self.rests += u64::from(settled && !was);
        self.publish(false);
        if let Some(reply) = accepted {
            // Only now, so that who asked sees what was asked for. The caller may have gone.
            let _ = reply.send(Ok(()));
        }
        for kept in kept {
            // Its task may have been stopped.
            let _ = kept.send(());
        }
        let places = !settled || self.record.lifecycle.is_new();
        if self.placed && !places {
            self.shared.leave(&self.record.group);
        }
        self.placed = places;
        if step.actions.contains(&Action::Forget) {
            return self.forget().await;
        }
        for action in step.actions {
            self.begin(action);
        }
        false
    }

    /// A user's wish is accepted when it is in the journal; otherwise nothing has happened. Who is to
    /// be told that it is.
    async fn accept(&mut self, asked: Asked) -> Option<Reply> {
        match self.journal().await {
            Ok(()) => {
                if asked.place.is_some() {
                    // It may need less than before.
                    let admitted = lock(&self.shared.seats).admit_waiting();
                    self.shared.admitted(admitted);
                }
                Some(asked.reply)
            }
            Err(error) => {
                self.record = *asked.record;
                self.put_back(asked.place);
                if error.state_changed() != Applied::Nothing {
                    // It may be in the journal all the same, for a later engine to find.
                    self.journal_surely().await;
                }
                let _ = asked.reply.send(Err(error));
                None
            }
        }
    }

    /// Whether a later engine would miss what is not in the journal.
    fn differs(&self) -> bool {
        let (now, then) = (&self.record, &self.journaled);
        now.lifecycle.differs_from(&then.lifecycle)
            || now.ledger != then.ledger
            || now.attachment != then.attachment
            || now.saved_logs != then.saved_logs
            || now.images != then.images
            || now.document != then.document
    }

    /// Writes what was seen, as long as it takes; `false` if the engine shuts down before.
    async fn journal_surely(&mut self) -> bool {
        while let Err(error) = self.journal().await {
            if self.own.stop.is_cancelled() {
                return false;
            }
            tracing::error!(group = %self.record.group, error = %error.chain(), "the journal cannot be written; the group waits");
            tokio::select! {
                () = self.own.stop.cancelled() => return false,
                () = self.shared.clock.sleep_until(self.shared.clock.now() + JOURNAL_RETRY) => {}
            }
        }
        true
    }

    async fn journal(&mut self) -> Result<()> {
        let written = self.shared.write(&self.record, &self.own.stop).await;
        if written.is_ok() {
            self.journaled.clone_from(&self.record);
            self.written = self.now();
        }
        written
    }

    async fn forget(&mut self) -> bool {
        let (shared, group) = (Arc::clone(&self.shared), self.record.group.clone());
        shared.erase(&group, &self.own.stop).await
    }

    fn announce(&mut self) {
        for event in self.record.lifecycle.events_after(self.told) {
            tracing::info!(
                group = %self.record.group,
                container = event.container.as_deref().unwrap_or_default(),
                event = event.name,
                message = event.message,
                "event"
            );
            self.shared.tell(Notice::Event {
                group: self.record.group.clone(),
                container: event.container.clone(),
                event: event.into(),
            });
        }
        self.told = self.record.lifecycle.last_sequence();
        let (state, provisioning_state) = (
            self.record.lifecycle.state(),
            self.record.lifecycle.provisioning_state(),
        );
        self.state.set(state);
        let state = (
            state.as_str().to_owned(),
            provisioning_state.as_str().to_owned(),
        );
        if self.announced.as_ref() != Some(&state) {
            tracing::info!(group = %self.record.group, state = state.0, provisioning_state = state.1, "state");
            self.shared.tell(Notice::State {
                group: self.record.group.clone(),
                state: state.0.clone(),
                provisioning_state: state.1.clone(),
            });
            self.announced = Some(state);
        }
    }

    fn publish(&self, gone: bool) {
        self.snapshot.send_replace(Snapshot {
            record: Arc::new(self.record.clone()),
            sandbox: self.sandbox.clone(),
            rests: self.rests,
            gone,
        });
    }

    fn begin(&mut self, action: Action) {
        let task = act::Task {
            shared: Arc::clone(&self.shared),
            record: Arc::clone(&self.snapshot.borrow().record),
            sandbox: self.sandbox.clone(),
            sender: self.sender.clone(),
        };
        match action {
            Action::PullImage { .. } | Action::Forget => {
                self.own.spawn(act::carry_out(task, action));
            }
            Action::DestroySandbox { .. } => {
                // What is under way for the sandbox is given up before it is taken down.
                let mut scope = std::mem::replace(&mut self.scope, Scope::new(&self.own.stop));
                let stop = self.own.stop.clone();
                self.own.tasks.spawn(async move {
                    scope.end().await;
                    until(stop, act::carry_out(task, action)).await;
                });
            }
            // The latest is what counts, whatever order tasks run in.
            Action::SetReady { ready, .. } => self.scope.ready(ready, |wanted| {
                let (shared, sandbox) = (Arc::clone(&self.shared), task.record.sandbox.clone());
                let network = Arc::clone(&shared.network);
                let set = move |ready| {
                    let (network, sandbox) = (Arc::clone(&network), sandbox.clone());
                    async move { network.set_ready(&sandbox, ready).await }
                };
                act::keep(shared, task.record.group.clone(), "set_ready", wanted, set)
            }),
            Action::WriteFiles { .. } => {
                if let Some(sandbox) = task.sandbox {
                    self.scope.files(task.record, |wanted| {
                        let group = self.record.group.clone();
                        let write = move |record: Arc<GroupRecord>| {
                            let sandbox = Arc::clone(&sandbox);
                            async move { act::write_files(&record.document, &*sandbox).await }
                        };
                        act::keep(
                            Arc::clone(&self.shared),
                            group,
                            "write_files",
                            wanted,
                            write,
                        )
                    });
                }
            }
            Action::CreateSandbox { .. }
            | Action::StartContainer { .. }
            | Action::Signal { .. }
            | Action::Probe { .. } => self.scope.spawn(act::carry_out(task, action)),
        }
    }
}

/// What a group's task goes on with.
#[allow(clippy::large_enum_variant)] // one at a time, on its way from the queue
enum Next {
    Message(Message),
    /// A deadline of the state machine.
    Due,
    /// The record is to be written although nothing has happened.
    Heartbeat,
}

impl Member {
    /// Sends a wish and waits until it is accepted.
    pub(crate) async fn ask(&self, group: &GroupRef, wish: Wish) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let gone = || {
            if self.snapshot.borrow().gone {
                let message = "the group was deleted";
                return Error::new(ErrorKind::NotFound, "group.command", message)
                    .code("ResourceNotFound")
                    .on(group);
            }
            closed("group.command").on(group)
        };
        self.sender
            .send(Message::Wish(wish, reply))
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
