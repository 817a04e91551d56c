//! Start, stop, restart and delete.

use std::time::Duration;

use super::world::{Sim, plan, secs};
use crate::contract::Signal;
use crate::error::ErrorKind;
use crate::lifecycle::{
    Action, Command, GroupState, Observation, ProvisioningState, RestartPolicy,
};

fn code(sim: &mut Sim, command: Command) -> String {
    let error = sim.try_command(command).unwrap_err();
    error.aci_code().unwrap().to_owned()
}

#[test]
fn stop_asks_first_and_kills_after_the_grace_period() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a", "b"]));
    sim.world.polite = false;
    sim.command(Command::Stop);
    let polite = |a: &Action| matches!(a, Action::Signal { signal, all: false, .. } if *signal == Signal::TERM);
    let kill = |a: &Action| matches!(a, Action::Signal { signal, all: true, .. } if *signal == Signal::KILL);
    assert!(matches!(
        sim.pending[0],
        Action::SetReady { ready: false, .. }
    ));
    assert_eq!((sim.count(polite), sim.count(kill)), (2, 0));
    sim.run();
    sim.pass(secs(29));
    assert_eq!(sim.count(kill), 0);
    assert_eq!(sim.life.state(), GroupState::Running);
    assert!(sim.life.is_billable());
    sim.pass(secs(1));
    assert_eq!(sim.count(kill), 2);
    assert_eq!(sim.life.state(), GroupState::Stopped);
    assert!(!sim.life.is_billable() && sim.life.is_settled());
    assert_eq!(sim.world.sandbox, None);
    let id = sim.message("Killing");
    let id = id.strip_prefix("Killing container with id ").unwrap();
    assert_eq!(id.len(), 65, "64 digits and a full stop");
}

#[test]
fn stop_is_quick_when_containers_are_polite() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a", "b"]));
    sim.command(Command::Stop);
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Stopped);
    let view = sim.life.container_view("a").unwrap().current_state.unwrap();
    assert_eq!(view.exit_code, Some(143));
}

#[test]
fn stop_uses_the_signal_of_the_plan_or_the_image() {
    let signal_of = |sim: &Sim| {
        let signals = sim.log.iter().filter_map(|(_, a)| match a {
            Action::Signal { signal, .. } => Some(*signal),
            _ => None,
        });
        signals.collect::<Vec<_>>()
    };
    let start = |plan| {
        let mut sim = Sim::new(plan);
        sim.command(Command::Start);
        let Action::PullImage { image, number, .. } = sim.pending.remove(0) else {
            panic!("not a pull");
        };
        sim.observe(Observation::ImagePulled {
            image,
            number,
            digest: "sha256:0123".into(),
            stop_signal: Some(Signal::QUIT),
        });
        sim.run();
        sim.command(Command::Stop);
        sim
    };
    let of_image = plan(RestartPolicy::Always, &[], &["a"]);
    let mut of_plan = of_image.clone();
    of_plan.containers[0].stop_signal = Some(Signal::INT);
    assert_eq!(signal_of(&start(of_image)), [Signal::QUIT]);
    assert_eq!(signal_of(&start(of_plan)), [Signal::INT]);
}

#[test]
fn without_grace_a_stop_kills_at_once() {
    let mut plan = plan(RestartPolicy::Always, &[], &["a"]);
    plan.grace = Duration::ZERO;
    let mut sim = Sim::started(plan);
    sim.world.polite = false;
    sim.command(Command::Stop);
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Stopped);
}

#[test]
fn a_container_that_survives_its_kill_does_not_hold_up_a_stop() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Stop);
    sim.pending.clear(); // no signal arrives
    while sim.life.sandbox_epoch().is_some() {
        sim.now = sim.life.next_deadline().unwrap();
        let actions = sim.life.tick(sim.now);
        sim.log.extend(actions.iter().map(|a| (sim.now, a.clone())));
        sim.pending = actions
            .into_iter()
            .filter(|a| !matches!(a, Action::Signal { .. }))
            .collect();
    }
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Stopped);
    let view = sim.life.container_view("a").unwrap().current_state.unwrap();
    assert_eq!(view.exit_code, Some(137));
}

#[test]
fn a_group_with_a_time_to_live_is_deleted_so_long_after_its_end() {
    for code in [0, 1] {
        let mut mortal = plan(RestartPolicy::Never, &[], &["a"]);
        mortal.time_to_live = Some(secs(60));
        let mut sim = Sim::started(mortal);
        sim.pass(secs(1_000));
        sim.exit("a", code);
        sim.pass(secs(59));
        assert!(sim.life.has_ended() && !sim.life.is_deleted());
        // What happens meanwhile does not put it off, and what starts it again does.
        sim.command(Command::Stop);
        let mut again = sim.clone();
        sim.pass(secs(1));
        assert!(sim.life.is_deleted());
        assert_eq!(sim.count(|a| *a == Action::Forget), 1);
        again.command(Command::Start);
        again.run();
        again.pass(secs(1_000));
        assert_eq!(again.life.state(), GroupState::Running);
        again.exit("a", code);
        again.pass(secs(60));
        assert!(again.life.is_deleted());
    }
}

