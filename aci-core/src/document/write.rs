//! From the model to text.

use serde_json::Value;

use crate::model::codec::{Property, Writer};
use crate::model::{ApiVersion, ContainerGroup, ContainerGroupProfile};

use super::SecretMode;

/// What of a resource is written.
///
/// The default is what serde writes too: everything that is known, without secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    secrets: SecretMode,
    version: Option<ApiVersion>,
    read_only: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            secrets: SecretMode::Redact,
            version: None,
            read_only: true,
        }
    }
}

impl WriteOptions {
    /// What is known, with or without secrets. With secrets also properties that are not known.
    #[must_use]
    pub fn secrets(mut self, secrets: SecretMode) -> Self {
        self.secrets = secrets;
        self
    }

    /// Only properties that `version` knows.
    #[must_use]
    pub fn version(mut self, version: ApiVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Whether properties are written that only replies have, such as `instanceView`. Default: yes.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    fn writer(self) -> Writer {
        Writer {
            secrets: self.secrets,
            version: self.version,
            read_only: self.read_only,
        }
    }
}

macro_rules! writers {
    ($($ty:ident, $what:literal);*) => {$(
        impl $ty {
            #[doc = concat!("Writes ", $what, " as a JSON value, its properties in the order of the REST reference.")]
            pub fn to_value(&self, options: WriteOptions) -> Value {
                self.write(&options.writer())
            }

            #[doc = concat!("Writes ", $what, " as JSON, indented by two spaces.")]
            ///
            /// With [`SecretMode::Reveal`] the text is complete: reading it gives an equal value.
            pub fn to_json(&self, secrets: SecretMode) -> String {
                format!("{:#}\n", self.to_value(WriteOptions::default().secrets(secrets)))
            }

            #[doc = concat!("Writes ", $what, " as YAML that readers of YAML 1.1 and 1.2 read alike.")]
            ///
            /// Strings that some reader takes for something else (`on`, `0755`, `12:30`,
            /// `2023-05-01`) are quoted. With [`SecretMode::Reveal`] the text is complete: reading it
            /// gives an equal value.
            pub fn to_yaml(&self, secrets: SecretMode) -> String {
                super::yaml_text::write(&self.to_value(WriteOptions::default().secrets(secrets)))
            }

            #[doc = concat!("Writes ", $what, " as the request of one api-version: `type` and `apiVersion` filled in,")]
            /// without what that version does not know and without what only replies have.
            pub fn to_request(&self, version: ApiVersion, secrets: SecretMode) -> Value {
                let options = WriteOptions::default().secrets(secrets).version(version).read_only(false);
                let mut value = self.to_value(options);
                if let Value::Object(map) = &mut value {
                    let named = map.contains_key("name");
                    let position = usize::from(named);
                    map.shift_insert(position, "type".to_owned(), Value::from(Self::RESOURCE_TYPE));
                    map.shift_insert(position + 1, "apiVersion".to_owned(), Value::from(version.to_string()));
                }
                value
            }

            #[doc = concat!("Writes ", $what, " as the JSON request of one api-version; see [`Self::to_request`].")]
            pub fn to_json_for(&self, version: ApiVersion, secrets: SecretMode) -> String {
                format!("{:#}\n", self.to_request(version, secrets))
            }

            #[doc = concat!("Writes ", $what, " as the YAML request of one api-version; see [`Self::to_request`].")]
            pub fn to_yaml_for(&self, version: ApiVersion, secrets: SecretMode) -> String {
                super::yaml_text::write(&self.to_request(version, secrets))
            }
        }
    )*};
}

writers!(ContainerGroup, "the group"; ContainerGroupProfile, "the profile");
