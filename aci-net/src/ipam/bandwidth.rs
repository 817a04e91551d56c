//! How fast a group may send and receive.

use aci_core::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The least rate, in bits per second: below it a single large packet takes longer than a second.
const LEAST: u64 = 100_000;

/// A limit of what a group sends and what it receives, each on its own, in bits per second. Packets
/// above it wait; what would wait for longer than about 50 ms is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    outbound: Option<u64>,
    inbound: Option<u64>,
}

impl Bandwidth {
    /// A limit for what a group sends and for what it receives, in bits per second (100,000 at
    /// least); `None` for no limit.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a smaller rate.
    pub fn new(outbound: Option<u64>, inbound: Option<u64>) -> Result<Self> {
        for (name, rate) in [("outbound", outbound), ("inbound", inbound)] {
            if let Some(rate) = rate.filter(|r| *r < LEAST) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "network.configure",
                    format!(
                        "{name} bandwidth is {rate} bits per second: it must be {LEAST} at least"
                    ),
                ));
            }
        }
        Ok(Self { outbound, inbound })
    }

    /// What a group may send, in bits per second.
    #[must_use]
    pub const fn outbound(&self) -> Option<u64> {
        self.outbound
    }

    /// What a group may receive, in bits per second.
    #[must_use]
    pub const fn inbound(&self) -> Option<u64> {
        self.inbound
    }
}
