//! The resources of a template: their names first, then their bodies.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::copy;
use super::deploy::{self, Outcome};
use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use super::eval::{Evaluator, Pending, join};
use super::functions::resource::provider_path;
use super::scope::{Frame, Lazy, Level, Locals, Part, Scope, force};
use super::value::{get, type_name};

/// One resource, or one copy of one.
#[derive(Debug)]
pub(crate) struct Slot<'t> {
    pub(crate) declaration: &'t Map<String, Value>,
    pub(crate) path: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) api_version: Option<String>,
    /// The symbolic name (language version 2.0); copies have `name[index]`.
    pub(crate) symbol: Option<String>,
    /// The copy loop that it belongs to, and its symbolic name.
    copy_of: Vec<String>,
    /// Whether its condition holds.
    pub(crate) active: bool,
    /// Whether it is only referred to and not deployed.
    pub(crate) existing: bool,
    pub(crate) locals: Locals,
    body: RefCell<Lazy<Body>>,
}

/// An evaluated resource.
#[derive(Debug)]
pub(crate) struct Body {
    /// The resource; what waits is marked.
    pub(crate) value: Value,
    pub(crate) pending: Vec<Pending>,
    /// Ids that it referred to.
    pub(crate) references: Vec<String>,
    /// What a nested deployment deploys.
    pub(crate) nested: Option<Outcome>,
}

