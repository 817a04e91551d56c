//! Where things are in a packet of each family, and how keys are put together.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::ipam::Family;
use crate::netlink::nft::{Meta, NFPROTO_IPV4, NFPROTO_IPV6, Name, Register, Step};

/// What differs between the families in a packet.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) family: Family,
    pub(super) protocol: u8,
    pub(super) source: u32,
    pub(super) destination: u32,
    pub(super) length: u32,
    /// The type of addresses, for tools.
    pub(super) kind: u32,
    pub(super) digit: &'static str,
}

pub(super) fn layout(family: Family) -> Layout {
    match family {
        Family::V4 => Layout {
            family,
            protocol: NFPROTO_IPV4,
            source: 12,
            destination: 16,
            length: 4,
            kind: 7,
            digit: "4",
        },
        Family::V6 => Layout {
            family,
            protocol: NFPROTO_IPV6,
            source: 8,
            destination: 24,
            length: 16,
            kind: 8,
            digit: "6",
        },
    }
}

impl Layout {
    pub(super) fn set(self, name: &str) -> Name {
        Cow::Owned(format!("{name}{}", self.digit))
    }

    pub(super) fn load_source(self, to: Register) -> Step {
        self.load(self.source, to)
    }

    pub(super) fn load_destination(self, to: Register) -> Step {
        self.load(self.destination, to)
    }

    fn load(self, offset: u32, to: Register) -> Step {
        Step::Network {
            offset,
            length: self.length,
            to,
        }
    }

    pub(super) fn is_family(self) -> [Step; 2] {
        [
            Step::Meta(Meta::NfProto, Register::A),
            Step::Equal(Register::A, vec![self.protocol]),
        ]
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Type of a key of several parts: six bits each. 7 and 8 are addresses, 9 a MAC address, 12 a
/// protocol, 13 a port.
pub(super) fn joined(kinds: &[u32]) -> u32 {
    kinds.iter().fold(0, |sum, kind| sum << 6 | kind)
}
