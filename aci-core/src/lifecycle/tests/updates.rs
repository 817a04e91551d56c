//! Changed documents.

use super::world::{Sim, plan};
use crate::error::ErrorKind;
use crate::lifecycle::{
    Action, Command, GroupState, Plan, ProbePlan, RestartPolicy, UpdateKind, update_kind,
};
use crate::model::{
    self, ConfigMap, Container, ContainerGroup, EnvironmentVariable, GpuResource, IpAddress,
    NetworkProfile, OsType, Probe, ResourceLimits, ResourceRequests, ResourceRequirements, Secret,
    SubnetId, Volume,
};

fn container(name: &str) -> Container {
    let mut container = Container {
        name: name.into(),
        ..Container::default()
    };
    container.properties.image = Some("nginx:1".into());
    container.properties.resources = Some(ResourceRequirements {
        requests: Some(ResourceRequests {
            cpu: Some(1.0),
            memory_in_gb: Some(1.5),
            ..ResourceRequests::default()
        }),
        ..ResourceRequirements::default()
    });
    container
}

fn document() -> ContainerGroup {
    let mut document = ContainerGroup {
        name: "Web".into(),
        ..ContainerGroup::default()
    };
    document.properties.containers = vec![container("a"), container("b")];
    document
}

fn kind(change: impl Fn(&mut ContainerGroup)) -> crate::error::Result<UpdateKind> {
    let mut new = document();
    change(&mut new);
    update_kind(&document(), &new)
}

#[test]
fn the_same_document_changes_nothing() {
    assert_eq!(kind(|_| ()).unwrap(), UpdateKind::None);
    let explicit = kind(|d| {
        d.name = "web".into();
        d.properties.os_type = Some(OsType::Linux);
        d.properties.restart_policy = Some(model::RestartPolicy::Always);
        let resources = d.properties.containers[0].properties.resources.as_mut();
        resources.unwrap().limits = Some(ResourceLimits {
            cpu: Some(1.0),
            memory_in_gb: Some(1.5),
            ..ResourceLimits::default()
        });
    });
    assert_eq!(explicit.unwrap(), UpdateKind::None);
}

#[test]
fn a_reply_that_is_sent_back_changes_nothing() {
    let sim = Sim::started(Plan::from_group(&"web".into(), &document()));
    let mut reply = document();
    sim.life.write_views(&mut reply);
    reply.id = Some("/subscriptions/s/...".into());
    reply.type_ = Some(ContainerGroup::RESOURCE_TYPE.into());
    assert_eq!(
        reply.properties.provisioning_state.as_deref(),
        Some("Succeeded")
    );
    assert_eq!(update_kind(&document(), &reply).unwrap(), UpdateKind::None);
}

#[test]
fn tags_restart_nothing() {
    let tags = kind(|d| {
        d.tags.insert("team".into(), "blue".into());
    });
    assert_eq!(tags.unwrap(), UpdateKind::InPlaceTagsOnly);
}

#[test]
fn values_of_config_maps_restart_nothing() {
    let config = |value: &str| {
        let mut document = document();
        let mut map = ConfigMap::default();
        map.key_value_pairs.insert("key".into(), value.into());
        document.properties.containers[0].properties.config_map = Some(map);
        document
    };
    assert_eq!(
        update_kind(&config("1"), &config("2")).unwrap(),
        UpdateKind::ConfigMapOnly
    );
    // One that was not there before has to be mounted.
    assert_eq!(
        update_kind(&document(), &config("1")).unwrap(),
        UpdateKind::Restart { new_sandbox: false }
    );
}

#[test]
fn files_are_written_where_a_group_runs_and_again_after_a_crash() {
    let mut sim = Sim::new(plan(RestartPolicy::Always, &[], &["a"]));
    let written = |sim: &Sim| sim.count(|a| matches!(a, Action::WriteFiles { .. }));
    // The first deployment has them anyway.
    sim.command(Command::WriteFiles);
    sim.command(Command::Start);
    let error = sim.life.command(Command::WriteFiles, sim.now).unwrap_err();
    assert_eq!(error.aci_code(), Some("ContainerGroupTransitioning"));
    sim.run();
    assert_eq!(written(&sim), 0);
    let before = sim.life.container_view("a");
    sim.command(Command::WriteFiles);
    sim.run();
    assert_eq!(written(&sim), 1);
    assert_eq!(sim.life.container_view("a"), before);
    let status = crate::contract::SandboxStatus::default();
    let again = sim.life.clone().resume(Some(&status), sim.now);
    assert!(again.iter().any(|a| matches!(a, Action::WriteFiles { .. })));
    sim.command(Command::Stop);
    let again = sim.life.clone().resume(Some(&status), sim.now);
    assert!(!again.iter().any(|a| matches!(a, Action::WriteFiles { .. })));
}

