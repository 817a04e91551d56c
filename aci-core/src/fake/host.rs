//! A machine made of fakes.

use std::sync::Arc;

use super::{
    FakeImages, FakeIsolation, FakeNetwork, FakeSecrets, FakeVolumes, Faults, ManualClock,
    MemoryStore,
};
use crate::contract::Clock;

/// One of each fake, with one clock and one plan of faults: what an engine stands on.
///
/// It outlives the engines that run on it, as a machine outlives programs: give an engine clones of
/// its parts, drop the engine, and give the next one clones again.
#[derive(Clone, Debug)]
pub struct FakeHost {
    /// The clock of all parts.
    pub clock: Arc<dyn Clock>,
    /// The faults of all parts.
    pub faults: Faults,
    /// Where groups run.
    pub isolation: FakeIsolation,
    /// How groups are reached.
    pub network: FakeNetwork,
    /// A registry with the images `hello` (`serve 80`), `job` (`true`), `busy`
    /// (`burn 100 infinity`) and `sh` (`sh`), and a store.
    pub images: FakeImages,
    /// Volumes of every kind.
    pub volumes: FakeVolumes,
    /// A key vault, empty at first.
    pub secrets: FakeSecrets,
    /// The journal.
    pub store: MemoryStore,
}

impl FakeHost {
    /// A host without faults.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_faults(clock, Faults::none())
    }

    /// A host whose time is moved by hand, and its clock.
    #[must_use]
    pub fn manual() -> (Self, ManualClock) {
        let clock = ManualClock::new();
        (Self::new(Arc::new(clock.clone())), clock)
    }

    /// A host under a plan of faults.
    #[must_use]
    pub fn with_faults(clock: Arc<dyn Clock>, faults: Faults) -> Self {
        let images = FakeImages::with_faults(Arc::clone(&clock), faults.clone())
            .with_image("hello", &["serve", "80"])
            .with_image("job", &["true"])
            .with_image("busy", &["burn", "100", "infinity"])
            .with_image("sh", &["sh"]);
        Self {
            isolation: FakeIsolation::with_faults(Arc::clone(&clock), faults.clone()),
            network: FakeNetwork::with_faults(Arc::clone(&clock), faults.clone()),
            images,
            volumes: FakeVolumes::with_faults(Arc::clone(&clock), faults.clone()),
            secrets: FakeSecrets::with_faults(Arc::clone(&clock), faults.clone()),
            store: MemoryStore::with_faults(Arc::clone(&clock), faults.clone()),
            clock,
            faults,
        }
    }

    /// What is left of groups, a word for each kind with something left; empty after all groups
    /// were deleted. Images in the store do not count: they are a cache.
    #[must_use]
    pub fn leftovers(&self) -> Vec<&'static str> {
        let parts = [
            ("sandboxes", self.isolation.is_empty()),
            ("attachments", self.network.is_empty()),
            ("root file systems", self.images.is_empty()),
            ("volumes", self.volumes.is_empty()),
            ("records", self.store.is_empty()),
        ];
        parts
            .into_iter()
            .filter_map(|(name, empty)| (!empty).then_some(name))
            .collect()
    }
}
