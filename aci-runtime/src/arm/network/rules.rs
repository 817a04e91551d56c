//! What subnets have beside their ranges: security groups, route tables, NAT gateways. They are
//! resources of their own, which subnets name by id.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::super::Front;
use super::super::error::{ArmError, ArmResult};
use super::super::records::Change;
use super::super::resources::{self, Kept};
use super::SUBNET;

const SECURITY: &str = "Microsoft.Network/networkSecurityGroups";
const RULE: &str = "Microsoft.Network/networkSecurityGroups/securityRules";
const ROUTES: &str = "Microsoft.Network/routeTables";
const ROUTE: &str = "Microsoft.Network/routeTables/routes";
const NAT: &str = "Microsoft.Network/natGateways";
const PUBLIC: &str = "Microsoft.Network/publicIPAddresses";

/// All of them.
pub(super) const KINDS: [&str; 6] = [SECURITY, RULE, ROUTES, ROUTE, NAT, PUBLIC];

/// A network security group that clients want before a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecurityGroupSpec {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its rules, by name; Azure's default rules come after them and are not among them.
    pub rules: Vec<SecurityRuleSpec>,
}

/// A rule of a [`SecurityGroupSpec`]. Addresses and ports are in Azure's form: `*`, a service tag,
/// an address or a range; `*`, `80` or `8000-8999`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecurityRuleSpec {
    /// Its name, unique in its group.
    pub name: String,
    /// 100 to 4096; the smaller is tried first.
    pub priority: u16,
    /// Whether it is about what comes to groups, or what they begin.
    pub inbound: bool,
    /// Whether it lets through, or drops.
    pub allow: bool,
    /// `*`, `Tcp`, `Udp`, `Icmp`, `Esp` or `Ah`.
    pub protocol: String,
    /// Senders.
    pub source: Vec<String>,
    /// Ports of the sender.
    pub source_ports: Vec<String>,
    /// Receivers.
    pub destination: Vec<String>,
    /// Ports of the receiver.
    pub destination_ports: Vec<String>,
}

/// A route table that clients want for a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteTableSpec {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its routes, by name.
    pub routes: Vec<RouteSpec>,
}

/// A route of a [`RouteTableSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteSpec {
    /// Its name.
    pub name: String,
    /// Where packets go to.
    pub prefix: IpNet,
    /// `VirtualNetworkGateway`, `VnetLocal`, `Internet`, `VirtualAppliance` or `None`.
    pub next_hop: String,
}

/// What a subnet has.
pub(super) struct Rules {
    pub(super) security: Option<SecurityGroupSpec>,
    pub(super) routes: Option<RouteTableSpec>,
    pub(super) nat: Vec<IpAddr>,
}

fn wrong(code: &'static str, message: String) -> ArmError {
    ArmError::bad_request(code, message)
}

/// One of these texts, in their own case.
fn choice(what: &str, value: &Value, field: &str, choices: &[&str]) -> ArmResult<String> {
    let given = value[field].as_str().unwrap_or_default();
    let found = choices.iter().find(|c| c.eq_ignore_ascii_case(given));
    found.map(|c| (*c).to_owned()).ok_or_else(|| {
        let message = format!("'{field}' of {what} must be one of {}.", choices.join(", "));
        wrong("InvalidRequestFormat", message).target(format!("properties.{field}"))
    })
}

/// The texts of a field that has a singular and a plural form.
fn texts(value: &Value, one: &str, many: &str) -> Vec<String> {
    let of = |value: &Value| value.as_str().map(str::to_owned);
    let all = value[many].as_array().into_iter().flatten();
    let all: Vec<String> = all.filter_map(of).collect();
    if all.is_empty() {
        of(&value[one]).into_iter().collect()
    } else {
        all
    }
}

