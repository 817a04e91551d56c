//! Deployments of templates: evaluated by `aci-core`, carried out in the order of their
//! dependencies, journaled step by step.
//!
//! A crash in between is gone on with: what a step puts, it may put twice.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use aci_core::document;
use aci_core::document::tree::Node;
use aci_core::error::{Error, ErrorKind, Problem};
use aci_core::id::GroupRef;
use aci_core::model::{ContainerGroup, ContainerGroupProfile};
use aci_core::template::{
    Evaluated, EvaluationContext, ListRequest, Parameters, ReferenceRequest, Resource,
    RuntimeResolver, Template,
};
use aci_core::time::Timestamp;
use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::auth::Principal;
use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::operation::{Operation, Subject};
use super::records::Change;
use super::route::Route;
use super::{Front, groups, operation, page, profile, reply, resources, scope, shape};

const NESTED: &str = "Microsoft.Resources/deployments";

macro_rules! one {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.Resources/deployments/{deploymentName}",
            $rest
        )
    };
}

pub(crate) fn routes() -> Vec<Route> {
    const READ: &str = "Microsoft.Resources/deployments/read";
    const WRITE: &str = "Microsoft.Resources/deployments/write";
    vec![
        Route::new(Method::GET, one!(""), READ, |call| get(call).boxed()),
        Route::new(Method::HEAD, one!(""), READ, |call| head(call).boxed()),
        Route::new(Method::PUT, one!(""), WRITE, |call| put(call).boxed()),
        Route::new(
            Method::DELETE,
            one!(""),
            "Microsoft.Resources/deployments/delete",
            |call| delete(call).boxed(),
        ),
        Route::new(
            Method::POST,
            one!("/validate"),
            "Microsoft.Resources/deployments/validate/action",
            |call| validate(call).boxed(),
        ),
        Route::new(
            Method::POST,
            one!("/cancel"),
            "Microsoft.Resources/deployments/cancel/action",
            |call| cancel(call).boxed(),
        ),
        Route::new(
            Method::POST,
            one!("/exportTemplate"),
            "Microsoft.Resources/deployments/exportTemplate/action",
            |call| export(call).boxed(),
        ),
        Route::new(
            Method::GET,
            one!("/operations"),
            "Microsoft.Resources/deployments/operations/read",
            |call| steps(call).boxed(),
        ),
        Route::new(
            Method::GET,
            one!("/operationStatuses/{operationId}"),
            "Microsoft.Resources/deployments/operationstatuses/read",
            |call| status(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.Resources/deployments",
            READ,
            |call| list(call).boxed(),
        ),
    ]
}

/// How a deployment is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    subscription: String,
    resource_group: String,
    name: String,
    /// Which of the deployments of that name: a newer one replaces an older.
    run: String,
}

impl Key {
    fn record(&self) -> String {
        record(&self.subscription, &self.resource_group, &self.name)
    }
}

fn record(subscription: &str, resource_group: &str, name: &str) -> String {
    format!("deployment/{subscription}/{resource_group}/{name}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Running,
    Succeeded,
    Failed,
    Canceled,
}

impl State {
    const fn text(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
        }
    }
}

/// One resource of a deployment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Step {
    id: String,
    kind: String,
    name: String,
    state: State,
    begun: Timestamp,
    ended: Option<Timestamp>,
    error: Option<Value>,
}

/// A deployment as it is journaled; the template and the parameters may hold secrets.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    key: Key,
    /// As they were first written.
    resource_group: String,
    name: String,
    tags: Map<String, Value>,
    template: Value,
    parameters: Value,
    complete: bool,
    /// Names of parameters whose values are never shown.
    secure: Vec<String>,
    /// The number that `newGuid` starts from, so that each evaluation gives the same.
    seed: String,
    by: Principal,
    correlation: String,
    operation: String,
    begun: Timestamp,
    ended: Option<Timestamp>,
    state: State,
    error: Option<Value>,
    steps: Vec<Step>,
    outputs: Value,
}

