//! From text to the model.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Problem, Result};
use crate::model::codec::{Finding, Property, Reader};
use crate::model::{ApiVersion, ContainerGroup, ContainerGroupProfile};

use super::limits::MAX_BYTES;
use super::source_map::SourceMap;
use super::tree::{Data, Node, Place};

/// ACI's code for a document that does not deserialise.
const INVALID_REQUEST_CONTENT: &str = "InvalidRequestContent";

/// The notation of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON; comments are allowed.
    Json,
    /// YAML 1.2, of which JSON is nearly a part. Needs the feature `yaml`.
    Yaml,
}

impl Format {
    /// By a file's ending: `.json` and `.jsonc`, or `.yaml` and `.yml`.
    pub fn of_path(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "json" | "jsonc" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }

    /// By a text's first character: JSON documents start with a brace or a comment.
    pub fn of_text(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('{') || text.starts_with("//") || text.starts_with("/*") {
            Self::Json
        } else {
            Self::Yaml
        }
    }
}

/// What a document is about.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One container group.
    Group,
    /// One container group profile.
    Profile,
    /// A reply with a list: `{"value": [...]}`.
    List,
    /// A deployment template; [`crate::document::read`] does not expand it.
    Template,
    /// The parameters of a deployment template.
    Parameters,
}

impl Kind {
    /// Tells what a document is about by its properties.
    pub fn of(node: &Node) -> Self {
        let text = |key: &str| {
            node.get(key)
                .and_then(Node::text)
                .unwrap_or_default()
                .to_ascii_lowercase()
        };
        let schema = text("$schema");
        if schema.contains("deploymentparameters") {
            return Self::Parameters;
        }
        let has_resources = node
            .get("resources")
            .is_some_and(|n| matches!(n.data, Data::List(_) | Data::Map(_)));
        if schema.contains("deploymenttemplate")
            || (has_resources && node.get("properties").is_none())
        {
            return Self::Template;
        }
        if text("type") == ContainerGroupProfile::RESOURCE_TYPE.to_ascii_lowercase() {
            return Self::Profile;
        }
        let has_value = node
            .get("value")
            .is_some_and(|n| matches!(n.data, Data::List(_)));
        if has_value && node.get("properties").is_none() {
            Self::List
        } else {
            Self::Group
        }
    }
}

/// A document that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Its container groups: one, or those of a list.
    pub groups: Vec<ContainerGroup>,
    /// Its container group profiles.
    pub profiles: Vec<ContainerGroupProfile>,
    /// What is odd but no reason to refuse: properties that are not known, or not to the document's api-version.
    pub warnings: Vec<Problem>,
    /// Where everything stands. For a list, paths start with `value[0]`, `value[1]` and so on.
    pub places: SourceMap,
    /// For a list that goes on: the address of the rest.
    pub next_link: Option<String>,
}

/// What could be read of a document, and everything that is wrong with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// What could be read. Where there is a problem, a default stands in for the property.
    pub document: Document,
    /// Everything that does not deserialise; code `InvalidRequestContent`.
    pub problems: Vec<Problem>,
}

impl Reading {
    /// The document, if nothing is wrong with it.
    ///
    /// # Errors
    ///
    /// Kind [`Invalid`](crate::error::ErrorKind::Invalid) with all problems.
    pub fn into_result(self) -> Result<Document> {
        if self.problems.is_empty() {
            Ok(self.document)
        } else {
            Err(Error::from_problems("document.read", self.problems))
        }
    }
}

/// Reads a container group, a profile or a list of them.
///
/// Keys are taken in any case, numbers and booleans also as strings and the other way round where
/// the property wants that, `null` as absent. Nothing is validated besides; that is
/// `crate::validate`.
///
/// ```
/// use aci_core::document::{self, Format};
/// let text = r#"{"name": "web", "properties": {"osType": "linux", "containers": []}}"#;
/// let document = document::read(text, Format::Json)?;
/// assert_eq!(document.groups[0].name, "web");
/// # Ok::<(), aci_core::error::Error>(())
/// ```
///
/// # Errors
///
/// Kind [`Invalid`](crate::error::ErrorKind::Invalid), code `InvalidRequestContent`, with every
/// problem and its place: a text that is not of the format, too large (4 MiB) or nested too deep
/// (64), a key that is given twice, a property that is missing or of the wrong kind.
pub fn read(text: &str, format: Format) -> Result<Document> {
    inspect(text, format).into_result()
}

