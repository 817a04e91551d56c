#![doc = include_str!("../../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "arm-server")]
pub mod analytics;
#[cfg(feature = "arm-api")]
pub mod arm;
mod engine;
#[cfg(feature = "arm-api")]
pub mod identity;
#[doc = include_str!("observability.md")]
pub mod observability {}
#[cfg(feature = "arm-server")]
pub mod server;
pub mod store;
mod turns;

pub use engine::{
    ContainerHandle, ContainerUsage, Engine, EngineBuilder, EngineOptions, ExecOptions, Group,
    GroupUsage, LogOptions, Notice, Notices, Shutdown, Terms, Usage,
};
pub use store::RedbStore;
