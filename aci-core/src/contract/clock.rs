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
/// back, time goes on from where it was, at the pace of the monotonic clock, until that is caught
/// up with. A machine that sleeps does not count the time in a wait, but sees it afterwards.
#[derive(Debug, Default)]
pub struct SystemClock {
    latest: std::sync::Mutex<Option<(Timestamp, std::time::Instant)>>,
}

/// The wall clock, or the time since the latest reading if that is ahead of it.
fn onward(
    latest: Option<(Timestamp, std::time::Instant)>,
    wall: Timestamp,
    monotonic: std::time::Instant,
) -> Timestamp {
    latest.map_or(wall, |(time, at)| {
        wall.max(time + monotonic.saturating_duration_since(at))
    })
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let mut latest = self
            .latest
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let monotonic = std::time::Instant::now();
        let now = onward(*latest, SystemTime::now().into(), monotonic);
        *latest = Some((now, monotonic));
        now
    }

    async fn sleep_until(&self, time: Timestamp) {
        tokio::time::sleep(time.since(self.now())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A clock that stood still after being set back would freeze every wait that was begun before.
    #[test]
    fn a_clock_that_is_set_back_goes_on_from_where_it_was() {
        let begun = std::time::Instant::now();
        let (early, late) = (Timestamp::from_secs(1_000), Timestamp::from_secs(90_000));
        let step = Duration::from_secs(10);
        assert_eq!(onward(None, early, begun), early);
        assert_eq!(
            onward(Some((late, begun)), early, begun + step),
            late + step
        );
        assert_eq!(onward(Some((early, begun)), late, begun + step), late);
    }
}