impl Kept {
    fn id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Resources/deployments/{}",
            self.key.subscription, self.resource_group, self.name
        )
    }

    fn value(&self) -> Value {
        let mut parameters = Map::new();
        for (name, value) in self.parameters.as_object().into_iter().flatten() {
            let secure = self.secure.iter().any(|s| s.eq_ignore_ascii_case(name));
            let shown = if secure {
                json!({"type": "SecureString"})
            } else {
                json!({"value": value.get("value").unwrap_or(value)})
            };
            parameters.insert(name.clone(), shown);
        }
        let mut properties = json!({
            "templateHash": hash(&self.template),
            "parameters": parameters,
            "mode": if self.complete { "Complete" } else { "Incremental" },
            "provisioningState": self.state.text(),
            "timestamp": self.ended.unwrap_or(self.begun).to_string(),
            "duration": format!("PT{:.3}S", self.ended.unwrap_or(self.begun).since(self.begun).as_secs_f64()),
            "correlationId": self.correlation,
            "providers": self.providers(),
            "dependencies": [],
        });
        if self.state == State::Succeeded {
            properties["outputs"] = self.outputs.clone();
            let made: Vec<Value> = self
                .steps
                .iter()
                .map(|step| json!({"id": step.id}))
                .collect();
            properties["outputResources"] = json!(made);
        }
        if let Some(error) = &self.error {
            properties["error"] = error.clone();
        }
        json!({
            "id": self.id(),
            "name": self.name,
            "type": NESTED,
            "tags": self.tags,
            "properties": properties,
        })
    }

    fn providers(&self) -> Value {
        let mut kinds = BTreeSet::new();
        for step in &self.steps {
            if let Some((namespace, kind)) = step.kind.split_once('/') {
                kinds.insert((namespace, kind));
            }
        }
        let mut all: Vec<Value> = Vec::new();
        for (namespace, kind) in kinds {
            let one = json!({"resourceType": kind, "locations": []});
            match all.iter_mut().find(|p| p["namespace"] == namespace) {
                Some(provider) => {
                    if let Some(types) = provider["resourceTypes"].as_array_mut() {
                        types.push(one);
                    }
                }
                None => all.push(json!({"namespace": namespace, "resourceTypes": [one]})),
            }
        }
        json!(all)
    }
}

