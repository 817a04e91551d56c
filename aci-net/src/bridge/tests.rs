//! The driver against the kernel, in network namespaces that the tests make: one plays the host,
//! others the groups. The machine's own network is not touched.

mod crash;
mod inside;
mod lab;
mod naming;
mod neighbours;
mod networks;
mod operators;
mod outside;
mod public;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aci_core::contract::{AttachRequest, NetworkDriver};
use aci_core::error::ErrorKind;
use aci_core::model::{DnsConfiguration, IpAddress, IpAddressType};
use ipnet::IpNet;

use super::*;
use crate::{Subnet, VirtualNetwork};
use lab::{Lab, connect, root, serve};

#[tokio::test]
async fn groups_the_host_and_the_gateway_reach_each_other() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let network = lab.open().await;
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = network.attach(a.request()).await.unwrap();
    let at_b = network.attach(b.request()).await.unwrap();
    assert_eq!(at_a.addresses[0].to_string(), "10.88.0.4/16");
    assert_eq!(at_b.addresses[0].to_string(), "10.88.0.5/16");
    assert_eq!(at_a.ip, None, "no ipAddress was asked for");
    let address = |a: &Attachment| a.addresses[0].addr();
    serve(&a.namespace, 80, "a");
    serve(&b.namespace, 80, "b");
    serve(&lab.host, 7070, "host");
    let gateway: IpAddr = "10.88.0.1".parse().unwrap();
    assert_eq!(
        connect(&lab.host, address(&at_a), 80).unwrap(),
        ("a".to_owned(), gateway)
    );
    assert_eq!(connect(&lab.host, address(&at_b), 80).unwrap().0, "b");
    // A group sees the other's own address: nothing is translated.
    assert_eq!(
        connect(&b.namespace, address(&at_a), 80).unwrap(),
        ("a".to_owned(), address(&at_b))
    );
    assert_eq!(connect(&a.namespace, gateway, 7070).unwrap().0, "host");
    assert_eq!(connect(&a.namespace, address(&at_a), 80).unwrap().0, "a");
    assert_eq!(network.list().await.unwrap(), [at_a.clone(), at_b]);
    // Again: the same answer, and it still works.
    assert_eq!(network.attach(a.request()).await.unwrap(), at_a);
    assert_eq!(connect(&lab.host, address(&at_a), 80).unwrap().0, "a");
    // An address of the network that nobody has does not leave the host.
    let nobody = connect(&a.namespace, "10.88.0.77".parse().unwrap(), 80).unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::HostUnreachable);

    network.detach(&a.id).await.unwrap();
    network.detach(&a.id).await.unwrap();
    assert!(connect(&lab.host, address(&at_a), 80).is_err());
    assert_eq!(
        connect(&lab.host, "10.88.0.5".parse().unwrap(), 80)
            .unwrap()
            .0,
        "b"
    );
    network.detach(&b.id).await.unwrap();
    lab.assert_clean();
    assert_eq!(lab::names(&a.namespace), ["lo"]);
}

#[tokio::test]
async fn the_host_s_loopback_is_out_of_reach_and_senders_cannot_lie() {
    if root() {
        honest(|lab| lab.options(), "0", false).await;
        honest(|lab| lab.options().without_firewall(), "0", false).await;
        // Many distributions loosen the reverse path filter of all links.
        honest(|lab| lab.options().without_firewall(), "2", false).await;
        honest(|lab| lab.options(), "0", true).await;
    }
}

async fn honest(options: impl Fn(&Lab) -> BridgeOptions, rp_filter: &str, v6: bool) {
    let lab = Lab::new();
    lab::within(&lab.host, || {
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", rp_filter).unwrap();
    });
    let both = two_families();
    let network = BridgeNetwork::open(options(&lab).network(both))
        .await
        .unwrap();
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = network.attach(a.request()).await.unwrap();
    let at_b = network.attach(b.request()).await.unwrap();
    lab::serve_on(&lab.host, "127.0.0.1:7071".parse().unwrap(), "loopback");
    lab::serve_on(&lab.host, "[::1]:7071".parse().unwrap(), "loopback");
    let (gateway, which) = if v6 { ("fd00::1", 1) } else { ("10.88.0.1", 0) };
    let gateway: IpAddr = gateway.parse().unwrap();
    assert!(connect(&a.namespace, gateway, 7071).is_err());
    // What a group sends with its own address arrives, with another group's it does not.
    let to = std::net::SocketAddr::new(gateway, 7072);
    let target = lab::listen_udp(&lab.host, to);
    let own = at_a.addresses[which].addr();
    let other = at_b.addresses[which].addr();
    lab::add_address(&a.namespace, "eth0", other);
    lab::send_udp(&a.namespace, other, to, b"forged");
    lab::send_udp(&a.namespace, own, to, b"honest");
    let mut buffer = [0; 16];
    let (length, from) = target.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"honest"[..], own));
}

