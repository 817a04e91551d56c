//! Templates that nobody would write.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

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

/// Values without expressions and loops.
fn plain_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        "[^\\[]{0,8}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null)
    ];
    leaf.prop_recursive(5, 48, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[^\\[]{0,6}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
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
    fn values_without_expressions_stay(value in plain_value()) {
        let template = json!({ "variables": { "v": value.clone() }, "resources": [], "outputs": { "o": { "type": "object", "value": "[variables('v')]" } } });
        prop_assert_eq!(&evaluate(template).unwrap().outputs[0].value, &value);
    }
}
