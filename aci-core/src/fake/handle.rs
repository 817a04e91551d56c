//! The contract's face of a simulated sandbox.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::sandbox::SandboxCore;
use crate::contract::{
    ContainerSpec, Duplex, ExecSpec, LogQuery, LogStream, NetworkEndpoint, Process, Sandbox,
    SandboxStats, SandboxStatus, Signal, VolumeSource,
};
use crate::error::Result;
use crate::id::SandboxId;

/// A simulated sandbox as the engine holds it.
pub(super) struct FakeSandbox(pub(super) Arc<SandboxCore>);

impl fmt::Debug for FakeSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    fn id(&self) -> &SandboxId {
        &self.0.id
    }

    fn network(&self) -> NetworkEndpoint {
        NetworkEndpoint::None
    }

    async fn start(&self, container: ContainerSpec) -> Result<()> {
        let name = container.name.clone();
        let world = &self.0.world;
        world
            .run("sandbox.start", name, async { self.0.start(container) })
            .await
    }

    async fn exec(&self, container: &str, exec: ExecSpec) -> Result<Process> {
        let world = &self.0.world;
        world
            .run("sandbox.exec", container, async {
                self.0.exec(container, &exec)
            })
            .await
    }

    async fn signal(&self, container: &str, signal: Signal, all: bool) -> Result<()> {
        let world = &self.0.world;
        world
            .run("sandbox.signal", container, async {
                self.0.alive("sandbox.signal")?;
                self.0.signal(container, signal, all);
                Ok(())
            })
            .await
    }

    async fn status(&self) -> Result<SandboxStatus> {
        let world = &self.0.world;
        world
            .run("sandbox.status", &self.0.id, async {
                self.0.alive("sandbox.status")?;
                Ok(self.0.status())
            })
            .await
    }

    async fn changed(&self, seen: u64) -> Result<SandboxStatus> {
        let world = &self.0.world;
        world
            .run("sandbox.changed", &self.0.id, async {
                self.0.changed(seen).await;
                self.0.alive("sandbox.changed")?;
                Ok(self.0.status())
            })
            .await
    }

    async fn logs(&self, container: &str, query: LogQuery) -> Result<LogStream> {
        let world = &self.0.world;
        world
            .run("sandbox.logs", container, async {
                self.0.logs(container, query)
            })
            .await
    }

    async fn stats(&self) -> Result<SandboxStats> {
        let world = &self.0.world;
        world
            .run("sandbox.stats", &self.0.id, async { self.0.stats() })
            .await
    }

    async fn dial(&self, address: SocketAddr, timeout: Duration) -> Result<Box<dyn Duplex>> {
        let world = &self.0.world;
        world
            .run("sandbox.dial", address, self.0.dial(address, timeout))
            .await
    }

    async fn replace_files(&self, volume: &str, files: VolumeSource) -> Result<()> {
        let world = &self.0.world;
        world
            .run("sandbox.replace_files", volume, async {
                self.0.replace_files(volume, &files)
            })
            .await
    }

    async fn freeze(&self, frozen: bool) -> Result<()> {
        let world = &self.0.world;
        world
            .run("sandbox.freeze", &self.0.id, async {
                self.0.alive("sandbox.freeze")?;
                self.0.frozen.send_replace(frozen);
                Ok(())
            })
            .await
    }

    async fn destroy(&self) -> Result<()> {
        let world = &self.0.world;
        world
            .run("sandbox.destroy", &self.0.id, async {
                world.forget(&self.0.id, Some(&self.0));
                Ok(())
            })
            .await
    }
}
