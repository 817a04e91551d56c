//! What the crate's other modules need of an engine's inside.

use std::sync::Arc;

use aci_core::contract::Clock;

use super::Engine;

impl Engine {
    /// The clock that everything is decided by.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }
}
