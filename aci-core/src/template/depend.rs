//! In which order resources are deployed.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_json::Value;

use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use super::eval::{Evaluator, join};
use super::resources::{Slot, circle, find};
use super::scope::{Frame, Part, Scope};
use super::value::{get, type_name};

/// For each active slot, the indexes of those that it depends on.
pub(crate) fn edges<'t>(
    evaluator: &Evaluator<'t>,
    scope: &Rc<Scope<'t>>,
    slots: &[Rc<Slot<'t>>],
) -> TemplateResult<Vec<Vec<usize>>> {
    let index_of: HashMap<*const Slot<'t>, usize> = slots
        .iter()
        .enumerate()
        .map(|(index, slot)| (Rc::as_ptr(slot), index))
        .collect();
    let by_id: HashMap<String, usize> = slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.active && !slot.existing)
        .map(|(index, slot)| (slot.id.to_lowercase(), index))
        .collect();
    let mut edges = Vec::with_capacity(slots.len());
    for slot in slots {
        let mut targets = Vec::new();
        if slot.active && !slot.existing {
            for target in declared(evaluator, scope, slots, slot)? {
                targets.extend(index_of.get(&Rc::as_ptr(&target)).copied());
            }
            for id in &slot.body(evaluator, scope)?.references {
                targets.extend(by_id.get(&id.to_lowercase()).copied());
            }
        }
        evaluator.budget.spend(targets.len())?;
        targets.sort_unstable();
        targets.dedup();
        edges.push(targets);
    }
    Ok(edges)
}

/// The resources that a `dependsOn` names.
fn declared<'t>(
    evaluator: &Evaluator<'t>,
    scope: &Rc<Scope<'t>>,
    slots: &[Rc<Slot<'t>>],
    slot: &Slot<'t>,
) -> TemplateResult<Vec<Rc<Slot<'t>>>> {
    let Some(depends) = get(slot.declaration, "dependsOn").filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let path = join(&slot.path, "dependsOn");
    let frame = Frame {
        scope,
        locals: &slot.locals,
        part: Part::Header,
    };
    let Value::Array(names) = evaluator.tree(depends, &frame, &path, None)? else {
        return Err(TemplateError::new(
            TemplateErrorKind::Syntax,
            "'dependsOn' must be an Array of names or ids",
        )
        .at(&path));
    };
    let mut targets = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let here = format!("{path}[{index}]");
        let Value::String(name) = name else {
            return Err(TemplateError::new(
                TemplateErrorKind::Syntax,
                format!("'dependsOn' holds names or ids, not {}", type_name(name)),
            )
            .at(&here));
        };
        evaluator.budget.spend(slots.len())?;
        let mut found = find(slots, name);
        if found.is_empty() {
            found = slots
                .iter()
                .filter(|slot| slot.is_copy_of(name))
                .map(Rc::clone)
                .collect();
        }
        // A loop that makes no copies is there all the same.
        if found.is_empty() && !names_a_loop(scope, name) {
            return Err(TemplateError::new(
                TemplateErrorKind::Dependency,
                format!("the resource '{name}' is not defined in the template"),
            )
            .at(&here));
        }
        targets.extend(found);
    }
    Ok(targets)
}

fn names_a_loop(scope: &Scope<'_>, name: &str) -> bool {
    let is_loop = |symbol: Option<&str>, item: &Value| {
        let copy = item
            .as_object()
            .and_then(|map| get(map, "copy"))
            .and_then(Value::as_object);
        copy.is_some_and(|copy| {
            symbol == Some(name)
                || get(copy, "name")
                    .and_then(Value::as_str)
                    .is_some_and(|known| known.eq_ignore_ascii_case(name))
        })
    };
    match get(scope.template, "resources") {
        Some(Value::Array(items)) => items.iter().any(|item| is_loop(None, item)),
        Some(Value::Object(map)) => map.iter().any(|(symbol, item)| is_loop(Some(symbol), item)),
        _ => false,
    }
}

/// Sorts so that every resource comes after those that it depends on; otherwise keeps the order.
pub(crate) fn order(slots: &[Rc<Slot<'_>>], edges: &[Vec<usize>]) -> TemplateResult<Vec<usize>> {
    let mut done = vec![false; slots.len()];
    let mut order = Vec::with_capacity(slots.len());
    loop {
        let before = order.len();
        for index in 0..slots.len() {
            if !done[index] && edges[index].iter().all(|target| done[*target]) {
                done[index] = true;
                order.push(index);
            }
        }
        if order.len() == slots.len() {
            return Ok(order);
        }
        if order.len() == before {
            return Err(circle(&cycle(slots, edges, &done)));
        }
    }
}

/// The ids of one circle among the resources that are left.
fn cycle(slots: &[Rc<Slot<'_>>], edges: &[Vec<usize>], done: &[bool]) -> String {
    let mut trail: Vec<usize> = Vec::new();
    let mut seen = HashSet::new();
    let mut at = done.iter().position(|done| !done).unwrap_or(0);
    while seen.insert(at) {
        trail.push(at);
        match edges[at].iter().find(|target| !done[**target]) {
            Some(next) => at = *next,
            None => break,
        }
    }
    let start = trail.iter().position(|index| *index == at).unwrap_or(0);
    let ids: Vec<&str> = trail[start..]
        .iter()
        .take(8)
        .map(|index| slots[*index].id.as_str())
        .collect();
    ids.join("' -> '")
}
