//! A world that answers actions as a correct engine would, in simulated time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contract::{ContainerStatus, ExitStatus, RunState, SandboxStatus, Signal};
use crate::lifecycle::{
    Action, Command, ContainerPlan, Lifecycle, Observation, Plan, ProbePlan, RestartPolicy,
};
use crate::time::Timestamp;

/// 2026-01-01, so that no test depends on time being near the epoch.
pub(super) const BEGIN: Timestamp = Timestamp::from_secs(1_767_225_600);

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn plan(policy: RestartPolicy, init: &[&str], containers: &[&str]) -> Plan {
    let container = |name: &&str| ContainerPlan {
        name: (*name).to_owned(),
        image: "alpine:3".to_owned(),
        ..ContainerPlan::default()
    };
    Plan {
        restart_policy: policy,
        init: init.iter().map(container).collect(),
        containers: containers.iter().map(container).collect(),
        ..Plan::new("web".into())
    }
}

pub(super) fn with_liveness(mut plan: Plan, container: &str, probe: ProbePlan) -> Plan {
    for c in plan.containers.iter_mut().filter(|c| c.name == container) {
        c.liveness = Some(probe);
    }
    plan
}

pub(super) fn with_readiness(mut plan: Plan, container: &str, probe: ProbePlan) -> Plan {
    for c in plan.containers.iter_mut().filter(|c| c.name == container) {
        c.readiness = Some(probe);
    }
    plan
}

/// What really runs.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// The sandbox that exists.
    pub(super) sandbox: Option<u64>,
    /// The latest attempt of each container in it.
    pub(super) containers: BTreeMap<String, (u32, RunState)>,
    /// Whether containers end when they are asked politely.
    pub(super) polite: bool,
}

/// A group and its world.
#[derive(Clone, Debug)]
pub(super) struct Sim {
    pub(super) life: Lifecycle,
    pub(super) world: World,
    pub(super) now: Timestamp,
    /// Everything that was ever asked for, with its time.
    pub(super) log: Vec<(Timestamp, Action)>,
    /// Answered by the world when `run` is called.
    pub(super) pending: Vec<Action>,
    /// Probes are answered so; without an entry they succeed.
    pub(super) probes: BTreeMap<String, bool>,
}

