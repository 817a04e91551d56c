//! Single values, lists and maps as property values.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Property, Reader, Shape, Step, Writer};
use crate::document::tree::{Data, Node, ScalarKind};

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
