//! Images: each distinct one is pulled once; all are pulled at the same time.

use super::action::Action;
use super::events::EventKind;
use super::plan::RestartPolicy;
use super::state::{Failure, Lifecycle, Out, Phase, Pull, PullState, SandboxState};
use crate::contract::Signal;
use crate::time::Timestamp;

impl Lifecycle {
    /// Wants every image of the plan (again).
    pub(super) fn begin_pulls(&mut self, fresh: bool) {
        self.fresh = fresh;
        self.pulls = self
            .plan
            .all()
            .map(|(_, c)| {
                let pull = Pull {
                    failures: 0,
                    state: PullState::Wanted,
                };
                (c.image.clone(), pull)
            })
            .collect();
    }

    pub(super) fn advance_pulls(&mut self, out: &mut Out) {
        let due: Vec<String> = self
            .pulls
            .iter()
            .filter(|(_, pull)| match pull.state {
                PullState::Wanted => true,
                PullState::BackOff { until } => until <= self.now,
                PullState::InFlight { .. } | PullState::Done { .. } => false,
            })
            .map(|(image, _)| image.clone())
            .collect();
        for image in due {
            let number = self.number();
            if let Some(pull) = self.pulls.get_mut(&image) {
                pull.state = PullState::InFlight { number };
            }
            if self.fresh {
                let message = format!("pulling image \"{image}\"");
                self.image_event(&image, "Pulling", &message, EventKind::Normal);
            }
            out.push(Action::PullImage {
                image,
                number,
                fresh: self.fresh,
            });
        }
        let done = |pull: &Pull| matches!(pull.state, PullState::Done { .. });
        if self.pulls.values().all(done) {
            self.phase = match self.sandbox {
                SandboxState::Up { .. } => Phase::Running,
                _ => Phase::Creating,
            };
        }
    }

    pub(super) fn pull_deadline(&self) -> Option<Timestamp> {
        let waits = self.pulls.values().filter_map(|pull| match pull.state {
            PullState::BackOff { until } => Some(until),
            _ => None,
        });
        waits.min()
    }

    /// The pull that an answer is for, if it is still waited for.
    fn pull(&mut self, image: &str, number: u64) -> Option<&mut Pull> {
        let pull = self.pulls.get_mut(image)?;
        let expected = self.phase == Phase::Pulling && pull.state == PullState::InFlight { number };
        expected.then_some(pull)
    }

    pub(super) fn image_pulled(
        &mut self,
        image: &str,
        number: u64,
        digest: String,
        stop_signal: Option<Signal>,
    ) {
        let Some(pull) = self.pull(image, number) else {
            return;
        };
        let message = format!(
            "Successfully pulled image \"{}\"",
            with_digest(image, &digest)
        );
        pull.failures = 0;
        pull.state = PullState::Done {
            digest,
            stop_signal,
        };
        if self.fresh {
            self.image_event(image, "Pulled", &message, EventKind::Normal);
        }
    }

    pub(super) fn pull_failed(
        &mut self,
        image: &str,
        number: u64,
        failure: Failure,
        retryable: bool,
    ) {
        let (back_off, now) = (self.plan.back_off, self.now);
        let Some(pull) = self.pull(image, number) else {
            return;
        };
        pull.state = PullState::BackOff {
            until: now + back_off.delay(pull.failures),
        };
        pull.failures = pull.failures.saturating_add(1);
        let message = format!("Failed to pull image \"{image}\": {}", failure.message);
        self.image_event(image, "Failed", &message, EventKind::Warning);
        if retryable {
            let message = format!("Back-off pulling image \"{image}\"");
            self.image_event(image, "BackOff", &message, EventKind::Normal);
        } else {
            self.fail(failure);
        }
    }

    /// The digest that a container's image was resolved to by the latest pull; `None` before it is
    /// pulled.
    #[must_use]
    pub fn image_digest(&self, container: &str) -> Option<&str> {
        match &self.pulled(container)?.state {
            PullState::Done { digest, .. } => Some(digest),
            _ => None,
        }
    }

    /// The restart policy.
    #[must_use]
    pub const fn restart_policy(&self) -> RestartPolicy {
        self.plan.restart_policy
    }

    fn pulled(&self, container: &str) -> Option<&Pull> {
        self.pulls.get(&self.plan.container(container)?.image)
    }

    /// What asks a container to end.
    pub(super) fn stop_signal(&self, container: &str) -> Signal {
        let of_image = || match &self.pulled(container)?.state {
            PullState::Done { stop_signal, .. } => *stop_signal,
            _ => None,
        };
        let of_plan = self.plan.container(container).and_then(|c| c.stop_signal);
        of_plan.or_else(of_image).unwrap_or(Signal::TERM)
    }
}

/// `nginx:1.27` and `sha256:..` give `nginx@sha256:..`, as ACI's events say it.
fn with_digest(image: &str, digest: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let name = match name[slash..].find(':') {
        Some(colon) => &name[..slash + colon],
        None => name,
    };
    format!("{name}@{digest}")
}
