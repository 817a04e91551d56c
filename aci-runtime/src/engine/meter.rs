//! The engine's metrics, all in one place; `observability.md` lists them for operators.

use std::time::Duration;

use aci_core::lifecycle::{GroupState, ProbeKind};
use aci_core::size::Admission;

/// Counts a group in the gauge of its state; dropping it takes the group out again.
#[derive(Debug, Default)]
pub(crate) struct InState(Option<GroupState>);

impl InState {
    pub(crate) fn set(&mut self, state: GroupState) {
        if self.0 == Some(state) {
            return;
        }
        self.leave();
        metrics::gauge!("aci_groups", "state" => state.as_str()).increment(1.0);
        self.0 = Some(state);
    }

    fn leave(&mut self) {
        if let Some(state) = self.0.take() {
            metrics::gauge!("aci_groups", "state" => state.as_str()).decrement(1.0);
        }
    }
}

impl Drop for InState {
    fn drop(&mut self) {
        self.leave();
    }
}

#[allow(clippy::cast_precision_loss)] // queues are short
pub(crate) fn queue(waiting: usize) {
    metrics::gauge!("aci_groups_waiting").set(waiting as f64);
}

pub(crate) fn admission(decision: &Admission) {
    let outcome = match decision {
        Admission::Admit => "admitted",
        Admission::Queue => "queued",
        Admission::Refuse(_) => "refused",
    };
    metrics::counter!("aci_admissions_total", "outcome" => outcome).increment(1);
}

pub(crate) fn action(kind: &'static str) {
    metrics::counter!("aci_actions_total", "action" => kind).increment(1);
}

pub(crate) fn action_error(kind: &'static str) {
    metrics::counter!("aci_action_errors_total", "action" => kind).increment(1);
}

pub(crate) fn restart() {
    metrics::counter!("aci_container_restarts_total").increment(1);
}

pub(crate) fn sandbox_lost() {
    metrics::counter!("aci_sandboxes_lost_total").increment(1);
}

const fn outcome(ok: bool) -> &'static str {
    if ok { "ok" } else { "error" }
}

pub(crate) fn probe(kind: ProbeKind, success: bool, took: Duration) {
    let kind = match kind {
        ProbeKind::Liveness => "liveness",
        ProbeKind::Readiness => "readiness",
    };
    let result = if success { "success" } else { "failure" };
    metrics::counter!("aci_probes_total", "probe" => kind, "result" => result).increment(1);
    metrics::histogram!("aci_probe_seconds", "probe" => kind).record(took.as_secs_f64());
}

pub(crate) fn pull(ok: bool, took: Duration) {
    metrics::counter!("aci_pulls_total", "outcome" => outcome(ok)).increment(1);
    metrics::histogram!("aci_pull_seconds", "outcome" => outcome(ok)).record(took.as_secs_f64());
}

pub(crate) fn journal(ok: bool, took: Duration) {
    metrics::counter!("aci_journal_writes_total", "outcome" => outcome(ok)).increment(1);
    metrics::histogram!("aci_journal_seconds").record(took.as_secs_f64());
}

pub(crate) fn destroy_error() {
    metrics::counter!("aci_destroy_errors_total").increment(1);
}

pub(crate) fn orphan(kind: &'static str, removed: bool) {
    metrics::counter!("aci_orphans_total", "kind" => kind, "outcome" => outcome(removed))
        .increment(1);
}
