//! The shape of answers: what ACI always writes, even where a document said nothing.

use aci_core::document::WriteOptions;
use aci_core::model::{ApiVersion, ContainerGroup};
use serde_json::{Map, Value, json};

/// A group as an answer of one api-version has it, with its full id.
pub(crate) fn group(group: &ContainerGroup, version: ApiVersion) -> Value {
    let mut value = group.to_value(WriteOptions::default().version(version));
    let Some(root) = value.as_object_mut() else {
        return value;
    };
    // Of documents, not of answers.
    root.remove("apiVersion");
    root.entry("tags").or_insert_with(|| json!({}));
    let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) else {
        return value;
    };
    completed(properties, version);
    value
}

/// Fills in what is always there: ACI's own answers have it, and clients read it without asking
/// (azure-aci reads tags, ports, instance views and events without looking whether they are there).
pub(crate) fn completed(properties: &mut Map<String, Value>, version: ApiVersion) {
    let since = |text: &str| text.parse::<ApiVersion>().is_ok_and(|v| version >= v);
    if since("2019-12-01") {
        default(properties, "sku", || json!("Standard"));
        default(properties, "initContainers", || json!([]));
    }
    default(properties, "restartPolicy", || json!("Always"));
    default(properties, "osType", || json!("Linux"));
    default(properties, "containers", || json!([]));
    for list in ["containers", "initContainers"] {
        for container in items(properties, list) {
            let Some(inner) = container
                .get_mut("properties")
                .and_then(Value::as_object_mut)
            else {
                continue;
            };
            default(inner, "environmentVariables", || json!([]));
            if list == "containers" {
                default(inner, "ports", || json!([]));
                for port in items(inner, "ports") {
                    default(port, "protocol", || json!("TCP"));
                }
            }
            if let Some(view) = inner.get_mut("instanceView").and_then(Value::as_object_mut) {
                default(view, "events", || json!([]));
            }
        }
    }
    if let Some(address) = properties
        .get_mut("ipAddress")
        .and_then(Value::as_object_mut)
    {
        default(address, "ports", || json!([]));
        for port in items(address, "ports") {
            default(port, "protocol", || json!("TCP"));
        }
    }
    for volume in items(properties, "volumes") {
        // What is in a secret volume is never shown, but that it is one.
        let kinds = [
            "azureFile",
            "emptyDir",
            "gitRepo",
            "secret",
            "secretReference",
        ];
        if !kinds.iter().any(|kind| volume.contains_key(*kind)) {
            volume.insert("secret".to_owned(), json!({}));
        }
    }
    if let Some(view) = properties
        .get_mut("instanceView")
        .and_then(Value::as_object_mut)
    {
        default(view, "events", || json!([]));
    }
}

fn default(map: &mut Map<String, Value>, name: &str, value: impl FnOnce() -> Value) {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), value());
    }
}

fn items<'a>(
    map: &'a mut Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}
