//! Azure Resource Manager templates.
//!
//! A [`Template`] is read from text, then evaluated with an [`EvaluationContext`]: parameters,
//! place, time. The result is every resource as JSON without expressions, in an order in which
//! they can be deployed, and the outputs. Evaluation is pure: the same template and context
//! give the same result.
//!
//! ```
//! use std::time::SystemTime;
//! use aci_core::template::{EvaluationContext, Parameters, Template};
//!
//! let template = Template::parse(r#"{
//!   "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
//!   "contentVersion": "1.0.0.0",
//!   "parameters": { "name": { "type": "string", "minLength": 3 } },
//!   "resources": [{
//!     "type": "Microsoft.ContainerInstance/containerGroups",
//!     "apiVersion": "2023-05-01",
//!     "name": "[toLower(parameters('name'))]",
//!     "location": "[resourceGroup().location]",
//!     "properties": { "osType": "Linux", "containers": [] }
//!   }]
//! }"#)?;
//! let context = EvaluationContext::new(SystemTime::now())
//!     .resource_group("demo", "westeurope")
//!     .parameters(Parameters::new().with("name", "Web"));
//! let evaluated = template.evaluate(&context)?;
//! assert_eq!(evaluated.resources[0].value["name"], "web");
//! # Ok::<(), aci_core::template::TemplateError>(())
//! ```
//!
//! # What is evaluated
//!
//! The functions of Resource Manager's language, but for those that need Azure itself
//! (`providers`, `managementGroup`, `toLogicalZone` ...) and a few that are rare (`parseUri` ...):
//! these are errors that name the expression. `uniqueString`
//! and `guid` give Azure's own results. User-defined functions, lambdas, copy loops on
//! resources, properties, variables and outputs, conditions, child resources, nested
//! deployments of inner and outer scope, and symbolic names (language version 2.0) are
//! evaluated. Linked templates are evaluated where the context has them; parameter links and
//! key vault references are refused.
//!
//! [`Evaluated::container_groups`] gives the container groups; the other resources are there as
//! JSON.
//!
//! # What has to wait
//!
//! `reference` and `listKeys` ask a [`RuntimeResolver`] first. `reference` of a resource of the
//! template then answers with the evaluated properties. What is still unknown - an address that
//! a group gets when it runs, the key of a storage account - is no error yet: the value keeps
//! its expression and the resource or output lists it as [`Pending`]. Evaluate again with a
//! resolver when the values are known; [`Resource::complete`] refuses what still waits.
//!
//! # Differences from Azure
//!
//! Variables and the branches of `if`, `and`, `or` that are not needed are not evaluated, so a
//! mistake in them goes unseen. `less` and its like compare strings by code points. `pickZones`
//! knows three zones everywhere. Nested properties of user-defined types are not checked.

mod context;
mod copy;
mod depend;
mod deploy;
mod error;
mod eval;
mod functions;
mod groups;
mod lexer;
mod limits;
mod parameters;
mod parser;
mod places;
mod resources;
mod result;
mod scope;
#[cfg(test)]
mod tests;
mod value;
mod variables;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use serde_json::{Map, Value};

pub use context::{EvaluationContext, ListRequest, ReferenceRequest, RuntimeResolver, StorageKeys};
pub use error::{TemplateError, TemplateErrorKind, TemplateResult};
pub use eval::Pending;
pub use limits::Limits;
pub use parameters::Parameters;
pub use result::{CONTAINER_GROUPS, Evaluated, Output, Resource};

use crate::document::tree::Node;
use eval::Evaluator;
use places::Places;
use scope::{Level, Locals, Scope};
use value::get;

/// Reads JSON as Resource Manager reads requests of deployments: comments, strings over several
/// lines, single quotes, a trailing comma and names without quotes are accepted (the Azure CLI sends
/// such).
///
/// # Errors
///
/// The text is not that, with line and column.
pub fn parse_json(text: &str) -> TemplateResult<Value> {
    Ok(places::read(text)?.to_json())
}

/// A deployment template.
///
/// `Debug` shows its schema and sizes, not its text.
#[derive(Clone, PartialEq)]
pub struct Template {
    root: Map<String, Value>,
    places: Places,
}

