//! Errors of the operating system as errors of this project.

use std::io;
use std::path::Path;

use aci_core::error::{Error, ErrorKind, Result};

/// Something failed on a path; `what` completes "cannot ...".
pub(crate) fn io(
    operation: &'static str,
    what: &str,
    path: &Path,
    cause: impl Into<io::Error>,
) -> Error {
    let cause = cause.into();
    let kind = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    let error = Error::new(kind, operation, format!("cannot {what}: {cause}")).on(path.display());
    let error = match kind {
        ErrorKind::Exhausted => error.hint("free some space on this file system"),
        ErrorKind::PermissionDenied => {
            error.hint("the directory must belong to the user that this program runs as")
        }
        _ => error,
    };
    error.because(cause)
}

/// Runs file work on tokio's blocking threads, within the caller's span.
pub(crate) async fn blocking<T, F>(operation: &'static str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(cause) => Err(Error::new(
            ErrorKind::Internal,
            operation,
            "the work was stopped before it ended",
        )
        .because(cause)),
    }
}
