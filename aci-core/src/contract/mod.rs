//! The contracts between the engine and what it stands on.
//!
//! Each contract is a small object-safe trait, handed over as `Arc<dyn Trait>`. Abilities that
//! differ between implementations are asked of a capability value. With the feature `fakes` there
//! is an in-memory implementation of each in [`crate::fake`]; with the feature `conformance` a
//! suite of each in [`crate::conformance`] that every implementation passes.
//!
//! Common rules:
//! - Calls are idempotent where their doc says so, so that an engine may repeat what it does not
//!   know to be done.
//! - Everything that an implementation makes is named after the [`SandboxId`](crate::id::SandboxId)
//!   it was made for and is found again by `list` after a crash of the host program.
//! - Dropping a future leaves either nothing or something that `list` shows and the undoing call
//!   (`destroy`, `detach`, `release`) removes.

mod clock;
mod forward;
mod image;
mod isolation;
mod network;
mod process;
mod resource;
mod secret;
mod store;
mod volume;

pub use clock::{Clock, SystemClock};
pub use image::{
    Image, ImageConfig, ImageStore, Layer, PullEvent, PullPhase, PullPolicy, PullProgress,
    PullRequest, RegistryLogin, RootFs, RootFsKey,
};
pub use isolation::{
    ContainerSpec, ContainerStats, ContainerStatus, FileEntry, Isolation, IsolationCapability,
    LogLine, LogQuery, LogStream, MountSpec, NamespaceHandle, NetworkEndpoint, NetworkStats,
    OutputStream, Pressure, RunState, Sandbox, SandboxSpec, SandboxStats, SandboxStatus,
    SandboxVolume, SeccompPolicy, SecurityPolicy,
};
pub use network::{
    AttachRequest, Attachment, DnsSettings, NetworkCapability, NetworkDriver, PublishedPort,
};
pub use process::{
    BoxRead, BoxWrite, Duplex, ExecSpec, ExitStatus, Process, ProcessControl, ProcessSpec, Signal,
    TerminalSize, UserSpec,
};
pub use resource::{ResourceStore, ResourceWrite};
pub use secret::{SecretRequest, SecretResolver};
pub use store::{GroupRecord, GroupStore};
pub use volume::{
    ProvidedVolume, SecretFile, VolumeDriver, VolumeEvent, VolumeProgress, VolumeRequest,
    VolumeSource,
};
