//! Names, loops and resources that an expression can see.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::context::Place;
use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use super::resources::Slot;

/// A value that is computed when it is first asked for.
#[derive(Debug)]
pub(crate) enum Lazy<T> {
    /// Nobody asked yet.
    Unset,
    /// It is being computed: asking again means a circle.
    Busy,
    /// It is known.
    Done(Rc<T>),
    /// It could not be computed.
    Failed(TemplateError),
}

/// Computes a lazy value once; `circle` is the error when it needs itself.
pub(crate) fn force<T>(
    cell: &RefCell<Lazy<T>>,
    circle: impl FnOnce() -> TemplateError,
    compute: impl FnOnce() -> TemplateResult<T>,
) -> TemplateResult<Rc<T>> {
    match &*cell.borrow() {
        Lazy::Done(value) => return Ok(Rc::clone(value)),
        Lazy::Failed(error) => return Err(error.clone()),
        Lazy::Busy => return Err(circle()),
        Lazy::Unset => {}
    }
    *cell.borrow_mut() = Lazy::Busy;
    let result = compute().map(Rc::new);
    *cell.borrow_mut() = match &result {
        Ok(value) => Lazy::Done(Rc::clone(value)),
        Err(error) => Lazy::Failed(error.clone()),
    };
    result
}

/// A parameter as declared, and the value given for it.
#[derive(Debug)]
pub(crate) struct ParameterSlot<'t> {
    pub(crate) name: String,
    pub(crate) declaration: &'t Map<String, Value>,
    pub(crate) given: Option<Value>,
    pub(crate) path: String,
    pub(crate) value: RefCell<Lazy<Value>>,
}

/// How a variable is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum VariableSource<'t> {
    /// A value with expressions in it.
    Plain(&'t Value),
    /// An entry of the `copy` of the `variables`.
    Loop(&'t Value),
}

/// A variable.
#[derive(Debug)]
pub(crate) struct VariableSlot<'t> {
    pub(crate) name: String,
    pub(crate) source: VariableSource<'t>,
    pub(crate) path: String,
    pub(crate) value: RefCell<Lazy<Value>>,
}

/// A function that the template defines.
#[derive(Debug)]
pub(crate) struct UserFunction<'t> {
    pub(crate) name: String,
    pub(crate) parameters: Vec<(String, &'t Map<String, Value>)>,
    pub(crate) output: &'t Value,
    pub(crate) path: String,
}

/// The parameters, variables and functions of a template. Keys are lower case.
#[derive(Debug, Default)]
pub(crate) struct Names<'t> {
    pub(crate) parameters: HashMap<String, ParameterSlot<'t>>,
    pub(crate) parameter_order: Vec<String>,
    pub(crate) variables: HashMap<String, VariableSlot<'t>>,
    pub(crate) functions: HashMap<String, Rc<UserFunction<'t>>>,
    pub(crate) definitions: Option<&'t Map<String, Value>>,
}

/// At which level a template deploys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Into a resource group.
    ResourceGroup,
    /// Into a subscription.
    Subscription,
    /// Into a management group.
    ManagementGroup,
    /// Into a tenant.
    Tenant,
}

/// One template that is being evaluated: the deployment's own, or one nested in it.
#[derive(Debug)]
pub(crate) struct Scope<'t> {
    /// The names it sees; shared with the parent when a nested template has outer scope.
    pub(crate) names: Rc<Names<'t>>,
    /// Its resources, once their names are known.
    pub(crate) resources: RefCell<Vec<Rc<Slot<'t>>>>,
    /// Where it deploys to.
    pub(crate) place: Place,
    /// Where `resourceGroup()`, `subscription()` and `deployment()` look.
    pub(crate) seen_place: Place,
    pub(crate) level: Level,
    pub(crate) template: &'t Map<String, Value>,
    pub(crate) parent: Option<Rc<Self>>,
    pub(crate) nesting: usize,
}

/// A running copy loop.
#[derive(Debug, Clone)]
pub(crate) struct LoopVariable {
    pub(crate) name: String,
    pub(crate) index: i64,
    /// Loops on properties and variables are seen by name only when a resource loops too.
    pub(crate) of_resource: bool,
}

/// What is known only at the place of an expression.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locals {
    pub(crate) loops: Vec<LoopVariable>,
    pub(crate) lambda: Vec<(String, Value)>,
    /// The parameters of the user function that runs.
    pub(crate) function: Option<Rc<HashMap<String, Value>>>,
}

impl Locals {
    pub(crate) fn with_loop(&self, name: &str, index: i64, of_resource: bool) -> Self {
        let mut locals = self.clone();
        locals.loops.push(LoopVariable {
            name: name.to_owned(),
            index,
            of_resource,
        });
        locals
    }
}

/// In which part of the template an expression stands; decides what it may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The default value of a parameter: the only place for `newGuid` and `utcNow`.
    Default,
    /// A variable.
    Variable,
    /// The output of a user function.
    Function,
    /// A resource's name, condition, copy count: known before anything runs.
    Header,
    /// A resource's properties.
    Body,
    /// An output.
    Output,
}

impl Part {
    /// Whether `reference` and `list*` may be called here.
    pub(crate) fn sees_runtime(self) -> bool {
        matches!(self, Self::Body | Self::Output)
    }
}

/// The surroundings of one expression.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'f, 't> {
    pub(crate) scope: &'f Rc<Scope<'t>>,
    pub(crate) locals: &'f Locals,
    pub(crate) part: Part,
}

impl<'f, 't> Frame<'f, 't> {
    pub(crate) fn with_locals<'g>(&self, locals: &'g Locals) -> Frame<'g, 't>
    where
        'f: 'g,
    {
        Frame {
            scope: self.scope,
            locals,
            part: self.part,
        }
    }

    pub(crate) fn with_part(&self, part: Part) -> Self {
        Self { part, ..*self }
    }
}

pub(crate) fn not_expected_here(function: &str) -> TemplateError {
    TemplateError::new(
        TemplateErrorKind::Expression,
        format!("the template function '{function}' is not expected at this location"),
    )
}
