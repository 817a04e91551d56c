//! Clients' virtual networks, made beside the machine's own.

use std::sync::Mutex;

use aci_core::error::{Error, ErrorKind, Result};
use aci_net::{BridgeNetwork, Subnet, VirtualNetwork};
use aci_runtime::arm::network::{NetworkAdmin, VirtualNetworkSpec};
use async_trait::async_trait;

const OPERATION: &str = "network.configure";

/// The machine's network, changed as clients say.
#[derive(Debug)]
pub(crate) struct Networks {
    bridge: BridgeNetwork,
    /// For groups that name no subnet.
    own: VirtualNetwork,
    /// What is in force.
    last: Mutex<Vec<VirtualNetworkSpec>>,
}

impl Networks {
    /// Takes over a network that was opened with default options.
    pub(crate) async fn over(bridge: BridgeNetwork) -> Result<Self> {
        let report = bridge.report().await?;
        let own = report.networks.first();
        let prefixes = own.and_then(|n| n.subnets.first()).map(|(_, p)| p.clone());
        let prefixes = prefixes.unwrap_or_default();
        let subnet = Subnet::new("default", prefixes.clone())?;
        Ok(Self {
            own: VirtualNetwork::new("default", prefixes, vec![subnet])?,
            bridge,
            last: Mutex::default(),
        })
    }
}

/// Networks are told apart by their names here, whatever their resource groups are.
fn made(spec: &VirtualNetworkSpec) -> Result<VirtualNetwork> {
    if spec.name.eq_ignore_ascii_case("default") {
        return Err(Error::new(
            ErrorKind::Conflict,
            OPERATION,
            "The virtual network 'default' is this machine's own; choose another name.",
        ));
    }
    let subnets = spec
        .subnets
        .iter()
        .map(|s| Subnet::new(&s.name, s.prefixes.clone()));
    let subnets = subnets.collect::<Result<Vec<_>>>()?;
    let peers = spec.peers.iter().filter_map(|id| id.rsplit('/').next());
    let network = VirtualNetwork::new(&spec.name, spec.prefixes.clone(), subnets)?;
    Ok(network.peered_with(peers.map(str::to_owned)))
}

#[async_trait]
impl NetworkAdmin for Networks {
    async fn configure(&self, networks: Vec<VirtualNetworkSpec>) -> Result<()> {
        let same = |last: &Vec<VirtualNetworkSpec>| *last == networks;
        if self.last.lock().is_ok_and(|last| same(&last)) {
            return Ok(());
        }
        let mut all = vec![self.own.clone()];
        for spec in networks.iter().filter(|spec| !spec.subnets.is_empty()) {
            all.push(made(spec)?);
        }
        self.bridge.configure(all).await?;
        if let Ok(mut last) = self.last.lock() {
            *last = networks;
        }
        Ok(())
    }
}
