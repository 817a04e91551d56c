//! `reference`, `list*` and their like: what a running deployment knows.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::Call;
use crate::template::context::{ListRequest, ReferenceRequest};
use crate::template::error::{TemplateError, TemplateErrorKind, TemplateResult};
use crate::template::resources::{Slot, find};
use crate::template::scope::{Scope, not_expected_here};
use crate::template::value::get;

/// Whether a function is one of the list operations: `listKeys`, `listAccountSas` ...
pub(crate) fn is_list(name: &str) -> bool {
    name.len() > 4
        && name
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case("list"))
}

/// A resource that a function is about.
enum Target<'t> {
    Here(Rc<Slot<'t>>, Rc<Scope<'t>>),
    Elsewhere(String),
}

impl Target<'_> {
    fn id(&self) -> &str {
        match self {
            Self::Here(slot, _) => &slot.id,
            Self::Elsewhere(id) => id,
        }
    }
}

fn target<'t>(call: &Call<'_, '_, 't>) -> TemplateResult<Target<'t>> {
    if !call.frame.part.sees_runtime() {
        return Err(not_expected_here(call.name));
    }
    let name = call.text(0)?;
    let mut scope = Some(Rc::clone(call.frame.scope));
    while let Some(current) = scope {
        let found = find(&current.resources.borrow(), name);
        match found.as_slice() {
            [] => {}
            [slot] => return Ok(Target::Here(Rc::clone(slot), current)),
            _ => {
                return Err(call.refuse(format!(
                    "the template reference '{name}' is not clear: several resources have that name; use their ids"
                )));
            }
        }
        scope = current.parent.clone();
    }
    if name.starts_with('/') {
        return Ok(Target::Elsewhere(name.to_owned()));
    }
    Err(TemplateError::new(
        TemplateErrorKind::Dependency,
        format!(
            "the template reference '{name}' is not valid: could not find template resource or resource copy with this name"
        ),
    ))
}

/// `reference(nameOrId, [apiVersion], ['Full'])`.
///
/// The resolver is asked first; then a resource of the template answers with its evaluated
/// properties. What these do not have is known only when the deployment runs.
pub(super) fn reference(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 3)?;
    let api_version = call.optional_text(1)?;
    let full = match call.optional_text(2)? {
        None => false,
        Some(full) if full.eq_ignore_ascii_case("full") => true,
        Some(_) => return Err(call.refuse("its third parameter can only be 'Full'")),
    };
    answer(call, &target(call)?, api_version, full)
}

fn answer<'t>(
    call: &Call<'_, '_, 't>,
    target: &Target<'t>,
    api_version: Option<&str>,
    full: bool,
) -> TemplateResult<Value> {
    if let Target::Here(slot, _) = target {
        if !slot.active {
            return Err(TemplateError::new(
                TemplateErrorKind::Dependency,
                format!(
                    "the resource '{}' is not deployed because its condition is false",
                    slot.id
                ),
            ));
        }
        if let Some(list) = call.evaluator.references.borrow_mut().last_mut() {
            list.push(slot.id.clone());
        }
    }
    let request = ReferenceRequest {
        resource_id: target.id(),
        api_version,
        full,
    };
    if let Some(state) = call
        .evaluator
        .context
        .resolver
        .and_then(|resolver| resolver.reference(&request))
    {
        return Ok(state);
    }
    match target {
        Target::Here(slot, scope) if !slot.existing => {
            let body = slot.body(call.evaluator, scope)?;
            Ok(if full {
                let mut whole = body.value.as_object().cloned().unwrap_or_default();
                whole.insert("id".to_owned(), Value::String(slot.id.clone()));
                Value::Object(whole)
            } else {
                let properties = body
                    .value
                    .as_object()
                    .and_then(|map| get(map, "properties"));
                properties
                    .cloned()
                    .unwrap_or_else(|| Value::Object(Map::new()))
            })
        }
        _ => Err(TemplateError::runtime(format!(
            "the state of the resource '{}' is known only when the deployment runs; supply it with a resolver",
            target.id()
        ))),
    }
}

/// `references(loop, ['Full'])`: the states of all copies of a resource.
pub(super) fn references(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 2)?;
    if !call.frame.part.sees_runtime() {
        return Err(not_expected_here(call.name));
    }
    let name = call.text(0)?;
    let full = call
        .optional_text(1)?
        .is_some_and(|full| full.eq_ignore_ascii_case("full"));
    let slots: Vec<_> = {
        let resources = call.frame.scope.resources.borrow();
        resources
            .iter()
            .filter(|slot| slot.is_copy_of(name))
            .map(Rc::clone)
            .collect()
    };
    if slots.is_empty() {
        return Err(call.refuse(format!("there is no resource copy with the name '{name}'")));
    }
    slots
        .into_iter()
        .map(|slot| {
            answer(
                call,
                &Target::Here(slot, Rc::clone(call.frame.scope)),
                None,
                full,
            )
        })
        .collect::<TemplateResult<Vec<_>>>()
        .map(Value::Array)
}

/// `resourceInfo(symbol)`: id, name, type and api-version, known without deploying.
pub(super) fn resource_info(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let Target::Here(slot, _) = target(call)? else {
        return Err(call.refuse("the resource is not defined in the template"));
    };
    let mut info = Map::new();
    for (key, value) in [
        ("id", Some(&slot.id)),
        ("name", Some(&slot.name)),
        ("type", Some(&slot.kind)),
        ("apiVersion", slot.api_version.as_ref()),
    ] {
        info.insert(
            key.to_owned(),
            value.map_or(Value::Null, |value| Value::String(value.clone())),
        );
    }
    Ok(Value::Object(info))
}

/// `listKeys(nameOrId, apiVersion, [body])` and every other list operation.
pub(super) fn list(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 3)?;
    let target = target(call)?;
    if let (Target::Here(slot, _), Some(list)) =
        (&target, call.evaluator.references.borrow_mut().last_mut())
    {
        list.push(slot.id.clone());
    }
    let request = ListRequest {
        function: call.name,
        resource_id: target.id(),
        api_version: call.optional_text(1)?,
        body: call.args.get(2),
    };
    call.evaluator.context.resolver.and_then(|resolver| resolver.list(&request)).ok_or_else(|| {
        TemplateError::runtime(format!(
            "the reply of '{}' for the resource '{}' is known only to its provider; supply it with a resolver",
            call.name,
            target.id()
        ))
    })
}
