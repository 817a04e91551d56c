use super::case;
use crate::model::{
    ContainerGroup, GpuResource, GpuSku, Identity, IdentityAccess, IdentityType,
    ImageRegistryCredential, LogType, OsType, Priority, ResourceRequests, RestartPolicy,
    SecretReference, Sku, UserAssignedIdentity,
};
use crate::validate::tests::Case;
use crate::validate::tests::group::IDENTITY;

fn login(group: &mut ContainerGroup) -> &mut ImageRegistryCredential {
    &mut group.properties.image_registry_credentials[0]
}

fn reference(group: &mut ContainerGroup) -> &mut SecretReference {
    &mut group.properties.secret_references[0]
}

fn identity(group: &mut ContainerGroup) -> &mut Identity {
    group.identity.get_or_insert_default()
}

fn requests(group: &mut ContainerGroup) -> &mut ResourceRequests {
    let resources = group.properties.containers[0]
        .properties
        .resources
        .get_or_insert_default();
    resources.requests.get_or_insert_default()
}

fn gpu(group: &mut ContainerGroup) {
    requests(group).gpu = Some(GpuResource {
        count: 1,
        sku: GpuSku::V100,
        ..GpuResource::default()
    });
}

fn no_network(group: &mut ContainerGroup) {
    group.properties.ip_address = None;
    group.properties.subnet_ids.clear();
}

/// One Windows container without anything that Windows lacks.
fn windows(group: &mut ContainerGroup) {
    no_network(group);
    let properties = &mut group.properties;
    properties.os_type = Some(OsType::Windows);
    properties.init_containers.clear();
    properties.containers.truncate(1);
    properties.containers[0].properties.volume_mounts.clear();
    if let Some(resources) = &mut properties.containers[0].properties.resources {
        resources.limits = None;
    }
    properties.volumes.clear();
}

fn spot(group: &mut ContainerGroup) {
    no_network(group);
    group.properties.priority = Some(Priority::Spot);
}

fn policy(group: &mut ContainerGroup, policy: String) {
    group.properties.sku = Some(Sku::Confidential);
    let compute = group
        .properties
        .confidential_compute_properties
        .get_or_insert_default();
    compute.cce_policy = Some(policy);
}

