//! A deployment as it is journaled and shown.

use std::collections::BTreeSet;

use aci_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::NESTED;
use crate::arm::auth::Principal;

/// How a deployment is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(super) subscription: String,
    pub(super) resource_group: String,
    pub(super) name: String,
    /// Which of the deployments of that name: a newer one replaces an older.
    pub(super) run: String,
}

impl Key {
    pub(super) fn record(&self) -> String {
        key_of(&self.subscription, &self.resource_group, &self.name)
    }
}

pub(super) fn key_of(subscription: &str, resource_group: &str, name: &str) -> String {
    format!("deployment/{subscription}/{resource_group}/{name}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Running,
    Succeeded,
    Failed,
    Canceled,
}

impl State {
    pub(super) const fn text(self) -> &'static str {
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
pub(super) struct Step {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) state: State,
    pub(super) begun: Timestamp,
    pub(super) ended: Option<Timestamp>,
    pub(super) error: Option<Value>,
}

/// A deployment as it is journaled; the template and the parameters may hold secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) key: Key,
    /// As they were first written.
    pub(super) resource_group: String,
    pub(super) name: String,
    pub(super) tags: Map<String, Value>,
    pub(super) template: Value,
    pub(super) parameters: Value,
    pub(super) complete: bool,
    /// Names of parameters whose values are never shown.
    pub(super) secure: Vec<String>,
    /// The number that `newGuid` starts from, so that each evaluation gives the same.
    pub(super) seed: String,
    pub(super) by: Principal,
    pub(super) correlation: String,
    pub(super) operation: String,
    pub(super) begun: Timestamp,
    pub(super) ended: Option<Timestamp>,
    pub(super) state: State,
    pub(super) error: Option<Value>,
    pub(super) steps: Vec<Step>,
    pub(super) outputs: Value,
}

impl Kept {
    pub(super) fn id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Resources/deployments/{}",
            self.key.subscription, self.resource_group, self.name
        )
    }

    pub(super) fn value(&self) -> Value {
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
