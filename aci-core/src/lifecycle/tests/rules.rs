//! Init containers, restart policies, back-off, endings.

use super::world::{BEGIN, Sim, plan, secs};
use crate::contract::{ExitStatus, Signal};
use crate::lifecycle::{
    Action, BackOff, Command, GroupState, Observation, ProvisioningState, RestartPolicy,
};

#[test]
fn a_group_starts_pulls_creates_runs_init_then_all_containers() {
    let mut sim = Sim::new(plan(
        RestartPolicy::Always,
        &["prepare", "migrate"],
        &["web", "sidecar"],
    ));
    assert_eq!(sim.life.state(), GroupState::Pending);
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Pending);
    assert!(!sim.life.is_billable());
    sim.command(Command::Start);
    assert!(sim.life.is_billable());
    assert!(
        matches!(&sim.pending[..], [Action::PullImage { image, fresh: true, .. }] if image == "alpine:3")
    );
    sim.run();
    assert_eq!((sim.starts("prepare"), sim.starts("migrate")), (1, 0));
    assert_eq!(sim.life.state(), GroupState::Pending);
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Creating);
    sim.exit("prepare", 0);
    assert_eq!((sim.starts("migrate"), sim.starts("web")), (1, 0));
    sim.exit("migrate", 0);
    assert_eq!((sim.starts("web"), sim.starts("sidecar")), (1, 1));
    assert_eq!(sim.life.state(), GroupState::Running);
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Succeeded);
    assert!(sim.life.is_ready());
    assert_eq!(sim.life.next_deadline(), None);
}

#[test]
fn an_hour_of_back_off_takes_no_time() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["web"]));
    let end = BEGIN + secs(3600);
    let mut waits = Vec::new();
    while sim.now < end {
        let ended = sim.now;
        let before = sim.starts("web");
        sim.exit("web", 1);
        while sim.starts("web") == before {
            let deadline = sim.life.next_deadline().unwrap();
            sim.pass(deadline.since(sim.now));
        }
        waits.push(sim.now.since(ended).as_secs());
    }
    assert_eq!(waits[..8], [0, 10, 20, 40, 80, 160, 300, 300]);
    assert!(waits[8..].iter().all(|w| *w == 300));
}

#[test]
fn back_off_begins_again_after_ten_minutes_of_running() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["web"]));
    sim.exit("web", 1);
    sim.exit("web", 1);
    assert_eq!(sim.starts("web"), 2, "the second restart waits");
    sim.pass(secs(10));
    assert_eq!(sim.starts("web"), 3);
    sim.pass(secs(599));
    sim.exit("web", 1);
    assert_eq!(sim.starts("web"), 3, "one second less than ten minutes");
    sim.pass(secs(20));
    assert_eq!(sim.starts("web"), 4);
    sim.pass(secs(600));
    sim.exit("web", 1);
    assert_eq!(sim.starts("web"), 5);
}

#[test]
fn back_off_never_exceeds_its_maximum_however_often_it_is_asked() {
    let back_off = BackOff::default();
    assert_eq!(back_off.restart_delay(0), secs(0));
    assert_eq!(back_off.restart_delay(1), secs(10));
    assert_eq!(back_off.restart_delay(u32::MAX), secs(300));
    assert_eq!(back_off.delay(u32::MAX), secs(300));
}

#[test]
fn a_waiting_restart_comes_at_once_when_its_time_passed_unseen() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["web"]));
    sim.exit("web", 1);
    let news = sim.end("web", 1);
    // The news is an hour late; the wait counts from the end.
    sim.now = sim.now + secs(3600);
    sim.observe(news);
    sim.run();
    assert_eq!(sim.starts("web"), 3);
}

#[test]
fn always_restarts_after_success_too() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["web"]));
    sim.exit("web", 0);
    assert_eq!(sim.starts("web"), 2);
    assert_eq!(sim.life.state(), GroupState::Running);
}

