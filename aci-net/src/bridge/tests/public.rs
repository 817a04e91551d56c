//! Public addresses of groups, and IPv6 in all ways.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aci_core::contract::NetworkDriver;
use aci_core::error::ErrorKind;
use aci_core::model::Protocol;
use ipnet::IpNet;

use super::lab::{Lab, Outside, ask_udp, connect, forces_ipv6, public, root, serve, serve_udp};
use super::two_families;
use crate::bridge::BridgeNetwork;

const HOST: &str = "192.0.2.1";
const NET: &str = "192.0.2.254";
const HOST6: &str = "2001:db8:1::1";
const NET6: &str = "2001:db8:1::2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[tokio::test]
async fn public_groups_have_an_address_each() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let before = lab.everything();
    let options = || {
        lab.options()
            .public_addresses([net("203.0.113.0/31")])
            .address_rest(Duration::from_secs(30))
    };
    let network = BridgeNetwork::open(options()).await.unwrap();
    assert!(network.capability().publish);
    let (a, b, c) = (lab.group("a"), lab.group("b"), lab.group("c"));
    // The same ports, side by side.
    let wish = |group: &super::lab::Group| {
        let mut request = group.request();
        request.ip_address = public(&[(80, Protocol::Tcp), (53, Protocol::Udp)]);
        request
    };
    let at_a = network.attach(wish(&a)).await.unwrap();
    let at_b = network.attach(wish(&b)).await.unwrap();
    assert_eq!(at_a.ip, Some(ip("203.0.113.0")));
    assert_eq!(at_b.ip, Some(ip("203.0.113.1")));
    assert_eq!(at_a.published.len(), 2);
    for (group, word) in [(&a, "a"), (&b, "b")] {
        for port in [80, 81] {
            serve(&group.namespace, port, word);
        }
        serve_udp(&group.namespace, 53, word);
    }
    serve(&internet.namespace, 80, "internet");
    serve(&lab.host, 7070, "host");
    let (pub_a, pub_b) = (at_a.ip.unwrap(), at_b.ip.unwrap());
    // From the internet, the host, another group and the group itself; TCP and UDP.
    for (from, which) in [
        (&internet.namespace, "internet"),
        (&lab.host, "host"),
        (&*b.namespace, "b"),
        (&*a.namespace, "a"),
    ] {
        assert_eq!(connect(from, pub_a, 80).unwrap().0, "a", "from {which}");
        assert_eq!(
            ask_udp(from, SocketAddr::new(pub_a, 53)).unwrap(),
            "a",
            "from {which}"
        );
        assert_eq!(connect(from, pub_b, 80).unwrap().0, "b", "from {which}");
        // Only the listed ports, by either address; and nothing of the host.
        assert!(connect(from, pub_a, 81).is_err(), "from {which}");
        assert!(connect(from, pub_a, 7070).is_err(), "from {which}");
    }
    let own = at_a.addresses[0].addr();
    assert_eq!(connect(&b.namespace, own, 80).unwrap().0, "a");
    assert!(connect(&b.namespace, own, 81).is_err());
    assert!(connect(&lab.host, own, 81).is_err());
    assert_eq!(connect(&a.namespace, own, 81).unwrap().0, "a");
    // They send with it.
    assert_eq!(connect(&a.namespace, ip(NET), 80).unwrap().1, pub_a);
    // The pool is empty; a freed address rests before the next one gets it.
    let error = network.attach(wish(&c)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(error.aci_code(), Some("PublicIPCountLimitReached"));
    network.detach(&a.id).await.unwrap();
    let error = network.attach(wish(&c)).await.unwrap_err();
    assert!(error.message().contains("free again at"), "{error}");
    assert!(connect(&internet.namespace, pub_a, 80).is_err());
    assert_eq!(network.list().await.unwrap().len(), 1);
    // What is withheld is withheld there too, also after a restart.
    network.set_ready(&b.id, false).await.unwrap();
    drop(network);
    let network = BridgeNetwork::open(options()).await.unwrap();
    assert!(connect(&internet.namespace, pub_b, 80).is_err());
    network.set_ready(&b.id, true).await.unwrap();
    assert_eq!(connect(&internet.namespace, pub_b, 80).unwrap().0, "b");
    network.detach(&b.id).await.unwrap();
    assert_eq!(lab.everything(), before);
    assert!(!lab.host_addresses().contains(&pub_b));
}

