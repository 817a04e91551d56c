//! Objects, and the set functions that arrays share with them.

use serde_json::{Map, Value};

use super::Call;
use crate::template::error::TemplateResult;
use crate::template::value::{get, key_of, same};

pub(super) fn create_object(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    if !call.args.len().is_multiple_of(2) {
        return Err(call.refuse("it takes names and values in pairs"));
    }
    let mut map = Map::new();
    for index in (0..call.args.len()).step_by(2) {
        map.insert(call.text(index)?.to_owned(), call.args[index + 1].clone());
    }
    Ok(Value::Object(map))
}

/// The names of an object in the order in which Resource Manager lists them.
fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| key.to_lowercase());
    entries
}

pub(super) fn items(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let entry = |(key, value): (&String, &Value)| {
        let mut map = Map::new();
        map.insert("key".to_owned(), Value::String(key.clone()));
        map.insert("value".to_owned(), value.clone());
        Value::Object(map)
    };
    Ok(Value::Array(
        sorted(call.object(0)?).into_iter().map(entry).collect(),
    ))
}

pub(super) fn keys(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::Array(
        sorted(call.object(0)?)
            .into_iter()
            .map(|(key, _)| Value::String(key.clone()))
            .collect(),
    ))
}

pub(super) fn shallow_merge(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let mut result = Map::new();
    for item in call.array(0)? {
        let Value::Object(map) = item else {
            return Err(call.refuse("the array holds something else than objects"));
        };
        for (key, value) in map {
            put(&mut result, key, value.clone());
        }
    }
    Ok(Value::Object(result))
}

/// Sets a property under the name that it already has in any case.
fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    let key = key_of(map, key).unwrap_or(key).to_owned();
    map.insert(key, value);
}

/// Follows properties and elements, and gives null where one is missing.
pub(super) fn try_get(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, usize::MAX)?;
    let mut value = &call.args[0];
    for key in &call.args[1..] {
        let next = match (value, key) {
            (Value::Object(map), Value::String(name)) => get(map, name),
            (Value::Array(items), Value::Number(index)) => index
                .as_u64()
                .and_then(|index| usize::try_from(index).ok())
                .and_then(|index| items.get(index)),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => return Ok(Value::Null),
        }
    }
    Ok(value.clone())
}

/// All elements once, or all properties with the last value; objects inside are joined too,
/// arrays inside are replaced.
pub(super) fn union(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, usize::MAX)?;
    if call.args.iter().all(Value::is_array) {
        let mut result: Vec<Value> = Vec::new();
        for item in call.args.iter().filter_map(Value::as_array).flatten() {
            call.spend(result.len())?;
            if !result.iter().any(|known| same(known, item)) {
                result.push(item.clone());
            }
        }
        return Ok(Value::Array(result));
    }
    let mut result = Map::new();
    for index in 0..call.args.len() {
        merge(&mut result, call.object(index)?);
    }
    Ok(Value::Object(result))
}

fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        let key = key_of(into, key).unwrap_or(key).to_owned();
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => {
                into.insert(key, value.clone());
            }
        }
    }
}

pub(super) fn intersection(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, usize::MAX)?;
    if let Value::Array(first) = &call.args[0] {
        let mut result: Vec<Value> = Vec::new();
        for item in first {
            let mut everywhere = true;
            for index in 1..call.args.len() {
                let other = call.array(index)?;
                call.spend(other.len())?;
                everywhere = everywhere && other.iter().any(|other| same(other, item));
            }
            if everywhere && !result.iter().any(|known| same(known, item)) {
                result.push(item.clone());
            }
        }
        return Ok(Value::Array(result));
    }
    let mut result = call.object(0)?.clone();
    for index in 1..call.args.len() {
        let other = call.object(index)?;
        result.retain(|key, value| get(other, key).is_some_and(|other| same(other, value)));
    }
    Ok(Value::Object(result))
}
