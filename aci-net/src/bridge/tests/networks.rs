//! Several virtual networks, and what stands before their subnets: security groups, routes, gateways.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use aci_core::contract::{AttachRequest, Attachment, NetworkDriver};
use aci_core::error::ErrorKind;
use aci_core::model::Protocol;
use ipnet::IpNet;

use super::lab::{
    Group, Lab, Outside, ask_udp, connect, listen_udp, public, root, serve, serve_on, serve_udp,
    within,
};
use crate::bridge::BridgeNetwork;
use crate::{
    Access, AddressPrefix, Direction, NextHop, PortRange, RouteTable, RuleProtocol, SecurityGroup,
    SecurityRule, Subnet, VirtualNetwork,
};

const HOST: &str = "192.0.2.1";
const NET: &str = "192.0.2.254";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn own(attachment: &Attachment) -> IpAddr {
    attachment.addresses[0].addr()
}

/// A request for a subnet by its ARM id.
fn in_subnet(group: &Group, network: &str, subnet: &str) -> AttachRequest {
    let mut request = group.request();
    request.subnets = vec![format!(
        "/subscriptions/0/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/{network}/subnets/{subnet}"
    )];
    request
}

/// A virtual network of one subnet `s` with both families.
fn network(name: &str, second: u8, peers: &[&str]) -> VirtualNetwork {
    let ranges = vec![
        net(&format!("10.{second}.0.0/16")),
        net(&format!("fd00:{second}::/64")),
    ];
    let subnet = Subnet::new("s", ranges.clone()).unwrap();
    VirtualNetwork::new(name, ranges, vec![subnet])
        .unwrap()
        .peered_with(peers.iter().map(ToString::to_string))
}

#[tokio::test]
async fn virtual_networks_are_apart_until_both_are_peered() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let apart = vec![network("red", 1, &[]), network("blue", 2, &[])];
    let options = || lab.options().networks(apart.clone());
    let driver = BridgeNetwork::open(options()).await.unwrap();
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = driver.attach(in_subnet(&a, "RED", "s")).await.unwrap();
    let at_b = driver.attach(in_subnet(&b, "blue", "S")).await.unwrap();
    assert_eq!(at_b.addresses[0], net("10.2.0.4/16"));
    serve(&a.namespace, 80, "a");
    serve(&b.namespace, 80, "b");
    serve_udp(&b.namespace, 53, "b");
    let reached = || {
        let all = at_b.addresses.iter().map(IpNet::addr);
        let tcp: Vec<bool> = all
            .map(|to| connect(&a.namespace, to, 80).is_ok())
            .collect();
        let udp = ask_udp(&a.namespace, SocketAddr::new(own(&at_b), 53)).is_ok();
        (tcp, udp)
    };
    assert_eq!(reached(), (vec![false, false], false));
    assert_eq!(connect(&lab.host, own(&at_a), 80).unwrap().0, "a");
    assert_eq!(connect(&lab.host, own(&at_b), 80).unwrap().0, "b");
    // One side alone is not enough; both are, while the groups run.
    let one_side = vec![network("red", 1, &["blue"]), network("blue", 2, &[])];
    driver.configure(one_side).await.unwrap();
    assert_eq!(reached(), (vec![false, false], false));
    let both = vec![network("red", 1, &["Blue"]), network("blue", 2, &["red"])];
    driver.configure(both).await.unwrap();
    assert_eq!(reached(), (vec![true, true], true));
    assert_eq!(connect(&a.namespace, own(&at_b), 80).unwrap().1, own(&at_a));
    driver.configure(apart.clone()).await.unwrap();
    assert_eq!(
        connect(&a.namespace, own(&at_b), 80).unwrap_err().kind(),
        IoKind::HostUnreachable
    );
    // A network in which a group has no place is refused, now and at the next opening.
    let lost = vec![network("red", 1, &[])];
    let error = driver.configure(lost.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.message().contains("b-test") && error.message().contains("blue"),
        "{error}"
    );
    let error = driver
        .configure(vec![network("red", 1, &[]), network("blue", 1, &[])])
        .await
        .unwrap_err();
    assert!(error.message().contains("common addresses"), "{error}");
    drop(driver);
    let error = BridgeNetwork::open(lab.options().networks(lost))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // A further network may come while groups are attached.
    let more = [apart.clone(), vec![network("green", 3, &[])]].concat();
    let driver = BridgeNetwork::open(lab.options().networks(more))
        .await
        .unwrap();
    let c = lab.group("c");
    let at_c = driver.attach(in_subnet(&c, "green", "s")).await.unwrap();
    assert_eq!(at_c.addresses[0], net("10.3.0.4/16"));
    for group in [&a, &b, &c] {
        driver.detach(&group.id).await.unwrap();
    }
    lab.assert_clean();
}

fn prefix(text: &str) -> AddressPrefix {
    text.parse().unwrap()
}

fn inbound(name: &str, priority: u16, access: Access) -> SecurityRule {
    SecurityRule::new(name, priority, Direction::Inbound, access)
}

