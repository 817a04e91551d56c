//! Whole numbers, and the little that the language knows of others.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::Call;
use crate::template::error::TemplateResult;

pub(super) fn int(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let number = match &call.args[0] {
        Value::Number(number) => number.as_i64().or_else(|| {
            // A float without a fraction, such as 2.0, is the integer that it says.
            number
                .as_f64()
                .filter(|float| float.fract() == 0.0)
                .and_then(|float| format!("{float:.0}").parse().ok())
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => return Err(call.wrong(0, "String, Integer")),
    };
    number
        .map(|number: i64| Value::from(number))
        .ok_or_else(|| call.refuse("the value is not a whole number of 64 bits"))
}

/// `float` is not documented, but real templates use it for memory sizes.
pub(super) fn float(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let number = match &call.args[0] {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => return Err(call.wrong(0, "String, Integer, Float")),
    };
    number
        .and_then(Number::from_f64)
        .map(Value::Number)
        .ok_or_else(|| call.refuse("the value is not a number"))
}

pub(super) fn arithmetic(call: &Call<'_, '_, '_>, lower: &str) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    let (left, right) = (call.int(0)?, call.int(1)?);
    if right == 0 && matches!(lower, "div" | "mod") {
        return Err(call.refuse("the second operand is zero"));
    }
    let result = match lower {
        "add" => left.checked_add(right),
        "sub" => left.checked_sub(right),
        "mul" => left.checked_mul(right),
        "div" => left.checked_div(right),
        _ => left.checked_rem(right),
    };
    result
        .map(Value::from)
        .ok_or_else(|| call.refuse("the result does not fit into 64 bits"))
}

/// `min` and `max` of integers, given one by one or as an array.
pub(super) fn extreme(call: &Call<'_, '_, '_>, wanted: Ordering) -> TemplateResult<Value> {
    call.arity(1, usize::MAX)?;
    let items = match &call.args[0] {
        Value::Array(items) if call.args.len() == 1 => items,
        _ => &call.args,
    };
    let mut best: Option<i64> = None;
    for item in items {
        let number = item
            .as_i64()
            .ok_or_else(|| call.refuse("it takes integers only"))?;
        if best.is_none_or(|best| number.cmp(&best) == wanted) {
            best = Some(number);
        }
    }
    best.map(Value::from)
        .ok_or_else(|| call.refuse("an empty array has no smallest or largest element"))
}

pub(super) fn range(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    const MOST: i64 = 10_000;
    call.arity(2, 2)?;
    let (start, count) = (call.int(0)?, call.int(1)?);
    if !(0..=MOST).contains(&count) {
        return Err(call.refuse(format!("the count {count} is outside 0 to {MOST}")));
    }
    let end = start
        .checked_add(count)
        .ok_or_else(|| call.refuse("the last number does not fit into 64 bits"))?;
    call.spend(usize::try_from(count).unwrap_or(usize::MAX))?;
    Ok(Value::Array((start..end).map(Value::from).collect()))
}
