//! A suite for each contract, which every implementation of it passes.
//!
//! **The suites create and delete things in what they are given**; give them something of their
//! own, never something in use. Their cases and their harnesses change as the contracts are
//! understood better: they are not covered by semantic versioning.
//!
//! A case is a plain function that panics where the contract is broken. `all` of a suite runs all
//! its cases one after the other and checks after each that nothing is left. What an implementation
//! says it cannot do is skipped and printed as `SKIPPED` with the reason.

// A failed check of a suite is a failed test, so cases panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod clock;
pub mod image;
pub mod isolation;
pub mod network;
pub mod resource;
pub mod secret;
pub mod store;
pub mod volume;

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::error::{Error, ErrorKind, Result};

/// Longest time that one case may take.
const CASE: Duration = Duration::from_secs(120);

/// Says that a case, or a part of it, is not run.
fn skip(what: &str, why: &str) {
    println!("SKIPPED: {what}: {why}");
}

/// Runs one case, then, whatever became of it, cleans up and checks what was left.
async fn run<L>(name: &str, case: impl Future<Output = ()>, clean: L)
where
    L: AsyncFnOnce() -> Vec<String>,
{
    let outcome = tokio::time::timeout(CASE, AssertUnwindSafe(case).catch_unwind()).await;
    let left = clean().await;
    match outcome {
        Ok(Ok(())) => assert!(left.is_empty(), "case '{name}' left behind: {left:?}"),
        Ok(Err(panic)) => {
            println!("FAILED: case '{name}'");
            std::panic::resume_unwind(panic);
        }
        Err(_) => panic!("case '{name}' did not end within {CASE:?}"),
    }
}

/// The error of a result that must be one, of a kind.
#[track_caller]
fn fails<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Error {
    match result {
        Ok(_) => panic!("{what}: expected {kind:?}, but it succeeded"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{what}: {}", error.chain());
            assert!(
                !error.message().is_empty(),
                "{what}: an error without words"
            );
            error
        }
    }
}

/// The value of a result that must be one.
#[track_caller]
fn works<T>(result: Result<T>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {}", error.chain()),
    }
}

/// The output of a future that must be ready in time.
#[track_caller]
fn in_time<T>(
    time: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(time, future).await {
            Ok(value) => value,
            Err(_) => panic!("{what}: not within {time:?} (asked at {place})"),
        }
    }
}

/// Lets a future run for a while and then drops it; whether it was ready.
async fn cut_short<T>(after: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(after, future).await.ok()
}

/// After how long futures are dropped in cases about cancel safety.
const CUTS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_micros(200),
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(40),
];

/// A value's text does not show a secret.
#[track_caller]
fn hides(value: &impl fmt::Debug, secret: &str) {
    let text = format!("{value:?}");
    assert!(!text.contains(secret), "Debug shows a secret");
}
