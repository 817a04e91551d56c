//! Whole templates.

use std::time::{Duration, Instant, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{
    CONTAINER_GROUPS, Evaluated, EvaluationContext, Limits, ListRequest, Parameters,
    ReferenceRequest, RuntimeResolver, StorageKeys, Template, TemplateError, TemplateErrorKind,
};
use crate::error::{Error, ErrorKind};

fn context() -> EvaluationContext<'static> {
    EvaluationContext::new(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .subscription_id("sub")
        .resource_group("rg", "westeurope")
}

fn evaluate(template: Value) -> Result<Evaluated, TemplateError> {
    Template::from_value(template)?.evaluate(&context())
}

fn with(template: Value, parameters: Value) -> Result<Evaluated, TemplateError> {
    Template::from_value(template)?
        .evaluate(&context().parameters(Parameters::from_value(&parameters)?))
}

fn group(name: &str, more: Value) -> Value {
    let mut group = json!({
        "type": CONTAINER_GROUPS, "apiVersion": "2023-05-01", "name": name,
        "properties": { "osType": "Linux", "containers": [] },
    });
    if let (Some(group), Value::Object(more)) = (group.as_object_mut(), more) {
        group.extend(more);
    }
    group
}

fn names(evaluated: &Evaluated) -> Vec<&str> {
    evaluated
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[track_caller]
fn refused(result: Result<Evaluated, TemplateError>, kind: TemplateErrorKind, parts: &[&str]) {
    let error = result.expect_err("the template should be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.code(), "InvalidTemplate");
    for part in parts {
        assert!(
            error.to_string().contains(part),
            "'{part}' is missing: {error}"
        );
    }
}

#[test]
fn parameters_are_checked() {
    let template = |declaration: Value| json!({ "parameters": { "p": declaration }, "resources": [], "outputs": { "o": { "type": "object", "value": "[parameters('P')]" } } });
    let value = |declaration: Value, given: Value| {
        with(template(declaration), given).map(|evaluated| evaluated.outputs[0].value.clone())
    };
    assert_eq!(value(json!({"type": "int"}), json!({"P": 3})).unwrap(), 3);
    assert_eq!(
        value(json!({"type": "String", "defaultValue": "[[x]"}), json!({})).unwrap(),
        "[x]"
    );
    assert_eq!(
        value(
            json!({"type": "string", "defaultValue": "[resourceGroup().location]"}),
            json!({})
        )
        .unwrap(),
        "westeurope"
    );
    assert_eq!(
        value(json!({"type": "string", "nullable": true}), json!({})).unwrap(),
        Value::Null
    );
    assert_eq!(
        value(
            json!({"type": "string", "allowedValues": ["never"]}),
            json!({"p": "Never"})
        )
        .unwrap(),
        "Never"
    );
    assert_eq!(
        value(
            json!({"type": "array", "allowedValues": [1, 2]}),
            json!({"p": [2]})
        )
        .unwrap(),
        json!([2])
    );
    for (declaration, given, part) in [
        (
            json!({"type": "int"}),
            json!({}),
            "the value for the template parameter 'p' is not provided",
        ),
        (
            json!({"type": "int"}),
            json!({"p": "3"}),
            "Expected a value of type 'Integer', but received a value of type 'String'",
        ),
        (json!({"type": "bool"}), json!({"p": 1}), "'Boolean'"),
        (json!({"type": "object"}), json!({"p": []}), "'Object'"),
        (json!({"type": "array"}), json!({"p": {"a": 1}}), "'Array'"),
        (
            json!({"type": "float"}),
            json!({"p": 1}),
            "is not one of string",
        ),
        (
            json!({"type": "int", "minValue": 5}),
            json!({"p": 3}),
            "'3' is less than the minimum value '5'",
        ),
        (
            json!({"type": "int", "maxValue": 2}),
            json!({"p": 3}),
            "'3' is greater than the maximum value '2'",
        ),
        (
            json!({"type": "string", "minLength": 3}),
            json!({"p": "ab"}),
            "less than the minimum length '3'",
        ),
        (
            json!({"type": "string", "maxLength": 1}),
            json!({"p": "ab"}),
            "greater than the maximum length '1'",
        ),
        (
            json!({"type": "string", "allowedValues": ["a", "b"]}),
            json!({"p": "c"}),
            "value 'c' is not part of the allowed value(s): 'a,b'",
        ),
        (
            json!({"type": "int"}),
            json!({"p": 1, "q": 2}),
            "the template parameter 'q' is not present in the original template",
        ),
        (json!({}), json!({"p": 1}), "has no type"),
    ] {
        refused(
            with(template(declaration), given),
            TemplateErrorKind::Parameter,
            &[part, "'p'"],
        );
    }
    // Defaults may use other parameters, not themselves.
    let both = json!({
        "parameters": {
            "b": { "type": "string", "defaultValue": "[concat(parameters('a'), '!')]" },
            "a": { "type": "string", "defaultValue": "x" },
        },
        "resources": [], "outputs": { "o": { "type": "string", "value": "[parameters('b')]" } },
    });
    assert_eq!(evaluate(both).unwrap().outputs[0].value, "x!");
    refused(
        evaluate(template(
            json!({"type": "string", "defaultValue": "[parameters('p')]"}),
        )),
        TemplateErrorKind::Dependency,
        &["'p' needs itself"],
    );
    // A type definition stands behind a reference.
    let defined = json!({
        "languageVersion": "2.0",
        "definitions": { "port": { "type": "int", "minValue": 1 } },
        "parameters": { "p": { "$ref": "#/definitions/port" } }, "resources": {},
    });
    assert!(with(defined.clone(), json!({"p": 80})).is_ok());
    refused(
        with(defined, json!({"p": 0})),
        TemplateErrorKind::Parameter,
        &["minimum value '1'"],
    );
}

#[test]
fn parameter_files() {
    let read = |text: &str| Parameters::from_json(text);
    let file = r#"{ "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#",
        "contentVersion": "1.0.0.0", "parameters": { "a": { "value": [1] }, /* c */ "b": { "value": "x" } } }"#;
    let expected = Parameters::new().with("a", json!([1])).with("b", "x");
    assert_eq!(read(file).unwrap(), expected);
    assert_eq!(
        read(r#"{"parameters": {"a": {"value": [1]}, "b": {"value": "x"}}}"#).unwrap(),
        expected
    );
    assert_eq!(
        read(r#"{"a": {"value": [1]}, "b": {"value": "x"}}"#).unwrap(),
        expected
    );
    assert_eq!(read(r#"{"a": [1], "b": "x"}"#).unwrap(), expected);
    assert_eq!(
        read(r#"{"a": {"value": 1}, "b": "x"}"#).unwrap(),
        Parameters::new()
            .with("a", json!({"value": 1}))
            .with("b", "x")
    );
    let vault =
        r#"{"parameters": {"pw": {"reference": {"keyVault": {"id": "x"}, "secretName": "y"}}}}"#;
    let error = read(vault).unwrap_err();
    assert_eq!(error.kind(), TemplateErrorKind::Unsupported);
    assert!(
        error.to_string().contains("'pw' is taken from a key vault"),
        "{error}"
    );
    let error = read("{\"$schema\": \"x\", \"parameters\": {\n \"a\": 1}}").unwrap_err();
    assert!(error.to_string().contains("line 2, column 7"), "{error}");
    assert!(
        read("[1]")
            .unwrap_err()
            .to_string()
            .contains("must be an Object")
    );
    assert!(read("{").is_err());
}

#[test]
fn secrets_are_never_shown() {
    let template = Template::from_value(json!({
        "parameters": { "pw": { "type": "securestring", "allowedValues": ["a"] }, "o": { "type": "secureObject" } },
        "resources": [group("[parameters('o').name]", json!({ "tags": { "t": "[parameters('pw')]" } }))],
        "outputs": { "s": { "type": "securestring", "value": "[parameters('pw')]" } },
    }))
    .unwrap();
    let given = |pw: &str| {
        Parameters::new()
            .with("pw", pw)
            .with("o", json!({"name": "hunter2"}))
    };
    let error = template
        .evaluate(&context().parameters(given("hunter2")))
        .unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    let inside = context().parameters(
        Parameters::new()
            .with("pw", "a")
            .with("o", json!({"name": "g", "x": "hunter2"})),
    );
    let evaluated = template.evaluate(&inside).unwrap();
    assert!(
        !format!(
            "{inside:?} {:?} {template:?} {:?}",
            given("hunter2"),
            StorageKeys::new().account("x", "hunter2")
        )
        .contains("hunter2")
    );
    assert!(!format!("{evaluated:?}").contains("\"a\""));
}

#[test]
fn variables_and_their_loops() {
    let evaluated = evaluate(json!({
        "variables": {
            "copy": [{ "name": "ports", "count": 3, "input": { "port": "[add(8000, copyIndex('ports'))]" } }],
            "object": {
                "copy": [{ "name": "disks", "count": 2, "input": "[concat('d', copyIndex('disks', 1))]" }],
                "kept": "[length(variables('PORTS'))]",
            },
            "unused": "[div(1, 0)]",
        },
        "resources": [],
        "outputs": { "p": { "type": "array", "value": "[variables('ports')]" }, "o": { "type": "object", "value": "[variables('object')]" } },
    }))
    .unwrap();
    assert_eq!(
        evaluated.outputs[0].value,
        json!([{"port": 8000}, {"port": 8001}, {"port": 8002}])
    );
    assert_eq!(
        evaluated.outputs[1].value,
        json!({"disks": ["d1", "d2"], "kept": 3})
    );
    refused(
        evaluate(json!({
            "variables": { "a": "[variables('b')]", "b": "[variables('a')]" }, "resources": [],
            "outputs": { "o": { "type": "string", "value": "[variables('a')]" } },
        })),
        TemplateErrorKind::Dependency,
        &["'a' needs its own value", "variables.b", "[variables('a')]"],
    );
}

#[test]
fn functions_of_the_template() {
    let template = |call: &str| {
        json!({
            "functions": [{ "namespace": "contoso", "members": { "unique": {
                "parameters": [{ "name": "prefix", "type": "string" }],
                "output": { "type": "string", "value": "[concat(toLower(parameters('prefix')), '-', contoso.end())]" } },
                "end": { "parameters": [], "output": { "type": "string", "value": "z" } },
                "again": { "parameters": [], "output": { "type": "string", "value": "[contoso.again()]" } },
                "peek": { "parameters": [], "output": { "type": "string", "value": "[variables('v')]" } },
            } }],
            "variables": { "v": 1 },
            "parameters": { "p": { "type": "string", "defaultValue": "x" } },
            "resources": [],
            "outputs": { "o": { "type": "string", "value": format!("[{call}]") } },
        })
    };
    assert_eq!(
        evaluate(template("Contoso.Unique('AB')")).unwrap().outputs[0].value,
        "ab-z"
    );
    refused(
        evaluate(template("contoso.unique()")),
        TemplateErrorKind::Expression,
        &["expects 1 parameters, 0 are given"],
    );
    refused(
        evaluate(template("contoso.unique(1)")),
        TemplateErrorKind::Parameter,
        &["'prefix'", "'String'"],
    );
    refused(
        evaluate(template("contoso.again()")),
        TemplateErrorKind::Limit,
        &["levels deep"],
    );
    refused(
        evaluate(template("contoso.peek()")),
        TemplateErrorKind::Expression,
        &["cannot see the template's variables"],
    );
}

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

#[test]
fn parameters_are_listed() {
    let template = Template::from_value(json!({ "parameters": { "a": { "type": "int" }, "b": { "type": "string", "defaultValue": "" } }, "resources": [] })).unwrap();
    let parameters: Vec<_> = template
        .parameters()
        .map(|info| (info.name, info.kind, info.required))
        .collect();
    assert_eq!(parameters, [("a", "int", true), ("b", "string", false)]);
}

#[test]
fn hostile_templates_end_quickly() {
    let start = Instant::now();
    let mut variables = Map::new();
    variables.insert("v0".to_owned(), json!(["[range(0, 100)]"]));
    for index in 1..100 {
        let call = format!("variables('v{}')", index - 1);
        variables.insert(
            format!("v{index}"),
            json!([format!("[{call}]"), format!("[{call}]")]),
        );
    }
    let last = |name: &str| json!({ "variables": variables, "resources": [], "outputs": { "o": { "type": "array", "value": format!("[variables('{name}')]") } } });
    refused(evaluate(last("v90")), TemplateErrorKind::Limit, &[]);
    refused(
        evaluate(last("v18")),
        TemplateErrorKind::Limit,
        &["units of work"],
    );
    let loops = json!({ "resources": [group("a", json!({ "properties": { "copy": [{ "name": "x", "count": 800, "input": {
        "copy": [{ "name": "y", "count": 800, "input": { "copy": [{ "name": "z", "count": 800, "input": "0123456789" }] } }] } }] } }))] });
    refused(
        evaluate(loops),
        TemplateErrorKind::Limit,
        &["units of work"],
    );
    let mut deployment = json!([]);
    for _ in 0..30 {
        deployment = json!([{ "type": "Microsoft.Resources/deployments", "apiVersion": "1", "name": "d", "properties": { "template": { "resources": deployment } } }]);
    }
    refused(
        evaluate(json!({ "resources": deployment })),
        TemplateErrorKind::Limit,
        &[],
    );
    assert!(Template::parse(&"[".repeat(100_000)).is_err());
    let parameters: Map<String, Value> = (0..300)
        .map(|index| {
            (
                format!("p{index}"),
                json!({ "type": "int", "defaultValue": 1 }),
            )
        })
        .collect();
    refused(
        evaluate(json!({ "parameters": parameters, "resources": [] })),
        TemplateErrorKind::Limit,
        &["300 parameters, at most 256"],
    );
    let limits = Limits {
        expression: 10,
        ..Limits::default()
    };
    let template =
        Template::from_value(json!({ "resources": [group("[concat('a', 'b')]", json!({}))] }))
            .unwrap();
    let error = template.evaluate(&context().limits(limits)).unwrap_err();
    assert!(
        error.to_string().contains("longer than 10 characters"),
        "{error}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

/// The deepest recursion that the limits allow fits into half of a thread's usual 2 MiB, even
/// without optimisation.
#[test]
fn the_deepest_template_fits_the_stack() {
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(40), close.repeat(40));
    let mut variables = Map::new();
    variables.insert("v0".to_owned(), json!(format!("[{}]", deep("array(", ")"))));
    for index in 1..200 {
        let last = format!("variables('v{}')", index - 1);
        let input = json!({ "copy": [{ "name": "y", "count": 1, "input": format!("[map(createArray(1), lambda('x', if(true(), {last}, 1)))]") }] });
        variables.insert(format!("v{index}"), json!([[{ "a": input }]]));
    }
    let mut nested = json!([group("a", json!({ "tags": "[variables('v199')]" }))]);
    for index in 0..7 {
        nested = json!([{ "type": "Microsoft.Resources/deployments", "apiVersion": "1", "name": "d", "properties": { "template": { "resources": nested } },
            "resources": [{ "type": "x", "name": format!("y{index}") }] }]);
    }
    let template =
        Template::from_value(json!({ "variables": variables, "resources": nested })).unwrap();
    let evaluate = move || {
        refused(
            template.evaluate(&context()),
            TemplateErrorKind::Limit,
            &["levels deep"],
        )
    };
    std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(evaluate)
        .unwrap()
        .join()
        .unwrap();
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,5}",
        Just("[copyIndex()]".to_owned()),
        Just("[copyIndex('l', 2)]".to_owned()),
        Just("[parameters('a')]".to_owned()),
        Just("[variables('a')]".to_owned()),
        Just("[reference('a').x]".to_owned()),
        Just("[reference('b')]".to_owned()),
        Just("[listKeys('a', '1').keys]".to_owned()),
        Just("[resourceGroup()]".to_owned()),
        Just("[[a]".to_owned()),
        "\\[[a-z0-9().,' ]{0,12}\\]",
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any_text().prop_map(Value::from),
        (-2_i64..5).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null)
    ];
    let keys = prop::sample::select(vec![
        "a",
        "b",
        "type",
        "name",
        "copy",
        "count",
        "input",
        "properties",
        "resources",
        "condition",
        "dependsOn",
        "template",
        "value",
        "parameters",
        "variables",
        "outputs",
        "defaultValue",
        "mode",
        "existing",
        "scope",
        "expressionEvaluationOptions",
    ]);
    leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..6).prop_map(|entries| {
                Value::Object(
                    entries
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect(),
                )
            }),
        ]
    })
}

fn any_resource() -> impl Strategy<Value = Value> {
    let kinds = prop::sample::select(vec![
        CONTAINER_GROUPS,
        "Microsoft.Resources/deployments",
        "A.B/c",
    ]);
    (
        kinds,
        any_text(),
        any_value(),
        prop::option::of(any_value()),
        prop::option::of(prop::sample::select(vec!["a", "b"])),
        any::<bool>(),
    )
        .prop_map(|(kind, name, properties, tags, depends, copies)| {
            let mut resource =
                json!({ "type": kind, "apiVersion": "1", "name": name, "properties": properties });
            if let Some(tags) = tags {
                resource["tags"] = tags;
            }
            if let Some(depends) = depends {
                resource["dependsOn"] = json!([depends]);
            }
            if copies {
                resource["copy"] = json!({ "name": "l", "count": 2 });
            }
            resource
        })
}

proptest! {
    #[test]
    fn no_template_panics(
        resources in prop::collection::vec(any_resource(), 0..4),
        variables in any_value(),
        outputs in any_value(),
    ) {
        let template = json!({
            "parameters": { "a": { "type": "string", "defaultValue": "x" } },
            "variables": { "a": variables }, "resources": resources, "outputs": { "o": { "type": "object", "value": outputs } },
        });
        if let Ok(evaluated) = evaluate(template) {
            // Nothing of the marks of waiting values is left.
            for resource in &evaluated.resources {
                prop_assert!(!resource.value.to_string().contains("\\u0000"));
            }
            let _ = evaluated.container_groups();
        }
    }

    #[test]
    fn values_without_expressions_stay(value in any_value()) {
        prop_assume!(!value.to_string().contains("\"[") && !value.to_string().contains("copy"));
        let template = json!({ "variables": { "v": value.clone() }, "resources": [], "outputs": { "o": { "type": "object", "value": "[variables('v')]" } } });
        prop_assert_eq!(&evaluate(template).unwrap().outputs[0].value, &value);
    }
}
