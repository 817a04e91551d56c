//! The rules again, written as an onlooker who sees commands, actions and answers would state
//! them. It shares no code with the state machine and knows nothing of its states.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contract::{ExitStatus, RunState};
use crate::lifecycle::{
    Action, Command, GroupState, Lifecycle, Observation, Plan, ProbeKind, ProbePlan, RestartPolicy,
};
use crate::time::Timestamp;

/// The waits of the documentation, one a crash.
const WAITS: [u64; 7] = [0, 10, 20, 40, 80, 160, 300];

/// One attempt of a container.
#[derive(Clone, Debug, Default)]
struct Attempt {
    number: u32,
    started: Option<Timestamp>,
    /// When and with which code.
    ended: Option<(Timestamp, i32)>,
    unhealthy: bool,
    killed: bool,
    probes: BTreeMap<ProbeKind, Probing>,
}

#[derive(Clone, Debug, Default)]
struct Probing {
    under_way: Option<u64>,
    asked: Option<Timestamp>,
    /// The latest few.
    answers: Vec<bool>,
    outcome: Option<bool>,
}

impl Probing {
    fn answer(&mut self, success: bool, plan: ProbePlan) {
        self.under_way = None;
        self.answers.push(success);
        let needed = if success {
            plan.success_threshold
        } else {
            plan.failure_threshold
        } as usize;
        let latest = self.answers.iter().rev().take(needed);
        if latest.filter(|a| **a == success).count() == needed {
            self.outcome = Some(success);
        }
        if self.answers.len() > 8 {
            self.answers.remove(0);
        }
    }
}

/// One container of the plan.
#[derive(Clone, Debug, Default)]
struct Known {
    now: Option<Attempt>,
    before: Option<Attempt>,
    /// Starts since the last deployment as new.
    starts: u32,
    /// Starts since all containers were to be started last.
    starts_in_round: u32,
    crashes: usize,
    not_before: Timestamp,
    /// The sandbox in which it ended with 0, for init containers.
    done_in: Option<u64>,
}

impl Known {
    fn up(&self) -> Option<&Attempt> {
        self.now.as_ref().filter(|a| a.ended.is_none())
    }
}

/// What an onlooker knows.
#[derive(Clone, Debug)]
pub(super) struct Model {
    plan: Plan,
    next_plan: Option<Plan>,
    known: BTreeMap<String, Known>,
    /// The highest attempt of every name there ever was.
    attempts: BTreeMap<String, u32>,
    /// The sandbox that was asked for and that was not seen gone.
    sandbox: Option<u64>,
    up: bool,
    destroying: Option<u64>,
    /// Whether the latest removal keeps the address.
    address_kept: bool,
    last_epoch: u64,
    /// Since a command that brings everything down, until all containers are to be started again.
    stopping: bool,
    new_round: bool,
    deleting: bool,
    forgotten: bool,
}

impl Model {
    pub(super) fn new(plan: Plan) -> Self {
        let mut model = Self {
            plan,
            next_plan: None,
            known: BTreeMap::new(),
            attempts: BTreeMap::new(),
            sandbox: None,
            up: false,
            destroying: None,
            address_kept: false,
            last_epoch: 0,
            stopping: false,
            new_round: false,
            deleting: false,
            forgotten: false,
        };
        model.renew();
        model
    }

    fn renew(&mut self) {
        self.known = self
            .plan
            .init
            .iter()
            .chain(&self.plan.containers)
            .map(|c| (c.name.clone(), Known::default()))
            .collect();
    }

    fn is_init(&self, name: &str) -> bool {
        self.plan.init.iter().any(|c| c.name == name)
    }

    fn probe_plan(&self, name: &str, kind: ProbeKind) -> Option<ProbePlan> {
        let plan = self.plan.containers.iter().find(|c| c.name == name)?;
        match kind {
            ProbeKind::Liveness => plan.liveness,
            ProbeKind::Readiness => plan.readiness,
        }
    }

