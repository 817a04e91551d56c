//! What a container group is, whether it is valid, how big it is, what should happen next, and the
//! contracts between the engine and what it stands on.
//!
//! This crate decides and describes; it opens no files, sockets or processes.
#![forbid(unsafe_code)]

pub mod bill;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod contract;
pub mod dns_label;
pub mod document;
pub mod error;
#[cfg(feature = "fakes")]
pub mod fake;
pub mod id;
pub mod lifecycle;
pub mod model;
pub mod size;
pub mod template;
pub mod time;
pub mod validate;
