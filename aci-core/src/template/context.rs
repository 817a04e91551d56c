//! What an evaluation knows besides the template: parameters, place, time, and who answers
//! for what only a running deployment knows.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::Template;
use super::limits::Limits;
use super::parameters::Parameters;

/// Everything an evaluation depends on. The same context and template give the same result.
#[derive(Clone)]
pub struct EvaluationContext<'a> {
    pub(crate) parameters: Parameters,
    pub(crate) place: Place,
    pub(crate) tenant_id: String,
    pub(crate) subscription_name: String,
    pub(crate) deployment_location: Option<String>,
    pub(crate) resource_group_tags: BTreeMap<String, String>,
    pub(crate) now: SystemTime,
    pub(crate) seed: Option<u128>,
    pub(crate) limits: Limits,
    pub(crate) resolver: Option<&'a dyn RuntimeResolver>,
    pub(crate) linked: BTreeMap<String, &'a Template>,
}

/// Where a deployment goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) deployment: String,
    pub(crate) subscription_id: String,
    pub(crate) resource_group: String,
    pub(crate) location: String,
}

const NIL: &str = "00000000-0000-0000-0000-000000000000";

impl<'a> EvaluationContext<'a> {
    /// A context without parameters: deployment `main` into resource group `default` of the
    /// nil subscription, location `local`. `now` is what `utcNow` returns.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self {
            parameters: Parameters::new(),
            place: Place {
                deployment: "main".to_owned(),
                subscription_id: NIL.to_owned(),
                resource_group: "default".to_owned(),
                location: "local".to_owned(),
            },
            tenant_id: NIL.to_owned(),
            subscription_name: "local".to_owned(),
            deployment_location: None,
            resource_group_tags: BTreeMap::new(),
            now,
            seed: None,
            limits: Limits::default(),
            resolver: None,
            linked: BTreeMap::new(),
        }
    }

    /// The values of the template's parameters.
    #[must_use]
    pub fn parameters(mut self, parameters: Parameters) -> Self {
        self.parameters = parameters;
        self
    }

    /// The name of the deployment, as `deployment().name` returns it.
    #[must_use]
    pub fn deployment_name(mut self, name: impl Into<String>) -> Self {
        self.place.deployment = name.into();
        self
    }

    /// The subscription's id, a GUID.
    #[must_use]
    pub fn subscription_id(mut self, id: impl Into<String>) -> Self {
        self.place.subscription_id = id.into();
        self
    }

    /// The tenant's id, a GUID.
    #[must_use]
    pub fn tenant_id(mut self, id: impl Into<String>) -> Self {
        self.tenant_id = id.into();
        self
    }

    /// The resource group's name and location.
    #[must_use]
    pub fn resource_group(mut self, name: impl Into<String>, location: impl Into<String>) -> Self {
        self.place.resource_group = name.into();
        self.place.location = location.into();
        self
    }

    /// The resource group's tags.
    #[must_use]
    pub fn resource_group_tags(mut self, tags: BTreeMap<String, String>) -> Self {
        self.resource_group_tags = tags;
        self
    }

    /// The location of the deployment itself, for templates at subscription level or above.
    #[must_use]
    pub fn deployment_location(mut self, location: impl Into<String>) -> Self {
        self.deployment_location = Some(location.into());
        self
    }

    /// The number from which `newGuid` makes its values; take a random one for each deployment.
    ///
    /// Without it the values follow from the time, the subscription, the resource group and
    /// the deployment's name.
    #[must_use]
    pub fn seed(mut self, seed: u128) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Other bounds than the default ones.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Who answers `reference`, `listKeys` and their like.
    #[must_use]
    pub fn resolver(mut self, resolver: &'a dyn RuntimeResolver) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// A template that the evaluated one links to, under the `uri` or `relativePath` of its
    /// `templateLink`. Nothing is ever fetched.
    #[must_use]
    pub fn linked_template(mut self, address: impl Into<String>, template: &'a Template) -> Self {
        self.linked.insert(address.into(), template);
        self
    }

    pub(crate) fn resource_group_value(&self, place: &Place) -> Value {
        let tags: Map<String, Value> = self
            .resource_group_tags
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        json!({
            "id": format!("/subscriptions/{}/resourceGroups/{}", place.subscription_id, place.resource_group),
            "name": place.resource_group,
            "type": "Microsoft.Resources/resourceGroups",
            "location": place.location,
            "tags": tags,
            "properties": { "provisioningState": "Succeeded" },
        })
    }

    pub(crate) fn subscription_value(&self, place: &Place) -> Value {
        json!({
            "id": format!("/subscriptions/{}", place.subscription_id),
            "subscriptionId": place.subscription_id,
            "tenantId": self.tenant_id,
            "displayName": self.subscription_name,
        })
    }

    pub(crate) fn tenant_value(&self) -> Value {
        json!({ "tenantId": self.tenant_id, "displayName": "local", "countryCode": "" })
    }
}

