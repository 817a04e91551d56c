//! How the model's types are read from a document's tree and written to JSON.
//!
//! A type states its properties once, in the [`object!`](super::macros) form: the Rust field, the
//! property's name, and the api-versions that know it. Reading, writing, serde and the table of
//! properties all follow from that one statement, so they cannot differ.

mod reader;
mod values;
mod writer;

pub(crate) use reader::{Finding, Reader, Step};
pub(crate) use writer::Writer;

use serde_json::Value;

use super::version::Availability;
use crate::document::tree::Node;

/// What a property holds, for the table of properties.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Text,
    Secret,
    Integer,
    Number,
    Boolean,
    Any,
    SecretAny,
    Choice(&'static [&'static str]),
    List(&'static Self),
    Map(&'static Self),
    Object(&'static [PropertyRow]),
}

/// One property of one type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PropertyRow {
    pub(crate) name: &'static str,
    pub(crate) since: Availability,
    pub(crate) required: bool,
    pub(crate) read_only: bool,
    pub(crate) shape: &'static Shape,
}

/// What a property's value can do.
pub(crate) trait Property: Sized {
    /// What it holds.
    const SHAPE: Shape;
    /// Reads it; what is wrong goes to the reader, and a default stands in for it.
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self;
    /// Writes it; `Null` stands for nothing.
    fn write(&self, writer: &Writer) -> Value;
    /// The value of a property that is absent, if it may be.
    fn absent() -> Option<Self> {
        None
    }
    /// Whether it says no more than an absent property.
    fn is_blank(&self) -> bool {
        false
    }
}

/// The properties of an object that the model does not know, kept so that nothing is lost.
///
/// They are written back only where secrets are, because a misspelt name may hide one; `Debug`
/// shows their names only.
#[derive(Clone, Default, PartialEq)]
pub struct UnknownProperties(serde_json::Map<String, Value>);

impl std::ops::Deref for UnknownProperties {
    type Target = serde_json::Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for UnknownProperties {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl std::fmt::Debug for UnknownProperties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// `Serialize` and `Deserialize` by way of a JSON value: secrets are left out, as in ACI's replies.
macro_rules! serde_through_json {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let writer = $crate::model::codec::Writer {
                    secrets: $crate::document::SecretMode::Redact,
                    version: None,
                    read_only: true,
                };
                $crate::model::codec::Property::write(self, &writer).serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                $crate::model::codec::from_json_value(&value).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_through_json;

/// Reads a JSON value; the error is the first problem.
pub(crate) fn from_json_value<T: Property>(value: &Value) -> Result<T, String> {
    let mut reader = Reader::default();
    let read = T::read(&Node::from(value), &mut reader);
    reader
        .problems
        .into_iter()
        .next()
        .map_or(Ok(read), |problem| Err(problem.message))
}
