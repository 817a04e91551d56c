//! The way out and the way in, with namespaces that play the internet and a further network.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use aci_core::contract::NetworkDriver;
use aci_core::error::ErrorKind;
use aci_core::model::Protocol;

use super::lab::{
    Lab, Outside, ask_udp, connect, forwards, public, root, serve, serve_udp, within,
};
use crate::bridge::BridgeNetwork;

const HOST: &str = "192.0.2.1";
const NET: &str = "192.0.2.254";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn groups_reach_the_internet_by_the_host_s_address() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let lan = Outside::new(&lab, "lan0", "198.51.100.1", "198.51.100.2");
    let before = lab.everything();
    let network = lab.open().await;
    assert!(network.capability().outbound);
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = network.attach(a.request()).await.unwrap();
    network.attach(b.request()).await.unwrap();
    for port in [25, 80] {
        serve(&internet.namespace, port, "internet");
    }
    serve_udp(&internet.namespace, 53, "dns");
    serve(&lan.namespace, 80, "lan");
    assert_eq!(
        connect(&a.namespace, ip(NET), 80).unwrap(),
        ("internet".to_owned(), ip(HOST))
    );
    assert_eq!(
        ask_udp(&a.namespace, SocketAddr::new(ip(NET), 53)).unwrap(),
        "dns"
    );
    let mail = connect(&a.namespace, ip(NET), 25).unwrap_err();
    assert_eq!(mail.kind(), IoKind::HostUnreachable);
    // From outside nobody reaches a group, although the host forwards now, nor a further network.
    assert!(forwards(&lab, "up0"));
    assert!(!forwards(&lab, "lan0"));
    serve(&a.namespace, 80, "a");
    assert!(connect(&internet.namespace, at_a.addresses[0].addr(), 80).is_err());
    assert!(connect(&internet.namespace, ip("198.51.100.2"), 80).is_err());
    // A group that is not ready still reaches out, and what is open stays open.
    let listener = within(&a.namespace, || TcpListener::bind("0.0.0.0:90").unwrap());
    let mut open = within(&lab.host, || {
        TcpStream::connect(SocketAddr::new(at_a.addresses[0].addr(), 90)).unwrap()
    });
    let (mut inside, _) = listener.accept().unwrap();
    network.set_ready(&a.id, false).await.unwrap();
    assert_eq!(connect(&a.namespace, ip(NET), 80).unwrap().0, "internet");
    assert_eq!(
        connect(&lab.host, at_a.addresses[0].addr(), 80)
            .unwrap_err()
            .kind(),
        IoKind::HostUnreachable
    );
    open.write_all(b"x").unwrap();
    let mut byte = [0];
    inside.read_exact(&mut byte).unwrap();
    network.set_ready(&a.id, true).await.unwrap();
    assert_eq!(
        connect(&lab.host, at_a.addresses[0].addr(), 80).unwrap().0,
        "a"
    );
    // A new program over the same directory keeps all that.
    drop(network);
    let network = lab.open().await;
    assert_eq!(connect(&a.namespace, ip(NET), 80).unwrap().1, ip(HOST));
    network.detach(&a.id).await.unwrap();
    assert!(forwards(&lab, "up0"));
    assert_eq!(connect(&b.namespace, ip(NET), 80).unwrap().1, ip(HOST));
    network.detach(&b.id).await.unwrap();
    assert!(!forwards(&lab, "up0"));
    assert_eq!(lab.everything(), before);
}

#[tokio::test]
async fn a_flow_that_goes_on_reaches_the_port_s_new_owner() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let network = BridgeNetwork::open(lab.options().publish_on([ip(HOST)]))
        .await
        .unwrap();
    let client = within(&internet.namespace, || {
        UdpSocket::bind((NET, 5000)).unwrap()
    });
    client
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    client.connect((HOST, 53)).unwrap();
    let ask = || {
        // An earlier datagram may have been answered by "port unreachable".
        while client.send(b"?").is_err() {}
        let mut buffer = [0; 8];
        let length = client.recv(&mut buffer)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    // Nobody has the port yet, but the kernel now knows the flow.
    assert!(ask().is_err());
    for word in ["one", "two"] {
        let group = lab.group(word);
        serve_udp(&group.namespace, 53, word);
        let mut request = group.request();
        request.ip_address = public(&[(53, Protocol::Udp)]);
        network.attach(request).await.unwrap();
        // The kernel is told of the flow while the group comes up.
        let found = (0..10).find_map(|_| ask().ok());
        assert_eq!(found.as_deref(), Some(word));
        network.detach(&group.id).await.unwrap();
        assert!(ask().is_err());
    }
}

