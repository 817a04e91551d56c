//! Resources: loops, children, conditions, order, levels.

use serde_json::json;

use super::*;
use crate::error::{Error, ErrorKind};

#[test]
fn resources_conditions_loops_and_children() {
    let evaluated = evaluate(json!({
        "resources": [
            group("[concat('web', copyIndex(1))]", json!({
                "copy": { "name": "webs", "count": 2 },
                "dependsOn": ["store", "[resourceId('Microsoft.Network/virtualNetworks', 'vnet')]"],
                "comments": "kept out",
                "properties": {
                    "osType": "Linux",
                    "copy": [{ "name": "containers", "count": "[length(range(0, 2))]", "input": {
                        "name": "[format('c{0}-{1}', copyIndex(), copyIndex('containers'))]", "properties": { "image": "x" } } }],
                },
            })),
            { "type": "Microsoft.Network/virtualNetworks", "apiVersion": "2020-05-01", "name": "vnet", "properties": {},
              "resources": [{ "type": "subnets", "apiVersion": "2020-05-01", "name": "sub", "properties": {}, "dependsOn": ["vnet"] }] },
            { "type": "Microsoft.Storage/storageAccounts", "apiVersion": "2019-06-01", "name": "store", "location": "[resourceGroup().location]" },
            { "type": "A.B/c", "condition": "[equals(1, 2)]", "apiVersion": "1", "name": "[div(1, 0)]" },
            group("last", json!({ "dependsOn": ["webs", "gone"] })),
            { "type": "A.B/c", "condition": false, "apiVersion": "1", "name": "gone" },
        ],
    }))
    .unwrap();
    assert_eq!(
        names(&evaluated),
        ["vnet", "vnet/sub", "store", "web1", "web2", "last"]
    );
    let web = &evaluated.resources[4];
    assert_eq!(
        web.id,
        "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.ContainerInstance/containerGroups/web2"
    );
    assert_eq!(web.path, "resources[0]");
    assert_eq!(web.depends_on.len(), 2);
    assert_eq!(web.value["properties"]["containers"][1]["name"], "c1-1");
    assert_eq!(
        web.value.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["type", "apiVersion", "name", "properties"]
    );
    assert_eq!(
        evaluated.resources[1].kind,
        "Microsoft.Network/virtualNetworks/subnets"
    );
    assert!(
        evaluated.resources[1]
            .id
            .ends_with("/virtualNetworks/vnet/subnets/sub")
    );
    assert_eq!(
        evaluated
            .of_type("microsoft.containerinstance/CONTAINERGROUPS")
            .count(),
        3
    );
}