    /// A command was accepted. `down` says whether the group was down or ending by itself, `ran`
    /// whether it ran without anything under way.
    pub(super) fn accepted(&mut self, command: &Command, down: bool, ran: bool) {
        assert!(!self.forgotten || matches!(command, Command::Delete));
        match command {
            Command::Start if ran => {}
            Command::Start => {
                assert!(down, "started while under way");
                self.begin_as_new(None);
            }
            Command::Update { plan, .. } if down => self.begin_as_new(Some(plan.clone())),
            Command::Update { plan, .. } => {
                assert!(ran, "updated while under way");
                self.next_plan = Some(plan.clone());
                (self.stopping, self.new_round) = (true, true);
            }
            Command::Restart => {
                assert!(ran, "restarted while under way");
                (self.stopping, self.new_round) = (true, true);
            }
            Command::Stop => {
                if !down {
                    (self.stopping, self.new_round) = (true, false);
                }
            }
            Command::WriteFiles => assert!(down || ran, "files written while under way"),
            Command::Delete => {
                (self.stopping, self.deleting) = (true, true);
            }
        }
    }

    fn begin_as_new(&mut self, plan: Option<Plan>) {
        if let Some(plan) = plan.or_else(|| self.next_plan.take()) {
            self.next_plan = Some(plan);
        }
        for known in self.known.values_mut() {
            known.starts = 0;
        }
        (self.stopping, self.new_round) = (true, true);
    }

    /// Fresh pulls after a command: from here on all containers are to be started again.
    fn begin_round(&mut self) {
        (self.stopping, self.new_round) = (false, false);
        if let Some(plan) = self.next_plan.take() {
            let old = std::mem::replace(&mut self.plan, plan);
            let before = std::mem::take(&mut self.known);
            self.renew();
            for (name, known) in before {
                let same_role = old.init.iter().any(|c| c.name == name) == self.is_init(&name);
                if let Some(kept) = self.known.get_mut(&name).filter(|_| same_role) {
                    kept.starts = known.starts;
                    kept.now = known.now;
                }
            }
        }
        for known in self.known.values_mut() {
            known.starts_in_round = 0;
            known.crashes = 0;
            known.not_before = Timestamp::EPOCH;
            known.done_in = None;
        }
    }

    /// An action was handed out; `again` says that it may be a repetition after a crash.
    pub(super) fn action(&mut self, action: &Action, now: Timestamp, again: bool) {
        if self.forgotten {
            assert_eq!(*action, Action::Forget, "after it was forgotten");
        }
        if self.deleting {
            assert!(
                matches!(
                    action,
                    Action::Signal { .. }
                        | Action::DestroySandbox { .. }
                        | Action::SetReady { ready: false, .. }
                        | Action::Forget
                ),
                "{action:?} of a group that is being deleted"
            );
        }
        match action {
            Action::PullImage { fresh, .. } => {
                if *fresh && self.new_round {
                    self.begin_round();
                }
                assert!(!self.stopping, "pulled while stopping");
            }
            Action::CreateSandbox { epoch } => {
                if again && self.sandbox == Some(*epoch) {
                    return;
                }
                assert_eq!(self.sandbox, None, "two sandboxes");
                assert!(*epoch > self.last_epoch, "an epoch twice");
                assert!(!self.stopping);
                self.last_epoch = *epoch;
                (self.sandbox, self.up) = (Some(*epoch), false);
            }
            Action::StartContainer {
                epoch,
                container,
                attempt,
            } => self.start(*epoch, container, *attempt, now, again),
            Action::Signal {
                epoch,
                container,
                attempt,
                ..
            } => {
                self.assert_up(*epoch, action);
                let known = self.known.get_mut(container).unwrap();
                let current = known.now.as_mut().unwrap();
                assert_eq!(current.number, *attempt);
                assert!(current.ended.is_none() && current.started.is_some());
                current.killed = true;
            }
            Action::Probe {
                epoch,
                container,
                attempt,
                kind,
                number,
            } => {
                self.assert_up(*epoch, action);
                let plan = self.probe_plan(container, *kind).unwrap();
                let current = self.known.get_mut(container).unwrap().now.as_mut().unwrap();
                assert_eq!(current.number, *attempt);
                assert!(current.ended.is_none() && !current.killed && !self.stopping);
                assert!(now >= current.started.unwrap() + plan.initial_delay);
                let probing = current.probes.entry(*kind).or_default();
                if !again {
                    assert_eq!(probing.under_way, None, "two probes at once");
                    assert!(probing.asked.is_none_or(|at| now >= at + plan.period));
                }
                (probing.under_way, probing.asked) = (Some(*number), Some(now));
            }
            Action::SetReady { epoch, .. } => self.assert_up(*epoch, action),
            Action::WriteFiles { epoch } => {
                self.assert_up(*epoch, action);
                assert!(!self.stopping, "files written while stopping");
            }
            Action::DestroySandbox {
                epoch,
                number,
                keep_address,
                ..
            } => {
                self.address_kept = *keep_address;
                assert!(*epoch <= self.last_epoch);
                assert!(self.sandbox.is_none_or(|s| s == *epoch));
                self.destroying = Some(*number);
                self.up = false;
            }
            Action::Forget => {
                assert!(self.deleting, "forgotten without being asked");
                assert_eq!(self.sandbox, None, "forgotten with a sandbox");
                self.forgotten = true;
            }
        }
    }

