//! Random users, random faults and random deaths of the host program, in simulated time: whatever
//! happens, after it is over every group is what was promised.
//!
//! `PROPTEST_CASES` sets how many lives are lived; a life that goes wrong is made as short as
//! possible and printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aci_core::error::{Applied, Error, ErrorKind};
use aci_core::fake::{FakeHost, Fault, Faults, ManualClock, Trigger};
use aci_core::lifecycle::GroupState;
use aci_core::model::ContainerGroup;
use aci_core::size::WhenFull;
use aci_core::time::Timestamp;
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, LogOptions, Shutdown};
use proptest::prelude::*;
use support::{Fence, fenced};

/// As long as a call of a user may take before he gives up. Longer than the limits that the engine
/// sets to its parts.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

const GROUPS: u8 = 4;

/// Everything that the engine asks of its parts.
const OPERATIONS: [&str; 28] = [
    "isolation.create",
    "isolation.adopt",
    "isolation.list",
    "isolation.remove",
    "sandbox.start",
    "sandbox.exec",
    "sandbox.signal",
    "sandbox.status",
    "sandbox.changed",
    "sandbox.logs",
    "sandbox.stats",
    "sandbox.dial",
    "sandbox.destroy",
    "image.pull",
    "image.get",
    "image.prepare",
    "image.release",
    "image.prepared",
    "network.attach",
    "network.detach",
    "network.set_ready",
    "network.list",
    "volume.provide",
    "volume.release",
    "volume.list",
    "store.put",
    "store.remove",
    "store.list",
];

#[derive(Clone, Debug)]
enum Call {
    Put { kind: u8, cores: u8 },
    Tags,
    Stop,
    Start,
    Restart,
    Delete,
    Exec,
    Logs,
    Usage,
}

#[derive(Clone, Debug)]
enum Step {
    Call(u8, Call),
    /// A user who gives up after so many times that his call could have gone on.
    GiveUp(u8, Call, u8),
    /// Two users at once.
    Both((u8, Call), (u8, Call)),
    Wait(u32),
    Fault(usize, u8, u8),
    KillAgent(u8),
    /// The host program dies at its next but n-th call into a part.
    DieAt(u8, bool),
    Reopen {
        gently: bool,
    },
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (0..5_u8, 1..4_u8).prop_map(|(kind, cores)| Call::Put { kind, cores }),
        1 => Just(Call::Tags),
        2 => Just(Call::Stop),
        2 => Just(Call::Start),
        2 => Just(Call::Restart),
        2 => Just(Call::Delete),
        1 => Just(Call::Exec),
        1 => Just(Call::Logs),
        1 => Just(Call::Usage),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..GROUPS;
    prop_oneof![
        8 => (who(), call()).prop_map(|(g, c)| Step::Call(g, c)),
        2 => (who(), call(), 0..40_u8).prop_map(|(g, c, n)| Step::GiveUp(g, c, n)),
        2 => ((who(), call()), (who(), call())).prop_map(|(a, b)| Step::Both(a, b)),
        4 => (0..400_u32).prop_map(Step::Wait),
        5 => (0..OPERATIONS.len(), 1..6_u8, 0..8_u8).prop_map(|(o, n, f)| Step::Fault(o, n, f)),
        1 => who().prop_map(Step::KillAgent),
        2 => (0..30_u8, any::<bool>()).prop_map(|(n, after)| Step::DieAt(n, after)),
        1 => any::<bool>().prop_map(|gently| Step::Reopen { gently }),
    ]
}

fn fault(kind: u8) -> Fault {
    match kind {
        0 => Fault::Error(ErrorKind::Unavailable),
        1 => Fault::Error(ErrorKind::Internal),
        2 => Fault::ErrorAfter(ErrorKind::Timeout),
        3 => Fault::ErrorAfter(ErrorKind::Internal),
        4 => Fault::Delay(Duration::from_secs(45)),
        5 => Fault::Hang,
        6 => Fault::HangAfter,
        _ => Fault::Call(Arc::new(|| panic!("a part has an error"))),
    }
}

