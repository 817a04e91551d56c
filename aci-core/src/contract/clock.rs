//! The time, as a value that tests can turn.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::time::Timestamp;

/// Tells the time and waits for it.
#[async_trait]
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;

    /// Returns at `time` or soon after; at once if it is past.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn sleep_until(&self, time: Timestamp);
}

/// The machine's clock. `now` never goes back within one value: if the machine's clock is set
/// back, it stands still until that is caught up with.
#[derive(Debug, Default)]
pub struct SystemClock {
    latest: std::sync::atomic::AtomicU64,
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let read = Timestamp::from(SystemTime::now()).as_micros();
        let before = self
            .latest
            .fetch_max(read, std::sync::atomic::Ordering::Relaxed);
        Timestamp::from_micros(read.max(before))
    }

    async fn sleep_until(&self, time: Timestamp) {
        tokio::time::sleep(time.since(self.now())).await;
    }
}
