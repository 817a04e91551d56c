//! Which identity a request means, and whether containers may use it.

use std::collections::BTreeMap;

use aci_core::model::{ContainerGroup, IdentityAccess, IdentityType};
use http::StatusCode;

use super::{IdentityIds, IdentityRef, Refused, bad};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) resource: String,
    client_id: Option<String>,
    object_id: Option<String>,
    resource_id: Option<String>,
}

impl Wanted {
    /// Reads a query; names are in lower case.
    ///
    /// # Errors
    /// What is missing, or too much.
    pub(super) fn read(query: &BTreeMap<String, String>) -> Result<Self, Refused> {
        let get = |name: &str| query.get(name).filter(|v| !v.is_empty()).cloned();
        if get("api-version").is_none() {
            return Err(bad("Required query variable 'api-version' is missing"));
        }
        let resource =
            get("resource").ok_or_else(|| bad("Required query variable 'resource' is missing"))?;
        let wanted = Self {
            resource,
            client_id: get("client_id"),
            object_id: get("object_id").or_else(|| get("principal_id")),
            resource_id: get("mi_res_id").or_else(|| get("msi_res_id")),
        };
        let given = [&wanted.client_id, &wanted.object_id, &wanted.resource_id];
        if given.iter().filter(|g| g.is_some()).count() > 1 {
            return Err(bad(
                "Only one of 'client_id', 'object_id' and 'mi_res_id' may be given",
            ));
        }
        Ok(wanted)
    }
}

/// The identities of a document; its own first.
pub(crate) fn identities(document: &ContainerGroup) -> Vec<IdentityRef> {
    let Some(identity) = &document.identity else {
        return Vec::new();
    };
    let (system, user) = match &identity.type_ {
        Some(IdentityType::SystemAssigned) => (true, false),
        Some(IdentityType::UserAssigned) => (false, true),
        Some(IdentityType::SystemAssignedUserAssigned) => (true, true),
        _ => (false, false),
    };
    let own = system.then_some(IdentityRef::System).into_iter();
    let others = identity.user_assigned_identities.keys();
    own.chain(others.filter(|_| user).cloned().map(IdentityRef::User))
        .collect()
}

/// The identity that is meant: the named one; else the group's own; else the only one.
///
/// # Errors
/// In the words of Azure's metadata service.
pub(super) fn one<'i>(
    wanted: &Wanted,
    known: &'i [(IdentityRef, IdentityIds)],
) -> Result<(&'i IdentityRef, &'i IdentityIds), Refused> {
    let same = |given: &Option<String>, own: &str| {
        given.as_ref().is_some_and(|g| g.eq_ignore_ascii_case(own))
    };
    let named =
        wanted.client_id.is_some() || wanted.object_id.is_some() || wanted.resource_id.is_some();
    let found = if named {
        known.iter().find(|(identity, ids)| {
            let resource = match identity {
                IdentityRef::User(id) => same(&wanted.resource_id, id),
                IdentityRef::System => false,
            };
            resource
                || same(&wanted.client_id, &ids.client_id)
                || same(&wanted.object_id, &ids.principal_id)
        })
    } else {
        match known {
            [(IdentityRef::System, _), ..] | [_] => known.first(),
            [] => None,
            _ => {
                return Err(bad(
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the \
                     identity in the token request",
                ));
            }
        }
    };
    found
        .map(|(identity, ids)| (identity, ids))
        .ok_or_else(|| bad("Identity not found"))
}

/// Whether containers may use an identity: not if `identityAcls` gives it to the platform only. What
/// no entry names follows `defaultAccess`; without that, everybody may.
///
/// # Errors
/// 403 if they may not.
pub(super) fn allowed(document: &ContainerGroup, identity: &IdentityRef) -> Result<(), Refused> {
    let Some(acls) = &document.properties.identity_acls else {
        return Ok(());
    };
    let own = match identity {
        // The group's own is named by its type.
        IdentityRef::System => "SystemAssigned",
        IdentityRef::User(id) => id,
    };
    let entry = acls.acls.iter().find(|entry| {
        let named = entry.identity.as_deref().unwrap_or_default();
        named.eq_ignore_ascii_case(own)
            || (*identity == IdentityRef::System && named.eq_ignore_ascii_case("system"))
    });
    let access = match entry {
        Some(entry) => entry.access.as_ref(),
        None => acls.default_access.as_ref(),
    };
    match access {
        None | Some(IdentityAccess::All | IdentityAccess::User) => Ok(()),
        // A word of a later version is not taken for a permission.
        Some(_) => Err(Refused(
            StatusCode::FORBIDDEN,
            "forbidden",
            "The identityAcls of the container group do not let containers use this identity"
                .to_owned(),
        )),
    }
}
