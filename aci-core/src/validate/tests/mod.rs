//! Every rule breaks one thing in a valid group, and exactly that problem is reported.

mod cases;
mod generated;
pub(super) mod group;
mod settings;

use std::collections::BTreeSet;

use super::*;
use group::valid_group;

/// One way to break the valid group, and what is said about it.
struct Case {
    breaks: fn(&mut ContainerGroup),
    code: &'static str,
    path: &'static str,
    message: &'static str,
}

fn told(problems: &[Problem]) -> Vec<(&str, &str, &str)> {
    let told = problems.iter();
    told.map(|p| (p.code.as_str(), p.path.as_str(), p.message.as_str()))
        .collect()
}

fn assert_says(problems: &[Problem], case: &Case) {
    assert_eq!(told(problems), [(case.code, case.path, case.message)]);
}

#[test]
fn the_valid_group_is_valid() {
    let report = validate(&valid_group(), &Rules::default());
    assert_eq!(told(&report.problems), []);
    assert_eq!(told(&report.warnings), []);
}

#[test]
fn a_broken_rule_is_reported_alone_and_in_these_words() {
    for case in cases::all() {
        let mut group = valid_group();
        (case.breaks)(&mut group);
        assert_says(&validate(&group, &Rules::default()).problems, case);
    }
}

#[test]
fn what_is_odd_is_a_warning() {
    for case in cases::WARNINGS {
        let mut group = valid_group();
        (case.breaks)(&mut group);
        let report = validate(&group, &Rules::default());
        assert_eq!(told(&report.problems), []);
        assert_says(&report.warnings, case);
    }
}

#[test]
fn every_code_has_a_case() {
    let mut shown: BTreeSet<&str> = cases::all().map(|case| case.code).collect();
    shown.extend(cases::WARNINGS.iter().map(|case| case.code));
    shown.extend(settings::CODES);
    let listed: BTreeSet<&str> = CODES.iter().map(|code| code.name).collect();
    assert_eq!(listed.len(), CODES.len(), "a code is listed twice");
    assert_eq!(
        listed.difference(&shown).collect::<Vec<_>>(),
        Vec::<&&str>::new()
    );
    assert_eq!(
        shown.difference(&listed).collect::<Vec<_>>(),
        Vec::<&&str>::new()
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let mut group = valid_group();
    group.properties.os_type = None;
    group.properties.containers[0].name = "Web".to_owned();
    group.properties.containers[1].properties.resources = None;
    group.properties.volumes[0].name = "x".to_owned();
    let report = validate(&group, &Rules::default());
    let codes: Vec<&str> = report.problems.iter().map(|p| p.code.as_str()).collect();
    assert_eq!(
        codes,
        [
            "InvalidOsType",
            "InvalidContainerName",
            "ResourceRequestsNotSpecified",
            "InvalidVolume",
            "InvalidVolumeMount",
            "InvalidVolumeMount",
        ]
    );
    let error = report.into_result().unwrap_err();
    assert_eq!(error.aci_code(), Some("InvalidOsType"));
    assert_eq!(error.problems().len(), 6);
}

#[test]
fn no_message_shows_a_secret() {
    let mut group = valid_group();
    let properties = &mut group.properties;
    let secret = "hunter2-hunter2";
    properties.containers[0].properties.environment_variables[1].value = Some("plain".to_owned());
    properties.containers[0].properties.environment_variables[1].secure_value =
        Some(format!("{secret}\0").into());
    for volume in &mut properties.volumes {
        if let Some(files) = &mut volume.secret {
            files.0.insert("key".to_owned(), secret.into());
        }
        if let Some(share) = &mut volume.azure_file {
            share.storage_account_key = Some(secret.into());
            share.storage_account_key_reference = Some("key".to_owned());
        }
        if let Some(repository) = &mut volume.git_repo {
            repository.repository = format!("ftp://user:{secret}@example.com/x.git").into();
        }
    }
    properties.image_registry_credentials[0].server = format!("https://user:{secret}@example.com");
    properties.image_registry_credentials[0].password = Some(secret.into());
    properties.image_registry_credentials[0].password_reference = Some("key".to_owned());
    let report = validate(&group, &Rules::default());
    assert!(report.problems.len() >= 6, "{:#?}", report.problems);
    assert!(!format!("{report:?}").contains(secret));
}