impl<'t> Slot<'t> {
    pub(crate) fn is_copy_of(&self, name: &str) -> bool {
        self.copy_of
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Evaluates the body once.
    pub(crate) fn body(
        &self,
        evaluator: &Evaluator<'t>,
        scope: &Rc<Scope<'t>>,
    ) -> TemplateResult<Rc<Body>> {
        force(
            &self.body,
            || circle(&self.id),
            || {
                let _level = evaluator.budget.descend()?;
                evaluator.references.borrow_mut().push(Vec::new());
                let result = self.evaluate(evaluator, scope);
                let references = evaluator.references.borrow_mut().pop().unwrap_or_default();
                // Whatever this one needs, those that need it need too: a deployment needs what
                // the resources inside it refer to.
                if let Some(outer) = evaluator.references.borrow_mut().last_mut() {
                    outer.extend(references.iter().cloned());
                }
                result.map(|body| Body { references, ..body })
            },
        )
    }

    fn evaluate(&self, evaluator: &Evaluator<'t>, scope: &Rc<Scope<'t>>) -> TemplateResult<Body> {
        let frame = Frame {
            scope,
            locals: &self.locals,
            part: Part::Body,
        };
        let waiting = RefCell::new(Vec::new());
        let mut nested = None;
        let mut result = Map::new();
        for (key, value) in self.declaration {
            let here = join(&self.path, key);
            let lower = key.to_ascii_lowercase();
            let value = match lower.as_str() {
                "copy" | "condition" | "dependson" | "resources" | "comments" | "metadata"
                | "existing" | "asserts" => {
                    continue;
                }
                "type" => Value::String(self.kind.clone()),
                "name" => Value::String(self.name.clone()),
                "properties" if deploy::is_deployment(&self.kind) => {
                    let (properties, outcome) =
                        deploy::nested(evaluator, self, &frame, value, &here, &waiting)?;
                    nested = Some(outcome);
                    properties
                }
                _ => evaluator.tree(value, &frame, &here, Some(&waiting))?,
            };
            result.insert(key.clone(), value);
        }
        evaluator.budget.spend(result.len())?;
        let pending = waiting.into_inner();
        Ok(Body {
            value: Value::Object(result),
            pending,
            references: Vec::new(),
            nested,
        })
    }
}

pub(crate) fn circle(ids: &str) -> TemplateError {
    TemplateError::new(
        TemplateErrorKind::Dependency,
        format!("circular dependency detected on resource: '{ids}'"),
    )
}

/// Finds resources by symbolic name, id, or name.
pub(crate) fn find<'t>(slots: &[Rc<Slot<'t>>], name: &str) -> Vec<Rc<Slot<'t>>> {
    let by = |matches: &dyn Fn(&Slot<'t>) -> bool| -> Vec<Rc<Slot<'t>>> {
        slots
            .iter()
            .filter(|slot| matches(slot))
            .map(Rc::clone)
            .collect()
    };
    let clean = name.trim_end_matches('/').replace("//", "/");
    let relative = format!("/providers/{clean}");
    let searches: [&dyn Fn(&Slot<'t>) -> bool; 4] = [
        &|slot| {
            slot.symbol
                .as_deref()
                .is_some_and(|symbol| symbol.eq_ignore_ascii_case(name))
        },
        &|slot| slot.id.eq_ignore_ascii_case(&clean),
        &|slot| slot.name.eq_ignore_ascii_case(&clean),
        // `Microsoft.Network/virtualNetworks/vnet`, as older templates write it.
        &|slot| clean.contains('/') && ends_with(&slot.id, &relative),
    ];
    searches
        .iter()
        .map(|search| by(*search))
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

fn ends_with(text: &str, end: &str) -> bool {
    text.len() >= end.len()
        && text
            .get(text.len() - end.len()..)
            .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// Works out names, ids and conditions of all resources.
pub(crate) fn expand<'t>(
    evaluator: &Evaluator<'t>,
    scope: &Rc<Scope<'t>>,
    locals: &Locals,
    path: &str,
) -> TemplateResult<Vec<Rc<Slot<'t>>>> {
    let mut expansion = Expansion {
        evaluator,
        scope,
        slots: Vec::new(),
    };
    let here = join(path, "resources");
    if let Some(resources) = get(scope.template, "resources") {
        expansion.all(resources, locals, &here, None)?;
    }
    let mut seen = std::collections::HashSet::new();
    for slot in expansion
        .slots
        .iter()
        .filter(|slot| slot.active && !slot.existing)
    {
        if !seen.insert(slot.id.to_lowercase()) {
            return Err(TemplateError::new(
                TemplateErrorKind::Syntax,
                format!(
                    "the resource '{}' is defined multiple times in the template",
                    slot.id
                ),
            )
            .at(&slot.path));
        }
    }
    Ok(expansion.slots)
}

struct Expansion<'e, 't> {
    evaluator: &'e Evaluator<'t>,
    scope: &'e Rc<Scope<'t>>,
    slots: Vec<Rc<Slot<'t>>>,
}

/// The type and the name of the resource around a child.
type Outer<'o> = Option<(&'o str, &'o str)>;

impl<'t> Expansion<'_, 't> {
    fn all(
        &mut self,
        resources: &'t Value,
        locals: &Locals,
        path: &str,
        outer: Outer<'_>,
    ) -> TemplateResult<()> {
        match resources {
            Value::Null => Ok(()),
            Value::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| {
                self.declared(item, None, locals, &format!("{path}[{index}]"), outer)
            }),
            Value::Object(map) => map.iter().try_for_each(|(symbol, item)| {
                self.declared(item, Some(symbol), locals, &join(path, symbol), outer)
            }),
            other => Err(TemplateError::new(
                TemplateErrorKind::Syntax,
                format!(
                    "'resources' must be an Array or an Object, not {}",
                    type_name(other)
                ),
            )
            .at(path)),
        }
    }

    fn declared(
        &mut self,
        item: &'t Value,
        symbol: Option<&str>,
        locals: &Locals,
        path: &str,
        outer: Outer<'_>,
    ) -> TemplateResult<()> {
        let _level = self.evaluator.budget.descend()?;
        let Value::Object(declaration) = item else {
            return Err(TemplateError::new(
                TemplateErrorKind::Syntax,
                format!("a resource must be an Object, not {}", type_name(item)),
            )
            .at(path));
        };
        let Some(entry) = get(declaration, "copy").filter(|copy| !copy.is_null()) else {
            return self.one(
                declaration,
                symbol.map(str::to_owned),
                Vec::new(),
                locals,
                path,
                outer,
            );
        };
        let here = join(path, "copy");
        let wrong = |what: &str| {
            TemplateError::new(
                TemplateErrorKind::Syntax,
                format!("the copy of a resource {what}"),
            )
            .at(&here)
        };
        let map = entry
            .as_object()
            .ok_or_else(|| wrong("must be an object"))?;
        let name = get(map, "name")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong("needs a name"))?;
        let frame = Frame {
            scope: self.scope,
            locals,
            part: Part::Header,
        };
        let count = copy::count(self.evaluator, map, &frame, &here)?;
        for index in 0..count {
            let locals = locals.with_loop(name, index, true);
            let mut copy_of = vec![name.to_owned()];
            copy_of.extend(symbol.map(str::to_owned));
            self.one(
                declaration,
                symbol.map(|symbol| format!("{symbol}[{index}]")),
                copy_of,
                &locals,
                path,
                outer,
            )?;
        }
        Ok(())
    }

    fn one(
        &mut self,
        declaration: &'t Map<String, Value>,
        symbol: Option<String>,
        copy_of: Vec<String>,
        locals: &Locals,
        path: &str,
        outer: Outer<'_>,
    ) -> TemplateResult<()> {
        self.evaluator.budget.count_resource()?;
        let active = self.condition(declaration, locals, path)?;
        let existing = get(declaration, "existing") == Some(&Value::Bool(true));
        let header = || -> TemplateResult<_> {
            let kind = self.header(declaration, "type", locals, path)?;
            let name = self.header(declaration, "name", locals, path)?;
            Ok((
                required(kind, "type", path)?,
                required(name, "name", path)?,
                self.header(declaration, "apiVersion", locals, path)?,
            ))
        };
        let (kind, name, api_version) = match header() {
            Ok(header) => header,
            // A resource that is not deployed need not have a name that makes sense.
            Err(error) if !active && error.kind() != TemplateErrorKind::Limit => return Ok(()),
            Err(error) => return Err(error),
        };
        let (kind, name) = match outer {
            Some((outer_kind, outer_name)) => (
                format!("{outer_kind}/{kind}"),
                format!("{outer_name}/{name}"),
            ),
            None => (kind, name),
        };
        let kind = kind.trim_end_matches('/').to_owned();
        let id = self.id(declaration, &kind, &name, locals, path)?;
        let slot = Rc::new(Slot {
            declaration,
            path: path.to_owned(),
            kind,
            name,
            id,
            api_version,
            symbol,
            copy_of,
            active,
            existing,
            locals: locals.clone(),
            body: RefCell::new(Lazy::Unset),
        });
        self.slots.push(Rc::clone(&slot));
        match get(declaration, "resources") {
            Some(children) => self.all(
                children,
                locals,
                &join(path, "resources"),
                Some((&slot.kind, &slot.name)),
            ),
            None => Ok(()),
        }
    }

    fn condition(
        &self,
        declaration: &'t Map<String, Value>,
        locals: &Locals,
        path: &str,
    ) -> TemplateResult<bool> {
        let Some(condition) = get(declaration, "condition") else {
            return Ok(true);
        };
        let here = join(path, "condition");
        let frame = Frame {
            scope: self.scope,
            locals,
            part: Part::Header,
        };
        match self.evaluator.tree(condition, &frame, &here, None)? {
            Value::Bool(value) => Ok(value),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            other => Err(TemplateError::expression(format!(
                "the condition of a resource must be a Boolean, not {}",
                type_name(&other)
            ))
            .at(&here)),
        }
    }

    fn header(
        &self,
        declaration: &'t Map<String, Value>,
        key: &str,
        locals: &Locals,
        path: &str,
    ) -> TemplateResult<Option<String>> {
        let Some(value) = get(declaration, key) else {
            return Ok(None);
        };
        let here = join(path, key);
        let frame = Frame {
            scope: self.scope,
            locals,
            part: Part::Header,
        };
        match self.evaluator.tree(value, &frame, &here, None)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            other => Err(TemplateError::expression(format!(
                "the {key} of a resource must be a String, not {}",
                type_name(&other)
            ))
            .at(&here)),
        }
    }

    /// The resource's id, from where the template deploys, its scope, its type and its name.
    fn id(
        &self,
        declaration: &'t Map<String, Value>,
        kind: &str,
        name: &str,
        locals: &Locals,
        path: &str,
    ) -> TemplateResult<String> {
        let names: Vec<&str> = name.split('/').collect();
        let place = &self.scope.place;
        let group = self.header(declaration, "resourceGroup", locals, path)?;
        let subscription = self.header(declaration, "subscriptionId", locals, path)?;
        let subscription = subscription.as_deref().unwrap_or(&place.subscription_id);
        if kind.eq_ignore_ascii_case("Microsoft.Resources/resourceGroups") {
            return Ok(format!(
                "/subscriptions/{subscription}/resourceGroups/{name}"
            ));
        }
        let Some(provider) = provider_path(kind, &names) else {
            return Err(TemplateError::new(
                TemplateErrorKind::Syntax,
                format!(
                    "the template resource '{name}' for type '{kind}' has incorrect segment lengths. A nested resource type must have identical number of segments as its resource name. A root resource type must have segment length one greater than its resource name"
                ),
            )
            .at(path));
        };
        let prefix = match (
            self.header(declaration, "scope", locals, path)?,
            group,
            self.scope.level,
        ) {
            (Some(scope), _, _) if scope.starts_with('/') => scope.trim_end_matches('/').to_owned(),
            (Some(scope), _, _) => {
                let found = find(&self.slots, &scope);
                match found.first() {
                    Some(slot) => slot.id.clone(),
                    None => format!("/providers/{scope}"),
                }
            }
            (None, Some(group), _) => {
                format!("/subscriptions/{subscription}/resourceGroups/{group}")
            }
            (None, None, Level::ResourceGroup) => {
                format!(
                    "/subscriptions/{subscription}/resourceGroups/{}",
                    place.resource_group
                )
            }
            (None, None, Level::Subscription) => format!("/subscriptions/{subscription}"),
            (None, None, Level::ManagementGroup | Level::Tenant) => String::new(),
        };
        Ok(prefix + &provider)
    }
}

fn required(value: Option<String>, key: &str, path: &str) -> TemplateResult<String> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| {
        TemplateError::new(
            TemplateErrorKind::Syntax,
            format!("the resource has no '{key}'"),
        )
        .at(&join(path, key))
    })
}
