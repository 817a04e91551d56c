//! What the tests of the engine share: parts behind a fence, and documents.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::contract::{
    AttachRequest, Attachment, Clock, ContainerSpec, Duplex, ExecSpec, GroupRecord, GroupStore,
    Image, ImageStore, Isolation, IsolationCapability, LogQuery, LogStream, NetworkCapability,
    NetworkDriver, NetworkEndpoint, Process, ProvidedVolume, PullProgress, PullRequest, RootFs,
    RootFsKey, Sandbox, SandboxSpec, SandboxStats, SandboxStatus, Signal, VolumeDriver,
    VolumeRequest, VolumeSource,
};
use aci_core::error::Result;
use aci_core::fake::FakeHost;
use aci_core::id::{GroupRef, SandboxId};
use aci_core::model::{ContainerGroup, Volume};
use aci_core::size::{Capacity, Cpu, Memory};
use aci_runtime::{Engine, EngineBuilder, EngineOptions};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

/// Stands between an engine and the world. When the host program dies, nothing passes any more:
/// calls that are under way are dropped where they stand, later ones do nothing and never return.
#[derive(Clone, Debug, Default)]
pub struct Fence {
    dead: CancellationToken,
    /// How many more calls pass before the program dies, and whether it dies after the last one had
    /// its effect.
    fuse: Arc<Mutex<Option<(u32, bool)>>>,
    /// Every attempt that was started, by any engine.
    started: Arc<Mutex<BTreeSet<(SandboxId, String, u32)>>>,
}

impl Fence {
    /// The fence of the next engine in the same world.
    pub fn next(&self) -> Self {
        Self {
            started: Arc::clone(&self.started),
            ..Self::default()
        }
    }

    pub fn die(&self) {
        self.dead.cancel();
    }

    pub fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Lets the program die at a call; `after` it had its effect, or before.
    pub fn die_at(&self, call: u32, after: bool) {
        *self.fuse.lock().unwrap() = Some((call, after));
    }

    async fn pass<T>(&self, call: impl Future<Output = T>) -> T {
        let last = match &mut *self.fuse.lock().unwrap() {
            Some((0, after)) => Some(*after),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if last == Some(false) {
            self.die();
        }
        let done = tokio::select! {
            biased;
            () = self.dead.cancelled() => std::future::pending().await,
            done = call => done,
        };
        if last == Some(true) {
            self.die();
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        done
    }
}

/// A part behind a fence.
#[derive(Debug)]
pub struct Fenced<T> {
    fence: Fence,
    inner: T,
}

#[async_trait]
impl<T: Isolation> Isolation for Fenced<T> {
    fn capability(&self) -> IsolationCapability {
        self.inner.capability()
    }
    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        let inner = self.fence.pass(self.inner.create(spec)).await?;
        Ok(Arc::new(Fenced {
            fence: self.fence.clone(),
            inner,
        }))
    }
    async fn adopt(&self, id: &SandboxId) -> Result<Arc<dyn Sandbox>> {
        let inner = self.fence.pass(self.inner.adopt(id)).await?;
        Ok(Arc::new(Fenced {
            fence: self.fence.clone(),
            inner,
        }))
    }
    async fn list(&self) -> Result<Vec<SandboxId>> {
        self.fence.pass(self.inner.list()).await
    }
    async fn remove(&self, id: &SandboxId) -> Result<()> {
        self.fence.pass(self.inner.remove(id)).await
    }
}

#[async_trait]
impl Sandbox for Fenced<Arc<dyn Sandbox>> {
    fn id(&self) -> &SandboxId {
        self.inner.id()
    }
    fn network(&self) -> NetworkEndpoint {
        self.inner.network()
    }
    async fn start(&self, container: ContainerSpec) -> Result<()> {
        let key = (self.id().clone(), container.name.clone(), container.attempt);
        let known = self.fence.started.lock().unwrap().contains(&key);
        let dead = self.fence.is_dead();
        assert!(dead || !known, "{key:?} is started twice");
        let started = async {
            let started = self.inner.start(container).await;
            if started.is_ok() {
                self.fence.started.lock().unwrap().insert(key);
            }
            started
        };
        self.fence.pass(started).await
    }
    async fn exec(&self, container: &str, exec: ExecSpec) -> Result<Process> {
        self.fence.pass(self.inner.exec(container, exec)).await
    }
    async fn signal(&self, container: &str, signal: Signal, all: bool) -> Result<()> {
        let sent = self.inner.signal(container, signal, all);
        self.fence.pass(sent).await
    }
    async fn status(&self) -> Result<SandboxStatus> {
        self.fence.pass(self.inner.status()).await
    }
    async fn changed(&self, seen: u64) -> Result<SandboxStatus> {
        self.fence.pass(self.inner.changed(seen)).await
    }
    async fn logs(&self, container: &str, query: LogQuery) -> Result<LogStream> {
        self.fence.pass(self.inner.logs(container, query)).await
    }
    async fn replace_files(&self, volume: &str, files: VolumeSource) -> Result<()> {
        let replaced = self.inner.replace_files(volume, files);
        self.fence.pass(replaced).await
    }
    async fn stats(&self) -> Result<SandboxStats> {
        self.fence.pass(self.inner.stats()).await
    }
    async fn dial(&self, address: SocketAddr, timeout: Duration) -> Result<Box<dyn Duplex>> {
        self.fence.pass(self.inner.dial(address, timeout)).await
    }
    async fn freeze(&self, frozen: bool) -> Result<()> {
        self.fence.pass(self.inner.freeze(frozen)).await
    }
    async fn destroy(&self) -> Result<()> {
        self.fence.pass(self.inner.destroy()).await
    }
}

#[async_trait]
impl<T: NetworkDriver> NetworkDriver for Fenced<T> {
    fn capability(&self) -> NetworkCapability {
        self.inner.capability()
    }
    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        self.fence.pass(self.inner.attach(request)).await
    }
    async fn set_ready(&self, sandbox: &SandboxId, ready: bool) -> Result<()> {
        self.fence.pass(self.inner.set_ready(sandbox, ready)).await
    }
    async fn detach(&self, sandbox: &SandboxId) -> Result<()> {
        self.fence.pass(self.inner.detach(sandbox)).await
    }
    async fn list(&self) -> Result<Vec<Attachment>> {
        self.fence.pass(self.inner.list()).await
    }
}

