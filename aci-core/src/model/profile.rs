//! Container group profiles: numbered templates of groups.

use std::collections::BTreeMap;

use super::container::{Container, InitContainer};
use super::diagnostics::Diagnostics;
use super::group::{
    ConfidentialComputeProperties, DeploymentExtension, EncryptionProperties, OsType, Priority,
    RestartPolicy, Sku, SystemData,
};
use super::macros::object;
use super::network::IpAddress;
use super::registry::ImageRegistryCredential;
use super::security::SecurityContext;
use super::volume::Volume;

object! {
    /// A container group profile. Every change makes a new revision; groups name one.
    ContainerGroupProfile {
        /// The resource id; only in replies.
        id: Option<String> => "id" [read_only] "2025-09-01" / "2024-05-01-preview";
        /// The profile's name: 1 to 63 letters, digits, hyphens and underscores. Empty where the
        /// document leaves it to the request's address.
        name: String => "name" [defaulted] "2025-09-01" / "2024-05-01-preview";
        /// The resource type, `Microsoft.ContainerInstance/containerGroupProfiles`.
        type_: Option<String> => "type" [read_only] "2025-09-01" / "2024-05-01-preview";
        /// The api-version that the document was written for, as its text says it.
        api_version: Option<String> => "apiVersion" [read_only] "2025-09-01" / "2024-05-01-preview";
        /// The region.
        location: Option<String> => "location" [] "2025-09-01" / "2024-05-01-preview";
        /// Names and values of the user's own.
        tags: BTreeMap<String, String> => "tags" [] "2025-09-01" / "2024-05-01-preview";
        /// The availability zones.
        zones: Vec<String> => "zones" [] "2025-09-01" / "2024-05-01-preview";
        /// What groups made from the profile consist of.
        properties: ContainerGroupProfileProperties => "properties" [required] "2025-09-01" / "2024-05-01-preview";
        /// Who made and changed the resource; only in replies.
        system_data: Option<SystemData> => "systemData" [read_only] "2025-09-01";
    }
}

impl ContainerGroupProfile {
    /// The resource type of container group profiles.
    pub const RESOURCE_TYPE: &'static str = "Microsoft.ContainerInstance/containerGroupProfiles";
}

object! {
    /// What groups made from a profile consist of.
    ContainerGroupProfileProperties {
        /// The kind of capacity; absent: standard.
        sku: Option<Sku> => "sku" [] "2025-09-01" / "2024-05-01-preview";
        /// A key of the user's own for the groups' data.
        encryption_properties: Option<EncryptionProperties> => "encryptionProperties" [] "2025-09-01" / "2024-05-01-preview";
        /// The containers.
        containers: Vec<Container> => "containers" [] "2025-09-01" / "2024-05-01-preview";
        /// Containers that run before the others, one after the other.
        init_containers: Vec<InitContainer> => "initContainers" [] "2025-09-01" / "2024-05-01-preview";
        /// Extensions of the platform.
        extensions: Vec<DeploymentExtension> => "extensions" [] "2025-09-01" / "2024-05-01-preview";
        /// How images are pulled from registries that ask for credentials.
        image_registry_credentials: Vec<ImageRegistryCredential> => "imageRegistryCredentials" [] "2025-09-01" / "2024-05-01-preview";
        /// When containers that ended are started again; absent: always.
        restart_policy: Option<RestartPolicy> => "restartPolicy" [] "2025-09-01" / "2024-05-01-preview";
        /// How long containers may take to stop, as an ISO 8601 duration such as `PT30S`.
        shutdown_grace_period: Option<String> => "shutdownGracePeriod" [] "2025-09-01" / "2024-11-01-preview";
        /// The groups' address.
        ip_address: Option<IpAddress> => "ipAddress" [] "2025-09-01" / "2024-05-01-preview";
        /// How long a group stays after it has completed, as an ISO 8601 duration.
        time_to_live: Option<String> => "timeToLive" [] "2025-09-01" / "2024-11-01-preview";
        /// The operating system of the containers.
        os_type: Option<OsType> => "osType" [] "2025-09-01" / "2024-05-01-preview";
        /// The volumes that containers can mount.
        volumes: Vec<Volume> => "volumes" [] "2025-09-01" / "2024-05-01-preview";
        /// Where logs go besides the log files.
        diagnostics: Option<Diagnostics> => "diagnostics" [] "2025-09-01" / "2024-05-01-preview";
        /// Regular or spot capacity; absent: regular.
        priority: Option<Priority> => "priority" [] "2025-09-01" / "2024-05-01-preview";
        /// The policy of confidential groups.
        confidential_compute_properties: Option<ConfidentialComputeProperties> => "confidentialComputeProperties" [] "2025-09-01" / "2024-05-01-preview";
        /// The user, capabilities and system call filter of all containers.
        security_context: Option<SecurityContext> => "securityContext" [] "2025-09-01" / "2024-11-01-preview";
        /// The number of the revision; only in replies.
        revision: Option<u32> => "revision" [read_only] "2025-09-01" / "2024-05-01-preview";
        /// The revisions that exist; only in replies.
        registered_revisions: Vec<u32> => "registeredRevisions" [read_only] "2025-09-01" / "2024-11-01-preview";
        /// Whether the platform's krypton back end is used.
        use_krypton: Option<bool> => "useKrypton" [] "2025-09-01" / "2024-11-01-preview";
    }
}