#[test]
fn on_failure_restarts_failures_only_and_ends_succeeded() {
    let mut sim = Sim::started(plan(RestartPolicy::OnFailure, &[], &["a", "b"]));
    sim.exit("a", 0);
    sim.exit("b", 3);
    assert_eq!((sim.starts("a"), sim.starts("b")), (1, 2));
    assert_eq!(sim.life.state(), GroupState::Running);
    sim.exit("b", 0);
    assert_eq!(sim.life.state(), GroupState::Succeeded);
    assert!(sim.life.is_settled() && !sim.life.is_billable());
    assert_eq!(sim.world.sandbox, None);
    assert_eq!(sim.life.next_deadline(), None);
}

#[test]
fn never_does_not_restart_and_ends_failed_if_one_failed() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a", "b"]));
    sim.exit("a", 2);
    assert_eq!(sim.life.state(), GroupState::Running);
    sim.exit("b", 0);
    assert_eq!(sim.life.state(), GroupState::Failed);
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Succeeded);
    assert_eq!((sim.starts("a"), sim.starts("b")), (1, 1));
    let failure = sim.life.failure().unwrap();
    assert_eq!(failure.message, "Container 'a' ended with exit code 2.");
}

#[test]
fn never_ends_succeeded_if_all_succeeded() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &["i"], &["a"]));
    sim.exit("i", 0);
    sim.exit("a", 0);
    assert_eq!(sim.life.state(), GroupState::Succeeded);
    let destroy = |a: &Action| {
        matches!(
            a,
            Action::DestroySandbox {
                save_logs: true,
                keep_address: false,
                ..
            }
        )
    };
    assert_eq!(sim.count(destroy), 1);
}

#[test]
fn a_failing_init_container_is_retried_under_always_and_on_failure() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure] {
        let mut sim = Sim::started(plan(policy, &["i"], &["a"]));
        sim.exit("i", 1);
        assert_eq!((sim.starts("i"), sim.starts("a")), (2, 0));
        sim.exit("i", 1);
        assert_eq!(sim.starts("i"), 2, "now with back-off");
        sim.pass(secs(10));
        assert_eq!(sim.starts("i"), 3);
        sim.exit("i", 0);
        assert_eq!((sim.starts("i"), sim.starts("a")), (3, 1));
    }
}

#[test]
fn a_failing_init_container_fails_the_group_under_never() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &["i", "j"], &["a"]));
    sim.exit("i", 9);
    assert_eq!(sim.life.state(), GroupState::Failed);
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Failed);
    assert_eq!((sim.starts("j"), sim.starts("a")), (0, 0));
    assert_eq!(
        sim.message("DeploymentFailedReason"),
        "Init container 'i' ended with exit code 9."
    );
}

#[test]
fn a_start_that_failed_counts_as_an_exit_with_its_code() {
    let fail = |sim: &mut Sim| {
        let Action::StartContainer { attempt, .. } = sim.pending.remove(0) else {
            panic!("not a start");
        };
        sim.observe(Observation::StartFailed {
            container: "a".into(),
            attempt,
            code: 127,
            message: "exec 'nope': no such file".into(),
        });
    };
    let until_start = |policy| {
        let mut sim = Sim::new(plan(policy, &[], &["a"]));
        sim.command(Command::Start);
        for _ in 0..2 {
            let action = sim.pending.remove(0);
            for answer in sim.act(&action) {
                sim.observe(answer);
            }
        }
        sim
    };
    let mut sim = until_start(RestartPolicy::Never);
    fail(&mut sim);
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Failed);
    let view = sim.life.container_view("a").unwrap().current_state.unwrap();
    assert_eq!(view.exit_code, Some(127));
    assert!(sim.message("Failed").contains("no such file"));

    let mut sim = until_start(RestartPolicy::Always);
    fail(&mut sim);
    assert_eq!(sim.life.state(), GroupState::Running);
    fail(&mut sim);
    assert_eq!(sim.life.next_deadline(), Some(sim.now + secs(10)));
    assert_eq!(sim.events(Some("a")).last().unwrap().0, "BackOff");
}

