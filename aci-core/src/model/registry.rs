//! Credentials of registries, and secrets that live in a key vault.

use super::macros::object;
use super::secret::Secret;

object! {
    /// How images of one registry are pulled: with a user name and a password, or with an identity.
    ImageRegistryCredential {
        /// The registry without a protocol, such as `myregistry.azurecr.io`.
        server: String => "server" [required] "2018-04-01" / "2017-08-01-preview";
        /// The user name.
        username: Option<String> => "username" [] "2018-04-01" / "2017-08-01-preview";
        /// The password.
        password: Option<Secret> => "password" [] "2018-04-01" / "2017-08-01-preview";
        /// The name of one of the group's secret references, whose secret is the password.
        password_reference: Option<String> => "passwordReference" [] "2025-09-01" / "2024-10-01-preview";
        /// The resource id of the managed identity that may pull.
        identity: Option<String> => "identity" [] "2021-07-01";
        /// The identity's address.
        identity_url: Option<String> => "identityUrl" [] "2021-07-01";
    }
}

object! {
    /// A secret of a key vault.
    SecretReference {
        /// The name by which other properties mean it.
        name: String => "name" [required] "2025-09-01" / "2024-10-01-preview";
        /// The resource id of the managed identity that may read it.
        identity: String => "identity" [required] "2025-09-01" / "2024-10-01-preview";
        /// Its address in the key vault.
        secret_reference_uri: String => "secretReferenceUri" [required] "2025-09-01" / "2024-10-01-preview";
    }
}
