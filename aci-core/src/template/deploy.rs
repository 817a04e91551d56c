//! Runs a template: the deployment's own, or one nested in a resource.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::context::Place;
use super::copy;
use super::depend;
use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use super::eval::{Evaluator, Pending, join};
use super::parameters::{self, Parameters};
use super::resources::{self, Slot};
use super::result::{Output, Resource};
use super::scope::{Frame, Level, Locals, Names, Part, Scope};
use super::value::{get, type_name, unmark};
use super::variables::{self, section};

/// What a template yields.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) resources: Vec<Resource>,
    pub(crate) outputs: Vec<Output>,
}

/// How deep deployments may be nested in each other.
const NESTING: usize = 8;

pub(crate) fn is_deployment(kind: &str) -> bool {
    kind.eq_ignore_ascii_case("Microsoft.Resources/deployments")
}

/// The level that the schema of a template names; `fallback` where it names none.
pub(crate) fn level(template: &Map<String, Value>, fallback: Level) -> Level {
    let schema = get(template, "$schema")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_ascii_lowercase();
    if schema.contains("subscriptiondeploymenttemplate") {
        Level::Subscription
    } else if schema.contains("managementgroupdeploymenttemplate") {
        Level::ManagementGroup
    } else if schema.contains("tenantdeploymenttemplate") {
        Level::Tenant
    } else if schema.contains("deploymenttemplate") {
        Level::ResourceGroup
    } else {
        fallback
    }
}

/// Reads the declarations of a template.
pub(crate) fn names<'t>(
    evaluator: &Evaluator<'t>,
    template: &'t Map<String, Value>,
    given: &Parameters,
    path: &str,
) -> TemplateResult<Names<'t>> {
    let limits = evaluator.budget.limits();
    let mut names = Names {
        variables: variables::declared(template, path, limits.variables)?,
        functions: variables::functions(template, path)?,
        definitions: section(template, "definitions", &join(path, "definitions"))?,
        ..Names::default()
    };
    parameters::declare(&mut names, template, given, path, limits.parameters)?;
    Ok(names)
}

/// Evaluates all of a template.
pub(crate) fn run<'t>(
    evaluator: &Evaluator<'t>,
    scope: &Rc<Scope<'t>>,
    locals: &Locals,
    path: &str,
) -> TemplateResult<Outcome> {
    for name in &scope.names.parameter_order {
        parameters::value(evaluator, scope, name)?;
    }
    let slots = resources::expand(evaluator, scope, locals, path)?;
    scope.resources.replace(slots.clone());
    let edges = depend::edges(evaluator, scope, &slots)?;
    let mut resources = Vec::new();
    for index in depend::order(&slots, &edges)? {
        let slot = &slots[index];
        if !slot.active || slot.existing {
            continue;
        }
        let body = slot.body(evaluator, scope)?;
        let depends_on = edges[index]
            .iter()
            .map(|target| &slots[*target])
            .filter(|target| target.active && !target.existing)
            .map(|target| target.id.clone())
            .collect();
        resources.push(Resource::new(
            slot,
            &body,
            &scope.place.deployment,
            depends_on,
        ));
        if let Some(nested) = &body.nested {
            resources.extend(nested.resources.iter().cloned());
        }
    }
    let outputs = outputs(evaluator, scope, locals, path)?;
    Ok(Outcome { resources, outputs })
}

