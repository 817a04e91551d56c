//! What a request means.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use aci_core::contract::{AttachRequest, PublishedPort};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::{IpAddressType, Protocol};

use crate::bridge::ledger::{ATTACH, Wish, port_taken};
use crate::bridge::names::Names;
use crate::bridge::options::BridgeOptions;
use crate::ipam::VirtualNetwork;
use crate::resolv;

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
            Err(port_taken(port, "a program of the host listens on it"))
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
    network: &'a VirtualNetwork,
    names: &Names,
    options: &BridgeOptions,
) -> Result<Wish<'a>> {
    let invalid =
        |message: String| Error::new(ErrorKind::Invalid, ATTACH, message).on(&request.sandbox);
    let subnet = match request.subnets.as_slice() {
        [] => &network.subnets()[0],
        [id] => network.find(id).ok_or_else(|| {
            let known: Vec<String> = network
                .subnets()
                .iter()
                .map(|s| format!("{}/{}", network.name(), s.name()))
                .collect();
            invalid(format!(
                "subnetIds: '{id}' is unknown here; there is {}",
                known.join(", ")
            ))
            .hint("open the network with this subnet (`BridgeOptions::network`)")
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
    let dns = match &request.dns {
        Some(dns) => resolv::from_document(dns)?,
        None => std::fs::read_to_string(&options.resolv_conf)
            .map(|text| resolv::from_host(&text))
            .unwrap_or_default(),
    };
    let public = request
        .ip_address
        .as_ref()
        .filter(|a| !private(&a.type_) && !options.publish_on.is_empty());
    let published = public
        .into_iter()
        .flat_map(|a| &a.ports)
        .flat_map(|port| {
            options.publish_on.iter().map(|address| PublishedPort {
                protocol: port.protocol.clone().unwrap_or(Protocol::Tcp),
                address: *address,
                port: port.port,
            })
        })
        .collect();
    Ok(Wish {
        published,
        sandbox: &request.sandbox,
        link: names.link(&request.sandbox),
        subnet,
        fixed,
        shown: request.ip_address.is_some(),
        dns,
    })
}
