//! Two programs with networks of their own on one host.

use std::io::Write;
use std::net::{IpAddr, TcpListener};

use aci_core::contract::NetworkDriver;
use aci_core::error::ErrorKind;
use aci_core::model::Protocol;

use super::lab::{Lab, Outside, connect, forwards, public, root, serve};
use crate::bridge::{BridgeNetwork, BridgeOptions};

const HOST: &str = "192.0.2.1";
const NET: &str = "192.0.2.254";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn second(lab: &Lab) -> BridgeOptions {
    BridgeOptions::new(lab.path("second")).host_namespace(lab.host())
}

#[tokio::test]
async fn two_networks_on_one_host_keep_apart() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let first = lab.open().await;
    let other = BridgeNetwork::open(second(&lab)).await.unwrap();
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = first.attach(a.request()).await.unwrap();
    let at_b = other.attach(b.request()).await.unwrap();
    assert_eq!(at_a.addresses[0].to_string(), "10.88.0.4/16");
    assert_eq!(at_b.addresses[0].to_string(), "10.118.0.4/16");
    drop(other);
    let other = BridgeNetwork::open(second(&lab)).await.unwrap();
    serve(&a.namespace, 80, "a");
    assert_eq!(
        connect(&lab.host, at_a.addresses[0].addr(), 80).unwrap().0,
        "a"
    );
    let busy = BridgeNetwork::open(lab.options()).await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Conflict);
    other.detach(&b.id).await.unwrap();
    first.detach(&a.id).await.unwrap();
    lab.assert_clean();
}

fn tell(listener: TcpListener, word: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "{word} {peer}");
        }
    });
}

/// The rules of one dropped what came in for the groups of the other: answers from the internet,
/// published ports, and questions for metadata; and the first to close took the way in from both.
#[tokio::test]
async fn two_networks_share_an_uplink_and_each_has_its_metadata() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", HOST, NET);
    internet.be_default(&lab, "up0", NET);
    let lan = Outside::new(&lab, "lan0", "198.51.100.1", "198.51.100.2");
    serve(&internet.namespace, 80, "internet");
    serve(&lan.namespace, 80, "lan");
    let before = lab.everything();
    let first = || lab.options().publish_on([ip(HOST)]);
    let networks = [
        BridgeNetwork::open(first()).await.unwrap(),
        BridgeNetwork::open(second(&lab).publish_on([ip(HOST)]))
            .await
            .unwrap(),
    ];
    let groups = [lab.group("a"), lab.group("b")];
    let words = ["one", "two"];
    let ports = [81, 82];
    for at in [0, 1] {
        let mut request = groups[at].request();
        request.ip_address = public(&[(ports[at], Protocol::Tcp)]);
        networks[at].attach(request).await.unwrap();
        serve(&groups[at].namespace, ports[at], words[at]);
        tell(networks[at].metadata_listener().await.unwrap(), words[at]);
    }
    let metadata = ip("169.254.169.254");
    let works = |at: usize| {
        let group: &std::os::fd::OwnedFd = &groups[at].namespace;
        assert_eq!(connect(group, ip(NET), 80).unwrap().1, ip(HOST));
        assert_eq!(
            connect(&internet.namespace, ip(HOST), ports[at]).unwrap().0,
            words[at]
        );
        assert_eq!(connect(group, metadata, 80).unwrap().0, words[at]);
    };
    works(0);
    works(1);
    // Still nobody else is routed for.
    assert!(connect(&internet.namespace, ip("198.51.100.2"), 80).is_err());
    // One program ends and starts again; the one who switched forwarding on closes first.
    let [one, two] = networks;
    drop(one);
    let one = BridgeNetwork::open(first()).await.unwrap();
    tell(one.metadata_listener().await.unwrap(), words[0]);
    works(0);
    works(1);
    one.detach(&groups[0].id).await.unwrap();
    assert!(forwards(&lab, "up0"));
    works(1);
    two.detach(&groups[1].id).await.unwrap();
    assert!(!forwards(&lab, "up0"));
    assert_eq!(lab.everything(), before);
}
