//! Templates that want too much.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::*;
use crate::template::Limits;

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
