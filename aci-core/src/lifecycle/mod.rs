//! What should happen next: the life of a group as a synchronous state machine.

use serde::{Deserialize, Serialize};

/// Where the life of a group stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {}
