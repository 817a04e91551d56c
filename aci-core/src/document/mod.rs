//! Reading and writing documents.
//!
//! A text becomes a tree with places ([`tree`]), the tree becomes the [model](crate::model); every
//! problem found on the way carries its JSON path, line and column. Writing goes from the model to
//! canonical JSON or YAML.

mod json;
mod limits;
mod read;
mod source_map;
#[cfg(test)]
mod tests;
pub mod tree;
mod write;
#[cfg(feature = "yaml")]
mod yaml;
mod yaml_text;

pub use limits::{MAX_BYTES, MAX_DEPTH};
pub use read::{Document, Format, Kind, Reading, decode, inspect, inspect_node, parse, read};
pub use source_map::SourceMap;
pub use write::WriteOptions;

/// Whether secrets are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretMode {
    /// Secrets are left out, as ACI's replies leave them out; so are properties that are not known.
    #[default]
    Redact,
    /// Secrets are written as they are: for a complete document and for a journal. Keep the text safe.
    Reveal,
}
