use super::case;
use crate::model::{GpuResource, GpuSku};
use crate::validate::tests::Case;

/// Cases that leave the group valid.
pub(in crate::validate::tests) const WARNINGS: &[Case] = &[
    case!(
        |g| g.name = "myShop".to_owned(),
        "InvalidContainerGroupName",
        "name",
        "The container group name 'myShop' has capital letters, which ACI's naming rules leave out.",
    ),
    case!(
        |g| {
            g.properties.containers[0].properties.ports[0].port = 22;
            g.properties.ip_address.get_or_insert_default().ports[0].port = 22;
        },
        "ReservedPorts",
        "properties.containers[0].properties.ports[0].port",
        "The port '22' of container 'web' in container group 'shop' is reserved by ACI.",
    ),
    case!(
        |g| {
            let variables = &mut g.properties.containers[0].properties.environment_variables;
            let again = variables[0].clone();
            variables.push(again);
        },
        "NoEffect",
        "properties.containers[0].properties.environmentVariables[2].name",
        "The environment variable 'MODE' of container 'web' is given more than once; the last one counts.",
    ),
    case!(
        |g| {
            let probe = g.properties.containers[0]
                .properties
                .liveness_probe
                .get_or_insert_default();
            probe.success_threshold = Some(3);
        },
        "NoEffect",
        "properties.containers[0].properties.livenessProbe.successThreshold",
        "The 'successThreshold' '3' of the 'livenessProbe' of container 'web' has no effect: a failed liveness probe \
         restarts the container.",
    ),
    case!(
        |g| {
            let resources = g.properties.containers[0]
                .properties
                .resources
                .get_or_insert_default();
            resources.requests.get_or_insert_default().gpu = Some(GpuResource {
                count: 1,
                sku: GpuSku::V100,
                ..GpuResource::default()
            });
        },
        "MayFailLater",
        "properties.containers[0].properties.resources.requests.gpu",
        "Container 'web' of container group 'shop' asks for GPUs, which ACI has retired on 2025-07-14; another host may \
         have them.",
    ),
    case!(
        |g| {
            let share = g.properties.volumes[1].azure_file.get_or_insert_default();
            share.storage_account_name = "Shop".to_owned();
        },
        "MayFailLater",
        "properties.volumes[1].azureFile.storageAccountName",
        "The storage account 'Shop' of volume 'share' cannot exist: such names have 3 to 24 lowercase letters and \
         numbers.",
    ),
    case!(
        |g| g.properties.image_registry_credentials[0].server = "localhost:5000".to_owned(),
        "MayFailLater",
        "properties.imageRegistryCredentials[0].server",
        "The server 'localhost:5000' names a port, which ACI refuses in 'imageRegistryCredentials'.",
    ),
    case!(
        |g| {
            let compute = g
                .properties
                .confidential_compute_properties
                .get_or_insert_default();
            compute.cce_policy = Some("cGFja2FnZSBwb2xpY3k=".to_owned());
        },
        "NoEffect",
        "properties.confidentialComputeProperties.ccePolicy",
        "Container group 'shop' has a 'ccePolicy', which has an effect with 'sku' 'Confidential' only.",
    ),
];
