//! The documented metrics are the ones that are told, with the documented types and labels.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::contract::{
    AttachRequest, ImageStore, Isolation, NetworkDriver, NetworkEndpoint, RootFsKey, SandboxSpec,
    VolumeDriver, VolumeRequest,
};
use aci_core::error::ErrorKind;
use aci_core::fake::{FakeHost, Fault, PullFailure, Trigger};
use aci_core::id::SandboxId;
use aci_core::model::ContainerGroup;
use aci_core::size::{Limits, WhenFull};
use aci_runtime::EngineOptions;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use support::{Fence, fenced, group};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
struct Seen {
    kind: &'static str,
    labels: BTreeSet<(String, String)>,
    gauges: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<BTreeMap<String, Seen>>>);

#[derive(Debug)]
struct One {
    told: Told,
    key: Key,
}

impl Told {
    fn one(&self, kind: &'static str, key: &Key) -> Arc<One> {
        let mut told = self.0.lock().unwrap();
        let seen = told.entry(key.name().to_owned()).or_default();
        seen.kind = kind;
        for label in key.labels() {
            let label = (label.key().to_owned(), label.value().to_owned());
            seen.labels.insert(label);
        }
        drop(told);
        Arc::new(One {
            told: self.clone(),
            key: key.clone(),
        })
    }
}

impl One {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut told = self.told.0.lock().unwrap();
        let seen = told.get_mut(self.key.name()).unwrap();
        let value = seen.gauges.entry(self.key.to_string()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for One {
    fn increment(&self, _: u64) {}
    fn absolute(&self, _: u64) {}
}

impl GaugeFn for One {
    fn increment(&self, by: f64) {
        self.change(|v| v + by);
    }
    fn decrement(&self, by: f64) {
        self.change(|v| v - by);
    }
    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

impl HistogramFn for One {
    fn record(&self, value: f64) {
        assert!(value >= 0.0);
    }
}

impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.one("counter", key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.one("gauge", key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.one("histogram", key))
    }
}

/// Name, type and what is said of the labels, from the table in the documentation.
fn documented() -> BTreeMap<String, (String, String)> {
    include_str!("../src/observability.md")
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let name = cells.get(1)?.strip_prefix("`aci_")?.strip_suffix('`')?;
            // Told by the server and by Log Analytics, which are no part of the engine.
            if name.starts_with("server_") || name.starts_with("log_analytics_") {
                return None;
            }
            let kind = cells[2].to_owned();
            Some((format!("aci_{name}"), (kind, cells[4].to_owned())))
        })
        .collect()
}

fn probed(mut document: ContainerGroup) -> ContainerGroup {
    let probes = "name: x\nproperties:\n  osType: Linux\n  containers:\n  - name: x\n    properties: {image: x, livenessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 5}, readinessProbe: {exec: {command: ['false']}, periodSeconds: 5}}\n";
    let probes = ContainerGroup::from_yaml(probes).unwrap();
    let from = &probes.properties.containers[0].properties;
    let to = &mut document.properties.containers[0].properties;
    to.liveness_probe.clone_from(&from.liveness_probe);
    to.readiness_probe.clone_from(&from.readiness_probe);
    document
}

/// Something of every kind that belongs to no group.
async fn orphans(host: &FakeHost) {
    let sandbox = SandboxId::generate("orphan");
    let spec = SandboxSpec {
        id: sandbox.clone(),
        hostname: "orphan".to_owned(),
        limits: Limits::default(),
        volumes: Vec::new(),
    };
    host.isolation.create(spec).await.unwrap();
    let request = AttachRequest {
        sandbox: sandbox.clone(),
        endpoint: NetworkEndpoint::None,
        group: "orphan".into(),
        location: String::new(),
        hostname: "orphan".to_owned(),
        ip_address: None,
        subnets: Vec::new(),
        dns: None,
    };
    host.network.attach(request).await.unwrap();
    let document = group(
        "x",
        "Always",
        &[("a", "[x]")],
        "  volumes:\n  - {name: cache, emptyDir: {}}\n",
    );
    let volume = document.properties.volumes[0].clone();
    let request = VolumeRequest::new(sandbox.clone(), volume);
    host.volumes.provide(request).await.unwrap();
    let pull = aci_core::contract::PullRequest {
        reference: "sh".to_owned(),
        login: None,
        policy: aci_core::contract::PullPolicy::Always,
    };
    let image = host.images.pull(pull, None).await.unwrap();
    let key = RootFsKey {
        sandbox,
        container: "a".to_owned(),
    };
    host.images.prepare(&image.digest, &key).await.unwrap();
}

