//! Tests of the model by way of serde.

use serde_json::json;

use super::*;
use crate::document::SecretMode;

#[test]
fn a_group_is_read_with_keys_in_any_case_and_scalars_of_either_kind() {
    let group: ContainerGroup = serde_json::from_value(json!({
        "Name": "g", "location": "westus", "tags": null,
        "properties": {
            "osType": "linux",
            "containers": [{"name": "web", "properties": {
                "image": "nginx", "ports": [{"port": "80", "protocol": "tcp"}],
                "resources": {"requests": {"cpu": "1.5", "memoryInGb": 1}},
                "environmentVariables": [{"name": "A", "value": 1}, {"name": "B", "secureValue": "hunter2"}],
            }}],
            "ipAddress": {"type": "public", "ports": [{"port": 80.0}], "dnsNameLabelReusePolicy": "tenantreuse"},
            "identity": 3,
        },
    }))
    .unwrap();
    assert_eq!(group.name, "g");
    let web = &group.container("web").unwrap().properties;
    assert_eq!(
        web.ports,
        [ContainerPort {
            protocol: Some(Protocol::Tcp),
            port: 80,
            ..Default::default()
        }]
    );
    assert_eq!(web.environment_variables[0].value.as_deref(), Some("1"));
    let requests = web.resources.as_ref().unwrap().requests.as_ref().unwrap();
    assert_eq!(
        (requests.cpu, requests.memory_in_gb),
        (Some(1.5), Some(1.0))
    );
    let ip = group.properties.ip_address.as_ref().unwrap();
    assert_eq!(
        ip.dns_name_label_reuse_policy,
        Some(DnsNameLabelReusePolicy::TenantReuse)
    );
    assert_eq!(group.properties.unknown.get("identity"), Some(&json!(3)));

    let written = serde_json::to_value(&group).unwrap();
    let requests = &written["properties"]["containers"][0]["properties"]["resources"]["requests"];
    assert_eq!(requests.to_string(), r#"{"memoryInGB":1,"cpu":1.5}"#);
    assert!(!written.to_string().contains("hunter2"));
    assert!(!format!("{group:?}").contains("hunter2"));
}

#[test]
fn a_missing_name_is_named() {
    let read = serde_json::from_value::<ContainerGroup>(
        json!({"properties": {"containers": [{"properties": {}}]}}),
    );
    let message = read.unwrap_err().to_string();
    assert_eq!(
        message,
        "Required property 'name' not found in JSON. Path 'properties.containers[0]'."
    );
}

#[test]
fn values_that_are_not_known_are_kept() {
    let policy: RestartPolicy = serde_json::from_value(json!("Sometimes")).unwrap();
    assert_eq!(policy, RestartPolicy::Other("Sometimes".into()));
    assert_eq!(
        IdentityType::from("SystemAssigned,userassigned"),
        IdentityType::SystemAssignedUserAssigned
    );
}

#[test]
fn every_version_literal_of_the_tables_is_read() {
    fn check(rows: &[codec::PropertyRow]) {
        for row in rows {
            assert!(
                row.since.stable.or(row.since.preview).is_some(),
                "{}",
                row.name
            );
            let mut shape = row.shape;
            while let codec::Shape::List(inner) | codec::Shape::Map(inner) = shape {
                shape = inner;
            }
            if let codec::Shape::Object(rows) = shape {
                check(rows);
            }
        }
    }
    check(ContainerGroup::ROWS);
    check(ContainerGroupProfile::ROWS);
}

#[test]
fn replies_carry_secrets_as_aci_does() {
    let properties: ContainerGroupProperties = serde_json::from_value(json!({
        "volumes": [
            {"name": "files", "secret": {"a": "aHVudGVyMg=="}},
            {"name": "share", "azureFile": {"shareName": "s", "storageAccountName": "n", "storageAccountKey": "hunter2"}},
        ],
        "imageRegistryCredentials": [{"server": "r", "username": "u", "password": "hunter2"}],
        "diagnostics": {"logAnalytics": {"workspaceId": "w", "workspaceKey": "hunter2"}},
        "extensions": [{"name": "e", "properties": {"extensionType": "t", "version": "1", "protectedSettings": {"a": 1}}}],
        "provisioningTimeoutInSeconds": 1800,
    }))
    .unwrap();
    assert_eq!(
        properties.volumes[0].secret.as_ref().unwrap()["a"].expose(),
        "aHVudGVyMg=="
    );
    assert_eq!(
        serde_json::to_value(&properties).unwrap(),
        json!({
            "volumes": [
                {"name": "files", "secret": {}},
                {"name": "share", "azureFile": {"shareName": "s", "storageAccountName": "n"}},
            ],
            "imageRegistryCredentials": [{"server": "r", "username": "u"}],
            "diagnostics": {"logAnalytics": {"workspaceId": "w"}},
            "extensions": [{"name": "e", "properties": {"extensionType": "t", "version": "1"}}],
            "provisioningTimeoutInSeconds": 1800,
        })
    );
}

#[test]
fn an_empty_directory_may_be_in_memory() {
    let volume: Volume = serde_json::from_value(
        json!({"name": "cache", "emptyDir": {"Medium": "memory", "sizeLimitInGb": "0.5"}}),
    )
    .unwrap();
    let directory = volume.empty_dir.unwrap();
    assert!(directory.in_memory());
    assert_eq!(directory.size_limit_in_gb(), Some(0.5));
    let plain = EmptyDir::default();
    assert!(!plain.in_memory() && plain.size_limit_in_gb().is_none());
    assert_eq!(serde_json::to_string(&plain).unwrap(), "{}");
}

#[test]
fn the_login_in_a_repositorys_address_is_in_no_reply_and_comes_back_from_a_journal() {
    for (whole, shown) in [
        (
            "https://me:hunter2@git.example/a/b.git",
            "https://git.example/a/b.git",
        ),
        (
            "https://hunter2@git.example:8443/a",
            "https://git.example:8443/a",
        ),
        ("https://me:hun@ter2@git.example/a", "https://git.example/a"),
        ("https://me:hunter/2@git.example/a", "https://git.example/a"),
        ("https://git.example/a@b", "https://git.example/a@b"),
        ("https://git.example:443/a@b", "https://git.example:443/a@b"),
        ("git.example", "git.example"),
    ] {
        let text = format!(
            "name: g\nproperties:\n  containers: []\n  volumes:\n  - {{name: source, gitRepo: {{repository: '{whole}'}}}}\n"
        );
        let group = ContainerGroup::from_yaml(&text).unwrap();
        let address = |group: &ContainerGroup| {
            let volume = &group.properties.volumes[0];
            volume.git_repo.as_ref().unwrap().repository.clone()
        };
        assert_eq!(address(&group).expose(), whole);
        let reply = group.to_json(SecretMode::Redact);
        assert!(!reply.contains("hun"), "{reply}");
        let again = ContainerGroup::from_json(&reply).unwrap();
        assert_eq!(address(&again).expose(), shown);
        assert!(!format!("{group:?}").contains("hun"), "{group:?}");
        let journal = group.to_json(SecretMode::Reveal);
        assert_eq!(ContainerGroup::from_json(&journal).unwrap(), group);
    }
}
