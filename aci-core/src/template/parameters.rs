//! Parameters: the values given, and what the template demands of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use super::eval::{Evaluator, join};
use super::places::{Places, read};
use super::scope::{Frame, Lazy, Locals, Names, ParameterSlot, Part, Scope, force};
use super::value::{find_pending, get, same, type_name};
use super::variables::section;

/// Values for the parameters of a template.
///
/// `Debug` shows the names only: any of them may be a secret.
#[derive(Clone, Default, PartialEq)]
pub struct Parameters {
    values: Map<String, Value>,
}

impl Parameters {
    /// No values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value, or replaces the one that the parameter has.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a value, or replaces the one that the parameter has. Names ignore case.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let name = name.into();
        self.values
            .retain(|known, _| !known.eq_ignore_ascii_case(&name));
        self.values.insert(name, value.into());
    }

    /// The names for which there are values.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Reads a parameter file (`{"$schema": ..., "parameters": {"x": {"value": 1}}}`), its
    /// `parameters` alone, or a bare map (`{"x": 1}`). Comments are allowed as in templates.
    ///
    /// # Errors
    ///
    /// The text is not JSON, is none of these forms, or takes a value from a key vault.
    pub fn from_json(text: &str) -> TemplateResult<Self> {
        // The reader shows what it does not understand, which may be a secret here.
        let node = read(text).map_err(|error| match error.position() {
            Some(place) => syntax(
                "the parameter file is not JSON here; look for a missing quote or comma".to_owned(),
            )
            .located(place),
            None => error,
        })?;
        let (places, value) = Places::of(node);
        Self::from_value(&value).map_err(|error| places.locate(error))
    }

    /// Reads the same forms from a JSON value.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Self::from_json).
    pub fn from_value(value: &Value) -> TemplateResult<Self> {
        let Value::Object(root) = value else {
            return Err(syntax(format!(
                "a parameter file must be an Object, not {}",
                type_name(value)
            )));
        };
        let wrapped = match get(root, "parameters") {
            Some(Value::Object(inner))
                if get(root, "$schema").is_some() || inner.values().all(is_entry) =>
            {
                Some(inner)
            }
            _ => None,
        };
        let (entries, strict, path) = match wrapped {
            Some(inner) => (inner, true, "parameters"),
            None => (root, !root.is_empty() && root.values().all(is_entry), ""),
        };
        let mut parameters = Self::new();
        for (name, entry) in entries {
            let value = if strict {
                entry_value(name, entry, &join(path, name))?
            } else {
                entry.clone()
            };
            parameters.set(name, value);
        }
        Ok(parameters)
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// Whether a value is written as parameter files do: `{"value": ...}` or `{"reference": ...}`.
fn is_entry(value: &Value) -> bool {
    value.as_object().is_some_and(|map| {
        map.len() == 1 && (map.contains_key("value") || map.contains_key("reference"))
    })
}

fn entry_value(name: &str, entry: &Value, path: &str) -> TemplateResult<Value> {
    let map = entry.as_object();
    if let Some(value) = map.and_then(|map| get(map, "value")) {
        return Ok(value.clone());
    }
    if map.is_some_and(|map| get(map, "reference").is_some()) {
        return Err(TemplateError::unsupported(format!(
            "the value of the template parameter '{name}' is taken from a key vault; give the value itself"
        ))
        .at(path));
    }
    Err(wrong(format!(
        "the template parameter '{name}' must be given as {{\"value\": ...}} in a parameter file"
    ))
    .at(path))
}

fn syntax(message: String) -> TemplateError {
    TemplateError::new(TemplateErrorKind::Syntax, message)
}

fn wrong(message: String) -> TemplateError {
    TemplateError::new(TemplateErrorKind::Parameter, message)
}

/// Joins the template's declarations with the values given for them.
pub(crate) fn declare<'t>(
    names: &mut Names<'t>,
    template: &'t Map<String, Value>,
    given: &Parameters,
    path: &str,
    most: usize,
) -> TemplateResult<()> {
    let path = join(path, "parameters");
    let mut slots: HashMap<String, ParameterSlot<'t>> = HashMap::new();
    for (name, declaration) in section(template, "parameters", &path)?
        .into_iter()
        .flatten()
    {
        let here = join(&path, name);
        let Value::Object(declaration) = declaration else {
            return Err(syntax(format!(
                "the parameter '{name}' must be declared by an Object"
            ))
            .at(&here));
        };
        let slot = ParameterSlot {
            name: name.clone(),
            declaration,
            given: get(&given.values, name).cloned(),
            path: here.clone(),
            value: RefCell::new(Lazy::Unset),
        };
        names.parameter_order.push(name.to_lowercase());
        if slots.insert(name.to_lowercase(), slot).is_some() {
            return Err(syntax(format!(
                "the parameter '{name}' is declared twice; names do not differ by case"
            ))
            .at(&here));
        }
    }
    if slots.len() > most {
        return Err(TemplateError::limit(format!(
            "the template has {} parameters, at most {most} are allowed",
            slots.len()
        )));
    }
    if let Some(unknown) = given
        .values
        .keys()
        .find(|name| !slots.contains_key(&name.to_lowercase()))
    {
        let known: Vec<&str> = slots.values().map(|slot| slot.name.as_str()).collect();
        let mut known = known;
        known.sort_unstable();
        return Err(wrong(format!(
            "the template parameter '{unknown}' is not present in the original template and can therefore not be provided at deployment time. The only supported parameters for this template are '{}'",
            known.join(", ")
        )));
    }
    names.parameters = slots;
    Ok(())
}

