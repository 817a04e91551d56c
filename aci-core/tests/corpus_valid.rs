//! Every container group of the shared corpus is valid, or refused for a reason that is listed here.
#![cfg(feature = "yaml")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use aci_core::document::{self, Format, Kind};
use aci_core::template::{EvaluationContext, Parameters, StorageKeys, Template};
use aci_core::validate::{Report, Rules, validate, validate_document};
use serde_json::{Value, json};

/// Documents that are refused: a part of the file's name, code, path, and why that is right.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    (
        "__ContainerGroupsCreateOrUpdate__req.json",
        "InvalidIpAddressTypeForNetworkProfile",
        "properties.ipAddress.type",
        "The example shows every property at once: a public address with a DNS label, and a network. ACI refuses that \
         combination with this code; its replies to the example have no network.",
    ),
    (
        "__ContainerGroupsCreateOrUpdate__req.json",
        "InvalidSubnetId",
        "properties.networkProfile.id",
        "The example's id is the placeholder 'test-network-profile-id'.",
    ),
    (
        "__ContainerGroupsCreateOrUpdate__req.json",
        "InvalidSubnetId",
        "properties.subnetIds[0].id",
        "The example's id is a template expression in a request, where nothing evaluates it.",
    ),
    (
        "vnet-deploy-aci.yaml",
        "InvalidSubnetId",
        "properties.networkProfile.id",
        "The sample's id has the placeholder '<Subscription ID>', which the reader is told to replace.",
    ),
];

/// Values for the parameters of the templates.
fn parameter(name: &str) -> Value {
    match name {
        "mysqlPassword" | "sftpPassword" | "environmentVariableValue" => json!("hunter2"),
        "storageAccountName" | "existingStorageAccountName" => json!("mystore"),
        "environmentVariableName" => json!("TOKEN"),
        "volumename" => json!("source"),
        _ => json!("demo"),
    }
}

fn corpus() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    if root.is_dir() {
        return Some(root);
    }
    println!("SKIPPED: no corpus beside this checkout");
    None
}

/// All files, as name and text.
fn files(root: &Path) -> Vec<(String, Format, String)> {
    let mut files = Vec::new();
    for folder in fs::read_dir(root).unwrap().map(|f| f.unwrap().path()) {
        for file in fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()) {
            let name = file
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            let text = document::decode(&fs::read(&file).unwrap()).unwrap();
            files.push((name, Format::of_path(&file).unwrap(), text));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

/// The report on a file, and how many groups it has.
fn judge(name: &str, format: Format, text: &str) -> (Report, usize) {
    let node = document::parse(text, format).unwrap_or_else(|error| panic!("{name}: {error}"));
    if Kind::of(&node) == Kind::Template {
        return judge_template(name, text);
    }
    let is_reply = name.contains("__resp") || name.contains("recorded-get");
    let rules = if is_reply {
        Rules::for_reply()
    } else {
        Rules::default()
    };
    let reading = document::inspect(text, format);
    let report = validate_document(&reading, &rules);
    for problem in &report.problems {
        assert!(problem.line.is_some(), "{name}: {problem} has no place");
    }
    (report, reading.document.groups.len())
}

fn judge_template(name: &str, text: &str) -> (Report, usize) {
    let template = Template::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let declared = document::parse(text, Format::Json).unwrap().to_json();
    let mut parameters = Parameters::new();
    for (name, declaration) in declared["parameters"].as_object().into_iter().flatten() {
        // One default is a name that Azure would make up; the key is given for another.
        if declaration.get("defaultValue").is_none() || name == "storageAccountName" {
            parameters.set(name, parameter(name));
        }
    }
    let keys = StorageKeys::new().account("mystore", "c3RvcmFnZS1rZXk=");
    let context = EvaluationContext::new(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .resource_group("demo", "westeurope")
        .resolver(&keys)
        .parameters(parameters);
    let evaluated = template
        .evaluate(&context)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let groups = evaluated
        .container_groups()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut report = Report::default();
    for group in &groups {
        report.append(validate(group, &Rules::default()));
    }
    (report, groups.len())
}

#[test]
fn every_group_is_valid_or_refused_for_a_listed_reason() {
    let Some(root) = corpus() else { return };
    let (mut groups, mut refused) = (0, 0);
    let mut used: BTreeMap<usize, usize> = BTreeMap::new();
    for (name, format, text) in files(&root) {
        let (report, count) = judge(&name, format, &text);
        groups += count;
        refused += usize::from(!report.problems.is_empty());
        for problem in &report.problems {
            let listed = REFUSED.iter().position(|(file, code, path, _)| {
                name.ends_with(file) && problem.code == *code && problem.path == *path
            });
            let listed = listed.unwrap_or_else(|| panic!("{name}: {problem} is not listed"));
            *used.entry(listed).or_default() += 1;
        }
    }
    assert_eq!(
        used.len(),
        REFUSED.len(),
        "a listed reason does not occur: {used:?}"
    );
    println!("{groups} groups in the corpus; {refused} documents are refused");
    assert!(groups >= 104, "{groups} groups");
    assert_eq!(refused, 9);
}

/// What is odd about published documents, counted: a new warning on real documents is looked at.
#[test]
fn warnings_on_real_documents_are_known() {
    let Some(root) = corpus() else { return };
    let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (name, format, text) in files(&root) {
        for warning in judge(&name, format, &text).0.warnings {
            let last = warning.path.rsplit('.').next().unwrap_or_default();
            *found.entry((warning.code, last.to_owned())).or_default() += 1;
        }
    }
    let found: Vec<(&str, &str)> = found
        .keys()
        .map(|(c, p)| (c.as_str(), p.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            // The samples' own name, with capital letters.
            ("InvalidContainerGroupName", "name"),
            // GPUs in examples of the years when ACI had them; placeholders for accounts and shares.
            ("MayFailLater", "gpu"),
            ("MayFailLater", "shareName"),
            ("MayFailLater", "storageAccountName"),
            // A server of files over SSH, on its usual port.
            ("ReservedPorts", "port"),
            ("UnknownProperty", "tags"),
        ]
    );
}
