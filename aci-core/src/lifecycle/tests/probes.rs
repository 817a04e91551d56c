//! Liveness and readiness.

use super::world::{BEGIN, Sim, plan, secs, with_liveness, with_readiness};
use crate::lifecycle::{
    Action, Command, GroupState, Observation, ProbeKind, ProbePlan, RestartPolicy,
};
use crate::model::Probe;
use crate::time::Timestamp;

fn alive(policy: RestartPolicy, probe: ProbePlan) -> Sim {
    Sim::started(with_liveness(plan(policy, &[], &["a", "b"]), "a", probe))
}

/// A group whose container `a` fails its liveness probe from the beginning.
fn unhealthy(policy: RestartPolicy) -> Sim {
    let plan = plan(policy, &[], &["a", "b"]);
    let mut sim = Sim::new(with_liveness(plan, "a", ProbePlan::default()));
    sim.probes.insert("a".into(), false);
    sim.command(Command::Start);
    sim.run();
    sim
}

fn probe_times(sim: &Sim) -> Vec<u64> {
    let probes = sim
        .log
        .iter()
        .filter(|(_, a)| matches!(a, Action::Probe { .. }));
    probes.map(|(at, _)| at.since(BEGIN).as_secs()).collect()
}

#[test]
fn probes_have_kubernetes_defaults() {
    let default = ProbePlan::from_probe(&Probe::default());
    assert_eq!(default, ProbePlan::default());
    assert_eq!(default.initial_delay, secs(0));
    assert_eq!(default.period, secs(10));
    assert_eq!(default.timeout, secs(1));
    assert_eq!(
        (default.failure_threshold, default.success_threshold),
        (3, 1)
    );
    let zeros = Probe {
        period_seconds: Some(0),
        failure_threshold: Some(0),
        initial_delay_seconds: Some(7),
        ..Probe::default()
    };
    let plan = ProbePlan::from_probe(&zeros);
    assert_eq!((plan.period, plan.failure_threshold), (secs(1), 1));
    assert_eq!(plan.initial_delay, secs(7));
}

#[test]
fn probes_begin_after_the_initial_delay_and_keep_their_period() {
    let probe = ProbePlan {
        initial_delay: secs(5),
        period: secs(3),
        ..ProbePlan::default()
    };
    let mut sim = alive(RestartPolicy::Always, probe);
    assert_eq!(sim.life.next_deadline(), Some(BEGIN + secs(5)));
    sim.pass(secs(15));
    assert_eq!(probe_times(&sim), [5, 8, 11, 14]);
}

#[test]
fn no_two_probes_of_one_kind_run_at_once() {
    let mut sim = alive(RestartPolicy::Always, ProbePlan::default());
    sim.pass(secs(9));
    sim.now = sim.now + secs(1);
    let first = sim.life.tick(sim.now);
    assert_eq!(first.len(), 1);
    for _ in 0..5 {
        sim.now = sim.now + secs(10);
        assert_eq!(sim.life.tick(sim.now), vec![]);
    }
    // Its answer comes late: the next is due at once.
    sim.take(first);
    let action = sim.pending.remove(0);
    let answers = sim.act(&action);
    for answer in answers {
        sim.observe(answer);
    }
    assert!(matches!(sim.pending[..], [Action::Probe { .. }]));
}

#[test]
fn a_container_that_fails_its_liveness_probe_is_stopped_and_restarted() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure] {
        let mut sim = unhealthy(policy);
        sim.pass(secs(19));
        assert_eq!(sim.starts("a"), 1, "two failures are not enough");
        sim.pass(secs(1));
        assert_eq!((sim.starts("a"), sim.starts("b")), (2, 1));
        let names: Vec<_> = sim.events(Some("a")).into_iter().map(|(n, _)| n).collect();
        assert_eq!(
            names,
            [
                "Pulling",
                "Pulled",
                "Killing",
                "Created",
                "Started",
                "Unhealthy"
            ]
        );
        assert_eq!(
            sim.message("Unhealthy"),
            "Liveness probe failed: HTTP probe failed with statuscode: 503"
        );
        // Three of the first attempt and already one of the second.
        assert!(sim.events(Some("a")).contains(&("Unhealthy".to_owned(), 4)));
    }
}

#[test]
fn on_failure_restarts_an_unhealthy_container_even_if_it_ends_with_0() {
    let mut sim = unhealthy(RestartPolicy::OnFailure);
    sim.world.polite = false;
    sim.pass(secs(20));
    sim.exit("a", 0);
    assert_eq!(sim.starts("a"), 2);
}

#[test]
fn never_does_not_restart_an_unhealthy_container() {
    let mut sim = unhealthy(RestartPolicy::Never);
    sim.pass(secs(60));
    assert_eq!(sim.starts("a"), 1);
    assert_eq!(sim.life.state(), GroupState::Running);
    sim.exit("b", 0);
    assert_eq!(sim.life.state(), GroupState::Failed);
}

