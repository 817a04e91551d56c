//! The ways in: commands, observations, time. Each changes the state and then lets `advance` bring
//! out whatever has become due.

use super::action::{Action, Command, Observation};
use super::events::EventKind;
use super::plan::Plan;
use super::state::{After, ContainerPhase, Failure, Lifecycle, Out, Phase, SandboxState};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Timestamp;

/// How many steps may follow from one input. The longest chain is pulled, created, started, ended,
/// destroyed; more would be an error in the rules, which must not hang the engine.
const MOST_STEPS: usize = 16;

impl Lifecycle {
    /// Does what a user asks for, or says why not now.
    ///
    /// | command | new | pulling, creating, init, repairing | running | stopping | stopped, succeeded, failed | deleting |
    /// |---|---|---|---|---|---|---|
    /// | `Start` | deploys | transitioning | no effect | transitioning | deploys | transitioning |
    /// | `Stop` | stopped | stops | stops | stops | no effect | transitioning |
    /// | `Restart` | stopped | transitioning | restarts | transitioning | stopped (error) | transitioning |
    /// | `Update` | deploys | transitioning | restarts | transitioning | deploys | transitioning |
    /// | `WriteFiles` | no effect | transitioning | writes | transitioning | no effect | transitioning |
    /// | `Delete` | deletes | deletes | deletes | deletes | deletes | no effect |
    ///
    /// A group whose containers have ended and whose sandbox is being removed counts as stopped,
    /// succeeded or failed; a start is then carried out after the removal.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) with ACI's `ContainerGroupTransitioning` or
    /// `ContainerGroupStopped`; [`NotFound`](ErrorKind::NotFound) with `ResourceNotFound` after
    /// the deletion. The state is then unchanged.
    pub fn command(&mut self, command: Command, now: Timestamp) -> Result<Vec<Action>> {
        self.clock(now);
        let mut out = Out::new();
        match command {
            Command::Start => self.start()?,
            Command::Stop => self.stop()?,
            Command::Restart => self.restart()?,
            Command::Delete => self.delete(&mut out),
            Command::Update { plan, new_sandbox } => self.update(plan, new_sandbox)?,
            Command::WriteFiles => self.write_files(&mut out)?,
        }
        self.advance(&mut out);
        Ok(out)
    }

    /// Accepts that a group which has come to rest is deployed later, with a plan: it is as new
    /// until [`Command::Start`], which may be given at once, much later or after a crash.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) with `ContainerGroupTransitioning` if the group is not at
    /// rest; [`NotFound`](ErrorKind::NotFound) after its deletion. The state is then unchanged.
    pub fn wait(&mut self, plan: Plan, now: Timestamp) -> Result<()> {
        self.clock(now);
        match self.phase {
            Phase::New | Phase::Stopped | Phase::Succeeded | Phase::Failed => {
                self.plan = plan;
                self.failure = None;
                self.provisioning = super::ProvisioningState::Pending;
                self.renew_containers();
                self.phase = Phase::New;
                Ok(())
            }
            _ => Err(self.transitioning("group.wait")),
        }
    }

    /// Takes notice of what the engine saw. What is late, repeated or about something that is over
    /// changes nothing.
    pub fn observe(&mut self, observation: Observation, now: Timestamp) -> Vec<Action> {
        self.clock(now);
        let mut out = Out::new();
        match observation {
            Observation::ImagePulled {
                image,
                number,
                digest,
                stop_signal,
            } => self.image_pulled(&image, number, digest, stop_signal),
            Observation::PullFailed {
                image,
                number,
                message,
                code,
                retryable,
            } => {
                let failure = Failure { code, message };
                self.pull_failed(&image, number, failure, retryable);
            }
            Observation::SandboxCreated { epoch } => self.sandbox_created(epoch),
            Observation::VolumeTold {
                epoch,
                name,
                message,
            } => {
                if self.sandbox == (SandboxState::Creating { epoch }) {
                    self.event(None, &name, &message, EventKind::Normal);
                }
            }
            Observation::SandboxFailed {
                epoch,
                message,
                code,
                retryable,
            } => {
                let failure = Failure { code, message };
                self.sandbox_failed(epoch, failure, retryable);
            }
            Observation::SandboxLost { epoch, message } => self.sandbox_lost(epoch, &message),
            Observation::Sandbox { epoch, status } => {
                if self.epoch() == Some(epoch) {
                    self.compare(&status);
                }
            }
            Observation::SandboxDestroyed { number } => self.sandbox_destroyed(number),
            Observation::DestroyFailed { number, message } => self.destroy_failed(number, &message),
            Observation::Started { container, attempt } => self.started(&container, attempt, None),
            Observation::StartFailed {
                container,
                attempt,
                code,
                message,
            } => self.start_failed(&container, attempt, code, &message),
            Observation::Exited {
                container,
                attempt,
                status,
            } => self.exited(&container, attempt, status),
            Observation::Probed {
                container,
                attempt,
                kind,
                number,
                success,
                message,
            } => self.probed(
                &container, attempt, kind, number, success, &message, &mut out,
            ),
        }
        self.advance(&mut out);
        out
    }

