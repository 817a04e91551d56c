//! Coming down: containers are asked to end, and killed when the grace period is over.

use std::time::Duration;

use super::action::Action;
use super::events::EventKind;
use super::state::{After, ContainerPhase, Kill, Lifecycle, Out, Phase};
use crate::contract::Signal;
use crate::time::Timestamp;

/// How long a killed container may take to be seen ended, before it is killed again, or its
/// sandbox removed with it.
const KILL_WAIT: Duration = Duration::from_secs(10);

impl Lifecycle {
    /// Stops whatever runs; then follows what is to follow.
    pub(super) fn bring_down(&mut self, then: After) {
        self.provision_by = None;
        if matches!(self.phase, Phase::Destroying { .. })
            || !self.containers.iter().any(|c| c.is_up()) && then != After::Restart
        {
            self.phase = Phase::Destroying { then };
        } else {
            let by = self.now + self.plan.grace + KILL_WAIT;
            self.phase = Phase::Stopping {
                then,
                // In an in-place restart the sandbox stays, so containers that will not end are
                // killed again and again instead.
                by: (then != After::Restart).then_some(by),
            };
        }
        for record in &mut self.containers {
            if matches!(record.state, ContainerPhase::BackOff { .. }) {
                record.state = ContainerPhase::Ended;
            }
        }
    }

    pub(super) fn advance_stop(&mut self, then: After, by: Option<Timestamp>, out: &mut Out) {
        let Some(epoch) = self.epoch() else {
            self.destroy(then);
            return;
        };
        for index in 0..self.containers.len() {
            self.begin_kill(epoch, index, false, out);
        }
        self.advance_kills(epoch, out);
        let up = self.containers.iter().any(|c| c.is_up());
        if !up && then == After::Restart {
            self.end(then, out);
        } else if !up || by.is_some_and(|by| by <= self.now) {
            self.destroy(then);
        }
    }

    /// Asks a running container to end, unless it was asked before.
    pub(super) fn begin_kill(&mut self, epoch: u64, index: usize, unhealthy: bool, out: &mut Out) {
        let (now, grace) = (self.now, self.plan.grace);
        let ContainerPhase::Running {
            attempt,
            since,
            kill: None,
        } = self.containers[index].state
        else {
            return;
        };
        let forced = grace.is_zero();
        let by = now + if forced { KILL_WAIT } else { grace };
        self.containers[index].state = ContainerPhase::Running {
            attempt,
            since,
            kill: Some(Kill {
                by,
                forced,
                unhealthy,
            }),
        };
        let name = self.containers[index].name.clone();
        let id = super::container_id(&self.plan.group, epoch, &name, attempt);
        let text = format!("Killing container with id {id}.");
        self.container_event(index, "Killing", &text, EventKind::Normal);
        out.push(self.kill_action(epoch, name, attempt, forced));
    }

    /// Kills what did not end when it was asked.
    pub(super) fn advance_kills(&mut self, epoch: u64, out: &mut Out) {
        let now = self.now;
        for record in &mut self.containers {
            if let ContainerPhase::Running {
                attempt,
                kill: Some(kill),
                ..
            } = &mut record.state
                && kill.by <= now
            {
                kill.forced = true;
                kill.by = now + KILL_WAIT;
                out.push(Action::Signal {
                    epoch,
                    container: record.name.clone(),
                    attempt: *attempt,
                    signal: Signal::KILL,
                    all: true,
                });
            }
        }
    }

    /// The signal of a kill: to the container's own process while it is polite, to all when not.
    pub(super) fn kill_action(
        &self,
        epoch: u64,
        container: String,
        attempt: u32,
        forced: bool,
    ) -> Action {
        let signal = if forced {
            Signal::KILL
        } else {
            self.stop_signal(&container)
        };
        Action::Signal {
            epoch,
            container,
            attempt,
            signal,
            all: forced,
        }
    }
}
