//! How large and how expensive a template may be.

use std::cell::Cell;

use serde_json::Value;

use super::error::{TemplateError, TemplateResult};

/// Bounds on a template and on its evaluation.
///
/// The text itself is bounded by [`MAX_BYTES`](crate::document::MAX_BYTES) and
/// [`MAX_DEPTH`](crate::document::MAX_DEPTH). The defaults for expressions, parameters,
/// variables, resources, outputs and copies are Resource Manager's own; the others keep a
/// hostile template from running long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Characters of one expression (24,576).
    pub expression: usize,
    /// Parameters (256).
    pub parameters: usize,
    /// Variables (256).
    pub variables: usize,
    /// Resources, copies and nested deployments included (800).
    pub resources: usize,
    /// Outputs (64).
    pub outputs: usize,
    /// Iterations of one copy loop (800).
    pub copies: usize,
    /// Depth of JSON values and of expressions inside each other (160).
    pub depth: usize,
    /// Work: one unit for each value and each byte of text that an evaluation makes (16 Mi).
    pub work: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            expression: 24_576,
            parameters: 256,
            variables: 256,
            resources: 800,
            outputs: 64,
            copies: 800,
            depth: 160,
            work: 16 << 20,
        }
    }
}

/// What one evaluation may still spend.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    left: Cell<u64>,
    depth: Cell<usize>,
    resources: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            left: Cell::new(limits.work),
            limits,
            depth: Cell::new(0),
            resources: Cell::new(0),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Pays for work before it is done.
    pub(crate) fn spend(&self, units: usize) -> TemplateResult<()> {
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        match self.left.get().checked_sub(units) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.left.set(0);
                Err(TemplateError::limit(format!(
                    "the evaluation needs more than {} units of work; the template is too large or repeats itself too often",
                    self.limits.work
                )))
            }
        }
    }

    /// Pays for a value that was made, and refuses one nested too deeply.
    pub(crate) fn pay_for(&self, value: &Value) -> TemplateResult<()> {
        let size = measure(value, self.limits.depth).ok_or_else(|| self.too_deep())?;
        self.spend(size)
    }

    /// Goes one level down; the guard comes up again.
    pub(crate) fn descend(&self) -> TemplateResult<Descent<'_>> {
        let depth = self.depth.get() + 1;
        if depth > self.limits.depth {
            return Err(self.too_deep());
        }
        self.depth.set(depth);
        Ok(Descent(&self.depth))
    }

    pub(crate) fn count_resource(&self) -> TemplateResult<()> {
        let count = self.resources.get() + 1;
        self.resources.set(count);
        if count > self.limits.resources {
            return Err(TemplateError::limit(format!(
                "the template deploys more than {} resources",
                self.limits.resources
            )));
        }
        Ok(())
    }

    fn too_deep(&self) -> TemplateError {
        TemplateError::limit(format!(
            "values or expressions are nested more than {} levels deep",
            self.limits.depth
        ))
    }
}

pub(crate) struct Descent<'a>(&'a Cell<usize>);

impl Drop for Descent<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Values and bytes of text in `value`; `None` when it is nested deeper than `depth`.
fn measure(value: &Value, depth: usize) -> Option<usize> {
    if depth == 0 {
        return None;
    }
    match value {
        Value::String(text) => Some(1 + text.len()),
        Value::Array(items) => items
            .iter()
            .try_fold(1_usize, |sum, item| Some(sum + measure(item, depth - 1)?)),
        Value::Object(map) => map.iter().try_fold(1_usize, |sum, (key, item)| {
            Some(sum + key.len() + measure(item, depth - 1)?)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(1),
    }
}
