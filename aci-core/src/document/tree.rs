//! A document as it stands in its text: scalars with their own spelling, and the place of everything.

use std::fmt;

/// A place in a text: line and column, both counted from 1; the column counts characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value of a document together with its place.
///
/// `Debug` shows the shape and never a value, because a value may be a secret.
#[derive(Clone, PartialEq)]
pub struct Node {
    /// What stands there.
    pub data: Data,
    /// Where it starts; `None` for values that never stood in a text.
    pub place: Option<Place>,
}

/// What a [`Node`] holds.
#[derive(Clone, PartialEq)]
pub enum Data {
    /// A single value.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the text; keys are unique as they are spelt.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, PartialEq)]
pub struct Entry {
    /// The key as it is spelt.
    pub key: String,
    /// Where the key stands.
    pub place: Option<Place>,
    /// The value.
    pub node: Node,
}

/// A single value: what its own notation says it is, and its text.
#[derive(Clone, PartialEq)]
pub struct Scalar {
    /// What the notation says it is.
    pub kind: ScalarKind,
    /// The text, without quotes and with escapes resolved.
    pub text: String,
}

/// What the notation of a scalar says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarKind {
    /// `null`, or nothing at all in YAML.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number in JSON's notation.
    Number,
    /// Anything else.
    Text,
}

impl Node {
    /// A scalar.
    pub(crate) fn scalar(kind: ScalarKind, text: impl Into<String>, place: Option<Place>) -> Self {
        Self {
            data: Data::Scalar(Scalar {
                kind,
                text: text.into(),
            }),
            place,
        }
    }

    /// Whether this is `null`, which reads as absent everywhere.
    pub fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar(s) if s.kind == ScalarKind::Null)
    }

    /// The mapping's entries, if this is a mapping.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.data {
            Data::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a key, compared without regard to case, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries()?
            .iter()
            .find(|e| e.key.eq_ignore_ascii_case(key))
            .map(|e| &e.node)
    }

    /// The text of a scalar that is not null.
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar(s) if s.kind != ScalarKind::Null => Some(&s.text),
            _ => None,
        }
    }

    /// What this is, in the words of an error message.
    pub(crate) fn kind_name(&self) -> &'static str {
        match &self.data {
            Data::List(_) => "a list",
            Data::Map(_) => "an object",
            Data::Scalar(s) => match s.kind {
                ScalarKind::Null => "null",
                ScalarKind::Bool(_) => "a boolean",
                ScalarKind::Number => "a number",
                ScalarKind::Text => "a string",
            },
        }
    }

    /// The same value without its places.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.data {
            Data::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Data::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|e| (e.key.clone(), e.node.to_json()))
                    .collect(),
            ),
            Data::Scalar(s) => match s.kind {
                ScalarKind::Null => Value::Null,
                ScalarKind::Bool(b) => Value::Bool(b),
                ScalarKind::Number => {
                    number(&s.text).map_or_else(|| Value::String(s.text.clone()), Value::Number)
                }
                ScalarKind::Text => Value::String(s.text.clone()),
            },
        }
    }
}

/// Reads a number in JSON's notation; whole numbers stay whole.
fn number(text: &str) -> Option<serde_json::Number> {
    serde_json::from_str::<serde_json::Number>(text).ok()
}

impl From<&serde_json::Value> for Node {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let data = match value {
            Value::Null => return Self::scalar(ScalarKind::Null, "", None),
            Value::Bool(b) => return Self::scalar(ScalarKind::Bool(*b), b.to_string(), None),
            Value::Number(n) => return Self::scalar(ScalarKind::Number, n.to_string(), None),
            Value::String(s) => return Self::scalar(ScalarKind::Text, s.clone(), None),
            Value::Array(items) => Data::List(items.iter().map(Self::from).collect()),
            Value::Object(map) => Data::Map(
                map.iter()
                    .map(|(k, v)| Entry {
                        key: k.clone(),
                        place: None,
                        node: Self::from(v),
                    })
                    .collect(),
            ),
        };
        Self { data, place: None }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(place) => write!(f, "{:?} at {place}", self.data),
            None => self.data.fmt(f),
        }
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(s) => s.fmt(f),
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Map(entries) => f
                .debug_map()
                .entries(entries.iter().map(|e| (&e.key, &e.node)))
                .finish(),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key, self.node)
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}