#[async_trait]
impl<T: ImageStore> ImageStore for Fenced<T> {
    async fn pull(&self, request: PullRequest, progress: Option<PullProgress>) -> Result<Image> {
        self.fence.pass(self.inner.pull(request, progress)).await
    }
    async fn get(&self, reference: &str) -> Result<Image> {
        self.fence.pass(self.inner.get(reference)).await
    }
    async fn list(&self) -> Result<Vec<Image>> {
        self.fence.pass(self.inner.list()).await
    }
    async fn remove(&self, reference: &str) -> Result<()> {
        self.fence.pass(self.inner.remove(reference)).await
    }
    async fn prepare(&self, digest: &str, key: &RootFsKey) -> Result<RootFs> {
        self.fence.pass(self.inner.prepare(digest, key)).await
    }
    async fn release(&self, key: &RootFsKey) -> Result<()> {
        self.fence.pass(self.inner.release(key)).await
    }
    async fn prepared(&self) -> Result<Vec<RootFsKey>> {
        self.fence.pass(self.inner.prepared()).await
    }
}

#[async_trait]
impl<T: VolumeDriver> VolumeDriver for Fenced<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn supports(&self, volume: &Volume) -> bool {
        self.inner.supports(volume)
    }
    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        self.fence.pass(self.inner.provide(request)).await
    }
    async fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        self.fence.pass(self.inner.release(sandbox, name)).await
    }
    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        self.fence.pass(self.inner.list()).await
    }
}

#[async_trait]
impl<T: GroupStore> GroupStore for Fenced<T> {
    async fn put(&self, record: &GroupRecord) -> Result<()> {
        self.fence.pass(self.inner.put(record)).await
    }
    async fn get(&self, group: &GroupRef) -> Result<Option<GroupRecord>> {
        self.fence.pass(self.inner.get(group)).await
    }
    async fn list(&self) -> Result<Vec<GroupRecord>> {
        self.fence.pass(self.inner.list()).await
    }
    async fn remove(&self, group: &GroupRef) -> Result<()> {
        self.fence.pass(self.inner.remove(group)).await
    }
}

/// An engine on a simulated host with room for 8 cores and 16 GB, behind a fence.
pub fn fenced(host: &FakeHost, fence: &Fence, options: EngineOptions) -> EngineBuilder {
    fenced_on(host, host.store.clone(), fence, options)
}

/// The same with another journal.
pub fn fenced_on(
    host: &FakeHost,
    store: impl GroupStore + 'static,
    fence: &Fence,
    options: EngineOptions,
) -> EngineBuilder {
    let fence = || fence.clone();
    Engine::builder()
        .isolation(Fenced {
            fence: fence(),
            inner: host.isolation.clone(),
        })
        .images(Fenced {
            fence: fence(),
            inner: host.images.clone(),
        })
        .network(Fenced {
            fence: fence(),
            inner: host.network.clone(),
        })
        .volumes(Fenced {
            fence: fence(),
            inner: host.volumes.clone(),
        })
        .store(Fenced {
            fence: fence(),
            inner: store,
        })
        .clock(Arc::clone(&host.clock) as Arc<dyn Clock>)
        .options(EngineOptions {
            capacity: Some(Capacity {
                cpu: Cpu::from_whole_cores(8),
                memory: Memory::from_whole_gb(16),
                gpus: Vec::new(),
            }),
            ..options
        })
}

/// Each container takes one core and 1 GB.
pub fn group(name: &str, policy: &str, containers: &[(&str, &str)], extra: &str) -> ContainerGroup {
    let mut text = format!(
        "apiVersion: 2023-05-01\nlocation: here\nname: {name}\nproperties:\n  osType: Linux\n  restartPolicy: {policy}\n{extra}  containers:\n"
    );
    for (container, command) in containers {
        text.push_str(&format!(
            "  - name: {container}\n    properties:\n      image: sh\n      command: {command}\n      resources:\n        requests: {{cpu: 1, memoryInGB: 1}}\n"
        ));
    }
    ContainerGroup::from_yaml(&text).unwrap()
}
