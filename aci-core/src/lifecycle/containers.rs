//! Containers: the init containers one after the other, then the others together, each again as
//! the restart policy says.

use super::action::Action;
use super::events::EventKind;
use super::plan::RestartPolicy;
use super::state::{After, ContainerPhase, Ended, Failure, Lifecycle, Out, Phase};
use crate::contract::{ExitStatus, RunState, SandboxStatus};
use crate::time::Timestamp;

impl Lifecycle {
    pub(super) fn advance_containers(&mut self, out: &mut Out) {
        let Some(epoch) = self.epoch() else {
            return;
        };
        self.advance_kills(epoch, out);
        let startable = self.startable();
        for index in startable.iter().copied() {
            self.start_container(epoch, index, out);
        }
        if !self.inits_succeeded() {
            return;
        }
        let apps = || self.containers.iter().filter(|c| !c.init);
        let begun = apps().all(|c| match c.state {
            ContainerPhase::Waiting | ContainerPhase::Starting { .. } => c.begun,
            ContainerPhase::Running { .. }
            | ContainerPhase::BackOff { .. }
            | ContainerPhase::Ended => true,
        });
        if begun && !self.is_provisioned() {
            self.provisioning = super::ProvisioningState::Succeeded;
            self.provision_by = None;
        }
        let apps = || self.containers.iter().filter(|c| !c.init);
        if apps().all(|c| c.state == ContainerPhase::Ended) {
            let bad = apps().find(|c| !c.succeeded());
            let failure = bad.map(|c| Failure {
                code: None,
                message: format!(
                    "Container '{}' ended with exit code {}.",
                    c.name,
                    c.last.as_ref().map_or(0, |e| e.code)
                ),
            });
            match failure {
                None => self.destroy(After::Succeeded),
                Some(failure) => {
                    self.failure = Some(failure);
                    self.destroy(After::Failed);
                }
            }
            return;
        }
        self.advance_probes(epoch, out);
    }

    /// The containers that may be started now.
    fn startable(&self) -> Vec<usize> {
        let due = |state: ContainerPhase| match state {
            ContainerPhase::Waiting => true,
            ContainerPhase::BackOff { until } => until <= self.now,
            _ => false,
        };
        self.candidates()
            .into_iter()
            .filter(|index| due(self.containers[*index].state))
            .collect()
    }

    /// The containers whose turn it is: the first init container that has not succeeded, or else
    /// all others.
    fn candidates(&self) -> Vec<usize> {
        let all = || self.containers.iter().enumerate();
        match all().find(|(_, c)| c.init && !c.succeeded()) {
            Some((index, _)) => vec![index],
            None => all().filter(|(_, c)| !c.init).map(|(i, _)| i).collect(),
        }
    }

    pub(super) fn inits_succeeded(&self) -> bool {
        let mut inits = self.containers.iter().filter(|c| c.init);
        inits.all(super::state::ContainerRecord::succeeded)
    }

    pub(super) fn containers_deadline(&self) -> Option<Timestamp> {
        let mut due: Vec<Timestamp> = Vec::new();
        for index in self.candidates() {
            match self.containers[index].state {
                ContainerPhase::BackOff { until } => due.push(until),
                ContainerPhase::Running {
                    kill: Some(kill), ..
                } => due.push(kill.by),
                _ => due.extend(self.probe_deadline(index)),
            }
        }
        due.into_iter().min()
    }

    fn start_container(&mut self, epoch: u64, index: usize, out: &mut Out) {
        let record = &mut self.containers[index];
        let attempt = record.next_attempt;
        record.next_attempt = attempt.saturating_add(1);
        record.state = ContainerPhase::Starting { attempt };
        record.liveness = None;
        record.readiness = None;
        self.attempts = self.attempts.max(record.next_attempt);
        out.push(Action::StartContainer {
            epoch,
            container: record.name.clone(),
            attempt,
        });
    }

    /// The container whose start at that attempt is waited for.
    fn starting(&self, name: &str, attempt: u32) -> Option<usize> {
        let index = self.find(name)?;
        let waited = self.containers[index].state == ContainerPhase::Starting { attempt };
        waited.then_some(index)
    }

