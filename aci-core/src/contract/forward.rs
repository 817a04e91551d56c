//! What is shared keeps its contract: an `Arc` of an implementation is one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{
    AttachRequest, Attachment, Clock, ContainerSpec, Duplex, ExecSpec, GroupRecord, GroupStore,
    Image, ImageStore, Isolation, IsolationCapability, LogQuery, LogStream, NetworkCapability,
    NetworkDriver, NetworkEndpoint, Process, ProvidedVolume, PullProgress, PullRequest,
    ResourceStore, ResourceWrite, RootFs, RootFsKey, Sandbox, SandboxSpec, SandboxStats,
    SandboxStatus, SecretRequest, SecretResolver, Signal, VolumeDriver, VolumeRequest,
    VolumeSource,
};
use crate::error::Result;
use crate::id::{GroupRef, SandboxId};
use crate::model::{Secret, Volume};
use crate::time::Timestamp;

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Clock + ?Sized> Clock for Arc<T> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    async fn sleep_until(&self, time: Timestamp) {
        (**self).sleep_until(time).await;
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Isolation + ?Sized> Isolation for Arc<T> {
    fn capability(&self) -> IsolationCapability {
        (**self).capability()
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        (**self).create(spec).await
    }

    async fn adopt(&self, id: &SandboxId) -> Result<Arc<dyn Sandbox>> {
        (**self).adopt(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>> {
        (**self).list().await
    }

    async fn remove(&self, id: &SandboxId) -> Result<()> {
        (**self).remove(id).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Sandbox + ?Sized> Sandbox for Arc<T> {
    fn id(&self) -> &SandboxId {
        (**self).id()
    }

    fn network(&self) -> NetworkEndpoint {
        (**self).network()
    }

    async fn start(&self, container: ContainerSpec) -> Result<()> {
        (**self).start(container).await
    }

    async fn exec(&self, container: &str, exec: ExecSpec) -> Result<Process> {
        (**self).exec(container, exec).await
    }

    async fn signal(&self, container: &str, signal: Signal, all: bool) -> Result<()> {
        (**self).signal(container, signal, all).await
    }

    async fn status(&self) -> Result<SandboxStatus> {
        (**self).status().await
    }

    async fn changed(&self, seen: u64) -> Result<SandboxStatus> {
        (**self).changed(seen).await
    }

    async fn logs(&self, container: &str, query: LogQuery) -> Result<LogStream> {
        (**self).logs(container, query).await
    }

    async fn stats(&self) -> Result<SandboxStats> {
        (**self).stats().await
    }

    async fn dial(&self, address: SocketAddr, timeout: Duration) -> Result<Box<dyn Duplex>> {
        (**self).dial(address, timeout).await
    }

    async fn replace_files(&self, volume: &str, files: VolumeSource) -> Result<()> {
        (**self).replace_files(volume, files).await
    }

    async fn freeze(&self, frozen: bool) -> Result<()> {
        (**self).freeze(frozen).await
    }

    async fn destroy(&self) -> Result<()> {
        (**self).destroy().await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: NetworkDriver + ?Sized> NetworkDriver for Arc<T> {
    fn capability(&self) -> NetworkCapability {
        (**self).capability()
    }

    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        (**self).attach(request).await
    }

    async fn set_ready(&self, sandbox: &SandboxId, ready: bool) -> Result<()> {
        (**self).set_ready(sandbox, ready).await
    }

    async fn detach(&self, sandbox: &SandboxId) -> Result<()> {
        (**self).detach(sandbox).await
    }

    async fn list(&self) -> Result<Vec<Attachment>> {
        (**self).list().await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ImageStore + ?Sized> ImageStore for Arc<T> {
    async fn pull(&self, request: PullRequest, progress: Option<PullProgress>) -> Result<Image> {
        (**self).pull(request, progress).await
    }

    async fn get(&self, reference: &str) -> Result<Image> {
        (**self).get(reference).await
    }

    async fn list(&self) -> Result<Vec<Image>> {
        (**self).list().await
    }

    async fn remove(&self, reference: &str) -> Result<()> {
        (**self).remove(reference).await
    }

    async fn prepare(&self, digest: &str, key: &RootFsKey) -> Result<RootFs> {
        (**self).prepare(digest, key).await
    }

    async fn release(&self, key: &RootFsKey) -> Result<()> {
        (**self).release(key).await
    }

    async fn prepared(&self) -> Result<Vec<RootFsKey>> {
        (**self).prepared().await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: VolumeDriver + ?Sized> VolumeDriver for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn supports(&self, volume: &Volume) -> bool {
        (**self).supports(volume)
    }

    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        (**self).provide(request).await
    }

    async fn release(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        (**self).release(sandbox, name).await
    }

    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        (**self).list().await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: SecretResolver + ?Sized> SecretResolver for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    async fn resolve(&self, request: SecretRequest) -> Result<Secret> {
        (**self).resolve(request).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: GroupStore + ?Sized> GroupStore for Arc<T> {
    async fn put(&self, record: &GroupRecord) -> Result<()> {
        (**self).put(record).await
    }

    async fn get(&self, group: &GroupRef) -> Result<Option<GroupRecord>> {
        (**self).get(group).await
    }

    async fn list(&self) -> Result<Vec<GroupRecord>> {
        (**self).list().await
    }

    async fn remove(&self, group: &GroupRef) -> Result<()> {
        (**self).remove(group).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ResourceStore + ?Sized> ResourceStore for Arc<T> {
    async fn apply(&self, writes: &[ResourceWrite]) -> Result<()> {
        (**self).apply(writes).await
    }

    async fn load(&self) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>> {
        (**self).load().await
    }
}
