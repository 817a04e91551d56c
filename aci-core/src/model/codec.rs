//! How the model's types are read from a document's tree and written to JSON.
//!
//! A type states its properties once, in the [`object!`](super::macros) form: the Rust field, the
//! property's name, and the api-versions that know it. Reading, writing, serde and the table of
//! properties all follow from that one statement, so they cannot differ.

use std::collections::BTreeMap;

use serde_json::Value;

use super::version::{ApiVersion, Availability};
use crate::document::SecretMode;
use crate::document::tree::{Data, Entry, Node, Place, ScalarKind};

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
    Choice,
    List(&'static Shape),
    Map(&'static Shape),
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
    fn within<T>(
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

    fn here(&self) -> &str {
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
    fn number<T>(
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
    fn unknown_to(&self, version: ApiVersion) -> String {
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
        if self.reveals() {
            for (name, value) in unknown.iter() {
                if !map.contains_key(name) {
                    map.insert(name.clone(), value.clone());
                }
            }
        }
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

impl Property for String {
    const SHAPE: Shape = Shape::Text;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        reader.text(node)
    }

    fn write(&self, _: &Writer) -> Value {
        Value::String(self.clone())
    }
}

impl Property for bool {
    const SHAPE: Shape = Shape::Boolean;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let found = match &node.data {
            Data::Scalar(s) => match (s.kind, s.text.to_ascii_lowercase().as_str()) {
                (ScalarKind::Bool(b), _) => return b,
                // What YAML 1.1 readers, the Azure CLI's among them, take for a boolean.
                (ScalarKind::Text, "true" | "yes" | "on") => return true,
                (ScalarKind::Text, "false" | "no" | "off") => return false,
                _ => node.kind_name(),
            },
            _ => node.kind_name(),
        };
        let message = format!(
            "Expected true or false at '{}', found {found}.",
            reader.here()
        );
        reader.problem(node.place, message);
        false
    }

    fn write(&self, _: &Writer) -> Value {
        Value::Bool(*self)
    }
}

/// A whole number in plain digits, also as `80.0`.
fn whole(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.len() > 30 || fraction.is_empty() || fraction.bytes().any(|b| b != b'0') {
        return None;
    }
    whole.parse().ok()
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Property for $ty {
            const SHAPE: Shape = Shape::Integer;

            fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
                let wanted = format!("a whole number from {} to {}", Self::MIN, Self::MAX);
                reader.number(node, &wanted, |text| Self::try_from(whole(text)?).ok()).unwrap_or_default()
            }

            fn write(&self, _: &Writer) -> Value {
                Value::from(*self)
            }
        }
    )*};
}

integers!(u16, u32, i32);

impl Property for f64 {
    const SHAPE: Shape = Shape::Number;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let parse = |text: &str| {
            let plain = text
                .bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
            text.parse::<Self>().ok().filter(|n| plain && n.is_finite())
        };
        reader.number(node, "a number", parse).unwrap_or_default()
    }

    fn write(&self, _: &Writer) -> Value {
        // Whole numbers are written without a fraction: `1` stays `1`.
        let whole = format!("{self:.0}");
        if self.fract() == 0.0
            && self.abs() < 9e15
            && let Ok(whole) = whole.parse::<i64>()
        {
            return Value::from(whole);
        }
        serde_json::Number::from_f64(*self).map_or(Value::Null, Value::Number)
    }
}

impl Property for Value {
    const SHAPE: Shape = Shape::Any;

    fn read(node: &Node, _: &mut Reader<'_>) -> Self {
        node.to_json()
    }

    fn write(&self, _: &Writer) -> Value {
        self.clone()
    }
}

impl<T: Property> Property for Option<T> {
    const SHAPE: Shape = T::SHAPE;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        if node.is_null() {
            None
        } else {
            Some(T::read(node, reader))
        }
    }

    fn write(&self, writer: &Writer) -> Value {
        self.as_ref()
            .map_or(Value::Null, |value| value.write(writer))
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn is_blank(&self) -> bool {
        self.is_none()
    }
}

impl<T: Property> Property for Vec<T> {
    const SHAPE: Shape = Shape::List(&T::SHAPE);

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let Data::List(items) = &node.data else {
            let message = format!(
                "Expected a list at '{}', found {}.",
                reader.here(),
                node.kind_name()
            );
            reader.problem(node.place, message);
            return Self::new();
        };
        let mut read = Self::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            read.push(reader.within(&Step::Index(i), item.place, |reader| T::read(item, reader)));
        }
        read
    }

    fn write(&self, writer: &Writer) -> Value {
        Value::Array(self.iter().map(|item| item.write(writer)).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Property> Property for BTreeMap<String, T> {
    const SHAPE: Shape = Shape::Map(&T::SHAPE);

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let mut map = Self::new();
        for entry in reader.object(node) {
            if !entry.node.is_null() {
                let value = reader.within(&Step::Name(&entry.key), entry.place, |reader| {
                    T::read(&entry.node, reader)
                });
                map.insert(entry.key.clone(), value);
            }
        }
        map
    }

    fn write(&self, writer: &Writer) -> Value {
        let written = self
            .iter()
            .map(|(key, value)| (key.clone(), value.write(writer)));
        Value::Object(written.filter(|(_, value)| !value.is_null()).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn is_blank(&self) -> bool {
        self.is_empty()
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
