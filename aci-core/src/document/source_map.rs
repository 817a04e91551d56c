//! Where the properties of a document stand in its text.

use std::collections::BTreeMap;

use crate::error::Problem;

use super::tree::Place;

/// JSON paths of a document and their places.
///
/// Paths are written as ACI writes them, with the properties' own spelling whatever the document's:
/// `properties.containers[0].properties.image`, `tags['a.b']`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceMap(pub(super) BTreeMap<String, Place>);

impl SourceMap {
    /// The place of a property that the document has.
    pub fn place(&self, path: &str) -> Option<Place> {
        self.0.get(path).copied()
    }

    /// The place of a property, or of the nearest one around it that the document has.
    pub fn nearest(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.place(path) {
                return Some(place);
            }
            if path.is_empty() {
                return None;
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }

    /// Gives every problem that has none the place of its path.
    pub fn locate(&self, problems: &mut [Problem]) {
        for problem in problems.iter_mut().filter(|p| p.line.is_none()) {
            if let Some(place) = self.nearest(&problem.path) {
                problem.line = Some(place.line);
                problem.column = Some(place.column);
            }
        }
    }

    /// Whether no place is known, as for a document that never was a text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
