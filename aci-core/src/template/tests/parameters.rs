//! Parameters, variables and functions of the template.

use serde_json::{Value, json};

use super::*;
use crate::template::StorageKeys;

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
    let error = read("{\"pw\": hunter2}").unwrap_err();
    assert!(
        error.to_string().contains("line 1, column 8") && !error.to_string().contains("hunter2"),
        "{error}"
    );
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
fn parameters_are_listed() {
    let template = Template::from_value(json!({ "parameters": { "a": { "type": "int" }, "b": { "type": "string", "defaultValue": "" } }, "resources": [] })).unwrap();
    let parameters: Vec<_> = template
        .parameters()
        .map(|info| (info.name, info.kind, info.required))
        .collect();
    assert_eq!(parameters, [("a", "int", true), ("b", "string", false)]);
}
