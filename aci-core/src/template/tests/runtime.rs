//! What only the running deployment knows.

use serde_json::{Value, json};

use super::*;
use crate::template::{ListRequest, ReferenceRequest, RuntimeResolver, StorageKeys};

struct Runtime;

impl RuntimeResolver for Runtime {
    fn reference(&self, request: &ReferenceRequest<'_>) -> Option<Value> {
        let running = request.resource_id.ends_with("/containerGroups/web");
        let state = json!({"ipAddress": {"ip": "10.0.0.4"}, "provisioningState": "Succeeded"});
        running.then(|| {
            if request.full {
                json!({"location": "x", "properties": state})
            } else {
                state
            }
        })
    }

    fn list(&self, request: &ListRequest<'_>) -> Option<Value> {
        assert_eq!(request.api_version, Some("2019-06-01"));
        request
            .resource_id
            .ends_with("/storageAccounts/store")
            .then(|| json!({"keys": [{"value": "KEY"}]}))
    }
}

fn waiting_template() -> Template {
    Template::from_value(json!({
        "resources": [
            { "type": "Microsoft.Storage/storageAccounts", "apiVersion": "2019-06-01", "name": "store" },
            group("web", json!({
                "properties": {
                    "osType": "Linux", "containers": [],
                    "volumes": [{ "name": "v", "azureFile": { "shareName": "s", "storageAccountName": "store",
                        "storageAccountKey": "[listKeys('store', '2019-06-01').keys[0].value]" } }],
                },
                "tags": { "kind": "[reference(resourceId('Microsoft.Storage/storageAccounts', 'store')).nothing]" },
            })),
            group("other", json!({ "tags": {
                "os": "[reference('web').osType]",
                "key": "[reference('web').volumes[0].azureFile.storageAccountKey]",
                "all": "[string(reference('web'))]" } })),
        ],
        "outputs": {
            "ip": { "type": "string", "value": "[reference('web').ipAddress.ip]" },
            "state": { "type": "string", "value": "[reference('web', '2023-05-01', 'Full').properties.provisioningState]" },
            "far": { "type": "string", "value": "[reference('/subscriptions/s/resourceGroups/r/providers/A.B/c/d', '1').e]" },
        },
    }))
    .unwrap()
}

#[test]
fn what_only_the_deployment_knows_waits() {
    let template = waiting_template();
    let evaluated = template.evaluate(&context()).unwrap();
    assert_eq!(names(&evaluated), ["store", "web", "other"]);
    let web = &evaluated.resources[1];
    assert_eq!(web.depends_on.len(), 1, "listKeys makes a dependency");
    assert_eq!(web.pending.len(), 2);
    assert_eq!(
        web.pending[0].path,
        "resources[1].properties.volumes[0].azureFile.storageAccountKey"
    );
    assert_eq!(
        web.value["properties"]["volumes"][0]["azureFile"]["storageAccountKey"],
        "[listKeys('store', '2019-06-01').keys[0].value]"
    );
    let error = web.complete().unwrap_err();
    assert_eq!(error.kind(), TemplateErrorKind::Runtime);
    assert!(error.to_string().contains("[listKeys('store'"), "{error}");
    let other = &evaluated.resources[2];
    assert_eq!(other.value["tags"]["os"], "Linux");
    assert_eq!(other.pending.len(), 2, "{:?}", other.pending);
    assert!(
        evaluated
            .outputs
            .iter()
            .all(|output| output.complete().is_err())
    );
    let error = evaluated.container_groups().unwrap_err();
    assert_eq!(error.aci_code(), Some("InvalidTemplate"));
    assert!(
        error
            .problems()
            .iter()
            .any(|problem| problem.path == web.pending[0].path),
        "{error}"
    );

    // To check the group, the expressions will do.
    let reading = evaluated.read(web);
    assert_eq!(reading.problems, []);
    assert_eq!(reading.document.groups[0].name, "web");
    assert_eq!(reading.document.warnings.len(), 2);

    let evaluated = template.evaluate(&context().resolver(&Runtime)).unwrap();
    let web = &evaluated.resources[1];
    assert_eq!(
        web.value["properties"]["volumes"][0]["azureFile"]["storageAccountKey"],
        "KEY"
    );
    assert_eq!(
        evaluated.output("IP").unwrap().complete().unwrap(),
        "10.0.0.4"
    );
    assert_eq!(
        evaluated.output("state").unwrap().complete().unwrap(),
        "Succeeded"
    );
    assert!(evaluated.output("far").unwrap().complete().is_err());
}

#[test]
fn storage_keys_answer_by_account() {
    let keys = StorageKeys::new().account("Store", "SECRET");
    let evaluated = waiting_template()
        .evaluate(&context().resolver(&keys))
        .unwrap();
    assert_eq!(
        evaluated.resources[1].value["properties"]["volumes"][0]["azureFile"]["storageAccountKey"],
        "SECRET"
    );
    assert_eq!(evaluated.resources[1].pending.len(), 1);
}
