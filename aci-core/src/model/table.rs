//! The table of all properties, made from the types themselves.

use super::codec::{PropertyRow, Shape};
use super::version::{ApiVersion, Availability};
use super::{ContainerGroup, ContainerGroupProfile};

/// What a property holds.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueKind {
    /// A string.
    Text,
    /// A string with known values; others are kept.
    Choice,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// Any JSON value.
    Any,
    /// An object with known properties.
    Object,
}

/// One property of a resource; see [`ContainerGroup::properties_table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropertyInfo {
    /// Its path, such as `properties.containers[].name`; `[]` stands for any item of a list.
    pub path: String,
    /// What it holds, or what each item of its list or map holds.
    pub kind: ValueKind,
    /// For a string with known values: those.
    pub choices: &'static [&'static str],
    /// Whether it is a list.
    pub list: bool,
    /// Whether it is a map with keys of the user's own.
    pub map: bool,
    /// Whether a document that has the object around it, but not the property, does not deserialise.
    pub required: bool,
    /// Whether only replies have it.
    pub read_only: bool,
    /// Whether replies leave it out.
    pub secret: bool,
    /// The api-versions that have it, where they have everything around it too.
    pub since: Availability,
}

macro_rules! tables {
    ($($ty:ident),*) => {$(
        impl $ty {
            /// Every property that the resource can have, each before those inside it.
            pub fn properties_table() -> Vec<PropertyInfo> {
                let mut table = Vec::new();
                collect(Self::ROWS, "", None, &mut table);
                table
            }
        }
    )*};
}

tables!(ContainerGroup, ContainerGroupProfile);

fn collect(
    rows: &[PropertyRow],
    prefix: &str,
    around: Option<Availability>,
    table: &mut Vec<PropertyInfo>,
) {
    for row in rows {
        let since = around.map_or(row.since, |around| within(around, row.since));
        let path = if prefix.is_empty() {
            row.name.to_owned()
        } else {
            format!("{prefix}.{}", row.name)
        };
        let (list, map, shape) = match row.shape {
            Shape::List(item) => (true, false, *item),
            Shape::Map(item) => (false, true, *item),
            shape => (false, false, shape),
        };
        let kind = match shape {
            Shape::Text | Shape::Secret => ValueKind::Text,
            Shape::Choice(_) => ValueKind::Choice,
            Shape::Integer => ValueKind::Integer,
            Shape::Number => ValueKind::Number,
            Shape::Boolean => ValueKind::Boolean,
            Shape::Object(_) => ValueKind::Object,
            Shape::Any | Shape::SecretAny | Shape::List(_) | Shape::Map(_) => ValueKind::Any,
        };
        let inner = if list {
            format!("{path}[]")
        } else {
            path.clone()
        };
        table.push(PropertyInfo {
            path,
            kind,
            choices: if let Shape::Choice(known) = shape {
                known
            } else {
                &[]
            },
            list,
            map,
            required: row.required,
            read_only: row.read_only,
            secret: matches!(shape, Shape::Secret | Shape::SecretAny),
            since,
        });
        if let (Shape::Object(rows), false) = (shape, map) {
            collect(rows, &inner, Some(since), table);
        }
    }
}

/// The versions that have both what is around a property and the property itself.
fn within(around: Availability, own: Availability) -> Availability {
    let first = |a: Availability| a.preview.or(a.stable);
    let stable = around.stable.zip(own.stable).map(|(a, b)| a.max(b));
    let first: Option<ApiVersion> = first(around).max(first(own));
    let until = match (around.until, own.until) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Availability {
        stable,
        preview: first.filter(|first| stable.is_none_or(|stable| *first < stable)),
        until,
    }
}
