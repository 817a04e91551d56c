//! What the group is as an Azure resource: name, tags, zones, identities, and what it refers to.

use crate::model::{IdentityAccess, IdentityType, LogType};

use super::check::{Check, Path, is_resource_id, repeated, shown};
use super::codes;
use super::references::{USER_ASSIGNED, has_identity};

const PROFILE: &str = "Microsoft.ContainerInstance/containerGroupProfiles";
const STANDBY_POOL: &str = "Microsoft.StandbyPool/standbyContainerGroupPools";

pub(super) fn check(check: &mut Check<'_>) {
    name(check);
    tags(check);
    zones(check);
    identity(check);
    identity_acls(check);
    diagnostics(check);
    encryption(check);
    extensions(check);
    profile_and_pool(check);
}

/// Letters, digits and single hyphens, not at the ends. The documented rule has lower-case letters
/// only, but ACI's own sample is called `myContainerGroup`.
fn name(check: &mut Check<'_>) {
    let name = check.group.name.as_str();
    let path = Path::root().name("name");
    if name.is_empty() {
        if !check.rules.name_may_be_absent {
            check.missing(&Path::root(), "name");
        }
        return;
    }
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let hyphens = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    if !plain || hyphens || name.len() > 63 {
        let message = format!(
            "The container group name '{}' is invalid. It can contain only lowercase letters, numbers and hyphens, no \
             two hyphens in a row, and starts and ends with a letter or number. The value must be between 1 and 63 \
             characters long.",
            shown(name)
        );
        check.problem(codes::INVALID_CONTAINER_GROUP_NAME, &path, message);
    } else if name.bytes().any(|b| b.is_ascii_uppercase()) {
        let message = format!(
            "The container group name '{name}' has capital letters, which ACI's naming rules leave out."
        );
        check.warning(codes::INVALID_CONTAINER_GROUP_NAME, &path, message);
    }
}

/// Azure Resource Manager's limits of tags.
fn tags(check: &mut Check<'_>) {
    let tags = &check.group.tags;
    let path = Path::root().name("tags");
    if tags.len() > 50 {
        let message = format!(
            "The resource has {} tags; at most 50 are allowed.",
            tags.len()
        );
        check.problem(codes::INVALID_TAGS, &path, message);
    }
    for (name, value) in tags {
        let path = path.name(name);
        if name.contains(|c: char| c.is_control() || "<>%&\\?/".contains(c)) {
            let message = format!(
                "The tag name '{}' has reserved characters '<,>,%,&,\\,?,/' or control characters.",
                shown(name)
            );
            check.problem(codes::INVALID_TAG_NAME_CHARACTERS, &path, message);
        }
        let (name_length, value_length) = (name.chars().count(), value.chars().count());
        if !(1..=512).contains(&name_length) || value_length > 256 {
            let message = format!(
                "The tag '{}' has a name of {name_length} and a value of {value_length} characters; names have 1 to 512, \
                 values at most 256.",
                shown(name)
            );
            check.problem(codes::INVALID_TAGS, &path, message);
        }
    }
}

fn zones(check: &mut Check<'_>) {
    let zones = &check.group.zones;
    let path = Path::root().name("zones");
    let group = check.group_name();
    if zones.len() > 1 {
        let message = format!(
            "Container group '{group}' has {} zones; one is allowed.",
            zones.len()
        );
        check.problem(codes::INVALID_ZONES, &path, message);
    }
    for (i, zone) in zones.iter().enumerate() {
        if !["1", "2", "3"].contains(&zone.as_str()) {
            let message = format!(
                "The zone '{}' of container group '{group}' is invalid. The value must be one of '1,2,3'.",
                shown(zone)
            );
            check.problem(codes::INVALID_ZONES, &path.index(i), message);
        }
    }
}

