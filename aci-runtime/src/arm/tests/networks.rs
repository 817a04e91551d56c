//! Virtual networks with a host that makes them, and managed identities with one that names them.

use std::sync::Mutex;

use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use async_trait::async_trait;
use serde_json::json;

use super::operations::polled;
use super::*;
use crate::arm::network::{NetworkAdmin, VirtualNetworkSpec, journaled};
use crate::identity::{IdentityIds, IdentityProvider, IdentityRef, IdentityToken};

/// What the host was told last; it refuses networks with a certain name.
#[derive(Clone, Debug, Default)]
struct Machine(Arc<Mutex<Vec<Vec<VirtualNetworkSpec>>>>);

impl Machine {
    fn last(&self) -> Vec<VirtualNetworkSpec> {
        self.0.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// `net: subnet 10.0.0.0/24, subnet 10.0.1.0/24`
    fn shown(&self) -> String {
        let networks = self.last().into_iter().map(|network| {
            let subnets = network.subnets.iter().map(|s| {
                let prefixes: Vec<_> = s.prefixes.iter().map(ToString::to_string).collect();
                format!("{} {}", s.name, prefixes.join("+"))
            });
            format!(
                "{}: {}",
                network.name,
                subnets.collect::<Vec<_>>().join(", ")
            )
        });
        networks.collect::<Vec<_>>().join("; ")
    }
}

#[async_trait]
impl NetworkAdmin for Machine {
    async fn configure(&self, networks: Vec<VirtualNetworkSpec>) -> Result<()> {
        if networks.iter().any(|n| n.name == "taken") {
            let why = "the host has a route to it";
            return Err(Error::new(ErrorKind::Conflict, "network.configure", why));
        }
        self.0.lock().unwrap().push(networks);
        Ok(())
    }
}

async fn with(machine: &Machine, host: &FakeHost) -> ArmApi {
    builder(host)
        .await
        .authorizer(danger::Everybody)
        .networks(machine.clone())
        .build()
        .await
        .unwrap()
}

fn net(rest: &str) -> String {
    format!("{RG}/providers/Microsoft.Network/virtualNetworks/{rest}?api-version=2023-04-01")
}

fn group(name: &str) -> String {
    format!(
        "{RG}/providers/Microsoft.ContainerInstance/containerGroups/{name}?api-version=2023-05-01"
    )
}

fn network(prefix: &str, subnets: &[(&str, &str)]) -> Value {
    let subnets = subnets
        .iter()
        .map(|(name, prefix)| json!({"name": name, "properties": {"addressPrefix": prefix}}));
    json!({"location": "local", "properties": {
        "addressSpace": {"addressPrefixes": [prefix]}, "subnets": subnets.collect::<Vec<_>>()}})
}

fn member(subnet: &str) -> Value {
    json!({"location": "local", "properties": {"osType": "Linux",
        "subnetIds": [{"id": format!("{RG}/providers/Microsoft.Network/virtualNetworks/{subnet}")}],
        "containers": [{"name": "a", "properties": {"image": "hello",
            "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}}}]}})
}

#[tokio::test]
async fn virtual_networks_are_made_by_the_host_and_stay_while_they_are_used() {
    let (machine, host) = (
        Machine::default(),
        FakeHost::new(Arc::new(TokioClock::new())),
    );
    let api = with(&machine, &host).await;
    let both = network(
        "10.9.0.0/16",
        &[("in", "10.9.1.0/24"), ("more", "10.9.2.0/24")],
    );
    let put =
        async |target: &str, body: &Value| ask(&api, Method::PUT, target, Some(body.clone())).await;
    let code = |answer: &Answer| answer.body["error"]["code"].as_str().unwrap().to_owned();
    assert_eq!(put(&net("n"), &both).await.status, StatusCode::CREATED);
    assert_eq!(machine.shown(), "n: in 10.9.1.0/24, more 10.9.2.0/24");
    let added = json!({"properties": {"addressPrefixes": ["10.9.3.0/24"]}});
    put(&net("n/subnets/third"), &added).await;
    assert!(machine.shown().ends_with("third 10.9.3.0/24"));

    let none = put(&group("g"), &member("n/subnets/none")).await;
    assert_eq!(code(&none), "VirtualNetworkNotFound");
    assert_eq!(none.body["error"]["target"], "properties.subnetIds[0].id");
    let made = put(&group("g"), &member("N/subnets/IN")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);

    // What the group uses stays, by whatever way it would go; the rest may change.
    let told = machine.0.lock().unwrap().len();
    let removed = ask(&api, Method::DELETE, &net("n/subnets/in"), None).await;
    assert_eq!(code(&removed), "InUseSubnetCannotBeDeleted");
    let removed = ask(&api, Method::DELETE, &net("n"), None).await;
    assert_eq!(code(&removed), "InUseSubnetCannotBeDeleted");
    let left_out = put(
        &net("n"),
        &network("10.9.0.0/16", &[("more", "10.9.2.0/24")]),
    )
    .await;
    assert_eq!(code(&left_out), "InUseSubnetCannotBeDeleted");
    let moved = put(&net("n"), &network("10.9.0.0/16", &[("in", "10.9.7.0/24")])).await;
    assert_eq!(code(&moved), "InUsePrefixCannotBeDeleted");
    assert_eq!(
        machine.0.lock().unwrap().len(),
        told,
        "the host heard of it"
    );
    let rest = put(&net("n"), &network("10.9.0.0/16", &[("in", "10.9.1.0/24")])).await;
    assert_eq!(rest.status, StatusCode::OK, "{}", rest.body);
    assert_eq!(machine.shown(), "n: in 10.9.1.0/24");

    // Wrong networks, and those that the host refuses, leave nothing.
    for (name, body, wanted) in [
        (
            "w",
            network("10.8.0.0/16", &[("a", "10.7.0.0/24")]),
            "NetcfgInvalidSubnet",
        ),
        (
            "w",
            network("10.8.0.0/16", &[("a", "10.8.0.0/23"), ("b", "10.8.1.0/24")]),
            "NetcfgSubnetRangesOverlap",
        ),
        ("taken", network("10.8.0.0/16", &[]), "NetworkConflict"),
        (
            "w",
            json!({"location": "local", "properties": {"subnets": [
                {"name": "s", "properties": {"networkSecurityGroup": {"id": "x"}}}]}}),
            "InvalidResourceReference",
        ),
    ] {
        let answer = put(&net(name), &body).await;
        assert_eq!(code(&answer), wanted, "{}", answer.body);
        let got = ask(&api, Method::GET, &net(name), None).await;
        assert_eq!(got.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(machine.shown(), "n: in 10.9.1.0/24");

    // The next program finds them before it has an engine, and its front tells the host again.
    assert_eq!(journaled(host.store.clone()).await.unwrap(), machine.last());
    let again = Machine::default();
    let _second = ArmApi::builder(api.front.engine.clone())
        .store(host.store.clone())
        .networks(again.clone())
        .build()
        .await
        .unwrap();
    assert_eq!(again.last(), machine.last());

    ask(&api, Method::DELETE, &group("g"), None).await;
    let gone = ask(&api, Method::DELETE, &net("n"), None).await;
    assert_eq!(gone.status, StatusCode::OK, "{}", gone.body);
    assert!(machine.last().is_empty());
}

fn rule(priority: u32, port: &str) -> Value {
    json!({"priority": priority, "direction": "inbound", "access": "DENY", "protocol": "tcp",
        "sourceAddressPrefix": "*", "sourcePortRange": "*",
        "destinationAddressPrefixes": ["10.9.1.0/24", "VirtualNetwork"], "destinationPortRange": port})
}

/// What stands in the way of subnets' groups is what clients say, at every moment.
#[tokio::test]
async fn subnets_have_the_rules_routes_and_gateways_that_they_name() {
    let (machine, host) = (
        Machine::default(),
        FakeHost::new(Arc::new(TokioClock::new())),
    );
    let api = with(&machine, &host).await;
    let at = |path: &str| format!("{RG}/providers/Microsoft.Network/{path}?api-version=2023-04-01");
    let id = |path: &str| json!({"id": format!("{RG}/providers/Microsoft.Network/{path}")});
    let put = async |path: &str, body: Value| ask(&api, Method::PUT, &at(path), Some(body)).await;
    let code = |answer: &Answer| answer.body["error"]["code"].as_str().unwrap().to_owned();
    let group = json!({"location": "local", "properties": {
        "securityRules": [{"name": "closed", "properties": rule(200, "8080")}]}});
    let made = put("networkSecurityGroups/nsg", group).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let table = json!({"location": "local", "properties": {"routes": [
        {"name": "away", "properties": {"addressPrefix": "10.50.0.0/16", "nextHopType": "none"}}]}});
    put("routeTables/table", table).await;
    put("publicIPAddresses/ip", json!({"location": "local"})).await;
    let gateway = json!({"location": "local", "properties": {"publicIpAddresses": [id("publicIPAddresses/ip")]}});
    put("natGateways/gw", gateway).await;

    let subnet = json!({"name": "in", "properties": {"addressPrefix": "10.9.1.0/24",
        "networkSecurityGroup": id("networkSecurityGroups/NSG"), "routeTable": id("routeTables/table"),
        "natGateway": id("natGateways/gw")}});
    let network = json!({"location": "local", "properties": {
        "addressSpace": {"addressPrefixes": ["10.9.0.0/16"]}, "subnets": [subnet]}});
    let refused = put("virtualNetworks/n", network.clone()).await;
    assert_eq!(code(&refused), "NotSupported", "{}", refused.body);
    let address = json!({"location": "local", "properties": {"ipAddress": "192.0.2.7"}});
    put("publicIPAddresses/ip", address).await;
    let made = put("virtualNetworks/n", network).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let now = || machine.last()[0].subnets[0].clone();
    assert_eq!(
        now().nat_gateway,
        ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]
    );
    let table = now().route_table.unwrap();
    assert_eq!(table.routes[0].next_hop, "None");
    assert_eq!(table.routes[0].prefix.to_string(), "10.50.0.0/16");
    let first = &now().security_group.unwrap().rules[0];
    assert!(!first.allow && first.inbound && first.protocol == "Tcp");
    assert_eq!(first.destination, ["10.9.1.0/24", "VirtualNetwork"]);
    assert_eq!(first.destination_ports, ["8080"]);

    // A rule that is added is in force at once; one that is wrong changes nothing.
    let more = put(
        "networkSecurityGroups/nsg/securityRules/more",
        json!({"properties": rule(300, "1-2")}),
    );
    assert_eq!(more.await.status, StatusCode::CREATED);
    assert_eq!(now().security_group.unwrap().rules.len(), 2);
    for (field, value, wanted) in [
        ("priority", json!(99), "SecurityRuleInvalidPriority"),
        ("priority", json!(200), "SecurityRuleConflict"),
        (
            "destinationPortRange",
            json!("9-8"),
            "SecurityRuleInvalidPortRange",
        ),
        (
            "sourceAddressPrefix",
            json!("10.0.0.0/33"),
            "SecurityRuleInvalidAddressPrefix",
        ),
        ("access", json!("maybe"), "InvalidRequestFormat"),
        (
            "sourceApplicationSecurityGroups",
            json!([{"id": "x"}]),
            "NotSupported",
        ),
    ] {
        let mut wrong = rule(400, "80");
        wrong[field] = value;
        let wrong = put(
            "networkSecurityGroups/nsg/securityRules/wrong",
            json!({"properties": wrong}),
        )
        .await;
        assert_eq!(code(&wrong), wanted, "{}", wrong.body);
    }
    assert_eq!(now().security_group.unwrap().rules.len(), 2);
    let shown = ask(&api, Method::GET, &at("networkSecurityGroups/nsg"), None).await;
    let shown = &shown.body["properties"];
    assert_eq!(shown["securityRules"][1]["properties"]["priority"], 300);
    assert!(
        shown["subnets"][0]["id"]
            .as_str()
            .unwrap()
            .ends_with("/subnets/in")
    );

    // What is in use stays; afterwards it goes.
    for (path, wanted) in [
        (
            "networkSecurityGroups/nsg",
            "InUseNetworkSecurityGroupCannotBeDeleted",
        ),
        ("routeTables/table", "InUseRouteTableCannotBeDeleted"),
        ("natGateways/gw", "InUseNatGatewayCannotBeDeleted"),
        ("publicIPAddresses/ip", "PublicIPAddressCannotBeDeleted"),
    ] {
        let kept = ask(&api, Method::DELETE, &at(path), None).await;
        assert_eq!(code(&kept), wanted);
    }
    let bare = json!({"properties": {"addressPrefix": "10.9.1.0/24"}});
    put("virtualNetworks/n/subnets/in", bare).await;
    assert!(now().security_group.is_none() && now().nat_gateway.is_empty());
    for path in [
        "networkSecurityGroups/nsg",
        "routeTables/table",
        "natGateways/gw",
        "publicIPAddresses/ip",
    ] {
        let gone = ask(&api, Method::DELETE, &at(path), None).await;
        assert_eq!(gone.status, StatusCode::OK, "{}", gone.body);
    }
    let inner = at("networkSecurityGroups/nsg/securityRules/more");
    assert_eq!(
        ask(&api, Method::GET, &inner, None).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn peerings_are_connected_when_both_sides_have_them() {
    let (machine, host) = (
        Machine::default(),
        FakeHost::new(Arc::new(TokioClock::new())),
    );
    let api = with(&machine, &host).await;
    for (name, prefix) in [("a", "10.1.0.0/16"), ("b", "10.2.0.0/16")] {
        ask(&api, Method::PUT, &net(name), Some(network(prefix, &[]))).await;
    }
    let peer = |other: &str| {
        let id = format!("{RG}/providers/Microsoft.Network/virtualNetworks/{other}");
        Some(json!({"properties": {"remoteVirtualNetwork": {"id": id}}}))
    };
    let at = |name: &str| net(&format!("{name}/virtualNetworkPeerings/p"));
    let first = ask(&api, Method::PUT, &at("a"), peer("b")).await;
    assert_eq!(first.body["properties"]["peeringState"], "Initiated");
    let second = ask(&api, Method::PUT, &at("b"), peer("a")).await;
    assert_eq!(second.body["properties"]["peeringState"], "Connected");
    let peers: Vec<_> = machine.last().into_iter().map(|n| n.peers).collect();
    assert!(peers[0][0].ends_with("/b") && peers[1][0].ends_with("/a"));
    let whole = ask(&api, Method::GET, &net("a"), None).await;
    let shown = &whole.body["properties"]["virtualNetworkPeerings"][0];
    assert_eq!(shown["properties"]["peeringState"], "Connected");
    let wrong = ask(&api, Method::PUT, &at("a"), Some(json!({"properties": {}}))).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn resource_groups_with_networks_that_others_use_stay() {
    let (machine, host) = (
        Machine::default(),
        FakeHost::new(Arc::new(TokioClock::new())),
    );
    let api = with(&machine, &host).await;
    let body = network("10.9.0.0/16", &[("in", "10.9.1.0/24")]);
    ask(&api, Method::PUT, &net("n"), Some(body)).await;
    let elsewhere = group("g").replace("/rg/", "/other/");
    let made = ask(&api, Method::PUT, &elsewhere, Some(member("n/subnets/in"))).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let rg = format!("{RG}?api-version=2021-04-01");
    let blocked = ask(&api, Method::DELETE, &rg, None).await;
    assert_eq!(
        blocked.body["error"]["code"],
        "ResourceGroupDeletionBlocked"
    );
    ask(&api, Method::DELETE, &elsewhere, None).await;
    let deleted = ask(&api, Method::DELETE, &rg, None).await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    polled(&api, deleted.headers["location"].to_str().unwrap()).await;
    assert!(machine.last().is_empty());
}

/// Knows every identity but one.
#[derive(Debug)]
struct Names;

#[async_trait]
impl IdentityProvider for Names {
    async fn ids(&self, group: Option<&GroupRef>, identity: &IdentityRef) -> Result<IdentityIds> {
        let name = match identity {
            IdentityRef::System => group.unwrap().name().to_owned(),
            IdentityRef::User(id) => id.rsplit('/').next().unwrap().to_owned(),
        };
        if name == "unknown" {
            return Err(Error::new(ErrorKind::NotFound, "ids", "there is none"));
        }
        Ok(IdentityIds {
            client_id: format!("client-{name}"),
            principal_id: format!("principal-{name}"),
            tenant_id: "tenant".to_owned(),
        })
    }

    async fn token(&self, _: &GroupRef, _: &IdentityRef, _: &str) -> Result<IdentityToken> {
        unreachable!("no container asks")
    }
}

#[tokio::test]
async fn answers_name_managed_identities() {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    let api = builder(&host).await.authorizer(danger::Everybody);
    let api = api.identities(Arc::new(Names)).build().await.unwrap();
    let id = |name: &str| {
        format!("{RG}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}")
    };
    let at = format!("{}?api-version=2023-01-31", id("own"));
    let made = ask(&api, Method::PUT, &at, Some(json!({"location": "local"}))).await;
    assert_eq!(made.body["properties"]["clientId"], "client-own");
    let body = |user: &str| {
        json!({"location": "local",
        "identity": {"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": {id(user): {}}},
        "properties": {"osType": "Linux", "containers": [{"name": "a", "properties": {"image": "hello",
            "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}}}]}})
    };
    let answer = ask(&api, Method::PUT, &group("g"), Some(body("unknown"))).await;
    assert_eq!(answer.body["error"]["code"], "FailedIdentityOperation");
    assert!(api.front.engine.list().is_empty());
    ask(&api, Method::PUT, &group("g"), Some(body("own"))).await;
    let got = ask(&api, Method::GET, &group("g"), None).await;
    let identity = &got.body["identity"];
    assert_eq!(
        (&identity["principalId"], &identity["tenantId"]),
        (&json!("principal-g"), &json!("tenant")),
        "{}",
        got.body
    );
    assert_eq!(
        identity["userAssignedIdentities"][id("own")],
        json!({"principalId": "principal-own", "clientId": "client-own"})
    );
}
