//! The fakes keep the contracts, by themselves and behind an `Arc`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::conformance;
use aci_core::conformance::image::ImageHarness;
use aci_core::conformance::isolation::{Behaviour, IsolationHarness};
use aci_core::conformance::network::NetworkHarness;
use aci_core::conformance::secret::SecretHarness;
use aci_core::conformance::volume::VolumeHarness;
use aci_core::contract::{
    Clock, ImageConfig, ImageStore, Isolation, Layer, NetworkDriver, NetworkEndpoint, RootFs,
    RootFsKey, SecretResolver, SystemClock, VolumeDriver, VolumeSource,
};
use aci_core::fake::{
    FakeImages, FakeIsolation, FakeNetwork, FakeSecrets, FakeVolumes, Fault, Faults, ManualClock,
    MemoryStore, Program, TokioClock, Trigger,
};
use aci_core::id::SandboxId;
use aci_core::model::{SecretReference, Volume};
use async_trait::async_trait;

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

struct Sandboxes(FakeIsolation, Arc<dyn Isolation>);

#[async_trait]
impl IsolationHarness for Sandboxes {
    fn isolation(&self) -> Arc<dyn Isolation> {
        Arc::clone(&self.1)
    }

    fn argv(&self, behaviour: &Behaviour<'_>) -> Option<Vec<String>> {
        behaviour.scripted()
    }

    async fn rootfs(&self, _: &RootFsKey) -> RootFs {
        RootFs {
            layers: vec![Layer::Directory(PathBuf::from("/fake"))],
            upper: Some((PathBuf::from("/fake/upper"), PathBuf::from("/fake/work"))),
        }
    }

    async fn reopen(&self) -> Option<Arc<dyn Isolation>> {
        Some(Arc::new(self.0.clone()))
    }

    async fn kill_supervisor(&self, id: &SandboxId) -> bool {
        self.0.kill_agent(id);
        true
    }
}