/// A life in which everything happens that is counted.
async fn live() {
    let (host, clock) = FakeHost::manual();
    orphans(&host).await;
    let fault = |operation: &str| {
        let error = Fault::Error(ErrorKind::Internal);
        host.faults.on(operation, Trigger::Nth(1), error);
    };
    fault("volume.release");
    let options = EngineOptions {
        when_full: WhenFull::Queue { longest: 1 },
        ..Default::default()
    };
    let building = fenced(&host, &Fence::default(), options).build();
    let engine = clock.drive(HOUR, building).await.unwrap().unwrap();
    let put = |document: ContainerGroup| clock.drive(HOUR, engine.create_or_update(document));
    let wait = |seconds| clock.run_for(Duration::from_secs(seconds));
    wait(120).await;

    let names: Vec<String> = (0..8).map(|i| format!("c{i}")).collect();
    let all: Vec<_> = names
        .iter()
        .map(|n| (n.as_str(), "[serve, '80']"))
        .collect();
    let mut big = probed(group("big", "Always", &all, ""));
    big.properties.containers[1].properties.command = vec!["fail-after".into(), "3".into()];
    let big = put(big).await.unwrap().unwrap();
    wait(60).await;
    let sleep = [("app", "[sleep, '20']")];
    put(group("waits", "Never", &sleep, ""))
        .await
        .unwrap()
        .unwrap();
    assert!(
        put(group("refused", "Never", &sleep, ""))
            .await
            .unwrap()
            .is_err()
    );
    fault("network.set_ready");
    fault("sandbox.signal");
    host.isolation.kill_agent(&big.sandbox_id());
    wait(60).await;
    fault("store.put");
    fault("isolation.remove");
    fault("store.remove");
    clock.drive(HOUR, big.delete()).await.unwrap().ok();
    clock.drive(HOUR, big.delete()).await.unwrap().unwrap();
    wait(60).await;

    fault("isolation.create");
    put(group("unmade", "Always", &sleep, ""))
        .await
        .unwrap()
        .unwrap();
    wait(60).await;
    host.images.fail_pulls("sh", Some(PullFailure::Denied));
    put(group("unpulled", "Always", &sleep, ""))
        .await
        .unwrap()
        .unwrap();
    wait(60).await;
    host.images.fail_pulls("sh", None);
    fault("sandbox.start");
    let stops = put(group("stops", "Always", &[("app", "[wait-term]")], ""))
        .await
        .unwrap()
        .unwrap();
    wait(60).await;
    fault("sandbox.signal");
    clock.drive(HOUR, stops.stop()).await.unwrap().unwrap();
    let ending = engine.shutdown(aci_runtime::Shutdown::StopGroups);
    clock.drive(HOUR, ending).await.unwrap().unwrap();
}

#[test]
fn the_documented_metrics_are_the_ones_that_are_told() {
    let told = Told::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    metrics::with_local_recorder(&told, || runtime.block_on(live()));
    let documented = documented();
    let told = told.0.lock().unwrap();
    let names: Vec<_> = documented.keys().collect();
    assert_eq!(told.keys().collect::<Vec<_>>(), names);
    for (name, seen) in &*told {
        let (kind, labels) = &documented[name];
        assert_eq!(seen.kind, kind, "{name}");
        for (label, value) in &seen.labels {
            let known = labels.contains(&format!("`{label}`"))
                && (labels.contains(&format!("`{value}`")) || labels.contains("as above"));
            assert!(known, "{name} has {label}={value}, not told in: {labels}");
        }
        if !labels.contains("as above") {
            // And every documented value was seen, so that the table holds no wishes.
            for quoted in labels.split('`').skip(1).step_by(2) {
                let is = |(label, value): &(String, String)| label == quoted || value == quoted;
                assert!(
                    seen.labels.iter().any(is),
                    "{name}: '{quoted}' was not seen"
                );
            }
        }
        // When the engine has ended, no group is in any state.
        for (key, value) in &seen.gauges {
            assert!(value.abs() < f64::EPSILON, "{key} is {value} at the end");
        }
    }
}