#[tokio::test]
async fn groups_reach_each_other_by_ipv6() {
    if !root() {
        return;
    }
    if !lab::forces_ipv6() {
        return;
    }
    let lab = Lab::new();
    let network = BridgeNetwork::open(lab.options().network(two_families()))
        .await
        .unwrap();
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = network.attach(a.request()).await.unwrap();
    let at_b = network.attach(b.request()).await.unwrap();
    let six = |a: &Attachment| a.addresses[1].addr();
    serve(&a.namespace, 80, "a");
    let answer = connect(&b.namespace, six(&at_a), 80).unwrap();
    assert_eq!(answer, ("a".to_owned(), six(&at_b)));
    network.set_ready(&a.id, false).await.unwrap();
    assert!(connect(&b.namespace, six(&at_a), 80).is_err());
    assert!(connect(&lab.host, six(&at_a), 80).is_err());
    network.detach(&a.id).await.unwrap();
    network.detach(&b.id).await.unwrap();
    lab.assert_clean();
}

/// A network with IPv4 and IPv6.
fn two_families() -> VirtualNetwork {
    let ranges: Vec<IpNet> = ["10.88.0.0/16", "fd00::/64"]
        .map(|t| t.parse().unwrap())
        .to_vec();
    let subnet = Subnet::new("default", ranges.clone()).unwrap();
    VirtualNetwork::new("default", ranges, vec![subnet]).unwrap()
}

#[tokio::test]
async fn traffic_is_withheld_from_a_group_that_is_not_ready() {
    if root() {
        withheld(|lab| lab.options()).await;
    }
}

#[tokio::test]
async fn traffic_is_withheld_without_a_firewall_too() {
    if root() {
        let options = |lab: &Lab| lab.options().without_firewall();
        withheld(options).await;
        let network = BridgeNetwork::open(options(&Lab::new())).await.unwrap();
        let capability = network.capability();
        assert!(!capability.outbound && !capability.publish);
        assert!(capability.missing[0].contains("CONFIG_NF_TABLES"));
    }
}

async fn withheld(options: impl Fn(&Lab) -> BridgeOptions) {
    let lab = Lab::new();
    let network = BridgeNetwork::open(options(&lab)).await.unwrap();
    let (a, b) = (lab.group("a"), lab.group("b"));
    let address = network.attach(a.request()).await.unwrap().addresses[0].addr();
    network.attach(b.request()).await.unwrap();
    serve(&a.namespace, 80, "a");
    network.set_ready(&a.id, false).await.unwrap();
    assert!(connect(&lab.host, address, 80).is_err());
    assert!(connect(&b.namespace, address, 80).is_err());
    // Inside, where probes run, nothing changes.
    assert_eq!(
        connect(&a.namespace, "127.0.0.1".parse().unwrap(), 80)
            .unwrap()
            .0,
        "a"
    );
    assert_eq!(connect(&a.namespace, address, 80).unwrap().0, "a");
    // It holds across a restart of the program.
    drop(network);
    let network = BridgeNetwork::open(options(&lab)).await.unwrap();
    assert!(connect(&lab.host, address, 80).is_err());
    network.set_ready(&a.id, true).await.unwrap();
    assert_eq!(connect(&lab.host, address, 80).unwrap().0, "a");
    assert_eq!(connect(&b.namespace, address, 80).unwrap().0, "a");
    network
        .set_ready(&"unknown".parse().unwrap(), false)
        .await
        .unwrap();
    network.set_ready(&a.id, false).await.unwrap();
    network.detach(&a.id).await.unwrap();
    network.detach(&b.id).await.unwrap();
    lab.assert_clean();
}