/// Reads as much as possible and says everything that is wrong; see [`read`].
pub fn inspect(text: &str, format: Format) -> Reading {
    match parse_text(text, format) {
        Ok(node) => inspect_node(&node),
        Err(problem) => Reading {
            problems: vec![problem],
            ..Reading::default()
        },
    }
}

/// Reads the text into a tree with places, without asking what it is about.
///
/// # Errors
///
/// Kind [`Invalid`](crate::error::ErrorKind::Invalid), code `InvalidRequestContent`, for a text that
/// is not of the format, has a key twice, is too large or nested too deep.
pub fn parse(text: &str, format: Format) -> Result<Node> {
    parse_text(text, format)
        .map_err(|problem| Error::from_problems("document.parse", vec![problem]))
}

fn parse_text(text: &str, format: Format) -> std::result::Result<Node, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        let message = format!(
            "The document has {} bytes; at most {MAX_BYTES} are read.",
            text.len()
        );
        return Err(Problem::new(INVALID_REQUEST_CONTENT, "", message));
    }
    let parsed = match format {
        Format::Json => super::json::parse(text),
        #[cfg(feature = "yaml")]
        Format::Yaml => super::yaml::parse(text),
        #[cfg(not(feature = "yaml"))]
        Format::Yaml => Err(super::json::SyntaxError::new(
            Place { line: 1, column: 1 },
            "This program was built without YAML; write JSON or enable the feature 'yaml' of aci-core.",
        )),
    };
    parsed.map_err(|error| problem(String::new(), Some(error.place), error.message))
}

fn problem(path: String, place: Option<Place>, message: String) -> Problem {
    let mut problem = Problem::new(INVALID_REQUEST_CONTENT, path, message);
    problem.line = place.map(|p| p.line);
    problem.column = place.map(|p| p.column);
    problem
}

/// Reads a tree: of [`parse`], or of JSON values that were made otherwise. See [`inspect`].
pub fn inspect_node(node: &Node) -> Reading {
    let mut reading = Reading::default();
    match Kind::of(node) {
        Kind::Template => reading.problems.push(problem(
            String::new(),
            node.place,
            "This is a deployment template; expand it with the module 'template'.".to_owned(),
        )),
        Kind::Parameters => reading.problems.push(problem(
            String::new(),
            node.place,
            "These are the parameters of a deployment template, not a container group.".to_owned(),
        )),
        Kind::List => {
            reading.document.next_link =
                node.get("nextLink").and_then(Node::text).map(str::to_owned);
            let items = match node.get("value").map(|n| &n.data) {
                Some(Data::List(items)) => items.as_slice(),
                _ => &[],
            };
            for (i, item) in items.iter().enumerate() {
                reading.resource(item, &format!("value[{i}]"));
            }
        }
        Kind::Group | Kind::Profile => reading.resource(node, ""),
    }
    reading
}

/// Reads a tree as what its reader knows it to be, such as the body of a request to an address:
/// one group or one profile, whatever its properties look like. See [`inspect`].
pub fn inspect_as(node: &Node, profile: bool) -> Reading {
    let mut reading = Reading::default();
    reading.resource_as(node, "", profile);
    reading
}

impl Reading {
    /// Reads one group or profile; all paths start with `prefix`.
    fn resource(&mut self, node: &Node, prefix: &str) {
        self.resource_as(node, prefix, Kind::of(node) == Kind::Profile);
    }

