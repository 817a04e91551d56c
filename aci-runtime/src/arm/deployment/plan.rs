//! From a request to the resources of its template; what is wrong is found before anything is made.

use std::sync::Arc;

use aci_core::error::{Error, ErrorKind, Problem};
use aci_core::id::GroupRef;
use aci_core::model::{ContainerGroup, ContainerGroupProfile};
use aci_core::template::{
    Evaluated, EvaluationContext, ListRequest, Parameters, ReferenceRequest, RuntimeResolver,
    Template,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::NESTED;
use super::record::{Kept, Key, State};
use crate::arm::call::Call;
use crate::arm::error::{ArmError, ArmResult};
use crate::arm::{Front, resources, scope, shape};

/// What is there now, for `reference` and `listKeys`.
struct Live(Arc<Front>);

impl RuntimeResolver for Live {
    fn reference(&self, request: &ReferenceRequest<'_>) -> Option<Value> {
        let whole = self.resource(request.resource_id, request.api_version)?;
        Some(if request.full {
            whole
        } else {
            whole
                .get("properties")
                .cloned()
                .unwrap_or_else(|| json!({}))
        })
    }

    fn list(&self, request: &ListRequest<'_>) -> Option<Value> {
        if !request.function.eq_ignore_ascii_case("listKeys") {
            return None;
        }
        let kept: resources::Kept = self.0.records.get(&resources::key(request.resource_id))?;
        (!kept.keys.is_empty()).then(|| kept.list_keys())
    }
}

impl Live {
    fn resource(&self, id: &str, version: Option<&str>) -> Option<Value> {
        if let Some(group) = group_of(id) {
            let group = self.0.engine.get(group).ok()?;
            let version = version.and_then(|v| v.parse().ok()).unwrap_or_default();
            return Some(shape::group(&group.view(), version));
        }
        let kept: resources::Kept = self.0.records.get(&resources::key(id))?;
        Some(kept.value())
    }
}

/// The group that an id names.
fn group_of(id: &str) -> Option<GroupRef> {
    let parts: Vec<&str> = id.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [_, subscription, _, resource_group, _, namespace, kind, name]
            if format!("{namespace}/{kind}")
                .eq_ignore_ascii_case(ContainerGroup::RESOURCE_TYPE) =>
        {
            Some(GroupRef::new(subscription, resource_group, name))
        }
        _ => None,
    }
}

/// Evaluates on a thread of its own: a template may take a while.
pub(super) async fn evaluate(front: &Arc<Front>, kept: &Kept) -> Result<Evaluated, Error> {
    let (front, kept) = (Arc::clone(front), kept.clone());
    let evaluating = tokio::task::spawn_blocking(move || {
        let template = Template::from_value(kept.template.clone())?;
        let parameters = Parameters::from_value(&kept.parameters)?;
        let group = scope::find(&front, &kept.key.subscription, &kept.key.resource_group);
        let group = group.unwrap_or_default();
        let live = Live(Arc::clone(&front));
        let location = if group.location.is_empty() {
            front.engine.options().location.clone()
        } else {
            group.location
        };
        let context = EvaluationContext::new(kept.begun.into())
            .deployment_name(&kept.name)
            .subscription_id(&kept.key.subscription)
            .tenant_id(&front.options.tenant_id)
            .resource_group(&kept.resource_group, location)
            .resource_group_tags(group.tags)
            .parameters(parameters)
            .seed(kept.seed.parse().unwrap_or_default())
            .resolver(&live);
        Ok(template.evaluate(&context)?)
    });
    evaluating.await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Internal,
            "deployment.evaluate",
            "the evaluation failed",
        ))
    })
}