fn is_port(text: &str) -> bool {
    let port = |text: &str| text.trim().parse::<u16>().ok();
    match text.split_once('-') {
        Some((first, last)) => {
            port(first).is_some_and(|first| port(last).is_some_and(|last| first <= last))
        }
        None => text == "*" || port(text).is_some(),
    }
}

/// Whether it is a range, an address, or looks as a service tag does; which tags mean something is
/// the host's to know.
fn is_prefix(text: &str) -> bool {
    let is_tag = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    text == "*" || is_tag || text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok()
}

/// Reads a security rule.
///
/// # Errors
/// What is wrong with it, with Azure's codes.
pub(crate) fn rule(name: &str, properties: &Value) -> ArmResult<SecurityRuleSpec> {
    let what = format!("security rule '{name}'");
    for field in [
        "sourceApplicationSecurityGroups",
        "destinationApplicationSecurityGroups",
    ] {
        if properties[field].as_array().is_some_and(|a| !a.is_empty()) {
            let message = format!("This server has no application security groups ({what}).");
            return Err(wrong("NotSupported", message).target(format!("properties.{field}")));
        }
    }
    let priority = properties["priority"].as_u64();
    let priority = priority.and_then(|p| u16::try_from(p).ok());
    let priority = priority.filter(|p| (100..=4096).contains(p));
    let Some(priority) = priority else {
        let message = format!("The priority of {what} must be a number from 100 to 4096.");
        return Err(wrong("SecurityRuleInvalidPriority", message));
    };
    let addresses = |one, many| {
        let all = texts(properties, one, many);
        if !all.is_empty() && all.iter().all(|text| is_prefix(text)) {
            return Ok(all);
        }
        let message = format!(
            "'{one}' of {what} must be '*', a service tag, an address or a range, or '{many}' a list of them."
        );
        Err(wrong("SecurityRuleInvalidAddressPrefix", message))
    };
    let ports = |one, many| {
        let all = texts(properties, one, many);
        if !all.is_empty() && all.iter().all(|text| is_port(text)) {
            return Ok(all);
        }
        let message = format!(
            "'{one}' of {what} must be '*', a port or first-last, or '{many}' a list of them."
        );
        Err(wrong("SecurityRuleInvalidPortRange", message))
    };
    let protocols = ["*", "Tcp", "Udp", "Icmp", "Esp", "Ah"];
    Ok(SecurityRuleSpec {
        priority,
        inbound: choice(&what, properties, "direction", &["Inbound", "Outbound"])? == "Inbound",
        allow: choice(&what, properties, "access", &["Allow", "Deny"])? == "Allow",
        protocol: choice(&what, properties, "protocol", &protocols)?,
        source: addresses("sourceAddressPrefix", "sourceAddressPrefixes")?,
        source_ports: ports("sourcePortRange", "sourcePortRanges")?,
        destination: addresses("destinationAddressPrefix", "destinationAddressPrefixes")?,
        destination_ports: ports("destinationPortRange", "destinationPortRanges")?,
        name: name.to_owned(),
    })
}

/// Reads a route.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn route(name: &str, properties: &Value) -> ArmResult<RouteSpec> {
    let prefix = resources::prefix(&properties["addressPrefix"])?;
    let hops = [
        "VirtualNetworkGateway",
        "VnetLocal",
        "Internet",
        "VirtualAppliance",
        "None",
    ];
    Ok(RouteSpec {
        next_hop: choice(&format!("route '{name}'"), properties, "nextHopType", &hops)?,
        name: name.to_owned(),
        prefix,
    })
}

