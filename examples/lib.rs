//! What several examples share.
#![forbid(unsafe_code)]

pub mod hello;
pub mod leftovers;
