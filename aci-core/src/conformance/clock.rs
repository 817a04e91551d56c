//! The suite of [`Clock`].

use std::future::Future;
use std::time::Duration;

use super::{in_time, run};
use crate::contract::Clock;

/// Runs all cases. `settle` moves a clock that has to be moved: it is awaited together with
/// sleeping, and is `std::future::pending()` for a clock that goes by itself.
pub async fn all<S: Future<Output = ()>>(clock: &dyn Clock, mut settle: impl FnMut(Duration) -> S) {
    let none = async || Vec::new();
    run("now_never_goes_back", now_never_goes_back(clock), none).await;
    run(
        "past_times_are_no_wait",
        past_times_are_no_wait(clock),
        none,
    )
    .await;
    let case = sleeps_until_the_time(clock, settle(Duration::from_millis(30)));
    run("sleeps_until_the_time", case, none).await;
    let case = dropped_sleep_changes_nothing(clock);
    run("dropped_sleep_changes_nothing", case, none).await;
}

/// Each reading is at least the one before.
pub async fn now_never_goes_back(clock: &dyn Clock) {
    let mut last = clock.now();
    for round in 0..10_000 {
        if round % 1000 == 0 {
            tokio::task::yield_now().await;
        }
        let now = clock.now();
        assert!(now >= last, "from {last} back to {now}");
        last = now;
    }
}

/// Sleeping until now or the past returns at once.
pub async fn past_times_are_no_wait(clock: &dyn Clock) {
    let now = clock.now();
    for time in [now, now - Duration::from_secs(3600)] {
        in_time(
            Duration::from_secs(1),
            "a sleep until the past",
            clock.sleep_until(time),
        )
        .await;
    }
}

/// Nobody wakes before his time.
pub async fn sleeps_until_the_time(clock: &dyn Clock, moving: impl Future<Output = ()>) {
    let until = clock.now() + Duration::from_millis(30);
    let sleeping = async {
        clock.sleep_until(until).await;
        assert!(clock.now() >= until, "woken at {} for {until}", clock.now());
    };
    let moving = async {
        moving.await;
        std::future::pending::<()>().await;
    };
    let (sleeping, moving) = (std::pin::pin!(sleeping), std::pin::pin!(moving));
    let both = futures_util::future::select(sleeping, moving);
    in_time(Duration::from_secs(10), "a sleep of 30 ms", both).await;
}

/// A dropped sleep leaves the clock as it was.
pub async fn dropped_sleep_changes_nothing(clock: &dyn Clock) {
    let before = clock.now();
    let hour = before + Duration::from_secs(3600);
    let cut = super::cut_short(Duration::from_millis(2), clock.sleep_until(hour)).await;
    assert!(cut.is_none(), "an hour is over at once");
    assert!(clock.now() < hour);
}
