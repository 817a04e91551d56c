//! Records as bytes that nobody reads or changes without the key.
//!
//! A sealed record is a version byte, a random nonce of 24 bytes, and the record encrypted with
//! XChaCha20-Poly1305. The nonce is long enough to be drawn at random for ever. The version and the
//! group's name are authenticated with it, so a record cannot be put under another group's name.
//! An old record of the same group can be put back in place of a newer one by whoever can write
//! the file; encryption of single records does not prevent that.

use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use chacha20poly1305::aead::{Aead as _, Generate as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::JournalKey;

/// The version of the sealed form.
const VERSION: u8 = 1;
const NONCE: usize = 24;
/// What is sealed to tell a wrong key.
const PROOF: &[u8] = b"the key of this journal";

pub(super) struct Sealer(XChaCha20Poly1305);

impl Sealer {
    pub(super) fn new(key: &JournalKey) -> Self {
        Self(XChaCha20Poly1305::new((&*key.0).into()))
    }

    pub(super) fn seal(&self, group: &GroupRef, record: &[u8]) -> Result<Vec<u8>> {
        self.seal_for(&for_record(group), record)
    }

    pub(super) fn open(&self, group: &GroupRef, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.open_for(&for_record(group), sealed)
    }

    pub(super) fn seal_resource(&self, key: &str, record: &[u8]) -> Result<Vec<u8>> {
        self.seal_for(&for_resource(key), record)
    }

    pub(super) fn open_resource(&self, key: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.open_for(&for_resource(key), sealed)
    }

    /// Something that only this key opens.
    pub(super) fn proof(&self) -> Result<Vec<u8>> {
        self.seal_for(&for_proof(), PROOF)
    }

    pub(super) fn check_proof(&self, proof: &[u8]) -> Result<()> {
        match self.open_for(&for_proof(), proof) {
            Ok(opened) if *opened == PROOF => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                "store.open",
                "the key is not the one that this journal was written with",
            )
            .hint("give it the key file that was made with it, or restore both from one backup")),
        }
    }

    fn seal_for(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let failed = |message: &str| Error::new(ErrorKind::Internal, "store.seal", message);
        let nonce = XNonce::try_generate()
            .map_err(|e| failed("the system has no random numbers").because(e.to_string()))?;
        let payload = Payload {
            msg: plain,
            aad: context,
        };
        let encrypted = self
            .0
            .encrypt(&nonce, payload)
            .map_err(|_| failed("the record is too large to encrypt"))?;
        let mut sealed = Vec::with_capacity(1 + NONCE + encrypted.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&encrypted);
        Ok(sealed)
    }

    fn open_for(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let corrupt = |message: String| Error::new(ErrorKind::Corrupt, "store.unseal", message);
        let Some((&version, rest)) = sealed.split_first() else {
            return Err(corrupt("it is empty".to_owned()));
        };
        if version != VERSION {
            return Err(corrupt(format!(
                "it has version {version}; this program knows {VERSION}"
            )));
        }
        let Some((nonce, encrypted)) = rest.split_first_chunk::<NONCE>() else {
            return Err(corrupt("it is too short".to_owned()));
        };
        let payload = Payload {
            msg: encrypted,
            aad: context,
        };
        self.0
            .decrypt(&XNonce::from(*nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| corrupt("it was changed, or sealed with another key".to_owned()))
    }
}

/// What is authenticated with a group's record. Lengths keep names apart.
fn for_record(group: &GroupRef) -> Vec<u8> {
    let mut context = vec![VERSION, b'r'];
    for part in [group.subscription(), group.resource_group(), group.name()] {
        context.extend_from_slice(&(part.len() as u64).to_le_bytes());
        context.extend_from_slice(part.as_bytes());
    }
    context
}

/// What is authenticated with a record beside the groups: its own letter, so that it is never taken
/// for a group's.
fn for_resource(key: &str) -> Vec<u8> {
    let mut context = vec![VERSION, b's'];
    context.extend_from_slice(key.as_bytes());
    context
}

fn for_proof() -> Vec<u8> {
    vec![VERSION, b'p']
}