    fn assert_up(&self, epoch: u64, action: &Action) {
        assert_eq!(self.sandbox, Some(epoch), "{action:?} for another sandbox");
        assert!(self.up, "{action:?} for a sandbox that is not up");
        assert_eq!(self.destroying, None, "{action:?} for a destroyed sandbox");
    }

    fn start(&mut self, epoch: u64, name: &str, attempt: u32, now: Timestamp, again: bool) {
        assert_eq!(self.sandbox, Some(epoch));
        assert!(self.up && self.destroying.is_none() && !self.stopping);
        let highest = self.attempts.get(name).copied();
        let repeated = |a: &Attempt| a.number == attempt && a.started.is_none();
        if again && self.known[name].up().is_some_and(repeated) {
            return;
        }
        assert!(
            highest.is_none_or(|h| attempt > h),
            "{name}: an old attempt"
        );
        self.attempts.insert(name.to_owned(), attempt);

        let init = self.is_init(name);
        if init {
            for other in self.known.values() {
                assert!(other.up().is_none(), "{name} beside another container");
            }
        }
        for earlier in self.plan.init.iter().take_while(|c| c.name != name) {
            let done = self.known[&earlier.name].done_in;
            assert_eq!(done, Some(epoch), "{name} before {}", earlier.name);
        }
        let policy = self.plan.restart_policy;
        let known = self.known.get_mut(name).unwrap();
        assert!(known.up().is_none(), "{name}: two attempts at once");
        assert!(now >= known.not_before, "{name}: back-off is not over");
        assert_ne!(known.done_in, Some(epoch), "{name}: it has succeeded");
        if known.starts_in_round > 0 {
            let before = known.now.as_ref().unwrap();
            let failed = before.unhealthy || before.ended.unwrap().1 != 0;
            match policy {
                RestartPolicy::Always => {}
                RestartPolicy::OnFailure => assert!(failed || init, "{name} had succeeded"),
                RestartPolicy::Never => panic!("{name} started twice"),
            }
        }
        known.starts += 1;
        known.starts_in_round += 1;
        known.before = known.now.take();
        known.now = Some(Attempt {
            number: attempt,
            ..Attempt::default()
        });
    }

