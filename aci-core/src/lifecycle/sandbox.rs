//! The sandbox: made when the images are there, made again when it is lost, removed at the end.

use super::action::Action;
use super::events::EventKind;
use super::plan::RestartPolicy;
use super::state::{
    After, ContainerPhase, Ended, Failure, Lifecycle, Out, Phase, ProvisioningState, SandboxState,
};
use crate::time::Timestamp;

/// The exit code of containers whose sandbox is gone: as after a kill.
const LOST: i32 = 137;

impl Lifecycle {
    pub(super) fn advance_creation(&mut self, out: &mut Out) {
        let due = match self.sandbox {
            SandboxState::None => true,
            SandboxState::BackOff { until } => until <= self.now,
            SandboxState::Up { .. } => {
                self.phase = Phase::Running;
                false
            }
            SandboxState::Creating { .. } | SandboxState::Destroying { .. } => false,
        };
        if due {
            let epoch = self.number();
            self.sandbox = SandboxState::Creating { epoch };
            out.push(Action::CreateSandbox { epoch });
        }
    }

    pub(super) fn sandbox_created(&mut self, epoch: u64) {
        if self.sandbox == (SandboxState::Creating { epoch }) {
            self.sandbox = SandboxState::Up {
                epoch,
                since: self.now,
                ready: false,
            };
        }
    }

    pub(super) fn sandbox_failed(&mut self, epoch: u64, failure: Failure, retryable: bool) {
        if self.sandbox != (SandboxState::Creating { epoch }) {
            return;
        }
        let name = match failure.code.as_deref() {
            Some(code) if code.starts_with("FailedMount") => "FailedMount",
            _ => "Failed",
        };
        self.event(None, name, &failure.message, EventKind::Warning);
        if retryable {
            self.sandbox = SandboxState::BackOff {
                until: self.now + self.plan.back_off.delay(self.sandbox_failures),
            };
            self.sandbox_failures = self.sandbox_failures.saturating_add(1);
        } else {
            self.sandbox = SandboxState::None;
            self.fail(failure);
        }
    }

    pub(super) fn sandbox_lost(&mut self, epoch: u64, message: &str) {
        let since = match self.sandbox {
            SandboxState::Up {
                epoch: up, since, ..
            } if up == epoch => since,
            SandboxState::Creating { epoch: making } if making == epoch => {
                // It came and went before it was used.
                let failure = Failure {
                    code: None,
                    message: message.to_owned(),
                };
                self.sandbox_failed(epoch, failure, true);
                return;
            }
            _ => return,
        };
        self.event(None, "SandboxLost", message, EventKind::Warning);
        if self.now.since(since) >= self.plan.back_off.reset_after {
            self.sandbox_failures = 0;
        }
        self.end_all_containers();
        match self.phase {
            // The containers that were being stopped have ended now.
            Phase::Stopping { then, .. } => self.destroy(match then {
                After::Restart => After::Replace,
                other => other,
            }),
            // An in-place restart had not begun its containers yet: it goes on elsewhere.
            Phase::Pulling => self.destroy(After::Replace),
            Phase::Creating | Phase::Running => {
                if self.plan.restart_policy == RestartPolicy::Never {
                    self.failure = Some(Failure {
                        code: None,
                        message: message.to_owned(),
                    });
                    self.destroy(After::Failed);
                } else {
                    self.provisioning = ProvisioningState::Unhealthy;
                    self.destroy(After::Repair);
                }
            }
            Phase::New
            | Phase::Destroying { .. }
            | Phase::Repairing { .. }
            | Phase::Stopped
            | Phase::Succeeded
            | Phase::Failed
            | Phase::Deleted => {}
        }
    }

    /// Whatever ran in a sandbox that is gone has ended as if killed.
    fn end_all_containers(&mut self) {
        for index in 0..self.containers.len() {
            let (attempt, started) = match self.containers[index].state {
                ContainerPhase::Starting { attempt } => (attempt, None),
                ContainerPhase::Running { attempt, since, .. } => (attempt, Some(since)),
                _ => continue,
            };
            let ended = Ended {
                attempt,
                started,
                finished: self.now,
                code: LOST,
                oom: false,
            };
            self.ended(index, ended, false);
        }
    }