impl Sim {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            life: Lifecycle::new(plan, BEGIN),
            world: World {
                polite: true,
                ..World::default()
            },
            now: BEGIN,
            log: Vec::new(),
            pending: Vec::new(),
            probes: BTreeMap::new(),
        }
    }

    /// A group that was started and whose actions were all answered.
    pub(super) fn started(plan: Plan) -> Self {
        let mut sim = Self::new(plan);
        sim.command(Command::Start);
        sim.run();
        sim
    }

    pub(super) fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.log.push((self.now, action.clone()));
            self.pending.push(action);
        }
    }

    pub(super) fn try_command(&mut self, command: Command) -> crate::error::Result<()> {
        let actions = self.life.command(command, self.now)?;
        self.take(actions);
        Ok(())
    }

    pub(super) fn command(&mut self, command: Command) {
        self.try_command(command).unwrap();
    }

    pub(super) fn observe(&mut self, observation: Observation) {
        let actions = self.life.observe(observation, self.now);
        self.take(actions);
    }

    /// Answers everything that is under way, as it should go, until nothing is.
    pub(super) fn run(&mut self) {
        while !self.pending.is_empty() {
            let action = self.pending.remove(0);
            for answer in self.act(&action) {
                self.observe(answer);
            }
        }
    }

    /// Lets time pass, with every deadline kept and everything answered at once.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.life.next_deadline().filter(|d| *d <= end) {
            self.now = self.now.max(deadline);
            let actions = self.life.tick(self.now);
            self.take(actions);
            self.run();
            assert!(
                self.life.next_deadline() > Some(deadline) || self.life.next_deadline().is_none(),
                "a deadline stays due: {:?}",
                self.life
            );
        }
        self.now = end;
        let actions = self.life.tick(self.now);
        self.take(actions);
        self.run();
    }

    /// Carries an action out and gives its answers.
    pub(super) fn act(&mut self, action: &Action) -> Vec<Observation> {
        match action {
            Action::PullImage { image, number, .. } => vec![Observation::ImagePulled {
                image: image.clone(),
                number: *number,
                digest: "sha256:0123".into(),
                stop_signal: None,
            }],
            Action::CreateSandbox { epoch } => {
                self.world.sandbox = Some(*epoch);
                self.world.containers.clear();
                vec![Observation::SandboxCreated { epoch: *epoch }]
            }
            Action::StartContainer {
                epoch,
                container,
                attempt,
            } => {
                assert_eq!(self.world.sandbox, Some(*epoch), "started in no sandbox");
                if let Some((old, RunState::Running { .. })) = self.world.containers.get(container)
                {
                    assert_eq!(old, attempt, "two attempts of {container}");
                }
                let running = RunState::Running { since: self.now };
                self.world
                    .containers
                    .insert(container.clone(), (*attempt, running));
                vec![Observation::Started {
                    container: container.clone(),
                    attempt: *attempt,
                }]
            }
            Action::Signal {
                container,
                attempt,
                signal,
                ..
            } => {
                let running = self.is_running(container, *attempt);
                if running && (*signal == Signal::KILL || self.world.polite) {
                    let code = 128 + i32::from(signal.number());
                    return vec![self.end(container, code)];
                }
                Vec::new()
            }
            Action::Probe {
                container,
                attempt,
                kind,
                number,
                ..
            } => vec![Observation::Probed {
                container: container.clone(),
                attempt: *attempt,
                kind: *kind,
                number: *number,
                success: self.probes.get(container).copied().unwrap_or(true),
                message: "HTTP probe failed with statuscode: 503".into(),
            }],
            Action::DestroySandbox { number, .. } => {
                self.world.sandbox = None;
                self.world.containers.clear();
                vec![Observation::SandboxDestroyed { number: *number }]
            }
            Action::SetReady { .. } | Action::WriteFiles { .. } | Action::Forget => Vec::new(),
        }
    }

    pub(super) fn is_running(&self, container: &str, attempt: u32) -> bool {
        matches!(
            self.world.containers.get(container),
            Some((a, RunState::Running { .. })) if *a == attempt
        )
    }

    /// A container's program ends by itself; the news is returned.
    pub(super) fn end(&mut self, container: &str, code: i32) -> Observation {
        let (attempt, state) = self.world.containers.get_mut(container).unwrap();
        let RunState::Running { since } = *state else {
            panic!("{container} does not run");
        };
        let status = ExitStatus {
            code,
            signal: None,
            oom: false,
            at: self.now,
        };
        *state = RunState::Exited { since, status };
        Observation::Exited {
            container: container.to_owned(),
            attempt: *attempt,
            status,
        }
    }

    /// A container's program ends by itself, and everything that follows is answered.
    pub(super) fn exit(&mut self, container: &str, code: i32) {
        let news = self.end(container, code);
        self.observe(news);
        self.run();
    }

    /// What the sandbox's supervisor says.
    pub(super) fn status(&self) -> Option<SandboxStatus> {
        self.world.sandbox.map(|_| SandboxStatus {
            generation: 1,
            containers: self
                .world
                .containers
                .iter()
                .map(|(name, (attempt, state))| ContainerStatus {
                    name: name.clone(),
                    attempt: *attempt,
                    state: *state,
                })
                .collect(),
        })
    }

    /// The host program dies and comes back: what it was doing is lost, what it wrote is not.
    pub(super) fn crash(&mut self) {
        self.pending.clear();
        let journal = serde_json::to_string(&self.life).unwrap();
        let read: Lifecycle = serde_json::from_str(&journal).unwrap();
        assert_eq!(read, self.life);
        self.life = read;
        let actions = self.life.resume(self.status().as_ref(), self.now);
        self.take(actions);
    }

    /// How often a container was started.
    pub(super) fn starts(&self, name: &str) -> usize {
        self.log
            .iter()
            .filter(
                |(_, a)| matches!(a, Action::StartContainer { container, .. } if container == name),
            )
            .count()
    }

    pub(super) fn count(&self, wanted: impl Fn(&Action) -> bool) -> usize {
        self.log.iter().filter(|(_, a)| wanted(a)).count()
    }

    /// The events of a container or the group: names in order.
    pub(super) fn events(&self, container: Option<&str>) -> Vec<(String, u32)> {
        self.life
            .events()
            .iter()
            .filter(|e| e.container.as_deref() == container)
            .map(|e| (e.name.clone(), e.count))
            .collect()
    }

    pub(super) fn message(&self, name: &str) -> String {
        let events = self.life.events();
        let event = events.iter().rev().find(|e| e.name == name);
        event
            .unwrap_or_else(|| panic!("no {name} event"))
            .message
            .clone()
    }
}
