//! Our side: a front with groups on the in-memory host.

use std::sync::Arc;
use std::time::Duration;

use aci_benches::contest::{Contestant, Sample};
use aci_core::fake::{FakeHost, TokioClock};
use aci_core::id::GroupRef;
use aci_core::model::ContainerGroup;
use aci_core::size::{Capacity, Cpu, Memory};
use aci_runtime::arm::{ArmApi, ArmOptions, danger};
use aci_runtime::server::{Server, ServerOptions};
use aci_runtime::{Engine, EngineOptions};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::http::{Client, Targets, turn};

pub(crate) struct Ours {
    targets: Targets,
    stop: CancellationToken,
    /// Ends with this value.
    _engine: Engine,
}

fn document(name: &str) -> anyhow::Result<ContainerGroup> {
    Ok(ContainerGroup::from_yaml(&format!(
        "
name: {name}
location: local
tags: {{made: for a comparison}}
properties:
  osType: Linux
  restartPolicy: Always
  containers:
  - name: web
    properties:
      image: hello
      command: [serve, '80']
      ports: [{{port: 80}}]
      environmentVariables: [{{name: A, value: b}}]
      resources: {{requests: {{cpu: 0.5, memoryInGB: 0.3}}}}
"
    ))?)
}

impl Ours {
    /// A front with so many groups that run, and one in a resource group of its own.
    pub(crate) async fn start(groups: usize) -> anyhow::Result<Self> {
        let host = FakeHost::new(Arc::new(TokioClock::new()));
        let engine = Engine::builder()
            .isolation(host.isolation.clone())
            .images(host.images.clone())
            .network(host.network.clone())
            .volumes(host.volumes.clone())
            .store(host.store.clone())
            .options(EngineOptions {
                capacity: Some(Capacity {
                    cpu: Cpu::from_whole_cores(100_000),
                    memory: Memory::from_whole_gb(100_000),
                    gpus: Vec::new(),
                }),
                ..EngineOptions::default()
            })
            .build()
            .await?;
        let subscription = GroupRef::DEFAULT_SUBSCRIPTION;
        for i in 0..groups {
            let name = format!("g{i}");
            let place = if i == 0 { "one" } else { "many" };
            let key = GroupRef::new(subscription, place, &name);
            engine.create_or_update_as(key, document(&name)?).await?;
        }
        for group in engine.list() {
            group.running().await?;
        }
        let mut options = ArmOptions::default();
        // Measuring a thousand groups is not what is timed here.
        options.measure_every = None;
        options.page = groups.max(1);
        let api = ArmApi::builder(engine.clone())
            .store(host.store.clone())
            .authorizer(danger::Everybody)
            .options(options)
            .build()
            .await?;
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let server = Server::new(socket, None, ServerOptions::default());
        let address = server.local_addr()?;
        let stop = CancellationToken::new();
        tokio::spawn(server.run(api.router(), stop.clone()));
        let version = "api-version=2023-05-01";
        let provider = "providers/Microsoft.ContainerInstance/containerGroups";
        let targets = Targets {
            address,
            one: format!(
                "/subscriptions/{subscription}/resourceGroups/one/{provider}/g0?{version}"
            ),
            list_one: format!(
                "/subscriptions/{subscription}/resourceGroups/one/{provider}?{version}"
            ),
            list: format!("/subscriptions/{subscription}/{provider}?{version}"),
        };
        let mut client = Client::connect(address).await?;
        let list: serde_json::Value = serde_json::from_slice(&client.get(&targets.list).await?)?;
        let found = list["value"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(found == groups, "the list has {found} groups");
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Self {
            targets,
            stop,
            _engine: engine,
        })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait(?Send)]
impl Contestant for Ours {
    fn name(&self) -> &str {
        "ours"
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        turn(&self.targets).await
    }
}
