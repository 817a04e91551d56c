//! Secret references: the group's list, and the properties that name its entries.

use super::check::{Check, Path, is_resource_id, repeated, shown};
use super::codes;

/// The resource type of user-assigned identities.
pub(super) const USER_ASSIGNED: &str = "Microsoft.ManagedIdentity/userAssignedIdentities";

pub(super) fn check(check: &mut Check<'_>) {
    let references = &check.properties().secret_references;
    let list = Path::properties("secretReferences");
    for (i, reference) in references.iter().enumerate() {
        let path = list.index(i);
        if reference.name.is_empty() {
            let message = "A secret reference needs a name that other properties can mean.";
            check.problem(codes::INVALID_SECRET_REFERENCE, &path.name("name"), message);
        }
        let uri = &reference.secret_reference_uri;
        let parts = uri.strip_prefix("https://").map_or(0, |rest| {
            rest.split('/').filter(|part| !part.is_empty()).count()
        });
        if parts < 3 {
            let message = format!(
                "The 'secretReferenceUri' of secret reference '{}' is '{}'; an address such as \
                 'https://<vault>/secrets/<name>' is expected.",
                shown(&reference.name),
                shown(uri)
            );
            check.problem(
                codes::INVALID_SECRET_REFERENCE,
                &path.name("secretReferenceUri"),
                message,
            );
        }
        if !is_resource_id(&reference.identity, USER_ASSIGNED) {
            let message = format!(
                "The 'identity' of secret reference '{}' is '{}'; the resource id of a user-assigned managed identity is \
                 expected.",
                shown(&reference.name),
                shown(&reference.identity)
            );
            check.problem(
                codes::INVALID_SECRET_REFERENCE,
                &path.name("identity"),
                message,
            );
        } else if !has_identity(check, &reference.identity) {
            let message = format!(
                "The 'identity' of secret reference '{}' is not among the 'userAssignedIdentities' of container group '{}'.",
                shown(&reference.name),
                check.group_name()
            );
            check.problem(
                codes::INVALID_SECRET_REFERENCE,
                &path.name("identity"),
                message,
            );
        }
    }
    for (i, _) in repeated(references.iter().map(|r| &r.name)) {
        let message = format!(
            "The secret reference '{}' is given more than once.",
            shown(&references[i].name)
        );
        check.problem(
            codes::INVALID_SECRET_REFERENCE,
            &list.index(i).name("name"),
            message,
        );
    }
}

/// Whether the group has this user-assigned identity.
pub(super) fn has_identity(check: &Check<'_>, id: &str) -> bool {
    if check.is_profile() {
        return true;
    }
    let identity = check.group.identity.as_ref();
    identity.is_some_and(|i| {
        i.user_assigned_identities
            .keys()
            .any(|key| key.eq_ignore_ascii_case(id))
    })
}

/// Reports a name that no secret reference of the group has.
pub(super) fn secret_use(check: &mut Check<'_>, name: &str, path: &Path) {
    if check.secret_names.contains(name) || check.is_profile() {
        return;
    }
    let message = format!(
        "The secret reference '{}' is not among the 'secretReferences' of container group '{}'.",
        shown(name),
        check.group_name()
    );
    check.problem(codes::INVALID_SECRET_REFERENCE, path, message);
}
