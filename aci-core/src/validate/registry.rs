//! Credentials of image registries.

use crate::model::{ApiVersion, ImageRegistryCredential};

use super::check::{Check, Path, is_resource_id, repeated, shown};
use super::codes;
use super::image::{is_host, is_host_name};
use super::references::{USER_ASSIGNED, has_identity, secret_use};

pub(super) fn check(check: &mut Check<'_>) {
    let credentials = &check.properties().image_registry_credentials;
    let list = Path::properties("imageRegistryCredentials");
    for (i, credential) in credentials.iter().enumerate() {
        let path = list.index(i);
        server(check, &credential.server, &path);
        way_in(check, credential, &path);
        if let Some(reference) = &credential.password_reference {
            secret_use(check, reference, &path.name("passwordReference"));
        }
    }
    for (i, _) in repeated(credentials.iter().map(|c| c.server.to_ascii_lowercase())) {
        let message = format!(
            "The registry '{}' is given more than once; the first entry counts.",
            shown(&credentials[i].server)
        );
        check.warning(codes::NO_EFFECT, &list.index(i).name("server"), message);
    }
}

fn server(check: &mut Check<'_>, server: &str, path: &Path) {
    let path = path.name("server");
    if is_host_name(server) {
        return;
    }
    if is_host(server) {
        let message = format!(
            "The server '{}' names a port, which ACI refuses in 'imageRegistryCredentials'.",
            shown(server)
        );
        check.warning(codes::MAY_FAIL_LATER, &path, message);
        return;
    }
    // A login may have been pasted in front of the host.
    let server = server.rsplit('@').next().unwrap_or_default();
    let message = format!(
        "The server '{}' in the 'imageRegistryCredentials' of container group '{}' is invalid. It should be a valid host \
         name without protocol.",
        shown(server),
        check.group_name()
    );
    check.problem(codes::INVALID_IMAGE_REGISTRY_SERVER, &path, message);
}

fn way_in(check: &mut Check<'_>, credential: &ImageRegistryCredential, path: &Path) {
    let group = check.group_name();
    let by_password = credential.password.is_some() || credential.password_reference.is_some();
    let Some(identity) = &credential.identity else {
        if credential.username.as_deref().is_none_or(str::is_empty) {
            check.missing(path, "username");
        }
        if !by_password && !check.is_reply() {
            check.missing(path, "password");
        }
        if credential.password.is_some() && credential.password_reference.is_some() {
            two_ways(
                check,
                credential,
                "'password' and 'passwordReference'",
                path,
            );
        }
        return;
    };
    if check.api_version() < ApiVersion::from_text("2021-07-01").unwrap_or_default() {
        let message = format!(
            "Identity in 'imageRegistryCredentials' of container group '{group}' is not supported. It needs \
                     api-version 2021-07-01 or later."
        );
        check.problem(
            codes::INVALID_IMAGE_REGISTRY_CREDENTIAL_TYPE,
            &path.name("identity"),
            message,
        );
        return;
    }
    if by_password {
        two_ways(check, credential, "an 'identity' and a password", path);
    }
    if !is_resource_id(identity, USER_ASSIGNED) {
        let message = format!(
            "The 'identity' '{}' in the 'imageRegistryCredentials' of container group '{group}' is invalid; the resource \
             id of a user-assigned managed identity is expected.",
            shown(identity)
        );
        check.problem(
            codes::INVALID_IMAGE_REGISTRY_IDENTITY,
            &path.name("identity"),
            message,
        );
    } else if !has_identity(check, identity) {
        let message = format!(
            "The 'identity' '{}' in the 'imageRegistryCredentials' is not among the 'userAssignedIdentities' of container \
             group '{group}'.",
            shown(identity.rsplit('/').next().unwrap_or_default())
        );
        check.problem(
            codes::INVALID_IMAGE_REGISTRY_IDENTITY,
            &path.name("identity"),
            message,
        );
    }
}

fn two_ways(check: &mut Check<'_>, credential: &ImageRegistryCredential, which: &str, path: &Path) {
    let message = format!(
        "The entry for server '{}' in the 'imageRegistryCredentials' of container group '{}' has {which}; give one of \
         them.",
        shown(credential.server.rsplit('@').next().unwrap_or_default()),
        check.group_name()
    );
    check.problem(codes::INVALID_IMAGE_REGISTRY_CREDENTIAL_TYPE, path, message);
}
