//! Container group profiles: what groups are made from.

use crate::model::{ContainerGroup, ContainerGroupProfile, ContainerGroupProperties};

use super::check::{Check, Path, shown};
use super::rules::{DocumentKind, Rules};
use super::{Report, codes, security, validate};

/// Judges a container group profile: by the rules of groups for what both have, and by its own.
///
/// What a group adds to its profile cannot be judged here: networks, identities, secret references.
#[must_use]
pub fn validate_profile(profile: &ContainerGroupProfile, rules: &Rules) -> Report {
    let group = as_group(profile);
    let for_group = Rules {
        kind: DocumentKind::Profile,
        name_may_be_absent: true,
        ..rules.clone()
    };
    let mut report = validate(&group, &for_group);
    let mut check = Check::new(&group, rules);
    name(&mut check, &profile.name);
    let properties = &profile.properties;
    for (field, value) in [
        ("shutdownGracePeriod", &properties.shutdown_grace_period),
        ("timeToLive", &properties.time_to_live),
    ] {
        if let Some(value) = value {
            duration(&mut check, field, value);
        }
    }
    if let Some(context) = &properties.security_context {
        let of = format!("container group profile '{}'", shown(&profile.name));
        security::context(
            &mut check,
            &of,
            context,
            &Path::properties("securityContext"),
        );
    }
    report.append(Report {
        problems: check.problems,
        warnings: check.warnings,
    });
    report
}

/// A group of the profile's own properties; their paths are the same. The name is judged apart.
fn as_group(profile: &ContainerGroupProfile) -> ContainerGroup {
    let properties = profile.properties.clone();
    ContainerGroup {
        api_version: profile.api_version.clone(),
        location: profile.location.clone(),
        tags: profile.tags.clone(),
        zones: profile.zones.clone(),
        properties: ContainerGroupProperties {
            sku: properties.sku,
            encryption_properties: properties.encryption_properties,
            containers: properties.containers,
            init_containers: properties.init_containers,
            extensions: properties.extensions,
            image_registry_credentials: properties.image_registry_credentials,
            restart_policy: properties.restart_policy,
            ip_address: properties.ip_address,
            os_type: properties.os_type,
            volumes: properties.volumes,
            diagnostics: properties.diagnostics,
            priority: properties.priority,
            confidential_compute_properties: properties.confidential_compute_properties,
            ..ContainerGroupProperties::default()
        },
        ..ContainerGroup::default()
    }
}

/// The schema's pattern: a letter or digit, then letters, digits, hyphens and underscores.
fn name(check: &mut Check<'_>, name: &str) {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if (name.is_empty() && check.rules.name_may_be_absent) || (starts && plain && name.len() <= 63)
    {
        return;
    }
    let message = format!(
        "The container group profile name '{}' is invalid. It starts with a letter or number and has 1 to 63 letters, \
         numbers, hyphens and underscores.",
        shown(name)
    );
    check.problem(codes::INVALID_PROFILE, &Path::root().name("name"), message);
}

fn duration(check: &mut Check<'_>, field: &str, value: &str) {
    let read = value.parse::<jiff::SignedDuration>();
    if read.is_ok_and(|d| !d.is_negative()) && value.starts_with(['P', 'p']) {
        return;
    }
    let message = format!(
        "The '{field}' '{}' is invalid; an ISO 8601 duration of hours, minutes and seconds such as 'PT30S' is expected.",
        shown(value)
    );
    check.problem(codes::INVALID_PROFILE, &Path::properties(field), message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judge(change: impl FnOnce(&mut ContainerGroupProfile)) -> Vec<(String, String)> {
        let mut profile: ContainerGroupProfile = serde_json::from_value(json!({
            "name": "Web_1",
            "properties": {
                "osType": "Linux",
                "shutdownGracePeriod": "PT30S",
                "timeToLive": "PT1H30M",
                "imageRegistryCredentials": [{
                    "server": "r.example.com",
                    "identity": super::super::tests::group::IDENTITY,
                }],
                "ipAddress": { "type": "Private", "ports": [{ "port": 80 }] },
                "containers": [{ "name": "web", "properties": {
                    "image": "nginx",
                    "ports": [{ "port": 80 }],
                    "environmentVariables": [{ "name": "A", "secureValueReference": "of-the-group" }],
                    "resources": { "requests": { "cpu": 1, "memoryInGB": 1 } },
                }}],
            }
        }))
        .unwrap();
        change(&mut profile);
        let report = validate_profile(&profile, &Rules::default());
        report
            .problems
            .into_iter()
            .map(|p| (p.code, p.path))
            .collect()
    }

    fn says(code: &str, path: &str) -> Vec<(String, String)> {
        vec![(code.to_owned(), path.to_owned())]
    }

    #[test]
    fn what_the_group_will_add_is_not_missed() {
        assert_eq!(judge(|_| {}), []);
    }

    #[test]
    fn the_rules_of_groups_hold() {
        assert_eq!(
            judge(|p| p.properties.containers[0].name = "Web".to_owned()),
            says("InvalidContainerName", "properties.containers[0].name")
        );
    }

    #[test]
    fn names_and_durations_are_checked() {
        assert_eq!(
            judge(|p| p.name = "-x".to_owned()),
            says("InvalidContainerGroupProfile", "name")
        );
        for bad in ["30", "30s", "-PT1S", "PT", "P1X"] {
            assert_eq!(
                judge(|p| p.properties.time_to_live = Some(bad.to_owned())),
                says("InvalidContainerGroupProfile", "properties.timeToLive"),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_common_security_context_is_checked() {
        assert_eq!(
            judge(|p| p
                .properties
                .security_context
                .get_or_insert_default()
                .run_as_group = Some(u32::MAX)),
            says(
                "InvalidSecurityContext",
                "properties.securityContext.runAsGroup"
            )
        );
    }
}