fn identity(check: &mut Check<'_>) {
    let Some(identity) = &check.group.identity else {
        return;
    };
    let path = Path::root().name("identity");
    let group = check.group_name();
    let assigned = &identity.user_assigned_identities;
    let kind = identity.type_.clone().unwrap_or_default();
    let wants = matches!(
        kind,
        IdentityType::UserAssigned | IdentityType::SystemAssignedUserAssigned
    );
    if let IdentityType::Other(other) = &kind {
        let message = format!(
            "The identity 'type' '{}' of container group '{group}' is invalid. The value must be one of '{}'.",
            shown(other),
            IdentityType::KNOWN.join("', '")
        );
        check.problem(codes::INVALID_IDENTITY, &path.name("type"), message);
    } else if wants && assigned.is_empty() {
        let message = format!(
            "The identity 'type' of container group '{group}' is '{kind}' and 'userAssignedIdentities' is empty."
        );
        check.problem(
            codes::INVALID_IDENTITY,
            &path.name("userAssignedIdentities"),
            message,
        );
    } else if !wants && !assigned.is_empty() {
        let message = format!(
            "The identity 'type' of container group '{group}' is '{kind}' and 'userAssignedIdentities' is not empty."
        );
        check.problem(codes::INVALID_IDENTITY, &path.name("type"), message);
    }
    for id in assigned
        .keys()
        .filter(|id| !is_resource_id(id, USER_ASSIGNED))
    {
        let message = format!(
            "The user-assigned identity '{}' of container group '{group}' is invalid; its resource id is expected.",
            shown(id)
        );
        let path = path.name("userAssignedIdentities").name(id);
        check.problem(codes::INVALID_IDENTITY, &path, message);
    }
}

fn identity_acls(check: &mut Check<'_>) {
    let Some(acls) = &check.properties().identity_acls else {
        return;
    };
    let path = Path::properties("identityAcls");
    access(
        check,
        acls.default_access.as_ref(),
        &path.name("defaultAccess"),
    );
    for (i, acl) in acls.acls.iter().enumerate() {
        let path = path.name("acls").index(i);
        access(check, acl.access.as_ref(), &path.name("access"));
        let identity = acl.identity.as_deref().unwrap_or_default();
        // The identity of the group's own is named by a word.
        if !has_identity(check, identity) && !identity.eq_ignore_ascii_case("SystemAssigned") {
            let message = format!(
                "The identity '{}' in the 'identityAcls' is not among the identities of container group '{}'.",
                shown(identity),
                check.group_name()
            );
            check.problem(
                codes::INVALID_IDENTITY_ACLS,
                &path.name("identity"),
                message,
            );
        }
    }
    let identities = acls
        .acls
        .iter()
        .map(|a| a.identity.as_deref().unwrap_or_default());
    let identities: Vec<String> = identities.map(str::to_ascii_lowercase).collect();
    for (i, _) in repeated(&identities) {
        let message = format!(
            "The identity '{}' is given more than once in the 'identityAcls'.",
            shown(&identities[i])
        );
        check.problem(
            codes::INVALID_IDENTITY_ACLS,
            &path.name("acls").index(i).name("identity"),
            message,
        );
    }
}

fn access(check: &mut Check<'_>, access: Option<&IdentityAccess>, path: &Path) {
    if let Some(IdentityAccess::Other(other)) = access {
        let message = format!(
            "The access '{}' in the 'identityAcls' of container group '{}' is invalid. The value must be one of '{}'.",
            shown(other),
            check.group_name(),
            IdentityAccess::KNOWN.join(",")
        );
        check.problem(codes::INVALID_IDENTITY_ACLS, path, message);
    }
}

fn diagnostics(check: &mut Check<'_>) {
    let diagnostics = check.properties().diagnostics.as_ref();
    let Some(workspace) = diagnostics.and_then(|d| d.log_analytics.as_ref()) else {
        return;
    };
    let path = Path::properties("diagnostics").name("logAnalytics");
    let group = check.group_name();
    if workspace.workspace_id.is_empty() {
        let message = format!(
            "The 'workspaceId' of the log analytics workspace of container group '{group}' is empty."
        );
        check.problem(
            codes::INVALID_DIAGNOSTICS,
            &path.name("workspaceId"),
            message,
        );
    }
    if workspace.workspace_key.is_none() && !check.is_reply() {
        check.missing(&path, "workspaceKey");
    }
    if let Some(LogType::Other(other)) = &workspace.log_type {
        let message = format!(
            "The 'logType' '{}' of container group '{group}' is invalid. The value must be one of '{}'.",
            shown(other),
            LogType::KNOWN.join(",")
        );
        check.problem(codes::INVALID_DIAGNOSTICS, &path.name("logType"), message);
    }
}