#[test]
fn an_out_of_memory_kill_is_named() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a"]));
    let attempt = sim.life.running_attempt("a").unwrap();
    let status = ExitStatus {
        code: 137,
        signal: Some(Signal::KILL),
        oom: true,
        at: sim.now,
    };
    sim.observe(Observation::Exited {
        container: "a".into(),
        attempt,
        status,
    });
    let view = sim.life.container_view("a").unwrap().current_state.unwrap();
    assert_eq!(view.detail_status.as_deref(), Some("OOMKilled"));
    assert_eq!(view.exit_code, Some(137));
    assert!(sim.message("OOMKilled").contains("memoryInGB"));
}

#[test]
fn provisioning_fails_after_its_time() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &["i"], &["a"]));
    assert_eq!(sim.life.next_deadline(), Some(BEGIN + secs(1800)));
    sim.pass(secs(1799));
    assert_eq!(sim.life.state(), GroupState::Pending);
    sim.pass(secs(1));
    assert_eq!(sim.life.state(), GroupState::Failed);
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Failed);
    assert_eq!(
        sim.life.failure().unwrap().message,
        "The container group 'web' was not provisioned within 30 minutes."
    );
    assert_eq!(sim.world.sandbox, None);
}

#[test]
fn a_group_that_runs_is_not_bound_by_the_provisioning_time() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.pass(secs(86_400));
    assert_eq!(sim.life.state(), GroupState::Running);
    sim.exit("a", 1);
    assert_eq!(sim.life.state(), GroupState::Running);
}

#[test]
fn a_lost_sandbox_is_made_again_with_init_containers_and_its_address() {
    let mut sim = Sim::started(plan(RestartPolicy::OnFailure, &["i"], &["a", "b"]));
    sim.exit("i", 0);
    sim.exit("b", 0);
    let epoch = sim.life.sandbox_epoch().unwrap();
    sim.world.sandbox = None;
    sim.world.containers.clear();
    sim.observe(Observation::SandboxLost {
        epoch,
        message: "the supervisor ended".into(),
    });
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Unhealthy);
    assert!(sim.life.is_billable());
    assert!(matches!(
        sim.pending[..],
        [Action::DestroySandbox {
            keep_address: true,
            ..
        }]
    ));
    sim.run();
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Repairing);
    assert_eq!((sim.starts("i"), sim.starts("a")), (2, 1));
    let fresh = |a: &Action| matches!(a, Action::PullImage { fresh: true, .. });
    assert_eq!(sim.count(fresh), 1, "a repair asks no registry");
    sim.exit("i", 0);
    // `b` had succeeded, so it is not started again.
    assert_eq!((sim.starts("a"), sim.starts("b")), (2, 1));
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Succeeded);
    let view = sim.life.container_view("a").unwrap();
    assert_eq!(view.restart_count, Some(1));
    assert_eq!(view.previous_state.unwrap().exit_code, Some(137));
}

#[test]
fn a_sandbox_that_is_lost_again_and_again_is_made_again_with_back_off() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    let mut waits = Vec::new();
    for _ in 0..4 {
        let (epoch, lost) = (sim.life.sandbox_epoch().unwrap(), sim.now);
        sim.world.sandbox = None;
        sim.observe(Observation::SandboxLost {
            epoch,
            message: "the supervisor ended".into(),
        });
        sim.run();
        while sim.life.state() != GroupState::Running {
            let deadline = sim.life.next_deadline().unwrap();
            sim.pass(deadline.since(sim.now));
        }
        waits.push(sim.now.since(lost).as_secs());
    }
    assert_eq!(waits, [0, 10, 20, 40]);
}

#[test]
fn a_lost_sandbox_fails_the_group_under_never() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a", "b"]));
    sim.exit("b", 0);
    let epoch = sim.life.sandbox_epoch().unwrap();
    sim.observe(Observation::SandboxLost {
        epoch,
        message: "the supervisor ended".into(),
    });
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Failed);
    assert_eq!((sim.starts("a"), sim.starts("b")), (1, 1));
    let view = sim.life.container_view("a").unwrap().current_state.unwrap();
    assert_eq!(view.exit_code, Some(137));
}
