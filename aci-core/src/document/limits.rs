//! What a document may cost.

use super::json::SyntaxError;
use super::tree::Place;

/// The longest document, in bytes: what Azure Resource Manager takes as a request.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The deepest nesting; a container group needs 10 levels.
pub const MAX_DEPTH: usize = 64;

/// What all values of a document may weigh after aliases are resolved.
const MAX_WEIGHT: usize = 16 * 1024 * 1024;

/// What a value weighs besides its text.
pub(crate) const NODE_WEIGHT: usize = 64;

/// Counts what a document's values weigh, so that aliases of aliases end early.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: MAX_WEIGHT }
    }
}

impl Budget {
    /// Pays for a value with a text of that length.
    pub(crate) fn spend(&mut self, length: usize, place: Place) -> Result<(), SyntaxError> {
        self.left = length
            .checked_add(NODE_WEIGHT)
            .and_then(|weight| self.left.checked_sub(weight))
            .ok_or_else(|| {
                SyntaxError::new(
                    place,
                    "The document holds too much; its aliases may repeat too many values.",
                )
            })?;
        Ok(())
    }
}
