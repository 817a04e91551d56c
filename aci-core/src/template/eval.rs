//! Evaluates expressions, and JSON with expressions in it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::context::EvaluationContext;
use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use super::functions;
use super::limits::Budget;
use super::parser::{Expr, Step, parse};
use super::scope::{Frame, Part};
use super::value::{expression_in, find_pending, get, is_mark, pending, type_name, unescape};

/// A value that waits for the running deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// The JSON path of the value in the template.
    pub path: String,
    /// The expression that waits, brackets included.
    pub expression: String,
    /// What it waits for.
    pub reason: String,
}

/// One evaluation of one template.
pub(crate) struct Evaluator<'t> {
    pub(crate) context: &'t EvaluationContext<'t>,
    pub(crate) budget: Budget,
    parsed: RefCell<HashMap<String, Rc<Expr>>>,
    /// How many values `newGuid` has made.
    pub(crate) guids: Cell<u64>,
    /// Resources that the bodies now being evaluated have referred to, innermost last.
    pub(crate) references: RefCell<Vec<Vec<String>>>,
}

impl<'t> Evaluator<'t> {
    pub(crate) fn new(context: &'t EvaluationContext<'t>) -> Self {
        Self {
            budget: Budget::new(context.limits.clone()),
            context,
            parsed: RefCell::default(),
            guids: Cell::new(0),
            references: RefCell::default(),
        }
    }

    /// Evaluates a JSON value of the template, expressions inside included.
    ///
    /// With `waiting`, values that only the running deployment knows are marked and listed
    /// there; without it they are errors.
    pub(crate) fn tree(
        &self,
        value: &'t Value,
        frame: &Frame<'_, 't>,
        path: &str,
        waiting: Option<&RefCell<Vec<Pending>>>,
    ) -> TemplateResult<Value> {
        let _level = self.budget.descend().map_err(|error| error.at(path))?;
        match value {
            Value::String(text) => match self.text(text, frame) {
                Err(error) if error.kind() == TemplateErrorKind::Runtime && waiting.is_some() => {
                    if let Some(list) = waiting {
                        list.borrow_mut().push(Pending {
                            path: path.to_owned(),
                            expression: text.clone(),
                            reason: error.message().to_owned(),
                        });
                    }
                    Ok(pending(text))
                }
                result => result.map_err(|error| error.at(path)),
            },
            Value::Array(items) => {
                self.budget.spend(items.len())?;
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| {
                        self.tree(item, frame, &format!("{path}[{index}]"), waiting)
                    })
                    .collect::<TemplateResult<Vec<_>>>()
                    .map(Value::Array)
            }
            Value::Object(map) => self.object(map, frame, path, waiting).map(Value::Object),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(value.clone()),
        }
    }

    fn object(
        &self,
        map: &'t Map<String, Value>,
        frame: &Frame<'_, 't>,
        path: &str,
        waiting: Option<&RefCell<Vec<Pending>>>,
    ) -> TemplateResult<Map<String, Value>> {
        self.budget.spend(map.len())?;
        let mut result = Map::new();
        for (key, value) in map {
            let here = join(path, key);
            if key.eq_ignore_ascii_case("copy")
                && let Some(loops) = super::copy::property_loops(value)
                && frame.part != Part::Header
            {
                super::copy::properties(self, loops, frame, &here, waiting, &mut result)?;
                continue;
            }
            let key = match self.text(key, frame).map_err(|error| error.at(&here))? {
                Value::String(key) => key,
                other => {
                    return Err(TemplateError::expression(format!(
                        "a property name must be a String, not {}",
                        type_name(&other)
                    ))
                    .at(&here));
                }
            };
            result.insert(key, self.tree(value, frame, &here, waiting)?);
        }
        Ok(result)
    }

    /// Evaluates one string of the template.
    pub(crate) fn text(&self, text: &str, frame: &Frame<'_, 't>) -> TemplateResult<Value> {
        let Some(inner) = expression_in(text) else {
            self.budget.spend(1 + text.len())?;
            return Ok(Value::String(unescape(text).to_owned()));
        };
        self.expression(inner, frame)
            .map_err(|error| error.within(text))
    }

    fn expression(&self, text: &str, frame: &Frame<'_, 't>) -> TemplateResult<Value> {
        let known = self.parsed.borrow().get(text).map(Rc::clone);
        let expr = match known {
            Some(expr) => expr,
            None => {
                let limits = self.budget.limits();
                if text.len() > limits.expression {
                    return Err(TemplateError::limit(format!(
                        "the expression is longer than {} characters",
                        limits.expression
                    )));
                }
                self.budget.spend(text.len())?;
                let expr = Rc::new(parse(text, limits.depth)?);
                self.parsed
                    .borrow_mut()
                    .insert(text.to_owned(), Rc::clone(&expr));
                expr
            }
        };
        let value = self.eval(&expr, frame)?;
        refuse_pending(&value)?;
        Ok(value)
    }

    /// Evaluates a part of an expression.
    pub(crate) fn eval(&self, expr: &Expr, frame: &Frame<'_, 't>) -> TemplateResult<Value> {
        let _level = self.budget.descend()?;
        self.budget.spend(1)?;
        match expr {
            Expr::Text(text) => Ok(Value::String(text.clone())),
            Expr::Integer(number) => Ok(Value::from(*number)),
            Expr::Call {
                namespace: Some(namespace),
                name,
                arguments,
            } => functions::user::call(self, namespace, name, arguments, frame),
            Expr::Call {
                namespace: None,
                name,
                arguments,
            } => {
                let value = functions::call(self, name, arguments, frame)
                    .map_err(|error| error.calling(name))?;
                self.budget.pay_for(&value)?;
                Ok(value)
            }
            Expr::Access { base, steps } => self.access(base, steps, frame),
        }
    }

    fn access(&self, base: &Expr, steps: &[Step], frame: &Frame<'_, 't>) -> TemplateResult<Value> {
        let of_runtime = is_runtime(base);
        let mut value = self.eval(base, frame)?;
        for step in steps {
            let (key, shown) = match step {
                Step::Property(name) => (Value::String(name.clone()), Some(name.as_str())),
                Step::Index(Expr::Text(name)) => (Value::String(name.clone()), Some(name.as_str())),
                Step::Index(index) => (self.eval(index, frame)?, None),
            };
            value = match take(value, &key, shown) {
                Ok(value) => value,
                Err(message) if of_runtime => {
                    return Err(TemplateError::runtime(format!(
                        "{message} before the deployment has run"
                    )));
                }
                Err(message) => return Err(TemplateError::expression(message)),
            };
            if is_mark(&value) {
                refuse_pending(&value)?;
            }
        }
        Ok(value)
    }
}

