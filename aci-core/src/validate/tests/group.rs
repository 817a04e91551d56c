//! A valid group that uses every kind of property.

use crate::model::ContainerGroup;

pub(super) fn valid_group() -> ContainerGroup {
    serde_json::from_value::<ContainerGroup>(serde_json::json!({
        "name": "shop",
        "location": "westeurope",
        "tags": { "team": "web" },
        "identity": {
            "type": "UserAssigned",
            "userAssignedIdentities": { IDENTITY: {} },
        },
        "properties": {
            "osType": "Linux",
            "sku": "Standard",
            "priority": "Regular",
            "restartPolicy": "OnFailure",
            "secretReferences": [{
                "name": "key",
                "identity": IDENTITY,
                "secretReferenceUri": "https://vault.example.net/secrets/key/1",
            }],
            "initContainers": [{
                "name": "setup",
                "properties": {
                    "image": "busybox:1.36",
                    "command": ["/bin/sh", "-c", "true"],
                    "volumeMounts": [{ "name": "scratch", "mountPath": "/work" }],
                },
            }],
            "containers": [
                {
                    "name": "web",
                    "properties": {
                        "image": "registry.example.com/shop/web:1.0",
                        "ports": [{ "port": 80 }, { "port": 5353, "protocol": "UDP" }],
                        "resources": {
                            "requests": { "cpu": 1, "memoryInGB": 1.5 },
                            "limits": { "cpu": 1.5, "memoryInGB": 2 },
                        },
                        "environmentVariables": [
                            { "name": "MODE", "value": "fast" },
                            { "name": "TOKEN", "secureValueReference": "key" },
                        ],
                        "livenessProbe": { "httpGet": { "path": "/", "port": 80 }, "periodSeconds": 5 },
                        "readinessProbe": { "exec": { "command": ["true"] } },
                        "volumeMounts": [
                            { "name": "share", "mountPath": "/srv" },
                            { "name": "passwords", "mountPath": "/run/secrets" },
                            { "name": "sources", "mountPath": "/src" },
                        ],
                        "securityContext": {
                            "capabilities": { "add": ["CAP_NET_ADMIN"], "drop": ["ALL"] },
                            "runAsUser": 1000,
                            "seccompProfile": "eyJkZWZhdWx0QWN0aW9uIjoiU0NNUF9BQ1RfQUxMT1cifQ==",
                        },
                        "configMap": { "keyValuePairs": { "app.conf": "x=1" } },
                    },
                },
                {
                    "name": "log",
                    "properties": {
                        "image": "busybox",
                        "resources": { "requests": { "cpu": 0.5, "memoryInGB": 0.5 } },
                        "volumeMounts": [{ "name": "scratch", "mountPath": "/work" }],
                    },
                },
            ],
            "volumes": [
                { "name": "scratch", "emptyDir": {} },
                {
                    "name": "share",
                    "azureFile": { "shareName": "data", "storageAccountName": "shop1", "storageAccountKeyReference": "key" },
                },
                { "name": "passwords", "secret": { "db": "cGFzc3dvcmQ=" } },
                { "name": "vaulted", "secretReference": { "db": "key" } },
                {
                    "name": "sources",
                    "gitRepo": { "repository": "https://git.example.com/x.git", "directory": ".", "revision": "0a1b2c3d" },
                },
            ],
            "ipAddress": {
                "type": "Private",
                "ports": [{ "port": 80, "protocol": "TCP" }, { "port": 5353, "protocol": "UDP" }],
            },
            "subnetIds": [{
                "id": "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/a",
            }],
            "dnsConfig": { "nameServers": ["10.0.0.10"], "searchDomains": "a.example b_c.example.", "options": "ndots:2" },
            "imageRegistryCredentials": [
                { "server": "registry.example.com", "username": "puller", "passwordReference": "key" },
                { "server": "other.example.com", "identity": IDENTITY },
            ],
            "diagnostics": {
                "logAnalytics": { "workspaceId": "id", "logType": "ContainerInsights" },
            },
            "encryptionProperties": {
                "vaultBaseUrl": "https://vault.example.net",
                "keyName": "disk",
                "keyVersion": "1",
                "identity": IDENTITY,
            },
            "identityAcls": { "defaultAccess": "User", "acls": [{ "access": "All", "identity": IDENTITY }] },
            "extensions": [{ "name": "proxy", "properties": { "extensionType": "kube-proxy", "version": "1.0" } }],
            "standbyPoolProfile": {
                "id": "/subscriptions/s/resourceGroups/rg/providers/Microsoft.StandbyPool/standbyContainerGroupPools/p",
            },
        },
    }))
    .map(|mut group| {
        if let Some(workspace) = group.properties.diagnostics.as_mut().and_then(|d| d.log_analytics.as_mut()) {
            workspace.workspace_key = Some("a2V5".into());
        }
        group
    })
    .unwrap()
}

/// A user-assigned identity.
pub(in crate::validate) const IDENTITY: &str = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop";
