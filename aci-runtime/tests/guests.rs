//! A group in a machine of its own on the network of others: the same document, driver and engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/hosts.rs"]
mod hosts;

use std::io::Write;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aci_core::contract::{AttachRequest, Isolation, NetworkDriver, NetworkEndpoint, SandboxSpec};
use aci_core::id::SandboxId;
use aci_core::model::ContainerGroup;
use aci_core::size::Limits;
use aci_isolation::microvm::{Accelerator, Kernel, MicroVm, MicroVmOptions};
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::{BridgeNetwork, BridgeOptions, VirtualNetwork};
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, RedbStore, Shutdown};
use aci_storage::{EmptyDirs, HostImage, OciImages};
use hosts::{hear, namespace};
use nix::sched::{CloneFlags, setns};
use tokio::io::AsyncReadExt;

/// Debian's kernel, unpacked from its package.
fn kernel() -> Kernel {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/guest-kernel");
    let output = Command::new(script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let root = String::from_utf8(output.stdout).unwrap();
    Kernel::find(Path::new(root.trim())).unwrap()
}

/// A group that says its name on port 80 and "hidden" on port 81.
fn document(name: &str) -> ContainerGroup {
    let text = format!(
        "
name: {name}
properties:
  osType: Linux
  restartPolicy: Always
  ipAddress: {{type: Public, ports: [{{port: 80, protocol: TCP}}]}}
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/busybox, sh, -c, 'while true; do echo hidden | /bin/busybox nc -l -p 81; done & while true; do echo {name} | /bin/busybox nc -l -p 80; done']
      ports: [{{port: 80, protocol: TCP}}]
      resources: {{requests: {{cpu: 0.5, memoryInGB: 0.1}}}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

fn shown(group: &Group) -> IpAddr {
    let view = group.view();
    let address = view.properties.ip_address.as_ref();
    address.and_then(|a| a.ip.clone()).unwrap().parse().unwrap()
}

async fn engine(dir: &Path, isolation: impl Isolation + 'static, network: BridgeNetwork) -> Engine {
    let images = OciImages::open(dir.join("images")).unwrap();
    let image = HostImage::new("local/tools:1").program("/bin/busybox");
    image.build(&images).await.unwrap();
    Engine::builder()
        .isolation(isolation)
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

async fn run(group: &Group, command: &str) -> String {
    let container = group.container("app").unwrap();
    let options = ExecOptions::command(["/bin/busybox", "sh", "-c", command]);
    let mut process = container.exec(options).await.unwrap();
    let mut text = String::new();
    process.stdout.read_to_string(&mut text).await.unwrap();
    text
}

/// What this test's machines are made with.
fn machines(dir: &Path) -> MicroVm {
    let jail = NamespacesOptions::default()
        .state_dir(dir.join("machines"))
        .cgroup_parent("aci-test-guests");
    let options = MicroVmOptions::new(Accelerator::Emulation)
        .kernel(kernel())
        .jail(jail);
    MicroVm::new(options).unwrap()
}

async fn network(dir: &Path, host: &OwnedFd) -> BridgeNetwork {
    let options = BridgeOptions::new(dir.join("network"))
        .host_namespace(host.try_clone().unwrap())
        .network(VirtualNetwork::single("10.7.0.0/24".parse().unwrap()).unwrap());
    BridgeNetwork::open(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_in_a_machine_and_one_in_namespaces_reach_each_other() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: machines are made by root only");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    let host = namespace();
    let driver = network(dir, &host).await;
    let first = engine(dir, machines(dir), driver.clone()).await;
    let inside = first.create_or_update(document("inside")).await.unwrap();
    inside.running().await.unwrap();
    let address = shown(&inside);
    assert_eq!(address.to_string(), "10.7.0.4");
    let deadline = Instant::now() + Duration::from_secs(60);
    while hear(&host, address, 80).as_deref() != Some("inside\n") {
        assert!(Instant::now() < deadline, "the group is not reached");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Only the listed port, and the guest's own kernel, address and names.
    assert_eq!(hear(&host, address, 81), None);
    let version = run(&inside, "cat /proc/version").await;
    assert!(version.contains("cloud-amd64"), "{version}");
    let own = run(&inside, "/bin/busybox ip addr show eth0").await;
    assert!(own.contains("10.7.0.4/32"), "{own}");
    let asked = run(&inside, "/bin/busybox nslookup inside 10.7.0.1").await;
    assert!(asked.contains("10.7.0.4"), "{asked}");

    // A sandbox of namespaces in the same subnet: to each other, and with its own address.
    let options = NamespacesOptions::default()
        .state_dir(dir.join("run"))
        .cgroup_parent("aci-test-guests");
    let namespaces = Namespaces::new(options).unwrap();
    let id: SandboxId = "outside".parse().unwrap();
    let outside = namespaces
        .create(SandboxSpec {
            id: id.clone(),
            hostname: "outside".to_owned(),
            limits: Limits::default(),
            volumes: Vec::new(),
        })
        .await
        .unwrap();
    let endpoint = outside.network();
    let NetworkEndpoint::Namespace(handle) = &endpoint else {
        panic!("no namespace");
    };
    let theirs = handle.net.try_clone().unwrap();
    let request = AttachRequest {
        sandbox: id.clone(),
        group: "outside".into(),
        location: "local".to_owned(),
        endpoint,
        hostname: "outside".to_owned(),
        ip_address: None,
        subnets: Vec::new(),
        dns: None,
    };
    let attachment = driver.attach(request).await.unwrap();
    assert_eq!(attachment.addresses[0].to_string(), "10.7.0.5/24");
    assert_eq!(hear(&theirs, address, 80).as_deref(), Some("inside\n"));
    serve(&theirs, 90);
    let heard = run(&inside, "/bin/busybox nc 10.7.0.5 90").await;
    assert_eq!(heard, "10.7.0.4");
    // Nobody's address but its own leaves the guest.
    let forged = "/bin/busybox ip addr add 10.7.0.9/32 dev eth0 2>&1; /bin/busybox nc -s 10.7.0.9 -w 2 10.7.0.5 90";
    let heard = run(&inside, forged).await;
    assert!(!heard.contains("10.7.0.9"), "{heard}");
    driver.detach(&id).await.unwrap();
    outside.destroy().await.unwrap();

    // The program that made the machine goes away; the next one takes it over, network and all.
    first.shutdown(Shutdown::LeaveRunning).await.unwrap();
    drop((first, inside, driver));
    let driver = network(dir, &host).await;
    let second = engine(dir, machines(dir), driver).await;
    let inside = second.get("inside").unwrap();
    inside.running().await.unwrap();
    assert_eq!((restarts(&inside), shown(&inside)), (0, address));
    assert_eq!(hear(&host, address, 80).as_deref(), Some("inside\n"));
    // A container that is started again finds it too.
    // All of its processes but its init, which nobody inside can kill.
    run(&inside, "kill -9 -1").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while restarts(&inside) == 0 || hear(&host, address, 80).as_deref() != Some("inside\n") {
        assert!(Instant::now() < deadline, "not started again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    second.delete("inside").await.unwrap();
    second.shutdown(Shutdown::StopGroups).await.unwrap();
}

/// Tells everybody who connects the address that he has.
fn serve(namespace: &OwnedFd, port: u16) {
    let namespace = namespace.try_clone().unwrap();
    let (ready, listening) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "{peer}");
        }
    });
    listening.recv().unwrap();
}

fn restarts(group: &Group) -> u32 {
    let container = group.container("app").unwrap();
    container.view().restart_count.unwrap_or(0)
}