fn hash(template: &Value) -> String {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    hasher.finish().to_string()
}

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
async fn evaluate(front: &Arc<Front>, kept: &Kept) -> Result<Evaluated, Error> {
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
async fn request(call: &Call) -> ArmResult<(Kept, Evaluated)> {
    let body = call.value_of_body()?;
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

async fn put(call: Call) -> ArmResult {
    let (mut kept, _) = request(&call).await?;
    let front = Arc::clone(&call.front);
    let key = kept.key.record();
    let _turn = front.turn(&key).await;
    let before: Option<Kept> = front.records.get(&key);
    if before.as_ref().is_some_and(|b| b.state == State::Running) {
        return Err(ArmError::new(
            StatusCode::CONFLICT,
            "DeploymentActive",
            format!(
                "Unable to edit or replace deployment '{}': previous deployment is still active.",
                kept.name
            ),
        ));
    }
    let operation = Operation::new(
        call.subscription(),
        Subject::Deployment(kept.key.clone()),
        kept.begun,
    );
    kept.operation.clone_from(&operation.id);
    front
        .records
        .apply(vec![Change::put(&key, &kept)?, operation.change()?])
        .await?;
    front.follow(operation);
    let status = if before.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut value = kept.value();
    value["properties"]["provisioningState"] = json!("Accepted");
    let mut response = reply::json(status, &value);
    let link = format!(
        "{}{}/operationStatuses/{}?api-version={}",
        call.base(),
        kept.id(),
        kept.operation,
        call.version
    );
    reply::header(&mut response, "azure-asyncoperation", &link);
    let wait = front.options.retry_after.to_string();
    reply::header(&mut response, "retry-after", &wait);
    Ok(response)
}

async fn validate(call: Call) -> ArmResult {
    let (kept, evaluated) = request(&call).await?;
    let mut value = kept.value();
    let properties = &mut value["properties"];
    properties["provisioningState"] = json!("Succeeded");
    properties["validatedResources"] = evaluated
        .resources
        .iter()
        .map(|resource| json!({"id": resource.id}))
        .collect();
    Ok(reply::ok(&value))
}

fn found(call: &Call) -> ArmResult<Kept> {
    let name = call.value("deploymentName");
    let key = record(call.subscription(), call.resource_group(), name);
    call.front.records.get(&key).ok_or_else(|| {
        if !scope::exists(&call.front, call.subscription(), call.resource_group()) {
            return ArmError::resource_group_not_found(call.resource_group());
        }
        ArmError::new(
            StatusCode::NOT_FOUND,
            "DeploymentNotFound",
            format!("Deployment '{name}' could not be found."),
        )
    })
}

async fn get(call: Call) -> ArmResult {
    Ok(reply::ok(&found(&call)?.value()))
}

async fn head(call: Call) -> ArmResult {
    found(&call)?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Forgets the deployment; what it made stays.
async fn delete(call: Call) -> ArmResult {
    let Ok(kept) = found(&call) else {
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    };
    if kept.state == State::Running {
        return Err(ArmError::new(
            StatusCode::CONFLICT,
            "DeploymentActive",
            format!("The deployment '{}' is still active.", kept.name),
        ));
    }
    call.front.records.remove(&kept.key.record()).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Nothing more is begun; what is under way comes to its end.
async fn cancel(call: Call) -> ArmResult {
    let front = &call.front;
    let name = call.value("deploymentName");
    let key = record(call.subscription(), call.resource_group(), name);
    let _turn = front.turn(&key).await;
    let mut kept = found(&call)?;
    if kept.state != State::Running {
        return Err(ArmError::new(
            StatusCode::CONFLICT,
            "DeploymentCannotBeCancelled",
            format!(
                "Unable to cancel deployment '{name}' because it is in state '{}'.",
                kept.state.text()
            ),
        ));
    }
    kept.state = State::Canceled;
    kept.ended = Some(front.engine.now());
    front.records.put(&key, &kept).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

async fn export(call: Call) -> ArmResult {
    Ok(reply::ok(&json!({"template": found(&call)?.template})))
}

async fn steps(call: Call) -> ArmResult {
    let kept = found(&call)?;
    let all = kept.steps.iter().enumerate().map(|(i, step)| {
        let operation = Uuid::new_v5(
            &Uuid::NAMESPACE_URL,
            format!("{}{}", kept.key.run, step.id).as_bytes(),
        );
        let operation = operation.simple().to_string();
        let ended = step.ended.unwrap_or(step.begun);
        let mut properties = json!({
            "provisioningOperation": "Create",
            "provisioningState": step.state.text(),
            "timestamp": ended.to_string(),
            "duration": format!("PT{:.3}S", ended.since(step.begun).as_secs_f64()),
            "statusCode": match step.state {
                State::Succeeded => "OK",
                State::Running => "Accepted",
                State::Failed | State::Canceled => "Conflict",
            },
            "targetResource": {"id": step.id, "resourceType": step.kind, "resourceName": step.name},
        });
        if let Some(error) = &step.error {
            properties["statusMessage"] = json!({"status": "Failed", "error": error});
        }
        let value = json!({
            "id": format!("{}/operations/{operation}", kept.id()),
            "operationId": operation,
            "properties": properties,
        });
        (format!("{i:06}"), value)
    });
    let page = page::page(&call, all, |value| value)?;
    Ok(reply::ok(&page))
}

async fn status(call: Call) -> ArmResult {
    let kept = found(&call)?;
    let mut value = json!({"status": kept.state.text()});
    if let Some(error) = &kept.error {
        value["error"] = error.clone();
    }
    let mut response = reply::ok(&value);
    if kept.state == State::Running {
        let wait = call.front.options.retry_after.to_string();
        reply::header(&mut response, "retry-after", &wait);
    }
    Ok(response)
}

async fn list(call: Call) -> ArmResult {
    if !scope::exists(&call.front, call.subscription(), call.resource_group()) {
        return Err(ArmError::resource_group_not_found(call.resource_group()));
    }
    let prefix = record(call.subscription(), call.resource_group(), "");
    let all = call.front.records.list::<Kept>(&prefix);
    let page = page::page(&call, all, |kept| kept.value())?;
    Ok(reply::ok(&page))
}

/// The deployment as answers show it.
pub(crate) fn read(front: &Front, key: &Key) -> Option<Value> {
    let kept: Kept = front.records.get(&key.record())?;
    Some(kept.value())
}

/// Carries a deployment out; the record says at every moment how far it is.
pub(crate) async fn run(front: &Weak<Front>, key: &Key) -> Result<(), Error> {
    let gone = || {
        Error::new(
            ErrorKind::Cancelled,
            "deployment.run",
            "the front was dropped",
        )
    };
    let front = front.upgrade().ok_or_else(gone)?;
    let outcome = carry_out(&front, key).await;
    if outcome
        .as_ref()
        .is_err_and(|e| e.kind() == ErrorKind::Cancelled)
    {
        return outcome.map(drop);
    }
    let _turn = front.turn(&key.record()).await;
    let Some(mut kept) = current(&front, key) else {
        return Err(operation::unknown("the deployment was deleted"));
    };
    if kept.state == State::Running {
        kept.ended = Some(front.engine.now());
        match &outcome {
            Ok(outputs) => {
                kept.state = State::Succeeded;
                kept.outputs = outputs.clone();
            }
            Err(error) => {
                kept.state = State::Failed;
                let inner = ArmError::from(copy(error)).to_value();
                kept.error = Some(json!({
                    "code": "DeploymentFailed",
                    "message": "At least one resource deployment operation failed. Please list deployment operations for details.",
                    "details": [inner],
                }));
            }
        }
        front.records.put(&key.record(), &kept).await?;
    }
    outcome.map(drop)
}

/// An error in the same words: errors cannot be cloned, and this one is told twice.
fn copy(error: &Error) -> Error {
    let mut copy = if error.problems().is_empty() {
        Error::new(error.kind(), error.operation(), error.message())
    } else {
        Error::from_problems(error.operation(), error.problems().to_vec())
    };
    if let Some(code) = error.aci_code() {
        copy = copy.code(code);
    }
    copy
}

/// The record, if it is still of this run.
fn current(front: &Front, key: &Key) -> Option<Kept> {
    let kept: Option<Kept> = front.records.get(&key.record());
    kept.filter(|kept| kept.key.run == key.run)
}

async fn carry_out(front: &Arc<Front>, key: &Key) -> Result<Value, Error> {
    let unknown = || operation::unknown("the deployment was deleted or replaced");
    let kept = current(front, key).ok_or_else(unknown)?;
    let plan = &evaluate(front, &kept).await?;
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut left: Vec<usize> = (0..plan.resources.len()).collect();
    while !left.is_empty() {
        if current(front, key).ok_or_else(unknown)?.state != State::Running {
            return Err(Error::new(
                ErrorKind::Conflict,
                "deployment.run",
                "The deployment was canceled.",
            )
            .code("DeploymentCanceled"));
        }
        let (ready, rest): (Vec<usize>, Vec<usize>) = left.iter().partition(|i| {
            let wanted = &plan.resources[**i].depends_on;
            wanted.iter().all(|id| {
                let id = id.to_lowercase();
                done.contains(&id) || !plan.resources.iter().any(|r| r.id.to_lowercase() == id)
            })
        });
        if ready.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "deployment.run",
                "The resources wait for each other.",
            )
            .code("InvalidTemplate"));
        }
        let kept = &kept;
        let made = ready.iter().map(|i| async move {
            let resource = &plan_of(front, kept, *i, &plan.resources[*i]).await;
            step(front, key, kept, resource).await
        });
        for made in futures_util::future::join_all(made).await {
            made?;
        }
        done.extend(ready.iter().map(|i| plan.resources[*i].id.to_lowercase()));
        left = rest;
    }
    if kept.complete {
        prune(front, &kept, plan).await?;
    }
    let last = evaluate(front, &kept).await?;
    let mut outputs = Map::new();
    for output in &last.outputs {
        let value = output.complete().map_err(Error::from)?;
        let kind = kind_of(&output.kind);
        let shown = if output.kind.to_ascii_lowercase().starts_with("secure") {
            json!({"type": kind})
        } else {
            json!({"type": kind, "value": value})
        };
        outputs.insert(output.name.clone(), shown);
    }
    Ok(Value::Object(outputs))
}

/// ARM's spelling of an output's type.
fn kind_of(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    let known = [
        "String",
        "Bool",
        "Int",
        "Object",
        "Array",
        "SecureString",
        "SecureObject",
    ];
    let found = known.iter().find(|k| k.to_ascii_lowercase() == lower);
    found.map_or_else(|| kind.to_owned(), |k| (*k).to_owned())
}

/// The resource with the values that are known now.
async fn plan_of(
    front: &Arc<Front>,
    kept: &Kept,
    index: usize,
    first: &Resource,
) -> Result<Resource, Error> {
    if first.pending.is_empty() {
        return Ok(first.clone());
    }
    let again = evaluate(front, kept).await?;
    again
        .resources
        .get(index)
        .filter(|resource| resource.id == first.id)
        .cloned()
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "deployment.run",
                "the template gives other resources now",
            )
        })
}

