//! In-memory implementations of every contract, for tests and examples.
//!
//! A whole engine runs on them: without root, without a file, a socket or a process, and in
//! simulated time if the clock is a [`ManualClock`] or a [`TokioClock`]. [`FakeHost`] puts one of
//! each together.
//!
//! They keep the contracts to the letter (the suites in [`crate::conformance`] check it) and take
//! faults as an input: a [`Faults`] plan fails the n-th call of an operation, loses answers, delays,
//! hangs or strikes at random from a seed. Each can be asked what is left in it.

pub mod builtin;
mod clock;
mod container;
mod faults;
mod files;
mod handle;
mod host;
mod images;
mod isolation;
mod launch;
mod log;
mod network;
mod pipes;
mod process;
mod program;
mod sandbox;
mod secrets;
mod shell;
mod store;
mod volumes;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use clock::{ManualClock, TokioClock};
pub use faults::{Fault, Faults, Trigger};
pub use host::FakeHost;
pub use images::{FakeImages, PullFailure};
pub use isolation::FakeIsolation;
pub use network::FakeNetwork;
pub use program::{FakeListener, FakeProcess, Program, Signals};
pub use secrets::FakeSecrets;
pub use store::MemoryStore;
pub use volumes::FakeVolumes;

/// Locks, also after a panic elsewhere: every change under these locks is a single step.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
