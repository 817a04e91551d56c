//! One test for each fault that was found in the engine, with a sentence on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod engine;
mod parts;
mod places;
#[path = "../support/mod.rs"]
mod support;
mod time;

use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{Clock, Isolation, SandboxSpec};
use aci_core::error::{ErrorKind, Result};
use aci_core::fake::{FakeHost, Fault, ManualClock, Trigger};
use aci_core::id::SandboxId;
use aci_core::lifecycle::GroupState;
use aci_core::model::ContainerGroup;
use aci_core::size::{Limits, WhenFull};
use aci_core::time::Timestamp;
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, Notice, Shutdown};
use async_trait::async_trait;
use support::{Fence, fenced, group};
use tokio::io::AsyncReadExt;

const HOUR: Duration = Duration::from_secs(3600);
const SLEEP: &[(&str, &str)] = &[("app", "[sleep, infinity]")];

struct World {
    host: FakeHost,
    clock: ManualClock,
    fence: Fence,
    options: EngineOptions,
}

impl World {
    fn new() -> Self {
        let (host, clock) = FakeHost::manual();
        let options = EngineOptions {
            when_full: WhenFull::Queue { longest: 5 },
            ..Default::default()
        };
        let fence = Fence::default();
        Self {
            host,
            clock,
            fence,
            options,
        }
    }

    async fn open(&mut self) -> Engine {
        self.fence = self.fence.next();
        let building = fenced(&self.host, &self.fence, self.options.clone()).build();
        self.drive(building).await.unwrap()
    }

    /// The host program dies, and is started again.
    async fn crash(&mut self, engine: Engine) -> Engine {
        self.fence.die();
        drop(engine);
        self.open().await
    }

    async fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        self.clock.drive(HOUR, future).await.expect("it hangs")
    }

    async fn put(&self, engine: &Engine, document: ContainerGroup) -> Group {
        self.drive(engine.create_or_update(document)).await.unwrap()
    }

    async fn up(&self, engine: &Engine, document: ContainerGroup) -> Group {
        let group = self.put(engine, document).await;
        self.drive(group.running()).await.unwrap();
        group
    }

    /// A group that takes the whole host, and one that waits.
    async fn full(&self, engine: &Engine) -> (Group, Group) {
        let names: Vec<String> = (0..8).map(|i| format!("c{i}")).collect();
        let all: Vec<_> = names
            .iter()
            .map(|n| (n.as_str(), "[sleep, infinity]"))
            .collect();
        let big = self.up(engine, group("big", "Always", &all, "")).await;
        let small = self.put(engine, group("small", "Always", SLEEP, "")).await;
        assert_eq!(
            (engine.usage().waiting, small.state()),
            (1, GroupState::Pending)
        );
        (big, small)
    }

    async fn run(&self, seconds: u64) {
        self.clock.run_for(Duration::from_secs(seconds)).await;
    }

    fn fault(&self, operation: &str, trigger: Trigger, fault: Fault) {
        self.host.faults.on(operation, trigger, fault);
    }

    /// Everything can be deleted, and nothing is left.
    async fn clean(&self, engine: &Engine) {
        self.host.faults.heal();
        for group in engine.list() {
            self.drive(group.delete()).await.unwrap();
        }
        assert_eq!(self.host.leftovers(), Vec::<&str>::new());
        assert_eq!(
            (engine.usage().in_use.groups, engine.usage().waiting),
            (0, 0)
        );
    }
}

fn restarts(group: &Group, container: &str) -> u32 {
    let view = group.container(container).unwrap().view();
    view.restart_count.unwrap_or(0)
}

async fn output(group: &Group, container: &str, command: [&str; 2]) -> String {
    let container = group.container(container).unwrap();
    let mut process = container.exec(ExecOptions::command(command)).await.unwrap();
    let mut text = String::new();
    process.stdout.read_to_string(&mut text).await.unwrap();
    text
}