/// Takes the rules or routes that stand in a body out of it, as resources of their own; those that
/// the body leaves out are gone. Nothing happens where the body does not speak of them.
///
/// # Errors
/// What is wrong with one.
pub(crate) fn inner(
    front: &Front,
    kind: &str,
    id: &str,
    properties: &mut Map<String, Value>,
) -> ArmResult<Vec<Change>> {
    let (list, kind) = if kind == "routeTables" {
        ("routes", ROUTE)
    } else {
        ("securityRules", RULE)
    };
    properties.remove("defaultSecurityRules");
    let Some(given) = properties.remove(list) else {
        return Ok(Vec::new());
    };
    let old = front
        .records
        .keys(&format!("{}/{list}/", resources::key(id)));
    let mut changes: Vec<Change> = old.iter().map(|key| Change::remove(key)).collect();
    for one in given.as_array().into_iter().flatten() {
        let (Some(name), Some(inner)) = (one["name"].as_str(), one["properties"].as_object())
        else {
            let message = format!("Each of '{list}' needs a 'name' and 'properties'.");
            return Err(
                wrong("InvalidRequestContent", message).target(format!("properties.{list}"))
            );
        };
        fits(kind, name, &one["properties"])?;
        let id = format!("{id}/{list}/{name}");
        let kept = Kept::inner(front, kind, &id, name, inner.clone());
        changes.push(Change::put(&resources::key(&id), &kept)?);
    }
    Ok(changes)
}

/// Judges a resource's properties.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn fits(kind: &str, name: &str, properties: &Value) -> ArmResult<()> {
    match kind {
        RULE => rule(name, properties).map(drop),
        ROUTE => route(name, properties).map(drop),
        PUBLIC => {
            let address = &properties["ipAddress"];
            let text = address.as_str().unwrap_or_default();
            if address.is_null() || text.parse::<IpAddr>().is_ok() {
                return Ok(());
            }
            let message = "'properties.ipAddress' must be an address.".to_owned();
            Err(wrong("InvalidIPAddress", message).target("properties.ipAddress"))
        }
        _ => Ok(()),
    }
}

type All = BTreeMap<String, Kept>;

