//! The container group.

use std::collections::BTreeMap;

use super::container::{Container, InitContainer};
use super::diagnostics::Diagnostics;
use super::identity::{Identity, IdentityAcls};
use super::instance_view::GroupInstanceView;
use super::macros::{object, open_enum};
use super::network::{DnsConfiguration, IpAddress, NetworkProfile, SubnetId};
use super::registry::{ImageRegistryCredential, SecretReference};
use super::secret::SecretJson;
use super::timestamp::Timestamp;
use super::volume::Volume;

object! {
    /// A container group: containers that run together on one machine and share its network,
    /// volumes and life.
    ContainerGroup {
        /// The resource id; only in replies.
        id: Option<String> => "id" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// The group's name. Empty where the document leaves it to the request's address, as REST
        /// requests do.
        name: String => "name" [defaulted] "2018-04-01" / "2017-08-01-preview";
        /// The resource type, `Microsoft.ContainerInstance/containerGroups`.
        type_: Option<String> => "type" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// The api-version that the document was written for, as its text says it.
        api_version: Option<String> => "apiVersion" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// The region.
        location: Option<String> => "location" [] "2018-04-01" / "2017-08-01-preview";
        /// Names and values of the user's own.
        tags: BTreeMap<String, String> => "tags" [] "2018-04-01" / "2017-08-01-preview";
        /// The availability zones.
        zones: Vec<String> => "zones" [] "2021-09-01";
        /// The managed identities that the group may use.
        identity: Option<Identity> => "identity" [] "2018-10-01";
        /// What the group consists of.
        properties: ContainerGroupProperties => "properties" [required] "2018-04-01" / "2017-08-01-preview";
        /// Who made and changed the resource; only in replies.
        system_data: Option<SystemData> => "systemData" [read_only] "2025-09-01";
    }
}

impl ContainerGroup {
    /// The resource type of container groups.
    pub const RESOURCE_TYPE: &'static str = "Microsoft.ContainerInstance/containerGroups";

    /// The container of that name, if the group has one.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.properties.containers.iter().find(|c| c.name == name)
    }

    /// The init container of that name, if the group has one.
    pub fn init_container(&self, name: &str) -> Option<&InitContainer> {
        self.properties
            .init_containers
            .iter()
            .find(|c| c.name == name)
    }
}

object! {
    /// What a container group consists of.
    ContainerGroupProperties {
        /// How far the last deployment got (`Pending`, `Creating`, `Succeeded`, `Failed`, ...); only in replies.
        provisioning_state: Option<String> => "provisioningState" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// Secrets of a key vault that the group's other properties name.
        secret_references: Vec<SecretReference> => "secretReferences" [] "2025-09-01" / "2024-10-01-preview";
        /// The containers; at least one, at most 60 with the init containers.
        containers: Vec<Container> => "containers" [] "2018-04-01" / "2017-08-01-preview";
        /// How images are pulled from registries that ask for credentials.
        image_registry_credentials: Vec<ImageRegistryCredential> => "imageRegistryCredentials" [] "2018-04-01" / "2017-08-01-preview";
        /// When containers that ended are started again; absent: always.
        restart_policy: Option<RestartPolicy> => "restartPolicy" [] "2018-04-01" / "2017-08-01-preview";
        /// The group's address; absent: nothing reaches it from outside.
        ip_address: Option<IpAddress> => "ipAddress" [] "2018-04-01" / "2017-08-01-preview";
        /// The operating system of the containers.
        os_type: Option<OsType> => "osType" [] "2018-04-01" / "2017-08-01-preview";
        /// The volumes that containers can mount; at most 20.
        volumes: Vec<Volume> => "volumes" [] "2018-04-01" / "2017-08-01-preview";
        /// How the group is doing; only in replies.
        instance_view: Option<GroupInstanceView> => "instanceView" [read_only] "2018-04-01" / "2017-10-01-preview";
        /// Where logs go besides the log files.
        diagnostics: Option<Diagnostics> => "diagnostics" [] "2018-06-01";
        /// The network profile that places the group in a virtual network; later versions have `subnetIds`.
        network_profile: Option<NetworkProfile> => "networkProfile" [] "2018-09-01" .. "2021-03-01";
        /// The subnets that place the group in a virtual network.
        subnet_ids: Vec<SubnetId> => "subnetIds" [] "2021-07-01";
        /// Name resolution inside the group.
        dns_config: Option<DnsConfiguration> => "dnsConfig" [] "2018-10-01";
        /// The kind of capacity; absent: standard.
        sku: Option<Sku> => "sku" [] "2019-12-01";
        /// A key of the user's own for the group's data.
        encryption_properties: Option<EncryptionProperties> => "encryptionProperties" [] "2019-12-01";
        /// Containers that run before the others, one after the other.
        init_containers: Vec<InitContainer> => "initContainers" [] "2019-12-01";
        /// Extensions of the platform, used by virtual kubelet.
        extensions: Vec<DeploymentExtension> => "extensions" [] "2022-09-01";
        /// The policy of a confidential group.
        confidential_compute_properties: Option<ConfidentialComputeProperties> => "confidentialComputeProperties" [] "2023-05-01" / "2022-10-01-preview";
        /// Regular or spot capacity; absent: regular.
        priority: Option<Priority> => "priority" [] "2023-05-01" / "2022-10-01-preview";
        /// Which containers may use which identity.
        identity_acls: Option<IdentityAcls> => "identityAcls" [] "2025-09-01" / "2024-11-01-preview";
        /// The profile that the group is made from.
        container_group_profile: Option<ContainerGroupProfileReference> => "containerGroupProfile" [] "2025-09-01" / "2024-05-01-preview";
        /// The standby pool that the group is taken from.
        standby_pool_profile: Option<StandbyPoolProfile> => "standbyPoolProfile" [] "2025-09-01" / "2024-05-01-preview";
        /// Whether the group came from a standby pool; only in replies.
        is_created_from_standby_pool: Option<bool> => "isCreatedFromStandbyPool" [read_only] "2025-09-01" / "2024-05-01-preview";
        /// The group's state in the first preview; later versions have `instanceView.state`.
        state: Option<String> => "state" [read_only] "2017-08-01-preview" .. "2017-08-01-preview";
        /// Seconds until a deployment that does not succeed counts as failed.
        provisioning_timeout_in_seconds: Option<u32> => "provisioningTimeoutInSeconds" [] "2023-02-01-preview" .. "2023-02-01-preview";
        /// Whether that time was asked for.
        is_custom_provisioning_timeout: Option<bool> => "isCustomProvisioningTimeout" [] "2023-02-01-preview" .. "2023-02-01-preview";
    }
}

