//! The program is killed before every step of attaching, detaching, withholding and mending, one
//! after the other; then the directory is opened again, and kernel and journal must agree.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aci_core::contract::NetworkDriver;
use aci_core::id::SandboxId;
use aci_core::model::Protocol;
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};

use super::lab::{Lab, Outside, connect, forwards, public, request, root, serve, within};
use crate::bridge::{BridgeNetwork, BridgeOptions};
use crate::netlink::{Socket, conntrack, nft};
use crate::{Bandwidth, Subnet, VirtualNetwork};

const STEP: &str = "ACI_NET_TEST_STEP";
const WORK: &str = "ACI_NET_TEST_WORK";
const HOST: &str = "ACI_NET_TEST_HOST";
const GROUP: &str = "ACI_NET_TEST_GROUP";
const STATE: &str = "ACI_NET_TEST_STATE";

/// How many steps were begun.
static STEPS: AtomicUsize = AtomicUsize::new(0);

fn die_at(step: &'static str) {
    let number = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
    if std::env::var(STEP).is_ok_and(|at| at == number.to_string()) {
        println!("killed before step {number}, {step}");
        kill(nix::unistd::getpid(), Signal::SIGKILL).unwrap();
    }
}

fn crasher() -> SandboxId {
    "crasher".parse().unwrap()
}

/// The program that is killed: this test, started again by the others.
#[tokio::test]
async fn child() {
    let Ok(work) = std::env::var(WORK) else {
        return;
    };
    let open = |name| OwnedFd::from(File::open(std::env::var(name).unwrap()).unwrap());
    let options = BridgeOptions::new(std::env::var(STATE).unwrap())
        .host_namespace(open(HOST))
        .step(die_at);
    let network = BridgeNetwork::open(with_everything(options)).await.unwrap();
    let mut group = request(&crasher(), Arc::new(open(GROUP)));
    group.ip_address = public(&[(80, Protocol::Tcp), (53, Protocol::Udp)]);
    match work.as_str() {
        "open" => {}
        "attach" => drop(network.attach(group).await.unwrap()),
        "detach" => network.detach(&crasher()).await.unwrap(),
        "ready" => network.set_ready(&crasher(), false).await.unwrap(),
        other => panic!("unknown work {other}"),
    }
}

/// Every kind of kernel object: public addresses, limits, a NAT gateway, both families.
fn with_everything(options: BridgeOptions) -> BridgeOptions {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let ranges = vec![net("10.88.0.0/16"), net("fd00::/64")];
    let subnet = Subnet::new("default", ranges.clone())
        .unwrap()
        .nat_gateway(["203.0.113.9".parse().unwrap()])
        .unwrap();
    let limit = Bandwidth::new(Some(1_000_000_000), Some(1_000_000_000)).unwrap();
    options
        .network(VirtualNetwork::new("default", ranges, vec![subnet]).unwrap())
        .bandwidth(limit)
        .public_addresses([net("203.0.113.0/30")])
}

async fn open(lab: &Lab) -> BridgeNetwork {
    BridgeNetwork::open(with_everything(lab.options()))
        .await
        .unwrap()
}

