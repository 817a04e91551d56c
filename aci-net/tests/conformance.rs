//! Both drivers keep the contract.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock};

use aci_core::conformance::network::{NetworkHarness, all};
use aci_core::contract::{
    AttachRequest, Attachment, NamespaceHandle, NetworkCapability, NetworkDriver, NetworkEndpoint,
};
use aci_core::error::Result;
use aci_core::id::SandboxId;
use aci_net::{BridgeNetwork, BridgeOptions, LoopbackNetwork};
use async_trait::async_trait;
use nix::sched::{CloneFlags, unshare};

fn namespace() -> OwnedFd {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    })
    .join()
    .unwrap()
}

fn endpoint() -> NetworkEndpoint {
    NetworkEndpoint::Namespace(NamespaceHandle {
        pid: std::process::id(),
        net: Arc::new(namespace()),
    })
}

/// The network of the program that lives at the moment: one program at a time has the state
/// directory, so a second one begins where the first ended.
#[derive(Clone, Debug)]
struct Living(Arc<RwLock<Option<BridgeNetwork>>>);

impl Living {
    fn network(&self) -> BridgeNetwork {
        self.0.read().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl NetworkDriver for Living {
    fn capability(&self) -> NetworkCapability {
        self.network().capability()
    }
    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        self.network().attach(request).await
    }
    async fn set_ready(&self, sandbox: &SandboxId, ready: bool) -> Result<()> {
        self.network().set_ready(sandbox, ready).await
    }
    async fn detach(&self, sandbox: &SandboxId) -> Result<()> {
        self.network().detach(sandbox).await
    }
    async fn list(&self) -> Result<Vec<Attachment>> {
        self.network().list().await
    }
}

struct Bridge {
    host: OwnedFd,
    directory: tempfile::TempDir,
    living: Living,
}

impl Bridge {
    async fn open(&self) -> BridgeNetwork {
        let host = self.host.try_clone().unwrap();
        let options = BridgeOptions::new(self.directory.path()).host_namespace(host);
        BridgeNetwork::open(options).await.unwrap()
    }
}

#[async_trait]
impl NetworkHarness for Bridge {
    fn driver(&self) -> &dyn NetworkDriver {
        &self.living
    }
    async fn endpoint(&self, _sandbox: &SandboxId) -> NetworkEndpoint {
        endpoint()
    }
    async fn close(&self, _sandbox: &SandboxId, endpoint: NetworkEndpoint) {
        drop(endpoint);
    }
    async fn reopen(&self) -> Option<Box<dyn NetworkDriver>> {
        *self.living.0.write().unwrap() = None;
        let second = self.open().await;
        *self.living.0.write().unwrap() = Some(second);
        Some(Box::new(self.living.clone()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bridge() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root to make network namespaces");
        return;
    }
    let harness = Bridge {
        host: namespace(),
        directory: tempfile::tempdir().unwrap(),
        living: Living(Arc::new(RwLock::new(None))),
    };
    let first = harness.open().await;
    *harness.living.0.write().unwrap() = Some(first);
    all(&harness).await;
}

struct Loopback(LoopbackNetwork);

#[async_trait]
impl NetworkHarness for Loopback {
    fn driver(&self) -> &dyn NetworkDriver {
        &self.0
    }
    async fn endpoint(&self, _sandbox: &SandboxId) -> NetworkEndpoint {
        NetworkEndpoint::None
    }
    async fn close(&self, _sandbox: &SandboxId, _endpoint: NetworkEndpoint) {}
    async fn reopen(&self) -> Option<Box<dyn NetworkDriver>> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback() {
    all(&Loopback(LoopbackNetwork::new())).await;
}