#[tokio::test]
async fn without_outbound_nothing_leaves() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let network = BridgeNetwork::open(lab.options().outbound(false))
        .await
        .unwrap();
    assert!(!network.capability().outbound);
    let group = lab.group("a");
    network.attach(group.request()).await.unwrap();
    serve(&internet.namespace, 80, "internet");
    let closed = connect(&group.namespace, ip(NET), 80).unwrap_err();
    assert_eq!(closed.kind(), IoKind::HostUnreachable);
    assert!(!forwards(&lab, "up0"));
    network.detach(&group.id).await.unwrap();
}

#[tokio::test]
async fn published_ports_lead_to_their_group_and_nothing_else_does() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let options = || lab.options().publish_on([ip("0.0.0.0")]);
    let network = BridgeNetwork::open(options()).await.unwrap();
    assert!(network.capability().publish);
    let (a, b, c) = (lab.group("a"), lab.group("b"), lab.group("c"));
    let mut request = a.request();
    request.ip_address = public(&[(80, Protocol::Tcp), (5353, Protocol::Udp)]);
    let at_a = network.attach(request).await.unwrap();
    assert_eq!(at_a.published.len(), 2);
    network.attach(b.request()).await.unwrap();
    for port in [80, 81] {
        serve(&a.namespace, port, "a");
    }
    serve_udp(&a.namespace, 5353, "a");
    serve(&lab.host, 8080, "host");
    // From outside, from the host, from another group, from itself.
    assert_eq!(
        connect(&internet.namespace, ip(HOST), 80).unwrap(),
        ("a".to_owned(), ip(NET))
    );
    assert_eq!(connect(&lab.host, ip(HOST), 80).unwrap().0, "a");
    assert_eq!(connect(&b.namespace, ip(HOST), 80).unwrap().0, "a");
    assert_eq!(connect(&a.namespace, ip(HOST), 80).unwrap().0, "a");
    assert_eq!(
        ask_udp(&internet.namespace, SocketAddr::new(ip(HOST), 5353)).unwrap(),
        "a"
    );
    assert_eq!(
        ask_udp(&b.namespace, SocketAddr::new(ip(HOST), 5353)).unwrap(),
        "a"
    );
    // Ports that are not listed lead to the host itself.
    assert!(connect(&internet.namespace, ip(HOST), 81).is_err());
    assert_eq!(
        connect(&internet.namespace, ip(HOST), 8080).unwrap().0,
        "host"
    );
    // A port has one owner.
    for (port, words) in [(80, "a-test has it"), (8080, "program of the host")] {
        let mut request = c.request();
        request.ip_address = public(&[(port, Protocol::Tcp)]);
        let error = network.attach(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(words), "{error}");
    }
    let mut request = c.request();
    request.ip_address = public(&[(80, Protocol::Udp)]);
    network.attach(request).await.unwrap();
    // Withheld: also by the published port.
    network.set_ready(&a.id, false).await.unwrap();
    assert!(connect(&internet.namespace, ip(HOST), 80).is_err());
    network.set_ready(&a.id, true).await.unwrap();
    drop(network);
    let network = BridgeNetwork::open(options()).await.unwrap();
    assert_eq!(connect(&internet.namespace, ip(HOST), 80).unwrap().0, "a");
    network.detach(&a.id).await.unwrap();
    assert!(connect(&internet.namespace, ip(HOST), 80).is_err());
    // The port is free again.
    let mut request = b.request();
    network.detach(&b.id).await.unwrap();
    request.ip_address = public(&[(80, Protocol::Tcp)]);
    network.attach(request).await.unwrap();
    serve(&b.namespace, 80, "b");
    assert_eq!(connect(&internet.namespace, ip(HOST), 80).unwrap().0, "b");
    network.detach(&b.id).await.unwrap();
    network.detach(&c.id).await.unwrap();
    assert!(!forwards(&lab, "up0"));
}