    /// An answer is about to be given to the state machine. Returns whether a container has to be
    /// told to end at once.
    pub(super) fn observed(&mut self, observation: &Observation, now: Timestamp) -> Option<String> {
        match observation {
            Observation::SandboxCreated { epoch } => {
                if self.sandbox == Some(*epoch) && self.destroying.is_none() {
                    self.up = true;
                }
            }
            Observation::SandboxFailed { epoch, .. } => {
                if self.sandbox == Some(*epoch) && !self.up && self.destroying.is_none() {
                    self.sandbox = None;
                }
            }
            Observation::SandboxLost { epoch, .. } => {
                if self.sandbox == Some(*epoch) && self.destroying.is_none() {
                    if self.up {
                        self.all_lost(now);
                    } else {
                        self.sandbox = None;
                    }
                }
            }
            Observation::SandboxDestroyed { number } => {
                if self.destroying == Some(*number) {
                    self.all_lost(now);
                    (self.sandbox, self.destroying) = (None, None);
                }
            }
            Observation::Started { container, attempt } => self.started(container, *attempt, now),
            Observation::StartFailed {
                container,
                attempt,
                code,
                ..
            } => {
                let waits = |a: &Attempt| a.number == *attempt && a.started.is_none();
                if self
                    .known
                    .get(container)
                    .and_then(Known::up)
                    .is_some_and(waits)
                {
                    self.ended(container, now, *code);
                }
            }
            Observation::Exited {
                container,
                attempt,
                status,
            } => self.exited(container, *attempt, *status, status.at, now),
            Observation::Sandbox { epoch, status } => {
                if self.up && self.sandbox == Some(*epoch) {
                    for c in &status.containers {
                        match c.state {
                            RunState::Running { since } => {
                                self.started(&c.name, c.attempt, since.min(now));
                            }
                            RunState::Exited { since, status } => {
                                self.exited(&c.name, c.attempt, status, since, now);
                            }
                        }
                    }
                }
            }
            Observation::Probed {
                container,
                attempt,
                kind,
                number,
                success,
                ..
            } => return self.probed(container, *attempt, *kind, *number, *success),
            Observation::ImagePulled { .. }
            | Observation::PullFailed { .. }
            | Observation::DestroyFailed { .. }
            | Observation::VolumeTold { .. } => {}
        }
        None
    }

    fn started(&mut self, name: &str, attempt: u32, since: Timestamp) {
        let current = self.known.get_mut(name).and_then(|k| k.now.as_mut());
        if let Some(current) = current
            && current.number == attempt
            && current.ended.is_none()
        {
            current.started.get_or_insert(since);
        }
    }

    fn exited(
        &mut self,
        name: &str,
        attempt: u32,
        status: ExitStatus,
        since: Timestamp,
        now: Timestamp,
    ) {
        self.started(name, attempt, since.min(now));
        let current = self.known.get(name).and_then(Known::up);
        if let Some(current) = current.filter(|c| c.number == attempt) {
            let since = current.started.unwrap();
            self.ended(name, status.at.clamp(since, now), status.code);
        }
    }

