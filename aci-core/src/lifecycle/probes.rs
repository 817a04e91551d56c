//! Liveness and readiness, as Kubernetes' probes work.

use super::action::Action;
use super::events::EventKind;
use super::plan::{ProbeKind, ProbePlan};
use super::state::{ContainerPhase, Lifecycle, Out, Phase, ProbeRun, SandboxState};
use crate::time::Timestamp;

impl Lifecycle {
    fn probe_plan(&self, index: usize, kind: ProbeKind) -> Option<ProbePlan> {
        let record = &self.containers[index];
        let plan = self.plan.container(&record.name)?;
        match kind {
            _ if record.init => None,
            ProbeKind::Liveness => plan.liveness,
            ProbeKind::Readiness => plan.readiness,
        }
    }

    pub(super) fn begin_probes(&mut self, index: usize, since: Timestamp) {
        let run = |plan: ProbePlan, passed: bool| ProbeRun {
            next: since + plan.initial_delay,
            in_flight: None,
            latest: passed,
            in_a_row: 0,
            passed,
        };
        // A container is taken for alive and not for ready until it is probed.
        let liveness = self.probe_plan(index, ProbeKind::Liveness);
        let readiness = self.probe_plan(index, ProbeKind::Readiness);
        let record = &mut self.containers[index];
        record.liveness = liveness.map(|plan| run(plan, true));
        record.readiness = readiness.map(|plan| run(plan, false));
    }

    pub(super) fn advance_probes(&mut self, epoch: u64, out: &mut Out) {
        for index in 0..self.containers.len() {
            let ContainerPhase::Running {
                attempt,
                kill: None,
                ..
            } = self.containers[index].state
            else {
                continue;
            };
            for kind in ProbeKind::ALL {
                let Some(plan) = self.probe_plan(index, kind) else {
                    continue;
                };
                let due = |run: &ProbeRun| run.in_flight.is_none() && run.next <= self.now;
                if !self.containers[index].probe(kind).is_some_and(due) {
                    continue;
                }
                let (number, next) = (self.number(), self.now + plan.period);
                let record = &mut self.containers[index];
                if let Some(run) = record.probe_mut(kind) {
                    run.in_flight = Some(number);
                    run.next = next;
                }
                out.push(Action::Probe {
                    epoch,
                    container: record.name.clone(),
                    attempt,
                    kind,
                    number,
                });
            }
        }
    }

    /// When a probe of a container is due that is not under way.
    pub(super) fn probe_deadline(&self, index: usize) -> Option<Timestamp> {
        let runs = [
            &self.containers[index].liveness,
            &self.containers[index].readiness,
        ];
        let waiting = runs.into_iter().flatten().filter(|r| r.in_flight.is_none());
        waiting.map(|run| run.next).min()
    }

    #[allow(clippy::too_many_arguments)] // the fields of one observation
    pub(super) fn probed(
        &mut self,
        name: &str,
        attempt: u32,
        kind: ProbeKind,
        number: u64,
        success: bool,
        message: &str,
        out: &mut Out,
    ) {
        let (Some(epoch), Phase::Running) = (self.epoch(), self.phase) else {
            return;
        };
        let Some(index) = self.find(name) else {
            return;
        };
        let Some(plan) = self.probe_plan(index, kind) else {
            return;
        };
        let record = &mut self.containers[index];
        let expected = matches!(
            record.state,
            ContainerPhase::Running { attempt: running, kill: None, .. } if running == attempt
        );
        let Some(run) = record
            .probe_mut(kind)
            .filter(|run| expected && run.in_flight == Some(number))
        else {
            return;
        };
        run.in_flight = None;
        run.in_a_row = if run.latest == success {
            run.in_a_row.saturating_add(1)
        } else {
            1
        };
        run.latest = success;
        let threshold = if success {
            plan.success_threshold
        } else {
            plan.failure_threshold
        };
        if run.in_a_row >= threshold {
            run.passed = success;
        }
        let dead = kind == ProbeKind::Liveness && !run.passed;
        if !success {
            let text = format!("{} probe failed: {message}", kind.title());
            self.container_event(index, "Unhealthy", &text, EventKind::Warning);
        }
        if dead {
            self.begin_kill(epoch, index, true, out);
        }
    }

    /// Whether traffic is to be let in: everything runs, and no container that has a readiness
    /// probe is unready. As in ACI, containers without one never withhold traffic.
    fn wants_traffic(&self) -> bool {
        let ready = |index: usize| {
            let record = &self.containers[index];
            self.probe_plan(index, ProbeKind::Readiness).is_none()
                || record.succeeded()
                || record.readiness.is_some_and(|run| run.passed)
                    && matches!(record.state, ContainerPhase::Running { kill: None, .. })
        };
        self.phase == Phase::Running
            && self.is_provisioned()
            && (0..self.containers.len()).all(ready)
    }

    /// Says so when traffic is to be let in or withheld from now on.
    pub(super) fn set_ready(&mut self, out: &mut Out) {
        let wanted = self.wants_traffic();
        if let SandboxState::Up { epoch, ready, .. } = &mut self.sandbox
            && *ready != wanted
        {
            *ready = wanted;
            out.push(Action::SetReady {
                epoch: *epoch,
                ready: wanted,
            });
        }
    }
}