fn guarded(rules: Vec<SecurityRule>) -> VirtualNetwork {
    let security = SecurityGroup::new("web", rules).unwrap();
    let subnets = vec![
        Subnet::new("front", vec![net("10.5.0.0/24"), net("fd00:5::/64")])
            .unwrap()
            .security_group(security),
        Subnet::new("back", vec![net("10.5.1.0/24"), net("fd00:5:0:1::/64")]).unwrap(),
        Subnet::new("other", vec![net("10.5.2.0/24")]).unwrap(),
    ];
    let ranges = vec![net("10.5.0.0/16"), net("fd00:5::/48")];
    VirtualNetwork::new("prod", ranges, subnets).unwrap()
}

fn rules() -> Vec<SecurityRule> {
    let web = ["80", "8000-8010"].map(|p| p.parse::<PortRange>().unwrap());
    vec![
        inbound("no-back", 100, Access::Deny)
            .protocol(RuleProtocol::Tcp)
            .source([prefix("10.5.1.0/24"), prefix("fd00:5:0:1::/64")])
            .destination_ports(web),
        inbound("web", 200, Access::Allow)
            .protocol(RuleProtocol::Tcp)
            .source([prefix("Internet")])
            .destination_ports([80.into()]),
        SecurityRule::new("dns", 100, Direction::Outbound, Access::Allow)
            .protocol(RuleProtocol::Udp)
            .destination([prefix("Internet")])
            .destination_ports([53.into()]),
        SecurityRule::new("stay", 200, Direction::Outbound, Access::Deny)
            .destination([prefix("Internet")]),
    ]
}

#[tokio::test]
async fn security_groups_judge_who_may_begin_a_connection() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let options = lab
        .options()
        .network(guarded(rules()))
        .public_addresses([net("203.0.113.7/32")]);
    let driver = BridgeNetwork::open(options).await.unwrap();
    let (front, back, other) = (lab.group("front"), lab.group("back"), lab.group("other"));
    let mut request = in_subnet(&front, "prod", "front");
    let ports = [80, 81, 8005].map(|p| (p, Protocol::Tcp));
    request.ip_address = public(&ports);
    let at_front = driver.attach(request).await.unwrap();
    driver
        .attach(in_subnet(&back, "prod", "back"))
        .await
        .unwrap();
    driver
        .attach(in_subnet(&other, "prod", "other"))
        .await
        .unwrap();
    for port in [80, 81, 8005] {
        serve(&front.namespace, port, "front");
    }
    serve(&internet.namespace, 80, "internet");
    serve_udp(&internet.namespace, 53, "dns");
    let to = own(&at_front);
    let kind = |from, to, port| connect(from, to, port).map(|r| r.0).map_err(|e| e.kind());
    let dropped = Err(IoKind::TimedOut);
    // The first rule that matches decides; Azure's default rules come last.
    assert_eq!(kind(&back.namespace, to, 80), dropped);
    assert_eq!(kind(&back.namespace, to, 8005), dropped);
    assert_eq!(
        kind(&back.namespace, at_front.addresses[1].addr(), 80),
        dropped
    );
    assert_eq!(kind(&back.namespace, to, 81).unwrap(), "front");
    assert_eq!(kind(&other.namespace, to, 80).unwrap(), "front");
    assert_eq!(kind(&lab.host, to, 80).unwrap(), "front");
    let public = at_front.ip.unwrap();
    assert_eq!(public, ip("203.0.113.7"));
    assert_eq!(kind(&internet.namespace, public, 80).unwrap(), "front");
    assert_eq!(kind(&internet.namespace, public, 81), dropped);
    // Outbound: the one rule allows, the other denies; answers to what came in pass.
    assert_eq!(
        ask_udp(&front.namespace, SocketAddr::new(ip(NET), 53)).unwrap(),
        "dns"
    );
    assert_eq!(kind(&front.namespace, ip(NET), 80), dropped);
    assert_eq!(kind(&back.namespace, ip(NET), 80).unwrap(), "internet");
    // Other rules meet new connections only.
    let listener = within(&front.namespace, || TcpListener::bind((to, 8001)).unwrap());
    let mut open = within(&lab.host, || TcpStream::connect((to, 81))).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    drop(listener);
    let kept = within(&front.namespace, || {
        TcpListener::bind(("0.0.0.0", 90)).unwrap()
    });
    let mut ahead = rules();
    ahead.push(inbound("closed", 4096, Access::Deny));
    let mut open = within(&other.namespace, || TcpStream::connect((to, 81)).unwrap());
    drop(kept);
    driver.configure(vec![guarded(ahead)]).await.unwrap();
    assert_eq!(kind(&other.namespace, to, 81), dropped);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("front"), "{text}");
    let _ = open.write_all(b"x");
    for group in [&front, &back, &other] {
        driver.detach(&group.id).await.unwrap();
    }
}

