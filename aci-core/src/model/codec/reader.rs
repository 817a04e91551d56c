//! From a document's tree to the model.

use std::collections::BTreeMap;

use super::{Property, PropertyRow, UnknownProperties};
use crate::document::tree::{Data, Entry, Node, Place, ScalarKind};
use crate::model::version::ApiVersion;

/// Something found while reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// For a warning: what kind of warning.
    pub(crate) code: &'static str,
    pub(crate) path: String,
    pub(crate) place: Option<Place>,
    pub(crate) message: String,
}

/// Reads a tree into the model, collecting everything that is wrong on the way.
#[derive(Debug, Default)]
pub(crate) struct Reader<'a> {
    path: String,
    pub(crate) problems: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
    /// Where each property stands, when the caller wants to know.
    pub(crate) places: Option<&'a mut BTreeMap<String, Place>>,
    /// The version that the document names, for properties that it does not know.
    pub(crate) version: Option<ApiVersion>,
}

/// The longest value shown in a message, in characters.
const SHOWN: usize = 60;

impl<'a> Reader<'a> {
    /// A reader whose paths start with `prefix`, for a document of that version.
    pub(crate) fn new(
        prefix: &str,
        version: Option<ApiVersion>,
        places: &'a mut BTreeMap<String, Place>,
    ) -> Self {
        Self {
            path: prefix.to_owned(),
            places: Some(places),
            version,
            ..Self::default()
        }
    }
}

impl Reader<'_> {
    /// Notes a problem at the present path.
    pub(crate) fn problem(&mut self, place: Option<Place>, message: String) {
        let path = self.path.clone();
        self.problems.push(Finding {
            code: "",
            path,
            place,
            message,
        });
    }

    /// Notes a problem with a property of the present object.
    pub(crate) fn problem_at(&mut self, name: &str, place: Option<Place>, message: String) {
        self.within(&Step::Name(name), None, |reader| {
            reader.problem(place, message)
        });
    }

    /// Notes a warning about a property of the present object.
    pub(crate) fn warning_at(
        &mut self,
        name: &str,
        code: &'static str,
        place: Option<Place>,
        message: String,
    ) {
        self.within(&Step::Name(name), None, |reader| {
            reader.warning(code, place, message)
        });
    }

    fn warning(&mut self, code: &'static str, place: Option<Place>, message: String) {
        let path = self.path.clone();
        self.warnings.push(Finding {
            code,
            path,
            place,
            message,
        });
    }

    /// Runs `read` one step deeper.
    pub(super) fn within<T>(
        &mut self,
        step: &Step<'_>,
        place: Option<Place>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let length = self.path.len();
        step.append_to(&mut self.path);
        if let (Some(places), Some(place)) = (self.places.as_deref_mut(), place) {
            places.insert(self.path.clone(), place);
        }
        let value = read(self);
        self.path.truncate(length);
        value
    }

    /// The entries of an object.
    pub(crate) fn object<'n>(&mut self, node: &'n Node) -> &'n [Entry] {
        node.entries().unwrap_or_else(|| {
            self.problem(
                node.place,
                format!(
                    "Expected an object at '{}', found {}.",
                    self.here(),
                    node.kind_name()
                ),
            );
            &[]
        })
    }

    /// Reads a property of an object into its slot.
    pub(crate) fn property<T: Property>(
        &mut self,
        slot: &mut Option<T>,
        row: &PropertyRow,
        entry: &Entry,
    ) {
        if entry.node.is_null() {
            return;
        }
        let place = match entry.node.data {
            Data::Scalar(_) => entry.node.place.or(entry.place),
            _ => entry.place.or(entry.node.place),
        };
        self.within(&Step::Name(row.name), place, |reader| {
            if slot.is_some() {
                reader.problem(
                    entry.place,
                    format!("Property '{}' is given more than once; case does not tell properties apart.", row.name),
                );
                return;
            }
            if let Some(version) = reader.version
                && !row.since.includes(version)
            {
                reader.warning("PropertyNotInApiVersion", entry.place, row.unknown_to(version));
            }
            *slot = Some(T::read(&entry.node, reader));
        });
    }

    /// The value of a property after all entries were seen.
    pub(crate) fn finish<T: Property + Default>(
        &mut self,
        slot: Option<T>,
        row: &PropertyRow,
        node: &Node,
    ) -> T {
        if let Some(value) = slot {
            return value;
        }
        if row.required {
            let message = format!(
                "Required property '{}' not found in JSON. Path '{}'.",
                row.name, self.path
            );
            self.within(&Step::Name(row.name), None, |reader| {
                reader.problem(node.place, message)
            });
            return T::default();
        }
        T::absent().unwrap_or_default()
    }

    /// Keeps a property that the model does not know.
    pub(crate) fn unknown(
        &mut self,
        into: &mut UnknownProperties,
        entry: &Entry,
        rows: &[PropertyRow],
    ) {
        // What the Azure CLI's export adds to every object says nothing.
        let says_nothing =
            entry.node.is_null() || entry.node.entries().is_some_and(<[Entry]>::is_empty);
        if entry.key == "additional_properties" && says_nothing {
            return;
        }
        let near = rows
            .iter()
            .map(|r| r.name)
            .find(|name| resembles(name, &entry.key));
        let hint = near.map_or_else(String::new, |name| format!(" Did you mean '{name}'?"));
        self.within(&Step::Name(&entry.key), entry.place, |reader| {
            let message = format!(
                "Property '{}' is not known to Azure Container Instances and has no effect.{hint}",
                entry.key
            );
            reader.warning("UnknownProperty", entry.place, message);
        });
        into.insert(entry.key.clone(), entry.node.to_json());
    }

    pub(super) fn here(&self) -> &str {
        if self.path.is_empty() {
            "the top of the document"
        } else {
            &self.path
        }
    }

    /// A text; numbers and booleans are taken as they are spelt.
    pub(crate) fn text(&mut self, node: &Node) -> String {
        if let Some(text) = node.text() {
            return text.to_owned();
        }
        self.problem(
            node.place,
            format!(
                "Expected a string at '{}', found {}.",
                self.here(),
                node.kind_name()
            ),
        );
        String::new()
    }

    /// A number of either notation, or its text.
    pub(super) fn number<T>(
        &mut self,
        node: &Node,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let found = match &node.data {
            Data::Scalar(s) if matches!(s.kind, ScalarKind::Number | ScalarKind::Text) => {
                let parsed = parse(s.text.trim());
                if parsed.is_some() {
                    return parsed;
                }
                let shown: String = s.text.chars().take(SHOWN).collect();
                format!("'{shown}'")
            }
            _ => node.kind_name().to_owned(),
        };
        self.problem(
            node.place,
            format!("Expected {wanted} at '{}', found {found}.", self.here()),
        );
        None
    }
}

