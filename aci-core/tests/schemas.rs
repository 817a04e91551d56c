//! The model against the published tables and schemas: every property is there with its
//! api-versions, and what is written for a version validates against that version's JSON schema.
#![cfg(feature = "yaml")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aci_core::document::{self, Format, SecretMode};
use aci_core::model::{
    ApiVersion, Availability, ContainerGroup, ContainerGroupProfile, PropertyInfo, Sku,
};
use serde_json::{Value, json};
use support::{Maker, Random};

const VERSIONS: [&str; 4] = [
    "2021-10-01",
    "2023-05-01",
    "2025-09-01",
    "2026-06-01-preview",
];

/// Properties that a complete request has although the model takes documents without them.
const ALWAYS: &[&str] = &[
    "containers",
    "cpu",
    "extensionType",
    "image",
    "memoryInGB",
    "osType",
    "ports",
    "properties",
    "requests",
    "resources",
    "type",
    "version",
    "workspaceKey",
];

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared")
        .join(path);
    if !path.exists() {
        println!(
            "SKIPPED: no {} beside this checkout",
            path.file_name().unwrap().to_string_lossy()
        );
        return None;
    }
    Some(path)
}

/// Makes the schema stricter and usable offline: objects have no further properties, expressions of
/// templates are strings in brackets, and sizes may have a fraction (the schema's `integer` stands
/// for the REST reference's `number`, whose examples have 1.5).
fn strict(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map
                .get("$ref")
                .and_then(Value::as_str)
                .is_some_and(|r| r.ends_with("/definitions/expression"))
            {
                *value = json!({"type": "string", "pattern": "^\\[.*\\]$"});
                return;
            }
            let fixed = map
                .get("properties")
                .and_then(Value::as_object)
                .is_some_and(|p| !p.is_empty());
            if fixed
                && map.get("type") == Some(&json!("object"))
                && !map.contains_key("additionalProperties")
            {
                map.insert("additionalProperties".to_owned(), json!(false));
            }
            for (key, inner) in map.iter_mut() {
                if matches!(key.as_str(), "cpu" | "memoryInGB") {
                    inner["oneOf"][0]["type"] = json!("number");
                }
                strict(inner);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strict),
        _ => {}
    }
}

fn validator(folder: &Path, version: &str, resource: &str) -> Option<jsonschema::Validator> {
    let text = fs::read_to_string(folder.join(format!("{version}.json"))).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    schema["resourceDefinitions"].get(resource)?;
    strict(&mut schema);
    let root = json!({
        "$schema": "http://json-schema.org/draft-04/schema#",
        "definitions": schema["definitions"],
        "allOf": [schema["resourceDefinitions"][resource]],
    });
    Some(jsonschema::draft4::new(&root).unwrap())
}

fn assert_valid(validator: &jsonschema::Validator, name: &str, request: &Value) {
    let errors: Vec<_> = validator
        .iter_errors(request)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{request:#}");
}

#[test]
fn requests_of_every_version_validate() {
    let Some(folder) = shared("spec/arm-schemas") else {
        return;
    };
    let table = ContainerGroup::properties_table();
    for version in VERSIONS {
        let validator = validator(&folder, version, "containerGroups").unwrap();
        let parsed: ApiVersion = version.parse().unwrap();
        for seed in 0..40 {
            let mut random = Random(seed);
            let percent = (seed * 3 % 101) as usize;
            let document = Maker {
                random: &mut random,
                percent,
                odd: false,
                always: ALWAYS,
            }
            .document(&table);
            let mut group: ContainerGroup = serde_json::from_value(document).unwrap();
            // Values that are younger than the property.
            let young = match group.properties.sku {
                Some(Sku::Confidential) => version == "2021-10-01",
                Some(Sku::NotSpecified) => parsed < "2025-09-01".parse().unwrap(),
                _ => false,
            };
            if young {
                group.properties.sku = None;
            }
            let request = group.to_request(parsed, SecretMode::Reveal);
            assert_valid(&validator, &format!("{version}, seed {seed}"), &request);
        }
    }
}

#[test]
fn profiles_of_every_version_validate() {
    let Some(folder) = shared("spec/arm-schemas") else {
        return;
    };
    let table = ContainerGroupProfile::properties_table();
    let mut versions = 0;
    for version in VERSIONS {
        let Some(validator) = validator(&folder, version, "containerGroupProfiles") else {
            continue;
        };
        versions += 1;
        for seed in 0..40 {
            let mut random = Random(seed);
            let document = Maker {
                random: &mut random,
                percent: 60,
                odd: false,
                always: ALWAYS,
            }
            .document(&table);
            let profile: ContainerGroupProfile = serde_json::from_value(document).unwrap();
            let request = profile.to_request(version.parse().unwrap(), SecretMode::Reveal);
            assert_valid(&validator, &format!("{version}, seed {seed}"), &request);
        }
    }
    assert_eq!(versions, 2);
}

/// The corpus' own requests, written for the schema of the same version or the nearest later one.
#[test]
fn requests_of_the_corpus_validate() {
    let (Some(folder), Some(corpus)) = (shared("spec/arm-schemas"), shared("corpus")) else {
        return;
    };
    let mut count = 0;
    for entry in ["swagger-examples", "azure-docs-yaml"]
        .iter()
        .flat_map(|f| fs::read_dir(corpus.join(f)).unwrap())
    {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(format) = Format::of_path(&path)
            .filter(|_| !name.contains("__resp") && !name.starts_with("recorded"))
        else {
            continue;
        };
        let text = fs::read_to_string(&path).unwrap();
        let mut group = document::read(&text, format).unwrap().groups.remove(0);
        let own = name
            .split("__")
            .next()
            .unwrap_or_default()
            .parse::<ApiVersion>()
            .ok();
        let own = own.or_else(|| group.api_version.as_deref()?.parse().ok());
        let version = VERSIONS
            .iter()
            .find(|v| own.is_none_or(|own| v.parse::<ApiVersion>().unwrap() >= own))
            .unwrap();
        if group.name.is_empty() {
            group.name = "from-the-address".to_owned();
        }
        let request = group.to_request(version.parse().unwrap(), SecretMode::Reveal);
        assert_valid(
            &validator(&folder, version, "containerGroups").unwrap(),
            &name,
            &request,
        );
        count += 1;
    }
    assert!(count >= 15, "{count} requests");
}

struct Row {
    path: String,
    flags: String,
    kind: String,
    since: String,
}

/// The rows of one resource in the reference's table of properties, and those that are gone.
fn reference(text: &str, resource: &str) -> (Vec<Row>, BTreeMap<String, String>) {
    let section = text
        .split("\n### Resource ")
        .find(|s| s.starts_with(resource))
        .unwrap();
    let mut rows = Vec::new();
    let mut gone = BTreeMap::new();
    for line in section.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, path, kind, flags, since, ..] = cells.as_slice()
            && let Some(path) = path.strip_prefix('`').and_then(|p| p.strip_suffix('`'))
        {
            let [path, kind, flags, since] = [path, kind, flags, since].map(|s| (*s).to_owned());
            rows.push(Row {
                path,
                flags,
                kind,
                since,
            });
        } else if let Some((path, range)) =
            line.strip_prefix("- `").and_then(|l| l.split_once("`: "))
        {
            gone.insert(path.to_owned(), range.to_owned());
        }
    }
    (rows, gone)
}

