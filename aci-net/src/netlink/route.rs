//! Links, addresses, routes and neighbours (`rtnetlink(7)`). Functions that build requests are
//! pure; numbers are those of `include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h`.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use rustix::io::Errno;

use super::codec::{CREATE, EXCLUSIVE, REPLACE, Request, attributes, read_text, read_u32};
use super::socket::{Refusal, Socket};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;

const FAMILY_INET: u8 = 2;
const FAMILY_INET6: u8 = 10;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const LINK_ALIAS: u16 = 20;
const LINK_AF_SPEC: u16 = 26;
const LINK_GROUP: u16 = 27;
const LINK_NETNS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const INET_CONF: u16 = 1;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
const FLAG_UP: u32 = 1;

const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
/// No duplicate address detection: the address is ours alone.
const ADDRESS_NODAD: u8 = 0x02;

const ROUTE_DST: u16 = 1;
const ROUTE_OIF: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_PRIORITY: u16 = 6;
const ROUTE_PREFSRC: u16 = 7;
const TABLE_MAIN: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const NEXT_HOP_ONLINK: u32 = 4;

const NEIGHBOUR_DST: u16 = 1;
const NEIGHBOUR_LLADDR: u16 = 2;
const NEIGHBOUR_PERMANENT: u16 = 0x80;

/// The protocol number that marks our routes; free in `/etc/iproute2/rt_protos`.
pub(crate) const OWN_PROTOCOL: u8 = 0x61;

/// What becomes of a packet that a route matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteKind {
    /// Sent out.
    Unicast = 1,
    /// Refused with an ICMP message; local senders get `EHOSTUNREACH`.
    Unreachable = 7,
}

/// Settings of a link for IPv4 (`IPV4_DEVCONF_*`, `include/uapi/linux/ip.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv4Setting {
    /// Packets that come in here may be forwarded.
    Forwarding = 1,
    /// 1: the sender's address must be routed back over this link.
    ReversePathFilter = 8,
    /// Whether 127.0.0.0/8 may be reached over this link.
    RouteLocalnet = 26,
    /// Whether ICMP redirects are believed.
    AcceptRedirects = 4,
    /// Whether ICMP redirects are sent.
    SendRedirects = 6,
    /// 8: no ARP request is answered.
    ArpIgnore = 19,
}

/// A link of the network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its index.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its group.
    pub(crate) group: u32,
    /// Its alias.
    pub(crate) alias: String,
    /// Largest packet in bytes.
    pub(crate) mtu: u32,
    /// Whether it is set up.
    pub(crate) up: bool,
    /// Whether IPv4 packets that come in here may be forwarded.
    pub(crate) forwards: bool,
}

/// A route of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Where it leads to.
    pub(crate) destination: IpNet,
    /// Who made it.
    pub(crate) protocol: u8,
    /// Its metric.
    pub(crate) metric: u32,
    /// Its type, as the kernel numbers it.
    pub(crate) kind: u8,
    /// The link that it goes out by.
    pub(crate) link: Option<u32>,
}

/// A pair of links, one of them in another network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Pair<'a> {
    /// The name of this side.
    pub(crate) name: &'a str,
    /// The index of this side, or 0 for any.
    pub(crate) index: u32,
    /// The group of this side.
    pub(crate) group: u32,
    /// The MAC address of this side.
    pub(crate) mac: [u8; 6],
    /// The other side's name.
    pub(crate) peer: &'a str,
    /// The other side's index, or 0 for any.
    pub(crate) peer_index: u32,
    /// The other side's MAC address.
    pub(crate) peer_mac: [u8; 6],
    /// Where the other side goes.
    pub(crate) namespace: BorrowedFd<'a>,
    /// Largest packet in bytes, of both.
    pub(crate) mtu: u32,
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Makes a veth pair with the other end in its namespace, in one message.
pub(crate) fn new_pair(pair: &Pair<'_>) -> Request {
    let namespace = pair.namespace.as_raw_fd().cast_unsigned();
    Request::new("create a veth pair", NEW_LINK, CREATE | EXCLUSIVE)
        .raw(&link_header(pair.index, 0, 0))
        .text(LINK_NAME, pair.name)
        .u32(LINK_GROUP, pair.group)
        .u32(LINK_MTU, pair.mtu)
        .attr(LINK_ADDRESS, &pair.mac)
        .nest(LINK_INFO, |info| {
            info.attr(INFO_KIND, b"veth").nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.raw(&link_header(pair.peer_index, 0, 0))
                        .text(LINK_NAME, pair.peer)
                        .u32(LINK_MTU, pair.mtu)
                        .attr(LINK_ADDRESS, &pair.peer_mac)
                        .u32(LINK_NETNS_FD, namespace)
                })
            })
        })
}

