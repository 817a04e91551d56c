//! The little of rtnetlink(7) that hands what a network driver gave to a sandbox's namespace on to
//! its guest. Compiled into the host library, which reads, and into the agent, which applies.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const GET_NEIGHBOUR: u16 = 30;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// NLMSG_ERROR and NLMSG_DONE.
const ERROR: u16 = 2;
const DONE: u16 = 3;

const UP: u32 = 1;
const PERMANENT: u16 = 0x80;
const ONLINK: u32 = 4;
const MAIN_TABLE: u8 = 254;
/// RTPROT_KERNEL: what comes with an address by itself.
const BY_KERNEL: u8 = 2;
const SCOPE_LINK: u8 = 253;
/// IFA_F_NODAD: nobody else can have it.
const NO_DETECTION: u32 = 2;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const LINK_NAMESPACE: u16 = 28;
const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_FLAGS: u16 = 8;
const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_MAC: u16 = 2;
const ROUTE_TO: u16 = 1;
const ROUTE_LINK: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;

/// Fits every datagram that the kernel makes for a dump.
const BUFFER: usize = 64 * 1024;

/// What a network driver gave to a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wire {
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    /// With the length of each prefix.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    /// Those that are set for good, as no question for them is answered.
    pub(crate) neighbours: Vec<(IpAddr, [u8; 6])>,
    pub(crate) routes: Vec<Route>,
}

/// A route by the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) to: (IpAddr, u8),
    pub(crate) gateway: Option<IpAddr>,
}

/// A link, as far as it is of interest here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    /// The bridge that it is a port of.
    pub(crate) master: Option<u32>,
}

/// A socket in the network namespace of the thread that opened it.
pub(crate) struct Rtnl {
    socket: OwnedFd,
    sequence: u32,
}

/// The body of a message: a fixed header, then attributes.
struct Body(Vec<u8>);

impl Body {
    /// `ifinfomsg`.
    fn link(index: u32, flags: u32) -> Self {
        let mut body = vec![0; 4];
        for word in [index, flags, flags] {
            body.extend(word.to_ne_bytes());
        }
        Self(body)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    fn address(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.with(kind, &address.octets()),
            IpAddr::V6(address) => self.with(kind, &address.octets()),
        }
    }
}

fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    u8::try_from(family.as_raw()).unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

/// The attributes behind a fixed header; what is cut short ends them.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(have, _)| *have == kind)
        .map(|(_, value)| value)
}

