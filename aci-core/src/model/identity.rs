//! Managed identities and who may use them.

use std::collections::BTreeMap;

use super::macros::{object, open_enum};

object! {
    /// The managed identities that a group may use.
    Identity {
        /// The principal of the identity that is the group's own; only in replies.
        principal_id: Option<String> => "principalId" [read_only] "2018-10-01";
        /// The tenant of that identity; only in replies.
        tenant_id: Option<String> => "tenantId" [read_only] "2018-10-01";
        /// Which kinds of identity the group has.
        type_: Option<IdentityType> => "type" [] "2018-10-01";
        /// Identities that live on their own, by resource id.
        user_assigned_identities: BTreeMap<String, UserAssignedIdentity> => "userAssignedIdentities" [] "2018-10-01";
    }
}

open_enum! {
    /// Which kinds of identity a group has.
    IdentityType {
        /// None, the default.
        None = "None",
        /// One that lives and dies with the group.
        SystemAssigned = "SystemAssigned",
        /// Some that live on their own.
        UserAssigned = "UserAssigned",
        /// Both.
        SystemAssignedUserAssigned = "SystemAssigned, UserAssigned",
    }
}

object! {
    /// An identity that lives on its own.
    UserAssignedIdentity {
        /// Its principal; only in replies.
        principal_id: Option<String> => "principalId" [read_only] "2018-10-01";
        /// Its client id; only in replies.
        client_id: Option<String> => "clientId" [read_only] "2018-10-01";
    }
}

object! {
    /// Who may use the group's identities.
    IdentityAcls {
        /// For identities that no entry names.
        default_access: Option<IdentityAccess> => "defaultAccess" [] "2025-09-01" / "2024-11-01-preview";
        /// One entry an identity.
        acls: Vec<IdentityAccessControl> => "acls" [] "2025-09-01" / "2024-11-01-preview";
    }
}

object! {
    /// Who may use one identity.
    IdentityAccessControl {
        /// Who.
        access: Option<IdentityAccess> => "access" [] "2025-09-01" / "2024-11-01-preview";
        /// The identity's resource id.
        identity: Option<String> => "identity" [] "2025-09-01" / "2024-11-01-preview";
    }
}

open_enum! {
    /// Who may use an identity.
    IdentityAccess {
        /// The platform and the containers.
        All = "All",
        /// The platform only.
        System = "System",
        /// The containers only.
        User = "User",
    }
}
