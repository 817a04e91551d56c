//! What several examples share.
#![forbid(unsafe_code)]

pub mod bars;
pub mod hello;
pub mod host;
pub mod leftovers;
pub mod secret;
