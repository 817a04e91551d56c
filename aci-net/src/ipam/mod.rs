//! Which addresses there are, and who has them: virtual networks and subnets as values with their
//! security groups, routes and limits, and pure allocation with an explicit `now`.
//!
//! Azure's rules hold: the first four addresses and the last one of a subnet are reserved
//! (network, gateway, two for name service, broadcast); a subnet is a /29 at least. A freed address
//! rests for a while before it is given out again, so that what still knows the old owner does not
//! talk to the new one.

mod bandwidth;
mod network;
mod pool;
mod public;
mod ranges;
mod routes;
mod security;

pub use bandwidth::Bandwidth;
pub use network::{DEFAULT_RANGES, SERVICE_ADDRESS, Subnet, VirtualNetwork};
pub(crate) use network::{check_together, find, gateway, local_v6, overlap};
pub(crate) use pool::{Pool, Taken};
pub(crate) use public::PublicPool;
pub(crate) use ranges::{Family, Ranges};
pub(crate) use routes::effective;
pub use routes::{NextHop, RouteTable};
pub use security::{
    Access, AddressPrefix, Direction, PortRange, RuleProtocol, SecurityGroup, SecurityRule,
};
pub(crate) use security::{Match, reduce};
