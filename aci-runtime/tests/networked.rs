//! Documents on a real network: subnets, private and public addresses, ports. The host's network is a
//! namespace that the test makes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::{BridgeNetwork, BridgeOptions, Subnet, VirtualNetwork};
use aci_runtime::{Engine, EngineOptions, Group, RedbStore};
use aci_storage::{EmptyDirs, HostImage, OciImages};
use nix::sched::{CloneFlags, setns, unshare};

fn namespace() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    });
    thread.join().unwrap()
}

/// What a server says to the host, or nothing if it is not reached.
fn hear(host: &OwnedFd, address: IpAddr, port: u16) -> Option<String> {
    let host = host.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        setns(host.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        let to = SocketAddr::new(address, port);
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    });
    thread.join().unwrap()
}

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

#[tokio::test(flavor = "multi_thread")]
async fn documents_choose_subnets_and_addresses() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root to make network namespaces");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let host = namespace();
    let images = OciImages::open(dir.path().join("images")).unwrap();
    HostImage::new("local/tools:1")
        .program("/bin/busybox")
        .build(&images)
        .await
        .unwrap();
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
    let isolation = NamespacesOptions::default().state_dir(dir.path().join("run"));
    let engine = Engine::builder()
        .isolation(Namespaces::new(isolation).unwrap())
        .images(images)
        .network(driver.clone())
        .volumes(EmptyDirs::open(dir.path().join("volumes")).unwrap())
        .store(RedbStore::open(dir.path().join("journal")).unwrap())
        .options(EngineOptions {
            grace: Duration::from_secs(1),
            ..Default::default()
        })
        .build()
        .await
        .unwrap();
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