/// Makes a bridge without ports, to hold addresses of the host.
pub(crate) fn new_bridge(name: &str, group: u32, mtu: u32) -> Request {
    Request::new("create a bridge", NEW_LINK, CREATE | EXCLUSIVE)
        .raw(&link_header(0, 0, 0))
        .text(LINK_NAME, name)
        .u32(LINK_GROUP, group)
        .u32(LINK_MTU, mtu)
        .nest(LINK_INFO, |info| info.attr(INFO_KIND, b"bridge"))
}

/// Makes a link that gives back what is sent through it, to limit what comes in by another one.
pub(crate) fn new_shaper(name: &str, group: u32, mtu: u32) -> Request {
    Request::new("create an ifb link", NEW_LINK, CREATE | EXCLUSIVE)
        .raw(&link_header(0, 0, 0))
        .text(LINK_NAME, name)
        .u32(LINK_GROUP, group)
        .u32(LINK_MTU, mtu)
        .nest(LINK_INFO, |info| info.attr(INFO_KIND, b"ifb"))
}

/// Gives a link its alias and settings in one message. With `ipv6` the kernel gives it no IPv6 address
/// of its own accord when it is set up; that is refused where IPv6 is switched off.
pub(crate) fn configure(
    index: u32,
    alias: Option<&str>,
    settings: &[(Ipv4Setting, u32)],
    ipv6: bool,
) -> Request {
    let mut request = Request::new("configure a link", SET_LINK, 0).raw(&link_header(index, 0, 0));
    if let Some(alias) = alias {
        request = request.attr(LINK_ALIAS, alias.as_bytes());
    }
    if settings.is_empty() && !ipv6 {
        return request;
    }
    request.nest(LINK_AF_SPEC, |mut spec| {
        if !settings.is_empty() {
            spec = spec.nest(u16::from(FAMILY_INET), |inet| {
                inet.nest(INET_CONF, |conf| {
                    let all = settings.iter();
                    all.fold(conf, |conf, (setting, value)| {
                        conf.u32(*setting as u16, *value)
                    })
                })
            });
        }
        if ipv6 {
            spec = spec.nest(u16::from(FAMILY_INET6), |inet6| {
                inet6.attr(INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE])
            });
        }
        spec
    })
}

/// Sets a link's IPv4 settings.
pub(crate) fn set_ipv4(index: u32, settings: &[(Ipv4Setting, u32)]) -> Request {
    Request::new("configure a link", SET_LINK, 0)
        .raw(&link_header(index, 0, 0))
        .nest(LINK_AF_SPEC, |spec| {
            spec.nest(u16::from(FAMILY_INET), |inet| {
                inet.nest(INET_CONF, |mut conf| {
                    for (setting, value) in settings {
                        conf = conf.u32(*setting as u16, *value);
                    }
                    conf
                })
            })
        })
}

/// Sets a link up.
pub(crate) fn set_up(index: u32) -> Request {
    Request::new("set a link up", SET_LINK, 0).raw(&link_header(index, FLAG_UP, FLAG_UP))
}

/// Moves a link to another group.
pub(crate) fn set_group(index: u32, group: u32) -> Request {
    Request::new("mark a link for removal", SET_LINK, 0)
        .raw(&link_header(index, 0, 0))
        .u32(LINK_GROUP, group)
}

