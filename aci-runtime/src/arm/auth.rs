//! Who may do what: a value that the embedder gives.

use std::fmt;

use async_trait::async_trait;
use http::request::Parts;

use super::error::{ArmError, ArmResult};

/// What a route needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// Nothing: the authorizer is not asked. For what clients read before they have a token, and
    /// what has a credential of its own (the WebSocket of exec with its password).
    Open,
    /// To see things.
    Read,
    /// To change things, or to act on them.
    Write,
}

/// What somebody wants to do.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// What it needs.
    pub need: Need,
    /// ARM's name of the action, such as `Microsoft.ContainerInstance/containerGroups/read`.
    pub action: &'a str,
    /// The subscription in the path, as written.
    pub subscription: Option<&'a str>,
    /// The resource group in the path, as written.
    pub resource_group: Option<&'a str>,
    /// The whole path, normalised.
    pub path: &'a str,
    /// The request: headers (`authorization`) and extensions ([`super::Connection`]).
    pub request: &'a Parts,
}

impl fmt::Debug for Access<'_> {
    /// Without the headers: they hold tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("need", &self.need)
            .field("action", &self.action)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Who somebody is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Principal {
    /// An id that stays: the object id of a token, the name of a certificate.
    pub id: String,
    /// A name for people, in `systemData`.
    pub name: String,
    /// ARM's kind: `User`, `Application`, `ManagedIdentity` or `Key`.
    pub kind: String,
}

/// Decides who may do what. It is asked once for each request, before anything else is looked at;
/// also for paths that do not exist.
#[async_trait]
pub trait Authorizer: Send + Sync + fmt::Debug {
    /// Lets somebody in, or not.
    ///
    /// # Errors
    /// [`ArmError::unauthenticated`] if it is not known who asks, [`ArmError::forbidden`] if it is
    /// known and may not.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn authorize(&self, access: Access<'_>) -> ArmResult<Principal>;
}

/// Lets nobody in; what a front has that was given no authorizer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Closed;

#[async_trait]
impl Authorizer for Closed {
    async fn authorize(&self, _: Access<'_>) -> ArmResult<Principal> {
        Err(ArmError::unauthenticated(
            "Authentication failed. This server was given no means to authenticate anybody.",
        ))
    }
}

/// What is dangerous outside of tests.
pub mod danger {
    use super::{Access, ArmResult, Authorizer, Principal, async_trait};

    /// Lets everybody in as the same principal. **Whoever reaches the socket owns the machine's
    /// containers**; for tests, and behind something that authenticates.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Everybody;

    #[async_trait]
    impl Authorizer for Everybody {
        async fn authorize(&self, _: Access<'_>) -> ArmResult<Principal> {
            Ok(Principal {
                id: "everybody".to_owned(),
                name: "everybody".to_owned(),
                kind: "User".to_owned(),
            })
        }
    }
}
