//! Rules that depend on what [`Rules`] say.

use super::*;
use crate::model::{Sku, Volume};

/// Codes that are shown here, or in the tests of profiles, only.
pub(super) const CODES: [&str; 2] = ["PropertyNotInApiVersion", "InvalidContainerGroupProfile"];

#[test]
fn a_reply_needs_no_secrets() {
    let mut group = valid_group();
    let properties = &mut group.properties;
    properties.containers[0].properties.environment_variables[1].secure_value_reference = None;
    properties.image_registry_credentials[0].password_reference = None;
    for share in properties
        .volumes
        .iter_mut()
        .filter_map(|v: &mut Volume| v.azure_file.as_mut())
    {
        share.storage_account_key_reference = None;
    }
    if let Some(workspace) = properties
        .diagnostics
        .as_mut()
        .and_then(|d| d.log_analytics.as_mut())
    {
        workspace.workspace_key = None;
    }
    assert_eq!(told(&validate(&group, &Rules::for_reply()).problems), []);
    let request = validate(&group, &Rules::default());
    assert_eq!(request.problems.len(), 4, "{:#?}", request.problems);
}

#[test]
fn a_name_can_be_demanded() {
    let mut group = valid_group();
    group.name = String::new();
    assert!(validate(&group, &Rules::default()).is_valid());
    let rules = Rules {
        name_may_be_absent: false,
        ..Rules::default()
    };
    let report = validate(&group, &rules);
    let expected = "Required property 'name' not found in JSON. Path ''.";
    assert_eq!(
        told(&report.problems),
        [("InvalidRequestContent", "name", expected)]
    );
}

#[test]
fn reserved_ports_and_the_minimum_can_be_enforced() {
    let rules = Rules {
        reserved_port_use: Severity::Refuse,
        below_minimum: Severity::Refuse,
        ..Rules::default()
    };
    let mut group = valid_group();
    group.properties.containers[0].properties.ports[0].port = 3390;
    if let Some(address) = &mut group.properties.ip_address {
        address.ports[0].port = 3390;
    }
    let message =
        "The port '3390' of container 'web' in container group 'shop' is reserved by ACI.";
    let path = "properties.containers[0].properties.ports[0].port";
    assert_eq!(
        told(&validate(&group, &rules).problems),
        [("ReservedPorts", path, message)]
    );

    let mut group = valid_group();
    group.properties.containers.remove(0);
    group.properties.ip_address = None;
    let report = validate(&group, &rules);
    assert_eq!(
        told(&report.problems),
        [(
            "InvalidResourceRequests",
            "properties.containers",
            "Container group 'shop' requests '0.5' CPU and '0.5' GB memory in total; ACI documents a minimum of '1' CPU \
             and '1' GB memory for a group."
        )]
    );
}

#[test]
fn confidential_groups_can_be_unknown_to_a_region() {
    let mut group = valid_group();
    group.properties.sku = Some(Sku::Confidential);
    let policy = serde_json::json!({ "ccePolicy": "cGFja2FnZSBwb2xpY3k=" });
    group.properties.confidential_compute_properties = serde_json::from_value(policy).ok();
    assert!(validate(&group, &Rules::default()).is_valid());
    let rules = Rules {
        confidential: false,
        ..Rules::default()
    };
    assert_eq!(
        told(&validate(&group, &rules).problems),
        [(
            "ConfidentialContainerGroupSkuIsNotSupported",
            "properties.sku",
            "The sku 'Confidential' of container group 'shop' is not supported in the location 'westeurope'."
        )]
    );
}

#[test]
fn a_property_that_the_api_version_does_not_know_is_a_warning() {
    let mut group = valid_group();
    group.properties.image_registry_credentials.pop();
    let report = validate(&group, &Rules::default().at("2023-05-01".parse().unwrap()));
    assert_eq!(told(&report.problems), []);
    let paths: Vec<&str> = report.warnings.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "properties.secretReferences",
            "properties.containers[0].properties.environmentVariables[1].secureValueReference",
            "properties.containers[0].properties.configMap",
            "properties.imageRegistryCredentials[0].passwordReference",
            "properties.volumes[1].azureFile.storageAccountKeyReference",
            "properties.volumes[3].secretReference",
            "properties.identityAcls",
            "properties.standbyPoolProfile",
        ]
    );
    assert_eq!(
        told(&report.warnings[..1])[0],
        (
            "PropertyNotInApiVersion",
            "properties.secretReferences",
            "Property 'secretReferences' is known from api-version 2025-09-01 on; the document names 2023-05-01."
        )
    );
    group.api_version = Some("2026-07-01".to_owned());
    let report = validate(&group, &Rules::default().at("2023-05-01".parse().unwrap()));
    assert_eq!(
        told(&report.warnings),
        [],
        "the document's own version counts"
    );
}

#[test]
fn a_group_of_a_profile_may_leave_things_to_it() {
    let id = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ContainerInstance/containerGroupProfiles/p";
    let group: ContainerGroup = serde_json::from_value(serde_json::json!({
        "properties": { "containerGroupProfile": { "id": id, "revision": 1 } }
    }))
    .unwrap();
    assert_eq!(told(&validate(&group, &Rules::default()).problems), []);
}
