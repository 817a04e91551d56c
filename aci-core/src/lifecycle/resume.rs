//! After the host program died: what is known from the journal against what really runs.

use super::action::Action;
use super::state::{ContainerPhase, Lifecycle, Out, Phase, PullState, SandboxState};
use crate::contract::{ExitStatus, RunState, SandboxStatus, Signal};
use crate::time::Timestamp;

/// Why a sandbox that cannot be adopted is lost.
const GONE: &str = "the sandbox ended while its host program was away";

impl Lifecycle {
    /// Takes up a life that was interrupted: gives out again whatever was under way, takes notice
    /// of what ended meanwhile, and does what has become due.
    ///
    /// `sandbox` is the status of this group's sandbox if it could be adopted, `None` if it is
    /// gone. It is not asked for while the record says that the sandbox is being made or removed:
    /// both are begun again. To be called once for each record that is read back.
    pub fn resume(&mut self, sandbox: Option<&SandboxStatus>, now: Timestamp) -> Vec<Action> {
        let before = self.now;
        self.clock(now);
        // A deployment had no chance to go on meanwhile, so the time away is not held against it.
        let away = self.now.since(before);
        self.provision_by = self.provision_by.map(|by| by + away);
        let mut out = Out::new();
        match self.sandbox {
            SandboxState::Creating { epoch } => out.push(Action::CreateSandbox { epoch }),
            SandboxState::Destroying {
                epoch,
                number,
                save_logs,
                keep_address,
                retry: None,
                ..
            } => out.push(Action::DestroySandbox {
                epoch,
                number,
                save_logs,
                keep_address,
            }),
            SandboxState::Up { epoch, ready, .. } => match sandbox {
                None => self.sandbox_lost(epoch, GONE),
                Some(status) => {
                    out.push(Action::SetReady { epoch, ready });
                    if self.phase == Phase::Running {
                        // Values may have been journaled and not written.
                        out.push(Action::WriteFiles { epoch });
                    }
                    self.resume_containers(epoch, status, &mut out);
                }
            },
            SandboxState::Destroying { .. } | SandboxState::None | SandboxState::BackOff { .. } => {
            }
        }
        if self.phase == Phase::Pulling {
            for (image, pull) in &self.pulls {
                if let PullState::InFlight { number } = pull.state {
                    out.push(Action::PullImage {
                        image: image.clone(),
                        number,
                        fresh: self.fresh,
                    });
                }
            }
        }
        if self.phase == Phase::Deleted {
            out.push(Action::Forget);
        }
        self.advance(&mut out);
        out
    }

    /// Whether an engine that resumes from this state would do other than one that resumes from
    /// another: whether it has to be journaled. The time, counters and the answers of single probes
    /// that led to nothing make no difference; probes begin to count anew after a crash.
    #[must_use]
    pub fn differs_from(&self, other: &Self) -> bool {
        self.essence() != other.essence()
    }

    fn essence(&self) -> Self {
        let mut essence = self.clone();
        essence.now = Timestamp::EPOCH;
        essence.numbers = 0;
        for record in &mut essence.containers {
            record.liveness = None;
            record.readiness = None;
        }
        essence
    }

    fn resume_containers(&mut self, epoch: u64, status: &SandboxStatus, out: &mut Out) {
        self.compare(status);
        for index in 0..self.containers.len() {
            let record = &self.containers[index];
            let name = record.name.clone();
            let seen = status.containers.iter().find(|c| c.name == name);
            match record.state {
                // It was not begun, or `compare` would have found it; in a group that comes down it
                // need not be any more.
                ContainerPhase::Starting { .. } if matches!(self.phase, Phase::Stopping { .. }) => {
                    self.containers[index].state = match record.last {
                        Some(_) => ContainerPhase::Ended,
                        None => ContainerPhase::Waiting,
                    };
                }
                ContainerPhase::Starting { attempt } => out.push(Action::StartContainer {
                    epoch,
                    container: name,
                    attempt,
                }),
                ContainerPhase::Running {
                    attempt,
                    since,
                    kill,
                } => {
                    if seen.is_none_or(|c| c.attempt != attempt) {
                        // The sandbox does not know it any more, so it cannot be running.
                        let status = ExitStatus {
                            code: 137,
                            signal: Some(Signal::KILL),
                            oom: false,
                            at: self.now.max(since),
                        };
                        self.exited(&name, attempt, status);
                        continue;
                    }
                    if let Some(kill) = kill {
                        out.push(self.kill_action(epoch, name, attempt, kill.forced));
                    }
                    let record = &mut self.containers[index];
                    for run in [&mut record.liveness, &mut record.readiness]
                        .into_iter()
                        .flatten()
                    {
                        // Its answer is lost; it is asked again.
                        if run.in_flight.take().is_some() {
                            run.next = self.now;
                        }
                    }
                }
                // What should have ended and has not.
                ContainerPhase::Waiting
                | ContainerPhase::BackOff { .. }
                | ContainerPhase::Ended => {
                    if let Some(seen) = seen
                        && matches!(seen.state, RunState::Running { .. })
                    {
                        out.push(self.kill_action(epoch, name, seen.attempt, true));
                    }
                }
            }
        }
    }
}