#[tokio::test]
async fn two_hundred_and_fifty_at_once_and_no_more() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let network = lab.open().await;
    let groups: Vec<_> = (0..251).map(|i| lab.group(&format!("g{i}"))).collect();
    let tasks: Vec<_> = groups
        .iter()
        .map(|g| tokio::spawn(network.clone().attach_owned(g.request())))
        .collect();
    let mut addresses = std::collections::BTreeMap::new();
    let mut refused = Vec::new();
    for (task, group) in tasks.into_iter().zip(&groups) {
        match task.await.unwrap() {
            Ok(attachment) => {
                let address = attachment.addresses[0].addr();
                assert!(
                    addresses.insert(address, group).is_none(),
                    "{address} twice"
                );
            }
            Err(error) => refused.push(error),
        }
    }
    assert_eq!((addresses.len(), refused.len()), (250, 1));
    assert_eq!(lab.own_links(), 251);
    // A clear answer at the limit, with ACI's code.
    assert_eq!(refused[0].kind(), ErrorKind::Exhausted);
    assert_eq!(refused[0].aci_code(), Some("ContainerGroupQuotaReached"));
    assert!(refused[0].to_string().contains("250"), "{}", refused[0]);
    let (first, last) = (
        addresses.first_key_value().unwrap(),
        addresses.last_key_value().unwrap(),
    );
    serve(&last.1.namespace, 80, "last");
    assert_eq!(
        connect(&first.1.namespace, *last.0, 80).unwrap(),
        ("last".to_owned(), *first.0)
    );
    let tasks: Vec<_> = groups
        .iter()
        .map(|g| {
            let (network, id) = (network.clone(), g.id.clone());
            tokio::spawn(async move { network.detach(&id).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    lab.assert_clean();
}

#[tokio::test]
async fn links_have_the_size_of_packets_that_was_asked_for() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    for wrong in [1279, 65_536] {
        let error = BridgeNetwork::open(lab.options().mtu(wrong))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(&wrong.to_string()), "{error}");
    }
    let network = BridgeNetwork::open(lab.options().mtu(1400)).await.unwrap();
    let group = lab.group("a");
    network.attach(group.request()).await.unwrap();
    let link = network.report().await.unwrap().attachments[0].link.clone();
    assert_eq!(lab::mtu(&group.namespace, "eth0"), 1400);
    assert_eq!(lab::mtu(&lab.host, &link), 1400);
    network.detach(&group.id).await.unwrap();
    drop(network);
    // Without a wish it is that of the link of the host's default route.
    let internet = lab::Outside::new(&lab, "up0", "192.0.2.1", "192.0.2.254");
    internet.be_default(&lab, "up0", "192.0.2.254");
    lab::set_mtu(&lab.host, "up0", 1340);
    let network = lab.open().await;
    network.attach(group.request()).await.unwrap();
    assert_eq!(lab::mtu(&group.namespace, "eth0"), 1340);
    network.detach(&group.id).await.unwrap();
}

#[tokio::test]
async fn a_group_that_is_gone_leaves_nothing_after_detach() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let network = lab.open().await;
    let group = lab.group("a");
    network.attach(group.request()).await.unwrap();
    let id = group.id.clone();
    drop(group);
    // The kernel removes a namespace, and the pair with it, in the background.
    let deadline = Instant::now() + Duration::from_secs(10);
    while lab.own_links() > 1 {
        assert!(Instant::now() < deadline, "the pair outlives its namespace");
        thread::sleep(Duration::from_millis(10));
    }
    drop(network);
    let network = lab.open().await;
    assert_eq!(network.list().await.unwrap().len(), 1);
    network.detach(&id).await.unwrap();
    lab.assert_clean();
}

