//! Groups and containers in the text form of Prometheus (OpenMetrics 1.0).

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::super::error::{ArmError, ArmResult};
use super::gauge::Everything;
use crate::Group;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGroup {
    subscription: String,
    resource_group: String,
    group: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    subscription: String,
    resource_group: String,
    group: String,
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfContainer {
    subscription: String,
    resource_group: String,
    group: String,
    container: String,
}

type Seconds = Counter<f64, AtomicU64>;

fn failed(error: fmt::Error) -> ArmError {
    tracing::error!(%error, "metrics cannot be written");
    ArmError::internal()
}

/// All groups, as they were measured last.
///
/// # Errors
/// 500 if the writer fails, which a text in memory does not.
pub(super) fn encode(groups: &[Group], measured: &Everything) -> ArmResult<String> {
    let mut registry = Registry::with_prefix("aci");
    let states = Family::<OfState, Gauge>::default();
    let received = Family::<OfGroup, Counter>::default();
    let transmitted = Family::<OfGroup, Counter>::default();
    let cpu = Family::<OfContainer, Seconds>::default();
    let memory = Family::<OfContainer, Gauge>::default();
    let processes = Family::<OfContainer, Gauge>::default();
    let restarts = Family::<OfContainer, Counter>::default();
    registry.register(
        "group_state",
        "1 for the state that a group is in",
        states.clone(),
    );
    registry.register_with_unit(
        "group_network_received",
        "Bytes that a group has received in this deployment",
        Unit::Bytes,
        received.clone(),
    );
    registry.register_with_unit(
        "group_network_transmitted",
        "Bytes that a group has transmitted in this deployment",
        Unit::Bytes,
        transmitted.clone(),
    );
    registry.register_with_unit(
        "container_cpu",
        "CPU time that a container has used in this deployment",
        Unit::Seconds,
        cpu.clone(),
    );
    registry.register_with_unit(
        "container_memory_working_set",
        "Memory of a container without reclaimable cache",
        Unit::Bytes,
        memory.clone(),
    );
    registry.register(
        "container_processes",
        "Processes and threads of a container",
        processes.clone(),
    );
    registry.register(
        "container_restarts",
        "How often a container was started again",
        restarts.clone(),
    );
    for group in groups {
        let name = group.name();
        let of_group = OfGroup {
            subscription: name.subscription().to_owned(),
            resource_group: name.resource_group().to_owned(),
            group: name.name().to_owned(),
        };
        let of_container = |container: &str| OfContainer {
            subscription: of_group.subscription.clone(),
            resource_group: of_group.resource_group.clone(),
            group: of_group.group.clone(),
            container: container.to_owned(),
        };
        let state = OfState {
            subscription: of_group.subscription.clone(),
            resource_group: of_group.resource_group.clone(),
            group: of_group.group.clone(),
            state: group.state().as_str().to_owned(),
        };
        states.get_or_create(&state).set(1);
        for container in &group.view().properties.containers {
            let view = container.properties.instance_view.as_ref();
            let count = view.and_then(|v| v.restart_count).unwrap_or_default();
            let count = u64::from(count);
            restarts
                .get_or_create(&of_container(&container.name))
                .inc_by(count);
        }
        let Some(stats) = measured.get(name).and_then(|m| m.counted()) else {
            continue;
        };
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for container in &stats.containers {
            let labels = of_container(&container.name);
            cpu.get_or_create(&labels)
                .inc_by(container.cpu.as_secs_f64());
            memory
                .get_or_create(&labels)
                .set(signed(container.memory_bytes));
            processes.get_or_create(&labels).set(signed(container.pids));
        }
        if let Some(network) = &stats.network {
            received.get_or_create(&of_group).inc_by(network.rx_bytes);
            transmitted
                .get_or_create(&of_group)
                .inc_by(network.tx_bytes);
        }
    }
    let mut out = String::new();
    text::encode(&mut out, &registry).map_err(failed)?;
    Ok(out)
}