fn outputs<'t>(
    evaluator: &Evaluator<'t>,
    scope: &Rc<Scope<'t>>,
    locals: &Locals,
    path: &str,
) -> TemplateResult<Vec<Output>> {
    let path = join(path, "outputs");
    let mut outputs = Vec::new();
    for (name, declaration) in section(scope.template, "outputs", &path)?
        .into_iter()
        .flatten()
    {
        let here = join(&path, name);
        let wrong = |what: &str| {
            TemplateError::new(
                TemplateErrorKind::Syntax,
                format!("the output '{name}' {what}"),
            )
            .at(&here)
        };
        let declaration = declaration
            .as_object()
            .ok_or_else(|| wrong("must be an Object"))?;
        let frame = Frame {
            scope,
            locals,
            part: Part::Output,
        };
        if let Some(condition) = get(declaration, "condition") {
            let header = frame.with_part(Part::Header);
            match evaluator.tree(condition, &header, &join(&here, "condition"), None)? {
                Value::Bool(true) => {}
                Value::Bool(false) => continue,
                other => {
                    return Err(wrong(&format!(
                        "has a condition that is no Boolean but {}",
                        type_name(&other)
                    )));
                }
            }
        }
        let waiting = RefCell::new(Vec::new());
        let value = match (
            get(declaration, "value"),
            get(declaration, "copy").and_then(Value::as_object),
        ) {
            (Some(value), _) => {
                evaluator.tree(value, &frame, &join(&here, "value"), Some(&waiting))?
            }
            (None, Some(map)) => {
                looped(evaluator, map, name, &frame, &join(&here, "copy"), &waiting)?
            }
            (None, None) => return Err(wrong("has neither a value nor a copy")),
        };
        let kind = get(declaration, "type")
            .and_then(Value::as_str)
            .unwrap_or("object")
            .to_owned();
        outputs.push(Output {
            name: name.clone(),
            kind,
            value,
            pending: waiting.into_inner(),
        });
    }
    let most = evaluator.budget.limits().outputs;
    if outputs.len() > most {
        return Err(TemplateError::limit(format!(
            "the template has {} outputs, at most {most} are allowed",
            outputs.len()
        )));
    }
    Ok(outputs)
}

fn looped<'t>(
    evaluator: &Evaluator<'t>,
    map: &'t Map<String, Value>,
    name: &str,
    frame: &Frame<'_, 't>,
    path: &str,
    waiting: &RefCell<Vec<Pending>>,
) -> TemplateResult<Value> {
    let input = get(map, "input").ok_or_else(|| {
        TemplateError::new(
            TemplateErrorKind::Syntax,
            format!("the copy of the output '{name}' needs an input"),
        )
        .at(path)
    })?;
    let mut items = Vec::new();
    for index in 0..copy::count(evaluator, map, &frame.with_part(Part::Header), path)? {
        let locals = frame.locals.with_loop(name, index, true);
        items.push(evaluator.tree(
            input,
            &frame.with_locals(&locals),
            &join(path, "input"),
            Some(waiting),
        )?);
    }
    Ok(Value::Array(items))
}

/// Runs the template inside a `Microsoft.Resources/deployments` resource: the resource's
/// `properties` with the outputs, and what is deployed.
pub(crate) fn nested<'t>(
    evaluator: &Evaluator<'t>,
    slot: &Slot<'t>,
    frame: &Frame<'_, 't>,
    properties: &'t Value,
    path: &str,
    waiting: &RefCell<Vec<Pending>>,
) -> TemplateResult<(Value, Outcome)> {
    let wrong = |what: &str| {
        TemplateError::new(
            TemplateErrorKind::Syntax,
            format!("a nested deployment {what}"),
        )
        .at(path)
    };
    let map = properties
        .as_object()
        .ok_or_else(|| wrong("needs properties"))?;
    if get(map, "parametersLink").is_some() {
        return Err(TemplateError::unsupported(
            "linked parameters are not fetched; give their values in 'parameters'",
        )
        .at(&join(path, "parametersLink")));
    }
    let linked = match get(map, "templateLink") {
        Some(link) => Some(linked(evaluator, link, frame, &join(path, "templateLink"))?),
        None => None,
    };
    let inline = get(map, "template").and_then(Value::as_object);
    let (template, here) = match (linked, inline) {
        (Some(template), _) => (template, join(path, "templateLink")),
        (None, Some(template)) => (template, join(path, "template")),
        (None, None) => return Err(wrong("needs a template")),
    };
    let outer = frame.scope;
    if outer.nesting >= NESTING {
        return Err(TemplateError::limit(format!(
            "deployments are nested more than {NESTING} deep"
        ))
        .at(path));
    }
    let place = nested_place(evaluator, slot, frame)?;
    // A linked template always has a scope of its own.
    let inner = linked.is_some()
        || get(map, "expressionEvaluationOptions")
            .and_then(Value::as_object)
            .and_then(|options| get(options, "scope"))
            .and_then(Value::as_str)
            .is_some_and(|scope| scope.eq_ignore_ascii_case("inner"));
    let locals = if inner {
        Locals::default()
    } else {
        frame.locals.clone()
    };
    let names = if inner {
        let mut given = Parameters::new();
        if let Some(values) = get(map, "parameters") {
            let path = join(path, "parameters");
            // What waits stays marked, and makes what is computed from it wait too.
            let Value::Object(values) =
                evaluator.tree(values, frame, &path, Some(&RefCell::default()))?
            else {
                return Err(wrong("has parameters that are no Object"));
            };
            for (name, entry) in values {
                match entry.as_object().and_then(|entry| get(entry, "value")) {
                    Some(value) => given.set(name, value.clone()),
                    None => return Err(wrong(&format!("gives its parameter '{name}' no value"))),
                }
            }
        }
        Rc::new(names(evaluator, template, &given, &here).map_err(|error| error.at(path))?)
    } else {
        Rc::clone(&outer.names)
    };
    let scope = Rc::new(Scope {
        names,
        resources: RefCell::default(),
        seen_place: if inner {
            place.clone()
        } else {
            outer.seen_place.clone()
        },
        place,
        level: level(template, outer.level),
        template,
        parent: if inner { None } else { Some(Rc::clone(outer)) },
        nesting: outer.nesting + 1,
    });
    let outcome = run(evaluator, &scope, &locals, &here)?;
    let mut outputs = Map::new();
    for output in &outcome.outputs {
        waiting.borrow_mut().extend(output.pending.iter().cloned());
        outputs.insert(
            output.name.clone(),
            json!({ "type": output.kind, "value": output.value }),
        );
    }
    let mode = get(map, "mode")
        .and_then(Value::as_str)
        .unwrap_or("Incremental");
    Ok((json!({ "mode": mode, "outputs": outputs }), outcome))
}

