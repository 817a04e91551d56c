//! Values that must not show.

use std::fmt;

use zeroize::Zeroizing;

use crate::document::tree::Node;

use super::codec::{Property, Reader, Shape, Writer};

/// A value that is never printed: a password, a key, a secure environment value, a file of a secret volume.
///
/// `Debug` prints `Secret(..)`. Serialising leaves it out, as ACI's replies do; only a writer that is
/// told [`SecretMode::Reveal`](crate::document::SecretMode::Reveal) writes it. Its memory is overwritten on
/// drop; the text of the document that it was read from is the caller's.
///
/// ```
/// use aci_core::model::Secret;
/// let key = Secret::new("hunter2");
/// assert_eq!(format!("{key:?}"), "Secret(..)");
/// assert_eq!(key.expose(), "hunter2");
/// assert_eq!(serde_json::to_string(&key)?, "null");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value itself: hand it to what needs it and keep it out of logs, errors and command lines.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The length of the value in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the value is the empty text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl Property for Secret {
    const SHAPE: Shape = Shape::Secret;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        Self::new(reader.text(node))
    }

    fn write(&self, writer: &Writer) -> serde_json::Value {
        if writer.reveals() {
            serde_json::Value::String(self.expose().to_owned())
        } else {
            serde_json::Value::Null
        }
    }
}

super::codec::serde_through_json!(Secret);

/// A JSON value that is secret as a whole, such as the protected settings of an extension.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretJson(Secret);

impl SecretJson {
    /// Wraps a value.
    pub fn new(value: &serde_json::Value) -> Self {
        Self(Secret::new(value.to_string()))
    }

    /// The value itself; see [`Secret::expose`].
    pub fn expose(&self) -> serde_json::Value {
        serde_json::from_str(self.0.expose()).unwrap_or_default()
    }
}

impl fmt::Debug for SecretJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretJson(..)")
    }
}

impl Property for SecretJson {
    const SHAPE: Shape = Shape::SecretAny;

    fn read(node: &Node, _: &mut Reader<'_>) -> Self {
        Self::new(&node.to_json())
    }

    fn write(&self, writer: &Writer) -> serde_json::Value {
        if writer.reveals() {
            self.expose()
        } else {
            serde_json::Value::Null
        }
    }
}

super::codec::serde_through_json!(SecretJson);
