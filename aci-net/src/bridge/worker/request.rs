//! What a request means.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use aci_core::contract::{AttachRequest, PublishedPort};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::{IpAddressType, Protocol};

use super::naming::{self, Naming};
use crate::bridge::ledger::{ATTACH, Wish, port_taken};
use crate::bridge::names::Names;
use crate::bridge::options::BridgeOptions;
use crate::ipam::{VirtualNetwork, find};

/// Refuses a port that a program of the host listens on: it would lose it without notice.
pub(super) fn listened(port: &PublishedPort) -> Result<()> {
    let address = SocketAddr::new(port.address, port.port);
    let tried = if port.protocol == Protocol::Udp {
        UdpSocket::bind(address).map(drop)
    } else {
        TcpListener::bind(address).map(drop)
    };
    match tried {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let who = if port.port == 53 && port.address.is_unspecified() {
                // It answers on the gateways, which are addresses of the host too.
                "the network's own name server, or a program of the host, listens on it"
            } else {
                "a program of the host listens on it"
            };
            Err(port_taken(port, who))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            Err(port_taken(port, "the host does not have this address"))
        }
        _ => Ok(()),
    }
}

/// What a request means: the subnet, a fixed address, and what the containers are told.
pub(super) fn wish<'a>(
    request: &'a AttachRequest,
    networks: &'a [VirtualNetwork],
    names: &Names,
    options: &BridgeOptions,
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
    let dns = naming::settings(request, subnet, options, naming)?;
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
