//! One task for each group: it feeds the state machine and carries out what that says.
//!
//! Every step is the same: something happened, the machine decides, the record is written to the
//! journal, and only then the actions are begun, each as a task of its own whose outcome comes
//! back as the next thing that happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{Attachment, GroupRecord, Sandbox, Signal};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use aci_core::lifecycle::{Action, Command, Observation};
use aci_core::model::ContainerGroup;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::notice::Notice;
use super::{Shared, act};

/// How long to wait before a record that could not be written is tried again.
const JOURNAL_RETRY: Duration = Duration::from_millis(500);

/// What a group's task is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A user's wish.
    Command(Command, oneshot::Sender<Result<()>>),
    /// A changed document; the command that goes with it, if it needs one.
    Update(
        Box<ContainerGroup>,
        Option<Command>,
        oneshot::Sender<Result<()>>,
    ),
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
    /// The sandbox is gone; the ends of the logs were kept.
    Down {
        number: u64,
        logs: BTreeMap<String, String>,
        released: bool,
    },
}

/// What readers see of a group: the state after the latest journaled step.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) sandbox: Option<Arc<dyn Sandbox>>,
    /// Nothing of the group is left.
    pub(crate) gone: bool,
}

/// A group's task, seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) sender: mpsc::UnboundedSender<Message>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
}

/// What one message or timer leads to.
struct Step {
    actions: Vec<Action>,
    /// The record as it was and whom to answer, if a user asked for it.
    asked: Option<(Box<GroupRecord>, oneshot::Sender<Result<()>>)>,
}

impl Step {
    const fn new(actions: Vec<Action>) -> Self {
        Self {
            actions,
            asked: None,
        }
    }
}

pub(crate) struct Actor {
    shared: Arc<Shared>,
    record: GroupRecord,
    sandbox: Option<Arc<dyn Sandbox>>,
    sender: mpsc::UnboundedSender<Message>,
    inbox: mpsc::UnboundedReceiver<Message>,
    snapshot: watch::Sender<Snapshot>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// What is under way for the present sandbox.
    scope: Scope,
    told: u64,
    /// Whether the group holds a place on the host.
    seated: bool,
    announced: Option<(String, String)>,
}

impl Actor {
    /// Starts the task of a group whose record is in the journal.
    pub(crate) fn spawn(
        shared: &Arc<Shared>,
        record: GroupRecord,
        sandbox: Option<Arc<dyn Sandbox>>,
        first: Vec<Action>,
    ) -> Member {
        let (sender, inbox) = mpsc::unbounded_channel();
        let (publish, snapshot) = watch::channel(Snapshot {
            record: Arc::new(record.clone()),
            sandbox: sandbox.clone(),
            gone: false,
        });
        let mut actor = Self {
            shared: Arc::clone(shared),
            record,
            sandbox: None,
            sender: sender.clone(),
            inbox,
            snapshot: publish,
            stop: shared.stop.child_token(),
            tasks: TaskTracker::new(),
            scope: Scope::new(&shared.stop),
            told: 0,
            seated: false,
            announced: None,
        };
        actor.told = actor.record.lifecycle.last_sequence();
        if let Some(sandbox) = sandbox {
            match actor.record.lifecycle.sandbox_epoch() {
                Some(epoch) => actor.take_sandbox(epoch, sandbox),
                // It is about to be taken down; its logs are still to be kept.
                None => actor.sandbox = Some(sandbox),
            }
        }
        shared.tracker.spawn(actor.run(first));
        Member { sender, snapshot }
    }

