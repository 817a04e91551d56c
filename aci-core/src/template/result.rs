//! What an evaluated template yields.

use std::fmt;

use serde_json::Value;

use super::deploy::{self, Outcome};
use super::error::{TemplateError, TemplateResult};
use super::eval::Pending;
use super::places::Places;
use super::resources::{Body, Slot};
use super::value::unmark;
use crate::document::tree::Place;

/// The type of container groups.
pub const CONTAINER_GROUPS: &str = "Microsoft.ContainerInstance/containerGroups";

/// An evaluated template: its resources in an order in which they can be deployed, and its
/// outputs.
///
/// `Debug` never shows values: they may come from secure parameters.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Evaluated {
    /// The resources, those of nested deployments behind their deployment.
    pub resources: Vec<Resource>,
    /// The outputs, in the order of the template.
    pub outputs: Vec<Output>,
    pub(crate) places: Places,
}

impl Evaluated {
    pub(crate) fn new(outcome: Outcome, places: Places) -> Self {
        Self {
            resources: outcome.resources,
            outputs: deploy::finish(outcome.outputs),
            places,
        }
    }

    /// Where the value at a path of the template stands in its text, or the nearest one around
    /// it; `None` for a template that was no text.
    #[must_use]
    pub fn place(&self, path: &str) -> Option<Place> {
        self.places.nearest(path)
    }

    /// The resources of a type, in any case.
    pub fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Resource> {
        self.resources
            .iter()
            .filter(move |resource| resource.kind.eq_ignore_ascii_case(kind))
    }

    /// An output by name, in any case.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs
            .iter()
            .find(|output| output.name.eq_ignore_ascii_case(name))
    }
}

/// An evaluated resource.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Resource {
    /// The type, such as `Microsoft.ContainerInstance/containerGroups`.
    pub kind: String,
    /// The name; that of a child resource includes its parents'.
    pub name: String,
    /// The api-version, where the template gives one.
    pub api_version: Option<String>,
    /// The resource id.
    pub id: String,
    /// The symbolic name, in templates of language version 2.0.
    pub symbol: Option<String>,
    /// Where the template declares it, as a JSON path.
    pub path: String,
    /// The name of the deployment that it belongs to.
    pub deployment: String,
    /// Ids of the resources of the same deployment that come first.
    pub depends_on: Vec<String>,
    /// The resource as it would be sent to its provider: with `type`, `name`, `apiVersion`;
    /// without `condition`, `copy`, `dependsOn` and child resources. Where a value waits, its
    /// expression stands.
    pub value: Value,
    /// Values that only the running deployment knows.
    pub pending: Vec<Pending>,
}

impl Resource {
    pub(crate) fn new(
        slot: &Slot<'_>,
        body: &Body,
        deployment: &str,
        depends_on: Vec<String>,
    ) -> Self {
        Self {
            kind: slot.kind.clone(),
            name: slot.name.clone(),
            api_version: slot.api_version.clone(),
            id: slot.id.clone(),
            symbol: slot.symbol.clone(),
            path: slot.path.clone(),
            deployment: deployment.to_owned(),
            depends_on,
            value: unmark(body.value.clone()),
            pending: body.pending.clone(),
        }
    }

    /// The resource, when none of its values waits for the running deployment.
    ///
    /// # Errors
    ///
    /// A value waits: the error names its path, its expression and what it waits for.
    pub fn complete(&self) -> TemplateResult<&Value> {
        settled(&self.pending).map(|()| &self.value)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("id", &self.id)
            .field("path", &self.path)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// An output of the template.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its type as declared, such as `string` or `securestring`.
    pub kind: String,
    /// Its value. Where a value waits, its expression stands.
    pub value: Value,
    /// Values that only the running deployment knows.
    pub pending: Vec<Pending>,
}

impl Output {
    /// The value, when nothing in it waits for the running deployment.
    ///
    /// # Errors
    ///
    /// A value waits: the error names its path, its expression and what it waits for.
    pub fn complete(&self) -> TemplateResult<&Value> {
        settled(&self.pending).map(|()| &self.value)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

fn settled(pending: &[Pending]) -> TemplateResult<()> {
    match pending.first() {
        None => Ok(()),
        Some(first) => Err(TemplateError::runtime(first.reason.clone())
            .within(&first.expression)
            .at(&first.path)),
    }
}
