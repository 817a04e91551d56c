//! The journal: what the engine intends, on disk before it is done.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::network::Attachment;
use crate::bill::Ledger;
use crate::document::{SecretMode, WriteOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{GroupRef, SandboxId};
use crate::lifecycle::Lifecycle;
use crate::model::{ContainerGroup, codec};
use crate::time::Timestamp;

/// All that is kept of a group.
///
/// It has no serde form on purpose: its document holds secrets, and a form without them would
/// lose them. A store uses [`GroupRecord::encode`] and encrypts the result.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRecord {
    /// How users name it.
    pub group: GroupRef,
    /// How the machine names its present deployment.
    pub sandbox: SandboxId,
    /// The document as it was accepted.
    pub document: ContainerGroup,
    /// Where its life stands.
    pub lifecycle: Lifecycle,
    /// What it has cost.
    pub ledger: Ledger,
    /// Its network, while it has one.
    pub attachment: Option<Attachment>,
    /// The ends of the logs of containers whose sandbox is gone, by container (ACI keeps 16 KB or
    /// 1,000 lines).
    pub saved_logs: BTreeMap<String, String>,
    /// When the group was first created.
    pub created: Timestamp,
    /// The digest of each image that was pulled, by reference.
    pub images: BTreeMap<String, String>,
}

/// The version of the encoded form; a reader refuses others.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Encoded {
    format: u32,
    group: GroupRef,
    sandbox: SandboxId,
    document: serde_json::Value,
    lifecycle: Lifecycle,
    ledger: Ledger,
    attachment: Option<Attachment>,
    saved_logs: BTreeMap<String, String>,
    created: Timestamp,
    images: BTreeMap<String, String>,
}

impl GroupRecord {
    /// The record as bytes, **with its secrets in clear**; for stores, which encrypt them.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) if a part cannot be written as JSON.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>> {
        let encoded = Encoded {
            format: FORMAT,
            group: self.group.clone(),
            sandbox: self.sandbox.clone(),
            document: revealed(&self.document),
            lifecycle: self.lifecycle.clone(),
            ledger: self.ledger.clone(),
            attachment: self.attachment.clone(),
            saved_logs: self.saved_logs.clone(),
            created: self.created,
            images: self.images.clone(),
        };
        serde_json::to_vec(&encoded)
            .map(Zeroizing::new)
            .map_err(|e| {
                Error::new(ErrorKind::Internal, "record.encode", "a part is not JSON")
                    .on(&self.group)
                    .because(e)
            })
    }

    /// The record of bytes that [`GroupRecord::encode`] wrote.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) for anything else, or another format version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, "record.decode", why);
        // Errors of serde_json may quote what they read, so they are not attached.
        let encoded: Encoded = serde_json::from_slice(bytes).map_err(|e| {
            corrupt(&format!(
                "not a record (line {}, column {})",
                e.line(),
                e.column()
            ))
        })?;
        if encoded.format != FORMAT {
            return Err(corrupt(&format!(
                "format {} is not known here, only {FORMAT}",
                encoded.format
            )));
        }
        let document = codec::from_json_value(&encoded.document)
            .map_err(|_| corrupt("the document in it cannot be read"))?;
        Ok(Self {
            group: encoded.group,
            sandbox: encoded.sandbox,
            document,
            lifecycle: encoded.lifecycle,
            ledger: encoded.ledger,
            attachment: encoded.attachment,
            saved_logs: encoded.saved_logs,
            created: encoded.created,
            images: encoded.images,
        })
    }
}

fn revealed(document: &ContainerGroup) -> serde_json::Value {
    document.to_value(WriteOptions::default().secrets(SecretMode::Reveal))
}

/// Keeps the records.
#[async_trait]
pub trait GroupStore: Send + Sync + fmt::Debug {
    /// Writes a record; when it returns, the record survives a crash of the machine. A record of
    /// the same group is replaced as a whole or not at all.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if it could not be written;
    /// [`Exhausted`](crate::error::ErrorKind::Exhausted) if the disk is full. The old record stays.
    ///
    /// # Cancel safety
    /// The record may have been written, or be written later, but never after a `put` or `remove`
    /// that is called later.
    async fn put(&self, record: &GroupRecord) -> Result<()>;

    /// Reads a record.
    ///
    /// # Errors
    /// [`Corrupt`](crate::error::ErrorKind::Corrupt) if it cannot be read back.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn get(&self, group: &GroupRef) -> Result<Option<GroupRecord>>;

    /// All records, by name.
    ///
    /// # Errors
    /// [`Corrupt`](crate::error::ErrorKind::Corrupt) naming the first one that cannot be read back.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    async fn list(&self) -> Result<Vec<GroupRecord>>;

    /// Deletes a record. Idempotent.
    ///
    /// # Errors
    /// [`Internal`](crate::error::ErrorKind::Internal) if it could not be deleted.
    ///
    /// # Cancel safety
    /// The record may be deleted.
    async fn remove(&self, group: &GroupRef) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Container, EnvironmentVariable, Secret};

    #[test]
    fn a_record_keeps_its_secrets_through_its_encoded_form_only() {
        let mut document = ContainerGroup {
            name: "web".into(),
            ..Default::default()
        };
        let mut container = Container {
            name: "app".into(),
            ..Default::default()
        };
        container
            .properties
            .environment_variables
            .push(EnvironmentVariable {
                name: "KEY".into(),
                secure_value: Some(Secret::new("hunter2")),
                ..Default::default()
            });
        document.properties.containers.push(container);
        let record = GroupRecord {
            group: GroupRef::from("web"),
            sandbox: SandboxId::generate("web"),
            document,
            lifecycle: Lifecycle::default(),
            ledger: Ledger::default(),
            attachment: None,
            saved_logs: BTreeMap::new(),
            created: Timestamp::from_secs(1),
            images: BTreeMap::new(),
        };
        let bytes = record.encode().unwrap();
        assert_eq!(GroupRecord::decode(&bytes).unwrap(), record);
        assert!(!format!("{record:?}").contains("hunter2"));
        let error = GroupRecord::decode(b"{\"secret\": hunter2").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(!error.chain().contains("hunter2"));
    }
}