/// What a resource names: the id, its kind, and the code of the refusal to delete that.
fn named(kept: &Kept) -> Vec<(&str, &'static str, &'static str)> {
    let p = &kept.properties;
    match kept.kind.as_str() {
        SUBNET => [
            (
                "networkSecurityGroup",
                SECURITY,
                "InUseNetworkSecurityGroupCannotBeDeleted",
            ),
            ("routeTable", ROUTES, "InUseRouteTableCannotBeDeleted"),
            ("natGateway", NAT, "InUseNatGatewayCannotBeDeleted"),
        ]
        .into_iter()
        .filter_map(|(field, kind, code)| Some((p[field]["id"].as_str()?, kind, code)))
        .collect(),
        NAT => {
            let addresses = p["publicIpAddresses"].as_array().into_iter().flatten();
            addresses
                .filter_map(|a| a["id"].as_str())
                .map(|id| (id, PUBLIC, "PublicIPAddressCannotBeDeleted"))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// What resources name is there and stays; rules of one group do not contradict each other.
///
/// # Errors
/// `InvalidResourceReference`, `InUse...CannotBeDeleted`, `SecurityRuleConflict`.
pub(super) fn hold(before: &All, after: &All) -> ArmResult<()> {
    for (key, kept) in after {
        for (id, kind, in_use) in named(kept) {
            let target = resources::key(id);
            let is_there = |all: &All| all.get(&target).is_some_and(|k| k.kind == kind);
            if is_there(after) {
                continue;
            }
            if is_there(before) {
                let message = format!("{id} cannot be deleted because {} uses it.", kept.id);
                return Err(wrong(in_use, message));
            }
            // One that was kept in earlier times does not come between later changes.
            let old = before.get(key).map(named).unwrap_or_default();
            if !old.iter().any(|(old, ..)| *old == id) {
                let message = format!(
                    "Resource {id} referenced by resource {} was not found. Please make sure that the referenced \
                     resource exists.",
                    kept.id
                );
                return Err(wrong("InvalidResourceReference", message));
            }
        }
    }
    for group in after.values().filter(|k| k.kind == SECURITY) {
        let rules = security(after, group).rules;
        for (at, rule) in rules.iter().enumerate() {
            let same = |other: &&SecurityRuleSpec| {
                (other.inbound, other.priority) == (rule.inbound, rule.priority)
            };
            if let Some(other) = rules[..at].iter().find(same) {
                let message = format!(
                    "Security rule {} conflicts with rule {}. Rules cannot have the same Priority and Direction.",
                    rule.name, other.name
                );
                return Err(wrong("SecurityRuleConflict", message));
            }
        }
    }
    Ok(())
}

/// Refuses NAT gateways without an address: a host has none to give away.
///
/// # Errors
/// `NotSupported`.
pub(super) fn have_addresses(all: &All) -> ArmResult<()> {
    for subnet in all.values().filter(|k| k.kind == SUBNET) {
        if subnet.properties["natGateway"]["id"].is_string() && of(all, subnet).nat.is_empty() {
            let message = format!(
                "The NAT gateway of subnet '{}' has no address. This server has none to give away: name one that is \
                 routed to its machine as 'properties.ipAddress' of the gateway's public IP address.",
                subnet.name
            );
            return Err(wrong("NotSupported", message).target("properties.natGateway"));
        }
    }
    Ok(())
}

fn below<'a>(all: &'a All, outer: &Kept, kind: &'static str) -> impl Iterator<Item = &'a Kept> {
    let prefix = format!("{}/", resources::key(&outer.id));
    all.range(prefix.clone()..)
        .take_while(move |(key, _)| key.starts_with(&prefix))
        .map(|(_, kept)| kept)
        .filter(move |kept| kept.kind == kind)
}

fn security(all: &All, group: &Kept) -> SecurityGroupSpec {
    SecurityGroupSpec {
        id: group.id.clone(),
        name: group.name.clone(),
        rules: below(all, group, RULE)
            .filter_map(|kept| rule(&kept.name, &kept.properties).ok())
            .collect(),
    }
}

/// What a subnet has.
pub(super) fn of(all: &All, subnet: &Kept) -> Rules {
    let find = |wanted: &'static str| {
        let named = named(subnet).into_iter();
        let id = named.filter(|(_, kind, _)| *kind == wanted).map(|n| n.0);
        id.filter_map(|id| all.get(&resources::key(id)))
            .find(|kept| kept.kind == wanted)
    };
    let nat = find(NAT).map(named).unwrap_or_default();
    Rules {
        security: find(SECURITY).map(|group| security(all, group)),
        routes: find(ROUTES).map(|table| RouteTableSpec {
            id: table.id.clone(),
            name: table.name.clone(),
            routes: below(all, table, ROUTE)
                .filter_map(|kept| route(&kept.name, &kept.properties).ok())
                .collect(),
        }),
        nat: nat
            .iter()
            .filter_map(|(id, ..)| all.get(&resources::key(id)))
            .filter_map(|kept| kept.properties["ipAddress"].as_str()?.parse().ok())
            .collect(),
    }
}

/// Adds to an answer what is kept of a resource elsewhere: its rules or routes, and who uses it.
pub(crate) fn show(front: &Front, kept: &Kept, value: &mut Value) {
    let list = match kept.kind.as_str() {
        SECURITY => Some("securityRules"),
        ROUTES => Some("routes"),
        NAT => None,
        _ => return,
    };
    if let Some(list) = list {
        let inner = format!("{}/{list}/", resources::key(&kept.id));
        let inner = front.records.list::<Kept>(&inner).into_iter();
        value["properties"][list] = inner.map(|(_, one)| one.value()).collect();
    }
    let users = super::kept(&front.records).into_values();
    let users = users.filter(|other| {
        let mut named = named(other).into_iter();
        other.kind == SUBNET && named.any(|(id, ..)| id.eq_ignore_ascii_case(&kept.id))
    });
    value["properties"]["subnets"] = users.map(|subnet| json!({"id": subnet.id})).collect();
}
