//! Reads the text of a template and remembers where everything stands in it.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::error::{TemplateError, TemplateErrorKind, TemplateResult};
use crate::document::MAX_BYTES;
use crate::document::json::parse_relaxed;
use crate::document::tree::{Data, Node, Place};

/// Reads JSON as Resource Manager does: comments, strings over several lines, single quotes, a
/// trailing comma and names without quotes are accepted.
pub(crate) fn read(text: &str) -> TemplateResult<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        return Err(TemplateError::limit(format!(
            "the text has {} bytes; at most {MAX_BYTES} are read",
            text.len()
        )));
    }
    parse_relaxed(text).map_err(|error| {
        TemplateError::new(TemplateErrorKind::Syntax, error.message).located(error.place)
    })
}

/// Where the parts of a template stand; empty for one that never was a text.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Places(Option<Arc<Node>>);

impl Places {
    /// Keeps the tree of a text, and gives its value.
    pub(crate) fn of(node: Node) -> (Self, Value) {
        let value = node.to_json();
        (Self(Some(Arc::new(node))), value)
    }

    /// The place of the value at a path, or of the nearest one around it.
    pub(crate) fn nearest(&self, path: &str) -> Option<Place> {
        let mut node = self.0.as_deref()?;
        let mut place = node.place;
        let mut rest = path;
        while let Some((step, tail)) = step(rest) {
            rest = tail;
            let next = match (&node.data, step) {
                (Data::Map(entries), Step::Key(key)) => entries
                    .iter()
                    .find(|entry| entry.key == key)
                    .or_else(|| {
                        entries
                            .iter()
                            .find(|entry| entry.key.eq_ignore_ascii_case(key))
                    })
                    .map(|entry| &entry.node),
                (Data::List(items), Step::Index(index)) => items.get(index),
                _ => None,
            };
            let Some(next) = next else { break };
            node = next;
            place = node.place.or(place);
        }
        place
    }

    /// Adds the place of its path to an error that has none.
    pub(crate) fn locate(&self, error: TemplateError) -> TemplateError {
        match error.path().and_then(|path| self.nearest(path)) {
            Some(place) => error.located(place),
            None => error,
        }
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Places").field(&self.0.is_some()).finish()
    }
}

enum Step<'p> {
    Key(&'p str),
    Index(usize),
}

/// Splits the first step off a path such as `resources[0].tags['a b']`.
fn step(path: &str) -> Option<(Step<'_>, &str)> {
    if let Some(rest) = path.strip_prefix("['") {
        let (key, rest) = rest.split_once("']")?;
        return Some((Step::Key(key), rest));
    }
    if let Some(rest) = path.strip_prefix('[') {
        let (index, rest) = rest.split_once(']')?;
        return Some((Step::Index(index.parse().ok()?), rest));
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (key, rest) = path.split_at(end);
    if key.is_empty() {
        None
    } else {
        Some((Step::Key(key), rest))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_templates_have_besides_json() {
        let node = read(
            "\u{feff}{ // first\n \"a\": /* x */ [1, 0.5, -2, 'it', ],\n \"b\": \"two\nlines\", }",
        )
        .unwrap();
        assert_eq!(
            node.to_json(),
            json!({"a": [1, 0.5, -2, "it"], "b": "two\nlines"})
        );
        // As the Azure CLI sends a template with its parameters.
        let node = read(
            "{\"properties\": {\"mode\": \"Incremental\", template:{ $schema: 'x', b_2: []\n}}}",
        );
        assert_eq!(
            node.unwrap().to_json(),
            json!({"properties": {"mode": "Incremental", "template": {"$schema": "x", "b_2": []}}})
        );
        assert!(read("{ 2b: 1 }").is_err() && read("{ a b: 1 }").is_err());
        let error = read("{\n  \"a\": ?\n}").unwrap_err();
        assert_eq!(error.position(), Some(Place { line: 2, column: 8 }));
    }

    #[test]
    fn places_of_paths() {
        let (places, _) =
            Places::of(read("{\n \"a\": [\n  {\"b c\": 1, \"D\": 2}\n ]\n}").unwrap());
        let at = |path: &str| places.nearest(path).map(|place| (place.line, place.column));
        assert_eq!(at("a[0]['b c']"), Some((3, 11)));
        assert_eq!(at("a[0].d"), Some((3, 19)));
        assert_eq!(at("a[0].d.nothing[4]"), Some((3, 19)));
        assert_eq!(at("a[9]"), Some((2, 7)));
        assert_eq!(at(""), Some((1, 1)));
    }
}
