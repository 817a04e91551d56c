//! Reading and writing documents.

pub mod tree;

/// Whether secrets are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretMode {
    /// Secrets are left out, as ACI's replies leave them out; so are properties that are not known.
    #[default]
    Redact,
    /// Secrets are written as they are: for a complete document and for a journal. Keep the text safe.
    Reveal,
}
