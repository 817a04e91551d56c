//! The journal of what stands beside groups: resource groups, profiles, deployments, operations.

use std::fmt;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::error::Result;

/// One change to a [`ResourceStore`].
#[derive(Clone, PartialEq, Eq)]
pub struct ResourceWrite {
    /// The record's name: 1 to 2,048 bytes, chosen by the caller. It is not encrypted.
    pub key: String,
    /// The record's bytes, in which secrets may be; `None` deletes it.
    pub value: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for ResourceWrite {
    /// Without the bytes: they may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.value.as_ref().map(|v| v.len());
        f.debug_struct("ResourceWrite")
            .field("key", &self.key)
            .field("bytes", &bytes)
            .finish()
    }
}

/// Keeps records of resources that are not container groups. Stores encrypt the values.
#[async_trait]
pub trait ResourceStore: Send + Sync + fmt::Debug {
    /// Makes all changes, in their order, or none; when it returns, they survive a crash of the
    /// machine. Deleting what is not there is no error.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if it could not be written;
    /// [`Exhausted`](crate::error::ErrorKind::Exhausted) if the disk is full. Everything stays as
    /// it was.
    ///
    /// # Cancel safety
    /// The changes may have been made, or be made later, but never after an `apply` that is called
    /// later.
    async fn apply(&self, writes: &[ResourceWrite]) -> Result<()>;

    /// All records, by key.
    ///
    /// # Errors
    /// [`Corrupt`](crate::error::ErrorKind::Corrupt) naming the first one that cannot be read back.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn load(&self) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>>;
}
