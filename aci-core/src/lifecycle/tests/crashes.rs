//! The host program dies and comes back.

use super::world::{Sim, plan, secs, with_readiness};
use crate::lifecycle::{
    Action, Command, GroupState, Lifecycle, ProbePlan, ProvisioningState, RestartPolicy,
};

#[test]
fn a_life_goes_on_from_every_single_step() {
    // The program dies before and after the answer of each of the first so many actions.
    for acted in [false, true] {
        for step in 0..12 {
            let probed = plan(RestartPolicy::OnFailure, &["i"], &["a", "b"]);
            let mut sim = Sim::new(with_readiness(probed, "a", ProbePlan::default()));
            sim.command(Command::Start);
            for _ in 0..step {
                if sim.pending.is_empty() {
                    let status = sim.status().unwrap_or_default();
                    if status.containers.iter().any(|c| c.name == "i") && sim.starts("a") == 0 {
                        let news = sim.end("i", 0);
                        sim.observe(news);
                    }
                    continue;
                }
                let action = sim.pending.remove(0);
                for answer in sim.act(&action) {
                    sim.observe(answer);
                }
            }
            if acted && !sim.pending.is_empty() {
                let action = sim.pending[0].clone();
                let _lost = sim.act(&action);
            }
            sim.crash();
            sim.run();
            if sim.starts("a") == 0 {
                sim.exit("i", 0);
            }
            assert_eq!(sim.life.state(), GroupState::Running, "step {step}");
            assert!(sim.life.is_ready());
            sim.exit("a", 0);
            sim.exit("b", 0);
            assert_eq!(sim.life.state(), GroupState::Succeeded);
        }
    }
}

#[test]
fn an_end_that_nobody_saw_is_taken_up() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    let _unseen = sim.end("a", 7);
    sim.now = sim.now + secs(500);
    sim.crash();
    sim.run();
    assert_eq!(sim.starts("a"), 2);
    let view = sim.life.container_view("a").unwrap();
    assert_eq!(view.restart_count, Some(1));
    assert_eq!(view.previous_state.unwrap().exit_code, Some(7));
}

#[test]
fn a_sandbox_that_died_meanwhile_is_repaired() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.world.sandbox = None;
    sim.crash();
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Unhealthy);
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Running);
    assert!(
        sim.message("SandboxLost")
            .contains("while its host program was away")
    );
}

#[test]
fn a_container_that_the_sandbox_does_not_know_has_ended() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a"]));
    sim.world.containers.clear();
    sim.crash();
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Failed);
}

#[test]
fn a_stop_that_was_interrupted_is_finished() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Stop);
    sim.crash();
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Stopped);
}

#[test]
fn a_kill_that_came_due_meanwhile_is_done_at_once() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.world.polite = false;
    sim.command(Command::Stop);
    sim.run();
    sim.now = sim.now + secs(30);
    sim.crash();
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Stopped);
}

#[test]
fn forgetting_is_repeated_until_the_record_is_gone() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Delete);
    sim.run();
    sim.crash();
    assert_eq!(sim.pending, [Action::Forget]);
}

#[test]
fn groups_at_rest_stay_at_rest() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a"]));
    sim.exit("a", 0);
    sim.crash();
    assert_eq!(sim.pending, []);
    let mut fresh = Sim::new(plan(RestartPolicy::Never, &[], &["a"]));
    fresh.crash();
    assert_eq!(fresh.pending, []);
}

#[test]
fn the_journal_reads_back_as_it_was_written() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &["i"], &["a"]));
    sim.exit("i", 1);
    let text = serde_json::to_string(&sim.life).unwrap();
    assert_eq!(serde_json::from_str::<Lifecycle>(&text).unwrap(), sim.life);
}

/// Found by the property test: the start of a restart was under way when the group was stopped,
/// and the crash after that gave the start out again, into a group that was coming down.
#[test]
fn a_start_that_a_stop_overtook_is_not_repeated() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    let news = sim.end("a", 1);
    sim.observe(news);
    assert!(matches!(sim.pending[..], [Action::StartContainer { .. }]));
    sim.command(Command::Stop);
    let before = sim.starts("a");
    sim.crash();
    assert_eq!(sim.starts("a"), before);
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Stopped);
}
