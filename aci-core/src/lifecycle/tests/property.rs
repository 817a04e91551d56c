//! Arbitrary lives: any sequence of commands, answers (good, bad, late, twice, never), ends,
//! losses, waits and crashes keeps every rule of the model.

use std::time::Duration;

use proptest::prelude::*;

use super::model::Model;
use super::world::{BEGIN, World, plan, secs};
use crate::contract::{ContainerStatus, ExitStatus, RunState, SandboxStatus, Signal};
use crate::lifecycle::{
    Action, Command, GroupState, Lifecycle, Observation, Plan, ProbePlan, RestartPolicy,
};
use crate::time::Timestamp;

#[allow(clippy::large_enum_variant)] // few, in tests
#[derive(Clone, Debug)]
enum Op {
    Start,
    Stop,
    Restart,
    Delete,
    Update(Plan, bool),
    WriteFiles,
    /// Carry out one of the actions that are under way; how well it goes.
    Act(usize, u8),
    /// Deliver one of the answers.
    Deliver(usize),
    /// Deliver one of the answers that were delivered before.
    Replay(usize),
    /// Carry out and deliver everything.
    Settle,
    /// A container ends.
    Exit(usize, i32),
    /// The sandbox's supervisor dies.
    Lose,
    /// The supervisor tells what runs.
    Status,
    /// Time passes, and nobody looks.
    Wait(u64),
    /// The next deadline comes.
    Deadline,
    Tick,
    Crash,
}

fn arbitrary_plan(policy: RestartPolicy) -> impl Strategy<Value = Plan> {
    let probe = || {
        proptest::option::of((0u64..8, 2u64..15, 1u32..3, 1u32..3).prop_map(
            |(delay, period, failures, successes)| ProbePlan {
                initial_delay: secs(delay),
                period: secs(period),
                failure_threshold: failures,
                success_threshold: successes,
                ..ProbePlan::default()
            },
        ))
    };
    (0usize..3, 1usize..4, any::<[bool; 2]>(), probe(), probe()).prop_map(
        move |(inits, apps, [other_image, grace], liveness, readiness)| {
            let mut plan = plan(policy, &["i", "j"][..inits], &["a", "b", "c"][..apps]);
            if other_image && let Some(last) = plan.containers.last_mut() {
                last.image = "nginx:1".into();
            }
            if !grace {
                plan.grace = Duration::ZERO;
            }
            plan.containers[0].liveness = liveness;
            // Kubernetes allows no other threshold there.
            if let Some(probe) = &mut plan.containers[0].liveness {
                probe.success_threshold = 1;
            }
            plan.containers[apps - 1].readiness = readiness;
            plan
        },
    )
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Never),
    ]
}

fn op(policy: RestartPolicy) -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::Start),
        1 => Just(Op::Stop),
        1 => Just(Op::Restart),
        1 => Just(Op::WriteFiles),
        1 => prop::bool::weighted(0.3).prop_map(|d| if d { Op::Delete } else { Op::Start }),
        1 => (arbitrary_plan(policy), any::<bool>()).prop_map(|(p, new)| Op::Update(p, new)),
        12 => (any::<usize>(), 0u8..12).prop_map(|(k, how)| Op::Act(k, how)),
        12 => any::<usize>().prop_map(Op::Deliver),
        2 => any::<usize>().prop_map(Op::Replay),
        4 => Just(Op::Settle),
        6 => (any::<usize>(), prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(k, c)| Op::Exit(k, c)),
        1 => Just(Op::Lose),
        1 => Just(Op::Status),
        3 => prop_oneof![0u64..5, 5u64..60, 200u64..1000].prop_map(Op::Wait),
        4 => Just(Op::Deadline),
        1 => Just(Op::Tick),
        2 => Just(Op::Crash),
    ]
}

fn life() -> impl Strategy<Value = (Plan, Vec<Op>)> {
    policy().prop_flat_map(|policy| {
        (
            arbitrary_plan(policy),
            prop::collection::vec(op(policy), 1..150),
        )
    })
}