fn document(name: &str, kind: u8, cores: u8, version: u32) -> ContainerGroup {
    let init = "  initContainers:\n  - {name: init, properties: {image: job}}\n";
    let volumes = "  volumes:\n  - {name: cache, emptyDir: {}}\n";
    let secret = "  volumes:\n  - {name: cache, secret: {key: aGVsbG8=}}\n";
    let (policy, commands, extra) = match kind {
        0 => ("Always", ["[serve, '80']"; 3], format!("{init}{volumes}")),
        1 => (
            "Always",
            [
                "[sleep, infinity]",
                "[fail-after, '20', '3']",
                "[exit, '2']",
            ],
            secret.into(),
        ),
        2 => ("Never", ["[sleep, '30']"; 3], init.into()),
        3 => (
            "OnFailure",
            ["[wait-term]", "[fail-after, '5']", "[echo, x]"],
            volumes.into(),
        ),
        _ => (
            "Always",
            ["[ignore-term]", "[tick, '1', '100']", "[wait-term]"],
            String::new(),
        ),
    };
    let containers: Vec<(String, &str)> = (0..usize::from(cores))
        .map(|i| (format!("c{i}"), commands[i]))
        .collect();
    let containers: Vec<(&str, &str)> = containers.iter().map(|(n, c)| (n.as_str(), *c)).collect();
    let mut group = support::group(name, policy, &containers, &extra);
    if kind == 0 {
        // Each listens to a port of its own.
        for (i, container) in group.properties.containers.iter_mut().enumerate() {
            container.properties.command[1] = (80 + i).to_string();
            let probe = "name: x\nproperties:\n  osType: Linux\n  containers:\n  - name: x\n    properties: {image: x, livenessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 20}}\n";
            let probed = ContainerGroup::from_yaml(probe).unwrap();
            container.properties.liveness_probe = probed.properties.containers[0]
                .properties
                .liveness_probe
                .clone();
        }
    }
    group.tags.insert("version".into(), version.to_string());
    group
}

/// What a user knows of a group.
#[derive(Clone, Debug, Default)]
struct Known {
    may_exist: bool,
    may_be_gone: bool,
    /// The versions that it may have.
    versions: BTreeSet<String>,
    /// Whether it was last told to run or to stop, if that is certain.
    runs: Option<bool>,
    since: Option<Timestamp>,
}

struct World {
    host: FakeHost,
    clock: ManualClock,
    fence: Fence,
    engine: Option<Engine>,
    options: EngineOptions,
    known: BTreeMap<u8, Known>,
    version: u32,
    /// When the step began that is played.
    begun: Timestamp,
}

fn name(group: u8) -> String {
    format!("g{group}")
}

async fn carry_out(engine: Engine, group: u8, call: Call, version: u32) -> Result<(), Error> {
    let name = name(group);
    if let Call::Put { kind, cores } = call {
        return engine
            .create_or_update(document(&name, kind, cores, version))
            .await
            .map(|_| ());
    }
    if matches!(call, Call::Delete) {
        return engine.delete(&name).await;
    }
    let group: Group = engine.get(&name)?;
    match call {
        Call::Tags => {
            group
                .set_tags([("version".to_owned(), version.to_string())])
                .await
        }
        Call::Stop => group.stop().await,
        Call::Start => group.start().await,
        Call::Restart => group.restart().await,
        Call::Exec => {
            let process = group
                .container("c0")?
                .exec(ExecOptions::command(["true"]))
                .await?;
            process.control.wait().await.map(|_| ())
        }
        Call::Logs => group
            .container("c0")?
            .logs(LogOptions::default())
            .await
            .map(|_| ()),
        _ => group.usage().await.map(|_| ()),
    }
}

impl World {
    async fn new(seed: u64) -> Self {
        let clock = ManualClock::new();
        let host = FakeHost::with_faults(Arc::new(clock.clone()), Faults::seeded(seed));
        let begun = host.clock.now();
        let when_full = if seed.is_multiple_of(2) {
            WhenFull::Queue { longest: 3 }
        } else {
            WhenFull::Refuse
        };
        let mut world = Self {
            host,
            clock,
            fence: Fence::default(),
            engine: None,
            options: EngineOptions {
                when_full,
                ..Default::default()
            },
            known: BTreeMap::new(),
            version: 0,
            begun,
        };
        world.open().await;
        world
    }

    async fn open(&mut self) {
        for tries in 0.. {
            self.fence = self.fence.next();
            let building = fenced(&self.host, &self.fence, self.options.clone()).build();
            if let Some(Ok(engine)) = self.clock.drive(PATIENCE, building).await {
                self.engine = Some(engine);
                return;
            }
            self.fence.die();
            assert!(
                tries < 4,
                "the engine cannot be opened on a host without faults"
            );
            if tries == 2 {
                self.host.faults.heal();
            }
        }
    }

    async fn reopen(&mut self, gently: bool) {
        let engine = self.engine.take().unwrap();
        if gently {
            let ending = engine.shutdown(Shutdown::LeaveRunning);
            let ended = self.clock.drive(PATIENCE, ending).await;
            assert!(
                self.fence.is_dead() || ended.is_some(),
                "the shutdown hangs"
            );
        }
        self.fence.die();
        drop(engine);
        self.open().await;
    }

