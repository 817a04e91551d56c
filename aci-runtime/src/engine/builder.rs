//! Putting an engine together, and taking over what an earlier one left.

use std::sync::{Arc, Mutex};

use aci_core::contract::{
    Clock, GroupStore, ImageStore, Isolation, NetworkDriver, SecretResolver, SystemClock,
    VolumeDriver,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::size::{Capacity, Cpu, Gpus, Memory};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Seats;
use super::{Engine, EngineOptions, LastHandle, Shared};
use crate::turns::Turns;

/// Puts an [`Engine`] together.
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    isolation: Option<Arc<dyn Isolation>>,
    images: Option<Arc<dyn ImageStore>>,
    network: Option<Arc<dyn NetworkDriver>>,
    volumes: Vec<Arc<dyn VolumeDriver>>,
    secrets: Option<Arc<dyn SecretResolver>>,
    store: Option<Arc<dyn GroupStore>>,
    clock: Option<Arc<dyn Clock>>,
    options: EngineOptions,
}

impl EngineBuilder {
    /// Where groups run. Required.
    #[must_use]
    pub fn isolation(mut self, isolation: impl Isolation + 'static) -> Self {
        self.isolation = Some(Arc::new(isolation));
        self
    }

    /// Where images are kept. Required.
    #[must_use]
    pub fn images(mut self, images: impl ImageStore + 'static) -> Self {
        self.images = Some(Arc::new(images));
        self
    }

    /// How groups are reached. Required.
    #[must_use]
    pub fn network(mut self, network: impl NetworkDriver + 'static) -> Self {
        self.network = Some(Arc::new(network));
        self
    }

    /// One more provider of volumes; the first that supports a volume provides it.
    #[must_use]
    pub fn volumes(mut self, driver: impl VolumeDriver + 'static) -> Self {
        self.volumes.push(Arc::new(driver));
        self
    }

    /// Who looks up what documents mean by `secretReferences`. Without one, documents that use them
    /// are refused.
    #[must_use]
    pub fn secrets(mut self, resolver: impl SecretResolver + 'static) -> Self {
        self.secrets = Some(Arc::new(resolver));
        self
    }

    /// The journal. Required.
    #[must_use]
    pub fn store(mut self, store: impl GroupStore + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// The clock. Default: the machine's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// The settings. Default: ACI's values.
    #[must_use]
    pub fn options(mut self, options: EngineOptions) -> Self {
        self.options = options;
        self
    }

    /// The engine. It reads the journal, adopts every sandbox that still runs, goes on with what
    /// was under way, and removes whatever belongs to no record.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) naming a part that is missing; whatever the parts answer
    /// when they are asked what exists or for a sandbox. Groups that run are left as they are then.
    ///
    /// # Cancel safety
    /// Orphans may have been removed; no task is left. Build again.
    #[tracing::instrument(name = "engine.build", skip_all)]
    pub async fn build(self) -> Result<Engine> {
        let missing = |what: &str| {
            Error::new(
                ErrorKind::Invalid,
                "engine.build",
                format!("the builder was given no {what}"),
            )
            .hint(format!("call .{what}(..)"))
        };
        let isolation = self.isolation.ok_or_else(|| missing("isolation"))?;
        let images = self.images.ok_or_else(|| missing("images"))?;
        let network = self.network.ok_or_else(|| missing("network"))?;
        let store = self.store.ok_or_else(|| missing("store"))?;
        let capacity = match &self.options.capacity {
            Some(capacity) => capacity.clone(),
            None => machine(isolation.capability().gpus),
        };
        let stop = CancellationToken::new();
        let (notices, _) = broadcast::channel(self.options.notices.max(1));
        let shared = Arc::new(Shared {
            isolation,
            images,
            network,
            volumes: self.volumes,
            secrets: self.secrets,
            store,
            clock: self
                .clock
                .unwrap_or_else(|| Arc::new(SystemClock::default())),
            closing: stop.child_token(),
            stop: stop.clone(),
            tracker: TaskTracker::new(),
            notices: Mutex::new(Some(notices)),
            members: Mutex::default(),
            seats: Mutex::new(Seats::new(capacity, self.options.clone())),
            accepting: Arc::default(),
            turns: Turns::default(),
            options: self.options,
        });
        // Whatever happens below, no task outlives a build that did not come to its end.
        let last = Arc::new(LastHandle(stop));
        shared.reopen().await?;
        Ok(Engine {
            shared,
            _last: last,
        })
    }
}

/// All processors, memory and given GPUs of the machine, as far as this process may use them.
fn machine(gpus: Vec<Gpus>) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let bytes = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
            let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            kib.checked_mul(1024)
        })
        .unwrap_or(1 << 30);
    Capacity {
        cpu: Cpu::from_whole_cores(u32::try_from(cores).unwrap_or(u32::MAX)),
        memory: Memory::from_bytes(bytes),
        gpus,
    }
}