/// A group, the world it lives in, its engine's queues, and the onlooker.
struct Driver {
    life: Lifecycle,
    model: Model,
    world: World,
    now: Timestamp,
    /// Handed out, not carried out yet.
    pending: Vec<Action>,
    /// Carried out, the answers not delivered yet.
    news: Vec<Observation>,
    old: Vec<Observation>,
    /// What a crash leaves: the state is journaled whenever it hands out actions.
    journal: (Lifecycle, Model),
    crashes: bool,
}

impl Driver {
    fn new(plan: Plan) -> Self {
        let life = Lifecycle::new(plan.clone(), BEGIN);
        let model = Model::new(plan);
        Self {
            journal: (life.clone(), model.clone()),
            life,
            model,
            world: World::default(),
            now: BEGIN,
            pending: Vec::new(),
            news: Vec::new(),
            old: Vec::new(),
            crashes: true,
        }
    }

    fn take(&mut self, actions: Vec<Action>, again: bool) {
        for action in &actions {
            self.model.action(action, self.now, again);
            if let Action::DestroySandbox { epoch, .. } = action {
                self.pending.retain(|a| epoch_of(a) != Some(*epoch));
            }
            self.pending.push(action.clone());
        }
        let quiet = self.pending.is_empty() && self.news.is_empty();
        self.model.check(&self.life, self.now, quiet);
        if self.crashes && !actions.is_empty() {
            self.journal = (self.life.clone(), self.model.clone());
        }
    }

    fn command(&mut self, command: &Command) {
        // What is due is done first, so that the onlooker sees the state that the command meets.
        self.tick();
        let before = self.life.clone();
        let state = before.state();
        let ended = matches!(
            state,
            GroupState::Stopped | GroupState::Succeeded | GroupState::Failed
        );
        let down = before.is_settled() || ended;
        let ran = state == GroupState::Running && before.sandbox_epoch().is_some();
        match self.life.command(command.clone(), self.now) {
            Ok(actions) => {
                self.model.accepted(command, down, ran);
                self.take(actions, false);
                self.journal = (self.life.clone(), self.model.clone());
            }
            Err(error) => {
                assert!(error.aci_code().is_some());
                assert_eq!(self.life, before, "a refused command changes nothing");
                assert!(!matches!(command, Command::Delete), "delete is refused");
            }
        }
    }

    fn deliver(&mut self, observation: Observation) {
        let dead = self.model.observed(&observation, self.now);
        let actions = self.life.observe(observation.clone(), self.now);
        if let Some(name) = dead {
            let told =
                |a: &Action| matches!(a, Action::Signal { container, .. } if *container == name);
            assert!(
                actions.iter().any(told),
                "{name} is unhealthy and left alone"
            );
        }
        if self.crashes {
            self.old.push(observation);
        }
        self.take(actions, false);
    }

    fn tick(&mut self) {
        let actions = self.life.tick(self.now);
        self.take(actions, false);
    }

