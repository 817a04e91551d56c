//! The program is killed before every step of attaching, detaching, withholding and mending, one
//! after the other; then the directory is opened again, and kernel and journal must agree: what is
//! attached is in the kernel link by link and rule by rule as if nobody had been killed, what is not
//! attached is not there at all.

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
use crate::bridge::names::Names;
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

/// A group that is attached all the time, where a test has one.
fn resident() -> SandboxId {
    "resident".parse().unwrap()
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

/// What the kernel should have.
struct Expected {
    /// Of links, routes and tables while the group is not attached.
    before: Vec<String>,
    /// Everything, while it is not.
    without: Vec<String>,
    /// Everything, while it is.
    with: Vec<String>,
    /// Whether another group is attached all the time.
    resident: bool,
}

/// Opens after a crash: what is listed is there and works, what is not listed is not. Returns whether
/// the group is attached.
async fn agree(
    lab: &Lab,
    expected: &Expected,
    group: &super::lab::Group,
    flow: Option<IpAddr>,
) -> bool {
    let network = open(lab).await;
    let list = network.list().await.unwrap();
    let found = list.iter().find(|a| a.sandbox == crasher());
    assert_eq!(
        list.len(),
        usize::from(found.is_some()) + usize::from(expected.resident)
    );
    assert_eq!(forwards(lab, "up0"), !list.is_empty());
    let report = network.report().await.unwrap();
    assert_eq!(
        (report.stray_links.len(), report.stray_routes.len()),
        (0, 0)
    );
    assert_eq!(report.public_addresses, usize::from(found.is_some()));
    if let Some(found) = found {
        let (address, public) = (found.addresses[0].addr(), found.ip.unwrap());
        network.set_ready(&crasher(), true).await.unwrap();
        assert_eq!(picture(lab, group), expected.with);
        assert_eq!(connect(&lab.host, address, 80).unwrap().0, "crasher");
        assert_eq!(connect(&lab.host, public, 80).unwrap().0, "crasher");
        assert!(lab.host_addresses().contains(&public));
    } else {
        assert_eq!(picture(lab, group), expected.without);
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
    let attached = found.is_some();
    network.detach(&crasher()).await.unwrap();
    if expected.resident {
        assert_eq!(picture(lab, group), expected.without);
        network.detach(&resident()).await.unwrap();
    }
    assert_eq!(lab.everything(), expected.before);
    assert!(!forwards(lab, "up0"));
    attached
}

/// What a tool says in a namespace.
fn told(namespace: &OwnedFd, words: &str) -> String {
    let output = within(namespace, || {
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .output()
            .expect("ip and nft (Debian packages iproute2 and nftables)")
    });
    assert!(output.status.success(), "{words}");
    String::from_utf8(output.stdout).unwrap()
}

/// Links, addresses, routes, neighbours, limits and rules of the host and the group, as the system's
/// own tools see them, with names that do not depend on the state directory.
fn picture(lab: &Lab, group: &super::lab::Group) -> Vec<String> {
    let rules = told(&lab.host, "nft list ruleset");
    let table = rules.split(' ').find_map(|w| w.strip_prefix("aci-net-"));
    let mut known = Vec::new();
    if let Some(names) = table.map(Names::new) {
        let mac = |m: [u8; 6]| m.map(|b| format!("{b:02x}")).join(":");
        for (sandbox, word) in [(crasher(), "CRASHER"), (resident(), "RESIDENT")] {
            let (ours, peers) = names.macs(&sandbox);
            known.push((names.link(&sandbox), format!("{word}-LINK")));
            known.push((names.shaper(&sandbox), format!("{word}-SHAPER")));
            known.push((mac(ours), format!("{word}-MAC")));
            known.push((mac(peers), format!("{word}-PEER")));
        }
        let group = names.live_group();
        known.push((names.table(), "TABLE".to_owned()));
        known.push((names.anchor(), "ANCHOR".to_owned()));
        known.push((group.to_string(), "GROUP".to_owned()));
        known.push((format!("{group:#010x}"), "GROUP".to_owned()));
    }
    let mut all = Vec::new();
    for (place, namespace) in [("host", &lab.host), ("group", &*group.namespace)] {
        for words in [
            "ip -o link show type veth",
            "ip -o link show type ifb",
            "ip -o link show type bridge",
            "ip -o address show",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip neigh show nud permanent",
            "tc qdisc show",
            "nft list ruleset",
        ] {
            let mut text = told(namespace, words);
            for (name, word) in &known {
                text = text.replace(name, word);
            }
            for line in text.split(['\n', ',']) {
                let numbers = words.starts_with("nft");
                let line = line.split_whitespace();
                let line: Vec<&str> = line.filter_map(|w| steady(w, numbers)).collect();
                // What the kernel does with `up0` by itself, a while after it was made.
                let own = |w: &&str| w.starts_with("fe80:") || w.starts_with("ff00:");
                if !line.is_empty() && !line.iter().any(own) {
                    all.push(format!("{place} {}", line.join(" ")));
                }
            }
        }
    }
    all.sort();
    all
}

/// A word of a tool without what differs from one making of the same thing to the next: numbers of
/// links and queues, random MAC addresses, and the brackets around elements, which come in any order.
fn steady(word: &str, numbers: bool) -> Option<&str> {
    let word = word.split('@').next()?;
    let number = word.trim_end_matches(':');
    let is_mac = word.len() == 17 && word.split(':').count() == 6;
    let skipped = ["elements", "=", "{", "}", "tentative"].contains(&word)
        || is_mac
        || (!numbers && number.bytes().all(|b| b.is_ascii_hexdigit()));
    (!skipped).then_some(word)
}

/// A host with a way to the internet.
fn lab() -> (Lab, Outside, Vec<String>) {
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", "192.0.2.1", "192.0.2.254");
    internet.be_default(&lab, "up0", "192.0.2.254");
    let before = lab.everything();
    (lab, internet, before)
}

/// Attaches the group that stays.
async fn settle(lab: &Lab, with_resident: bool) -> Option<super::lab::Group> {
    if !with_resident {
        return None;
    }
    let group = lab.group("resident");
    let wanted = request(&resident(), Arc::clone(&group.namespace));
    open(lab).await.attach(wanted).await.unwrap();
    Some(group)
}

/// Kills some work before its first step, its second, and so on until it is done before it could be
/// killed.
async fn every_step(work: &str, attached_first: bool, with_resident: bool, least: usize) {
    if !root() {
        return;
    }
    // What the kernel has when nobody is killed.
    let expected = {
        let (lab, _internet, before) = lab();
        let group = lab.group("crash");
        let _resident = settle(&lab, with_resident).await;
        let without = picture(&lab, &group);
        run(&lab, &group.namespace, "attach", NEVER);
        let network = open(&lab).await;
        let with = picture(&lab, &group);
        assert!(with.len() > without.len() + 20, "{with:#?}");
        network.detach(&crasher()).await.unwrap();
        if with_resident {
            network.detach(&resident()).await.unwrap();
        }
        Expected {
            before,
            without,
            with,
            resident: with_resident,
        }
    };
    let mut outcomes = Vec::new();
    for step in 1.. {
        let (lab, _internet, _) = lab();
        let group = lab.group("crash");
        let _resident = settle(&lab, with_resident).await;
        serve(&group.namespace, 80, "crasher");
        let mut address = None;
        if attached_first {
            run(&lab, &group.namespace, "attach", NEVER);
            // So that there is a connection to be forgotten.
            let last = if with_resident { 5 } else { 4 };
            let known = IpAddr::from([10, 88, 0, last]);
            connect(&lab.host, known, 80).unwrap();
            assert!(flows(&lab, known) > 0);
            address = Some(known);
        }
        let killed = run(&lab, &group.namespace, work, step);
        outcomes.push(agree(&lab, &expected, &group, address).await);
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
    every_step("attach", false, false, 12).await;
}

#[tokio::test]
async fn killed_while_attaching_beside_another() {
    every_step("attach", false, true, 6).await;
}

#[tokio::test]
async fn killed_while_detaching() {
    every_step("detach", true, false, 6).await;
}

#[tokio::test]
async fn killed_while_detaching_beside_another() {
    every_step("detach", true, true, 5).await;
}

#[tokio::test]
async fn killed_while_withholding() {
    every_step("ready", true, false, 2).await;
}

#[tokio::test]
async fn killed_while_mending() {
    every_step("open", true, false, 1).await;
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
