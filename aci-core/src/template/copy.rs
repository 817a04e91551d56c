//! Copy loops.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use super::eval::{Evaluator, Pending};
use super::scope::{Frame, Part};
use super::value::{get, type_name};

/// The loops in the value of a property called `copy`, if these are loops: an array of
/// objects with `name`, `count` and `input`.
pub(crate) fn property_loops(value: &Value) -> Option<&[Value]> {
    let entries = value.as_array()?;
    let is_loop = |entry: &Value| {
        entry.as_object().is_some_and(|map| {
            ["name", "count", "input"]
                .iter()
                .all(|key| get(map, key).is_some())
        })
    };
    (!entries.is_empty() && entries.iter().all(is_loop)).then_some(entries.as_slice())
}

/// Runs the loops of an object and adds the arrays that they make to it.
pub(crate) fn properties<'t>(
    evaluator: &Evaluator<'t>,
    loops: &'t [Value],
    frame: &Frame<'_, 't>,
    path: &str,
    waiting: Option<&RefCell<Vec<Pending>>>,
    result: &mut Map<String, Value>,
) -> TemplateResult<()> {
    for (index, entry) in loops.iter().enumerate() {
        let (name, value) = one(
            evaluator,
            entry,
            frame,
            &format!("{path}[{index}]"),
            waiting,
        )?;
        result.insert(name, value);
    }
    Ok(())
}

/// Runs one loop: its name and the array that it makes.
pub(crate) fn one<'t>(
    evaluator: &Evaluator<'t>,
    entry: &'t Value,
    frame: &Frame<'_, 't>,
    path: &str,
    waiting: Option<&RefCell<Vec<Pending>>>,
) -> TemplateResult<(String, Value)> {
    let wrong = |what: &str| {
        TemplateError::new(TemplateErrorKind::Syntax, format!("the copy loop {what}")).at(path)
    };
    let map = entry
        .as_object()
        .ok_or_else(|| wrong("must be an object"))?;
    let name = get(map, "name")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("needs a name"))?;
    let input = get(map, "input").ok_or_else(|| wrong("needs an input"))?;
    let count = count(evaluator, map, frame, path)?;
    let mut items = Vec::new();
    for index in 0..count {
        let locals = frame.locals.with_loop(name, index, false);
        items.push(evaluator.tree(
            input,
            &frame.with_locals(&locals),
            &format!("{path}.input"),
            waiting,
        )?);
    }
    Ok((name.to_owned(), Value::Array(items)))
}

/// The number of iterations, checked against the limit.
pub(crate) fn count<'t>(
    evaluator: &Evaluator<'t>,
    map: &'t Map<String, Value>,
    frame: &Frame<'_, 't>,
    path: &str,
) -> TemplateResult<i64> {
    let path = format!("{path}.count");
    let wrong = |what: String| {
        TemplateError::expression(format!("the count of the copy loop {what}")).at(&path)
    };
    let count = get(map, "count").ok_or_else(|| wrong("is missing".to_owned()))?;
    let part = if frame.part == Part::Body {
        Part::Header
    } else {
        frame.part
    };
    let count = evaluator.tree(count, &frame.with_part(part), &path, None)?;
    let count = count
        .as_i64()
        .ok_or_else(|| wrong(format!("must be an Integer, not {}", type_name(&count))))?;
    let most = i64::try_from(evaluator.budget.limits().copies).unwrap_or(i64::MAX);
    if !(0..=most).contains(&count) {
        return Err(TemplateError::limit(format!(
            "the count of the copy loop is {count}; it must be 0 to {most}"
        ))
        .at(&path));
    }
    Ok(count)
}