/// Deletes a link by index.
pub(crate) fn delete_link(index: u32) -> Request {
    Request::new("delete a link", DELETE_LINK, 0).raw(&link_header(index, 0, 0))
}

/// Deletes all links of a group as one act.
pub(crate) fn delete_group(group: u32) -> Request {
    Request::new("delete links", DELETE_LINK, 0)
        .raw(&link_header(0, 0, 0))
        .u32(LINK_GROUP, group)
}

/// A request that changes nothing and is refused with `EPERM` to those who may not change links:
/// the kernel checks the right before it looks for the link.
pub(crate) fn may_change_links() -> Request {
    Request::new("change links", DELETE_LINK, 0)
        .raw(&link_header(0, 0, 0))
        .text(LINK_NAME, "aci/none")
}

fn family(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => FAMILY_INET,
        IpAddr::V6(_) => FAMILY_INET6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Gives a link an address that stands alone (/32 or /128).
pub(crate) fn new_address(index: u32, address: IpAddr) -> Request {
    let host = IpNet::from(address);
    let mut header = [family(&address), host.prefix_len(), 0, 0, 0, 0, 0, 0];
    if address.is_ipv6() {
        header[2] = ADDRESS_NODAD;
    }
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new("add an address", NEW_ADDRESS, CREATE | REPLACE)
        .raw(&header)
        .attr(ADDRESS_LOCAL, &octets(address))
        .attr(ADDRESS_ADDRESS, &octets(address))
}

/// Takes an address that stands alone from a link.
pub(crate) fn delete_address(index: u32, address: IpAddr) -> Request {
    let host = IpNet::from(address);
    let mut header = [family(&address), host.prefix_len(), 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new("delete an address", DELETE_ADDRESS, 0)
        .raw(&header)
        .attr(ADDRESS_LOCAL, &octets(address))
        .attr(ADDRESS_ADDRESS, &octets(address))
}

/// All addresses of the socket's namespace with the index of their link.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<(u32, IpAddr)>, Refusal> {
    let request = Request::new("list addresses", GET_ADDRESS, 0).raw(&[0; 8]);
    socket.dump(&request, |body| {
        let list = body.get(8..)?;
        let find = |wanted| attributes(list).find(|(kind, _)| *kind == wanted);
        let (_, value) = find(ADDRESS_LOCAL).or_else(|| find(ADDRESS_ADDRESS))?;
        Some((read_u32(body.get(4..)?)?, read_address(value)?))
    })
}

fn route_header(destination: &IpNet, scope: u8, kind: RouteKind, flags: u32) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family(&destination.addr());
    header[1] = destination.prefix_len();
    header[4] = TABLE_MAIN;
    header[5] = OWN_PROTOCOL;
    header[6] = scope;
    header[7] = kind as u8;
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// Routes an address to a link; local senders use `source`. The metric tells whose route it is.
pub(crate) fn route_to_link(
    destination: IpAddr,
    index: u32,
    source: IpAddr,
    metric: u32,
) -> Request {
    let destination = IpNet::from(destination);
    Request::new("add a route", NEW_ROUTE, CREATE | REPLACE)
        .raw(&route_header(
            &destination,
            SCOPE_LINK,
            RouteKind::Unicast,
            0,
        ))
        .attr(ROUTE_DST, &octets(destination.addr()))
        .attr(ROUTE_PREFSRC, &octets(source))
        .u32(ROUTE_PRIORITY, metric)
        .u32(ROUTE_OIF, index)
}

/// Makes a destination unreachable, in place of a route to it with the same metric.
pub(crate) fn route_unreachable(destination: IpNet, metric: u32) -> Request {
    Request::new("add an unreachable route", NEW_ROUTE, CREATE | REPLACE)
        .raw(&route_header(
            &destination,
            SCOPE_UNIVERSE,
            RouteKind::Unreachable,
            0,
        ))
        .attr(ROUTE_DST, &octets(destination.network()))
        .u32(ROUTE_PRIORITY, metric)
}

/// Sends everything else to a gateway that need not be in a subnet of the link.
pub(crate) fn default_route(gateway: IpAddr, index: u32) -> Request {
    let all = match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    Request::new("add a default route", NEW_ROUTE, CREATE | REPLACE)
        .raw(&route_header(
            &all,
            SCOPE_UNIVERSE,
            RouteKind::Unicast,
            NEXT_HOP_ONLINK,
        ))
        .attr(ROUTE_GATEWAY, &octets(gateway))
        .u32(ROUTE_OIF, index)
}

/// Deletes the route to a destination with our metric, of whatever type.
pub(crate) fn delete_route(destination: IpNet, metric: u32) -> Request {
    let mut header = route_header(&destination, 255, RouteKind::Unicast, 0);
    header[7] = 0;
    Request::new("delete a route", DELETE_ROUTE, 0)
        .raw(&header)
        .attr(ROUTE_DST, &octets(destination.network()))
        .u32(ROUTE_PRIORITY, metric)
}

/// Ties an address to a MAC address on a link, so that nothing is asked or answered by ARP.
pub(crate) fn new_neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Request {
    let mut header = [0; 12];
    header[0] = family(&address);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&NEIGHBOUR_PERMANENT.to_ne_bytes());
    Request::new("add a neighbour", NEW_NEIGHBOUR, CREATE | REPLACE)
        .raw(&header)
        .attr(NEIGHBOUR_DST, &octets(address))
        .attr(NEIGHBOUR_LLADDR, &mac)
}

