//! The kernel's network interfaces, without any program: netlink sockets, messages, and the few
//! objects that groups need.

pub(crate) mod codec;
pub(crate) mod conntrack;
pub(crate) mod nft;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod traffic;

pub(crate) use socket::{Refusal, Socket};