/// The template behind a `templateLink`, from the context.
fn linked<'t>(
    evaluator: &Evaluator<'t>,
    link: &'t Value,
    frame: &Frame<'_, 't>,
    path: &str,
) -> TemplateResult<&'t Map<String, Value>> {
    let link = evaluator.tree(link, &frame.with_part(Part::Header), path, None)?;
    let map = link.as_object();
    let target = map.and_then(|map| {
        get(map, "uri")
            .or_else(|| get(map, "relativePath"))
            .or_else(|| get(map, "id"))
    });
    let target = target.and_then(Value::as_str).unwrap_or_default();
    match evaluator.context.linked.get(target) {
        Some(template) => Ok(template.root()),
        None => Err(TemplateError::unsupported(
            "linked templates are not fetched; put the template in the place of the link as 'template', or hand it over with the context",
        )
        .at(path)),
    }
}

fn nested_place<'t>(
    evaluator: &Evaluator<'t>,
    slot: &Slot<'t>,
    frame: &Frame<'_, 't>,
) -> TemplateResult<Place> {
    let mut place = frame.scope.place.clone();
    place.deployment.clone_from(&slot.name);
    let header = frame.with_part(Part::Header);
    for (key, target) in [
        ("resourceGroup", &mut place.resource_group),
        ("subscriptionId", &mut place.subscription_id),
    ] {
        if let Some(value) = get(slot.declaration, key) {
            match evaluator.tree(value, &header, &join(&slot.path, key), None)? {
                Value::String(text) => *target = text,
                other => {
                    return Err(TemplateError::expression(format!(
                        "'{key}' must be a String, not {}",
                        type_name(&other)
                    ))
                    .at(&join(&slot.path, key)));
                }
            }
        }
    }
    // A resource group of this template says where it is.
    let id = format!(
        "/subscriptions/{}/resourceGroups/{}",
        place.subscription_id, place.resource_group
    );
    let found = resources::find(&frame.scope.resources.borrow(), &id);
    if let Some(group) = found.first()
        && let Some(location) = get(group.declaration, "location")
    {
        let frame = Frame {
            scope: frame.scope,
            locals: &group.locals,
            part: Part::Header,
        };
        if let Value::String(location) =
            evaluator.tree(location, &frame, &join(&group.path, "location"), None)?
        {
            place.location = location;
        }
    }
    Ok(place)
}

/// The outputs as they are handed out: expressions where values wait.
pub(crate) fn finish(outputs: Vec<Output>) -> Vec<Output> {
    outputs
        .into_iter()
        .map(|output| Output {
            value: unmark(output.value),
            ..output
        })
        .collect()
}