#[test]
fn containers_are_restarted_in_the_same_sandbox_and_other_volumes_need_a_new_one() {
    let same = UpdateKind::Restart { new_sandbox: false };
    let image = kind(|d| d.properties.containers[0].properties.image = Some("nginx:2".into()));
    assert_eq!(image.unwrap(), same);
    let secret = kind(|d| {
        let variables = &mut d.properties.containers[1].properties.environment_variables;
        variables.push(EnvironmentVariable {
            name: "KEY".into(),
            secure_value: Some(Secret::new("hunter2")),
            ..EnvironmentVariable::default()
        });
    });
    assert_eq!(secret.unwrap(), same);
    let renamed = kind(|d| d.properties.containers[1].name = "c".into());
    assert_eq!(renamed.unwrap(), same);
    let new = UpdateKind::Restart { new_sandbox: true };
    let volume = kind(|d| {
        d.properties.volumes.push(Volume {
            name: "data".into(),
            ..Volume::default()
        });
    });
    assert_eq!(volume.unwrap(), new);
    let address = kind(|d| d.properties.ip_address = Some(IpAddress::default()));
    assert_eq!(address.unwrap(), new);
    let reference = |uri: &str, volume: bool| {
        let mut document = document();
        document.properties.secret_references = vec![model::SecretReference {
            name: "key".into(),
            secret_reference_uri: uri.into(),
            ..model::SecretReference::default()
        }];
        if volume {
            document.properties.volumes.push(Volume {
                name: "keys".into(),
                secret_reference: Some([("file".to_owned(), "key".to_owned())].into()),
                ..Volume::default()
            });
        }
        document
    };
    let changed = |volume| update_kind(&reference("a", volume), &reference("b", volume)).unwrap();
    assert_eq!(changed(false), same);
    assert_eq!(changed(true), new);
}

#[test]
fn what_cannot_change_is_refused_with_acis_words() {
    type Change = fn(&mut ContainerGroup);
    fn requests(d: &mut ContainerGroup) -> &mut ResourceRequests {
        let resources = d.properties.containers[0].properties.resources.as_mut();
        resources.unwrap().requests.as_mut().unwrap()
    }
    let changes: [(&str, Change); 9] = [
        ("osType", |d| d.properties.os_type = Some(OsType::Windows)),
        ("restartPolicy", |d| {
            d.properties.restart_policy = Some(model::RestartPolicy::Never);
        }),
        ("subnetIds", |d| {
            d.properties.subnet_ids.push(SubnetId::default());
        }),
        ("networkProfile", |d| {
            d.properties.network_profile = Some(NetworkProfile::default());
        }),
        ("'a'", |d| requests(d).cpu = Some(2.0)),
        ("'a'", |d| requests(d).memory_in_gb = Some(1.6)),
        ("'a'", |d| {
            requests(d).gpu = Some(GpuResource {
                count: 1,
                ..GpuResource::default()
            });
        }),
        ("sum", |d| {
            d.properties.containers.pop();
        }),
        ("sum", |d| d.properties.containers.push(container("c"))),
    ];
    for (field, change) in changes {
        let error = kind(change).unwrap_err();
        assert_eq!(error.aci_code(), Some("InvalidContainerGroupUpdate"));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.message(),
            "The updates on container group 'Web' are invalid. If you are going to update the os \
             type, restart policy, network profile, CPU, memory or GPU resources for a container \
             group, you must delete it first and then create a new one."
        );
        assert!(error.next_step().unwrap().contains(field), "{error}");
    }
}

