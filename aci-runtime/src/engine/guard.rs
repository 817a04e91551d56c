//! Calls into the parts, which others wrote: a panic or an endless wait there must not keep a group
//! from going on.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aci_core::contract::Clock;
use aci_core::error::{Applied, Error, ErrorKind, Result};
use futures_util::FutureExt;

/// How long making, starting and removing something may take.
pub(crate) const ACTION_LIMIT: Duration = Duration::from_secs(10 * 60);

/// How long an image may take; the provisioning time ends it earlier while a group is deployed.
pub(crate) const PULL_LIMIT: Duration = Duration::from_secs(60 * 60);

/// How long logs are collected before a sandbox is taken down without them.
pub(crate) const LOGS_LIMIT: Duration = Duration::from_secs(30);

/// The future's output, or `None` when the time is over.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    time: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let end = clock.now() + time;
    tokio::select! {
        biased;
        output = future => Some(output),
        () = clock.sleep_until(end) => None,
    }
}

/// A call whose panic is an error like others.
///
/// # Errors
/// The call's own; [`Internal`](ErrorKind::Internal) if it panicked.
pub(crate) async fn caught<T>(
    operation: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let message = format!("a panic in the part that does it: {}", said(&*panic));
            tracing::error!(operation, message, "panic");
            Err(Error::new(ErrorKind::Internal, operation, message).applied(Applied::Unknown))
        }
    }
}

/// A call that may neither panic nor take longer than a limit.
///
/// # Errors
/// As [`caught`]; [`Timeout`](ErrorKind::Timeout) after the limit.
pub(crate) async fn limited<T>(
    clock: &dyn Clock,
    limit: Duration,
    operation: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    match within(clock, limit, caught(operation, future)).await {
        Some(result) => result,
        None => {
            let message = format!("no answer within {} s; given up", limit.as_secs());
            Err(Error::new(ErrorKind::Timeout, operation, message).applied(Applied::Unknown))
        }
    }
}

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}
