//! Asynchronous operations: journaled before they are answered, polled by clients, gone on with
//! after a restart.

use std::sync::{Arc, Weak};
use std::time::Duration;

use aci_core::error::{Error, ErrorKind};
use aci_core::id::GroupRef;
use aci_core::time::Timestamp;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::records::Change;
use super::route::{Route, Versions};
use super::{Front, deployment, groups, reply, scope};

/// How long an operation that has ended can be asked for.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What an operation is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Subject {
    /// A container group is brought up: created, changed, started or restarted.
    Provision(GroupRef),
    /// A container group is deleted.
    Delete(GroupRef),
    /// A resource group is deleted with all that is in it.
    DeleteResourceGroup { subscription: String, name: String },
    /// A deployment of a template.
    Deployment(deployment::Key),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    InProgress,
    Succeeded,
    Failed,
    Canceled,
}

/// An operation as it is journaled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) subscription: String,
    pub(crate) subject: Subject,
    pub(crate) started: Timestamp,
    pub(crate) ended: Option<Timestamp>,
    pub(crate) status: Status,
    /// Code and message of a failure.
    pub(crate) error: Option<(String, String)>,
}

impl Operation {
    pub(crate) fn new(subscription: &str, subject: Subject, now: Timestamp) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            subscription: subscription.to_lowercase(),
            subject,
            started: now,
            ended: None,
            status: Status::InProgress,
            error: None,
        }
    }

    fn key(&self) -> String {
        key(&self.subscription, &self.id)
    }

    /// The change that journals it.
    ///
    /// # Errors
    /// As [`Change::put`].
    pub(crate) fn change(&self) -> Result<Change, Error> {
        Change::put(&self.key(), self)
    }
}

fn key(subscription: &str, id: &str) -> String {
    format!("operation/{subscription}/{id}")
}

pub(crate) fn routes() -> Vec<Route> {
    let route = |path, action, handler| {
        Route::new(Method::GET, path, action, handler).versions(Versions::Any)
    };
    vec![
        route(
            "/subscriptions/{subscriptionId}/providers/Microsoft.ContainerInstance/locations/{location}/operations/{operationId}",
            "Microsoft.ContainerInstance/locations/operations/read",
            |call| status(call).boxed(),
        ),
        route(
            "/subscriptions/{subscriptionId}/providers/Microsoft.ContainerInstance/locations/{location}/operationResults/{operationId}",
            "Microsoft.ContainerInstance/locations/operationResults/read",
            |call| result(call).boxed(),
        ),
        route(
            "/subscriptions/{subscriptionId}/operationresults/{operationId}",
            "Microsoft.Resources/subscriptions/operationresults/read",
            |call| result(call).boxed(),
        ),
    ]
}

/// Where an operation's status and result are.
pub(crate) struct Links {
    pub(crate) status: String,
    pub(crate) result: String,
}

pub(crate) fn links(call: &Call, operation: &Operation) -> Links {
    let base = call.base();
    let location = call.front.engine.options().location.replace(' ', "");
    let of = |what: &str| {
        format!(
            "{base}/subscriptions/{}/providers/Microsoft.ContainerInstance/locations/{location}/{what}/{}?api-version=2018-06-01",
            call.subscription(),
            operation.id
        )
    };
    Links {
        status: of("operations"),
        result: of("operationResults"),
    }
}

/// Tells the client where to poll, and when first.
pub(crate) fn announce(response: &mut Response, call: &Call, operation: &Operation, status: bool) {
    let links = links(call, operation);
    if status {
        reply::header(response, "azure-asyncoperation", &links.status);
    }
    reply::header(response, "location", &links.result);
    let wait = call.front.options.retry_after.to_string();
    reply::header(response, "retry-after", &wait);
}

impl Front {
    /// Follows an operation that is journaled until it has ended.
    pub(crate) fn follow(self: &Arc<Self>, operation: Operation) {
        let front = Arc::downgrade(self);
        tokio::spawn(async move {
            let outcome = outcome(&front, &operation).await;
            let Some(front) = front.upgrade() else {
                return;
            };
            let (status, error) = match outcome {
                Ok(()) => (Status::Succeeded, None),
                // The next run goes on with it.
                Err(error) if error.kind() == ErrorKind::Cancelled => return,
                Err(error) => {
                    let gone = error.kind() == ErrorKind::NotFound;
                    let error = ArmError::from(error);
                    let said = (error.code().to_owned(), error.message().to_owned());
                    let status = if gone {
                        Status::Canceled
                    } else {
                        Status::Failed
                    };
                    (status, Some(said))
                }
            };
            front.end(operation, status, error).await;
        });
    }