/// Makes one resource, and journals its begin and end.
async fn step(
    front: &Arc<Front>,
    key: &Key,
    kept: &Kept,
    resource: &Result<Resource, Error>,
) -> Result<(), Error> {
    let resource = resource.as_ref().map_err(copy)?;
    let begun = front.engine.now();
    let note = async |state: State, error: Option<Value>| -> Result<(), Error> {
        let _turn = front.turn(&key.record()).await;
        let Some(mut kept) = current(front, key) else {
            return Err(operation::unknown("the deployment was deleted or replaced"));
        };
        let step = Step {
            id: resource.id.clone(),
            kind: resource.kind.clone(),
            name: resource.name.clone(),
            state,
            begun,
            ended: (state != State::Running).then(|| front.engine.now()),
            error,
        };
        match kept.steps.iter_mut().find(|s| s.id == step.id) {
            Some(old) => *old = step,
            None => kept.steps.push(step),
        }
        front.records.put(&key.record(), &kept).await
    };
    note(State::Running, None).await?;
    match make(front, kept, resource).await {
        Ok(()) => note(State::Succeeded, None).await,
        Err(error) => {
            let shown = ArmError::from(copy(&error)).to_value();
            if error.kind() != ErrorKind::Cancelled {
                note(State::Failed, Some(shown)).await?;
            }
            Err(error)
        }
    }
}