#[test]
fn a_stopped_group_outlives_its_time_to_live() {
    let mut mortal = plan(RestartPolicy::Always, &[], &["a"]);
    mortal.time_to_live = Some(secs(0));
    let mut sim = Sim::started(mortal);
    sim.command(Command::Stop);
    sim.run();
    sim.pass(secs(1_000));
    assert_eq!(sim.life.state(), GroupState::Stopped);
    assert_eq!(sim.life.next_deadline(), None);
}

#[test]
fn stop_has_no_effect_on_a_group_that_has_ended() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a"]));
    sim.exit("a", 0);
    let before = sim.life.clone();
    sim.command(Command::Stop);
    assert_eq!(sim.life, before);
    assert_eq!(sim.life.state(), GroupState::Succeeded);
}

#[test]
fn a_group_can_be_stopped_while_it_pulls_or_is_created() {
    let mut sim = Sim::new(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Start);
    sim.command(Command::Stop);
    assert_eq!(sim.life.state(), GroupState::Stopped);
    assert!(sim.life.is_settled());

    sim.command(Command::Start);
    sim.pending
        .retain(|a| matches!(a, Action::PullImage { .. }));
    sim.pending.remove(0); // that of the first start
    let pull = sim.pending.remove(0);
    for answer in sim.act(&pull) {
        sim.observe(answer);
    }
    assert!(matches!(sim.pending[..], [Action::CreateSandbox { .. }]));
    sim.command(Command::Stop);
    assert!(matches!(
        sim.pending[..],
        [Action::CreateSandbox { .. }, Action::DestroySandbox { .. }]
    ));
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Stopped);
}

#[test]
fn start_deploys_again_from_the_beginning() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &["i"], &["a"]));
    sim.exit("i", 0);
    sim.exit("a", 1);
    let first = sim.life.sandbox_epoch();
    sim.command(Command::Stop);
    sim.run();
    sim.command(Command::Start);
    sim.run();
    assert_eq!(
        sim.count(|a| matches!(a, Action::PullImage { fresh: true, .. })),
        2
    );
    sim.exit("i", 0);
    assert!(sim.life.sandbox_epoch() > first);
    let view = sim.life.container_view("a").unwrap();
    assert_eq!((view.restart_count, view.previous_state), (Some(0), None));
}

#[test]
fn start_has_no_effect_on_a_group_that_runs() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    let before = sim.life.clone();
    sim.command(Command::Start);
    assert_eq!(sim.life, before);
}

#[test]
fn a_start_right_after_a_stop_waits_for_its_end() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a"]));
    let news = sim.end("a", 0);
    sim.observe(news);
    assert_eq!(sim.life.state(), GroupState::Succeeded);
    assert!(!sim.life.is_settled());
    sim.command(Command::Start);
    assert!(!sim.life.is_billable());
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Running);
    assert_eq!(sim.starts("a"), 2);
}

#[test]
fn restart_is_in_place_with_init_containers_and_fresh_images() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &["i"], &["a"]));
    sim.exit("i", 0);
    let epoch = sim.life.sandbox_epoch();
    sim.command(Command::Restart);
    sim.run();
    assert_eq!(sim.life.sandbox_epoch(), epoch);
    assert_eq!((sim.starts("i"), sim.starts("a")), (2, 1));
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Creating);
    sim.exit("i", 0);
    assert_eq!(sim.starts("a"), 2);
    assert_eq!(
        sim.count(|a| matches!(a, Action::PullImage { fresh: true, .. })),
        2
    );
    assert_eq!(sim.count(|a| matches!(a, Action::DestroySandbox { .. })), 0);
    let view = sim.life.container_view("a").unwrap();
    assert_eq!(view.restart_count, Some(1));
    assert_eq!(view.previous_state.unwrap().exit_code, Some(143));
}

#[test]
fn a_restart_kills_again_and_again_what_will_not_end() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Restart);
    let mut kills = Vec::new();
    for _ in 0..3 {
        sim.now = sim.life.next_deadline().unwrap();
        kills.extend(sim.life.tick(sim.now));
    }
    assert!(
        kills.iter().all(
            |a| matches!(a, Action::Signal { signal, all: true, .. } if *signal == Signal::KILL)
        )
    );
    assert_eq!(kills.len(), 3);
    sim.exit("a", 137);
    assert_eq!(sim.life.state(), GroupState::Running);
}