#[test]
fn an_update_restarts_everything_in_place_with_the_new_plan() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a", "b"]));
    let epoch = sim.life.sandbox_epoch();
    sim.command(Command::Update {
        plan: plan(RestartPolicy::Always, &["i"], &["b", "c"]),
        new_sandbox: false,
    });
    assert!(sim.life.container_view("a").is_some(), "until it has ended");
    sim.run();
    assert_eq!(sim.life.sandbox_epoch(), epoch);
    assert!(sim.life.container_view("a").is_none());
    sim.exit("i", 0);
    assert_eq!(sim.life.state(), GroupState::Running);
    assert_eq!((sim.starts("b"), sim.starts("c")), (2, 1));
    let restarts = |name: &str| sim.life.container_view(name).unwrap().restart_count;
    assert_eq!((restarts("b"), restarts("c")), (Some(1), Some(0)));
    assert!(sim.events(Some("a")).is_empty());
}

#[test]
fn an_update_that_needs_another_sandbox_keeps_the_address() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    let epoch = sim.life.sandbox_epoch();
    sim.command(Command::Update {
        plan: plan(RestartPolicy::Always, &[], &["a"]),
        new_sandbox: true,
    });
    sim.run();
    assert!(sim.life.sandbox_epoch() > epoch);
    let destroy = |a: &Action| {
        matches!(
            a,
            Action::DestroySandbox {
                keep_address: true,
                ..
            }
        )
    };
    assert_eq!(sim.count(destroy), 1);
    assert_eq!(sim.count(|a| matches!(a, Action::DestroySandbox { .. })), 1);
}

#[test]
fn a_stop_during_an_update_keeps_the_new_plan_for_the_next_start() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    sim.command(Command::Update {
        plan: plan(RestartPolicy::Always, &[], &["b"]),
        new_sandbox: false,
    });
    sim.command(Command::Stop);
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Stopped);
    sim.command(Command::Start);
    sim.run();
    assert_eq!((sim.starts("a"), sim.starts("b")), (1, 1));
}

/// Found by the property test: the plan of an update that was overtaken by a stop came back in
/// place of the plan of the update after it.
#[test]
fn the_latest_of_two_updates_counts() {
    let mut sim = Sim::started(plan(RestartPolicy::Always, &[], &["a"]));
    let update = |name| Command::Update {
        plan: plan(RestartPolicy::Always, &[], &[name]),
        new_sandbox: false,
    };
    sim.command(update("b"));
    sim.command(Command::Stop);
    while sim.life.state() != GroupState::Stopped {
        let action = sim.pending.remove(0);
        for answer in sim.act(&action) {
            sim.observe(answer);
        }
    }
    assert!(!sim.life.is_settled());
    sim.command(update("c"));
    sim.run();
    let starts = ["a", "b", "c"].map(|name| sim.starts(name));
    assert_eq!(starts, [1, 0, 1]);
}

#[test]
fn a_group_that_has_ended_is_deployed_as_new() {
    let mut sim = Sim::started(plan(RestartPolicy::Never, &[], &["a"]));
    sim.exit("a", 1);
    sim.command(Command::Update {
        plan: plan(RestartPolicy::Always, &[], &["a"]),
        new_sandbox: false,
    });
    sim.run();
    assert_eq!(sim.life.state(), GroupState::Running);
    assert_eq!(sim.life.failure(), None);
    let view = sim.life.container_view("a").unwrap();
    assert_eq!((view.restart_count, view.previous_state), (Some(0), None));
}

#[test]
fn a_plan_says_what_its_document_says() {
    let mut document = document();
    document.properties.restart_policy = Some(model::RestartPolicy::OnFailure);
    document.properties.provisioning_timeout_in_seconds = Some(60);
    document.properties.containers[0].properties.liveness_probe = Some(Probe {
        period_seconds: Some(3),
        ..Probe::default()
    });
    let plan = Plan::from_group(&"web".into(), &document);
    assert_eq!(plan.restart_policy, RestartPolicy::OnFailure);
    assert_eq!(plan.provisioning_timeout.as_secs(), 60);
    let liveness = plan.container("a").unwrap().liveness.unwrap();
    assert_eq!(
        liveness,
        ProbePlan {
            period: std::time::Duration::from_secs(3),
            ..ProbePlan::default()
        }
    );
    assert_eq!(plan.container("b").unwrap().image, "nginx:1");
    assert_eq!(
        RestartPolicy::Always.of_init_containers(),
        RestartPolicy::OnFailure
    );
    assert_eq!(
        RestartPolicy::Never.of_init_containers(),
        RestartPolicy::Never
    );
}
