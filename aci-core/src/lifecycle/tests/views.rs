//! What replies show, and events.

use super::world::{BEGIN, Sim, plan, secs};
use crate::lifecycle::{Command, EventKind, RestartPolicy};
use crate::model::ContainerGroup;

#[test]
fn a_container_that_waits_runs_crashes_and_ends_shows_it() {
    let mut sim = Sim::new(plan(RestartPolicy::OnFailure, &[], &["a"]));
    let state = |sim: &Sim| {
        let view = sim.life.container_view("a").unwrap();
        let current = view.current_state.unwrap();
        (
            current.state.unwrap(),
            current.detail_status.unwrap(),
            view.previous_state.and_then(|s| s.exit_code),
            view.restart_count.unwrap(),
        )
    };
    let is = |state: &str, detail: &str, previous, restarts| {
        (state.to_owned(), detail.to_owned(), previous, restarts)
    };
    assert_eq!(state(&sim), is("Waiting", "", None, 0));
    sim.command(Command::Start);
    sim.run();
    assert_eq!(state(&sim), is("Running", "", None, 0));
    sim.exit("a", 1);
    assert_eq!(state(&sim), is("Running", "", Some(1), 1));
    sim.exit("a", 2);
    assert_eq!(state(&sim), is("Waiting", "CrashLoopBackOff", Some(2), 1));
    sim.pass(secs(10));
    assert_eq!(state(&sim), is("Running", "", Some(2), 2));
    sim.exit("a", 0);
    assert_eq!(state(&sim), is("Terminated", "Completed", Some(2), 2));
}

#[test]
fn the_times_of_a_terminated_container_are_those_of_its_process() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a"]));
    sim.pass(secs(90));
    sim.exit("a", 2);
    let view = sim.life.container_view("a").unwrap();
    let state = view.current_state.unwrap();
    assert_eq!(state.start_time.unwrap().as_str(), "2026-01-01T00:00:00Z");
    assert_eq!(state.finish_time.unwrap().as_str(), "2026-01-01T00:01:30Z");
    assert_eq!(state.detail_status.as_deref(), Some("Error"));
    assert_eq!(view.restart_count, Some(0));
}

#[test]
fn the_same_event_again_is_counted_and_comes_last() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    let seen = sim.life.last_sequence();
    assert_eq!(seen, 4, "Pulling, Pulled, Created, Started");
    sim.pass(secs(700));
    sim.exit("a", 1);
    let new: Vec<_> = sim.life.events_after(seen).collect();
    assert_eq!(new.len(), 2);
    assert_eq!((new[1].name.as_str(), new[1].count), ("Started", 2));
    assert_eq!((new[1].first, new[1].last), (BEGIN, sim.now));
    assert_eq!(new[1].kind, EventKind::Normal);
    assert!(sim.life.events().is_sorted_by_key(|e| e.sequence));
    assert_eq!(sim.life.last_sequence(), 6);
}

#[test]
fn events_are_bounded() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a", "b"]));
    for round in 0..200 {
        // Each kill names another id, so each is an event of its own.
        sim.command(Command::Restart);
        sim.run();
        assert!(round < 10 || sim.events(Some("a")).len() > 10);
    }
    assert!(sim.events(Some("a")).len() <= 40);
    assert!(sim.life.events().len() <= 3 * 40);
}

#[test]
fn a_reply_carries_the_views_of_all_containers() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &["i"], &["a"]));
    sim.exit("i", 0);
    let mut document = ContainerGroup::default();
    document.properties.containers.push(Default::default());
    document.properties.containers[0].name = "a".into();
    document.properties.init_containers.push(Default::default());
    document.properties.init_containers[0].name = "i".into();
    sim.life.write_views(&mut document);
    let properties = document.properties;
    assert_eq!(properties.provisioning_state.as_deref(), Some("Succeeded"));
    let view = properties.instance_view.unwrap();
    assert_eq!(view.state.as_deref(), Some("Running"));
    let init = properties.init_containers[0]
        .properties
        .instance_view
        .clone();
    let state = init.unwrap().current_state.unwrap();
    assert_eq!(state.detail_status.as_deref(), Some("Completed"));
    let events = properties.containers[0].properties.instance_view.clone();
    let names: Vec<_> = events
        .unwrap()
        .events
        .into_iter()
        .map(|e| e.name.unwrap())
        .collect();
    assert_eq!(names, ["Pulling", "Pulled", "Created", "Started"]);
}