    fn learn(&mut self, group: u8, call: &Call, version: u32, outcome: Option<&Result<(), Error>>) {
        let begun = self.begun;
        let known = self.known.entry(group).or_insert_with(|| Known {
            may_be_gone: true,
            ..Known::default()
        });
        let sure = match outcome {
            Some(Ok(())) => true,
            Some(Err(e))
                if e.state_changed() == Applied::Nothing && e.kind() != ErrorKind::Cancelled =>
            {
                return;
            }
            _ => false,
        };
        match call {
            Call::Put { .. } => {
                known.since.get_or_insert(begun);
                known.may_exist = true;
                known.runs = sure.then_some(true);
                if sure {
                    known.may_be_gone = false;
                    known.versions.clear();
                }
                known.versions.insert(version.to_string());
            }
            Call::Tags => {
                if sure {
                    known.versions.clear();
                }
                known.versions.insert(version.to_string());
            }
            Call::Delete => {
                known.may_be_gone = true;
                known.runs = None;
                if sure {
                    *known = Known {
                        may_be_gone: true,
                        ..Known::default()
                    };
                }
            }
            Call::Stop => known.runs = sure.then_some(false),
            Call::Start | Call::Restart => known.runs = sure.then_some(true),
            Call::Exec | Call::Logs | Call::Usage => {}
        }
    }

    fn begin(
        &mut self,
        group: u8,
        call: &Call,
    ) -> (u32, impl Future<Output = Result<(), Error>> + use<>) {
        self.version += 1;
        let engine = self.engine.clone().unwrap();
        (
            self.version,
            carry_out(engine, group, call.clone(), self.version),
        )
    }

