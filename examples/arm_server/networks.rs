//! Clients' virtual networks, made beside the machine's own.

use std::sync::Mutex;

use aci_core::error::{Error, ErrorKind, Result};
use aci_net::{
    Access, AddressPrefix, BridgeNetwork, Direction, NextHop, PortRange, RouteTable, RuleProtocol,
    SecurityGroup, SecurityRule, Subnet, VirtualNetwork,
};
use aci_runtime::arm::network::{
    NetworkAdmin, RouteTableSpec, SecurityGroupSpec, SecurityRuleSpec, SubnetSpec,
    VirtualNetworkSpec,
};
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
    let subnets = spec.subnets.iter().map(subnet);
    let subnets = subnets.collect::<Result<Vec<_>>>()?;
    let peers = spec.peers.iter().filter_map(|id| id.rsplit('/').next());
    let network = VirtualNetwork::new(&spec.name, spec.prefixes.clone(), subnets)?;
    Ok(network.peered_with(peers.map(str::to_owned)))
}

fn subnet(spec: &SubnetSpec) -> Result<Subnet> {
    let mut subnet = Subnet::new(&spec.name, spec.prefixes.clone())?;
    if let Some(group) = &spec.security_group {
        subnet = subnet.security_group(security(group)?);
    }
    if let Some(table) = &spec.route_table {
        subnet = subnet.route_table(routes(table)?);
    }
    if !spec.nat_gateway.is_empty() {
        subnet = subnet.nat_gateway(spec.nat_gateway.iter().copied())?;
    }
    Ok(subnet)
}

fn security(spec: &SecurityGroupSpec) -> Result<SecurityGroup> {
    let rules = spec.rules.iter().map(rule);
    SecurityGroup::new(&spec.name, rules.collect::<Result<_>>()?)
}

fn rule(spec: &SecurityRuleSpec) -> Result<SecurityRule> {
    let direction = if spec.inbound {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    let access = if spec.allow {
        Access::Allow
    } else {
        Access::Deny
    };
    let protocol = match spec.protocol.as_str() {
        "Tcp" => RuleProtocol::Tcp,
        "Udp" => RuleProtocol::Udp,
        "Icmp" => RuleProtocol::Icmp,
        "Esp" => RuleProtocol::Esp,
        "Ah" => RuleProtocol::Ah,
        _ => RuleProtocol::Any,
    };
    let addresses = |texts: &[String]| {
        let all = texts.iter().map(|text| text.parse::<AddressPrefix>());
        all.collect::<Result<Vec<_>>>()
    };
    let ports = |texts: &[String]| {
        let all = texts.iter().map(|text| text.parse::<PortRange>());
        all.collect::<Result<Vec<_>>>()
    };
    let rule = SecurityRule::new(&spec.name, spec.priority, direction, access);
    Ok(rule
        .protocol(protocol)
        .source(addresses(&spec.source)?)
        .source_ports(ports(&spec.source_ports)?)
        .destination(addresses(&spec.destination)?)
        .destination_ports(ports(&spec.destination_ports)?))
}

fn routes(spec: &RouteTableSpec) -> Result<RouteTable> {
    let routes = spec.routes.iter().map(|route| {
        let hop = match route.next_hop.as_str() {
            "VnetLocal" => NextHop::VirtualNetwork,
            "VirtualNetworkGateway" => NextHop::Gateway,
            "Internet" => NextHop::Internet,
            "None" => NextHop::None,
            other => {
                let message = format!(
                    "The next hop '{other}' of route '{}' is not possible here: subnets of container groups hold no \
                     machine that forwards for others.",
                    route.name
                );
                return Err(Error::new(ErrorKind::Unsupported, OPERATION, message));
            }
        };
        Ok((route.prefix, hop))
    });
    RouteTable::new(&spec.name, routes.collect::<Result<_>>()?)
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