/// Reads a request; what is wrong with the template and its groups is found before anything is made.
pub(super) async fn request(call: &Call) -> ArmResult<(Kept, Evaluated)> {
    let body = call.relaxed()?;
    let content = |message: &str| ArmError::bad_request("InvalidRequestContent", message);
    let name = call.value("deploymentName").to_owned();
    let fits = (1..=64).contains(&name.chars().count())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')'));
    if !fits {
        return Err(ArmError::bad_request(
            "InvalidDeploymentName",
            "The deployment name is invalid: it has 1 to 64 letters, digits, '-', '_', '.', '(' and ')'.",
        ));
    }
    let Some(properties) = body.get("properties").and_then(Value::as_object) else {
        return Err(content(
            "The request needs 'properties' with a 'template' and a 'mode'.",
        ));
    };
    let unsupported = |what: &str| {
        ArmError::bad_request(
            "InvalidDeployment",
            format!("'{what}' is not fetched by this server: send the content itself."),
        )
        .target(format!("properties.{what}"))
    };
    for what in ["templateLink", "parametersLink"] {
        if properties.get(what).is_some_and(|v| !v.is_null()) {
            return Err(unsupported(what));
        }
    }
    let template = match properties.get("template") {
        Some(template @ Value::Object(_)) => template.clone(),
        _ => {
            return Err(ArmError::bad_request(
                "InvalidTemplate",
                "The request content was invalid: 'properties.template' must be a template.",
            ));
        }
    };
    let parameters = match properties.get("parameters") {
        None | Some(Value::Null) => json!({}),
        Some(parameters @ Value::Object(_)) => parameters.clone(),
        Some(_) => return Err(content("'properties.parameters' must be an object.")),
    };
    let complete = match properties.get("mode").and_then(Value::as_str) {
        None => false,
        Some(mode) if mode.eq_ignore_ascii_case("Incremental") => false,
        Some(mode) if mode.eq_ignore_ascii_case("Complete") => true,
        Some(_) => {
            return Err(content(
                "'properties.mode' must be 'Incremental' or 'Complete'.",
            ));
        }
    };
    let front = Arc::clone(&call.front);
    let resource_group = scope::find(&front, call.subscription(), call.resource_group())
        .ok_or_else(|| ArmError::resource_group_not_found(call.resource_group()))?;
    let parsed = Template::from_value(template.clone()).map_err(Error::from)?;
    let secure = parsed
        .parameters()
        .filter(|p| p.kind.to_ascii_lowercase().starts_with("secure"))
        .map(|p| p.name.to_owned())
        .collect();
    let kept = Kept {
        key: Key {
            subscription: call.subscription().to_lowercase(),
            resource_group: call.resource_group().to_lowercase(),
            name: name.to_lowercase(),
            run: Uuid::new_v4().to_string(),
        },
        resource_group: resource_group.name,
        name,
        tags: body
            .get("tags")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default(),
        template,
        parameters,
        complete,
        secure,
        seed: Uuid::new_v4().as_u128().to_string(),
        by: call.principal.clone(),
        correlation: call.request_id.clone(),
        operation: Uuid::new_v4().to_string(),
        begun: front.engine.now(),
        ended: None,
        state: State::Running,
        error: None,
        steps: Vec::new(),
        outputs: json!({}),
    };
    let evaluated = evaluate(&front, &kept).await?;
    preflight(&front, &evaluated)?;
    Ok((kept, evaluated))
}

/// Finds what would be refused later: kinds that are not here, and groups that are wrong.
fn preflight(front: &Front, evaluated: &Evaluated) -> ArmResult<()> {
    let mut problems: Vec<Problem> = Vec::new();
    for resource in &evaluated.resources {
        let kind = &resource.kind;
        if kind.eq_ignore_ascii_case(ContainerGroup::RESOURCE_TYPE) {
            let reading = evaluated.read(resource);
            if !reading.problems.is_empty() {
                problems.extend(reading.problems);
                continue;
            }
            if !resource.pending.is_empty() {
                // Its values are judged when they are known.
                continue;
            }
            for group in reading.document.groups {
                // One that is made from a profile is judged with it, when it is there.
                if group.properties.container_group_profile.is_some() {
                    continue;
                }
                if let Err(error) = front.engine.validate(&group) {
                    let mut found = error.problems().to_vec();
                    if found.is_empty() {
                        let code = error.aci_code().unwrap_or("NotSupported");
                        found.push(Problem::new(code, "", error.message()));
                    }
                    evaluated.locate(resource, &mut found);
                    problems.extend(found);
                }
            }
        } else if !kind.eq_ignore_ascii_case(ContainerGroupProfile::RESOURCE_TYPE)
            && !kind.eq_ignore_ascii_case(NESTED)
            && resources::Kind::of(kind).is_none()
        {
            problems.push(Problem::new(
                "NoRegisteredProviderFound",
                &resource.path,
                format!(
                    "The resource type '{kind}' of '{}' is not known to this server.",
                    resource.name
                ),
            ));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let mut error = ArmError::bad_request(
        "InvalidTemplateDeployment",
        "The template deployment is not valid; see details.",
    );
    for problem in problems {
        let detail = ArmError::bad_request(&problem.code, &problem.message);
        error = error.detail(detail.target(&problem.path));
    }
    Err(error)
}