fn read_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: read_u32(body.get(4..)?)?,
        up: read_u32(body.get(8..)?)? & FLAG_UP != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            LINK_NAME => link.name = read_text(value),
            LINK_ALIAS => link.alias = read_text(value),
            LINK_GROUP => link.group = read_u32(value)?,
            LINK_MTU => link.mtu = read_u32(value)?,
            LINK_AF_SPEC => link.forwards = read_forwarding(value).unwrap_or(false),
            _ => {}
        }
    }
    Some(link)
}

/// The first of a link's IPv4 settings, from the list that the kernel gives in order.
fn read_forwarding(value: &[u8]) -> Option<bool> {
    let find = |list, wanted| {
        attributes(list)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    let conf = find(find(value, u16::from(FAMILY_INET))?, INET_CONF)?;
    Some(read_u32(conf)? != 0)
}

fn read_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

fn read_route(body: &[u8]) -> Option<Route> {
    let [family, length, _, _, _, protocol, _, kind] = *body.first_chunk()?;
    let mut address = match family {
        FAMILY_INET => IpAddr::from([0; 4]),
        FAMILY_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut link = None;
    let mut metric = 0;
    for (attribute, value) in attributes(body.get(12..)?) {
        match attribute {
            ROUTE_DST => address = read_address(value)?,
            ROUTE_OIF => link = read_u32(value),
            ROUTE_PRIORITY => metric = read_u32(value)?,
            _ => {}
        }
    }
    Some(Route {
        destination: IpNet::new(address, length).ok()?,
        protocol,
        metric,
        kind,
        link,
    })
}

/// All links of the socket's namespace.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>, Refusal> {
    let request = Request::new("list links", GET_LINK, 0).raw(&link_header(0, 0, 0));
    socket.dump(&request, read_link)
}

/// The link of a name, if there is one.
pub(crate) fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>, Refusal> {
    let request = Request::new("look a link up", GET_LINK, 0)
        .raw(&link_header(0, 0, 0))
        .text(LINK_NAME, name);
    match socket.get(request, read_link) {
        Err(refusal) if refusal.errno == Errno::NODEV => Ok(None),
        other => other,
    }
}

/// All routes of all tables, both families.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<Route>, Refusal> {
    let request = Request::new("list routes", GET_ROUTE, 0).raw(&[0; 12]);
    socket.dump(&request, read_route)
}