impl Rtnl {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE, which is 0.
            None,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn send(&mut self, kind: u16, flags: u16, body: &Body) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(body.0.len() + 16).unwrap_or(u32::MAX);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((flags | REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(&body.0);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Reads answers to the last request until its end: an acknowledgement, an error, or that of a
    /// dump.
    fn answers(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let (read, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..read];
            while let Some(length) = word(rest, 0) {
                let length = usize::try_from(length).unwrap_or(0);
                let Some(message) = rest.get(..length).filter(|_| length >= 16) else {
                    break;
                };
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if word(message, 8) != Some(self.sequence) {
                    continue;
                }
                match half(message, 4) {
                    Some(DONE) => return Ok(()),
                    Some(ERROR) => {
                        let code = word(message, 16).unwrap_or(0).cast_signed();
                        return match code {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => each(&message[16..]),
                }
            }
        }
    }

    fn ask(&mut self, kind: u16, flags: u16, body: &Body) -> io::Result<()> {
        self.send(kind, flags | ACK, body)?;
        self.answers(|_| {})
    }

    /// Hands on the body of each object of a kind.
    fn dump(&mut self, kind: u16, header: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, DUMP, &Body(vec![0; header]))?;
        self.answers(each)
    }

    /// The link of a name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut found = None;
        self.dump(GET_LINK, 16, |body| {
            let Some(rest) = body.get(16..) else { return };
            let named = attribute(rest, LINK_NAME)
                .is_some_and(|have| have.strip_suffix(b"\0") == Some(name.as_bytes()));
            if !named {
                return;
            }
            let number = |kind| attribute(rest, kind).and_then(|value| word(value, 0));
            found = Some(Link {
                index: word(body, 4).unwrap_or(0),
                mac: attribute(rest, LINK_ADDRESS)
                    .and_then(|mac| mac.try_into().ok())
                    .unwrap_or_default(),
                mtu: number(LINK_MTU).unwrap_or(0),
                master: number(LINK_MASTER),
            });
        })?;
        Ok(found)
    }

    /// What a link was given.
    pub(crate) fn wire(&mut self, link: &Link) -> io::Result<Wire> {
        let mut wire = Wire {
            mac: link.mac,
            mtu: link.mtu,
            ..Wire::default()
        };
        self.dump(GET_ADDRESS, 8, |body| {
            let Some(rest) = body.get(8..) else { return };
            let own = attribute(rest, ADDRESS_LOCAL).or_else(|| attribute(rest, ADDRESS));
            if word(body, 4) == Some(link.index)
                && body[3] != SCOPE_LINK
                && let Some(address) = own.and_then(ip)
            {
                wire.addresses.push((address, body[1]));
            }
        })?;
        self.dump(GET_NEIGHBOUR, 12, |body| {
            let Some(rest) = body.get(12..) else { return };
            let address = attribute(rest, NEIGHBOUR_ADDRESS).and_then(ip);
            let mac = attribute(rest, NEIGHBOUR_MAC).and_then(|mac| mac.try_into().ok());
            if word(body, 4) == Some(link.index)
                && half(body, 8).is_some_and(|state| state & PERMANENT != 0)
                && let (Some(address), Some(mac)) = (address, mac)
            {
                wire.neighbours.push((address, mac));
            }
        })?;
        self.dump(GET_ROUTE, 12, |body| {
            let Some(rest) = body.get(12..) else { return };
            let by = attribute(rest, ROUTE_LINK).and_then(|value| word(value, 0));
            if by != Some(link.index) || body[4] != MAIN_TABLE || body[5] == BY_KERNEL {
                return;
            }
            let any = match body[0] == family(Ipv4Addr::UNSPECIFIED.into()) {
                true => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                false => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            };
            let to = attribute(rest, ROUTE_TO).and_then(ip).unwrap_or(any);
            wire.routes.push(Route {
                to: (to, body[1]),
                gateway: attribute(rest, ROUTE_GATEWAY).and_then(ip),
            });
        })?;
        Ok(wire)
    }

    /// Gives a link what another one had, and switches it on. May be repeated.
    pub(crate) fn apply(&mut self, index: u32, wire: &Wire) -> io::Result<()> {
        let settings = Body::link(index, 0)
            .with(LINK_ADDRESS, &wire.mac)
            .number(LINK_MTU, wire.mtu);
        self.ask(NEW_LINK, 0, &settings)?;
        self.set_up(index)?;
        for (address, prefix) in &wire.addresses {
            let body = self::address(index, *address, *prefix);
            self.ask(NEW_ADDRESS, CREATE | REPLACE, &body)?;
        }
        for (address, mac) in &wire.neighbours {
            let mut header = vec![family(*address), 0, 0, 0];
            header.extend(index.to_ne_bytes());
            header.extend(PERMANENT.to_ne_bytes());
            header.extend([0; 2]);
            let body = Body(header)
                .address(NEIGHBOUR_ADDRESS, *address)
                .with(NEIGHBOUR_MAC, mac);
            self.ask(NEW_NEIGHBOUR, CREATE | REPLACE, &body)?;
        }
        for Route { to, gateway } in &wire.routes {
            // RTPROT_BOOT, RT_SCOPE_UNIVERSE or _LINK, RTN_UNICAST.
            let scope = if gateway.is_some() { 0 } else { SCOPE_LINK };
            let mut header = vec![family(to.0), to.1, 0, 0, MAIN_TABLE, 3, scope, 1];
            let flags = if gateway.is_some() { ONLINK } else { 0 };
            header.extend(flags.to_ne_bytes());
            let mut body = Body(header).number(ROUTE_LINK, index);
            if to.1 > 0 {
                body = body.address(ROUTE_TO, to.0);
            }
            if let Some(gateway) = gateway {
                body = body.address(ROUTE_GATEWAY, *gateway);
            }
            self.ask(NEW_ROUTE, CREATE | REPLACE, &body)?;
        }
        Ok(())
    }

    /// Takes addresses from a link, and with them their routes. What is not there is no error.
    pub(crate) fn take(&mut self, index: u32, addresses: &[(IpAddr, u8)]) -> io::Result<()> {
        for (address, prefix) in addresses {
            let body = self::address(index, *address, *prefix);
            match self.ask(DELETE_ADDRESS, 0, &body) {
                Err(error) if error.kind() != io::ErrorKind::AddrNotAvailable => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Switches a link on.
    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.ask(NEW_LINK, 0, &Body::link(index, UP))
    }

    /// Gives a link another MAC address.
    pub(crate) fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.ask(NEW_LINK, 0, &Body::link(index, 0).with(LINK_ADDRESS, &mac))
    }

    /// Sets the largest packet of a link.
    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.ask(NEW_LINK, 0, &Body::link(index, 0).number(LINK_MTU, mtu))
    }

    /// Makes a link a port of a bridge.
    pub(crate) fn set_master(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        self.ask(
            NEW_LINK,
            0,
            &Body::link(index, 0).number(LINK_MASTER, bridge),
        )
    }

    /// Makes a bridge. One that is there is no error.
    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut named = name.as_bytes().to_vec();
        named.push(0);
        let kind = Body(Vec::new()).with(LINK_INFO_KIND, b"bridge\0");
        let body = Body::link(0, 0)
            .with(LINK_NAME, &named)
            .with(LINK_INFO, &kind.0);
        match self.ask(NEW_LINK, CREATE | EXCLUSIVE, &body) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Moves a link into another network namespace.
    pub(crate) fn move_to(&mut self, index: u32, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let number = u32::try_from(namespace.as_fd().as_raw_fd()).unwrap_or(u32::MAX);
        self.ask(
            NEW_LINK,
            0,
            &Body::link(index, 0).number(LINK_NAMESPACE, number),
        )
    }
}

fn address(index: u32, address: IpAddr, prefix: u8) -> Body {
    let mut header = vec![family(address), prefix, 0, 0];
    header.extend(index.to_ne_bytes());
    let body = Body(header)
        .address(ADDRESS_LOCAL, address)
        .address(ADDRESS, address);
    match address {
        IpAddr::V4(_) => body,
        IpAddr::V6(_) => body.number(ADDRESS_FLAGS, NO_DETECTION),
    }
}
