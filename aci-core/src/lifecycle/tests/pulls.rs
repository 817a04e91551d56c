//! Images and the making of the sandbox.

use super::world::{Sim, plan, secs};
use crate::lifecycle::{
    Action, Command, GroupState, Observation, Plan, ProvisioningState, RestartPolicy,
};

fn two_images() -> Plan {
    let mut plan = plan(RestartPolicy::Always, &["i"], &["a", "b"]);
    plan.containers[1].image = "registry.example:5000/team/app:1".into();
    plan
}

fn pull_failed(sim: &mut Sim, retryable: bool) {
    let Action::PullImage { image, number, .. } = sim.pending.remove(0) else {
        panic!("not a pull");
    };
    sim.observe(Observation::PullFailed {
        image,
        number,
        message: "no route to host".into(),
        code: (!retryable).then(|| "InaccessibleImage".into()),
        retryable,
    });
}

#[test]
fn each_distinct_image_is_pulled_once() {
    let mut sim = Sim::new(two_images());
    sim.command(Command::Start);
    assert_eq!(sim.pending.len(), 2);
    sim.run();
    assert_eq!(sim.count(|a| matches!(a, Action::PullImage { .. })), 2);
    assert_eq!(
        sim.message("Pulled"),
        "Successfully pulled image \"registry.example:5000/team/app@sha256:0123\""
    );
    let pulling = |c| sim.events(Some(c)).contains(&("Pulling".to_owned(), 1));
    assert!(pulling("i") && pulling("a") && pulling("b"));
    assert_eq!(sim.life.image_digest("b"), Some("sha256:0123"));
}

#[test]
fn a_failed_pull_is_tried_again_with_back_off() {
    let mut sim = Sim::new(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Start);
    let mut waits = Vec::new();
    for _ in 0..6 {
        pull_failed(&mut sim, true);
        let wait = sim.life.next_deadline().unwrap().since(sim.now);
        waits.push(wait.as_secs());
        sim.now = sim.now + wait;
        let actions = sim.life.tick(sim.now);
        sim.take(actions);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300]);
    assert_eq!(
        sim.message("BackOff"),
        "Back-off pulling image \"alpine:3\""
    );
    let events = sim.events(Some("a"));
    for (name, count) in [("Failed", 6), ("BackOff", 6), ("Pulling", 7)] {
        assert!(events.contains(&(name.to_owned(), count)), "{events:?}");
    }
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Running);
}

#[test]
fn an_inaccessible_image_fails_the_provisioning() {
    let mut sim = Sim::new(two_images());
    sim.command(Command::Start);
    pull_failed(&mut sim, false);
    assert_eq!(sim.life.state(), GroupState::Failed);
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Failed);
    let failure = sim.life.failure().unwrap();
    assert_eq!(failure.code.as_deref(), Some("InaccessibleImage"));
    assert!(
        sim.message("DeploymentFailedReason")
            .starts_with("InaccessibleImage: ")
    );
    // Nothing was made, so nothing has to be removed, and the other pull no longer matters.
    assert!(sim.life.is_settled());
    sim.run();
    assert_eq!(sim.count(|a| matches!(a, Action::CreateSandbox { .. })), 0);
}

#[test]
fn a_pull_that_fails_for_half_an_hour_fails_the_provisioning() {
    let mut sim = Sim::new(plan(RestartPolicy::Never, &[], &["a"]));
    sim.command(Command::Start);
    while !sim.life.is_settled() {
        if sim.pending.is_empty() {
            sim.now = sim.life.next_deadline().unwrap();
            let actions = sim.life.tick(sim.now);
            sim.take(actions);
        } else {
            pull_failed(&mut sim, true);
        }
    }
    assert_eq!(sim.now, super::world::BEGIN + secs(1800));
    assert_eq!(sim.life.provisioning_state(), ProvisioningState::Failed);
}

#[test]
fn a_sandbox_that_cannot_be_made_now_is_tried_again_and_one_that_never_can_fails() {
    let mut sim = Sim::new(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Start);
    let pull = sim.pending.remove(0);
    for answer in sim.act(&pull) {
        sim.observe(answer);
    }
    let fail = |sim: &mut Sim, retryable| {
        let Action::CreateSandbox { epoch } = sim.pending.remove(0) else {
            panic!("not a creation");
        };
        sim.observe(Observation::SandboxFailed {
            epoch,
            message: "volume 'data': no such share".into(),
            code: Some("FailedMount".into()),
            retryable,
        });
        epoch
    };
    let first = fail(&mut sim, true);
    assert_eq!(sim.life.next_deadline(), Some(sim.now + secs(10)));
    sim.now = sim.now + secs(10);
    let actions = sim.life.tick(sim.now);
    sim.take(actions);
    let second = fail(&mut sim, false);
    assert!(second > first);
    assert_eq!(sim.life.state(), GroupState::Failed);
    assert!(sim.message("FailedMount").contains("no such share"));
}

#[test]
fn late_and_repeated_answers_change_nothing() {
    let mut sim = Sim::new(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Start);
    let mut answers = Vec::new();
    while !sim.pending.is_empty() {
        let action = sim.pending.remove(0);
        for answer in sim.act(&action) {
            sim.observe(answer.clone());
            answers.push(answer);
        }
    }
    sim.exit("a", 1);
    let before = sim.life.clone();
    for answer in answers {
        assert_eq!(sim.life.observe(answer, sim.now), vec![]);
        assert_eq!(sim.life, before);
    }
}