#[test]
fn resources_that_cannot_be() {
    for (resources, kind, part) in [
        (
            json!([group("a", json!({"dependsOn": ["b"]}))]),
            TemplateErrorKind::Dependency,
            "the resource 'b' is not defined in the template",
        ),
        (
            json!([
                group("a", json!({"dependsOn": ["b"]})),
                group("b", json!({"dependsOn": ["a"]}))
            ]),
            TemplateErrorKind::Dependency,
            "circular dependency detected on resource",
        ),
        (
            json!([
                group("a", json!({"tags": "[reference('b').x]"})),
                group("b", json!({"properties": {"x": "[reference('a').x]"}}))
            ]),
            TemplateErrorKind::Dependency,
            "circular dependency detected on resource",
        ),
        (
            json!([
                group("a", json!({"tags": {"x": "[reference('b').osType]"}})),
                group("b", json!({"dependsOn": ["a"]}))
            ]),
            TemplateErrorKind::Dependency,
            "circular dependency detected on resource",
        ),
        (
            json!([group("a", json!({"dependsOn": ["a"]}))]),
            TemplateErrorKind::Dependency,
            "circular",
        ),
        (
            json!([group("a", json!({})), group("A", json!({}))]),
            TemplateErrorKind::Syntax,
            "defined multiple times",
        ),
        (
            json!([group("a/b", json!({}))]),
            TemplateErrorKind::Syntax,
            "incorrect segment lengths",
        ),
        (
            json!([group("", json!({}))]),
            TemplateErrorKind::Syntax,
            "the resource has no 'name'",
        ),
        (
            json!([{ "name": "x" }]),
            TemplateErrorKind::Syntax,
            "the resource has no 'type'",
        ),
        (
            json!([1]),
            TemplateErrorKind::Syntax,
            "a resource must be an Object",
        ),
        (
            json!([group("[1]", json!({}))]),
            TemplateErrorKind::Expression,
            "must be a String, not Integer",
        ),
        (
            json!([group("a", json!({"condition": "maybe"}))]),
            TemplateErrorKind::Expression,
            "must be a Boolean",
        ),
        (
            json!([group(
                "a",
                json!({"copy": {"name": "l", "count": 1_000_000_000}})
            )]),
            TemplateErrorKind::Limit,
            "it must be 0 to 800",
        ),
        (
            json!([group("a", json!({"copy": {"name": "l", "count": -1}}))]),
            TemplateErrorKind::Limit,
            "it must be 0 to 800",
        ),
        (
            json!([
                group("[reference('b').x]", json!({})),
                group("b", json!({}))
            ]),
            TemplateErrorKind::Expression,
            "'reference' is not expected at this location",
        ),
        (
            json!([group("a", json!({"tags": {"x": "[concat('a']"}}))]),
            TemplateErrorKind::Expression,
            "')' is expected",
        ),
        (
            json!([group(
                "a",
                json!({"tags": {"x": "[reference('nowhere').x]"}})
            )]),
            TemplateErrorKind::Dependency,
            "could not find template resource",
        ),
        (
            json!([group("a", json!({"dependsOn": "b"}))]),
            TemplateErrorKind::Syntax,
            "must be an Array",
        ),
    ] {
        refused(evaluate(json!({ "resources": resources })), kind, &[part]);
    }
    let many = json!({ "resources": [group("[concat('a', copyIndex())]", json!({"copy": {"name": "a", "count": 800}})), group("b", json!({}))] });
    refused(
        evaluate(many),
        TemplateErrorKind::Limit,
        &["more than 800 resources"],
    );
}

#[test]
fn errors_have_places() {
    let template = Template::parse("{\n \"resources\": [\n  { \"type\": \"A.B/c\", \"name\": \"x\",\n    \"tags\": { \"t\": \"[nosuch()]\" } }\n ]\n}").unwrap();
    let error = template.evaluate(&context()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Deployment template validation failed: the template function 'nosuch' is not valid (function 'nosuch') in expression '[nosuch()]' at 'resources[0].tags.t' at line 4, column 20."
    );
    let error = Error::from(error);
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.aci_code(), Some("InvalidTemplate"));
    assert_eq!(error.problems()[0].line, Some(4));
    assert_eq!(error.problems()[0].path, "resources[0].tags.t");
    let error = Template::parse("{\n \"resources\": 1 }").unwrap_err();
    assert!(error.to_string().contains("line 2, column 15"), "{error}");
    assert!(
        Template::parse("{}")
            .unwrap_err()
            .to_string()
            .contains("'resources' is not found")
    );
    assert!(Template::parse("[").is_err());
    let large = format!("{{\"resources\": [], \"x\": \"{}\"}}", "x".repeat(5 << 20));
    assert_eq!(
        Template::parse(&large).unwrap_err().kind(),
        TemplateErrorKind::Limit
    );
}

#[test]
fn symbolic_names() {
    let evaluated = evaluate(json!({
        "languageVersion": "2.0",
        "resources": {
            "web": group("[format('web{0}', copyIndex())]", json!({
                "copy": { "name": "webs", "count": 2 }, "dependsOn": ["net"],
                "properties": { "osType": "Linux", "containers": [], "subnetIds": [{ "id": "[resourceInfo('net').id]" }] } })),
            "net": { "type": "Microsoft.Network/virtualNetworks", "apiVersion": "1", "name": "vnet", "properties": { "a": 1 } },
            "old": { "existing": true, "type": "Microsoft.Storage/storageAccounts", "apiVersion": "2019-06-01", "name": "store" },
        },
        "outputs": {
            "one": { "type": "string", "value": "[reference(format('web[{0}]', 1)).osType]" },
            "all": { "type": "array", "value": "[map(references('webs'), lambda('w', lambdaVariables('w').osType))]" },
            "key": { "type": "string", "value": "[listKeys('old', '2019-06-01').keys[0].value]" },
            "names": { "type": "array", "copy": { "count": 2, "input": "[concat('n', copyIndex())]" } },
            "none": { "type": "string", "condition": false, "value": "[div(1, 0)]" },
        },
    }))
    .unwrap();
    assert_eq!(names(&evaluated), ["vnet", "web0", "web1"]);
    assert_eq!(evaluated.resources[1].symbol.as_deref(), Some("web[0]"));
    assert!(
        evaluated.resources[1].value["properties"]["subnetIds"][0]["id"]
            .as_str()
            .unwrap()
            .ends_with("/virtualNetworks/vnet")
    );
    assert_eq!(evaluated.output("one").unwrap().value, "Linux");
    assert_eq!(
        evaluated.output("all").unwrap().value,
        json!(["Linux", "Linux"])
    );
    assert_eq!(
        evaluated.output("names").unwrap().value,
        json!(["n0", "n1"])
    );
    assert!(evaluated.output("key").unwrap().complete().is_err());
    assert!(evaluated.output("none").is_none());
}

