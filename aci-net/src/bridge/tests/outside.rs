//! The way out and the way in, with namespaces that play the internet and a further network.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use aci_core::contract::NetworkDriver;
use aci_core::error::ErrorKind;
use aci_core::model::Protocol;

use super::lab::{
    Lab, Outside, add_address, ask_udp, connect, forwards, listen_udp, public, root, serve,
    serve_on, serve_udp, within,
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

#[tokio::test]
async fn ports_are_published_on_the_chosen_addresses_only() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let others = ["192.0.2.2", "192.0.2.3"];
    for address in others {
        add_address(&lab.host, "up0", ip(address));
    }
    serve_on(&lab.host, SocketAddr::new(ip(others[1]), 80), "host");
    let options = lab.options().publish_on([ip(HOST), ip(others[0])]);
    let network = BridgeNetwork::open(options).await.unwrap();
    let group = lab.group("a");
    let mut request = group.request();
    request.ip_address = public(&[(80, Protocol::Tcp)]);
    let attachment = network.attach(request).await.unwrap();
    assert_eq!(attachment.published.len(), 2);
    assert_eq!(attachment.ip, Some(ip(HOST)));
    serve(&group.namespace, 80, "a");
    let answers = |to: &str| connect(&internet.namespace, ip(to), 80).map(|r| r.0);
    assert_eq!(answers(HOST).unwrap(), "a");
    assert_eq!(answers(others[0]).unwrap(), "a");
    assert_eq!(answers(others[1]).unwrap(), "host");
    network.detach(&group.id).await.unwrap();
    // An address that the host does not have.
    drop(network);
    let network = BridgeNetwork::open(lab.options().publish_on([ip("203.0.113.1")]))
        .await
        .unwrap();
    let mut request = group.request();
    request.ip_address = public(&[(80, Protocol::Tcp)]);
    let error = network.attach(request).await.unwrap_err();
    assert!(error.message().contains("203.0.113.1"), "{error}");
}

/// The network's own name server has port 53 of the gateways, and a resolver that listens on
/// loopback has it there; neither is in the way of a group.
#[tokio::test]
async fn a_name_server_can_be_published_on_all_addresses() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let _resolver = listen_udp(&lab.host, "127.0.0.53:53".parse().unwrap());
    let network = BridgeNetwork::open(lab.options().publish_on([ip("0.0.0.0")]))
        .await
        .unwrap();
    let (a, b) = (lab.group("a"), lab.group("b"));
    network.attach(b.request()).await.unwrap();
    let mut request = a.request();
    request.ip_address = public(&[(53, Protocol::Udp), (53, Protocol::Tcp)]);
    network.attach(request).await.unwrap();
    serve_udp(&a.namespace, 53, "a");
    serve(&a.namespace, 53, "a");
    let dns = SocketAddr::new(ip(HOST), 53);
    assert_eq!(ask_udp(&internet.namespace, dns).unwrap(), "a");
    assert_eq!(ask_udp(&b.namespace, dns).unwrap(), "a");
    assert_eq!(connect(&internet.namespace, ip(HOST), 53).unwrap().0, "a");
    // At the gateway the network itself answers: a question for b's own name, asked by b.
    let question =
        b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06b-test\x00\x00\x01\x00\x01";
    let socket = within(&b.namespace, || UdpSocket::bind("0.0.0.0:0").unwrap());
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket.connect("10.88.0.1:53").unwrap();
    socket.send(question).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!(answer[..2], question[..2]);
    assert!(answer[..length].ends_with(&[10, 88, 0, 4]), "b's address");
    // A program of the host that has the port on one of its addresses is in the way.
    network.detach(&a.id).await.unwrap();
    let _taken = listen_udp(&lab.host, dns);
    let mut request = a.request();
    request.ip_address = public(&[(53, Protocol::Udp)]);
    let error = network.attach(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.message().contains("program of the host"), "{error}");
    network.detach(&b.id).await.unwrap();
}
