//! Starting, running and ending.

use super::world::{BEGIN, Sim, plan, secs};
use crate::lifecycle::{Action, Command, GroupState, ProvisioningState, RestartPolicy};

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
            let wait = deadline.since(sim.now);
            sim.pass(wait);
        }
        waits.push(sim.now.since(ended).as_secs());
    }
    assert_eq!(waits[..8], [0, 10, 20, 40, 80, 160, 300, 300]);
    assert!(waits[8..].iter().all(|w| *w == 300));
}
