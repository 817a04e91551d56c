//! Arrays, and what arrays, strings and objects have in common.

use serde_json::Value;

use super::Call;
use super::string::{from_units, units};
use crate::template::error::TemplateResult;
use crate::template::value::{get, same};

pub(super) fn array(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(match &call.args[0] {
        already @ Value::Array(_) => already.clone(),
        single => Value::Array(vec![single.clone()]),
    })
}

pub(super) fn create_array(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    Ok(Value::Array(call.args.clone()))
}

/// Case matters for text and for elements, not for property names.
pub(super) fn contains(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    Ok(Value::Bool(match &call.args[0] {
        Value::Array(items) => items.iter().any(|item| same(item, &call.args[1])),
        Value::Object(map) => get(map, call.text(1)?).is_some(),
        Value::String(text) => text.contains(call.text(1)?),
        _ => return Err(call.wrong(0, "Array, Object, String")),
    }))
}

pub(super) fn empty(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::Bool(match &call.args[0] {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => return Err(call.wrong(0, "Array, Object, String")),
    }))
}

pub(super) fn length(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::from(match &call.args[0] {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        Value::String(text) => text.encode_utf16().count(),
        _ => return Err(call.wrong(0, "Array, Object, String")),
    }))
}

pub(super) fn first(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    match &call.args[0] {
        Value::Array(items) => Ok(items.first().cloned().unwrap_or(Value::Null)),
        Value::String(text) => Ok(Value::String(
            text.chars().next().map(String::from).unwrap_or_default(),
        )),
        _ => Err(call.wrong(0, "Array, String")),
    }
}

pub(super) fn last(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    match &call.args[0] {
        Value::Array(items) => Ok(items.last().cloned().unwrap_or(Value::Null)),
        Value::String(text) => Ok(Value::String(
            text.chars()
                .next_back()
                .map(String::from)
                .unwrap_or_default(),
        )),
        _ => Err(call.wrong(0, "Array, String")),
    }
}

/// A count below nothing is nothing; one beyond the end is the end.
fn cut(call: &Call<'_, '_, '_>, length: usize) -> TemplateResult<usize> {
    Ok(usize::try_from(call.int(1)?.max(0))
        .unwrap_or(usize::MAX)
        .min(length))
}

pub(super) fn skip(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    match &call.args[0] {
        Value::Array(items) => Ok(Value::Array(items[cut(call, items.len())?..].to_vec())),
        Value::String(text) => {
            let text = units(text);
            from_units(call, &text[cut(call, text.len())?..])
        }
        _ => Err(call.wrong(0, "Array, String")),
    }
}

pub(super) fn take(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    match &call.args[0] {
        Value::Array(items) => Ok(Value::Array(items[..cut(call, items.len())?].to_vec())),
        Value::String(text) => {
            let text = units(text);
            from_units(call, &text[..cut(call, text.len())?])
        }
        _ => Err(call.wrong(0, "Array, String")),
    }
}

pub(super) fn flatten(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let mut flat = Vec::new();
    for item in call.array(0)? {
        match item {
            Value::Array(items) => flat.extend(items.iter().cloned()),
            _ => return Err(call.refuse("the array holds something else than arrays")),
        }
    }
    Ok(Value::Array(flat))
}

/// The element counted from the end: 1 is the last.
pub(super) fn index_from_end(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    let (items, back) = (call.array(0)?, call.int(1)?);
    usize::try_from(back)
        .ok()
        .filter(|back| *back >= 1)
        .and_then(|back| items.len().checked_sub(back))
        .map(|index| items[index].clone())
        .ok_or_else(|| {
            call.refuse(format!(
                "the index {back} from the end is outside the array of {} elements",
                items.len()
            ))
        })
}