open_enum! {
    /// When containers that ended are started again.
    RestartPolicy {
        /// Always, the default.
        Always = "Always",
        /// When the exit code is not zero.
        OnFailure = "OnFailure",
        /// Never.
        Never = "Never",
    }
}

open_enum! {
    /// The operating system of a group's containers.
    OsType {
        /// Linux.
        Linux = "Linux",
        /// Windows.
        Windows = "Windows",
    }
}

open_enum! {
    /// The kind of capacity that a group runs on.
    Sku {
        /// Standard, the default.
        Standard = "Standard",
        /// No kind given.
        NotSpecified = "NotSpecified",
        /// A host of its own.
        Dedicated = "Dedicated",
        /// A trusted execution environment.
        Confidential = "Confidential",
    }
}

open_enum! {
    /// Whether a group may be evicted.
    Priority {
        /// Not evicted, the default.
        Regular = "Regular",
        /// Runs on capacity that is left over and is evicted when it is needed.
        Spot = "Spot",
    }
}

object! {
    /// A key of the user's own that encrypts the group's data.
    EncryptionProperties {
        /// The address of the key vault.
        vault_base_url: String => "vaultBaseUrl" [required] "2019-12-01";
        /// The key's name.
        key_name: String => "keyName" [required] "2019-12-01";
        /// The key's version.
        key_version: String => "keyVersion" [required] "2019-12-01";
        /// The managed identity that may use the key.
        identity: Option<String> => "identity" [] "2022-09-01";
    }
}

object! {
    /// What a confidential group may run.
    ConfidentialComputeProperties {
        /// The enforcement policy: Rego text in base64, at most 120 KB.
        cce_policy: Option<String> => "ccePolicy" [] "2023-05-01" / "2022-10-01-preview";
    }
}

object! {
    /// An extension of the platform.
    DeploymentExtension {
        /// Its name.
        name: String => "name" [required] "2022-09-01";
        /// What it is and how it is set up.
        properties: Option<DeploymentExtensionProperties> => "properties" [] "2022-09-01";
    }
}

object! {
    /// What an extension is and how it is set up.
    DeploymentExtensionProperties {
        /// The kind of extension, such as `kube-proxy`.
        extension_type: String => "extensionType" [required] "2022-09-01";
        /// Its version.
        version: String => "version" [required] "2022-09-01";
        /// Settings of the extension's own.
        settings: Option<serde_json::Value> => "settings" [] "2022-09-01";
        /// Settings that replies leave out.
        protected_settings: Option<SecretJson> => "protectedSettings" [] "2022-09-01";
    }
}

object! {
    /// The container group profile that a group is made from.
    ContainerGroupProfileReference {
        /// The profile's resource id.
        id: Option<String> => "id" [] "2025-09-01" / "2024-05-01-preview";
        /// The profile's revision, from 1; absent: the latest.
        revision: Option<u32> => "revision" [] "2025-09-01" / "2024-05-01-preview";
    }
}

object! {
    /// The standby pool that a group is taken from.
    StandbyPoolProfile {
        /// The pool's resource id.
        id: Option<String> => "id" [] "2025-09-01" / "2024-05-01-preview";
        /// Whether the request fails when the pool has no group to give; absent or false: a new group is made.
        fail_container_group_create_on_reuse_failure: Option<bool> => "failContainerGroupCreateOnReuseFailure" [] "2025-09-01" / "2024-05-01-preview";
    }
}

object! {
    /// Who made and last changed a resource.
    SystemData {
        /// Who made it.
        created_by: Option<String> => "createdBy" [] "2025-09-01";
        /// The kind of identity that made it: `User`, `Application`, `ManagedIdentity` or `Key`.
        created_by_type: Option<String> => "createdByType" [] "2025-09-01";
        /// When it was made.
        created_at: Option<Timestamp> => "createdAt" [] "2025-09-01";
        /// Who changed it last.
        last_modified_by: Option<String> => "lastModifiedBy" [] "2025-09-01";
        /// The kind of identity that changed it last.
        last_modified_by_type: Option<String> => "lastModifiedByType" [] "2025-09-01";
        /// When it was changed last.
        last_modified_at: Option<Timestamp> => "lastModifiedAt" [] "2025-09-01";
    }
}
