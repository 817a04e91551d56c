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

#[test]
fn linked_templates_come_with_the_context() {
    let main = Template::from_value(json!({
        "variables": { "base": "https://example.org/" },
        "resources": [{ "type": "Microsoft.Resources/deployments", "apiVersion": "1", "name": "l", "properties": {
            "templateLink": { "uri": "[uri(variables('base'), 't.json')]" }, "parameters": { "p": { "value": "given" } } } }],
        "outputs": { "o": { "type": "string", "value": "[reference('l').outputs.o.value]" } },
    }))
    .unwrap();
    refused(
        main.evaluate(&context()),
        TemplateErrorKind::Unsupported,
        &["not fetched", "resources[0].properties.templateLink"],
    );
    let linked = Template::from_value(json!({
        "parameters": { "p": { "type": "string" } },
        "resources": [group("[parameters('p')]", json!({}))],
        "outputs": { "o": { "type": "string", "value": "[deployment().name]" } },
    }))
    .unwrap();
    let known = context().linked_template("https://example.org/t.json", &linked);
    let evaluated = main.evaluate(&known).unwrap();
    assert_eq!(names(&evaluated), ["l", "given"]);
    assert_eq!(evaluated.outputs[0].value, "l");
    // A template that links to itself ends.
    let endless = Template::from_value(
        json!({ "resources": [{ "type": "Microsoft.Resources/deployments", "apiVersion": "1",
        "name": "l", "properties": { "templateLink": { "relativePath": "self.json" } } }] }),
    )
    .unwrap();
    let known = context().linked_template("self.json", &endless);
    refused(
        endless.evaluate(&known),
        TemplateErrorKind::Limit,
        &["nested more than 8 deep"],
    );
}
