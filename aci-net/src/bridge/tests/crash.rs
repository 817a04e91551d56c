//! The program is killed before each step of attaching, detaching and withholding; then the
//! directory is opened again, and kernel and journal must agree.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

use aci_core::contract::NetworkDriver;
use aci_core::id::SandboxId;
use nix::sys::signal::{Signal, kill};

use super::lab::{Lab, Outside, connect, forwards, request, root, serve};
use crate::bridge::{BridgeNetwork, BridgeOptions};

const STEP: &str = "ACI_NET_TEST_STEP";
const WORK: &str = "ACI_NET_TEST_WORK";
const HOST: &str = "ACI_NET_TEST_HOST";
const GROUP: &str = "ACI_NET_TEST_GROUP";
const STATE: &str = "ACI_NET_TEST_STATE";

fn die_at(step: &'static str) {
    if std::env::var(STEP).is_ok_and(|at| at == step) {
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
    let network = BridgeNetwork::open(options).await.unwrap();
    let group = request(&crasher(), Arc::new(open(GROUP)));
    match work.as_str() {
        "attach" => drop(network.attach(group).await.unwrap()),
        "detach" => network.detach(&crasher()).await.unwrap(),
        "ready" => network.set_ready(&crasher(), false).await.unwrap(),
        other => panic!("unknown work {other}"),
    }
}

fn run(lab: &Lab, group: &OwnedFd, work: &str, step: &str) {
    let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bridge::tests::crash::child", "--nocapture"])
        .env(WORK, work)
        .env(STEP, step)
        .env(HOST, path(&lab.host))
        .env(GROUP, path(group))
        .env(STATE, lab.path("state"))
        .output()
        .unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    assert_eq!(
        killed,
        step != "never",
        "{work} at {step}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Opens after a crash: what is listed is there, what is not listed is not.
async fn agree(lab: &Lab, before: &[String], group: &super::lab::Group, attached: bool) {
    let network = lab.open().await;
    assert_eq!(forwards(lab, "up0"), attached);
    let list = network.list().await.unwrap();
    assert_eq!(list.len(), usize::from(attached));
    if attached {
        assert_eq!(lab.own_links(), 2);
        let address = list[0].addresses[0].addr();
        network.set_ready(&crasher(), true).await.unwrap();
        assert_eq!(connect(&lab.host, address, 80).unwrap().0, "crasher");
    } else {
        assert_eq!(lab.everything(), before);
        assert_eq!(super::lab::names(&group.namespace), ["lo"]);
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
}

/// A host with a way to the internet.
fn lab() -> (Lab, Outside, Vec<String>) {
    let lab = Lab::new();
    let internet = Outside::new(&lab, "up0", "192.0.2.1", "192.0.2.254");
    internet.be_default(&lab, "up0", "192.0.2.254");
    let before = lab.everything();
    (lab, internet, before)
}

#[tokio::test]
async fn killed_while_attaching() {
    if !root() {
        return;
    }
    for step in [
        "journal.intend",
        "base.link",
        "base.configure",
        "network.attach",
        "uplink.on",
        "attach.link",
        "attach.inside",
        "attach.host",
        "journal.commit",
        "never",
    ] {
        println!("killed before {step}");
        let (lab, _internet, before) = lab();
        let group = lab.group("crash");
        serve(&group.namespace, 80, "crasher");
        run(&lab, &group.namespace, "attach", step);
        agree(&lab, &before, &group, step == "never").await;
    }
}

#[tokio::test]
async fn killed_while_detaching() {
    if !root() {
        return;
    }
    for step in [
        "journal.leave",
        "uplink.off",
        "network.detach",
        "detach.routes",
        "detach.links",
        "journal.free",
        "never",
    ] {
        println!("killed before {step}");
        let (lab, _internet, before) = lab();
        let group = lab.group("crash");
        serve(&group.namespace, 80, "crasher");
        run(&lab, &group.namespace, "attach", "never");
        run(&lab, &group.namespace, "detach", step);
        agree(&lab, &before, &group, step == "journal.leave").await;
    }
}

#[tokio::test]
async fn killed_while_withholding() {
    if !root() {
        return;
    }
    let (lab, _internet, before) = lab();
    let group = lab.group("crash");
    serve(&group.namespace, 80, "crasher");
    run(&lab, &group.namespace, "attach", "never");
    run(&lab, &group.namespace, "ready", "network.set_ready");
    // The journal says withheld, the kernel does not yet; opening makes it so.
    let network = lab.open().await;
    let address = network.list().await.unwrap()[0].addresses[0].addr();
    assert!(connect(&lab.host, address, 80).is_err());
    drop(network);
    agree(&lab, &before, &group, true).await;
}
