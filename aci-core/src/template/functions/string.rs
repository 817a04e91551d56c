//! Strings. Positions and lengths count UTF-16 units, as in .NET.

use serde_json::Value;

use super::Call;
use crate::template::error::TemplateResult;
use crate::template::value::{same, text_of};

/// The UTF-16 units of a text.
pub(super) fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// Joins UTF-16 units; refuses half a character.
pub(super) fn from_units(call: &Call<'_, '_, '_>, units: &[u16]) -> TemplateResult<Value> {
    String::from_utf16(units)
        .map(Value::String)
        .map_err(|_| call.refuse("the position lies inside a character"))
}

/// UTF-16 units in one case, for comparisons that ignore case.
fn folded(text: &str) -> Vec<u16> {
    let mut units = Vec::with_capacity(text.len());
    for c in text.chars() {
        let mut upper = c.to_uppercase();
        // Ordinal comparison maps characters one to one.
        let same = match (upper.next(), upper.next()) {
            (Some(upper), None) => upper,
            _ => c,
        };
        units.extend_from_slice(same.encode_utf16(&mut [0; 2]));
    }
    units
}

pub(super) fn concat(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    if !call.args.is_empty() && call.args.iter().all(Value::is_array) {
        call.spend(
            call.args
                .iter()
                .filter_map(Value::as_array)
                .map(Vec::len)
                .sum(),
        )?;
        return Ok(Value::Array(
            call.args
                .iter()
                .filter_map(Value::as_array)
                .flatten()
                .cloned()
                .collect(),
        ));
    }
    let mut text = String::new();
    for (index, argument) in call.args.iter().enumerate() {
        if matches!(argument, Value::Array(_) | Value::Object(_)) {
            return Err(call.wrong(index, "String"));
        }
        let piece = text_of(argument);
        call.spend(piece.len())?;
        text.push_str(&piece);
    }
    Ok(Value::String(text))
}

pub(super) fn string(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::String(text_of(&call.args[0])))
}

pub(super) fn to_lower(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::String(call.text(0)?.to_lowercase()))
}

pub(super) fn to_upper(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::String(call.text(0)?.to_uppercase()))
}

pub(super) fn trim(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::String(call.text(0)?.trim().to_owned()))
}

pub(super) fn substring(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 3)?;
    let text = units(call.text(0)?);
    let start = call.int(1)?;
    let total = i64::try_from(text.len()).unwrap_or(i64::MAX);
    let length = if call.args.len() == 3 {
        call.int(2)?
    } else {
        total.saturating_sub(start)
    };
    let end = start
        .checked_add(length)
        .filter(|end| start >= 0 && length >= 0 && *end <= total);
    let bounds =
        end.and_then(|end| Some((usize::try_from(start).ok()?, usize::try_from(end).ok()?)));
    match bounds {
        Some((start, end)) => from_units(call, &text[start..end]),
        None => Err(call.refuse(format!(
            "the index and length parameters must refer to a location within the string. The index parameter: '{start}', the length parameter: '{length}', the length of the string parameter: '{total}'"
        ))),
    }
}

pub(super) fn replace(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(3, 3)?;
    let (text, old, new) = (call.text(0)?, call.text(1)?, call.text(2)?);
    if old.is_empty() {
        return Err(call.refuse("the string to be replaced is empty"));
    }
    call.spend(
        text.matches(old)
            .count()
            .saturating_mul(new.len())
            .saturating_add(text.len()),
    )?;
    Ok(Value::String(text.replace(old, new)))
}

pub(super) fn split(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    let mut rest = call.text(0)?;
    let separators: Vec<&str> = match &call.args[1] {
        Value::String(one) => vec![one],
        Value::Array(many) => many
            .iter()
            .map(|one| {
                one.as_str()
                    .ok_or_else(|| call.wrong(1, "String, Array of String"))
            })
            .collect::<TemplateResult<_>>()?,
        _ => return Err(call.wrong(1, "String, Array of String")),
    };
    let mut pieces = Vec::new();
    let mut from = 0;
    // The earliest separator wins; among several at one place the first that is given.
    while let Some(c) = rest[from..].chars().next() {
        match separators
            .iter()
            .find(|separator| !separator.is_empty() && rest[from..].starts_with(**separator))
        {
            Some(separator) => {
                pieces.push(Value::from(&rest[..from]));
                rest = &rest[from + separator.len()..];
                from = 0;
            }
            None => from += c.len_utf8(),
        }
        call.spend(separators.len())?;
    }
    pieces.push(Value::from(rest));
    Ok(Value::Array(pieces))
}

pub(super) fn join(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    let (items, separator) = (call.array(0)?, call.text(1)?);
    call.spend(items.len().saturating_mul(separator.len()))?;
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        if matches!(item, Value::Array(_) | Value::Object(_)) {
            return Err(call.refuse("the array holds arrays or objects; it joins strings"));
        }
        if index > 0 {
            text.push_str(separator);
        }
        text.push_str(&text_of(item));
    }
    Ok(Value::String(text))
}

pub(super) fn starts_with(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    Ok(Value::Bool(
        folded(call.text(0)?).starts_with(&folded(call.text(1)?)),
    ))
}

pub(super) fn ends_with(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    Ok(Value::Bool(
        folded(call.text(0)?).ends_with(&folded(call.text(1)?)),
    ))
}

pub(super) fn pad_left(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 3)?;
    let text = match &call.args[0] {
        Value::String(_) | Value::Number(_) => text_of(&call.args[0]),
        _ => return Err(call.wrong(0, "String, Integer")),
    };
    let fill = match call.optional_text(2)? {
        None => ' ',
        Some(fill) => match (fill.chars().next(), fill.encode_utf16().count()) {
            (Some(fill), 1) => fill,
            _ => return Err(call.refuse("the padding must be a single character")),
        },
    };
    let width =
        usize::try_from(call.int(1)?).map_err(|_| call.refuse("the total length is negative"))?;
    let missing = width.saturating_sub(text.encode_utf16().count());
    call.spend(missing.saturating_mul(fill.len_utf8()))?;
    let mut padded: String = std::iter::repeat_n(fill, missing).collect();
    padded.push_str(&text);
    Ok(Value::String(padded))
}

fn position(found: Option<usize>) -> Value {
    found
        .and_then(|at| i64::try_from(at).ok())
        .map_or_else(|| Value::from(-1), Value::from)
}

/// The first place of a string in a string, in any case, or of a value in an array.
pub(super) fn index_of(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    if let Value::Array(items) = &call.args[0] {
        return Ok(position(
            items.iter().position(|item| same(item, &call.args[1])),
        ));
    }
    let (text, wanted) = (folded(call.text(0)?), folded(call.text(1)?));
    if wanted.is_empty() {
        return Ok(Value::from(0));
    }
    call.spend(text.len())?;
    Ok(position(
        text.windows(wanted.len())
            .position(|window| window == wanted),
    ))
}

/// The last place of a string in a string, in any case, or of a value in an array.
pub(super) fn last_index_of(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    if let Value::Array(items) = &call.args[0] {
        return Ok(position(
            items.iter().rposition(|item| same(item, &call.args[1])),
        ));
    }
    let (text, wanted) = (folded(call.text(0)?), folded(call.text(1)?));
    if wanted.is_empty() {
        return Ok(position(Some(text.len())));
    }
    call.spend(text.len())?;
    Ok(position(
        text.windows(wanted.len())
            .rposition(|window| window == wanted),
    ))
}