#[tokio::test]
async fn documents_choose_their_subnet_address_and_name_servers() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let subnets = vec![
        Subnet::new("front", vec![net("10.5.0.0/24")]).unwrap(),
        Subnet::new("back", vec![net("10.5.1.0/29"), net("fd00:5::/64")]).unwrap(),
    ];
    let ranges = vec![net("10.5.0.0/16"), net("fd00:5::/48")];
    let virtual_network = VirtualNetwork::new("prod", ranges, subnets).unwrap();
    std::fs::write(
        lab.path("resolv.conf"),
        "nameserver 127.0.0.53\nnameserver 192.0.2.53\n",
    )
    .unwrap();
    let options = || {
        lab.options()
            .network(virtual_network.clone())
            .resolv_conf(lab.path("resolv.conf"))
    };
    let network = BridgeNetwork::open(options()).await.unwrap();
    let (a, b, c) = (lab.group("a"), lab.group("b"), lab.group("c"));
    let back = "/subscriptions/0/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/prod/subnets/back";
    let private = |ip: &str| {
        Some(IpAddress {
            type_: IpAddressType::Private,
            ip: Some(ip.to_owned()),
            ..IpAddress::default()
        })
    };
    let mut request = a.request();
    request.subnets = vec![back.to_owned()];
    request.ip_address = private("10.5.1.6");
    let at_a = network.attach(request).await.unwrap();
    assert_eq!(at_a.ip, Some("10.5.1.6".parse().unwrap()));
    assert_eq!(at_a.addresses[1], net("fd00:5::4/64"));
    // The network's own name server, at the subnet's gateways.
    assert_eq!(
        at_a.dns.name_servers,
        ["10.5.1.1", "fd00:5::1"].map(|a| a.parse::<IpAddr>().unwrap())
    );
    let mut request = b.request();
    request.dns = Some(DnsConfiguration {
        name_servers: vec!["10.0.0.10".to_owned()],
        ..DnsConfiguration::default()
    });
    let at_b = network.attach(request).await.unwrap();
    assert_eq!(at_b.addresses[0], net("10.5.0.4/24"));
    assert_eq!(
        at_b.dns.name_servers,
        ["10.0.0.10".parse::<IpAddr>().unwrap()]
    );
    // Subnets of one virtual network reach each other; IPv6 reaches the host.
    serve(&a.namespace, 80, "a");
    assert_eq!(
        connect(&b.namespace, "10.5.1.6".parse().unwrap(), 80)
            .unwrap()
            .0,
        "a"
    );
    assert_eq!(
        connect(&lab.host, "fd00:5::4".parse().unwrap(), 80)
            .unwrap()
            .0,
        "a"
    );
    // What cannot be had is refused in words, and nothing is left of it.
    for (subnet, address, kind, words) in [
        (back, "10.5.1.6", ErrorKind::AlreadyExists, "another group"),
        (back, "10.5.1.1", ErrorKind::Invalid, "reserved"),
        (back, "10.5.0.9", ErrorKind::Invalid, "not in the subnet"),
        (back, "ten", ErrorKind::Invalid, "'ten'"),
        (
            "nowhere",
            "10.5.0.9",
            ErrorKind::Invalid,
            "prod/front, prod/back",
        ),
    ] {
        let mut request = c.request();
        request.subnets = vec![subnet.to_owned()];
        request.ip_address = private(address);
        let error = network.attach(request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(lab.own_links(), 3);
    // Attached groups keep their network: another one is refused.
    drop(network);
    let error = BridgeNetwork::open(
        lab.options()
            .network(VirtualNetwork::single(net("10.9.0.0/16")).unwrap()),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let network = BridgeNetwork::open(options()).await.unwrap();
    assert_eq!(network.list().await.unwrap().len(), 2);
    network.detach(&a.id).await.unwrap();
    network.detach(&b.id).await.unwrap();
    lab.assert_clean();
}

#[tokio::test]
async fn other_people_s_links_and_routes_are_left_alone() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    // Links that look like ours but have no group of ours, and a route in the first default range.
    lab.add_bridge("aci0123456789ab", 0);
    lab.add_bridge("docker0", 0x6100_0000);
    lab.add_route("docker0", "10.88.7.7");
    let before = lab.everything();
    let network = lab.open().await;
    let group = lab.group("a");
    let attachment = network.attach(group.request()).await.unwrap();
    assert_eq!(attachment.addresses[0].to_string(), "10.118.0.4/16");
    network.detach(&group.id).await.unwrap();
    drop(network);
    drop(lab.open().await);
    assert_eq!(lab.everything(), before);
}

#[tokio::test]
async fn another_boot_voids_what_the_journal_tells() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let network = lab.open().await;
    let group = lab.group("a");
    network.attach(group.request()).await.unwrap();
    drop(network);
    let network = BridgeNetwork::open(lab.options().boot("another"))
        .await
        .unwrap();
    assert_eq!(network.list().await.unwrap(), []);
    lab.assert_clean();
    network.attach(group.request()).await.unwrap();
    network.detach(&group.id).await.unwrap();
}

#[tokio::test]
async fn a_failed_attachment_leaves_nothing() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let network = lab.open().await;
    let group = lab.group("a");
    // The inside name is taken, so the pair cannot be made.
    lab::within(&group.namespace, || lab::make_bridge("eth0", 0));
    let error = network.attach(group.request()).await.unwrap_err();
    println!("{}", error.chain());
    assert_eq!(network.list().await.unwrap(), []);
    lab.assert_clean();
    let mut request = lab.group("b").request();
    request.endpoint = aci_core::contract::NetworkEndpoint::None;
    let error = network.attach(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

impl BridgeNetwork {
    async fn attach_owned(self, request: AttachRequest) -> Result<Attachment> {
        self.attach(request).await
    }
}