impl Template {
    /// Reads a template from JSON as Resource Manager reads it: comments and strings over
    /// several lines are accepted.
    ///
    /// # Errors
    ///
    /// The text is not JSON (with line and column), or not a template.
    pub fn parse(text: &str) -> TemplateResult<Self> {
        Self::from_node(places::read(text)?)
    }

    /// Takes a template from a document that was read with
    /// [`document::parse`](crate::document::parse), JSON or YAML.
    ///
    /// # Errors
    ///
    /// The document is not a template: it has no `resources`.
    pub fn from_node(node: Node) -> TemplateResult<Self> {
        let (places, value) = Places::of(node);
        match Self::from_value(value) {
            Ok(template) => Ok(Self { places, ..template }),
            Err(error) => Err(places.locate(error)),
        }
    }

    /// Takes a template that is read already.
    ///
    /// # Errors
    ///
    /// The value is not a template: it has no `resources`.
    pub fn from_value(value: Value) -> TemplateResult<Self> {
        let syntax = |message: String| TemplateError::new(TemplateErrorKind::Syntax, message);
        let root = match value {
            Value::Object(root) => root,
            other => {
                return Err(syntax(format!(
                    "a template must be an Object, not {}",
                    value::type_name(&other)
                )));
            }
        };
        match get(&root, "resources") {
            Some(Value::Array(_) | Value::Object(_)) => Ok(Self {
                root,
                places: Places::default(),
            }),
            Some(other) => Err(syntax(format!(
                "'resources' must be an Array or an Object, not {}",
                value::type_name(other)
            ))
            .at("resources")),
            None => Err(syntax(
                "the required property 'resources' is not found; this is no deployment template"
                    .to_owned(),
            )),
        }
    }

    /// The declared parameters: name, type, and whether a value must be given.
    pub fn parameters(&self) -> impl Iterator<Item = ParameterInfo<'_>> {
        let declared = get(&self.root, "parameters").and_then(Value::as_object);
        declared
            .into_iter()
            .flatten()
            .filter_map(|(name, declaration)| {
                let declaration = declaration.as_object()?;
                Some(ParameterInfo {
                    name,
                    kind: get(declaration, "type")
                        .and_then(Value::as_str)
                        .unwrap_or("object"),
                    required: get(declaration, "defaultValue").is_none()
                        && get(declaration, "nullable") != Some(&Value::Bool(true)),
                })
            })
    }

    /// Evaluates the template.
    ///
    /// # Errors
    ///
    /// A parameter is missing or wrong, an expression cannot be evaluated or is not supported,
    /// resources depend on each other in a circle, or a limit is passed. The error names the
    /// JSON path, the expression and the function; see [`TemplateError`] for what it never shows.
    pub fn evaluate(&self, context: &EvaluationContext<'_>) -> TemplateResult<Evaluated> {
        self.run(context).map_err(|error| self.places.locate(error))
    }

    pub(crate) fn root(&self) -> &Map<String, Value> {
        &self.root
    }

    fn run(&self, context: &EvaluationContext<'_>) -> TemplateResult<Evaluated> {
        let evaluator = Evaluator::new(context);
        let scope = Rc::new(Scope {
            names: Rc::new(deploy::names(
                &evaluator,
                &self.root,
                &context.parameters,
                "",
            )?),
            resources: RefCell::default(),
            place: context.place.clone(),
            seen_place: context.place.clone(),
            level: deploy::level(&self.root, Level::ResourceGroup),
            template: &self.root,
            parent: None,
            nesting: 0,
        });
        let outcome = deploy::run(&evaluator, &scope, &Locals::default(), "")?;
        Ok(Evaluated::new(outcome, self.places.clone()))
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |name: &str| match get(&self.root, name) {
            Some(Value::Object(map)) => map.len(),
            Some(Value::Array(items)) => items.len(),
            _ => 0,
        };
        f.debug_struct("Template")
            .field(
                "schema",
                &get(&self.root, "$schema").and_then(Value::as_str),
            )
            .field("parameters", &size("parameters"))
            .field("variables", &size("variables"))
            .field("resources", &size("resources"))
            .finish_non_exhaustive()
    }
}

/// What a template says of one of its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParameterInfo<'t> {
    /// The name.
    pub name: &'t str,
    /// The type as written, such as `securestring`.
    pub kind: &'t str,
    /// Whether it has no default value.
    pub required: bool,
}