#[tokio::test]
async fn subnets_leave_by_their_gateway_and_their_routes() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let lan = Outside::new(&lab, "lan0", "198.51.100.1", "198.51.100.2");
    let premises = Outside::new(&lab, "prem0", "10.200.0.1", "10.200.0.2");
    let routes = RouteTable::new(
        "closed",
        vec![
            (net("198.51.100.0/24"), NextHop::None),
            (net("10.200.0.2/32"), NextHop::Internet),
        ],
    )
    .unwrap();
    let subnets = vec![
        Subnet::new("fixed", vec![net("10.5.0.0/24")])
            .unwrap()
            .nat_gateway([ip("203.0.113.9")])
            .unwrap(),
        Subnet::new("routed", vec![net("10.5.1.0/24")])
            .unwrap()
            .route_table(routes),
    ];
    let network = VirtualNetwork::new("prod", vec![net("10.5.0.0/16")], subnets)
        .unwrap()
        .on_premises(vec![net("10.200.0.0/16")])
        .unwrap();
    let before = lab.everything();
    let options = || {
        lab.options()
            .network(network.clone())
            .uplinks(["prem0", "lan0"].map(str::to_owned))
    };
    let driver = BridgeNetwork::open(options()).await.unwrap();
    let (fixed, routed) = (lab.group("fixed"), lab.group("routed"));
    let at_fixed = driver
        .attach(in_subnet(&fixed, "prod", "fixed"))
        .await
        .unwrap();
    let at_routed = driver
        .attach(in_subnet(&routed, "prod", "routed"))
        .await
        .unwrap();
    for outside in [&internet, &lan, &premises] {
        serve(&outside.namespace, 80, "outside");
    }
    serve(&fixed.namespace, 80, "fixed");
    let sender = |group: &Group, to: &str| connect(&group.namespace, ip(to), 80).map(|r| r.1);
    // The NAT gateway's address, the host's, and the group's own.
    assert_eq!(sender(&fixed, NET).unwrap(), ip("203.0.113.9"));
    assert_eq!(sender(&fixed, "198.51.100.2").unwrap(), ip("203.0.113.9"));
    assert_eq!(sender(&fixed, "10.200.0.2").unwrap(), own(&at_fixed));
    assert_eq!(sender(&routed, NET).unwrap(), ip(HOST));
    // The route table: dropped, and as to the internet although it is on premises.
    assert_eq!(
        sender(&routed, "198.51.100.2").unwrap_err().kind(),
        IoKind::TimedOut
    );
    assert_eq!(sender(&routed, "10.200.0.2").unwrap(), ip("10.200.0.1"));
    // From on premises groups are reached by their own address, from elsewhere they are not.
    let from = |outside: &Outside, to| connect(&outside.namespace, to, 80).map(|r| r.0);
    assert_eq!(from(&premises, own(&at_fixed)).unwrap(), "fixed");
    assert!(from(&lan, own(&at_fixed)).is_err());
    assert!(from(&internet, own(&at_routed)).is_err());
    // Nothing of the host answers at the gateway's address.
    serve_on(&lab.host, SocketAddr::from(([0, 0, 0, 0], 7070)), "host");
    assert!(connect(&internet.namespace, ip("203.0.113.9"), 7070).is_err());
    assert_eq!(
        connect(&internet.namespace, ip(HOST), 7070).unwrap().0,
        "host"
    );
    drop(driver);
    let driver = BridgeNetwork::open(options()).await.unwrap();
    assert_eq!(sender(&fixed, NET).unwrap(), ip("203.0.113.9"));
    driver.detach(&fixed.id).await.unwrap();
    driver.detach(&routed.id).await.unwrap();
    assert_eq!(lab.everything(), before);
    assert!(!lab.host_addresses().contains(&ip("203.0.113.9")));
}

/// Datagrams in one direction stay new to the kernel; only the first is judged, as Azure judges flows.
#[tokio::test]
async fn a_flow_that_nobody_answers_goes_on_when_rules_change() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let driver = BridgeNetwork::open(lab.options().network(guarded(rules())))
        .await
        .unwrap();
    let (front, other) = (lab.group("front"), lab.group("other"));
    let at_front = driver
        .attach(in_subnet(&front, "prod", "front"))
        .await
        .unwrap();
    driver
        .attach(in_subnet(&other, "prod", "other"))
        .await
        .unwrap();
    let to = SocketAddr::new(own(&at_front), 5000);
    let sink = listen_udp(&front.namespace, to);
    sink.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let sender = || {
        let socket = within(&other.namespace, || UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.connect(to).unwrap();
        socket
    };
    let arrives = |socket: &UdpSocket, word: &[u8]| {
        socket.send(word).unwrap();
        let mut buffer = [0; 16];
        sink.recv(&mut buffer).is_ok_and(|n| &buffer[..n] == word)
    };
    let begun = sender();
    assert!(arrives(&begun, b"one"));
    let mut ahead = rules();
    ahead.push(inbound("closed", 4096, Access::Deny));
    driver.configure(vec![guarded(ahead)]).await.unwrap();
    assert!(arrives(&begun, b"two"));
    assert!(!arrives(&sender(), b"new"));
    for group in [&front, &other] {
        driver.detach(&group.id).await.unwrap();
    }
}