    /// Journals the end of an operation, as long as it takes: clients wait for it.
    pub(crate) async fn end(
        &self,
        mut operation: Operation,
        status: Status,
        error: Option<(String, String)>,
    ) {
        operation.status = status;
        operation.error = error;
        operation.ended = Some(self.engine.now());
        let mut wait = Duration::from_millis(100);
        while let Err(error) = self.records.put(&operation.key(), &operation).await {
            tracing::error!(operation = operation.id, error = %error.chain(), "its end cannot be journaled; tried again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(10));
        }
    }

    /// Goes on with what was under way when the program ended, and forgets what nobody asks for any
    /// more.
    pub(crate) async fn resume(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.engine.now();
        let mut old = Vec::new();
        for (key, operation) in self.records.list::<Operation>("operation/") {
            match operation.ended {
                None => self.follow(operation),
                Some(ended) if now.since(ended) > KEPT => old.push(Change::remove(&key)),
                Some(_) => {}
            }
        }
        // What is noted of groups that went by themselves, when their time to live was over.
        for key in self.records.keys(groups::META) {
            let gone = groups::of_meta_key(&key).is_some_and(|g| self.engine.get(g).is_err());
            old.extend(gone.then(|| Change::remove(&key)));
        }
        if old.is_empty() {
            return Ok(());
        }
        self.records.apply(old).await
    }

    /// Forgets operations that ended long ago, now and then, as new ones come.
    pub(crate) fn sweep(self: &Arc<Self>) {
        use std::sync::atomic::Ordering;
        if self.begun.fetch_add(1, Ordering::Relaxed) % 1_024 != 1_023 {
            return;
        }
        let front = Arc::downgrade(self);
        tokio::spawn(async move {
            let Some(front) = front.upgrade() else { return };
            let now = front.engine.now();
            let old: Vec<_> = front
                .records
                .list::<Operation>("operation/")
                .into_iter()
                .filter(|(_, o)| o.ended.is_some_and(|ended| now.since(ended) > KEPT))
                .map(|(key, _)| Change::remove(&key))
                .collect();
            if !old.is_empty()
                && let Err(error) = front.records.apply(old).await
            {
                tracing::warn!(error = %error.chain(), "old operations are not forgotten");
            }
        });
    }
}

/// Waits for what an operation is about. It holds no front meanwhile: an engine ends with its last
/// handle.
async fn outcome(front: &Weak<Front>, operation: &Operation) -> Result<(), Error> {
    let gone = || {
        Error::new(
            ErrorKind::Cancelled,
            "arm.operation",
            "the front was dropped",
        )
    };
    match &operation.subject {
        Subject::Provision(group) => {
            let group = front.upgrade().ok_or_else(gone)?.engine.get(group)?;
            group.provisioned().await
        }
        Subject::Delete(group) => {
            let found = front.upgrade().ok_or_else(gone)?.engine.get(group);
            match found {
                Ok(found) => {
                    found.delete().await?;
                    let front = front.upgrade().ok_or_else(gone)?;
                    front.records.remove(&groups::meta_key(group)).await
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        }
        Subject::DeleteResourceGroup { subscription, name } => {
            let front = front.upgrade().ok_or_else(gone)?;
            scope::delete_all(&front, subscription, name).await
        }
        Subject::Deployment(key) => deployment::run(front, key).await,
    }
}

fn find(call: &Call) -> ArmResult<Operation> {
    let id = call.value("operationId");
    let subscription = call.subscription().to_lowercase();
    call.front
        .records
        .get(&key(&subscription, id))
        .ok_or_else(|| {
            ArmError::new(
                StatusCode::NOT_FOUND,
                "OperationNotFound",
                "The operation was not found: it never was, or it ended more than a day ago.",
            )
        })
}

/// `Azure-AsyncOperation`: always 200, with a status.
async fn status(call: Call) -> ArmResult {
    let operation = find(&call)?;
    let links = links(&call, &operation);
    let id = links.status.split('?').next().unwrap_or_default();
    let id = id.strip_prefix(&call.base()).unwrap_or(id);
    let mut value = json!({
        "id": id,
        "name": operation.id,
        "status": match operation.status {
            Status::InProgress => "InProgress",
            Status::Succeeded => "Succeeded",
            Status::Failed => "Failed",
            Status::Canceled => "Canceled",
        },
        "startTime": operation.started.to_string(),
    });
    if let Some(ended) = operation.ended {
        value["endTime"] = json!(ended.to_string());
    }
    if let Subject::Provision(group) = &operation.subject
        && let Ok(group) = call.front.engine.get(group)
    {
        let view = group.view().properties.instance_view;
        let view = view.map(|v| serde_json::to_value(&v).unwrap_or_default());
        let events = view.and_then(|v| v.get("events").cloned());
        value["properties"] = json!({"events": events.unwrap_or_else(|| json!([]))});
    }
    if let Some((code, message)) = &operation.error {
        value["error"] = json!({"code": code, "message": message});
    }
    let mut response = reply::ok(&value);
    if operation.status == Status::InProgress {
        let wait = call.front.options.retry_after.to_string();
        reply::header(&mut response, "retry-after", &wait);
    }
    Ok(response)
}

/// `Location`: 202 until it has ended, then what the operation would have answered.
async fn result(call: Call) -> ArmResult {
    let operation = find(&call)?;
    match operation.status {
        Status::InProgress => {
            let mut response = reply::empty(StatusCode::ACCEPTED);
            let here = format!(
                "{}{}",
                call.base(),
                call.parts.uri.path_and_query().map_or("", |p| p.as_str())
            );
            reply::header(&mut response, "location", &here);
            let wait = call.front.options.retry_after.to_string();
            reply::header(&mut response, "retry-after", &wait);
            Ok(response)
        }
        Status::Succeeded => Ok(match &operation.subject {
            Subject::Provision(group) => match call.front.engine.get(group) {
                Ok(group) => reply::ok(&groups::value(&call, &group)),
                Err(_) => reply::empty(StatusCode::NO_CONTENT),
            },
            Subject::Deployment(key) => match deployment::read(&call.front, key) {
                Some(value) => reply::ok(&value),
                None => reply::empty(StatusCode::NO_CONTENT),
            },
            Subject::Delete(_) => reply::empty(StatusCode::NO_CONTENT),
            Subject::DeleteResourceGroup { .. } => reply::empty(StatusCode::OK),
        }),
        Status::Failed | Status::Canceled => {
            let (code, message) = operation
                .error
                .unwrap_or_else(|| ("OperationFailed".to_owned(), "It has failed.".to_owned()));
            Err(ArmError::new(StatusCode::CONFLICT, code, message))
        }
    }
}

/// An operation's error for a record that is not there any more.
pub(crate) fn unknown(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, "arm.operation", what)
}