    /// The sandbox is to be removed, whatever runs in it; then goes on what follows.
    pub(super) fn destroy(&mut self, then: After) {
        self.provision_by = None;
        self.phase = Phase::Destroying { then };
    }

    pub(super) fn advance_destruction(&mut self, then: After, out: &mut Out) {
        match self.sandbox {
            SandboxState::Up { epoch, .. } | SandboxState::Creating { epoch } => {
                self.emit_destroy(epoch, then, 0, out);
            }
            SandboxState::Destroying {
                epoch,
                retry: Some(at),
                failures,
                ..
            } if at <= self.now => self.emit_destroy(epoch, then, failures, out),
            SandboxState::Destroying { .. } => {}
            SandboxState::None | SandboxState::BackOff { .. } => {
                self.sandbox = SandboxState::None;
                match self.kept {
                    // The group was to go on and is not any more: now without its address.
                    Some(epoch) if !then.goes_on() => self.emit_destroy(epoch, then, 0, out),
                    _ => self.end(then, out),
                }
            }
        }
    }

    fn emit_destroy(&mut self, epoch: u64, then: After, failures: u32, out: &mut Out) {
        let number = self.number();
        let (save_logs, keep_address) = (then != After::Delete, then.goes_on());
        self.sandbox = SandboxState::Destroying {
            epoch,
            number,
            save_logs,
            keep_address,
            retry: None,
            failures,
        };
        out.push(Action::DestroySandbox {
            epoch,
            number,
            save_logs,
            keep_address,
        });
    }

    pub(super) fn sandbox_destroyed(&mut self, number: u64) {
        if let SandboxState::Destroying {
            number: expected,
            epoch,
            keep_address,
            ..
        } = self.sandbox
            && number == expected
        {
            self.end_all_containers();
            self.sandbox = SandboxState::None;
            self.kept = keep_address.then_some(epoch);
        }
    }

    pub(super) fn destroy_failed(&mut self, number: u64, message: &str) {
        let (now, back_off) = (self.now, self.plan.back_off);
        if let SandboxState::Destroying {
            number: expected,
            retry,
            failures,
            ..
        } = &mut self.sandbox
            && *expected == number
            && retry.is_none()
        {
            *retry = Some(now + back_off.delay(*failures));
            *failures = failures.saturating_add(1);
            let text = format!("Failed to remove the sandbox: {message}");
            self.event(None, "Failed", &text, EventKind::Warning);
        }
    }

    /// The group is down: what follows.
    pub(super) fn end(&mut self, then: After, out: &mut Out) {
        if let Some(plan) = self.next_plan.take() {
            self.plan = plan;
            self.rewind_containers();
        }
        match then {
            After::Stopped => {
                self.provisioning = ProvisioningState::Succeeded;
                self.phase = Phase::Stopped;
            }
            After::Succeeded => self.phase = Phase::Succeeded,
            After::Failed => {
                if !self.is_provisioned() {
                    self.provisioning = ProvisioningState::Failed;
                }
                self.phase = Phase::Failed;
            }
            After::Deploy => self.deploy(),
            After::Restart | After::Replace => {
                self.rewind_containers();
                self.forget_events_of_others();
                self.begin_pulls(true);
                self.begin_provisioning();
            }
            After::Repair => {
                let wait = self.plan.back_off.restart_delay(self.sandbox_failures);
                self.sandbox_failures = self.sandbox_failures.saturating_add(1);
                self.phase = Phase::Repairing {
                    until: self.now + wait,
                };
            }
            After::Delete => {
                self.phase = Phase::Deleted;
                out.push(Action::Forget);
            }
        }
    }

    pub(super) fn advance_repair(&mut self, until: Timestamp) {
        if until > self.now {
            return;
        }
        // As Kubernetes does when a pod's sandbox has changed: all init containers run again, and
        // of the others those that the restart policy starts again.
        for record in &mut self.containers {
            record.begun = false;
            if record.init && record.state == ContainerPhase::Ended {
                record.state = ContainerPhase::Waiting;
            }
        }
        self.provisioning = ProvisioningState::Repairing;
        self.begin_pulls(false);
        self.phase = Phase::Pulling;
    }
}
