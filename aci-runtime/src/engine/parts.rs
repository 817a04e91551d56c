//! What the crate's other modules need of an engine's inside.

use std::sync::Arc;

use aci_core::contract::Clock;
use futures_util::future::BoxFuture;

use super::Engine;

impl Engine {
    /// The clock that everything is decided by.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// The group whose sandbox has an address.
    #[cfg(feature = "arm-server")]
    pub(crate) fn at(&self, address: std::net::IpAddr) -> Option<crate::Group> {
        let mut groups = self.list().into_iter();
        groups.find(|group| group.has_address(address))
    }

    /// Runs a task until the engine ends. What it holds of the engine does not keep it alive.
    pub(crate) fn accompany(
        &self,
        task: impl FnOnce(Self) -> BoxFuture<'static, ()> + Send + 'static,
    ) {
        let stop = self.shared.stop.clone();
        let task = task(self.without_hold());
        self.shared.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// A handle that does not count as one of those whose last ends the engine.
    fn without_hold(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            _last: Arc::new(super::LastHandle(tokio_util::sync::CancellationToken::new())),
        }
    }
}