async fn make(front: &Arc<Front>, kept: &Kept, resource: &Resource) -> Result<(), Error> {
    let value = resource.complete().map_err(Error::from)?;
    let (subscription, group) = place_of(&resource.id, kept);
    let refused = |error: ArmError| {
        let kind = if error.status() == StatusCode::NOT_FOUND {
            ErrorKind::NotFound
        } else if error.status() == StatusCode::CONFLICT {
            ErrorKind::Conflict
        } else {
            ErrorKind::Invalid
        };
        Error::new(kind, "deployment.make", error.message()).code(error.code())
    };
    if resource
        .kind
        .eq_ignore_ascii_case(ContainerGroup::RESOURCE_TYPE)
    {
        let reading = document::inspect_as(&Node::from(value), false).into_result()?;
        let document = reading.groups.into_iter().next().unwrap_or_default();
        let key = GroupRef::new(&subscription, &group, &resource.name);
        let (made, _) = groups::create_or_update(front, key, &group, document, &kept.by)
            .await
            .map_err(refused)?;
        return made.provisioned().await;
    }
    if resource
        .kind
        .eq_ignore_ascii_case(ContainerGroupProfile::RESOURCE_TYPE)
    {
        let reading = document::inspect_as(&Node::from(value), true).into_result()?;
        let profile = reading.profiles.into_iter().next().unwrap_or_default();
        return profile::deploy(front, &subscription, &group, &resource.name, profile)
            .await
            .map_err(refused);
    }
    // What is in a nested deployment was made by itself.
    if resource.kind.eq_ignore_ascii_case(NESTED) {
        return Ok(());
    }
    match resources::Kind::of(&resource.kind) {
        Some(kind) => {
            let name = resource.name.rsplit('/').next().unwrap_or_default();
            resources::keep(front, kind, &resource.id, name, value, &group)
                .await
                .map(drop)
                .map_err(refused)
        }
        None => Err(Error::new(
            ErrorKind::Unsupported,
            "deployment.make",
            format!(
                "The resource type '{}' is not known to this server.",
                resource.kind
            ),
        )
        .code("NoRegisteredProviderFound")),
    }
}

/// The subscription and resource group of an id; of one without, the deployment's.
fn place_of(id: &str, kept: &Kept) -> (String, String) {
    let parts: Vec<&str> = id.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [_, subscription, kind, group, ..] if kind.eq_ignore_ascii_case("resourceGroups") => {
            ((*subscription).to_owned(), (*group).to_owned())
        }
        _ => (kept.key.subscription.clone(), kept.resource_group.clone()),
    }
}

/// Mode `Complete`: what the template does not have is deleted.
async fn prune(front: &Arc<Front>, kept: &Kept, plan: &Evaluated) -> Result<(), Error> {
    let wanted: BTreeSet<String> = plan.resources.iter().map(|r| r.id.to_lowercase()).collect();
    for group in front.engine.list() {
        let name = group.name().clone();
        if name.subscription() == kept.key.subscription
            && name.resource_group() == kept.key.resource_group
            && !wanted.contains(&name.resource_id().to_lowercase())
        {
            group.delete().await?;
            front.records.remove(&groups::meta_key(&name)).await?;
        }
    }
    let prefix = resources::key(&format!(
        "/subscriptions/{}/resourceGroups/{}/",
        kept.key.subscription, kept.key.resource_group
    ));
    let mut changes = Vec::new();
    for (key, old) in front.records.list::<resources::Kept>(&prefix) {
        let id = old.id.to_lowercase();
        // What is inside of something that stays, stays.
        let inside = wanted
            .iter()
            .any(|wanted| id.starts_with(&format!("{wanted}/")));
        if !wanted.contains(&id) && !inside {
            changes.push(Change::remove(&key));
        }
    }
    for value in profile::short(front, &kept.key.subscription, &kept.key.resource_group) {
        let id = value["id"].as_str().unwrap_or_default().to_lowercase();
        let name = value["name"].as_str().unwrap_or_default();
        if !wanted.contains(&id) {
            changes.push(Change::remove(&profile::key(
                &kept.key.subscription,
                &kept.key.resource_group,
                name,
            )));
        }
    }
    front.records.apply(changes).await
}