/// The value of a parameter, checked.
pub(crate) fn value<'t>(
    evaluator: &Evaluator<'t>,
    scope: &Rc<Scope<'t>>,
    name: &str,
) -> TemplateResult<Rc<Value>> {
    let Some(slot) = scope.names.parameters.get(&name.to_lowercase()) else {
        return Err(TemplateError::expression(format!(
            "the template parameter '{name}' is not found"
        )));
    };
    let circle = || {
        TemplateError::new(
            TemplateErrorKind::Dependency,
            format!(
                "the default value of the template parameter '{}' needs itself",
                slot.name
            ),
        )
    };
    force(&slot.value, circle, || {
        let _level = evaluator.budget.descend()?;
        let definitions = scope.names.definitions;
        let nullable =
            constraint(slot.declaration, definitions, "nullable") == Some(&Value::Bool(true));
        let default = get(slot.declaration, "defaultValue");
        let value = match (&slot.given, default) {
            (Some(given), None) => given.clone(),
            (Some(given), Some(_)) if !given.is_null() || nullable => given.clone(),
            (_, Some(default)) => {
                let locals = Locals::default();
                let frame = Frame {
                    scope,
                    locals: &locals,
                    part: Part::Default,
                };
                evaluator.tree(default, &frame, &join(&slot.path, "defaultValue"), None)?
            }
            (None, None) if nullable => Value::Null,
            (None, None) => {
                return Err(wrong(format!(
                    "the value for the template parameter '{}' is not provided",
                    slot.name
                ))
                .at(&slot.path));
            }
        };
        evaluator.budget.pay_for(&value)?;
        // What waits for the running deployment has no type yet.
        if find_pending(&value).is_none() {
            check(&slot.name, slot.declaration, definitions, &value)
                .map_err(|error| error.at(&slot.path))?;
        }
        Ok(value)
    })
}

/// A constraint of a declaration, or of the type definition that it refers to.
fn constraint<'a>(
    declaration: &'a Map<String, Value>,
    definitions: Option<&'a Map<String, Value>>,
    key: &str,
) -> Option<&'a Value> {
    let mut current = declaration;
    for _ in 0..16 {
        if let Some(value) = get(current, key) {
            return Some(value);
        }
        let target = get(current, "$ref")?
            .as_str()?
            .strip_prefix("#/definitions/")?;
        current = get(definitions?, target)?.as_object()?;
    }
    None
}

