//! Functions that take a lambda: `map`, `filter`, `reduce`, `sort`, `toObject`, `mapValues`,
//! `groupBy`.

use serde_json::{Map, Value};

use super::Call;
use crate::template::error::{TemplateError, TemplateResult};
use crate::template::eval::{Evaluator, refuse_pending};
use crate::template::parser::Expr;
use crate::template::scope::Frame;
use crate::template::value::type_name;

/// A lambda as written: names of its variables, and its body.
struct Lambda<'e> {
    names: Vec<&'e str>,
    body: &'e Expr,
}

impl<'e> Lambda<'e> {
    fn of(argument: &'e Expr) -> TemplateResult<Self> {
        let wrong = || {
            TemplateError::expression(
                "a lambda is expected, such as lambda('x', lambdaVariables('x'))",
            )
        };
        let Expr::Call {
            namespace: None,
            name,
            arguments,
        } = argument
        else {
            return Err(wrong());
        };
        let (body, names) = match arguments.split_last() {
            Some(parts) if name.eq_ignore_ascii_case("lambda") => parts,
            _ => return Err(wrong()),
        };
        let names = names
            .iter()
            .map(|name| match name {
                Expr::Text(name) => Ok(name.as_str()),
                _ => Err(wrong()),
            })
            .collect::<TemplateResult<_>>()?;
        Ok(Self { names, body })
    }

    /// Evaluates the body; a lambda may name fewer variables than there are values.
    fn apply<'t>(
        &self,
        evaluator: &Evaluator<'t>,
        frame: &Frame<'_, 't>,
        values: &[Value],
    ) -> TemplateResult<Value> {
        if self.names.len() > values.len() {
            return Err(TemplateError::expression(format!(
                "the lambda names {} variables, at most {} are given to it",
                self.names.len(),
                values.len()
            )));
        }
        let mut locals = frame.locals.clone();
        locals.lambda.extend(
            self.names
                .iter()
                .map(|name| (*name).to_owned())
                .zip(values.iter().cloned()),
        );
        evaluator.eval(self.body, &frame.with_locals(&locals))
    }
}

/// Calls a function with lambdas, or gives `None` when `lower` is none.
pub(super) fn call<'t>(
    evaluator: &Evaluator<'t>,
    lower: &str,
    arguments: &[Expr],
    frame: &Frame<'_, 't>,
) -> Option<TemplateResult<Value>> {
    let lambdas = match lower {
        "map" | "filter" | "sort" | "mapvalues" | "groupby" => 1..=1,
        "reduce" => 2..=2,
        "toobject" => 1..=2,
        "lambda" => {
            return Some(Err(TemplateError::expression(
                "a lambda stands only inside functions such as map and filter",
            )));
        }
        _ => return None,
    };
    Some(run(evaluator, lower, arguments, frame, lambdas))
}

