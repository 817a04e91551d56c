//! Where the life of a group stands: plain data, all of it in the journal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::action::Action;
use super::events::{EventKind, EventLog};
use super::plan::{Plan, ProbeKind};
use crate::contract::Signal;
use crate::time::Timestamp;

/// Where the life of a group stands, and the rules by which it goes on. See the
/// [module](super).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    pub(super) plan: Plan,
    /// An update's plan, taken up when the containers of the present one are down.
    pub(super) next_plan: Option<Plan>,
    pub(super) phase: Phase,
    pub(super) provisioning: ProvisioningState,
    /// When the present deployment, restart or update will have failed.
    pub(super) provision_by: Option<Timestamp>,
    pub(super) failure: Option<Failure>,
    pub(super) sandbox: SandboxState,
    /// The sandbox that was removed last, if the group's address was kept.
    pub(super) kept: Option<u64>,
    /// How often making the sandbox failed or the sandbox was lost, without a reset.
    pub(super) sandbox_failures: u32,
    /// One for each distinct image of the plan.
    pub(super) pulls: BTreeMap<String, Pull>,
    /// Whether pulls ask the registry.
    pub(super) fresh: bool,
    /// The init containers in order, then the others.
    pub(super) containers: Vec<ContainerRecord>,
    /// The last number that was given to an action or a sandbox.
    pub(super) numbers: u64,
    /// The lowest attempt that no container has had.
    pub(super) attempts: u32,
    pub(super) events: EventLog,
    /// The latest time that was ever given; time does not go back.
    pub(super) now: Timestamp,
    /// When the present deployment, restart or update began.
    pub(super) begun: Timestamp,
    /// When the group succeeded or failed, while it is in that state.
    #[serde(default)]
    pub(super) ended: Option<Timestamp>,
}

/// The step of a group's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    New,
    Pulling,
    Creating,
    /// Init containers, then the others.
    Running,
    Stopping {
        then: After,
        /// When the sandbox is destroyed even if containers still run; never for a restart.
        by: Option<Timestamp>,
    },
    Destroying {
        then: After,
    },
    /// Waiting to make a lost sandbox again.
    Repairing {
        until: Timestamp,
    },
    Stopped,
    Succeeded,
    Failed,
    Deleted,
}

/// What follows when a group has come down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum After {
    /// Nothing: it was stopped.
    Stopped,
    /// Nothing: all containers have ended well.
    Succeeded,
    /// Nothing: containers have failed, or the provisioning has.
    Failed,
    /// A deployment from the beginning.
    Deploy,
    /// All containers again, in the same sandbox.
    Restart,
    /// All containers again, in another sandbox with the same address.
    Replace,
    /// The containers that the restart policy says, in another sandbox with the same address.
    Repair,
    /// Nothing, not even the record.
    Delete,
}

impl After {
    /// Whether the group goes on and so keeps its address and is billed.
    pub(super) const fn goes_on(self) -> bool {
        match self {
            Self::Restart | Self::Replace | Self::Repair => true,
            Self::Stopped | Self::Succeeded | Self::Failed | Self::Deploy | Self::Delete => false,
        }
    }
}

/// Why a group has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// ACI's error code, where there is one, such as `InaccessibleImage`.
    pub code: Option<String>,
    /// Why, in a sentence.
    pub message: String,
}

/// ACI's state of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GroupState {
    /// Not all containers have been started yet.
    Pending,
    /// All containers were started; at least one runs or will be started again.
    Running,
    /// It was stopped; it has no resources.
    Stopped,
    /// All containers ended with exit code 0 and none will be started again (restart policies
    /// `OnFailure` and `Never`).
    Succeeded,
    /// All containers ended, one of them badly (restart policy `Never`), or the provisioning
    /// failed (any restart policy).
    Failed,
}

impl GroupState {
    /// The state as ACI writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Stopped => "Stopped",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// ACI's state of a group's deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProvisioningState {
    /// Accepted, nothing begun.
    Pending,
    /// Images are pulled, the sandbox is made, init containers run, containers are started.
    Creating,
    /// The last deployment, restart, update or stop has succeeded.
    Succeeded,
    /// It has not, for good.
    Failed,
    /// The sandbox was lost.
    Unhealthy,
    /// A lost sandbox is being made again.
    Repairing,
}

impl ProvisioningState {
    /// The state as ACI writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Creating => "Creating",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unhealthy => "Unhealthy",
            Self::Repairing => "Repairing",
        }
    }
}

/// The sandbox, as far as the state machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SandboxState {
    None,
    /// Making it has failed.
    BackOff {
        until: Timestamp,
    },
    Creating {
        epoch: u64,
    },
    Up {
        epoch: u64,
        since: Timestamp,
        /// Whether traffic is let in.
        ready: bool,
    },
    Destroying {
        epoch: u64,
        number: u64,
        save_logs: bool,
        keep_address: bool,
        /// Removing it has failed and is tried again then, with another number.
        retry: Option<Timestamp>,
        failures: u32,
    },
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pull {
    pub(super) failures: u32,
    pub(super) state: PullState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PullState {
    Wanted,
    InFlight {
        number: u64,
    },
    BackOff {
        until: Timestamp,
    },
    Done {
        digest: String,
        stop_signal: Option<Signal>,
    },
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) name: String,
    pub(super) init: bool,
    pub(super) state: ContainerPhase,
    /// Whether a start was answered, well or badly, since all containers were to be started last.
    pub(super) begun: bool,
    /// The attempt that is not a restart.
    pub(super) first_attempt: u32,
    /// The attempt of the next start.
    pub(super) next_attempt: u32,
    /// How often it has ended without a reset of the back-off.
    pub(super) failures: u32,
    /// The attempt that ended last.
    pub(super) last: Option<Ended>,
    /// The attempt that ended before that.
    pub(super) before: Option<Ended>,
    pub(super) liveness: Option<ProbeRun>,
    pub(super) readiness: Option<ProbeRun>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ContainerPhase {
    Waiting,
    BackOff {
        until: Timestamp,
    },
    Starting {
        attempt: u32,
    },
    Running {
        attempt: u32,
        since: Timestamp,
        kill: Option<Kill>,
    },
    /// Not to be started again, as `last` says.
    Ended,
}

/// A container that is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kill {
    /// When it is killed (again).
    pub(super) by: Timestamp,
    /// Whether it was killed already, not only asked.
    pub(super) forced: bool,
    /// Whether the liveness probe is why.
    pub(super) unhealthy: bool,
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) attempt: u32,
    /// `None` if it could not be started.
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Timestamp,
    pub(super) code: i32,
    pub(super) oom: bool,
}