/// Whether values of a parameter must never be shown.
pub(crate) fn is_secure(
    declaration: &Map<String, Value>,
    definitions: Option<&Map<String, Value>>,
) -> bool {
    constraint(declaration, definitions, "type")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("secure"))
}

/// Checks a value against its declaration.
pub(crate) fn check(
    name: &str,
    declaration: &Map<String, Value>,
    definitions: Option<&Map<String, Value>>,
    value: &Value,
) -> TemplateResult<()> {
    let find = |key: &str| constraint(declaration, definitions, key);
    let bad = |why: String| {
        wrong(format!(
            "the provided value for the template parameter '{name}' is not valid. {why}"
        ))
    };
    let Some(kind) = find("type").and_then(Value::as_str) else {
        return Err(wrong(format!(
            "the template parameter '{name}' has no type"
        )));
    };
    if value.is_null() && find("nullable") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    let (expected, fits) = match kind.to_ascii_lowercase().as_str() {
        "string" | "securestring" => ("String", value.is_string()),
        "int" => ("Integer", value.as_i64().is_some()),
        "bool" => ("Boolean", value.is_boolean()),
        "object" | "secureobject" => ("Object", value.is_object()),
        "array" => ("Array", value.is_array()),
        other => {
            return Err(wrong(format!(
                "the type '{other}' of the template parameter '{name}' is not one of string, securestring, int, bool, object, secureObject, array"
            )));
        }
    };
    if !fits {
        return Err(bad(format!(
            "Expected a value of type '{expected}', but received a value of type '{}'",
            type_name(value)
        )));
    }
    let secure = is_secure(declaration, definitions);
    if let Some(Value::Array(allowed)) = find("allowedValues") {
        let among = |value: &Value| allowed.iter().any(|known| allows(known, value));
        let all = matches!(value, Value::Array(items) if items.iter().all(among));
        if !among(value) && !all {
            let shown = if secure {
                String::new()
            } else {
                format!(" '{}'", short(value))
            };
            let list: Vec<String> = allowed.iter().map(short).collect();
            return Err(bad(format!(
                "The parameter value{shown} is not part of the allowed value(s): '{}'",
                list.join(",")
            )));
        }
    }
    let bound = |key: &str| find(key).and_then(Value::as_i64);
    if let Some(number) = value.as_i64() {
        if let Some(least) = bound("minValue").filter(|least| number < *least) {
            return Err(bad(format!(
                "The value '{number}' is less than the minimum value '{least}'"
            )));
        }
        if let Some(most) = bound("maxValue").filter(|most| number > *most) {
            return Err(bad(format!(
                "The value '{number}' is greater than the maximum value '{most}'"
            )));
        }
    }
    let length = match value {
        Value::String(text) => Some(text.encode_utf16().count()),
        Value::Array(items) => Some(items.len()),
        _ => None,
    };
    if let Some(length) = length.and_then(|length| i64::try_from(length).ok()) {
        if let Some(least) = bound("minLength").filter(|least| length < *least) {
            return Err(bad(format!(
                "The length of the value is '{length}', less than the minimum length '{least}'"
            )));
        }
        if let Some(most) = bound("maxLength").filter(|most| length > *most) {
            return Err(bad(format!(
                "The length of the value is '{length}', greater than the maximum length '{most}'"
            )));
        }
    }
    Ok(())
}

/// Allowed texts are compared in any case.
fn allows(known: &Value, value: &Value) -> bool {
    match (known, value) {
        (Value::String(known), Value::String(value)) => {
            known.to_lowercase() == value.to_lowercase()
        }
        _ => same(known, value),
    }
}

fn short(value: &Value) -> String {
    let text = super::value::text_of(value);
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