    /// Does what has become due. To be called at [`Lifecycle::next_deadline`]; earlier or later
    /// does no harm.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        self.clock(now);
        let mut out = Out::new();
        self.advance(&mut out);
        out
    }

    /// Brings out everything that the state allows now, until nothing changes.
    pub(super) fn advance(&mut self, out: &mut Out) {
        for _ in 0..MOST_STEPS {
            self.check_provisioning_time();
            let before = (self.phase, self.sandbox);
            // Before anything else, so that traffic is withheld before containers are stopped.
            if !matches!(self.phase, Phase::Destroying { .. }) {
                self.set_ready(out);
            }
            match self.phase {
                Phase::Pulling => self.advance_pulls(out),
                Phase::Creating => self.advance_creation(out),
                Phase::Running => self.advance_containers(out),
                Phase::Stopping { then, by } => self.advance_stop(then, by, out),
                Phase::Destroying { then } => self.advance_destruction(then, out),
                Phase::Repairing { until } => self.advance_repair(until),
                Phase::Succeeded | Phase::Failed => self.advance_end(),
                Phase::New | Phase::Stopped | Phase::Deleted => {}
            }
            if !matches!(self.phase, Phase::Succeeded | Phase::Failed) {
                self.ended = None;
            }
            if (self.phase, self.sandbox) == before {
                break;
            }
        }
        self.set_ready(out);
    }

    /// When [`Lifecycle::tick`] is to be called next; `None` if only a command or an observation
    /// can change anything.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let provision_by = self.provision_by.filter(|_| self.is_provisioning());
        let step = match self.phase {
            Phase::Pulling => self.pull_deadline(),
            Phase::Creating => match self.sandbox {
                SandboxState::BackOff { until } => Some(until),
                _ => None,
            },
            Phase::Running => self.containers_deadline(),
            Phase::Stopping { by, .. } => {
                let kills = self.containers.iter().filter_map(|c| match c.state {
                    ContainerPhase::Running { kill, .. } => kill.map(|k| k.by),
                    _ => None,
                });
                kills.chain(by).min()
            }
            Phase::Destroying { .. } => match self.sandbox {
                SandboxState::Destroying { retry, .. } => retry,
                _ => None,
            },
            Phase::Repairing { until } => Some(until),
            Phase::Succeeded | Phase::Failed => self.gone_by(),
            Phase::New | Phase::Stopped | Phase::Deleted => None,
        };
        [provision_by, step].into_iter().flatten().min()
    }

    /// When a group that has ended is deleted.
    fn gone_by(&self) -> Option<Timestamp> {
        Some(self.ended? + self.plan.time_to_live?)
    }

    fn advance_end(&mut self) {
        self.ended.get_or_insert(self.now);
        if self.gone_by().is_some_and(|by| by <= self.now) {
            self.bring_down(After::Delete);
        }
    }

    fn start(&mut self) -> Result<()> {
        match self.phase {
            Phase::New | Phase::Stopped | Phase::Succeeded | Phase::Failed => self.deploy(),
            Phase::Destroying {
                then: After::Stopped | After::Succeeded | After::Failed,
            } => self.deploy_after_destruction(),
            Phase::Running if self.is_provisioned() => {}
            _ => return Err(self.transitioning("group.start")),
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        match self.phase {
            Phase::Stopped | Phase::Succeeded | Phase::Failed => {}
            Phase::New
            | Phase::Pulling
            | Phase::Creating
            | Phase::Running
            | Phase::Repairing { .. } => self.bring_down(After::Stopped),
            Phase::Stopping { then, .. } | Phase::Destroying { then } => match then {
                After::Stopped | After::Succeeded | After::Failed => {}
                After::Deploy | After::Restart | After::Replace | After::Repair => {
                    self.bring_down(After::Stopped);
                }
                After::Delete => return Err(self.transitioning("group.stop")),
            },
            Phase::Deleted => return Err(self.forgotten("group.stop")),
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        match self.phase {
            Phase::Running if self.is_provisioned() => {
                self.bring_down(if self.plan.renews_volumes {
                    After::Replace
                } else {
                    After::Restart
                });
                Ok(())
            }
            Phase::New
            | Phase::Stopped
            | Phase::Succeeded
            | Phase::Failed
            | Phase::Destroying {
                then: After::Stopped | After::Succeeded | After::Failed,
            } => Err(self.stopped("group.restart")),
            Phase::Deleted => Err(self.forgotten("group.restart")),
            _ => Err(self.transitioning("group.restart")),
        }
    }

    fn update(&mut self, plan: Plan, new_sandbox: bool) -> Result<()> {
        match self.phase {
            Phase::New | Phase::Stopped | Phase::Succeeded | Phase::Failed => {
                self.plan = plan;
                self.deploy();
            }
            Phase::Destroying {
                then: After::Stopped | After::Succeeded | After::Failed,
            } => {
                self.next_plan = Some(plan);
                self.deploy_after_destruction();
            }
            Phase::Running if self.is_provisioned() => {
                let then = if new_sandbox || plan.renews_volumes {
                    After::Replace
                } else {
                    After::Restart
                };
                self.next_plan = Some(plan);
                self.bring_down(then);
            }
            Phase::Deleted => return Err(self.forgotten("group.update")),
            _ => return Err(self.transitioning("group.update")),
        }
        Ok(())
    }

    fn write_files(&mut self, out: &mut Out) -> Result<()> {
        match (self.phase, self.sandbox) {
            (Phase::Running, SandboxState::Up { epoch, .. }) if self.is_provisioned() => {
                out.push(Action::WriteFiles { epoch });
                Ok(())
            }
            // The next deployment has them.
            (Phase::New | Phase::Stopped | Phase::Succeeded | Phase::Failed, _) => Ok(()),
            _ => Err(self.transitioning("group.update")),
        }
    }

    fn delete(&mut self, out: &mut Out) {
        match self.phase {
            Phase::Deleted => out.push(Action::Forget),
            Phase::Stopping {
                then: After::Delete,
                ..
            }
            | Phase::Destroying {
                then: After::Delete,
            } => {}
            _ => self.bring_down(After::Delete),
        }
    }

    /// Begins a deployment from nothing: pulls again, makes a sandbox, runs all containers.
    pub(super) fn deploy(&mut self) {
        self.failure = None;
        self.sandbox_failures = 0;
        self.renew_containers();
        self.forget_events_of_others();
        self.begin_pulls(true);
        self.begin_provisioning();
    }

    fn deploy_after_destruction(&mut self) {
        self.failure = None;
        self.phase = Phase::Destroying {
            then: After::Deploy,
        };
    }

    pub(super) fn begin_provisioning(&mut self) {
        self.begun = self.now;
        self.provisioning = super::ProvisioningState::Creating;
        self.provision_by = Some(self.now + self.plan.provisioning_timeout);
        self.phase = Phase::Pulling;
    }

    pub(super) fn forget_events_of_others(&mut self) {
        let plan = &self.plan;
        self.events
            .keep_sources(|name| plan.container(name).is_some());
    }

    /// The provisioning has failed for good: everything comes down.
    pub(super) fn fail(&mut self, failure: Failure) {
        let text = match &failure.code {
            Some(code) => format!("{code}: {}", failure.message),
            None => failure.message.clone(),
        };
        self.event(None, "DeploymentFailedReason", &text, EventKind::Warning);
        self.failure = Some(failure);
        self.bring_down(After::Failed);
    }

    fn check_provisioning_time(&mut self) {
        if let Some(by) = self.provision_by
            && by <= self.now
            && self.is_provisioning()
        {
            let limit = self.plan.provisioning_timeout.as_secs();
            let message = format!(
                "The container group '{}' was not provisioned within {}.",
                self.plan.group.name(),
                if limit.is_multiple_of(60) {
                    format!("{} minutes", limit / 60)
                } else {
                    format!("{limit} seconds")
                }
            );
            let failure = Failure {
                code: None,
                message,
            };
            self.fail(failure);
        }
    }

    /// Whether a deployment, restart or update is under way that can still fail.
    fn is_provisioning(&self) -> bool {
        matches!(
            self.phase,
            Phase::Pulling | Phase::Creating | Phase::Running
        )
    }

    pub(super) fn is_provisioned(&self) -> bool {
        self.provisioning == super::ProvisioningState::Succeeded
    }

    fn transitioning(&self, operation: &'static str) -> Error {
        if self.phase == Phase::Deleted {
            return self.forgotten(operation);
        }
        let name = self.plan.group.name();
        Error::new(
            ErrorKind::Conflict,
            operation,
            format!("The container group '{name}' is still transitioning, please retry later."),
        )
        .code("ContainerGroupTransitioning")
        .on(&self.plan.group)
    }

    fn stopped(&self, operation: &'static str) -> Error {
        let (name, resource_group) = (self.plan.group.name(), self.plan.group.resource_group());
        Error::new(
            ErrorKind::Conflict,
            operation,
            format!("Container Group '{name}' in resource group '{resource_group}' is stopped."),
        )
        .code("ContainerGroupStopped")
        .on(&self.plan.group)
        .hint("start the group instead")
    }

    fn forgotten(&self, operation: &'static str) -> Error {
        let name = self.plan.group.name();
        Error::new(
            ErrorKind::NotFound,
            operation,
            format!("The container group '{name}' was deleted."),
        )
        .code("ResourceNotFound")
        .on(&self.plan.group)
    }
}
