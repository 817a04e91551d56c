//! What a request means.

use std::net::{IpAddr, SocketAddr};

use aci_core::contract::{AttachRequest, PublishedPort};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::{IpAddressType, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::naming::{self, Naming};
use crate::bridge::ledger::{ATTACH, Wish, port_taken};
use crate::bridge::names::Names;
use crate::bridge::options::BridgeOptions;
use crate::ipam::{VirtualNetwork, find};
use crate::resolv::HostFile;

/// Refuses a port that a program of the host listens on: it would lose it without notice. `others` are
/// the host's addresses without those that it has for groups. What listens on loopback keeps the port
/// there, where none is published.
pub(super) fn listened(
    port: &PublishedPort,
    others: impl FnOnce() -> Result<Vec<IpAddr>>,
) -> Result<()> {
    let bind = |address| may_bind(&port.protocol, SocketAddr::new(address, port.port));
    let in_use = |address| bind(address) == Err(Errno::ADDRINUSE);
    let taken = || port_taken(port, "a program of the host listens on it");
    match bind(port.address) {
        // Our own name server, or one on loopback, may be all that is in the way.
        Err(Errno::ADDRINUSE) if port.address.is_unspecified() => {
            let of_family = |a: &IpAddr| a.is_ipv4() == port.address.is_ipv4();
            let mut published = others()?.into_iter().filter(of_family);
            if published.any(|a| !a.is_loopback() && in_use(a)) {
                return Err(taken());
            }
            Ok(())
        }
        Err(Errno::ADDRINUSE) => Err(taken()),
        Err(Errno::ADDRNOTAVAIL) => Err(port_taken(port, "the host does not have this address")),
        _ => Ok(()),
    }
}

/// Tries to have a port of an address, without listening on it for a moment.
fn may_bind(protocol: &Protocol, address: SocketAddr) -> std::result::Result<(), Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let udp = *protocol == Protocol::Udp;
    let kind = if udp {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if !udp {
        // Connections that ended just now are not in the way; a listener is.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)
}

/// What a request means: the subnet, a fixed address, and what the containers are told.
pub(super) fn wish<'a>(
    request: &'a AttachRequest,
    networks: &'a [VirtualNetwork],
    names: &Names,
    options: &BridgeOptions,
    host: &mut HostFile,
    naming: &Naming,
) -> Result<Wish<'a>> {
    let invalid =
        |message: String| Error::new(ErrorKind::Invalid, ATTACH, message).on(&request.sandbox);
    let (network, subnet) = match request.subnets.as_slice() {
        [] => (&networks[0], &networks[0].subnets()[0]),
        [id] => find(networks, id).ok_or_else(|| {
            let known: Vec<String> = networks
                .iter()
                .flat_map(|n| {
                    n.subnets()
                        .iter()
                        .map(move |s| format!("{}/{}", n.name(), s.name()))
                })
                .collect();
            invalid(format!(
                "subnetIds: '{id}' is unknown here; there is {}",
                known.join(", ")
            ))
            .hint("open the network with this subnet (`BridgeOptions::networks`)")
        })?,
        more => {
            return Err(invalid(format!(
                "subnetIds has {} entries: a group is in one subnet",
                more.len()
            )));
        }
    };
    let private = |type_: &IpAddressType| *type_ == IpAddressType::Private;
    // The address of a public type is given by the platform; a document that has one was exported.
    let fixed = request
        .ip_address
        .as_ref()
        .filter(|a| private(&a.type_))
        .and_then(|a| a.ip.as_deref())
        .map(|text| {
            text.parse()
                .map_err(|_| invalid(format!("ipAddress.ip: '{text}' is not an IP address")))
        })
        .transpose()?;
    let dns = naming::settings(request, subnet, options, host, naming)?;
    let ports: Option<Vec<(Protocol, u16)>> = request.ip_address.as_ref().map(|address| {
        let each = address.ports.iter();
        each.map(|p| (p.protocol.clone().unwrap_or(Protocol::Tcp), p.port))
            .collect()
    });
    let is_public = request
        .ip_address
        .as_ref()
        .is_some_and(|a| !private(&a.type_));
    let from_pool = is_public && !options.public.is_empty();
    let published = if is_public && !from_pool {
        let each = ports.iter().flatten();
        let on_all = |(protocol, port): &(Protocol, u16)| {
            let of_subnet = |a: &&IpAddr| {
                let mut ranges = subnet.prefixes().iter();
                ranges.any(|p| p.addr().is_ipv4() == a.is_ipv4())
            };
            let addresses = options.publish_on.iter().filter(of_subnet);
            let one = |address: &IpAddr| PublishedPort {
                protocol: protocol.clone(),
                address: *address,
                port: *port,
            };
            addresses.map(one).collect::<Vec<_>>()
        };
        each.flat_map(on_all).collect()
    } else {
        Vec::new()
    };
    Ok(Wish {
        published,
        public: ports.clone().filter(|_| from_pool),
        // Without a list, as in a document that was not checked, nothing is closed.
        listed: ports.filter(|p| !p.is_empty()),
        bandwidth: subnet.limit().or(options.bandwidth),
        network,
        sandbox: &request.sandbox,
        link: names.link(&request.sandbox),
        subnet,
        fixed,
        shown: request.ip_address.is_some(),
        group: &request.group,
        hostname: &request.hostname,
        fqdn: naming::fqdn(request, options, naming)?,
        dns,
    })
}
