//! Documents on a real network: subnets, private and public addresses, ports, names, readiness. The
//! host's network is a namespace that the test makes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/hosts.rs"]
mod hosts;

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aci_core::error::ErrorKind;
use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::{BridgeNetwork, BridgeOptions, Subnet, VirtualNetwork};
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, RedbStore};
use aci_storage::{EmptyDirs, HostImage, OciImages};
use hosts::{hear, namespace};
use tokio::io::AsyncReadExt;

/// A group that says its name on port 80 and "hidden" on port 81.
fn document(name: &str, kind: &str, subnet: &str) -> ContainerGroup {
    let id = "/subscriptions/0/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/prod/subnets";
    let subnets = if subnet.is_empty() {
        String::new()
    } else {
        format!("subnetIds: [{{id: {id}/{subnet}}}]")
    };
    let text = format!(
        "
name: {name}
properties:
  osType: Linux
  restartPolicy: Always
  {subnets}
  ipAddress: {{type: {kind}, ports: [{{port: 80, protocol: TCP}}]}}
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/busybox, sh, -c, 'while true; do echo hidden | /bin/busybox nc -l -p 81; done & while true; do echo {name} | /bin/busybox nc -l -p 80; done']
      ports: [{{port: 80, protocol: TCP}}]
      resources: {{requests: {{cpu: 0.1, memoryInGB: 0.1}}}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

/// The address that the group's view shows.
fn shown(group: &Group) -> IpAddr {
    let view = group.view();
    let address = view
        .properties
        .ip_address
        .as_ref()
        .and_then(|a| a.ip.clone());
    address.unwrap().parse().unwrap()
}

/// An engine on real parts with this image and network.
async fn engine(dir: &Path, image: HostImage, network: BridgeNetwork) -> Engine {
    let images = OciImages::open(dir.join("images")).unwrap();
    image.build(&images).await.unwrap();
    let isolation = NamespacesOptions::default().state_dir(dir.join("run"));
    Engine::builder()
        .isolation(Namespaces::new(isolation).unwrap())
        .images(images)
        .network(network)
        .volumes(EmptyDirs::open(dir.join("volumes")).unwrap())
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .options(EngineOptions {
            grace: Duration::from_secs(1),
            ..Default::default()
        })
        .build()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_choose_subnets_and_addresses() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root to make network namespaces");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let host = namespace();
    let net = |text: &str| text.parse().unwrap();
    let subnets = vec![
        Subnet::new("front", vec![net("10.5.0.0/24")]).unwrap(),
        Subnet::new("back", vec![net("10.5.1.0/24")]).unwrap(),
    ];
    let network = VirtualNetwork::new("prod", vec![net("10.5.0.0/16")], subnets).unwrap();
    let options = BridgeOptions::new(dir.path().join("network"))
        .host_namespace(host.try_clone().unwrap())
        .network(network)
        .public_addresses([net("203.0.113.8/30")]);
    let driver = BridgeNetwork::open(options).await.unwrap();
    let image = HostImage::new("local/tools:1").program("/bin/busybox");
    let engine = engine(dir.path(), image, driver.clone()).await;
    let private = engine
        .create_or_update(document("inner", "Private", "back"))
        .await
        .unwrap();
    let public = engine
        .create_or_update(document("outer", "Public", ""))
        .await
        .unwrap();
    for group in [&private, &public] {
        group.running().await.unwrap();
    }
    assert!(shown(&private).to_string().starts_with("10.5.1."));
    assert_eq!(shown(&public).to_string(), "203.0.113.8");
    for (group, name) in [(&private, "inner\n"), (&public, "outer\n")] {
        // The server begins to listen a moment after its container has started.
        let deadline = Instant::now() + Duration::from_secs(20);
        while hear(&host, shown(group), 80).as_deref() != Some(name) {
            assert!(Instant::now() < deadline, "{name} is not reached");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(hear(&host, shown(group), 81), None, "only the listed ports");
    }
    for group in [private, public] {
        group.delete().await.unwrap();
    }
    let report = driver.report().await.unwrap();
    assert!(report.attachments.is_empty() && report.stray_links.is_empty());
}

/// A static program that asks musl, as Alpine's images do, for a name's IPv4 address.
fn musl_lookup(dir: &Path) -> std::path::PathBuf {
    let (source, program) = (dir.join("lookup.c"), dir.join("lookup"));
    let text = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int error = argc == 2 ? getaddrinfo(argv[1], "80", &hints, &found) : EAI_FAIL;
    if (error) { puts(gai_strerror(error)); return 1; }
    puts(inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr));
    return 0;
}
"#;
    std::fs::write(&source, text).unwrap();
    let status = Command::new("musl-gcc")
        .args(["-static", "-o"])
        .args([&program, &source])
        .status()
        .expect("musl-gcc (Debian package musl-tools)");
    assert!(status.success());
    program
}

/// What a command says that runs in the group's container `app`.
async fn said(group: &Group, words: &[&str]) -> String {
    let options = ExecOptions::command(words.iter().copied());
    let mut process = group.container("app").unwrap().exec(options).await.unwrap();
    let mut output = String::new();
    process.stdout.read_to_string(&mut output).await.unwrap();
    output.trim().to_owned()
}

/// A group in West Europe that answers on port 80, is ready when `/tmp/ready` is there, and has a
/// second container. `address` is what its `ipAddress` has besides, `more` further properties.
fn named(name: &str, address: &str, more: &str) -> ContainerGroup {
    let text = format!(
        "
name: {name}
location: westeurope
properties:
  osType: Linux
  restartPolicy: Always
  ipAddress: {{type: Public, {address} ports: [{{port: 80, protocol: TCP}}]}}
  {more}
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/busybox, sh, -c, 'while true; do echo {name} | /bin/busybox nc -l -p 80; done']
      ports: [{{port: 80, protocol: TCP}}]
      readinessProbe: {{exec: {{command: [/bin/busybox, test, -f, /tmp/ready]}}, periodSeconds: 1}}
      resources: {{requests: {{cpu: 0.1, memoryInGB: 0.1}}}}
  - name: beside
    properties:
      image: local/tools:1
      command: [/bin/busybox, sh, -c, 'while true; do echo beside | /bin/busybox nc -l -p 90; done']
      resources: {{requests: {{cpu: 0.1, memoryInGB: 0.1}}}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

/// Asks until the answer is the expected one.
async fn wait_for<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, ask: impl Fn() -> T) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = ask();
        if answer == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labelled_groups_find_each_other_from_their_containers() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root to make network namespaces");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let host = namespace();
    let image = HostImage::new("local/tools:1")
        .program("/bin/busybox")
        .program("/usr/bin/dig")
        .program("/usr/bin/getent")
        .program_as(musl_lookup(dir.path()), "/bin/lookup")
        .directory("/tmp", 0o1777);
    let options = BridgeOptions::new(dir.path().join("network"))
        .host_namespace(host.try_clone().unwrap())
        .network(VirtualNetwork::single("10.5.0.0/16".parse().unwrap()).unwrap());
    let driver = BridgeNetwork::open(options).await.unwrap();
    let engine = engine(dir.path(), image, driver.clone()).await;
    let label = "dnsNameLabel: my-web, autoGeneratedDomainNameLabelScope: Unsecure,";
    let web = engine
        .create_or_update(named("web", label, ""))
        .await
        .unwrap();
    let dns =
        "dnsConfig: {nameServers: [192.0.2.53], searchDomains: corp.example, options: 'ndots:3'}";
    let client = engine
        .create_or_update(named("client", "", ""))
        .await
        .unwrap();
    let own = engine
        .create_or_update(named("own", "", dns))
        .await
        .unwrap();
    // A label taken twice: ACI's error, and nothing of the group is left.
    let taken = engine
        .create_or_update(named("late", label, ""))
        .await
        .unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(taken.aci_code(), Some("DnsNameLabelNotAvailable"));
    assert!(engine.get("late").is_err());
    for group in [&web, &client, &own] {
        group.running().await.unwrap();
    }
    let view = web.view();
    let address = view.properties.ip_address.unwrap();
    let fqdn = address.fqdn.unwrap();
    assert_eq!(fqdn, "my-web.westeurope.aci.internal");
    let ip = address.ip.unwrap();
    // dig, glibc, musl and BusyBox, each in a container of the other group.
    assert_eq!(said(&client, &["dig", "+short", &fqdn]).await, ip);
    assert_eq!(said(&client, &["dig", "+short", "+tcp", &fqdn]).await, ip);
    for name in [fqdn.as_str(), "web"] {
        let glibc = said(&client, &["getent", "ahostsv4", name]).await;
        assert!(glibc.starts_with(&ip), "{name}: {glibc}");
        assert_eq!(said(&client, &["/bin/lookup", name]).await, ip, "{name}");
        let busybox = said(&client, &["/bin/busybox", "nslookup", name]).await;
        assert!(busybox.contains(&ip), "{name}: {busybox}");
    }
    // Its own name is in /etc/hosts; what a document says about DNS is in /etc/resolv.conf.
    assert_eq!(said(&web, &["/bin/busybox", "hostname"]).await, "web");
    let hosts = said(&web, &["/bin/busybox", "cat", "/etc/hosts"]).await;
    let line = hosts.lines().find(|l| l.starts_with(&ip));
    assert!(line.is_some_and(|l| l.contains("web")), "{hosts}");
    let resolv = said(&own, &["/bin/busybox", "cat", "/etc/resolv.conf"]).await;
    for line in [
        "nameserver 192.0.2.53",
        "search corp.example",
        "options ndots:3",
    ] {
        assert!(resolv.lines().any(|l| l == line), "{line} in {resolv}");
    }
    // Containers of a group share its loopback; another group's is another one.
    let beside = ["/bin/busybox", "nc", "-w", "5", "127.0.0.1", "90"];
    let deadline = Instant::now() + Duration::from_secs(20);
    while said(&client, &beside).await != "beside" {
        assert!(
            Instant::now() < deadline,
            "the second container is not heard"
        );
    }
    // Traffic is withheld until the readiness probe succeeds, and again when it fails.
    let ip: IpAddr = ip.parse().unwrap();
    let ready = Some("web\n".to_owned());
    let heard = || hear(&host, ip, 80);
    wait_for("not ready yet", None, heard).await;
    said(&web, &["/bin/busybox", "touch", "/tmp/ready"]).await;
    wait_for("ready", ready, heard).await;
    said(&web, &["/bin/busybox", "rm", "/tmp/ready"]).await;
    wait_for("no longer ready", None, heard).await;
    // A name ends with its group, and then another group may have it.
    web.delete().await.unwrap();
    let status = said(&client, &["dig", &fqdn]).await;
    assert!(status.contains("NXDOMAIN"), "{status}");
    let late = engine
        .create_or_update(named("late", label, ""))
        .await
        .unwrap();
    late.running().await.unwrap();
    let again = shown(&late).to_string();
    assert_eq!(said(&client, &["dig", "+short", &fqdn]).await, again);
    for group in [client, own, late] {
        group.delete().await.unwrap();
    }
    let report = driver.report().await.unwrap();
    assert!(report.attachments.is_empty() && report.stray_links.is_empty());
}
