//! Nested deployments.

use serde_json::json;

use super::*;

#[test]
fn nested_deployments() {
    let nested = |scope: &str| {
        json!({
            "parameters": { "p": { "type": "string", "defaultValue": "outer" } },
            "variables": { "v": "outer" },
            "resources": [
                { "type": "Microsoft.Resources/deployments", "apiVersion": "2020-10-01", "name": "inside", "resourceGroup": "rg2",
                  "properties": {
                    "mode": "Incremental", "expressionEvaluationOptions": { "scope": scope },
                    "parameters": { "p": { "value": "[concat(parameters('p'), '-given')]" } },
                    "template": {
                        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
                        "parameters": { "p": { "type": "string" } }, "variables": { "v": "inner" },
                        "resources": [group("[concat(variables('v'), '-', parameters('p'))]", json!({ "tags": { "rg": "[resourceGroup().name]", "d": "[deployment().name]" } }))],
                        "outputs": { "o": { "type": "string", "value": "[parameters('p')]" } },
                    } } },
                group("last", json!({ "tags": { "got": "[reference('inside').outputs.o.value]" } })),
            ],
        })
    };
    let inner = evaluate(nested("inner")).unwrap();
    assert_eq!(names(&inner), ["inside", "inner-outer-given", "last"]);
    assert_eq!(
        inner.resources[1].value["tags"],
        json!({"rg": "rg2", "d": "inside"})
    );
    assert_eq!(inner.resources[1].deployment, "inside");
    assert!(inner.resources[1].id.contains("/resourceGroups/rg2/"));
    assert_eq!(
        inner.resources[1].path,
        "resources[0].properties.template.resources[0]"
    );
    assert_eq!(inner.resources[2].value["tags"]["got"], "outer-given");
    assert_eq!(inner.container_groups().unwrap().len(), 2);
    let outer = evaluate(nested("Outer")).unwrap();
    assert_eq!(names(&outer), ["inside", "outer-outer", "last"]);
    assert_eq!(
        outer.resources[1].value["tags"],
        json!({"rg": "rg", "d": "main"})
    );
    assert_eq!(outer.resources[2].value["tags"]["got"], "outer");
    let linked = json!({ "resources": [{ "type": "Microsoft.Resources/deployments", "apiVersion": "1", "name": "l",
        "properties": { "templateLink": { "uri": "https://example.org/t.json" } } }] });
    refused(
        evaluate(linked),
        TemplateErrorKind::Unsupported,
        &[
            "https://example.org/t.json",
            "resources[0].properties.templateLink",
        ],
    );
}

#[test]
fn nested_deployments_hand_on_what_waits() {
    let evaluated = evaluate(json!({
        "resources": [
            { "type": "Microsoft.ManagedIdentity/userAssignedIdentities", "apiVersion": "1", "name": "id" },
            { "type": "Microsoft.Resources/deployments", "apiVersion": "1", "name": "d", "properties": {
                "expressionEvaluationOptions": { "scope": "inner" },
                "parameters": { "who": { "value": "[reference('id').principalId]" } },
                "template": {
                    "parameters": { "who": { "type": "string" } },
                    "resources": [group("g", json!({ "tags": { "who": "[parameters('who')]", "fixed": "x" } }))],
                    "outputs": { "who": { "type": "string", "value": "[parameters('who')]" } } } } },
        ],
        "outputs": { "o": { "type": "string", "value": "[reference('d').outputs.who.value]" } },
    }))
    .unwrap();
    assert_eq!(names(&evaluated), ["id", "d", "g"]);
    assert_eq!(
        evaluated.resources[2].pending[0].expression,
        "[parameters('who')]"
    );
    assert!(
        evaluated.resources[2].pending[0]
            .reason
            .contains("reference('id').principalId")
    );
    assert_eq!(evaluated.outputs[0].pending.len(), 1);
}
