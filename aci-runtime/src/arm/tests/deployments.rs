//! Templates, and the resources beside groups that they have.

use serde_json::json;

use super::operations::polled;
use super::*;

fn at(rest: &str) -> String {
    format!("{RG}/providers/Microsoft.Resources/deployments/{rest}?api-version=2021-04-01")
}

/// A group in a subnet of its own, with a share of a storage account whose key the template asks for.
fn template() -> Value {
    json!({
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "parameters": {
            "name": {"type": "string"},
            "password": {"type": "securestring"}
        },
        "resources": [
            {
                "type": "Microsoft.ContainerInstance/containerGroups",
                "apiVersion": "2023-05-01",
                "name": "[parameters('name')]",
                "location": "[resourceGroup().location]",
                "dependsOn": ["[resourceId('Microsoft.Storage/storageAccounts', 'account1')]"],
                "properties": {
                    "osType": "Linux",
                    "containers": [{"name": "app", "properties": {
                        "image": "hello",
                        "environmentVariables": [
                            {"name": "PASSWORD", "secureValue": "[parameters('password')]"},
                            {"name": "KEY", "secureValue": "[listKeys(resourceId('Microsoft.Storage/storageAccounts', 'account1'), '2023-01-01').keys[0].value]"}
                        ],
                        "ports": [{"port": 80}],
                        "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}
                    }}],
                    "ipAddress": {"type": "Public", "ports": [{"port": 80}]}
                }
            },
            {
                "type": "Microsoft.Storage/storageAccounts",
                "apiVersion": "2023-01-01",
                "name": "account1",
                "location": "local",
                "sku": {"name": "Standard_LRS"},
                "kind": "StorageV2",
                "properties": {}
            },
            {
                "type": "Microsoft.Network/virtualNetworks",
                "apiVersion": "2023-04-01",
                "name": "net",
                "location": "local",
                "properties": {
                    "addressSpace": {"addressPrefixes": ["10.9.0.0/16"]},
                    "subnets": [{"name": "inner", "properties": {"addressPrefix": "10.9.1.0/24"}}]
                }
            }
        ],
        "outputs": {
            "ip": {"type": "string", "value": "[reference(resourceId('Microsoft.ContainerInstance/containerGroups', parameters('name'))).ipAddress.ip]"},
            "secret": {"type": "securestring", "value": "[parameters('password')]"}
        }
    })
}

fn body(template: &Value) -> Value {
    json!({"properties": {
        "mode": "Incremental",
        "template": template,
        "parameters": {"name": {"value": "deployed"}, "password": {"value": "hunter2-in-clear"}}
    }})
}

#[tokio::test]
async fn a_template_is_deployed_in_the_order_of_its_dependencies() {
    let api = open().await;
    let missing = ask(&api, Method::PUT, &at("d"), Some(body(&template()))).await;
    assert_eq!(missing.body["error"]["code"], "ResourceGroupNotFound");
    let rg = format!("{RG}?api-version=2021-04-01");
    ask(&api, Method::PUT, &rg, Some(json!({"location": "local"}))).await;
    let valid = ask(
        &api,
        Method::POST,
        &at("d/validate"),
        Some(body(&template())),
    )
    .await;
    assert_eq!(valid.status, StatusCode::OK, "{}", valid.body);
    assert_eq!(
        valid.body["properties"]["validatedResources"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert!(
        api.front.engine.list().is_empty(),
        "validating makes nothing"
    );

    let begun = ask(&api, Method::PUT, &at("d"), Some(body(&template()))).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.body);
    let link = begun.headers["azure-asyncoperation"].to_str().unwrap();
    let done = polled(&api, link).await;
    assert_eq!(done.body["status"], "Succeeded", "{}", done.body);
    let got = ask(&api, Method::GET, &at("d"), None).await;
    let properties = &got.body["properties"];
    assert_eq!(properties["provisioningState"], "Succeeded");
    let group = format!(
        "{RG}/providers/Microsoft.ContainerInstance/containerGroups/deployed?api-version=2023-05-01"
    );
    let group = ask(&api, Method::GET, &group, None).await;
    assert_eq!(
        properties["outputs"]["ip"]["value"],
        group.body["properties"]["ipAddress"]["ip"]
    );
    assert!(properties["outputs"]["ip"]["value"].is_string());
    assert_eq!(
        properties["outputs"]["secret"],
        json!({"type": "SecureString"})
    );
    assert!(
        !got.body.to_string().contains("hunter2"),
        "a secret is shown"
    );
    assert_eq!(properties["outputResources"].as_array().unwrap().len(), 3);
    let steps = ask(&api, Method::GET, &at("d/operations"), None).await;
    for step in steps.body["value"].as_array().unwrap() {
        assert_eq!(step["properties"]["provisioningState"], "Succeeded");
    }
    // The account's key went into the group as `listKeys` answers it.
    let keys = format!(
        "{RG}/providers/Microsoft.Storage/storageAccounts/account1/listKeys?api-version=2023-01-01"
    );
    let keys = ask(&api, Method::POST, &keys, None).await;
    let key = keys.body["keys"][0]["value"].as_str().unwrap();
    let account =
        format!("{RG}/providers/Microsoft.Storage/storageAccounts/account1?api-version=2023-01-01");
    let account = ask(&api, Method::GET, &account, None).await;
    assert!(!account.body.to_string().contains(key), "the key is shown");
    let net =
        format!("{RG}/providers/Microsoft.Network/virtualNetworks/net?api-version=2023-04-01");
    let net = ask(&api, Method::GET, &net, None).await;
    assert_eq!(net.body["properties"]["subnets"][0]["name"], "inner");
    // Once more: nothing changes, and it succeeds again.
    let again = ask(&api, Method::PUT, &at("d"), Some(body(&template()))).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.body);
    let link = again.headers["azure-asyncoperation"].to_str().unwrap();
    assert_eq!(polled(&api, link).await.body["status"], "Succeeded");
}