    async fn play(&mut self, step: Step) {
        self.begun = self.host.clock.now();
        match step {
            Step::Call(group, call) => {
                let (version, doing) = self.begin(group, &call);
                let outcome = self.clock.drive(PATIENCE, doing).await;
                self.learn(group, &call, version, outcome.as_ref());
            }
            Step::GiveUp(group, call, polls) => {
                let (version, doing) = self.begin(group, &call);
                let mut doing = Box::pin(doing);
                let mut outcome = None;
                for _ in 0..polls {
                    let polled = futures_util::poll!(doing.as_mut());
                    if let std::task::Poll::Ready(done) = polled {
                        outcome = Some(done);
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(doing);
                self.learn(group, &call, version, outcome.as_ref());
                // What was begun may be accepted still; the next user comes later.
                if outcome.is_none() {
                    self.clock.run_for(Duration::from_secs(1)).await;
                }
            }
            Step::Both((a, call_a), (b, call_b)) => {
                let (version_a, doing_a) = self.begin(a, &call_a);
                let (version_b, doing_b) = self.begin(b, &call_b);
                let both = async { tokio::join!(doing_a, doing_b) };
                let (out_a, out_b) = self.clock.drive(PATIENCE, both).await.unzip();
                if a == b {
                    // Nobody knows which was first.
                    self.learn(a, &call_a, version_a, None);
                    self.learn(b, &call_b, version_b, None);
                } else {
                    self.learn(a, &call_a, version_a, out_a.as_ref());
                    self.learn(b, &call_b, version_b, out_b.as_ref());
                }
            }
            Step::Wait(seconds) => {
                self.clock
                    .run_for(Duration::from_secs(seconds.into()))
                    .await
            }
            Step::Fault(operation, nth, kind) => {
                let trigger = Trigger::Nth(nth.into());
                self.host
                    .faults
                    .on(OPERATIONS[operation], trigger, fault(kind));
            }
            Step::KillAgent(group) => {
                if let Ok(group) = self.engine.as_ref().unwrap().get(&name(group)) {
                    self.host.isolation.kill_agent(&group.sandbox_id());
                }
            }
            Step::DieAt(calls, after) => self.fence.die_at(calls.into(), after),
            Step::Reopen { gently } => self.reopen(gently).await,
        }
        if self.fence.is_dead() {
            self.reopen(false).await;
        }
    }

    /// Everything heals, the engine is opened anew, and time passes: then every promise is kept.
    async fn judge(&mut self) {
        self.host.faults.heal();
        self.reopen(false).await;
        self.clock.run_for(Duration::from_secs(2 * 3600)).await;
        let engine = self.engine.clone().unwrap();
        let now = self.host.clock.now();
        let (mut up, mut waiting) = (BTreeSet::new(), 0);
        let mut cores = 0;
        for number in 0..GROUPS {
            let known = self.known.remove(&number).unwrap_or_else(|| Known {
                may_be_gone: true,
                ..Known::default()
            });
            let Ok(group) = engine.get(&name(number)) else {
                assert!(
                    known.may_be_gone,
                    "{number} was accepted and is gone: {known:?}"
                );
                continue;
            };
            assert!(
                known.may_exist,
                "{number} was deleted or refused and is there: {known:?}"
            );
            let view = group.view();
            let version = view.tags.get("version").cloned().unwrap_or_default();
            assert!(
                known.versions.contains(&version),
                "{number} has version {version}: {known:?}"
            );
            let state = group.state();
            let always = view
                .properties
                .restart_policy
                .as_ref()
                .is_some_and(|p| p.as_str() == "Always");
            match state {
                GroupState::Pending => waiting += 1,
                GroupState::Running => {
                    up.insert(group.sandbox_id());
                    cores += view.properties.containers.len();
                }
                GroupState::Stopped | GroupState::Succeeded | GroupState::Failed => {}
            }
            match known.runs {
                Some(true) => assert_ne!(state, GroupState::Stopped, "{number}: {known:?}"),
                Some(false) => assert!(
                    !matches!(state, GroupState::Running | GroupState::Pending),
                    "{number} was stopped and is {state:?}"
                ),
                None => {}
            }
            if state == GroupState::Running && always {
                let id = group.sandbox_id();
                assert_eq!(
                    self.host.network.is_ready(&id),
                    Some(true),
                    "{number} gets no traffic"
                );
            }
            let (billed, most) = (
                group.bill().seconds,
                now.since(known.since.unwrap()).as_secs(),
            );
            // Each begun second of each span counts full.
            assert!(
                billed <= most + 60,
                "{number} is billed {billed} s of {most} s"
            );
        }
        let usage = engine.usage();
        assert_eq!(usage.waiting, waiting, "who is pending waits for room");
        let there: BTreeSet<_> = self.host.isolation.sandboxes().into_iter().collect();
        assert_eq!(there, up, "a sandbox for each running group and no other");
        assert_eq!(usage.in_use.groups as usize, up.len());
        assert_eq!(usage.in_use.total.cpu.to_string(), cores.to_string());
        assert_eq!(self.host.store.len(), engine.list().len());

        for number in 0..GROUPS {
            let deleted = self
                .clock
                .drive(PATIENCE, engine.delete(&name(number)))
                .await;
            deleted.expect("a deletion hangs").unwrap();
        }
        assert_eq!(self.host.leftovers(), Vec::<&str>::new());
        assert_eq!(engine.usage().in_use.groups, 0);
        let ended = engine.shutdown(Shutdown::StopGroups);
        self.clock
            .drive(PATIENCE, ended)
            .await
            .expect("the shutdown hangs")
            .unwrap();
    }
}

/// A document that is refused would be no test.
#[test]
fn all_documents_are_accepted() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(0).await;
        let engine = world.engine.clone().unwrap();
        for kind in 0..5 {
            for cores in 1..4 {
                let document = document("web", kind, cores, 1);
                let creating = engine.create_or_update(document);
                let web = world.clock.drive(PATIENCE, creating).await.unwrap();
                let web = web.unwrap();
                world
                    .clock
                    .drive(PATIENCE, web.running())
                    .await
                    .unwrap()
                    .ok();
                assert_ne!(web.state(), GroupState::Pending);
                let deleting = world.clock.drive(PATIENCE, web.delete()).await;
                deleting.unwrap().unwrap();
            }
        }
    });
}

fn live(seed: u64, steps: Vec<Step>) {
    // Without timers: the engine has to use its own clock everywhere.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed).await;
        for step in steps {
            world.play(step).await;
        }
        world.judge().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24),
        max_shrink_iters: 2_000,
        // The shortest life that goes wrong is printed, and becomes a test of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn whatever_happens_every_promise_is_kept(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        live(seed, steps);
    }
}

/// Found by the test above: the group was accepted long before the other call of the step gave up.
#[test]
fn a_group_is_billed_for_no_more_than_its_life() {
    use Call::{Delete, Put};
    let small = || Put { kind: 0, cores: 1 };
    let steps = vec![
        Step::Both((0, small()), (0, small())),
        Step::DieAt(12, false),
        Step::Both((3, Put { kind: 1, cores: 1 }), (0, Delete)),
        Step::GiveUp(0, small(), 0),
        Step::Call(0, small()),
    ];
    live(3_364_925_907_871_158_361, steps);
}
