//! Secrets that live elsewhere, in a key vault, and are looked up when they are needed.

use std::fmt;

use async_trait::async_trait;

use crate::error::Result;
use crate::id::GroupRef;
use crate::model::{Secret, SecretReference};

/// A secret to look up.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretRequest {
    /// For which group.
    pub group: GroupRef,
    /// The entry of the document's `secretReferences`: where the secret is
    /// (`secretReferenceUri`) and the identity that may read it.
    pub reference: SecretReference,
}

/// Looks secrets up: what a document means by `secretReferences`.
///
/// An engine asks anew whenever it needs a value (a pull, the making of a sandbox, the start of a
/// container), bounds how long it waits, and keeps the value no longer than it needs it; a resolver
/// need not keep any either. Values may be asked for by many tasks at once. Whether the group may
/// use the identity is for the resolver to say.
#[async_trait]
pub trait SecretResolver: Send + Sync + fmt::Debug {
    /// The resolver's name, for messages.
    fn name(&self) -> &str;

    /// The secret as it is now, as text.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if there is no such secret;
    /// [`PermissionDenied`](crate::error::ErrorKind::PermissionDenied) if the identity may not read
    /// it; [`Invalid`](crate::error::ErrorKind::Invalid) for an address that cannot be one;
    /// [`Unavailable`](crate::error::ErrorKind::Unavailable) if the vault does not answer. No error
    /// shows a value.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn resolve(&self, request: SecretRequest) -> Result<Secret>;
}
