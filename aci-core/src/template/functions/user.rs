//! Functions that a template defines.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::Value;

use crate::template::error::{TemplateError, TemplateResult};
use crate::template::eval::{Evaluator, refuse_pending};
use crate::template::parser::Expr;
use crate::template::scope::{Frame, Locals, Part};

/// Calls `namespace.name`.
///
/// A function sees its own parameters and other functions; not the template's variables,
/// parameters and resources.
pub(crate) fn call<'t>(
    evaluator: &Evaluator<'t>,
    namespace: &str,
    name: &str,
    arguments: &[Expr],
    frame: &Frame<'_, 't>,
) -> TemplateResult<Value> {
    let full = format!("{namespace}.{name}");
    let Some(function) = frame
        .scope
        .names
        .functions
        .get(&full.to_lowercase())
        .map(Rc::clone)
    else {
        return Err(TemplateError::expression(format!(
            "the template function '{full}' is not valid"
        )));
    };
    if arguments.len() != function.parameters.len() {
        return Err(TemplateError::expression(format!(
            "the template function '{}' expects {} parameters, {} are given",
            function.name,
            function.parameters.len(),
            arguments.len()
        )));
    }
    let mut values = HashMap::new();
    for ((name, declaration), argument) in function.parameters.iter().zip(arguments) {
        let value = evaluator.eval(argument, frame)?;
        refuse_pending(&value)?;
        crate::template::parameters::check(
            name,
            declaration,
            frame.scope.names.definitions,
            &value,
        )
        .map_err(|error| error.calling(&function.name))?;
        values.insert(name.to_lowercase(), value);
    }
    let locals = Locals {
        function: Some(Rc::new(values)),
        ..Locals::default()
    };
    let inside = frame.with_locals(&locals).with_part(Part::Function);
    evaluator
        .tree(function.output, &inside, &function.path, None)
        .map_err(|error| error.calling(&function.name))
}
