//! What a group can do to others from inside: forge, claim, be asked for metadata, flood.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use aci_core::contract::NetworkDriver;
use aci_core::error::ErrorKind;

use super::lab::{Lab, Outside, connect, root, serve, within};
use crate::bridge::BridgeNetwork;
use crate::{Bandwidth, SERVICE_ADDRESS};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs iproute2's `ip` in a namespace.
fn tool(namespace: &OwnedFd, arguments: &str) -> String {
    let output = within(namespace, || {
        Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
            .expect("ip (Debian: iproute2)")
    });
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn mac_addresses_cannot_be_forged_and_arp_is_of_no_use() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let network = BridgeNetwork::open(lab.options().network(super::two_families()))
        .await
        .unwrap();
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = network.attach(a.request()).await.unwrap();
    network.attach(b.request()).await.unwrap();
    let address = at_a.addresses[0].addr();
    serve(&lab.host, 7070, "host");
    serve(&a.namespace, 80, "a");
    let gateways = [ip("10.88.0.1"), ip("fd00::1")];
    let reached = |to| connect(&b.namespace, to, 7070).is_ok();
    assert_eq!(gateways.map(reached), [true, true]);
    // Another MAC address: the sender is not believed any more, in either family. (The kernel forgets
    // neighbours when a link's address changes.)
    let known = tool(&b.namespace, "neigh show 10.88.0.1 dev eth0");
    let host_mac = known.split_whitespace().nth(2).unwrap().to_owned();
    let show = tool(&b.namespace, "-o link show eth0");
    let own_mac = show
        .split_whitespace()
        .skip_while(|w| *w != "link/ether")
        .nth(1)
        .unwrap()
        .to_owned();
    let pretend = |mac: &str| {
        tool(&b.namespace, &format!("link set eth0 address {mac}"));
        for gateway in gateways {
            tool(
                &b.namespace,
                &format!("neigh replace {gateway} lladdr {host_mac} dev eth0"),
            );
        }
    };
    pretend("02:de:ad:be:ef:01");
    assert_eq!(gateways.map(reached), [false, false]);
    pretend(&own_mac);
    assert_eq!(gateways.map(reached), [true, true]);
    // A group that claims another's address, and says so to everybody, gets nothing of its traffic.
    within(&b.namespace, || {
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/arp_notify", "1").unwrap();
    });
    tool(&b.namespace, &format!("address add {address}/32 dev eth0"));
    serve(&b.namespace, 80, "b");
    assert_eq!(connect(&lab.host, address, 80).unwrap().0, "a");
    tool(&b.namespace, &format!("address del {address}/32 dev eth0"));
    // Nobody answers ARP: without the neighbour that is given the gateway is out of reach.
    tool(&b.namespace, "neigh del 10.88.0.1 dev eth0");
    assert!(!reached(gateways[0]));
    network.detach(&a.id).await.unwrap();
    network.detach(&b.id).await.unwrap();
    lab.assert_clean();
}

#[tokio::test]
async fn metadata_is_answered_by_the_embedder_who_knows_who_asks() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", "192.0.2.1", "192.0.2.254");
    internet.be_default(&lab, "up0", "192.0.2.254");
    // Somebody outside who would like to answer.
    tool(
        &internet.namespace,
        "address add 169.254.169.254/32 dev net0",
    );
    tool(&internet.namespace, "address add 168.63.129.16/32 dev net0");
    serve(&internet.namespace, 80, "impostor");
    let network = lab.open().await;
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = network.attach(a.request()).await.unwrap();
    network.attach(b.request()).await.unwrap();
    let metadata = ip("169.254.169.254");
    assert!(connect(&a.namespace, metadata, 80).is_err());
    assert!(connect(&a.namespace, ip("168.63.129.16"), 80).is_err());
    let listener = network.metadata_listener().await.unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "token {peer}");
        }
    });
    let (word, who) = connect(&a.namespace, metadata, 80).unwrap();
    assert_eq!((word.as_str(), who), ("token", at_a.addresses[0].addr()));
    assert_eq!(network.sandbox_of(who).await.unwrap(), Some(a.id.clone()));
    assert_eq!(network.sandbox_of(ip("10.88.0.77")).await.unwrap(), None);
    let (_, who) = connect(&b.namespace, metadata, 80).unwrap();
    assert_eq!(network.sandbox_of(who).await.unwrap(), Some(b.id.clone()));
    // Other ports of that address answer nobody, and from outside nobody gets there.
    assert!(connect(&a.namespace, metadata, 81).is_err());
    assert!(connect(&internet.namespace, IpAddr::V4(SERVICE_ADDRESS), port).is_err());
    // It outlasts the last group.
    network.detach(&a.id).await.unwrap();
    network.detach(&b.id).await.unwrap();
    network.attach(b.request()).await.unwrap();
    assert_eq!(connect(&b.namespace, metadata, 80).unwrap().0, "token");
    network.detach(&b.id).await.unwrap();
    let network = {
        drop(network);
        BridgeNetwork::open(lab.options().without_firewall())
            .await
            .unwrap()
    };
    let error = network.metadata_listener().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// Bits per second from one namespace to an address in another one, after what may pass at once.
fn rate(from: &OwnedFd, to: &OwnedFd, address: SocketAddr) -> f64 {
    let listener = within(to, || TcpListener::bind(address).unwrap());
    let mut sender = within(from, || TcpStream::connect(address).unwrap());
    let (mut receiver, _) = listener.accept().unwrap();
    let end = Instant::now() + Duration::from_millis(2500);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let data = vec![0; 64 * 1024];
            while Instant::now() < end && sender.write_all(&data).is_ok() {}
        });
        let mut buffer = vec![0; 256 * 1024];
        let begin = Instant::now();
        let (mut start, mut bytes) = (begin, 0);
        loop {
            let length = receiver.read(&mut buffer).unwrap();
            if length == 0 || begin.elapsed() > Duration::from_millis(2300) {
                #[expect(clippy::cast_precision_loss)]
                return bytes as f64 * 8.0 / start.elapsed().as_secs_f64();
            }
            if begin.elapsed() < Duration::from_millis(500) {
                start = Instant::now();
            } else {
                bytes += length;
            }
        }
    })
}

#[tokio::test]
async fn bandwidth_is_limited_within_a_tenth() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let limit = Bandwidth::new(Some(20_000_000), Some(40_000_000)).unwrap();
    let network = BridgeNetwork::open(lab.options().bandwidth(limit))
        .await
        .unwrap();
    let group = lab.group("a");
    let attachment = network.attach(group.request()).await.unwrap();
    let inside = SocketAddr::new(attachment.addresses[0].addr(), 5001);
    let outside = SocketAddr::new(ip("10.88.0.1"), 5001);
    for again in [false, true] {
        // The payload is 1448 of the 1514 bytes of a packet.
        let wire = 1514.0 / 1448.0;
        let sent = rate(&group.namespace, &lab.host, outside) * wire;
        let received = rate(&lab.host, &group.namespace, inside) * wire;
        println!("sent {sent:.0} bit/s of 20,000,000, received {received:.0} of 40,000,000");
        assert!((sent / 20e6 - 1.0).abs() < 0.1, "sent {sent}");
        assert!((received / 40e6 - 1.0).abs() < 0.1, "received {received}");
        if !again {
            // The same after attaching it again, which mends.
            network.attach(group.request()).await.unwrap();
        }
    }
    network.detach(&group.id).await.unwrap();
    lab.assert_clean();
    let error = Bandwidth::new(Some(1), None).unwrap_err();
    assert!(error.message().contains("100000"), "{error}");
}