impl fmt::Debug for EvaluationContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvaluationContext")
            .field("parameters", &self.parameters)
            .field("place", &self.place)
            .field("now", &self.now)
            .field("resolver", &self.resolver.is_some())
            .finish_non_exhaustive()
    }
}

/// Answers for values that exist only outside the template.
///
/// Resource Manager calls the resource providers here. An embedder answers for what it has:
/// the keys of a storage account, the address of a group that runs. `None` leaves the value
/// pending; it is never an error by itself.
pub trait RuntimeResolver {
    /// The state of a resource, for `reference`: its `properties`, or the whole resource when
    /// [`ReferenceRequest::full`] is set. Asked before the template's own resources.
    fn reference(&self, request: &ReferenceRequest<'_>) -> Option<Value> {
        let _ = request;
        None
    }

    /// The reply of a list operation, such as
    /// `{"keys": [{"keyName": "key1", "value": "..."}]}` for `listKeys`.
    fn list(&self, request: &ListRequest<'_>) -> Option<Value> {
        let _ = request;
        None
    }
}

/// What `reference` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReferenceRequest<'a> {
    /// The resource's full id.
    pub resource_id: &'a str,
    /// The api-version, where the expression gives one.
    pub api_version: Option<&'a str>,
    /// Whether the whole resource is wanted and not its `properties` only.
    pub full: bool,
}

/// What `listKeys` and its like ask for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ListRequest<'a> {
    /// The function as written, such as `listKeys` or `listAccountSas`.
    pub function: &'a str,
    /// The resource's full id.
    pub resource_id: &'a str,
    /// The api-version, where the expression gives one.
    pub api_version: Option<&'a str>,
    /// The body of the request, where the expression gives one.
    pub body: Option<&'a Value>,
}

/// The storage accounts' keys, for templates that mount Azure Files shares.
///
/// Answers `listKeys` for `Microsoft.Storage/storageAccounts` by the account's name, in any
/// case. Its `Debug` shows the names only.
#[derive(Clone, Default)]
pub struct StorageKeys(BTreeMap<String, String>);

impl StorageKeys {
    /// No accounts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an account and its key.
    #[must_use]
    pub fn account(mut self, name: impl AsRef<str>, key: impl Into<String>) -> Self {
        self.0
            .insert(name.as_ref().to_ascii_lowercase(), key.into());
        self
    }
}

impl fmt::Debug for StorageKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StorageKeys").field(&self.0.keys()).finish()
    }
}

impl RuntimeResolver for StorageKeys {
    fn list(&self, request: &ListRequest<'_>) -> Option<Value> {
        if !request.function.eq_ignore_ascii_case("listKeys") {
            return None;
        }
        let id = request.resource_id.to_ascii_lowercase();
        let (_, account) = id.split_once("/providers/microsoft.storage/storageaccounts/")?;
        let key = self.0.get(account.trim_end_matches('/'))?;
        Some(json!({ "keys": [
            { "keyName": "key1", "permissions": "FULL", "value": key },
            { "keyName": "key2", "permissions": "FULL", "value": key },
        ] }))
    }
}