#[test]
fn other_levels() {
    let evaluated = evaluate(json!({
        "$schema": "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#",
        "resources": [{ "type": "Microsoft.Resources/deployments", "apiVersion": "1", "name": "inside", "resourceGroup": "far",
            "dependsOn": ["far"], "properties": { "expressionEvaluationOptions": { "scope": "inner" }, "template": {
                "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
                "resources": [group("g", json!({ "location": "[resourceGroup().location]" }))] } } },
        { "type": "Microsoft.Resources/resourceGroups", "apiVersion": "1", "name": "far", "location": "norway" }, { "type": "Microsoft.Resources/resourceGroups", "apiVersion": "1", "name": "new", "location": "[deployment().location]" }],
        "outputs": {
            "rg": { "type": "string", "value": "[subscriptionResourceId('Microsoft.Resources/resourceGroups', 'new')]" },
            "id": { "type": "string", "value": "[resourceId('Microsoft.Authorization/policyDefinitions', 'p')]" },
        },
    }))
    .unwrap();
    assert_eq!(names(&evaluated), ["far", "new", "inside", "g"]);
    assert_eq!(evaluated.resources[2].value["resourceGroup"], "far");
    assert_eq!(evaluated.resources[3].value["location"], "norway");
    assert_eq!(
        evaluated.resources[1].id,
        "/subscriptions/sub/resourceGroups/new"
    );
    assert_eq!(
        evaluated.outputs[0].value,
        "/subscriptions/sub/resourceGroups/new"
    );
    assert_eq!(
        evaluated.outputs[1].value,
        "/subscriptions/sub/providers/Microsoft.Authorization/policyDefinitions/p"
    );
}

#[test]
fn groups_are_read_with_places() {
    let text = r#"{ "resources": [{
        "type": "Microsoft.ContainerInstance/containerGroups", "apiVersion": "2023-05-01", "name": "web",
        "properties": { "osType": "[concat('Lin', 'ux')]", "containers": [{ "name": "c", "properties": {
            "image": "i", "resources": { "requests": { "cpu": "[float('0.5')]", "memoryInGB": "[json('1.5')]" } },
            "ports": PORTS } }] } }] }"#;
    let groups = |ports: &str| {
        Template::parse(&text.replace("PORTS", ports))
            .unwrap()
            .evaluate(&context())
            .unwrap()
            .container_groups()
    };
    let groups_found = groups(r#"[{ "port": "[string(80)]" }]"#).unwrap();
    assert_eq!(groups_found[0].name, "web");
    assert_eq!(groups_found[0].properties.containers.len(), 1);
    let error = groups("7").unwrap_err();
    assert_eq!(
        error.problems()[0].path,
        "resources[0].properties.containers[0].properties.ports"
    );
    assert_eq!(error.problems()[0].line, Some(5));
}

#[cfg(feature = "yaml")]
#[test]
fn templates_may_be_yaml() {
    let text =
        "resources:\n- type: A.B/c\n  apiVersion: '1'\n  name: x\n  tags:\n    t: '[nosuch()]'\n";
    let node = crate::document::parse(text, crate::document::Format::Yaml).unwrap();
    let error = Template::from_node(node)
        .unwrap()
        .evaluate(&context())
        .unwrap_err();
    assert_eq!(error.position().map(|place| place.line), Some(6), "{error}");
}