    async fn run(mut self, first: Vec<Action>) {
        let mut gone = self.settle(Step::new(first)).await;
        while !gone {
            let deadline = self.record.lifecycle.next_deadline();
            let clock = Arc::clone(&self.shared.clock);
            let message = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                message = self.inbox.recv() => message,
                () = async { match deadline {
                    Some(time) => clock.sleep_until(time).await,
                    None => std::future::pending().await,
                } } => None,
            };
            let step = match message {
                Some(message) => self.handle(message),
                None => Step::new(self.record.lifecycle.tick(self.shared.clock.now())),
            };
            gone = self.settle(step).await;
        }
        self.stop.cancel();
        self.scope.end().await;
        self.tasks.close();
        self.tasks.wait().await;
        if gone {
            self.shared.forget(&self.record.group);
            self.publish(true);
            self.shared.tell(Notice::Deleted {
                group: self.record.group.clone(),
            });
        }
    }

    fn handle(&mut self, message: Message) -> Step {
        let now = self.shared.clock.now();
        let actions = match message {
            Message::Command(command, reply) => {
                let before = self.record.clone();
                let decided = self.record.lifecycle.command(command, now);
                return self.asked(before, decided, reply);
            }
            Message::Update(document, command, reply) => {
                let before = self.record.clone();
                self.record.document = *document;
                let decided = match command {
                    Some(command) => self.record.lifecycle.command(command, now),
                    None => Ok(Vec::new()),
                };
                return self.asked(before, decided, reply);
            }
            Message::Saw(observation) => self.record.lifecycle.observe(observation, now),
            Message::Up(epoch, sandbox, attachment) => {
                self.record.attachment = attachment;
                self.take_sandbox(epoch, sandbox);
                self.record
                    .lifecycle
                    .observe(Observation::SandboxCreated { epoch }, now)
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
            Message::Down {
                number,
                logs,
                released,
            } => {
                self.sandbox = None;
                self.record.saved_logs.extend(logs);
                if released {
                    self.record.attachment = None;
                }
                self.record
                    .lifecycle
                    .observe(Observation::SandboxDestroyed { number }, now)
            }
        };
        Step::new(actions)
    }

    /// A wish that the machine refuses changes nothing.
    fn asked(
        &mut self,
        before: GroupRecord,
        decided: Result<Vec<Action>>,
        reply: oneshot::Sender<Result<()>>,
    ) -> Step {
        match decided {
            Ok(actions) => Step {
                actions,
                asked: Some((Box::new(before), reply)),
            },
            Err(error) => {
                self.record = before;
                // The caller may have gone.
                let _ = reply.send(Err(error));
                Step::new(Vec::new())
            }
        }
    }

    fn take_sandbox(&mut self, epoch: u64, sandbox: Arc<dyn Sandbox>) {
        self.scope.tasks.spawn(act::watch_sandbox(
            epoch,
            Arc::clone(&sandbox),
            self.sender.clone(),
            self.scope.stop.clone(),
        ));
        self.sandbox = Some(sandbox);
    }

    /// Writes the record, shows it to readers, and begins the actions. Answers whether the group
    /// is gone.
    async fn settle(&mut self, step: Step) -> bool {
        let now = self.shared.clock.now();
        if self.record.lifecycle.is_billable() {
            let rate = self.shared.rate(&self.record.document);
            self.record.ledger.start(rate, now);
        } else {
            self.record.ledger.stop(now);
        }
        if let Some((before, reply)) = step.asked {
            // A user's wish is accepted when it is in the journal; otherwise nothing has happened.
            match self.journal().await {
                Ok(()) => {
                    let _ = reply.send(Ok(()));
                }
                Err(error) => {
                    self.record = *before;
                    let _ = reply.send(Err(error));
                    return false;
                }
            }
        } else if !self.journal_surely().await {
            return false;
        }
        self.announce();
        self.publish(false);
        let settled = self.record.lifecycle.is_settled();
        if self.seated && settled {
            self.shared.leave(&self.record.group);
        }
        self.seated = !settled;
        if step.actions.contains(&Action::Forget) {
            return self.forget().await;
        }
        for action in step.actions {
            self.begin(action);
        }
        false
    }

    /// Writes what was seen, as long as it takes; `false` if the engine shuts down before.
    async fn journal_surely(&self) -> bool {
        while let Err(error) = self.journal().await {
            tracing::error!(group = %self.record.group, error = %error.chain(), "the journal cannot be written; the group waits");
            metrics::counter!("aci_journal_errors_total").increment(1);
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = self.shared.clock.sleep_until(self.shared.clock.now() + JOURNAL_RETRY) => {}
            }
        }
        true
    }

    async fn journal(&self) -> Result<()> {
        self.shared.store.put(&self.record).await
    }

    async fn forget(&mut self) -> bool {
        while let Err(error) = self.shared.store.remove(&self.record.group).await {
            tracing::error!(group = %self.record.group, error = %error.chain(), "the record cannot be deleted; tried again");
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = self.shared.clock.sleep_until(self.shared.clock.now() + JOURNAL_RETRY) => {}
            }
        }
        true
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
        let state = (
            self.record.lifecycle.state().as_str().to_owned(),
            self.record
                .lifecycle
                .provisioning_state()
                .as_str()
                .to_owned(),
        );
        if self.announced.as_ref() != Some(&state) {
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
                let stop = self.stop.clone();
                self.tasks.spawn(until(stop, act::carry_out(task, action)));
            }
            Action::DestroySandbox { .. } => {
                // What is under way for the sandbox is given up before it is taken down.
                let mut scope = std::mem::replace(&mut self.scope, Scope::new(&self.stop));
                let stop = self.stop.clone();
                self.tasks.spawn(until(stop, async move {
                    scope.end().await;
                    act::carry_out(task, action).await;
                }));
            }
            Action::CreateSandbox { .. }
            | Action::StartContainer { .. }
            | Action::Signal { .. }
            | Action::Probe { .. }
            | Action::SetReady { .. } => {
                let stop = self.scope.stop.clone();
                self.scope
                    .tasks
                    .spawn(until(stop, act::carry_out(task, action)));
            }
        }
    }
}

/// What is under way for one sandbox.
struct Scope {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Scope {
    fn new(parent: &CancellationToken) -> Self {
        Self {
            stop: parent.child_token(),
            tasks: TaskTracker::new(),
        }
    }

    /// Gives up everything and waits until it has ended.
    async fn end(&mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

impl Member {
    /// Sends a wish and waits until it is accepted.
    pub(crate) async fn ask(
        &self,
        group: &GroupRef,
        message: impl FnOnce(oneshot::Sender<Result<()>>) -> Message,
    ) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let closed = || {
            Error::new(
                ErrorKind::Cancelled,
                "group.command",
                "the engine is shutting down or the group was deleted",
            )
            .on(group)
        };
        self.sender.send(message(reply)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}