#[test]
fn an_unhealthy_container_that_will_not_end_is_killed_after_the_grace_period() {
    let mut sim = unhealthy(RestartPolicy::Always);
    sim.world.polite = false;
    sim.pass(secs(49));
    assert_eq!(sim.starts("a"), 1);
    sim.pass(secs(1));
    assert_eq!(sim.starts("a"), 2);
    let probes = probe_times(&sim);
    assert_eq!(probes, [0, 10, 20, 50], "none while it is being stopped");
}

#[test]
fn failures_count_only_in_a_row() {
    let mut sim = alive(RestartPolicy::Always, ProbePlan::default());
    for round in 0..6u32 {
        sim.probes.insert("a".into(), round.is_multiple_of(3));
        sim.pass(secs(10));
    }
    assert_eq!(sim.starts("a"), 1);
}

#[test]
fn readiness_withholds_traffic_until_it_passes_and_whenever_it_fails() {
    let probe = ProbePlan {
        initial_delay: secs(1),
        success_threshold: 2,
        ..ProbePlan::default()
    };
    let plan = with_readiness(plan(RestartPolicy::Always, &[], &["a", "b"]), "a", probe);
    let mut sim = Sim::started(plan);
    assert_eq!(sim.life.state(), GroupState::Running);
    assert!(!sim.life.is_ready());
    sim.pass(secs(1));
    assert!(!sim.life.is_ready(), "one success of two");
    sim.pass(secs(10));
    assert!(sim.life.is_ready());
    sim.probes.insert("a".into(), false);
    sim.pass(secs(20));
    assert!(sim.life.is_ready(), "two failures of three");
    sim.pass(secs(10));
    assert!(!sim.life.is_ready());
    assert_eq!(sim.starts("a"), 1, "the container keeps running");
    assert!(
        sim.message("Unhealthy")
            .starts_with("Readiness probe failed: ")
    );
    sim.probes.remove("a");
    sim.pass(secs(20));
    assert!(sim.life.is_ready());
    let told: Vec<bool> = sim
        .log
        .iter()
        .filter_map(|(_, a)| match a {
            Action::SetReady { ready, .. } => Some(*ready),
            _ => None,
        })
        .collect();
    assert_eq!(told, [true, false, true]);
}

#[test]
fn a_restart_of_a_probed_container_withholds_traffic() {
    let probe = ProbePlan::default();
    let plan = with_readiness(plan(RestartPolicy::Always, &[], &["a", "b"]), "a", probe);
    let mut sim = Sim::started(plan);
    assert!(sim.life.is_ready());
    let news = sim.end("a", 1);
    sim.observe(news);
    assert!(!sim.life.is_ready());
    sim.run();
    assert!(sim.life.is_ready());
    // A container without a readiness probe never withholds traffic.
    sim.exit("b", 1);
    sim.exit("b", 1);
    assert!(sim.life.is_ready());
}

#[test]
fn answers_for_an_earlier_attempt_do_not_count() {
    let mut sim = alive(
        RestartPolicy::Always,
        ProbePlan {
            failure_threshold: 1,
            ..ProbePlan::default()
        },
    );
    sim.now = sim.now + secs(10);
    let probe = sim.life.tick(sim.now);
    let [
        Action::Probe {
            attempt, number, ..
        },
    ] = probe[..]
    else {
        panic!("not a probe");
    };
    sim.exit("a", 1);
    sim.observe(Observation::Probed {
        container: "a".into(),
        attempt,
        kind: ProbeKind::Liveness,
        number,
        success: false,
        message: "too late".into(),
    });
    sim.run();
    assert_eq!(sim.starts("a"), 2);
    assert!(sim.now > Timestamp::EPOCH);
}

#[test]
fn an_answer_that_comes_twice_counts_once() {
    let probe = ProbePlan {
        failure_threshold: 2,
        ..ProbePlan::default()
    };
    let mut sim = alive(RestartPolicy::Always, probe);
    let ask = |sim: &mut Sim| {
        sim.now = sim.now + secs(10);
        let asked = sim.life.tick(sim.now);
        let [
            Action::Probe {
                attempt, number, ..
            },
        ] = asked[..]
        else {
            panic!("not a probe");
        };
        Observation::Probed {
            container: "a".into(),
            attempt,
            kind: ProbeKind::Liveness,
            number,
            success: false,
            message: "connection refused".into(),
        }
    };
    let first = ask(&mut sim);
    sim.observe(first.clone());
    let second = ask(&mut sim);
    sim.observe(first);
    assert_eq!(sim.pending, [], "the first answer again, not the second");
    sim.observe(second);
    assert!(matches!(sim.pending[..], [Action::Signal { .. }]));
}
