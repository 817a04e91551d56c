//! From evaluated resources to container groups.

use super::error::{TemplateError, TemplateErrorKind};
use super::result::{CONTAINER_GROUPS, Evaluated, Resource};
use crate::document::tree::Node;
use crate::document::{Reading, inspect_node};
use crate::error::{Error, Problem, Result};
use crate::model::{ContainerGroup, ContainerGroupProfile};

impl Evaluated {
    /// The container groups, in the order in which they are to be deployed.
    ///
    /// # Errors
    ///
    /// Kind [`Invalid`](crate::error::ErrorKind::Invalid) with everything that is wrong: a value
    /// of a group still waits for the running deployment (code `InvalidTemplate`), or the
    /// resource is not a container group that can be read (code `InvalidRequestContent`). Paths,
    /// lines and columns are the template's.
    pub fn container_groups(&self) -> Result<Vec<ContainerGroup>> {
        self.all(CONTAINER_GROUPS, |reading| reading.document.groups)
    }

    /// The container group profiles, like [`container_groups`](Self::container_groups).
    ///
    /// # Errors
    ///
    /// As [`container_groups`](Self::container_groups).
    pub fn container_group_profiles(&self) -> Result<Vec<ContainerGroupProfile>> {
        self.all(ContainerGroupProfile::RESOURCE_TYPE, |reading| {
            reading.document.profiles
        })
    }

    fn all<T>(&self, kind: &str, take: fn(Reading) -> Vec<T>) -> Result<Vec<T>> {
        let mut found = Vec::new();
        let mut problems = Vec::new();
        for resource in self.of_type(kind) {
            let mut reading = self.read(resource);
            problems.append(&mut reading.problems);
            problems.extend(self.waiting(resource));
            found.append(&mut take(reading));
        }
        if problems.is_empty() {
            Ok(found)
        } else {
            Err(Error::from_problems("template.groups", problems))
        }
    }

    /// Reads one resource as a container group or a profile, with all problems and warnings.
    ///
    /// Paths, lines and columns are the template's. A value that waits for the running
    /// deployment is a warning here, and its expression stands in the group: good enough to
    /// check the group, not to run it.
    #[must_use]
    pub fn read(&self, resource: &Resource) -> Reading {
        let mut reading = inspect_node(&Node::from(&resource.value));
        self.locate(resource, &mut reading.problems);
        self.locate(resource, &mut reading.document.warnings);
        // An expression is not what the property wants, but its value may be.
        reading
            .problems
            .retain(|problem| !resource.waits_at(&problem.path));
        reading.document.warnings.extend(self.waiting(resource));
        reading
    }

    /// The values of a resource that wait, as problems.
    fn waiting<'a>(&'a self, resource: &'a Resource) -> impl Iterator<Item = Problem> + 'a {
        resource.pending.iter().map(|pending| {
            let error = TemplateError::runtime(pending.reason.clone())
                .within(&pending.expression)
                .at(&pending.path);
            Problem::from(&self.places.locate(error))
        })
    }

    /// Turns problems of a resource into problems of the template: their paths go on from the
    /// resource's, and they get the line and column of the nearest part of the template.
    pub fn locate(&self, resource: &Resource, problems: &mut [Problem]) {
        for problem in problems {
            problem.path = match problem.path.as_str() {
                "" => resource.path.clone(),
                path if path.starts_with('[') => format!("{}{path}", resource.path),
                path => format!("{}.{path}", resource.path),
            };
            if let Some(place) = self.places.nearest(&problem.path) {
                problem.line = Some(place.line);
                problem.column = Some(place.column);
            }
        }
    }
}

impl Resource {
    /// Whether the value at a path of the template, or one around it, waits for the running
    /// deployment.
    fn waits_at(&self, path: &str) -> bool {
        let path = path.to_ascii_lowercase();
        self.pending.iter().any(|pending| {
            let tail = path.strip_prefix(&pending.path.to_ascii_lowercase());
            tail.is_some_and(|tail| tail.is_empty() || tail.starts_with(['.', '[']))
        })
    }
}

impl From<&TemplateError> for Problem {
    fn from(error: &TemplateError) -> Self {
        let mut problem = Self::new(
            error.code(),
            error.path().unwrap_or_default(),
            error.sentence(),
        );
        problem.line = error.position().map(|place| place.line);
        problem.column = error.position().map(|place| place.column);
        problem
    }
}

impl From<TemplateError> for Error {
    fn from(error: TemplateError) -> Self {
        let converted = Self::from_problems("template.evaluate", vec![Problem::from(&error)]);
        match error.kind() {
            TemplateErrorKind::Runtime => {
                converted.hint("evaluate again with a resolver that knows the value")
            }
            TemplateErrorKind::Unsupported => {
                converted.hint("write the value itself, or hand it over as a parameter")
            }
            TemplateErrorKind::Syntax
            | TemplateErrorKind::Parameter
            | TemplateErrorKind::Expression
            | TemplateErrorKind::Dependency
            | TemplateErrorKind::Limit => converted,
        }
    }
}
