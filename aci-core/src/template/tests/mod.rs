//! Whole templates.

mod limits;
mod nested;
mod parameters;
mod random;
mod resources;
mod runtime;

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{
    CONTAINER_GROUPS, Evaluated, EvaluationContext, Parameters, Template, TemplateError,
    TemplateErrorKind,
};

pub(super) fn context() -> EvaluationContext<'static> {
    EvaluationContext::new(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .subscription_id("sub")
        .resource_group("rg", "westeurope")
}

pub(super) fn evaluate(template: Value) -> Result<Evaluated, TemplateError> {
    Template::from_value(template)?.evaluate(&context())
}

pub(super) fn with(template: Value, parameters: Value) -> Result<Evaluated, TemplateError> {
    Template::from_value(template)?
        .evaluate(&context().parameters(Parameters::from_value(&parameters)?))
}

pub(super) fn group(name: &str, more: Value) -> Value {
    let mut group = json!({
        "type": CONTAINER_GROUPS, "apiVersion": "2023-05-01", "name": name,
        "properties": { "osType": "Linux", "containers": [] },
    });
    if let (Some(group), Value::Object(more)) = (group.as_object_mut(), more) {
        group.extend(more);
    }
    group
}

pub(super) fn names(evaluated: &Evaluated) -> Vec<&str> {
    evaluated
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[track_caller]
pub(super) fn refused(
    result: Result<Evaluated, TemplateError>,
    kind: TemplateErrorKind,
    parts: &[&str],
) {
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
