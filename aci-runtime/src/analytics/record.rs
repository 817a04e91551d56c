//! Records as the tables `ContainerInstanceLog_CL` and `ContainerEvent_CL` have them. The workspace
//! adds the endings of its columns (`_s`, `_d`, `_t`) and of its tables by itself.

use std::collections::BTreeMap;

use aci_core::contract::{LogLine, OutputStream};
use aci_core::id::GroupRef;
use aci_core::model::{ContainerGroup, Event};
use aci_core::time::Timestamp;
use serde_json::{Map, Value, json};

/// The table of logs.
pub(super) const LOGS: &str = "ContainerInstanceLog";
/// The table of events.
pub(super) const EVENTS: &str = "ContainerEvent";

/// What all records of a group say; the document's `metadata` does not replace any of it.
fn common(
    group: &GroupRef,
    document: &ContainerGroup,
    metadata: &BTreeMap<String, String>,
    at: &str,
) -> Map<String, Value> {
    let mut record = Map::new();
    for (name, value) in metadata {
        record.insert(name.clone(), json!(value));
    }
    record.insert("TimeGenerated".to_owned(), json!(at));
    record.insert("ContainerGroup".to_owned(), json!(group.name()));
    let location = document.location.as_deref().unwrap_or_default();
    record.insert("Location".to_owned(), json!(location));
    let system = document.properties.os_type.as_ref();
    record.insert("OSType".to_owned(), json!(system.map(|s| s.as_str())));
    record
}

/// A line of a log.
pub(super) fn line(
    group: &GroupRef,
    document: &ContainerGroup,
    metadata: &BTreeMap<String, String>,
    container: &str,
    line: &LogLine,
) -> Value {
    let mut record = common(group, document, metadata, &line.at.to_string());
    let image = document
        .properties
        .containers
        .iter()
        .find(|c| c.name == container)
        .and_then(|c| c.properties.image.clone());
    record.insert("ContainerName".to_owned(), json!(container));
    record.insert("ContainerImage".to_owned(), json!(image));
    let source = match line.stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    };
    record.insert("Source".to_owned(), json!(source));
    record.insert(
        "Message".to_owned(),
        json!(String::from_utf8_lossy(&line.line)),
    );
    Value::Object(record)
}

/// An event.
pub(super) fn event(
    group: &GroupRef,
    document: &ContainerGroup,
    metadata: &BTreeMap<String, String>,
    container: Option<&str>,
    event: &Event,
    now: Timestamp,
) -> Value {
    let mut record = common(group, document, metadata, &now.to_string());
    let time = |time: &Option<aci_core::model::Timestamp>| time.as_ref().map(ToString::to_string);
    record.insert(
        "ContainerName".to_owned(),
        json!(container.unwrap_or_default()),
    );
    record.insert("Name".to_owned(), json!(event.name));
    record.insert("Message".to_owned(), json!(event.message));
    record.insert("EventType".to_owned(), json!(event.type_));
    record.insert("Count".to_owned(), json!(event.count));
    record.insert(
        "FirstTimestamp".to_owned(),
        json!(time(&event.first_timestamp)),
    );
    record.insert(
        "LastTimestamp".to_owned(),
        json!(time(&event.last_timestamp)),
    );
    Value::Object(record)
}