fn encryption(check: &mut Check<'_>) {
    let Some(encryption) = &check.properties().encryption_properties else {
        return;
    };
    let path = Path::properties("encryptionProperties");
    let group = check.group_name();
    let url = &encryption.vault_base_url;
    if url
        .strip_prefix("https://")
        .is_none_or(|host| host.trim_matches('/').is_empty())
    {
        let message = format!(
            "The 'vaultBaseUrl' '{}' of container group '{group}' is invalid; an address such as \
             'https://<vault>.vault.azure.net' is expected.",
            shown(url)
        );
        check.problem(
            codes::INVALID_ENCRYPTION_PROPERTIES,
            &path.name("vaultBaseUrl"),
            message,
        );
    }
    let fields = [
        ("keyName", &encryption.key_name),
        ("keyVersion", &encryption.key_version),
    ];
    for (field, _) in fields.iter().filter(|(_, value)| value.is_empty()) {
        let message = format!(
            "The '{field}' in the 'encryptionProperties' of container group '{group}' is empty."
        );
        check.problem(
            codes::INVALID_ENCRYPTION_PROPERTIES,
            &path.name(field),
            message,
        );
    }
    if let Some(identity) = encryption
        .identity
        .as_deref()
        .filter(|id| !is_resource_id(id, USER_ASSIGNED))
    {
        let message = format!(
            "The 'identity' '{}' in the 'encryptionProperties' of container group '{group}' is invalid; the resource id \
             of a user-assigned managed identity is expected.",
            shown(identity)
        );
        check.problem(
            codes::INVALID_ENCRYPTION_PROPERTIES,
            &path.name("identity"),
            message,
        );
    }
}

fn extensions(check: &mut Check<'_>) {
    for (i, extension) in check.properties().extensions.iter().enumerate() {
        let path = Path::properties("extensions").index(i);
        let properties = extension.properties.as_ref();
        let fields = [
            (path.name("name"), Some(&extension.name)),
            (
                path.name("properties").name("extensionType"),
                properties.map(|p| &p.extension_type),
            ),
            (
                path.name("properties").name("version"),
                properties.map(|p| &p.version),
            ),
        ];
        for (path, _) in fields
            .iter()
            .filter(|(_, value)| value.is_some_and(String::is_empty))
        {
            let message = format!(
                "The extension '{}' of container group '{}' needs a name, a type and a version.",
                shown(&extension.name),
                check.group_name()
            );
            check.problem(codes::INVALID_EXTENSION, path, message);
        }
    }
}

fn profile_and_pool(check: &mut Check<'_>) {
    let properties = check.properties();
    let group = check.group_name();
    let mut bad = |path: Path, what: &str, id: &str| {
        let message = format!(
            "The {what} '{}' of container group '{group}' is invalid; its resource id is expected.",
            shown(id)
        );
        check.problem(codes::INVALID_PROFILE_REFERENCE, &path.name("id"), message);
    };
    let profile = properties.container_group_profile.as_ref();
    if let Some(id) = profile
        .and_then(|p| p.id.as_deref())
        .filter(|id| !is_resource_id(id, PROFILE))
    {
        bad(
            Path::properties("containerGroupProfile"),
            "container group profile",
            id,
        );
    }
    let pool = properties.standby_pool_profile.as_ref();
    if let Some(id) = pool
        .and_then(|p| p.id.as_deref())
        .filter(|id| !is_resource_id(id, STANDBY_POOL))
    {
        bad(Path::properties("standbyPoolProfile"), "standby pool", id);
    }
    if profile.is_some_and(|p| p.revision == Some(0)) {
        let message = format!(
            "The revision '0' of the container group profile of container group '{group}' is invalid; revisions start at 1."
        );
        let path = Path::properties("containerGroupProfile").name("revision");
        check.problem(codes::INVALID_PROFILE_REFERENCE, &path, message);
    }
}