/// Runs the program and kills it before a step; returns whether it came that far.
fn run(lab: &Lab, group: &OwnedFd, work: &str, step: usize) -> bool {
    let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bridge::tests::crash::child", "--nocapture"])
        .env(WORK, work)
        .env(STEP, step.to_string())
        .env(HOST, path(&lab.host))
        .env(GROUP, path(group))
        .env(STATE, lab.path("state"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    assert!(
        killed || output.status.success(),
        "{work} at {step}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    if let Some(line) = text.lines().find(|l| l.starts_with("killed")) {
        println!("{work}: {line}");
    }
    killed
}

const NEVER: usize = 0;

/// Connections that the kernel knows of an address.
fn flows(lab: &Lab, address: IpAddr) -> usize {
    within(&lab.host, || {
        let mut socket = Socket::open(nft::PROTOCOL).unwrap();
        let mut count = 0;
        conntrack::forget(&mut socket, |flow| {
            count +=
                usize::from(flow.from == address || flow.to == address || flow.answers == address);
            false
        })
        .unwrap();
        count
    })
}

/// Opens after a crash: what is listed is there and works, what is not listed is not. Returns whether
/// the group is attached.
async fn agree(
    lab: &Lab,
    before: &[String],
    group: &super::lab::Group,
    flow: Option<IpAddr>,
) -> bool {
    let network = open(lab).await;
    let list = network.list().await.unwrap();
    let attached = !list.is_empty();
    assert_eq!(forwards(lab, "up0"), attached);
    let report = network.report().await.unwrap();
    assert_eq!(
        (report.stray_links.len(), report.stray_routes.len()),
        (0, 0)
    );
    assert_eq!(report.public_addresses, usize::from(attached));
    if attached {
        // The pair, the link that limits it, and the bridge.
        assert_eq!(lab.own_links(), 3);
        let address = list[0].addresses[0].addr();
        network.set_ready(&crasher(), true).await.unwrap();
        assert_eq!(connect(&lab.host, address, 80).unwrap().0, "crasher");
        assert_eq!(
            connect(&lab.host, list[0].ip.unwrap(), 80).unwrap().0,
            "crasher"
        );
        assert!(lab.host_addresses().contains(&list[0].ip.unwrap()));
    } else {
        assert_eq!(lab.everything(), before);
        assert_eq!(super::lab::names(&group.namespace), ["lo"]);
        if let Some(address) = flow {
            assert_eq!(flows(lab, address), 0, "connections of {address} are left");
        }
        // The address of the killed attempt rests; the next one works.
        let again = network
            .attach(request(&crasher(), Arc::clone(&group.namespace)))
            .await
            .unwrap();
        assert_eq!(
            connect(&lab.host, again.addresses[0].addr(), 80).unwrap().0,
            "crasher"
        );
    }
    network.detach(&crasher()).await.unwrap();
    assert_eq!(lab.everything(), before);
    assert!(!forwards(lab, "up0"));
    attached
}

/// A host with a way to the internet.
fn lab() -> (Lab, Outside, Vec<String>) {
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", "192.0.2.1", "192.0.2.254");
    internet.be_default(&lab, "up0", "192.0.2.254");
    let before = lab.everything();
    (lab, internet, before)
}

/// Kills some work before its first step, its second, and so on until it is done before it could be
/// killed.
async fn every_step(work: &str, attached_first: bool, least: usize) {
    if !root() {
        return;
    }
    let mut outcomes = Vec::new();
    for step in 1.. {
        let (lab, _internet, before) = lab();
        let group = lab.group("crash");
        serve(&group.namespace, 80, "crasher");
        let mut address = None;
        if attached_first {
            run(&lab, &group.namespace, "attach", NEVER);
            // So that there is a connection to be forgotten.
            let known: IpAddr = "10.88.0.4".parse().unwrap();
            connect(&lab.host, known, 80).unwrap();
            assert!(flows(&lab, known) > 0);
            address = Some(known);
        }
        let killed = run(&lab, &group.namespace, work, step);
        outcomes.push(agree(&lab, &before, &group, address).await);
        if !killed {
            break;
        }
    }
    assert!(
        outcomes.len() > least,
        "{work} has only {} steps",
        outcomes.len() - 1
    );
    assert!(outcomes.contains(&true), "{work}: never attached");
    if work != "ready" && work != "open" {
        assert!(outcomes.contains(&false), "{work}: never not attached");
    }
}

#[tokio::test]
async fn killed_while_attaching() {
    every_step("attach", false, 12).await;
}

#[tokio::test]
async fn killed_while_detaching() {
    every_step("detach", true, 6).await;
}

#[tokio::test]
async fn killed_while_withholding() {
    every_step("ready", true, 2).await;
}

#[tokio::test]
async fn killed_while_mending() {
    every_step("open", true, 1).await;
}

#[tokio::test]
async fn what_was_withheld_when_the_program_died_is_withheld() {
    if !root() {
        return;
    }
    let (lab, _internet, _) = lab();
    let group = lab.group("crash");
    serve(&group.namespace, 80, "crasher");
    run(&lab, &group.namespace, "attach", NEVER);
    // The last step of the work is the change of the rules.
    let last = (1..)
        .take_while(|step| run(&lab, &group.namespace, "ready", *step))
        .count();
    assert!(last > 0);
    let network = open(&lab).await;
    let address = network.list().await.unwrap()[0].addresses[0].addr();
    assert!(connect(&lab.host, address, 80).is_err());
    network.detach(&crasher()).await.unwrap();
}