    fn all_lost(&mut self, now: Timestamp) {
        let up = |k: &Known| k.up().is_some();
        let names: Vec<String> = self
            .known
            .iter()
            .filter(|(_, k)| up(k))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.ended(&name, now, 137);
        }
    }

    fn ended(&mut self, name: &str, at: Timestamp, code: i32) {
        let sandbox = self.sandbox;
        let init = self.is_init(name);
        let known = self.known.get_mut(name).unwrap();
        let current = known.now.as_mut().unwrap();
        current.ended = Some((at, code));
        let ran = current.started.map_or(Duration::ZERO, |s| at.since(s));
        if ran >= Duration::from_secs(600) {
            known.crashes = 0;
        }
        if init && code == 0 {
            known.done_in = sandbox;
            return;
        }
        let wait = WAITS[known.crashes.min(WAITS.len() - 1)];
        known.not_before = at + Duration::from_secs(wait);
        known.crashes += 1;
    }

    fn probed(
        &mut self,
        name: &str,
        attempt: u32,
        kind: ProbeKind,
        number: u64,
        success: bool,
    ) -> Option<String> {
        let plan = self.probe_plan(name, kind)?;
        let current = self.known.get_mut(name)?.now.as_mut()?;
        let probing = current.probes.get_mut(&kind)?;
        let counts = current.number == attempt
            && current.ended.is_none()
            && !current.killed
            && !self.stopping
            && probing.under_way == Some(number);
        if !counts {
            return None;
        }
        probing.answer(success, plan);
        if kind == ProbeKind::Liveness && probing.outcome == Some(false) {
            current.unhealthy = true;
            return Some(name.to_owned());
        }
        None
    }

    /// After a crash: probes that were under way are asked again.
    pub(super) fn crashed(&mut self) {
        for known in self.known.values_mut() {
            if let Some(current) = &mut known.now {
                for probing in current.probes.values_mut() {
                    probing.under_way = None;
                }
            }
        }
    }

    /// After a crash, when the sandbox has told what it knows: in a group that comes down a start
    /// that was not carried out will not be.
    pub(super) fn told_all(&mut self, failed: bool) {
        let down = self.stopping || failed;
        for known in self.known.values_mut().filter(|_| down) {
            if known.up().is_some_and(|a| a.started.is_none()) {
                known.now = known.before.take();
            }
        }
    }

    fn ready(&self, name: &str) -> bool {
        if self.probe_plan(name, ProbeKind::Readiness).is_none() {
            return true;
        }
        let Some(current) = &self.known[name].now else {
            return false;
        };
        if let Some((_, code)) = current.ended {
            return code == 0
                && match self.plan.restart_policy {
                    RestartPolicy::Always => false,
                    RestartPolicy::OnFailure => !current.unhealthy,
                    RestartPolicy::Never => true,
                };
        }
        let probing = current.probes.get(&ProbeKind::Readiness);
        current.started.is_some()
            && !current.killed
            && probing.is_some_and(|p| p.outcome == Some(true))
    }

    /// What must hold after every step.
    pub(super) fn check(&self, life: &Lifecycle, now: Timestamp, quiet: bool) {
        let deadline = life.next_deadline();
        assert!(deadline.is_none_or(|d| d > now), "a deadline stays due");
        let at_rest = life.is_settled();
        let runs = self.known.values().any(|k| k.up().is_some());
        assert!(
            at_rest || !quiet || deadline.is_some() || (runs && !self.stopping && self.up),
            "stuck"
        );
        if at_rest {
            assert_eq!(deadline, None);
            assert_eq!(self.sandbox, None, "at rest with a sandbox");
            assert!(!self.address_kept, "at rest with an address");
            assert!(!life.is_billable() && !life.is_ready());
        }
        assert_eq!(life.is_deleted(), self.forgotten);

        let state = life.state();
        let policy = life.plan().restart_policy;
        match state {
            GroupState::Succeeded => {
                assert_ne!(policy, RestartPolicy::Always);
                for c in &self.plan.containers {
                    let last = self.known[&c.name].now.as_ref().unwrap();
                    assert_eq!(last.ended.unwrap().1, 0);
                }
            }
            GroupState::Failed => {
                assert!(
                    policy == RestartPolicy::Never
                        || life.provisioning_state().as_str() == "Failed"
                );
                assert!(life.failure().is_some());
            }
            GroupState::Running => assert!(runs || self.up || self.stopping),
            GroupState::Pending | GroupState::Stopped => {}
        }
        let traffic = self.up
            && self.destroying.is_none()
            && !self.stopping
            && state == GroupState::Running
            && self.plan.containers.iter().all(|c| self.ready(&c.name));
        assert_eq!(life.is_ready(), traffic, "readiness");
        self.check_views(life);
        self.check_events(life, now);
    }

    fn check_views(&self, life: &Lifecycle) {
        if self.next_plan.is_some() {
            return;
        }
        for (name, known) in &self.known {
            let view = life.container_view(name).unwrap();
            if known.starts > 0 {
                assert_eq!(view.restart_count, Some(known.starts - 1), "{name}");
            }
            let state = view.current_state.unwrap();
            let running = known.up().is_some_and(|a| a.started.is_some());
            assert_eq!(state.state.as_deref() == Some("Running"), running, "{name}");
            if state.state.as_deref() == Some("Terminated") {
                let (_, code) = known.now.as_ref().unwrap().ended.unwrap();
                assert_eq!(state.exit_code, Some(code));
                assert_eq!(
                    state.detail_status.as_deref() == Some("Completed"),
                    code == 0
                );
            }
        }
    }

    fn check_events(&self, life: &Lifecycle, now: Timestamp) {
        let events = life.events();
        assert!(events.is_sorted_by(|a, b| a.sequence < b.sequence));
        for event in events {
            assert!(event.count >= 1 && event.first <= event.last && event.last <= now);
            assert!(event.count > 1 || event.first == event.last);
            assert!(event.sequence <= life.last_sequence());
        }
    }
}
