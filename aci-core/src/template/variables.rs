//! The template's variables and functions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::copy;
use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use super::eval::{Evaluator, join};
use super::scope::{
    Frame, Lazy, Locals, Part, Scope, UserFunction, VariableSlot, VariableSource, force,
};
use super::value::{get, type_name};

/// The value of a variable.
pub(crate) fn value<'t>(
    evaluator: &Evaluator<'t>,
    scope: &Rc<Scope<'t>>,
    name: &str,
) -> TemplateResult<Rc<Value>> {
    let Some(slot) = scope.names.variables.get(&name.to_lowercase()) else {
        return Err(TemplateError::expression(format!(
            "the template variable '{name}' is not found"
        )));
    };
    let circle = || {
        TemplateError::new(
            TemplateErrorKind::Dependency,
            format!(
                "the template variable '{}' needs its own value: circular variable references are not allowed",
                slot.name
            ),
        )
    };
    force(&slot.value, circle, || {
        let _level = evaluator.budget.descend()?;
        let locals = Locals::default();
        let frame = Frame {
            scope,
            locals: &locals,
            part: Part::Variable,
        };
        match slot.source {
            VariableSource::Plain(source) => evaluator.tree(source, &frame, &slot.path, None),
            VariableSource::Loop(entry) => {
                copy::one(evaluator, entry, &frame, &slot.path, None).map(|(_, value)| value)
            }
        }
    })
}

/// The variables as declared, loops included.
pub(crate) fn declared<'t>(
    template: &'t Map<String, Value>,
    path: &str,
    most: usize,
) -> TemplateResult<HashMap<String, VariableSlot<'t>>> {
    let mut slots = HashMap::new();
    let path = join(path, "variables");
    let Some(variables) = section(template, "variables", &path)? else {
        return Ok(slots);
    };
    for (name, source) in variables {
        let here = join(&path, name);
        if name.eq_ignore_ascii_case("copy")
            && let Some(loops) = copy::property_loops(source)
        {
            for (index, entry) in loops.iter().enumerate() {
                let here = format!("{here}[{index}]");
                let name = entry
                    .as_object()
                    .and_then(|entry| get(entry, "name"))
                    .and_then(Value::as_str);
                let name = name.unwrap_or_default().to_owned();
                add(&mut slots, name, VariableSource::Loop(entry), here)?;
            }
            continue;
        }
        add(
            &mut slots,
            name.clone(),
            VariableSource::Plain(source),
            here,
        )?;
    }
    if slots.len() > most {
        return Err(TemplateError::limit(format!(
            "the template has {} variables, at most {most} are allowed",
            slots.len()
        )));
    }
    Ok(slots)
}

fn add<'t>(
    slots: &mut HashMap<String, VariableSlot<'t>>,
    name: String,
    source: VariableSource<'t>,
    path: String,
) -> TemplateResult<()> {
    let slot = VariableSlot {
        name,
        source,
        path,
        value: RefCell::new(Lazy::Unset),
    };
    match slots.insert(slot.name.to_lowercase(), slot) {
        None => Ok(()),
        Some(old) => Err(TemplateError::new(
            TemplateErrorKind::Syntax,
            format!(
                "the variable '{}' is defined twice; names do not differ by case",
                old.name
            ),
        )
        .at(&old.path)),
    }
}

/// The functions as declared. Keys are `namespace.name` in lower case.
pub(crate) fn functions<'t>(
    template: &'t Map<String, Value>,
    path: &str,
) -> TemplateResult<HashMap<String, Rc<UserFunction<'t>>>> {
    let mut functions = HashMap::new();
    let path = join(path, "functions");
    let Some(Value::Array(namespaces)) = get(template, "functions") else {
        return Ok(functions);
    };
    for (index, namespace) in namespaces.iter().enumerate() {
        let here = format!("{path}[{index}]");
        let wrong = |what: &str, here: &str| {
            TemplateError::new(TemplateErrorKind::Syntax, format!("a function {what}")).at(here)
        };
        let map = namespace
            .as_object()
            .ok_or_else(|| wrong("namespace must be an object", &here))?;
        let space = get(map, "namespace")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong("namespace needs a name", &here))?;
        for (name, member) in section(map, "members", &here)?.into_iter().flatten() {
            let here = join(&join(&here, "members"), name);
            let member = member
                .as_object()
                .ok_or_else(|| wrong("must be an object", &here))?;
            let output = get(member, "output")
                .and_then(Value::as_object)
                .and_then(|output| get(output, "value"))
                .ok_or_else(|| wrong("needs an output with a value", &here))?;
            let mut parameters = Vec::new();
            for parameter in get(member, "parameters")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let declaration = parameter
                    .as_object()
                    .ok_or_else(|| wrong("parameter must be an object", &here))?;
                let name = get(declaration, "name").and_then(Value::as_str);
                let name = name.ok_or_else(|| wrong("parameter needs a name", &here))?;
                parameters.push((name.to_owned(), declaration));
            }
            let full = format!("{space}.{name}");
            let function = UserFunction {
                name: full.clone(),
                parameters,
                output,
                path: format!("{here}.output.value"),
            };
            functions.insert(full.to_lowercase(), Rc::new(function));
        }
    }
    Ok(functions)
}

/// A section of the template that must be an object where it is given.
pub(crate) fn section<'t>(
    template: &'t Map<String, Value>,
    name: &str,
    path: &str,
) -> TemplateResult<Option<&'t Map<String, Value>>> {
    match get(template, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(other) => Err(TemplateError::new(
            TemplateErrorKind::Syntax,
            format!("'{name}' must be an Object, not {}", type_name(other)),
        )
        .at(path)),
    }
}