    fn resource_as(&mut self, node: &Node, prefix: &str, profile: bool) {
        let text = node.get("apiVersion").and_then(Node::text);
        let version = text.and_then(|text| text.parse::<ApiVersion>().ok());
        let mut places = BTreeMap::new();
        if let Some(place) = node.place {
            places.insert(prefix.to_owned(), place);
        }
        let mut reader = Reader::new(prefix, version, &mut places);
        if text.is_some() && version.is_none_or(|version| version > ApiVersion::LATEST) {
            let place = node.get("apiVersion").and_then(|n| n.place);
            let message = format!(
                "This api-version is not known here; the latest one is {}.",
                ApiVersion::LATEST
            );
            reader.warning_at("apiVersion", "UnknownApiVersion", place, message);
        }
        if profile {
            self.document
                .profiles
                .push(ContainerGroupProfile::read(node, &mut reader));
        } else {
            let group = ContainerGroup::read(node, &mut reader);
            if let Some(other) = group
                .type_
                .as_deref()
                .filter(|t| !t.eq_ignore_ascii_case(ContainerGroup::RESOURCE_TYPE))
            {
                let message = format!(
                    "The resource is a '{other}'; expected '{}'.",
                    ContainerGroup::RESOURCE_TYPE
                );
                let place = node.get("type").and_then(|n| n.place);
                reader.problem_at("type", place, message);
            }
            self.document.groups.push(group);
        }
        let Reader {
            problems, warnings, ..
        } = reader;
        let convert = |f: Finding| problem(f.path, f.place, f.message);
        self.problems.extend(problems.into_iter().map(convert));
        self.document.warnings.extend(warnings.into_iter().map(|f| {
            let code = f.code;
            Problem {
                code: code.to_owned(),
                ..convert(f)
            }
        }));
        self.document.places.0.append(&mut places);
    }
}

/// The text of a file: UTF-8 with or without a byte order mark, or UTF-16 with one, as some editors
/// and shells of Windows write.
///
/// # Errors
///
/// Kind [`Invalid`](crate::error::ErrorKind::Invalid) for bytes that are neither, or too many.
pub fn decode(bytes: &[u8]) -> Result<String> {
    let invalid = |line, message: String| {
        let place = Some(Place { line, column: 1 });
        Err(Error::from_problems(
            "document.decode",
            vec![problem(String::new(), place, message)],
        ))
    };
    if bytes.len() > 2 * MAX_BYTES {
        return invalid(
            1,
            format!(
                "The document has {} bytes; at most {MAX_BYTES} are read.",
                bytes.len()
            ),
        );
    }
    let utf16 = |tail: &[u8], unit: fn([u8; 2]) -> u16| {
        if !tail.len().is_multiple_of(2) {
            return None;
        }
        let units = tail
            .chunks(2)
            .map(|pair| unit([pair[0], *pair.get(1).unwrap_or(&0)]));
        char::decode_utf16(units)
            .collect::<std::result::Result<String, _>>()
            .ok()
    };
    let text = match bytes {
        [0xff, 0xfe, tail @ ..] => utf16(tail, u16::from_le_bytes),
        [0xfe, 0xff, tail @ ..] => utf16(tail, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, tail @ ..] => return decode(tail),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => Some(text.to_owned()),
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let lines = before.iter().filter(|b| **b == b'\n').count();
                let line = u32::try_from(lines).unwrap_or(u32::MAX).saturating_add(1);
                return invalid(line, "The document is not text in UTF-8.".to_owned());
            }
        },
    };
    text.map_or_else(
        || invalid(1, "The document is not text in UTF-16.".to_owned()),
        Ok,
    )
}

macro_rules! readers {
    ($($ty:ident, $slot:ident, $what:literal);*) => {$(
        impl $ty {
            #[doc = concat!("Reads ", $what, " from YAML; see [`crate::document::read`].")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`crate::document::read`], and for a document that is not ", $what, ".")]
            pub fn from_yaml(text: &str) -> Result<Self> {
                Self::from_text(text, Format::Yaml)
            }

            #[doc = concat!("Reads ", $what, " from JSON; see [`crate::document::read`].")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`crate::document::read`], and for a document that is not ", $what, ".")]
            pub fn from_json(text: &str) -> Result<Self> {
                Self::from_text(text, Format::Json)
            }

            fn from_text(text: &str, format: Format) -> Result<Self> {
                let mut document = read(text, format)?;
                if document.$slot.len() == 1 && let Some(one) = document.$slot.pop() {
                    return Ok(one);
                }
                let message = concat!("The document is not ", $what, ".").to_owned();
                Err(Error::from_problems("document.read", vec![problem(String::new(), None, message)]))
            }
        }
    )*};
}

readers!(ContainerGroup, groups, "one container group"; ContainerGroupProfile, profiles, "one container group profile");
