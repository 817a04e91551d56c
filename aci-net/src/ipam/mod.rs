//! Which addresses there are, and who has them: virtual networks and subnets as values, and pure
//! allocation with an explicit `now`.
//!
//! Azure's rules hold: the first four addresses and the last one of a subnet are reserved
//! (network, gateway, two for name service, broadcast); a subnet is a /29 at least. A freed address
//! rests for a while before it is given out again, so that what still knows the old owner does not
//! talk to the new one.

mod network;
mod pool;

pub use network::{DEFAULT_RANGES, Subnet, VirtualNetwork};
pub(crate) use network::{gateway, overlap};
pub(crate) use pool::{Pool, Taken};