#[test]
fn what_cannot_be_done_now_is_refused_with_acis_code() {
    let other = || Command::Update {
        plan: plan(RestartPolicy::Always, &[], &["b"]),
        new_sandbox: false,
    };
    let mut sim = Sim::new(plan(RestartPolicy::Always, &[], &["a"]));
    assert_eq!(code(&mut sim, Command::Restart), "ContainerGroupStopped");
    sim.command(Command::Start);
    for command in [Command::Start, Command::Restart, other()] {
        let before = sim.life.clone();
        let error = sim.try_command(command).unwrap_err();
        assert_eq!(error.aci_code(), Some("ContainerGroupTransitioning"));
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(
            error.message(),
            "The container group 'web' is still transitioning, please retry later."
        );
        assert_eq!(sim.life, before);
    }
    sim.run();
    sim.command(Command::Stop);
    assert_eq!(
        code(&mut sim, Command::Start),
        "ContainerGroupTransitioning"
    );
    sim.run();
    let error = sim.try_command(Command::Restart).unwrap_err();
    assert_eq!(error.aci_code(), Some("ContainerGroupStopped"));
    assert_eq!(
        error.message(),
        "Container Group 'web' in resource group 'default' is stopped."
    );
    sim.command(Command::Delete);
    for command in [Command::Start, Command::Stop, Command::Restart, other()] {
        assert_eq!(code(&mut sim, command), "ResourceNotFound");
    }
}

#[test]
fn delete_stops_politely_removes_and_forgets() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Delete);
    assert!(sim.life.is_deleting() && !sim.life.is_deleted());
    assert_eq!(
        code(&mut sim, Command::Start),
        "ContainerGroupTransitioning"
    );
    sim.run();
    let tail: Vec<_> = sim.log.iter().rev().take(3).map(|(_, a)| a).collect();
    assert!(matches!(
        tail[..],
        [
            Action::Forget,
            Action::DestroySandbox {
                save_logs: false,
                keep_address: false,
                ..
            },
            Action::Signal { .. }
        ]
    ));
    assert!(sim.life.is_deleted());
    sim.command(Command::Delete);
    assert_eq!(sim.pending, [Action::Forget], "said again, done again");
}

#[test]
fn delete_of_a_group_that_is_not_up_only_forgets() {
    let mut fresh = Sim::new(plan(RestartPolicy::Always, &[], &["a"]));
    fresh.command(Command::Delete);
    assert_eq!(fresh.pending, [Action::Forget]);
    let mut ended = Sim::started(plan(RestartPolicy::Never, &[], &["a"]));
    ended.exit("a", 1);
    ended.command(Command::Delete);
    assert_eq!(ended.pending, [Action::Forget]);
}

#[test]
fn a_removal_that_fails_is_tried_again_with_back_off() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Delete);
    let mut waits = Vec::new();
    while sim
        .pending
        .iter()
        .any(|a| !matches!(a, Action::DestroySandbox { .. }))
    {
        let action = sim.pending.remove(0);
        for answer in sim.act(&action) {
            sim.observe(answer);
        }
    }
    for _ in 0..3 {
        let Action::DestroySandbox { number, .. } = sim.pending.remove(0) else {
            panic!("not a removal");
        };
        let news = Observation::DestroyFailed {
            number,
            message: "cgroup is busy".into(),
        };
        sim.observe(news.clone());
        sim.observe(news); // twice is once
        let wait = sim.life.next_deadline().unwrap().since(sim.now);
        waits.push(wait.as_secs());
        sim.now = sim.now + wait;
        let actions = sim.life.tick(sim.now);
        sim.take(actions);
    }
    assert_eq!(waits, [10, 20, 40]);
    sim.run();
    assert!(sim.life.is_deleted());
}

#[test]
fn a_stop_during_a_repair_releases_the_address_too() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    for wait_for_repair in [false, true] {
        let epoch = sim.life.sandbox_epoch().unwrap();
        sim.observe(Observation::SandboxLost {
            epoch,
            message: "the supervisor ended".into(),
        });
        if wait_for_repair {
            // Lost once more, so that it waits before it is made again.
            sim.run();
            let epoch = sim.life.sandbox_epoch().unwrap();
            sim.observe(Observation::SandboxLost {
                epoch,
                message: "the supervisor ended".into(),
            });
            sim.run();
        }
        sim.command(Command::Stop);
        sim.run();
        assert_eq!(sim.life.state(), GroupState::Stopped);
        let last = sim.log.iter().rev().find_map(|(_, a)| match a {
            Action::DestroySandbox { keep_address, .. } => Some(*keep_address),
            _ => None,
        });
        assert_eq!(last, Some(false));
        sim.command(Command::Start);
        sim.run();
    }
}