/// Whether the value comes from the running deployment, so that what is missing may yet come.
fn is_runtime(expr: &Expr) -> bool {
    matches!(expr, Expr::Call { namespace: None, name, .. }
        if name.eq_ignore_ascii_case("reference") || functions::runtime::is_list(name))
}

/// Takes one property or element out of a value.
///
/// The message names the property only as `shown`: a computed name may be a secret.
pub(crate) fn take(value: Value, key: &Value, shown: Option<&str>) -> Result<Value, String> {
    match (value, key) {
        (Value::Object(map), Value::String(name)) => match get(&map, name) {
            Some(found) => Ok(found.clone()),
            None => Err(match shown {
                Some(name) => format!("the language expression property '{name}' doesn't exist"),
                None => "the language expression property that the index selects doesn't exist"
                    .to_owned(),
            }),
        },
        (Value::Array(mut items), Value::Number(number)) => {
            let length = items.len();
            match number
                .as_u64()
                .and_then(|index| usize::try_from(index).ok())
                .filter(|index| *index < length)
            {
                Some(index) => Ok(items.swap_remove(index)),
                None => Err(format!(
                    "the array index '{number}' is out of bounds; the array has {length} elements"
                )),
            }
        }
        (value, key) => Err(format!(
            "the language expression property can't be evaluated: a value of type {} has no element for a key of type {}",
            type_name(&value),
            type_name(key)
        )),
    }
}

/// Refuses a value with something in it that has to wait.
pub(crate) fn refuse_pending(value: &Value) -> TemplateResult<()> {
    match find_pending(value) {
        None => Ok(()),
        Some(expression) => Err(TemplateError::runtime(format!(
            "it needs the value of '{expression}', which is known only when the deployment runs"
        ))),
    }
}

/// The path of a property.
pub(crate) fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$'));
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}['{key}']"),
    }
}
