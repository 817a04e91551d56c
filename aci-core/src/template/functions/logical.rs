//! Conditions, comparisons and what is evaluated only when it is needed.

use std::cmp::Ordering;

use serde_json::Value;

use super::Call;
use crate::template::error::{TemplateError, TemplateErrorKind, TemplateResult};
use crate::template::eval::{Evaluator, refuse_pending};
use crate::template::parser::Expr;
use crate::template::scope::Frame;
use crate::template::value::{same, type_name};

/// `if`, `and`, `or` and `coalesce` evaluate only what they need.
pub(super) fn lazy<'t>(
    evaluator: &Evaluator<'t>,
    lower: &str,
    arguments: &[Expr],
    frame: &Frame<'_, 't>,
) -> Option<TemplateResult<Value>> {
    match lower {
        "if" => Some(choose(evaluator, arguments, frame)),
        "and" => Some(all(evaluator, arguments, frame, false)),
        "or" => Some(all(evaluator, arguments, frame, true)),
        "coalesce" => Some(coalesce(evaluator, arguments, frame)),
        _ => None,
    }
}

fn count(name: &str, arguments: &[Expr], least: usize, most: usize) -> TemplateResult<()> {
    if (least..=most).contains(&arguments.len()) {
        return Ok(());
    }
    Err(TemplateError::expression(format!(
        "unable to evaluate template language function '{name}': it cannot take {} parameters",
        arguments.len()
    )))
}

fn condition<'t>(
    evaluator: &Evaluator<'t>,
    name: &str,
    argument: &Expr,
    frame: &Frame<'_, 't>,
) -> TemplateResult<bool> {
    let value = evaluator.eval(argument, frame)?;
    refuse_pending(&value)?;
    value.as_bool().ok_or_else(|| {
        TemplateError::expression(format!(
            "the template language function '{name}' expects a condition of type 'Boolean', not '{}'",
            type_name(&value)
        ))
    })
}

fn choose<'t>(
    evaluator: &Evaluator<'t>,
    arguments: &[Expr],
    frame: &Frame<'_, 't>,
) -> TemplateResult<Value> {
    count("if", arguments, 3, 3)?;
    let branch = if condition(evaluator, "if", &arguments[0], frame)? {
        1
    } else {
        2
    };
    evaluator.eval(&arguments[branch], frame)
}

fn all<'t>(
    evaluator: &Evaluator<'t>,
    arguments: &[Expr],
    frame: &Frame<'_, 't>,
    decisive: bool,
) -> TemplateResult<Value> {
    let name = if decisive { "or" } else { "and" };
    count(name, arguments, 1, usize::MAX)?;
    for argument in arguments {
        if condition(evaluator, name, argument, frame)? == decisive {
            return Ok(Value::Bool(decisive));
        }
    }
    Ok(Value::Bool(!decisive))
}

fn coalesce<'t>(
    evaluator: &Evaluator<'t>,
    arguments: &[Expr],
    frame: &Frame<'_, 't>,
) -> TemplateResult<Value> {
    count("coalesce", arguments, 1, usize::MAX)?;
    for argument in arguments {
        let value = evaluator.eval(argument, frame)?;
        if !value.is_null() {
            return Ok(value);
        }
    }
    Ok(Value::Null)
}

pub(super) fn constant(call: &Call<'_, '_, '_>, value: Value) -> TemplateResult<Value> {
    call.arity(0, 0)?;
    Ok(value)
}

pub(super) fn bool(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let result = match &call.args[0] {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => number.as_i64().map(|number| number != 0),
        Value::String(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    };
    result.map(Value::Bool).ok_or_else(|| {
        call.refuse("the value is neither a truth value, a number, nor 'true' or 'false'")
    })
}

pub(super) fn not(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::Bool(!call.bool(0)?))
}

pub(super) fn xor(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    Ok(Value::Bool(call.bool(0)? != call.bool(1)?))
}

pub(super) fn equals(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    Ok(Value::Bool(same(&call.args[0], &call.args[1])))
}

/// Compares numbers by value and strings by their code points.
pub(super) fn compare(call: &Call<'_, '_, '_>, lower: &str) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    let order = match (&call.args[0], &call.args[1]) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().partial_cmp(&b.as_f64()),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let Some(order) = order else {
        return Err(TemplateError::new(
            TemplateErrorKind::Expression,
            format!(
                "the template language function '{}' compares two integers or two strings, not '{}' with '{}'",
                call.name,
                type_name(&call.args[0]),
                type_name(&call.args[1])
            ),
        ));
    };
    Ok(Value::Bool(match lower {
        "less" => order == Ordering::Less,
        "lessorequals" => order != Ordering::Greater,
        "greater" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }))
}