pub(super) const CASES: &[Case] = &[
    case!(
        |g| g.properties.os_type = None,
        "InvalidOsType",
        "properties.osType",
        "The 'osType' for container group 'shop' is invalid. The value must be one of 'Windows,Linux'.",
    ),
    case!(
        |g| {
            g.name = String::new();
            g.properties.os_type = Some(OsType::Other("BeOS".to_owned()));
        },
        "InvalidOsType",
        "properties.osType",
        "The 'osType' for container group '<null>' is invalid. The value must be one of 'Windows,Linux'. 'BeOS' is given.",
    ),
    case!(
        |g| g.properties.restart_policy = Some(RestartPolicy::Other("Sometimes".to_owned())),
        "InvalidRestartPolicy",
        "properties.restartPolicy",
        "The 'restartPolicy' 'Sometimes' for container group 'shop' is invalid. The value must be one of \
         'Always,OnFailure,Never'.",
    ),
    case!(
        |g| g.properties.sku = Some(Sku::Other("Gold".to_owned())),
        "InvalidSku",
        "properties.sku",
        "The 'sku' 'Gold' for container group 'shop' is invalid. The value must be one of \
         'Standard,NotSpecified,Dedicated,Confidential'.",
    ),
    case!(
        |g| g.properties.priority = Some(Priority::Other("Low".to_owned())),
        "PriorityNotSpecified",
        "properties.priority",
        "The 'Priority' must be one of 'Regular,Spot' for container group 'shop'.",
    ),
    case!(
        |g| {
            spot(g);
            g.properties
                .ip_address
                .get_or_insert_default()
                .ports
                .push(crate::model::Port {
                    port: 80,
                    ..Default::default()
                });
        },
        "SpotPriorityContainerGroupNotSupportedForInboundConnectivity",
        "properties.ipAddress",
        "Spot Priority is not supported for container groups with inbound connectivity. Remove 'ipAddress'.",
    ),
    case!(
        |g| {
            let subnets = g.properties.subnet_ids.clone();
            spot(g);
            g.properties.subnet_ids = subnets;
        },
        "SpotPriorityContainerGroupNotSupportedForInboundConnectivity",
        "properties.subnetIds",
        "Spot Priority is not supported for container groups with inbound connectivity. Remove 'subnetIds'.",
    ),
    case!(
        |g| {
            spot(g);
            policy(g, "cGFja2FnZSBwb2xpY3k=".to_owned());
        },
        "SpotPriorityContainerGroupNotSupportedInSku",
        "properties.sku",
        "Spot Priority Container Group is not supported in 'Confidential' Sku.",
    ),
    case!(
        |g| {
            spot(g);
            gpu(g);
        },
        "SpotPriorityContainerGroupWithGPUResourcesNotSupported",
        "properties.containers[0].properties.resources.requests.gpu",
        "Spot Priority Container Groups that include containers requesting GPU resources are not supported.",
    ),
    case!(
        |g| {
            spot(g);
            g.zones = vec!["1".to_owned()];
        },
        "SpotPriorityContainerGroupNotSupportedInZones",
        "zones",
        "Spot Priority is not supported for container groups with 'zones': '1'.",
    ),
    case!(
        |g| {
            let second = g.properties.containers[1].clone();
            windows(g);
            g.properties.containers.push(second);
            g.properties.containers[1].properties.volume_mounts.clear();
        },
        "NotSupportedOnWindows",
        "properties.containers",
        "Container group 'shop' is of 'osType' 'Windows' and has 2 containers; ACI runs one container in a Windows group.",
    ),
    case!(
        |g| {
            let volume = g.properties.volumes[0].clone();
            windows(g);
            g.properties.volumes.push(volume);
        },
        "NotSupportedOnWindows",
        "properties.volumes[0].emptyDir",
        "The volume 'scratch' in container group 'shop' is of kind 'emptyDir', which ACI mounts in Linux containers only.",
    ),
    case!(
        |g| {
            let subnets = g.properties.subnet_ids.clone();
            windows(g);
            g.properties.subnet_ids = subnets;
        },
        "NotSupportedOnWindows",
        "properties.subnetIds",
        "Container group 'shop' is of 'osType' 'Windows', which ACI does not deploy to a virtual network.",
    ),
    case!(
        |g| {
            windows(g);
            gpu(g);
        },
        "NotSupportedOnWindows",
        "properties.containers[0].properties.resources.requests.gpu",
        "Container group 'shop' is of 'osType' 'Windows' and asks for GPUs, which ACI gives to Linux containers only.",
    ),
    case!(
        |g| {
            windows(g);
            policy(g, "cGFja2FnZSBwb2xpY3k=".to_owned());
        },
        "ConfidentialContainerGroupSkuIsNotSupported",
        "properties.osType",
        "The sku 'Confidential' of container group 'shop' is not supported with 'osType' 'Windows'.",
    ),
    case!(
        |g| {
            policy(g, "cGFja2FnZSBwb2xpY3k=".to_owned());
            gpu(g);
        },
        "ConfidentialContainerGroupSkuIsNotSupported",
        "properties.containers[0].properties.resources.requests.gpu",
        "The sku 'Confidential' of container group 'shop' is not supported with GPUs.",
    ),
    case!(
        |g| policy(g, "package policy".to_owned()),
        "InvalidCcePolicy",
        "properties.confidentialComputeProperties.ccePolicy",
        "The 'ccePolicy' of container group 'shop' is not base64 encoded.",
    ),
    case!(
        |g| policy(g, "aaaa".repeat(30_721)),
        "InvalidCcePolicy",
        "properties.confidentialComputeProperties.ccePolicy",
        "The 'ccePolicy' of container group 'shop' has 122884 bytes; at most 122880 are allowed.",
    ),
    case!(
        |g| login(g).server = "https://registry.example.com".to_owned(),
        "InvalidImageRegistryServer",
        "properties.imageRegistryCredentials[0].server",
        "The server 'https://registry.example.com' in the 'imageRegistryCredentials' of container group 'shop' is \
         invalid. It should be a valid host name without protocol.",
    ),
    case!(
        |g| login(g).username = None,
        "InvalidRequestContent",
        "properties.imageRegistryCredentials[0].username",
        "Required property 'username' not found in JSON. Path 'properties.imageRegistryCredentials[0]'.",
    ),
    case!(
        |g| login(g).password_reference = None,
        "InvalidRequestContent",
        "properties.imageRegistryCredentials[0].password",
        "Required property 'password' not found in JSON. Path 'properties.imageRegistryCredentials[0]'.",
    ),
    case!(
        |g| login(g).password = Some("x".into()),
        "InvalidImageRegistryCredentialType",
        "properties.imageRegistryCredentials[0]",
        "The entry for server 'registry.example.com' in the 'imageRegistryCredentials' of container group 'shop' has \
         'password' and 'passwordReference'; give one of them.",
    ),
    case!(
        |g| login(g).identity = Some(IDENTITY.to_owned()),
        "InvalidImageRegistryCredentialType",
        "properties.imageRegistryCredentials[0]",
        "The entry for server 'registry.example.com' in the 'imageRegistryCredentials' of container group 'shop' has an \
         'identity' and a password; give one of them.",
    ),
    case!(
        |g| g.api_version = Some("2021-03-01".to_owned()),
        "InvalidImageRegistryCredentialType",
        "properties.imageRegistryCredentials[1].identity",
        "Identity in 'imageRegistryCredentials' of container group 'shop' is not supported. It needs api-version \
         2021-07-01 or later.",
    ),
    case!(
        |g| g.properties.image_registry_credentials[1].identity = Some("me".to_owned()),
        "InvalidImageRegistryIdentity",
        "properties.imageRegistryCredentials[1].identity",
        "The 'identity' 'me' in the 'imageRegistryCredentials' of container group 'shop' is invalid; the resource id of a \
         user-assigned managed identity is expected.",
    ),
    case!(
        |g| g.properties.image_registry_credentials[1].identity =
            Some(IDENTITY.replace("shop", "other")),
        "InvalidImageRegistryIdentity",
        "properties.imageRegistryCredentials[1].identity",
        "The 'identity' 'other' in the 'imageRegistryCredentials' is not among the 'userAssignedIdentities' of container \
         group 'shop'.",
    ),
    case!(
        |g| reference(g).secret_reference_uri = "http://vault".to_owned(),
        "InvalidSecretReference",
        "properties.secretReferences[0].secretReferenceUri",
        "The 'secretReferenceUri' of secret reference 'key' is 'http://vault'; an address such as \
         'https://<vault>/secrets/<name>' is expected.",
    ),
    case!(
        |g| reference(g).identity = "me".to_owned(),
        "InvalidSecretReference",
        "properties.secretReferences[0].identity",
        "The 'identity' of secret reference 'key' is 'me'; the resource id of a user-assigned managed identity is \
         expected.",
    ),
    case!(
        |g| {
            let again = reference(g).clone();
            g.properties.secret_references.push(again);
        },
        "InvalidSecretReference",
        "properties.secretReferences[1].name",
        "The secret reference 'key' is given more than once.",
    ),
    case!(
        |g| identity(g).type_ = Some(IdentityType::SystemAssigned),
        "InvalidIdentity",
        "identity.type",
        "The identity 'type' of container group 'shop' is 'SystemAssigned' and 'userAssignedIdentities' is not empty.",
    ),
    case!(
        |g| identity(g).type_ = Some(IdentityType::Other("Mine".to_owned())),
        "InvalidIdentity",
        "identity.type",
        "The identity 'type' 'Mine' of container group 'shop' is invalid. The value must be one of 'None', \
         'SystemAssigned', 'UserAssigned', 'SystemAssigned, UserAssigned'.",
    ),
    case!(
        |g| {
            let identities = &mut identity(g).user_assigned_identities;
            identities.insert("me".to_owned(), UserAssignedIdentity::default());
        },
        "InvalidIdentity",
        "identity.userAssignedIdentities.me",
        "The user-assigned identity 'me' of container group 'shop' is invalid; its resource id is expected.",
    ),
    case!(
        |g| {
            let acls = g.properties.identity_acls.get_or_insert_default();
            acls.default_access = Some(IdentityAccess::Other("Root".to_owned()));
        },
        "InvalidIdentityAcls",
        "properties.identityAcls.defaultAccess",
        "The access 'Root' in the 'identityAcls' of container group 'shop' is invalid. The value must be one of \
         'All,System,User'.",
    ),
    case!(
        |g| g.properties.identity_acls.get_or_insert_default().acls[0].identity =
            Some("you".to_owned()),
        "InvalidIdentityAcls",
        "properties.identityAcls.acls[0].identity",
        "The identity 'you' in the 'identityAcls' is not among the identities of container group 'shop'.",
    ),
    case!(
        |g| {
            let diagnostics = g.properties.diagnostics.get_or_insert_default();
            diagnostics.log_analytics.get_or_insert_default().log_type =
                Some(LogType::Other("All".to_owned()));
        },
        "InvalidLogAnalytics",
        "properties.diagnostics.logAnalytics.logType",
        "The 'logType' 'All' of container group 'shop' is invalid. The value must be one of \
         'ContainerInsights,ContainerInstanceLogs'.",
    ),
    case!(
        |g| {
            let diagnostics = g.properties.diagnostics.get_or_insert_default();
            diagnostics
                .log_analytics
                .get_or_insert_default()
                .workspace_key = None;
        },
        "InvalidRequestContent",
        "properties.diagnostics.logAnalytics.workspaceKey",
        "Required property 'workspaceKey' not found in JSON. Path 'properties.diagnostics.logAnalytics'.",
    ),
    case!(
        |g| g
            .properties
            .encryption_properties
            .get_or_insert_default()
            .vault_base_url = "vault".to_owned(),
        "InvalidEncryptionProperties",
        "properties.encryptionProperties.vaultBaseUrl",
        "The 'vaultBaseUrl' 'vault' of container group 'shop' is invalid; an address such as \
         'https://<vault>.vault.azure.net' is expected.",
    ),
    case!(
        |g| g.properties.extensions[0].name = String::new(),
        "InvalidExtension",
        "properties.extensions[0].name",
        "The extension '' of container group 'shop' needs a name, a type and a version.",
    ),
    case!(
        |g| g.properties.standby_pool_profile.get_or_insert_default().id = Some("pool".to_owned()),
        "InvalidContainerGroupProfileReference",
        "properties.standbyPoolProfile.id",
        "The standby pool 'pool' of container group 'shop' is invalid; its resource id is expected.",
    ),
    case!(
        |g| g.api_version = Some("2023".to_owned()),
        "InvalidApiVersionParameter",
        "apiVersion",
        "The api-version is invalid: '2023' is not an api-version: write a date such as 2023-05-01 or \
         2026-06-01-preview.",
    ),
    case!(
        |g| g.name = "my_shop".to_owned(),
        "InvalidContainerGroupName",
        "name",
        "The container group name 'my_shop' is invalid. It can contain only lowercase letters, numbers and hyphens, no \
         two hyphens in a row, and starts and ends with a letter or number. The value must be between 1 and 63 \
         characters long.",
    ),
    case!(
        |g| {
            g.tags.insert("a/b".to_owned(), String::new());
        },
        "InvalidTagNameCharacters",
        "tags['a/b']",
        "The tag name 'a/b' has reserved characters '<,>,%,&,\\,?,/' or control characters.",
    ),
    case!(
        |g| g
            .tags
            .extend((0..50).map(|i| (i.to_string(), String::new()))),
        "InvalidTags",
        "tags",
        "The resource has 51 tags; at most 50 are allowed.",
    ),
    case!(
        |g| {
            g.tags.insert("a".to_owned(), "x".repeat(257));
        },
        "InvalidTags",
        "tags.a",
        "The tag 'a' has a name of 1 and a value of 257 characters; names have 1 to 512, values at most 256.",
    ),
    case!(
        |g| g.zones = vec!["4".to_owned()],
        "InvalidZones",
        "zones[0]",
        "The zone '4' of container group 'shop' is invalid. The value must be one of '1,2,3'.",
    ),
    case!(
        |g| g.zones = vec!["1".to_owned(), "2".to_owned()],
        "InvalidZones",
        "zones",
        "Container group 'shop' has 2 zones; one is allowed.",
    ),
];