/// One step of a JSON path.
pub(crate) enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

impl Step<'_> {
    /// Appends the step: `.name`, `['odd name']` or `[3]`.
    pub(crate) fn append_to(&self, path: &mut String) {
        use std::fmt::Write as _;
        match self {
            Self::Index(i) => {
                let _ = write!(path, "[{i}]");
            }
            Self::Name(name)
                if !name.is_empty()
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') =>
            {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            Self::Name(name) => {
                let _ = write!(path, "['{}']", name.replace('\'', "\\'"));
            }
        }
    }
}

/// Whether one name is the other with a slip: a letter too many, missing, wrong, or two exchanged.
fn resembles(known: &str, found: &str) -> bool {
    let a: Vec<char> = known.to_lowercase().chars().collect();
    let b: Vec<char> = found.to_lowercase().chars().take(64).collect();
    if a.len().abs_diff(b.len()) > 1 || a.len() < 3 {
        return false;
    }
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a[head..]
        .iter()
        .rev()
        .zip(b[head..].iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let (left_a, left_b) = (a.len() - head - tail, b.len() - head - tail);
    (left_a <= 1 && left_b <= 1)
        || (left_a == 2 && left_b == 2 && a[head] == b[head + 1] && a[head + 1] == b[head])
}

impl PropertyRow {
    pub(crate) fn unknown_to(&self, version: ApiVersion) -> String {
        if let Some(until) = self.since.until.filter(|until| version > *until) {
            return format!(
                "Property '{}' is gone since api-version {until}; the document names {version}.",
                self.name
            );
        }
        let first = self
            .since
            .stable
            .or(self.since.preview)
            .map_or_else(String::new, |v| v.to_string());
        format!(
            "Property '{}' is known from api-version {first} on; the document names {version}.",
            self.name
        )
    }
}
