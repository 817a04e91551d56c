//! The contract's own suite, as root and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use aci_core::conformance::isolation::{Behaviour, IsolationHarness, all};
use aci_core::contract::*;
use aci_core::id::SandboxId;
use aci_isolation::Namespaces;
use async_trait::async_trait;
use common::*;

struct Harness {
    bench: Bench,
    isolation: Arc<dyn Isolation>,
}

#[async_trait]
impl IsolationHarness for Harness {
    fn isolation(&self) -> Arc<dyn Isolation> {
        Arc::clone(&self.isolation)
    }

    fn argv(&self, behaviour: &Behaviour<'_>) -> Option<Vec<String>> {
        behaviour.shell()
    }

    async fn rootfs(&self, key: &RootFsKey) -> RootFs {
        self.bench.rootfs(&key.container)
    }

    async fn reopen(&self) -> Option<Arc<dyn Isolation>> {
        Some(Arc::new(
            Namespaces::new(self.bench.options.clone()).unwrap(),
        ))
    }

    async fn kill_supervisor(&self, id: &SandboxId) -> bool {
        self.bench.kill_agent(id);
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_this_user() {
    let Some(bench) = bench() else { return };
    let isolation = Arc::new(bench.isolation.clone());
    let harness = Harness { bench, isolation };
    all(&harness).await;
    harness.bench.assert_clean();
}

#[test]
fn as_an_ordinary_user() {
    again_without_root(&["as_this_user"]);
}

#[cfg(feature = "cgroups-rs")]
#[test]
fn by_cgroups_rs() {
    again_by_cgroups_rs(&[]);
}