/// A probe of a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProbeRun {
    pub(super) next: Timestamp,
    pub(super) in_flight: Option<u64>,
    /// The latest answer and how often in a row.
    pub(super) latest: bool,
    pub(super) in_a_row: u32,
    /// The outcome that counts.
    pub(super) passed: bool,
}

impl ContainerRecord {
    pub(super) fn new(name: &str, init: bool, attempt: u32) -> Self {
        Self {
            name: name.to_owned(),
            init,
            state: ContainerPhase::Waiting,
            begun: false,
            first_attempt: attempt,
            next_attempt: attempt,
            failures: 0,
            last: None,
            before: None,
            liveness: None,
            readiness: None,
        }
    }

    /// How often it was started again.
    pub(super) const fn restarts(&self) -> u32 {
        self.next_attempt
            .saturating_sub(self.first_attempt)
            .saturating_sub(1)
    }

    /// Whether something of it is or may be running.
    pub(super) const fn is_up(&self) -> bool {
        matches!(
            self.state,
            ContainerPhase::Starting { .. } | ContainerPhase::Running { .. }
        )
    }

    pub(super) fn succeeded(&self) -> bool {
        self.state == ContainerPhase::Ended && self.last.as_ref().is_some_and(|e| e.code == 0)
    }

    pub(super) const fn probe(&self, kind: ProbeKind) -> Option<&ProbeRun> {
        match kind {
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
        }
    }

    pub(super) const fn probe_mut(&mut self, kind: ProbeKind) -> Option<&mut ProbeRun> {
        match kind {
            ProbeKind::Liveness => self.liveness.as_mut(),
            ProbeKind::Readiness => self.readiness.as_mut(),
        }
    }
}

impl Lifecycle {
    /// A group that was accepted and has not begun; [`Command::Start`](super::Command::Start) is
    /// the next step.
    #[must_use]
    pub fn new(plan: Plan, now: Timestamp) -> Self {
        let mut lifecycle = Self {
            plan,
            next_plan: None,
            phase: Phase::New,
            provisioning: ProvisioningState::Pending,
            provision_by: None,
            failure: None,
            sandbox: SandboxState::None,
            kept: None,
            sandbox_failures: 0,
            pulls: BTreeMap::new(),
            fresh: true,
            containers: Vec::new(),
            numbers: 0,
            attempts: 0,
            events: EventLog::default(),
            now,
            begun: now,
            ended: None,
        };
        lifecycle.renew_containers();
        lifecycle
    }

    pub(super) const fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Takes the time; it does not go back.
    pub(super) fn clock(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.containers.iter().position(|c| c.name == name)
    }

    pub(super) const fn epoch(&self) -> Option<u64> {
        match self.sandbox {
            SandboxState::Up { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    pub(super) fn event(
        &mut self,
        container: Option<&str>,
        name: &str,
        message: &str,
        kind: EventKind,
    ) {
        self.events.record(container, name, message, kind, self.now);
    }

    /// An event of the container at an index.
    pub(super) fn container_event(
        &mut self,
        index: usize,
        name: &str,
        message: &str,
        kind: EventKind,
    ) {
        if let Some(record) = self.containers.get(index) {
            self.events
                .record(Some(&record.name), name, message, kind, self.now);
        }
    }

    /// An event of every container that uses an image.
    pub(super) fn image_event(&mut self, image: &str, name: &str, message: &str, kind: EventKind) {
        for (_, container) in self.plan.all().filter(|(_, c)| c.image == image) {
            self.events
                .record(Some(&container.name), name, message, kind, self.now);
        }
    }

    /// Containers as new, with attempts that none has had.
    pub(super) fn renew_containers(&mut self) {
        let attempt = self.attempts;
        self.containers = self
            .plan
            .all()
            .map(|(init, c)| ContainerRecord::new(&c.name, init, attempt))
            .collect();
    }

    /// All containers to be started again in a deployment that goes on: what they were before
    /// stays known.
    pub(super) fn rewind_containers(&mut self) {
        let attempt = self.attempts;
        let mut old = std::mem::take(&mut self.containers);
        self.containers = self
            .plan
            .all()
            .map(|(init, c)| {
                let known = old
                    .iter()
                    .position(|o| o.name == c.name && o.init == init)
                    .map(|at| old.swap_remove(at));
                let fresh = ContainerRecord::new(&c.name, init, attempt);
                match known {
                    Some(record) => ContainerRecord {
                        first_attempt: record.first_attempt,
                        next_attempt: record.next_attempt,
                        last: record.last,
                        before: record.before,
                        ..fresh
                    },
                    None => fresh,
                }
            })
            .collect();
    }
}

impl Default for Lifecycle {
    /// A group without containers, for tests of stores.
    fn default() -> Self {
        Self::new(Plan::default(), Timestamp::EPOCH)
    }
}

/// The actions of one step.
pub(super) type Out = Vec<Action>;
