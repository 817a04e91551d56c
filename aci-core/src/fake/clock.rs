//! Clocks that tests turn.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::lock;
use crate::contract::Clock;
use crate::time::Timestamp;

/// How many times [`ManualClock::settle`] lets every ready task run.
const ROUNDS: usize = 200;

/// A clock that stands still until it is moved by hand.
///
/// Clones share the time. It starts at 2026-01-01T00:00:00Z unless told otherwise. The asynchronous
/// methods let other tasks run between steps; on a current-thread runtime their order is the same
/// in every run.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
/// use aci_core::contract::Clock;
/// use aci_core::fake::ManualClock;
///
/// let clock = ManualClock::new();
/// let sleeper = tokio::spawn({
///     let clock = clock.clone();
///     async move { clock.sleep_until(clock.now() + Duration::from_secs(3600)).await }
/// });
/// clock.run_for(Duration::from_secs(3599)).await;
/// assert!(!sleeper.is_finished());
/// clock.run_for(Duration::from_secs(1)).await;
/// assert!(sleeper.is_finished());
/// # }
/// ```
#[derive(Clone)]
pub struct ManualClock {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    now: Timestamp,
    next: u64,
    sleepers: BTreeMap<(Timestamp, u64), oneshot::Sender<()>>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl ManualClock {
    /// A clock that stands at 2026-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(Timestamp::from_secs(1_767_225_600))
    }

    /// A clock that stands at a time.
    #[must_use]
    pub fn starting_at(now: Timestamp) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                now,
                next: 0,
                sleepers: BTreeMap::new(),
            })),
        }
    }

    /// Moves the time in one jump; all that is due wakes in the order of its time.
    ///
    /// What the woken tasks then wait for counts from the new time. To let them act at the very
    /// moments they waited for, use [`ManualClock::run_for`].
    pub fn advance(&self, by: Duration) {
        let mut inner = lock(&self.inner);
        inner.now = inner.now + by;
        inner.wake();
    }

    /// Lets the time run: stops at each moment that somebody waits for, wakes him, and lets all
    /// tasks do what they can before it goes on.
    ///
    /// # Cancel safety
    /// The time stands where it got to.
    pub async fn run_for(&self, by: Duration) {
        let end = self.now() + by;
        self.settle().await;
        while self.step(end) {
            self.settle().await;
        }
        lock(&self.inner).now = end;
    }

    /// Lets the time run until a future is ready, at most for a while; `None` if it was not ready
    /// by then, or if nothing waits for the time any more and so nothing can happen.
    ///
    /// # Cancel safety
    /// The time stands where it got to; the future is dropped.
    pub async fn drive<F: Future>(&self, at_most: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let end = self.now() + at_most;
        loop {
            for _ in 0..ROUNDS {
                let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
                if let Poll::Ready(output) = polled {
                    return Some(output);
                }
                tokio::task::yield_now().await;
            }
            if !self.step(end) {
                return None;
            }
        }
    }

    /// Lets the other tasks do what they can without the time moving.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn settle(&self) {
        for _ in 0..ROUNDS {
            tokio::task::yield_now().await;
        }
    }

    /// The next moment that somebody waits for.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        lock(&self.inner).sleepers.keys().next().map(|(at, _)| *at)
    }

    /// How many wait for a time.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        lock(&self.inner).sleepers.len()
    }

    /// Goes to the next moment that somebody waits for and wakes all of that moment; false if
    /// there is none up to `end`.
    fn step(&self, end: Timestamp) -> bool {
        let mut inner = lock(&self.inner);
        match inner.sleepers.keys().next() {
            Some((at, _)) if *at <= end => {
                inner.now = inner.now.max(*at);
                inner.wake();
                true
            }
            _ => false,
        }
    }
}

impl Inner {
    fn wake(&mut self) {
        while let Some(entry) = self.sleepers.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            // A sleeper that was dropped in this moment needs no waking.
            let _ = entry.remove().send(());
        }
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = lock(&self.inner);
        f.debug_struct("ManualClock")
            .field("now", &inner.now)
            .field("sleepers", &inner.sleepers.len())
            .finish()
    }
}

/// Takes a sleeper off the list when its future is dropped.
struct Registration<'a> {
    clock: &'a ManualClock,
    key: (Timestamp, u64),
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        lock(&self.clock.inner).sleepers.remove(&self.key);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        lock(&self.inner).now
    }

    async fn sleep_until(&self, time: Timestamp) {
        let (registration, woken) = {
            let mut inner = lock(&self.inner);
            if time <= inner.now {
                return;
            }
            let key = (time, inner.next);
            inner.next += 1;
            let (sender, receiver) = oneshot::channel();
            inner.sleepers.insert(key, sender);
            (Registration { clock: self, key }, receiver)
        };
        // The sender is only dropped unsent together with the clock, which this borrows.
        let _ = woken.await;
        drop(registration);
    }
}

/// The time of tokio's timer, counted from a start.
///
/// Under `#[tokio::test(start_paused = true)]` that timer goes forward by itself whenever all tasks
/// wait, so a whole engine runs in simulated time without anybody moving a clock.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Timestamp,
    origin: tokio::time::Instant,
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl TokioClock {
    /// A clock that now stands at 2026-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Timestamp::from_secs(1_767_225_600),
            origin: tokio::time::Instant::now(),
        }
    }
}

#[async_trait]
impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.start + self.origin.elapsed()
    }

    async fn sleep_until(&self, time: Timestamp) {
        // The timer counts in milliseconds and may fire a little early in microseconds.
        while self.now() < time {
            tokio::time::sleep_until(self.origin + time.since(self.start)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleepers_wake_in_the_order_of_their_time_at_their_time() {
        let clock = ManualClock::new();
        let start = clock.now();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for secs in [30_u64, 10, 20, 10] {
            let (clock, seen) = (clock.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                clock.sleep_until(start + Duration::from_secs(secs)).await;
                lock(&seen).push((secs, clock.now().since(start).as_secs()));
            });
        }
        clock.run_for(Duration::from_secs(60)).await;
        assert_eq!(*lock(&seen), [(10, 10), (10, 10), (20, 20), (30, 30)]);
        assert_eq!(clock.now().since(start), Duration::from_secs(60));
        assert_eq!(clock.sleepers(), 0);
    }

    #[tokio::test]
    async fn dropped_sleepers_are_forgotten() {
        let clock = ManualClock::new();
        let task = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock
                    .sleep_until(clock.now() + Duration::from_secs(5))
                    .await
            }
        });
        clock.settle().await;
        assert_eq!(clock.sleepers(), 1);
        task.abort();
        clock.settle().await;
        assert_eq!(clock.sleepers(), 0);
        assert_eq!(clock.next_wake(), None);
    }

    #[tokio::test]
    async fn drive_moves_the_time_as_far_as_needed() {
        let clock = ManualClock::new();
        let start = clock.now();
        let hour = Duration::from_secs(3600);
        assert_eq!(
            clock.drive(hour * 2, clock.sleep_until(start + hour)).await,
            Some(())
        );
        assert_eq!(clock.now().since(start), hour);
        assert_eq!(
            clock.drive(hour, clock.sleep_until(start + hour * 9)).await,
            None
        );
        assert_eq!(clock.drive(hour, std::future::pending::<()>()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_paused_timer_is_a_clock() {
        let clock = TokioClock::new();
        let start = clock.now();
        clock.sleep_until(start + Duration::from_secs(3600)).await;
        assert_eq!(clock.now().since(start).as_secs(), 3600);
    }
}
