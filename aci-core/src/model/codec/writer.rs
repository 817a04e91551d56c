//! From the model to JSON.

use serde_json::Value;

use super::{Property, PropertyRow, UnknownProperties};
use crate::document::SecretMode;
use crate::model::version::ApiVersion;

/// How the model is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) secrets: SecretMode,
    /// Leave out what this version does not know.
    pub(crate) version: Option<ApiVersion>,
    /// Write what only replies have.
    pub(crate) read_only: bool,
}

impl Writer {
    pub(crate) fn reveals(&self) -> bool {
        self.secrets == SecretMode::Reveal
    }

    /// Writes one property unless there is nothing to say.
    pub(crate) fn property<T: Property>(
        &self,
        map: &mut serde_json::Map<String, Value>,
        row: &PropertyRow,
        value: &T,
        always: bool,
    ) {
        if (row.read_only && !self.read_only)
            || (value.is_blank() && !always)
            || self.version.is_some_and(|v| !row.since.includes(v))
        {
            return;
        }
        let written = value.write(self);
        if !written.is_null() {
            map.insert(row.name.to_owned(), written);
        }
    }

    /// Writes what the model does not know. A misspelt secret would show here, so replies leave it out.
    pub(crate) fn unknown(
        &self,
        map: &mut serde_json::Map<String, Value>,
        unknown: &UnknownProperties,
    ) {
        // A version that was asked for does not have them.
        if self.reveals() && self.version.is_none() {
            for (name, value) in unknown.iter() {
                if !map.contains_key(name) {
                    map.insert(name.clone(), value.clone());
                }
            }
        }
    }
}