#[tokio::test]
async fn isolation() {
    let fake = FakeIsolation::new(clock());
    let harness = Sandboxes(fake.clone(), Arc::new(fake.clone()));
    conformance::isolation::all(&harness).await;
    assert!(fake.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_behind_an_arc_and_slow() {
    let faults = Faults::none();
    let delay = Fault::Delay(Duration::from_millis(2));
    faults.on("*", Trigger::Always, delay);
    let fake = FakeIsolation::with_faults(clock(), faults);
    let harness = Sandboxes(fake.clone(), Arc::new(Arc::new(fake.clone())));
    conformance::isolation::all(&harness).await;
    assert!(fake.is_empty());
}

struct Networks<D>(D, FakeNetwork);

#[async_trait]
impl<D: NetworkDriver> NetworkHarness for Networks<D> {
    fn driver(&self) -> &dyn NetworkDriver {
        &self.0
    }

    async fn endpoint(&self, _: &SandboxId) -> NetworkEndpoint {
        NetworkEndpoint::None
    }

    async fn close(&self, sandbox: &SandboxId, _: NetworkEndpoint) {
        assert_eq!(self.1.is_ready(sandbox), None, "closed while attached");
    }

    async fn reopen(&self) -> Option<Box<dyn NetworkDriver>> {
        Some(Box::new(self.1.clone()))
    }
}

#[tokio::test]
async fn network() {
    let pool = "10.9.8.0/28".parse().unwrap();
    let fake = FakeNetwork::new(clock()).with_pool(pool);
    conformance::network::all(&Networks(fake.clone(), fake.clone())).await;
    conformance::network::all(&Networks(Arc::new(fake.clone()), fake.clone())).await;
    assert!(fake.is_empty());
}

struct Volumes<D> {
    driver: D,
    again: FakeVolumes,
    written: Mutex<BTreeSet<(PathBuf, String)>>,
}

#[async_trait]
impl<D: VolumeDriver> VolumeHarness for Volumes<D> {
    fn driver(&self) -> &dyn VolumeDriver {
        &self.driver
    }

    fn volume(&self, name: &str) -> Volume {
        conformance::volume::empty_dir(name)
    }

    async fn reopen(&self) -> Option<Box<dyn VolumeDriver>> {
        Some(Box::new(self.again.clone()))
    }

    async fn write(&self, source: &VolumeSource, name: &str, _: &[u8]) -> bool {
        match source {
            VolumeSource::Directory(path) => {
                let file = (path.clone(), name.to_owned());
                self.written.lock().unwrap().insert(file)
            }
            _ => false,
        }
    }

    async fn read(&self, source: &VolumeSource, name: &str) -> Option<Vec<u8>> {
        match source {
            VolumeSource::Directory(path) => {
                let file = (path.clone(), name.to_owned());
                let written = self.written.lock().unwrap().contains(&file);
                written.then(|| b"kept".to_vec())
            }
            _ => None,
        }
    }
}

#[tokio::test]
async fn volumes() {
    let fake = FakeVolumes::new(clock());
    let harness = Volumes {
        driver: fake.clone(),
        again: fake.clone(),
        written: Mutex::default(),
    };
    conformance::volume::all(&harness).await;
    let harness = Volumes {
        driver: Arc::new(fake.clone()),
        again: fake.clone(),
        written: Mutex::default(),
    };
    conformance::volume::all(&harness).await;
    assert!(fake.is_empty());
}

struct Vault<D>(D, FakeSecrets);

fn reference(name: &str, identity: &str) -> SecretReference {
    SecretReference {
        name: name.to_owned(),
        identity: identity.to_owned(),
        secret_reference_uri: format!("https://vault.invalid/secrets/{name}"),
        ..SecretReference::default()
    }
}

#[async_trait]
impl<D: SecretResolver> SecretHarness for Vault<D> {
    fn resolver(&self) -> &dyn SecretResolver {
        &self.0
    }

    async fn put(&self, name: &str, value: &str) -> SecretReference {
        let reference = reference(name, "READER");
        let uri = &reference.secret_reference_uri;
        self.1.put(uri, value);
        self.1.allow_only(uri, "reader");
        reference
    }

    async fn remove(&self, name: &str) {
        self.1.remove(&reference(name, "").secret_reference_uri);
    }

    async fn forbidden(&self, name: &str) -> Option<SecretReference> {
        Some(reference(name, "somebody"))
    }
}

#[tokio::test]
async fn secrets() {
    let fake = FakeSecrets::new(clock());
    conformance::secret::all(&Vault(fake.clone(), fake.clone())).await;
    conformance::secret::all(&Vault(Arc::new(fake.clone()), fake)).await;
}

struct Images<D>(D, FakeImages);

#[async_trait]
impl<D: ImageStore> ImageHarness for Images<D> {
    fn store(&self) -> &dyn ImageStore {
        &self.0
    }

    async fn offer(&self, number: u32) -> String {
        let reference = format!("registry.invalid/tiny:{number}");
        let config = ImageConfig {
            cmd: vec!["conformance".to_owned()],
            ..ImageConfig::default()
        };
        self.1.add_image(&reference, config);
        reference
    }

    async fn reopen(&self) -> Option<Box<dyn ImageStore>> {
        Some(Box::new(self.1.clone()))
    }

    async fn write(&self, _: &RootFs, _: &str) -> bool {
        false
    }

    async fn has(&self, _: &RootFs, _: &str) -> bool {
        false
    }
}

#[tokio::test]
async fn images() {
    let fake = FakeImages::new(clock()).with_pull_time(Duration::from_millis(4));
    conformance::image::all(&Images(fake.clone(), fake.clone())).await;
    conformance::image::all(&Images(Arc::new(fake.clone()), fake.clone())).await;
    assert!(fake.is_empty());
}

#[tokio::test]
async fn store() {
    let fake = MemoryStore::new(clock());
    conformance::store::all(&fake).await;
    conformance::store::all(&Arc::new(fake.clone())).await;
    conformance::resource::all(&fake).await;
    conformance::resource::all(&Arc::new(fake.clone())).await;
    assert!(fake.is_empty());
}

#[tokio::test]
async fn clocks() {
    let system = SystemClock::default();
    conformance::clock::all(&system, |_| std::future::pending()).await;
    conformance::clock::all(&Arc::new(system), |_| std::future::pending()).await;
    conformance::clock::all(&TokioClock::new(), |_| std::future::pending()).await;
    let manual = ManualClock::new();
    conformance::clock::all(&manual, |by| {
        let manual = manual.clone();
        async move { manual.run_for(by).await }
    })
    .await;
}

#[test]
fn programs_are_closures() {
    fn program(_: impl Program) {}
    program(|_: aci_core::fake::FakeProcess| async { 0 });
}