    pub(super) fn started(&mut self, name: &str, attempt: u32, since: Option<Timestamp>) {
        let Some(index) = self.starting(name, attempt) else {
            return;
        };
        let since = since.unwrap_or(self.now).min(self.now);
        self.containers[index].begun = true;
        self.containers[index].state = ContainerPhase::Running {
            attempt,
            since,
            kill: None,
        };
        self.begin_probes(index, since);
        let normal = EventKind::Normal;
        self.container_event(index, "Created", "Created container", normal);
        self.container_event(index, "Started", "Started container", normal);
    }

    pub(super) fn start_failed(&mut self, name: &str, attempt: u32, code: i32, message: &str) {
        let Some(index) = self.starting(name, attempt) else {
            return;
        };
        let text = format!("Failed to start container: {message}");
        self.container_event(index, "Failed", &text, EventKind::Warning);
        let ended = Ended {
            attempt,
            started: None,
            finished: self.now,
            // A start that failed is never a success.
            code: if code == 0 { 128 } else { code },
            oom: false,
        };
        self.ended(index, ended, false);
    }

    pub(super) fn exited(&mut self, name: &str, attempt: u32, status: ExitStatus) {
        // The news of the end may come before that of the start.
        self.started(name, attempt, Some(status.at));
        let Some(index) = self.find(name) else {
            return;
        };
        let ContainerPhase::Running {
            attempt: running,
            since,
            kill,
        } = self.containers[index].state
        else {
            return;
        };
        if running != attempt {
            return;
        }
        let oom = status.oom && !status.success();
        if oom {
            let text = format!(
                "Container '{name}' was killed because it needed more memory than its limit; \
                 raise resources.limits.memoryInGB or resources.requests.memoryInGB"
            );
            self.container_event(index, "OOMKilled", &text, EventKind::Warning);
        }
        let ended = Ended {
            attempt,
            started: Some(since),
            finished: status.at.clamp(since, self.now.max(since)),
            code: status.code,
            oom,
        };
        self.ended(index, ended, kill.is_some_and(|k| k.unhealthy));
    }

    /// An attempt has ended: will there be another?
    pub(super) fn ended(&mut self, index: usize, ended: Ended, unhealthy: bool) {
        let back_off = self.plan.back_off;
        let runs = matches!(self.phase, Phase::Running);
        let record = &mut self.containers[index];
        record.begun = true;
        let policy = if record.init {
            self.plan.restart_policy.of_init_containers()
        } else {
            self.plan.restart_policy
        };
        let failed = ended.code != 0 || unhealthy;
        let again = match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => failed,
            RestartPolicy::Never => false,
        };
        let ran = ended.started.map(|since| ended.finished.since(since));
        if ran.is_some_and(|ran| ran >= back_off.reset_after) {
            record.failures = 0;
        }
        let (code, finished) = (ended.code, ended.finished);
        record.before = record.last.replace(ended);
        record.liveness = None;
        record.readiness = None;
        if runs && again {
            let wait = back_off.restart_delay(record.failures);
            record.failures = record.failures.saturating_add(1);
            record.state = ContainerPhase::BackOff {
                until: finished + wait,
            };
            if !wait.is_zero() {
                let text = "Back-off restarting failed container";
                self.container_event(index, "BackOff", text, EventKind::Warning);
            }
            return;
        }
        record.state = ContainerPhase::Ended;
        if runs && record.init && failed {
            let message = format!(
                "Init container '{}' ended with exit code {code}.",
                record.name
            );
            self.fail(Failure {
                code: None,
                message,
            });
        }
    }

    /// Takes notice of everything in a sandbox's status that is news.
    pub(super) fn compare(&mut self, status: &SandboxStatus) {
        for container in &status.containers {
            match container.state {
                RunState::Running { since } => {
                    self.started(&container.name, container.attempt, Some(since));
                }
                RunState::Exited { since, status } => {
                    self.started(&container.name, container.attempt, Some(since));
                    self.exited(&container.name, container.attempt, status);
                }
            }
        }
    }
}
