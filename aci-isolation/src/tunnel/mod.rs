//! Conversations and descriptors over one line of bytes, as between a guest and its host.
//!
//! Both sides have the same code. What is a Unix connection with passed descriptors on one side is
//! one on the other side too: a pipe, a terminal or a socket that goes along with a message is
//! replaced by a pipe or a socket pair of the other side, and its bytes travel as a channel of
//! their own. So neither the library's conversations nor the agent's server know of the line.
//!
//! [`wire`] is the form of the bytes, [`mux`] what they mean, both without input or output;
//! [`pump`] connects them with descriptors.

pub(crate) mod cutter;
pub(crate) mod mux;
pub(crate) mod pump;
pub(crate) mod wire;

use serde::{Deserialize, Serialize};

use crate::rtnl::Wire;

/// What a channel that the host opens leads to in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    /// A new agent's standard input. Once a guest.
    Boot,
    /// The agent's socket.
    Agent,
    /// The log of a container: see `logfiles::serve`.
    Log(String),
    /// The guest's link is given these; answers by a text, empty if it was done.
    Network(Wire),
    /// The end of the machine.
    PowerOff,
}

// The agent is built without tests; these run with the library's.
#[cfg(test)]
mod tests;