    fn running(&self) -> Vec<String> {
        let running = |s: &RunState| matches!(s, RunState::Running { .. });
        self.world
            .containers
            .iter()
            .filter(|(_, (_, s))| running(s))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn end(&mut self, name: &str, code: i32) {
        let at = self.now;
        if let Some((attempt, state)) = self.world.containers.get_mut(name)
            && let RunState::Running { since } = *state
        {
            let status = ExitStatus {
                code,
                signal: None,
                oom: code == 137,
                at,
            };
            *state = RunState::Exited { since, status };
            self.news.push(Observation::Exited {
                container: name.to_owned(),
                attempt: *attempt,
                status,
            });
        }
    }

    /// Carries an action out; `how` 0 to 8 is well, above is badly.
    fn act(&mut self, action: &Action, how: u8) {
        let retryable = how != 11;
        let bad = how > 8;
        match action.clone() {
            Action::PullImage { image, number, .. } if bad => {
                self.news.push(Observation::PullFailed {
                    image,
                    number,
                    message: "no route to host".into(),
                    code: None,
                    retryable,
                });
            }
            Action::PullImage { image, number, .. } => self.news.push(Observation::ImagePulled {
                image,
                number,
                digest: "sha256:0123".into(),
                stop_signal: None,
            }),
            Action::CreateSandbox { epoch } if bad => self.news.push(Observation::SandboxFailed {
                epoch,
                message: "no more cgroups".into(),
                code: None,
                retryable,
            }),
            Action::CreateSandbox { epoch } => {
                self.world.sandbox = Some(epoch);
                self.world.containers.clear();
                self.news.push(Observation::SandboxCreated { epoch });
            }
            Action::StartContainer {
                epoch,
                container,
                attempt,
            } => {
                if bad || self.world.sandbox != Some(epoch) {
                    self.news.push(Observation::StartFailed {
                        container,
                        attempt,
                        code: 127,
                        message: "no such file".into(),
                    });
                    return;
                }
                if let Some((other, RunState::Running { .. })) =
                    self.world.containers.get(&container)
                {
                    panic!("{container}: attempt {attempt} beside attempt {other}");
                }
                let state = RunState::Running { since: self.now };
                let entry = (attempt, state);
                self.world.containers.insert(container.clone(), entry);
                self.news.push(Observation::Started { container, attempt });
            }
            Action::Signal {
                container,
                attempt,
                signal,
                ..
            } => {
                let current = self.world.containers.get(&container).map(|(a, _)| *a);
                let heard = signal == Signal::KILL || how < 5;
                if !bad && heard && current == Some(attempt) {
                    self.end(&container, 128 + i32::from(signal.number()));
                }
            }
            Action::Probe {
                container,
                attempt,
                kind,
                number,
                ..
            } => self.news.push(Observation::Probed {
                container,
                attempt,
                kind,
                number,
                success: how < 7,
                message: "connection refused".into(),
            }),
            Action::DestroySandbox { number, .. } if bad => {
                self.news.push(Observation::DestroyFailed {
                    number,
                    message: "busy".into(),
                });
            }
            Action::DestroySandbox { number, .. } => {
                self.world.sandbox = None;
                self.world.containers.clear();
                self.news.push(Observation::SandboxDestroyed { number });
            }
            Action::SetReady { .. } | Action::WriteFiles { .. } | Action::Forget => {}
        }
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.pending.is_empty() {
                let action = self.pending.remove(0);
                self.act(&action, 0);
            } else if !self.news.is_empty() {
                let news = self.news.remove(0);
                self.deliver(news);
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn status(&self) -> Option<(u64, SandboxStatus)> {
        let containers = self.world.containers.iter();
        let status = |(name, (attempt, state)): (&String, &(u32, RunState))| ContainerStatus {
            name: name.clone(),
            attempt: *attempt,
            state: *state,
        };
        let status = SandboxStatus {
            generation: 1,
            containers: containers.map(status).collect(),
        };
        self.world.sandbox.map(|epoch| (epoch, status))
    }

    fn crash(&mut self) {
        (self.life, self.model) = self.journal.clone();
        let text = serde_json::to_string(&self.life).unwrap();
        let read: Lifecycle = serde_json::from_str(&text).unwrap();
        assert_eq!(read, self.life);
        self.life = read;
        self.pending.clear();
        self.news.clear();
        self.old.clear();
        self.model.crashed();
        let status = self.status();
        if let Some(epoch) = self.life.sandbox_epoch() {
            let seen = match &status {
                Some((_, status)) => Observation::Sandbox {
                    epoch,
                    status: status.clone(),
                },
                None => Observation::SandboxLost {
                    epoch,
                    message: String::new(),
                },
            };
            self.model.observed(&seen, self.now);
            self.model.told_all(self.life.failure().is_some());
        }
        let status = status.map(|(_, status)| status);
        let actions = self.life.resume(status.as_ref(), self.now);
        self.take(actions, true);
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Start => self.command(&Command::Start),
            Op::Stop => self.command(&Command::Stop),
            Op::Restart => self.command(&Command::Restart),
            Op::Delete => self.command(&Command::Delete),
            Op::WriteFiles => self.command(&Command::WriteFiles),
            Op::Update(plan, new_sandbox) => self.command(&Command::Update { plan, new_sandbox }),
            Op::Act(k, how) => {
                if !self.pending.is_empty() {
                    let action = self.pending.remove(k % self.pending.len());
                    self.act(&action, how);
                }
            }
            Op::Deliver(k) => {
                if !self.news.is_empty() {
                    let news = self.news.remove(k % self.news.len());
                    self.deliver(news);
                }
            }
            Op::Replay(k) => {
                self.tick();
                if !self.old.is_empty() {
                    let again = self.old[k % self.old.len()].clone();
                    let before = self.life.clone();
                    let actions = self.life.observe(again.clone(), self.now);
                    assert_eq!(actions, vec![], "{again:?} twice");
                    assert_eq!(self.life, before, "{again:?} twice");
                }
            }
            Op::Settle => self.settle(),
            Op::Exit(k, code) => {
                let running = self.running();
                if !running.is_empty() {
                    self.end(&running[k % running.len()], code);
                }
            }
            Op::Lose => {
                if let Some(epoch) = self.world.sandbox.take() {
                    self.world.containers.clear();
                    self.news.push(Observation::SandboxLost {
                        epoch,
                        message: "the supervisor ended".into(),
                    });
                }
            }
            Op::Status => {
                if let Some((epoch, status)) = self.status() {
                    self.deliver(Observation::Sandbox { epoch, status });
                }
            }
            Op::Wait(seconds) => self.now = self.now + secs(seconds),
            Op::Deadline => {
                if let Some(deadline) = self.life.next_deadline() {
                    self.now = self.now.max(deadline);
                    self.tick();
                }
            }
            Op::Tick => self.tick(),
            Op::Crash => self.crash(),
        }
    }

    /// From here on everything goes well for longer than any wait, and init containers end.
    fn good_world(&mut self) {
        self.crashes = false;
        let end = self.now + secs(2_000);
        for _ in 0..50_000 {
            self.settle();
            let inits: Vec<String> = self.running();
            for name in inits.iter().filter(|n| *n == "i" || *n == "j") {
                self.end(name, 0);
            }
            if !self.news.is_empty() {
                continue;
            }
            match self.life.next_deadline() {
                Some(deadline) if deadline <= end => {
                    self.now = self.now.max(deadline);
                    self.tick();
                }
                _ => return,
            }
        }
        panic!("too much happens");
    }
}

fn epoch_of(action: &Action) -> Option<u64> {
    match action {
        Action::CreateSandbox { epoch }
        | Action::StartContainer { epoch, .. }
        | Action::Signal { epoch, .. }
        | Action::Probe { epoch, .. }
        | Action::SetReady { epoch, .. }
        | Action::WriteFiles { epoch }
        | Action::DestroySandbox { epoch, .. } => Some(*epoch),
        Action::PullImage { .. } | Action::Forget => None,
    }
}

/// A few seconds; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 64;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_life_breaks_a_rule((plan, ops) in life()) {
        let mut driver = Driver::new(plan);
        driver.command(&Command::Start);
        for op in ops {
            driver.step(op);
        }
        driver.good_world();
        let life = &driver.life;
        prop_assert!(
            life.is_settled() || life.state() == GroupState::Running,
            "in a good world: {:?}",
            life
        );
        driver.command(&Command::Delete);
        driver.good_world();
        prop_assert!(driver.life.is_deleted());
    }

    #[test]
    fn the_same_inputs_give_the_same_actions((plan, ops) in life()) {
        let run = || {
            let mut driver = Driver::new(plan.clone());
            for op in ops.clone() {
                driver.step(op);
            }
            driver.life
        };
        prop_assert_eq!(run(), run());
    }
}
