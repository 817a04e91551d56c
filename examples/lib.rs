//! What several examples share.
#![forbid(unsafe_code)]

pub mod hello;
pub mod host;
pub mod leftovers;
pub mod secret;