#[tokio::test]
async fn what_is_wrong_with_a_template_is_told_before_anything_is_made() {
    let api = open().await;
    let rg = format!("{RG}?api-version=2021-04-01");
    ask(&api, Method::PUT, &rg, Some(json!({"location": "local"}))).await;
    let mut wrong = template();
    wrong["resources"][0]["properties"]["osType"] = json!("Solaris");
    // A group that waits for a key is judged when the key is known; this one is not.
    wrong["resources"][0]["properties"]["containers"][0]["properties"]["environmentVariables"] =
        json!([]);
    wrong["resources"][2]["type"] = json!("Microsoft.Compute/virtualMachines");
    let answer = ask(&api, Method::PUT, &at("d"), Some(body(&wrong))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let error = &answer.body["error"];
    assert_eq!(error["code"], "InvalidTemplateDeployment");
    let codes: Vec<_> = error["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["code"].as_str().unwrap())
        .collect();
    assert!(codes.contains(&"InvalidOsType"), "{error}");
    assert!(codes.contains(&"NoRegisteredProviderFound"), "{error}");
    let answer = ask(&api, Method::GET, &at("d"), None).await;
    assert_eq!(answer.body["error"]["code"], "DeploymentNotFound");
    assert!(api.front.engine.list().is_empty());
}

#[tokio::test]
async fn a_deployment_that_fails_says_where() {
    let api = open().await;
    let rg = format!("{RG}?api-version=2021-04-01");
    ask(&api, Method::PUT, &rg, Some(json!({"location": "local"}))).await;
    let mut big = template();
    // More than any machine has; only admission finds that.
    big["resources"][0]["properties"]["containers"][0]["properties"]["resources"]["requests"]["memoryInGB"] =
        json!(900_000);
    let begun = ask(&api, Method::PUT, &at("d"), Some(body(&big))).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.body);
    let link = begun.headers["azure-asyncoperation"].to_str().unwrap();
    let done = polled(&api, link).await;
    assert_eq!(done.body["status"], "Failed");
    let got = ask(&api, Method::GET, &at("d"), None).await;
    assert_eq!(got.body["properties"]["error"]["code"], "DeploymentFailed");
    let steps = ask(&api, Method::GET, &at("d/operations"), None).await;
    let failed: Vec<_> = steps.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|s| s["properties"]["provisioningState"] == "Failed")
        .collect();
    assert_eq!(failed.len(), 1, "{}", steps.body);
    assert_eq!(
        failed[0]["properties"]["statusMessage"]["error"]["code"],
        "ServiceUnavailable"
    );
}

/// The Azure CLI puts the template's own text behind the rest of the body, without quotes around its
/// name, and asks for the steps without the provider.
#[tokio::test]
async fn a_template_is_taken_as_the_azure_cli_sends_it() {
    let api = open().await;
    let rg = format!("{RG}?api-version=2021-04-01");
    ask(&api, Method::PUT, &rg, Some(json!({"location": "local"}))).await;
    let mut rest = body(&template());
    rest["properties"]
        .as_object_mut()
        .unwrap()
        .remove("template");
    let rest = rest.to_string();
    let text = format!(
        "{}, template:// a comment\r\n{:#}}}}}",
        rest.strip_suffix("}}").unwrap(),
        template()
    );
    let would = ask(&api, Method::POST, &at("d/whatIf"), Some(json!(text))).await;
    assert_eq!(would.status, StatusCode::OK, "{}", would.body);
    let kinds = |answer: &Answer| {
        let changes = answer.body["properties"]["changes"].as_array().unwrap();
        let kinds: Vec<_> = changes
            .iter()
            .map(|c| c["changeType"].as_str().unwrap().to_owned())
            .collect();
        kinds.join(" ")
    };
    assert_eq!(kinds(&would), "Create Create Create");
    assert!(!would.body.to_string().contains("hunter2"));
    assert!(api.front.engine.list().is_empty(), "asking makes nothing");
    let begun = ask(&api, Method::PUT, &at("d"), Some(json!(text))).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.body);
    let link = begun.headers["azure-asyncoperation"].to_str().unwrap();
    assert_eq!(polled(&api, link).await.body["status"], "Succeeded");
    let steps = format!("{RG}/deployments/d/operations?api-version=2021-04-01");
    let steps = ask(&api, Method::GET, &steps, None).await;
    assert_eq!(steps.body["value"].as_array().unwrap().len(), 3);
    let mut fewer = template();
    fewer["resources"].as_array_mut().unwrap().remove(2);
    for (mode, wanted) in [
        ("Incremental", "Deploy Deploy Ignore"),
        ("Complete", "Deploy Deploy Delete"),
    ] {
        let mut asked = body(&fewer);
        asked["properties"]["mode"] = json!(mode);
        let would = ask(&api, Method::POST, &at("d/whatIf"), Some(asked)).await;
        assert_eq!(kinds(&would), wanted);
    }
}
