//! Documents with any property and any string: reading what was written gives the same, secrets do
//! not show, and no input makes the readers panic.
#![cfg(feature = "yaml")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};

use aci_core::document::{self, Format, SecretMode};
use aci_core::model::{ApiVersion, ContainerGroup, ContainerGroupProfile};
use proptest::prelude::*;
use serde_json::Value;
use support::{Maker, Random, SENTINEL};

fn odd_document(seed: u64, percent: usize) -> Value {
    let mut random = Random(seed);
    Maker {
        random: &mut random,
        percent,
        odd: true,
        always: &[],
    }
    .document(&ContainerGroup::properties_table())
}

fn odd_group(seed: u64, percent: usize) -> ContainerGroup {
    let mut group: ContainerGroup = serde_json::from_value(odd_document(seed, percent)).unwrap();
    group.type_ = Some(ContainerGroup::RESOURCE_TYPE.to_owned());
    group
}

fn versions() -> impl Strategy<Value = ApiVersion> {
    proptest::sample::select(vec![
        "2017-08-01-preview",
        "2018-04-01",
        "2018-10-01",
        "2019-12-01",
        "2021-03-01",
        "2021-10-01",
        "2022-10-01-preview",
        "2023-05-01",
        "2024-11-01-preview",
        "2025-09-01",
        "2026-06-01-preview",
        "2026-07-01",
    ])
    .prop_map(|text| text.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_what_was_written_gives_the_same(seed: u64, percent in 0usize..100) {
        let group = odd_group(seed, percent);
        let json = group.to_json(SecretMode::Reveal);
        prop_assert_eq!(&ContainerGroup::from_json(&json).unwrap(), &group);
        let yaml = group.to_yaml(SecretMode::Reveal);
        prop_assert_eq!(&ContainerGroup::from_yaml(&yaml).unwrap(), &group, "{}", yaml);
        let revealed: Value = serde_json::from_str(&json).unwrap();
        let tree = document::parse(&yaml, Format::Yaml).unwrap();
        prop_assert_eq!(tree.to_json(), revealed);
    }

    #[test]
    fn a_profile_is_written_and_read_back(seed: u64, percent in 0usize..100) {
        let mut random = Random(seed);
        let mut maker = Maker { random: &mut random, percent, odd: true, always: &[] };
        let document = maker.document(&ContainerGroupProfile::properties_table());
        let profile: ContainerGroupProfile = serde_json::from_value(document).unwrap();
        let mut typed = profile.clone();
        typed.type_ = Some(ContainerGroupProfile::RESOURCE_TYPE.to_owned());
        prop_assert_eq!(&ContainerGroupProfile::from_yaml(&typed.to_yaml(SecretMode::Reveal)).unwrap(), &typed);
        prop_assert_eq!(&ContainerGroupProfile::from_json(&typed.to_json(SecretMode::Reveal)).unwrap(), &typed);
    }

    #[test]
    fn a_request_of_a_version_is_read_without_warnings(seed: u64, version in versions()) {
        let group = odd_group(seed, 70);
        let reading = document::inspect(&group.to_json_for(version, SecretMode::Reveal), Format::Json);
        prop_assert_eq!(&reading.problems, &[]);
        prop_assert_eq!(&reading.document.warnings, &[]);
        let yaml = document::inspect(&group.to_yaml_for(version, SecretMode::Reveal), Format::Yaml);
        prop_assert_eq!(&yaml.document.groups, &reading.document.groups);
    }

    #[test]
    fn secrets_do_not_show(seed: u64) {
        let group = odd_group(seed, 90);
        let revealed = group.to_json(SecretMode::Reveal);
        for text in [
            format!("{group:?}"),
            format!("{group:#?}"),
            serde_json::to_string(&group).unwrap(),
            group.to_json(SecretMode::Redact),
            group.to_yaml(SecretMode::Redact),
            group.to_json_for(ApiVersion::LATEST, SecretMode::Redact),
            format!("{:?}", document::parse(&revealed, Format::Json).unwrap()),
            format!("{:?}", document::inspect(&revealed, Format::Json)),
        ] {
            prop_assert!(!text.contains(SENTINEL), "{}", text);
        }
    }

    #[test]
    fn secrets_in_the_wrong_place_do_not_show(seed: u64) {
        // Everything that is a text becomes an object around it, and every name is misspelt.
        fn spoil(value: &Value, random: &mut Random) -> Value {
            match value {
                Value::String(text) if text == SENTINEL => match random.below(3) {
                    0 => serde_json::json!({ "x": SENTINEL }),
                    1 => serde_json::json!([SENTINEL]),
                    _ => Value::from(SENTINEL),
                },
                Value::Array(items) => Value::Array(items.iter().map(|v| spoil(v, random)).collect()),
                Value::Object(map) => map.iter().map(|(k, v)| {
                    let key = if random.chance(20) { format!("{k}x") } else { k.clone() };
                    (key, spoil(v, random))
                }).collect(),
                other => other.clone(),
            }
        }
        let document = spoil(&odd_document(seed, 80), &mut Random(seed));
        let reading = document::inspect(&document.to_string(), Format::Json);
        let shown = format!("{reading:?}");
        prop_assert!(!shown.contains(SENTINEL), "{}", shown);
        for group in &reading.document.groups {
            prop_assert!(!group.to_json(SecretMode::Redact).contains(SENTINEL));
        }
        if let Err(error) = document::read(&document.to_string(), Format::Json) {
            let shown = format!("{error} {error:?}");
            prop_assert!(!shown.contains(SENTINEL));
        }
    }

    #[test]
    fn bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(text) = document::decode(&bytes) {
            let _ = document::inspect(&text, Format::Json);
            let _ = document::inspect(&text, Format::Yaml);
        }
    }

    #[test]
    fn texts_of_yaml_characters_are_read_or_refused(text in "[-:?,&*!|>'\"%@`{}\\[\\]# \n\ta-c0-9~<]{0,80}") {
        let _ = document::inspect(&text, Format::Yaml);
        let _ = document::inspect(&text, Format::Json);
    }

    #[test]
    fn damaged_documents_are_read_or_refused(seed: u64, yaml: bool) {
        let mut random = Random(seed);
        let group = odd_group(seed, 40);
        let format = if yaml { Format::Yaml } else { Format::Json };
        let text = if yaml { group.to_yaml(SecretMode::Reveal) } else { group.to_json(SecretMode::Reveal) };
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(chars.len().max(1)).min(chars.len());
            match random.below(4) {
                0 => chars.truncate(at),
                1 if at < chars.len() => { chars.remove(at); }
                2 => chars.insert(at, *random.pick(&[':', '{', '[', '"', '-', '\n', ' ', '&', '*', '\0', ','])),
                _ => {
                    let piece: Vec<char> = chars.iter().skip(at).take(20).copied().collect();
                    chars.splice(at..at, piece);
                }
            }
        }
        let damaged: String = chars.into_iter().collect();
        let reading = document::inspect(&damaged, format);
        for problem in &reading.problems {
            prop_assert!(!problem.message.is_empty() && problem.code == "InvalidRequestContent");
        }
        if reading.problems.is_empty() {
            for group in &reading.document.groups {
                let again = ContainerGroup::from_yaml(&group.to_yaml(SecretMode::Reveal)).unwrap();
                prop_assert_eq!(&again, group);
            }
        }
    }
}

/// The Azure CLI reads documents with PyYAML, which knows YAML 1.1.
#[test]
fn pyyaml_reads_the_same() {
    const PROGRAM: &str = "\
import json, sys, yaml
json.dump([yaml.safe_load(t) for t in json.load(sys.stdin)], sys.stdout, default=repr, allow_nan=True)";
    if !Command::new("python3")
        .args(["-c", "import yaml"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        println!("SKIPPED: no python3 with yaml on this machine");
        return;
    }
    let groups: Vec<_> = (0..60).map(|seed| odd_group(seed, 60)).collect();
    let texts: Vec<_> = groups
        .iter()
        .map(|group| group.to_yaml(SecretMode::Reveal))
        .collect();
    let mut python = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python
        .stdin
        .take()
        .unwrap()
        .write_all(serde_json::to_string(&texts).unwrap().as_bytes())
        .unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "PyYAML refused a document");
    let read: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for (seed, (read, group)) in read.iter().zip(&groups).enumerate() {
        let written: Value = serde_json::from_str(&group.to_json(SecretMode::Reveal)).unwrap();
        assert_eq!(read, &written, "seed {seed}");
    }
}
