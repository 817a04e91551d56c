//! JSON values as the expression language sees them.

use serde_json::{Map, Value};

/// The name that Resource Manager gives to a value's type in its messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "Null",
        Value::Bool(_) => "Boolean",
        Value::Number(number) if number.is_f64() => "Float",
        Value::Number(_) => "Integer",
        Value::String(_) => "String",
        Value::Array(_) => "Array",
        Value::Object(_) => "Object",
    }
}

/// Looks a property up: exactly first, then in any case, as Resource Manager does.
pub(crate) fn get<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.get(name).or_else(|| {
        map.iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    })
}

/// The key under which [`get`] finds `name`.
pub(crate) fn key_of<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    map.get_key_value(name)
        .or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map(|(key, _)| key.as_str())
}

/// Equality of the `equals` function: deep, numbers by value, property order ignored.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| get(b, key).is_some_and(|b| same(a, b)))
        }
        _ => left == right,
    }
}

/// The text of a value as `string`, `concat` and `format` write it: booleans as .NET does
/// (`True`), objects and arrays as JSON without white space, null as nothing.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Whether a string of the template is an expression: it starts with `[` and ends with `]`,
/// and is not escaped by a second `[`.
pub(crate) fn expression_in(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    if inner.starts_with('[') {
        None
    } else {
        Some(inner)
    }
}

/// The literal text of a string that is no expression: `[[x]` stands for `[x]`.
pub(crate) fn unescape(text: &str) -> &str {
    if text.starts_with("[[") && text.ends_with(']') {
        &text[1..]
    } else {
        text
    }
}

/// The mark that stands in a half evaluated value for what only the running deployment knows.
const PENDING: &str = "\u{0}pending";

/// Makes the mark for an expression that has to wait.
pub(crate) fn pending(expression: &str) -> Value {
    let mut map = Map::new();
    map.insert(PENDING.to_owned(), Value::String(expression.to_owned()));
    Value::Object(map)
}

/// The waiting expression inside a value, if there is one.
pub(crate) fn find_pending(value: &Value) -> Option<&str> {
    match value {
        Value::Object(map) => match map.get(PENDING) {
            Some(Value::String(expression)) => Some(expression),
            _ => map.values().find_map(find_pending),
        },
        Value::Array(items) => items.iter().find_map(find_pending),
        _ => None,
    }
}

/// Whether the value itself is a mark.
pub(crate) fn is_mark(value: &Value) -> bool {
    matches!(value, Value::Object(map) if map.contains_key(PENDING))
}

/// Puts the expressions themselves where the marks stand.
pub(crate) fn unmark(value: Value) -> Value {
    match value {
        Value::Object(mut map) => match map.get_mut(PENDING).map(Value::take) {
            Some(expression) => expression,
            None => Value::Object(
                map.into_iter()
                    .map(|(key, value)| (key, unmark(value)))
                    .collect(),
            ),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(unmark).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn brackets_make_an_expression_unless_doubled() {
        assert_eq!(expression_in("[a()]"), Some("a()"));
        assert_eq!(expression_in("[[a]"), None);
        assert_eq!(expression_in("[a] b"), None);
        assert_eq!(unescape("[[a]"), "[a]");
        assert_eq!(unescape("[[a"), "[[a");
    }

    #[test]
    fn equality_ignores_property_order_and_number_form() {
        assert!(same(
            &json!({"a": 1, "b": [2.0]}),
            &json!({"b": [2], "a": 1.0})
        ));
        assert!(!same(&json!("a"), &json!("A")));
    }

    #[test]
    fn marks_are_found_and_replaced() {
        let value = json!({"x": [1, pending("[reference('a').b]")]});
        assert_eq!(find_pending(&value), Some("[reference('a').b]"));
        assert_eq!(unmark(value), json!({"x": [1, "[reference('a').b]"]}));
    }
}