#[tokio::test]
async fn an_address_is_used_again_when_it_has_rested() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let options = lab
        .options()
        .public_addresses([net("203.0.113.5/32")])
        .address_rest(Duration::ZERO);
    let network = BridgeNetwork::open(options).await.unwrap();
    for name in ["a", "b", "c"] {
        let group = lab.group(name);
        let mut request = group.request();
        request.ip_address = public(&[(80, Protocol::Tcp)]);
        let attachment = network.attach(request).await.unwrap();
        assert_eq!(attachment.ip, Some(ip("203.0.113.5")));
        network.detach(&group.id).await.unwrap();
    }
    lab.assert_clean();
}

#[tokio::test]
async fn ipv6_goes_out_comes_in_and_comes_back() {
    if !root() || !forces_ipv6() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST6, NET6);
    internet.be_default(&lab, "up0", NET6);
    serve(&internet.namespace, 80, "internet");
    serve(&internet.namespace, 25, "mail");
    serve_udp(&internet.namespace, 53, "dns");
    let before = lab.everything();
    for from_pool in [false, true] {
        let options = lab.options().network(two_families());
        let options = if from_pool {
            options.public_addresses([net("2001:db8:2::/126")])
        } else {
            options.publish_on([ip("::")])
        };
        let network = BridgeNetwork::open(options).await.unwrap();
        let (a, b) = (lab.group("a"), lab.group("b"));
        let mut request = a.request();
        request.ip_address = public(&[(80, Protocol::Tcp), (5353, Protocol::Udp)]);
        let at_a = network.attach(request).await.unwrap();
        network.attach(b.request()).await.unwrap();
        for port in [80, 81] {
            serve(&a.namespace, port, "a");
        }
        serve_udp(&a.namespace, 5353, "a");
        let to = if from_pool {
            at_a.ip.unwrap()
        } else {
            ip(HOST6)
        };
        assert!(!from_pool || net("2001:db8:2::/126").contains(&to));
        // Out, with the host's address or its own public one.
        let seen = connect(&a.namespace, ip(NET6), 80).unwrap();
        assert_eq!(seen, ("internet".to_owned(), to));
        assert_eq!(connect(&b.namespace, ip(NET6), 80).unwrap().1, ip(HOST6));
        let dns = SocketAddr::new(ip(NET6), 53);
        assert_eq!(ask_udp(&b.namespace, dns).unwrap(), "dns");
        assert!(connect(&b.namespace, ip(NET6), 25).is_err());
        // In: from outside, from the host, from another group, from itself.
        for from in [&internet.namespace, &lab.host, &*b.namespace, &*a.namespace] {
            assert_eq!(connect(from, to, 80).unwrap().0, "a");
            assert_eq!(ask_udp(from, SocketAddr::new(to, 5353)).unwrap(), "a");
            assert!(connect(from, to, 81).is_err());
        }
        let own = at_a.addresses[1].addr();
        assert!(connect(&internet.namespace, own, 80).is_err());
        assert!(connect(&b.namespace, own, 81).is_err());
        network.detach(&a.id).await.unwrap();
        network.detach(&b.id).await.unwrap();
        assert_eq!(lab.everything(), before);
        let switch = "/proc/sys/net/ipv6/conf/up0/force_forwarding";
        let off = super::lab::within(&lab.host, || std::fs::read_to_string(switch).unwrap());
        assert_eq!(off.trim(), "0");
    }
}

#[tokio::test]
async fn a_host_with_ipv6_gives_its_groups_ipv6() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST6, NET6);
    internet.be_default(&lab, "up0", NET6);
    let network = lab.open().await;
    let group = lab.group("a");
    let attachment = network.attach(group.request()).await.unwrap();
    assert_eq!(attachment.addresses.len(), 2);
    assert!(net("fd00::/8").contains(&attachment.addresses[1].addr()));
    // The range stays from one opening to the next.
    drop(network);
    let network = lab.open().await;
    assert_eq!(network.list().await.unwrap(), [attachment]);
    network.detach(&group.id).await.unwrap();
}
