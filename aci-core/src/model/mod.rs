//! The document model: what a container group and a container group profile can say.
//!
//! The types mirror ARM's nesting, `group.properties.containers[0].properties.image`, with Rust's
//! names; each field names its JSON property and the api-versions that have it. Meanings and
//! units are those of the Azure Container Instances REST reference, api-versions 2017-08-01-preview
//! to 2026-07-01.
//!
//! - A property that may be absent is an [`Option`]; `null` reads as absent. Lists and maps are
//!   empty when absent.
//! - Strings with known values are enums with an `Other` variant.
//! - What ACI treats as secret is a [`Secret`]: never printed, left out when serialised.
//! - Properties that this crate does not know stay in `unknown`.
//!
//! The types are plain data: a value can be built that ACI refuses. Build with
//! `..Default::default()`, because a later api-version adds fields.
//!
//! Serialising with serde gives what ACI's replies show, so without secrets and without unknown
//! properties. [`crate::document`] reads documents as people write them, with places, and writes
//! complete ones.

pub(crate) mod codec;
mod container;
mod diagnostics;
mod group;
mod identity;
mod instance_view;
pub(crate) mod macros;
mod network;
mod probe;
mod profile;
mod registry;
mod resources;
mod secret;
mod security;
mod table;
#[cfg(test)]
mod tests;
mod timestamp;
pub(crate) mod version;
mod volume;

pub use codec::UnknownProperties;
pub use container::{
    ConfigMap, Container, ContainerPort, ContainerProperties, EnvironmentVariable, InitContainer,
    InitContainerProperties, Protocol,
};
pub use diagnostics::{Diagnostics, LogAnalytics, LogType};
pub use group::{
    ConfidentialComputeProperties, ContainerGroup, ContainerGroupProfileReference,
    ContainerGroupProperties, DeploymentExtension, DeploymentExtensionProperties,
    EncryptionProperties, OsType, Priority, RestartPolicy, Sku, StandbyPoolProfile, SystemData,
};
pub use identity::{
    Identity, IdentityAccess, IdentityAccessControl, IdentityAcls, IdentityType,
    UserAssignedIdentity,
};
pub use instance_view::{
    ContainerInstanceView, ContainerState, Event, GroupInstanceView, InitContainerInstanceView,
};
pub use network::{
    DnsConfiguration, DnsNameLabelReusePolicy, IpAddress, IpAddressType, NetworkProfile, Port,
    SubnetId,
};
pub use probe::{ExecAction, HttpGetAction, HttpHeader, HttpScheme, Probe};
pub use profile::{ContainerGroupProfile, ContainerGroupProfileProperties};
pub use registry::{ImageRegistryCredential, SecretReference};
pub use resources::{GpuResource, GpuSku, ResourceLimits, ResourceRequests, ResourceRequirements};
pub use secret::{Secret, SecretJson};
pub use security::{Capabilities, SecurityContext};
pub use table::{PropertyInfo, ValueKind};
pub use timestamp::{ParseTimestampError, Timestamp};
pub use version::{ApiVersion, Availability, ParseApiVersionError};
pub use volume::{
    AzureFileVolume, EmptyDir, GitRepoVolume, RepositoryUrl, SecretVolume, Volume, VolumeMount,
};
