//! Properties that the api-version of the request does not know.

use serde_json::Value;

use crate::document::SecretMode;
use crate::model::codec::{Property, PropertyRow, Shape, Writer};
use crate::model::{ApiVersion, ContainerGroup};

use super::check::{Check, Path};
use super::codes;

/// Reports every property that is given and that the api-version does not know. Such a property is
/// a warning: older versions of the service ignore what they do not know.
pub(super) fn check(check: &mut Check<'_>) {
    let named = check.group.api_version.as_deref();
    if let Some(Err(error)) = named.map(str::parse::<ApiVersion>) {
        let message = format!("The api-version is invalid: {error}.");
        let path = Path::root().name("apiVersion");
        check.problem(codes::INVALID_API_VERSION, &path, message);
    }
    let version = check.api_version();
    if version == ApiVersion::LATEST && check.group.api_version.is_none() {
        return;
    }
    // Only names are looked at; the values, secrets among them, go no further.
    let writer = Writer {
        secrets: SecretMode::Reveal,
        version: None,
        read_only: false,
    };
    let written = Property::write(check.group, &writer);
    object(
        check,
        ContainerGroup::ROWS,
        &written,
        &Path::root(),
        version,
    );
}

fn object(
    check: &mut Check<'_>,
    rows: &[PropertyRow],
    value: &Value,
    path: &Path,
    version: ApiVersion,
) {
    for row in rows.iter().filter(|row| !row.read_only) {
        let Some(value) = value.get(row.name) else {
            continue;
        };
        let path = path.name(row.name);
        if row.since.includes(version) {
            shape(check, row.shape, value, &path, version);
        } else {
            check.warning(
                codes::UNKNOWN_IN_API_VERSION,
                &path,
                row.unknown_to(version),
            );
        }
    }
}

fn shape(check: &mut Check<'_>, shape_: &Shape, value: &Value, path: &Path, version: ApiVersion) {
    match (shape_, value) {
        (Shape::Object(rows), value) => object(check, rows, value, path, version),
        (Shape::List(inner), Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                shape(check, inner, item, &path.index(i), version);
            }
        }
        (Shape::Map(inner), Value::Object(entries)) => {
            for (key, item) in entries {
                shape(check, inner, item, &path.name(key), version);
            }
        }
        _ => {}
    }
}
