//! Tokens that are fixed texts.

use std::fmt;

use aci_core::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use ring::digest;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::super::auth::Principal;
use super::{Authenticator, Credentials, Refusal};

/// Shortest token in bytes: 128 bits in base64.
const SHORTEST: usize = 22;

/// Bearer tokens that are fixed texts, each of one principal.
///
/// Only their SHA-256 is kept, and all of them are compared with a given one in a time that does
/// not depend on how much of it is right.
#[derive(Clone, Default)]
pub struct StaticTokens {
    tokens: Vec<([u8; digest::SHA256_OUTPUT_LEN], Principal)>,
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.tokens.iter().map(|(_, principal)| &principal.id))
            .finish()
    }
}

fn hash(token: &str) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut hash = [0; digest::SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

impl StaticTokens {
    /// Adds a token of a principal.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a token of fewer than 22 bytes, which could be guessed,
    /// or with characters that a header cannot carry.
    pub fn token(mut self, token: &str, principal: impl Into<String>) -> Result<Self> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::Invalid, "access.token", why));
        if token.len() < SHORTEST {
            return invalid(
                "a token has at least 22 characters; 'openssl rand -base64 32' makes one",
            );
        }
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return invalid("a token holds printable ASCII characters without spaces only");
        }
        let id: String = principal.into();
        let principal = Principal {
            name: id.clone(),
            kind: "Application".to_owned(),
            id,
        };
        self.tokens.push((hash(token), principal));
        Ok(self)
    }

    fn find(&self, token: &str) -> Option<&Principal> {
        let given = hash(token);
        let mut found = u64::MAX;
        for (index, (own, _)) in (0u64..).zip(&self.tokens) {
            let same: Choice = own.ct_eq(&given);
            found = u64::conditional_select(&found, &index, same);
        }
        let index = usize::try_from(found).ok()?;
        self.tokens.get(index).map(|(_, principal)| principal)
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<Principal>, Refusal> {
        Ok(credentials.bearer.and_then(|t| self.find(t)).cloned())
    }
}