fn run<'t>(
    evaluator: &Evaluator<'t>,
    lower: &str,
    arguments: &[Expr],
    frame: &Frame<'_, 't>,
    extra: std::ops::RangeInclusive<usize>,
) -> TemplateResult<Value> {
    let (input, rest) = match arguments.split_first() {
        Some((input, rest)) if extra.contains(&rest.len()) => (input, rest),
        _ => {
            return Err(TemplateError::expression(
                "the function takes an input and its lambda",
            ));
        }
    };
    let input = evaluator.eval(input, frame)?;
    refuse_pending(&input)?;
    if lower == "mapvalues" {
        return map_values(evaluator, frame, input, &Lambda::of(&rest[0])?);
    }
    let Value::Array(items) = input else {
        return Err(TemplateError::expression(format!(
            "the function expects an Array, not {}",
            type_name(&input)
        )));
    };
    evaluator.budget.spend(items.len())?;
    if lower == "reduce" {
        let lambda = Lambda::of(&rest[1])?;
        let mut sum = evaluator.eval(&rest[0], frame)?;
        for (index, item) in items.into_iter().enumerate() {
            sum = lambda.apply(evaluator, frame, &[sum, item, Value::from(index)])?;
            evaluator.budget.pay_for(&sum)?;
        }
        return Ok(sum);
    }
    let lambda = Lambda::of(&rest[0])?;
    let apply = |item: &Value, index: usize| {
        lambda.apply(evaluator, frame, &[item.clone(), Value::from(index)])
    };
    match lower {
        "map" => {
            let mapped = items
                .iter()
                .enumerate()
                .map(|(index, item)| apply(item, index));
            mapped.collect::<TemplateResult<Vec<_>>>().map(Value::Array)
        }
        "filter" => {
            let mut kept = Vec::new();
            for (index, item) in items.into_iter().enumerate() {
                if truth(&apply(&item, index)?)? {
                    kept.push(item);
                }
            }
            Ok(Value::Array(kept))
        }
        "groupby" => {
            let mut groups: Map<String, Value> = Map::new();
            for (index, item) in items.into_iter().enumerate() {
                let key = name(apply(&item, index)?)?;
                match groups
                    .entry(key)
                    .or_insert_with(|| Value::Array(Vec::new()))
                {
                    Value::Array(group) => group.push(item),
                    other => *other = Value::Array(vec![item]),
                }
            }
            Ok(Value::Object(groups))
        }
        "toobject" => {
            let value = rest.get(1).map(Lambda::of).transpose()?;
            let mut map = Map::new();
            for (index, item) in items.into_iter().enumerate() {
                let key = name(apply(&item, index)?)?;
                let item = match &value {
                    Some(value) => value.apply(evaluator, frame, &[item, Value::from(index)])?,
                    None => item,
                };
                map.insert(key, item);
            }
            Ok(Value::Object(map))
        }
        _ => sort(items, |a, b| {
            truth(&lambda.apply(evaluator, frame, &[a.clone(), b.clone()])?)
        })
        .map(Value::Array),
    }
}

fn map_values<'t>(
    evaluator: &Evaluator<'t>,
    frame: &Frame<'_, 't>,
    input: Value,
    lambda: &Lambda<'_>,
) -> TemplateResult<Value> {
    let Value::Object(map) = input else {
        return Err(TemplateError::expression(format!(
            "the function expects an Object, not {}",
            type_name(&input)
        )));
    };
    map.into_iter()
        .map(|(key, value)| Ok((key, lambda.apply(evaluator, frame, &[value])?)))
        .collect::<TemplateResult<Map<_, _>>>()
        .map(Value::Object)
}

fn truth(value: &Value) -> TemplateResult<bool> {
    value.as_bool().ok_or_else(|| {
        TemplateError::expression(format!(
            "the lambda must return a Boolean, not {}",
            type_name(value)
        ))
    })
}

fn name(value: Value) -> TemplateResult<String> {
    match value {
        Value::String(name) => Ok(name),
        other => Err(TemplateError::expression(format!(
            "the lambda must return a String, not {}",
            type_name(&other)
        ))),
    }
}

/// A stable sort by insertion: the comparison is the template's and may fail or contradict itself.
fn sort(
    items: Vec<Value>,
    less: impl Fn(&Value, &Value) -> TemplateResult<bool>,
) -> TemplateResult<Vec<Value>> {
    let mut sorted: Vec<Value> = Vec::with_capacity(items.len());
    for item in items {
        let (mut low, mut high) = (0, sorted.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if less(&item, &sorted[middle])? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        sorted.insert(low, item);
    }
    Ok(sorted)
}

/// `lambdaVariables`: the value of a variable of the innermost lambda that names it.
pub(super) fn variable(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let name = call.text(0)?;
    let found = call
        .frame
        .locals
        .lambda
        .iter()
        .rev()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    found
        .map(|(_, value)| value.clone())
        .ok_or_else(|| call.refuse("no lambda around this expression has a variable of that name"))
}
