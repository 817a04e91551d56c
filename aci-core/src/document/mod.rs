//! Reading and writing documents.
//!
//! A text becomes a tree with places ([`tree`]), the tree becomes the [model](crate::model); every
//! problem found on the way carries its JSON path, line and column. Writing goes from the model to
//! canonical JSON or YAML.
//!
#![cfg_attr(feature = "yaml", doc = "```")]
#![cfg_attr(not(feature = "yaml"), doc = "```ignore")]
//! use aci_core::document::{self, Format, SecretMode};
//!
//! let text = "
//! name: hello
//! properties:
//!   osType: linux
//!   containers:
//!   - name: web
//!     properties:
//!       image: nginx
//!       prots: [{port: '80'}]
//!       environmentVariables: [{name: KEY, secureValue: hunter2}]
//! ";
//! let document = document::read(text, Format::Yaml)?;
//!
//! // What is odd has its place and, where it is a slip, the right name.
//! let warning = &document.warnings[0];
//! assert_eq!((warning.line, warning.column), (Some(9), Some(7)));
//! assert!(warning.message.ends_with("Did you mean 'ports'?"));
//!
//! // A reply leaves secrets out; a complete document has to be asked for.
//! let group = &document.groups[0];
//! assert!(!group.to_yaml(SecretMode::Redact).contains("hunter2"));
//! assert!(group.to_yaml(SecretMode::Reveal).contains("secureValue: hunter2"));
//! # Ok::<(), aci_core::error::Error>(())
//! ```

pub(crate) mod json;
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
pub use read::{
    Document, Format, Kind, Reading, decode, inspect, inspect_as, inspect_node, parse, read,
};
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