fn shown(since: Availability) -> String {
    let stable = since.stable.map(|v| v.to_string()).unwrap_or_default();
    match (since.preview, since.until) {
        (Some(preview), Some(until)) => format!("{preview} .. {until}"),
        (None, Some(until)) => format!("{stable} .. {until}"),
        (Some(preview), None) => format!("{stable} / {preview}"),
        (None, None) => stable,
    }
}

/// Required in the reference, but taken without by the model: either replies leave it out, or a
/// rule of ACI with a code of its own asks for it.
fn is_asked_for_elsewhere(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap();
    matches!(
        last,
        "workspaceKey" | "requests" | "cpu" | "memoryInGB" | "containers" | "osType"
    ) || path == "name"
        || path == "properties.ipAddress.ports"
}

fn compare(resource: &str, table: &[PropertyInfo], text: &str) -> usize {
    let ours: BTreeMap<_, _> = table
        .iter()
        .map(|info| (info.path.as_str(), info))
        .collect();
    let (rows, gone) = reference(text, resource);
    for row in &rows {
        let info = ours
            .get(row.path.as_str())
            .unwrap_or_else(|| panic!("{}: not in the model", row.path));
        assert_eq!(shown(info.since), row.since, "{}", row.path);
        assert_eq!(info.list, row.kind.ends_with("[]"), "{}", row.path);
        assert_eq!(info.map, row.kind.starts_with("map<"), "{}", row.path);
        // The reference does not mark what is inside maps and free objects.
        if row.kind.contains("{secret}") {
            assert!(info.secret, "{} is a secret", row.path);
        }
        assert_eq!(info.read_only, row.flags.contains("ro"), "{}", row.path);
        if !is_asked_for_elsewhere(&row.path) {
            assert_eq!(info.required, row.flags.contains("req"), "{}", row.path);
        }
        for choice in info.choices {
            assert!(
                row.kind.contains(&format!("'{choice}'")),
                "{}: {choice} is not in {}",
                row.path,
                row.kind
            );
        }
        let quoted = row.kind.split('\'').skip(1).step_by(2).collect::<Vec<_>>();
        if quoted.len() > 1 {
            assert_eq!(
                quoted.len(),
                info.choices.len(),
                "{}: {:?}",
                row.path,
                info.choices
            );
        }
    }
    for (path, range) in &gone {
        assert_eq!(&shown(ours[path.as_str()].since), range, "{path}");
    }
    rows.len() + gone.len()
}

#[test]
fn the_model_has_every_property_of_the_reference() {
    let Some(path) = shared("spec/aci-reference.md") else {
        return;
    };
    let text = fs::read_to_string(path).unwrap();
    let groups = compare(
        "containergroups ",
        &ContainerGroup::properties_table(),
        &text,
    );
    assert!(groups > 230, "{groups} properties of groups");
    let profiles = compare(
        "containergroupprofiles ",
        &ContainerGroupProfile::properties_table(),
        &text,
    );
    assert!(profiles >= 18, "{profiles} properties of profiles");
}
