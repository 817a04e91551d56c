//! Ours.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aci_benches::contest::{Contestant, Sample, milliseconds};
use aci_core::contract::{AttachRequest, NamespaceHandle, NetworkDriver, NetworkEndpoint};
use aci_core::model::{IpAddress, IpAddressType, Port};
use aci_net::{BridgeNetwork, BridgeOptions};
use async_trait::async_trait;

use crate::{ATTACH, DETACH, namespace};

pub(crate) struct Ours {
    network: BridgeNetwork,
    count: u32,
    _directory: tempfile::TempDir,
    _resident: Arc<OwnedFd>,
}

/// A group that wants a network, with a published port if one is given.
pub(crate) fn request(
    name: &str,
    net: &Arc<OwnedFd>,
    port: Option<u16>,
) -> anyhow::Result<AttachRequest> {
    let address = port.map(|port| IpAddress {
        type_: IpAddressType::Public,
        ports: vec![Port {
            port,
            ..Port::default()
        }],
        ..IpAddress::default()
    });
    Ok(AttachRequest {
        sandbox: name.parse()?,
        group: name.into(),
        location: "local".to_owned(),
        endpoint: NetworkEndpoint::Namespace(NamespaceHandle {
            pid: std::process::id(),
            net: Arc::clone(net),
        }),
        hostname: name.to_owned(),
        ip_address: address,
        subnets: Vec::new(),
        dns: None,
    })
}

impl Ours {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let options = BridgeOptions::new(directory.path())
            .address_rest(Duration::from_secs(1))
            .publish_on(["0.0.0.0".parse()?]);
        let network = BridgeNetwork::open(options).await?;
        let resident = Arc::new(namespace()?);
        network
            .attach(request("resident", &resident, None)?)
            .await?;
        Ok(Self {
            network,
            count: 0,
            _directory: directory,
            _resident: resident,
        })
    }

    pub(crate) fn network(&self) -> BridgeNetwork {
        self.network.clone()
    }
}

#[async_trait(?Send)]
impl Contestant for Ours {
    fn name(&self) -> &str {
        "aci-net"
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.count += 1;
        let net = Arc::new(namespace()?);
        let request = request(&format!("one-{}", self.count), &net, Some(8080))?;
        let sandbox = request.sandbox.clone();
        let begin = Instant::now();
        self.network.attach(request).await?;
        let attach = begin.elapsed();
        let begin = Instant::now();
        self.network.detach(&sandbox).await?;
        let detach = begin.elapsed();
        Ok(vec![
            (ATTACH, milliseconds(attach)),
            (DETACH, milliseconds(detach)),
        ])
    }
}
