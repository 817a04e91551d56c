//! The network of ordinary users: run as uid 54321 in a network namespace that plays the host, with
//! groups in user namespaces of that user. Root prepares it; the test then runs itself again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use aci_core::conformance::network::{NetworkHarness, all};
use aci_core::contract::{
    AttachRequest, Attachment, NamespaceHandle, NetworkCapability, NetworkDriver, NetworkEndpoint,
};
use aci_core::error::{ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::{IpAddress, IpAddressType, Port, Protocol};
use aci_net::{UserModeNetwork, UserModeOptions};
use async_trait::async_trait;

/// What this process is to do, if it was started by a test.
const ROLE: &str = "ACI_USERMODE_ROLE";
/// The address of the host that the test plays.
const HOST: &str = "192.0.2.1";

/// Runs a role of this file as uid 54321 in a host of its own; `false` if it is that role already.
fn again(test: &str) -> bool {
    if std::env::var(ROLE).as_deref() == Ok("body") {
        return false;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root to prepare a host for the ordinary user");
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dir.path(), everybody).unwrap();
    let program = dir.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let script = format!(
        "set -e; mount --make-rprivate /; cd {dir}
         mknod tun c 10 200; chmod 666 tun; mkdir -p /dev/net; [ -e /dev/net/tun ] || touch /dev/net/tun
         mount --bind tun /dev/net/tun
         echo 'nameserver {HOST}' > resolv.conf; mount --bind resolv.conf \"$(readlink -f /etc/resolv.conf)\"
         ip link set lo up; ip link add v0 type veth peer name v1
         ip link set v0 up; ip link set v1 up; ip addr add {HOST}/24 dev v0
         ip route add default via 192.0.2.2 dev v0
         echo 53 > /proc/sys/net/ipv4/ip_unprivileged_port_start
         exec setpriv --reuid=54321 --regid=54321 --clear-groups --inh-caps=-all --bounding-set=-all \
              ./test --exact {test} --nocapture",
        dir = dir.path().display()
    );
    let output = Command::new("unshare")
        .args(["-mn", "--propagation", "private", "sh", "-c", &script])
        .env(ROLE, "body")
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed without root");
    true
}

/// A process in namespaces of its own, as a group's is.
struct Group {
    child: Child,
    handle: NamespaceHandle,
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Group {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["-Urn", "sh", "-c", "echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let net = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        let handle = NamespaceHandle {
            pid: child.id(),
            net: Arc::new(net.into()),
        };
        Self { child, handle }
    }

    fn endpoint(&self) -> NetworkEndpoint {
        NetworkEndpoint::Namespace(self.handle.clone())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.child.id().to_string(),
            "-U",
            "-n",
            "--preserve-credentials",
        ]);
        command.args(words);
        command
    }

    fn output(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// This file's program inside, in a role.
    fn role(&self, role: &str) -> Command {
        let own = std::env::current_exe().unwrap();
        let mut command = self.command(&[own.to_str().unwrap(), "--exact", "role", "--nocapture"]);
        command.env(ROLE, role);
        command
    }

    fn ask(&self, what: &str) -> String {
        let output = self.role(what).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text
            .lines()
            .find_map(|l| l.split_once("ANSWER "))
            .unwrap_or_default();
        line.1.to_owned()
    }
}

fn serve(at: &str, word: &'static str) {
    let at: SocketAddr = at.parse().unwrap();
    let (tcp, udp) = (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let _ = stream.unwrap().write_all(word.as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(word.as_bytes(), from);
        }
    });
}

fn ask(udp: bool, to: SocketAddr) -> std::io::Result<String> {
    let time = Some(Duration::from_secs(3));
    let mut text = String::new();
    if udp {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(time)?;
        socket.connect(to)?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    } else {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(time)?;
        stream.read_to_string(&mut text)?;
    }
    Ok(text)
}

/// What this program does when a test starts it.
#[test]
fn role() {
    let role = std::env::var(ROLE).unwrap_or_default();
    let words: Vec<&str> = role.split(' ').collect();
    match words.as_slice() {
        ["serve"] => {
            serve("0.0.0.0:18080", "group");
            println!("READY");
            std::thread::sleep(Duration::from_secs(600));
        }
        [protocol @ ("tcp" | "udp"), to] => {
            let answer = ask(*protocol == "udp", to.parse().unwrap());
            println!(
                "ANSWER {}",
                answer.unwrap_or_else(|e| format!("error: {e}"))
            );
        }
        // The program that is killed.
        ["host", directory, pid] => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let network = UserModeNetwork::open(options(Path::new(directory)))
                    .await
                    .unwrap();
                let net = File::open(format!("/proc/{pid}/ns/net")).unwrap();
                let handle = NamespaceHandle {
                    pid: pid.parse().unwrap(),
                    net: Arc::new(net.into()),
                };
                let request = request("web-1", NetworkEndpoint::Namespace(handle), 18080);
                network.attach(request).await.unwrap();
                println!("READY");
                std::future::pending::<()>().await;
            });
        }
        _ => {}
    }
}

fn ready(mut command: Command) -> Program {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("READY\n") {
        out.read_exact(&mut byte).expect("it is ready");
        text.push(char::from(byte[0]));
    }
    Program(child)
}

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn options(directory: &Path) -> UserModeOptions {
    UserModeOptions::new(directory).publish_on(IpAddr::from([127, 0, 0, 1]))
}

fn request(id: &str, endpoint: NetworkEndpoint, port: u16) -> AttachRequest {
    let port = |protocol| Port {
        port,
        protocol: Some(protocol),
        ..Port::default()
    };
    AttachRequest {
        sandbox: id.parse().unwrap(),
        group: "web".into(),
        location: "local".to_owned(),
        endpoint,
        hostname: "web".to_owned(),
        ip_address: Some(IpAddress {
            type_: IpAddressType::Public,
            ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
            ..IpAddress::default()
        }),
        subnets: Vec::new(),
        dns: None,
    }
}

/// Answers every question for an address with one.
fn resolver() {
    use hickory_proto::op::{Message, MessageType};
    use hickory_proto::rr::{RData, Record, rdata::A};
    let socket = UdpSocket::bind((HOST, 53)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut message = Message::from_vec(&buffer[..length]).unwrap();
            message.metadata.message_type = MessageType::Response;
            let name = message.queries[0].name().clone();
            let data = RData::A(A([203, 0, 113, 9].into()));
            message.add_answer(Record::from_rdata(name, 60, data));
            let _ = socket.send_to(&message.to_vec().unwrap(), from);
        }
    });
}

/// The numbers of the `pasta` processes that hold a state directory's files.
fn stacks(directory: &Path) -> Vec<PathBuf> {
    let directory = directory.canonicalize().unwrap();
    let of = |path: &PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.starts_with("/usr/bin/pasta") && line.contains(directory.to_str().unwrap())
    };
    let all = std::fs::read_dir("/proc").unwrap();
    all.map(|e| e.unwrap().path()).filter(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_s_group_reaches_out_and_is_reached_by_its_ports() {
    if again("an_ordinary_user_s_group_reaches_out_and_is_reached_by_its_ports") {
        return;
    }
    resolver();
    serve(&format!("{HOST}:7070"), "host");
    serve("127.0.0.1:7071", "loopback");
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new();
    let host = {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(own);
        command.args(["--exact", "role", "--nocapture"]);
        let role = format!("host {} {}", dir.path().display(), group.child.id());
        command.env(ROLE, role);
        ready(command)
    };
    let _inside = ready(group.role("serve"));
    let reached = |what: &str| {
        let to: SocketAddr = "127.0.0.1:18080".parse().unwrap();
        assert_eq!(ask(false, to).unwrap(), "group", "{what}: TCP");
        assert_eq!(ask(true, to).unwrap(), "group", "{what}: UDP");
        // On the chosen address, and on no other.
        let other: SocketAddr = format!("{HOST}:18080").parse().unwrap();
        assert!(ask(false, other).is_err(), "{what}");
        assert_eq!(group.ask(&format!("tcp {HOST}:7070")), "host", "{what}");
        assert_eq!(group.ask(&format!("udp {HOST}:7070")), "host", "{what}");
    };
    reached("at first");
    let found = group.output(&["dig", "+short", "@10.0.2.3", "www.example.com"]);
    assert_eq!(found.trim(), "203.0.113.9");
    // The host's loopback is neither the group's nor its gateway's.
    for address in ["127.0.0.1", "10.0.2.2"] {
        let answer = group.ask(&format!("tcp {address}:7071"));
        assert!(answer.starts_with("error"), "{address}: {answer}");
    }
    // The host's program is killed: the group keeps its network, the next program finds it.
    drop(host);
    reached("without its program");
    let network = UserModeNetwork::open(options(dir.path())).await.unwrap();
    let attachment = network.list().await.unwrap().remove(0);
    assert_eq!(attachment.published.len(), 2);
    let again = request("web-1", group.endpoint(), 18080);
    assert_eq!(network.attach(again).await.unwrap(), attachment);
    assert_eq!(stacks(dir.path()).len(), 1);
    let other = Group::new();
    let taken = network
        .attach(request("web-2", other.endpoint(), 18080))
        .await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let low = network.attach(request("web-2", other.endpoint(), 25)).await;
    let low = low.unwrap_err();
    assert_eq!(low.kind(), ErrorKind::Unsupported);
    assert!(low.chain().contains("25 cannot be published"), "{low}");
    // A stack that died is replaced, and a group of the same name with a new network gets one.
    network.detach(&"web-1".parse().unwrap()).await.unwrap();
    assert_eq!(stacks(dir.path()), Vec::<PathBuf>::new());
    let first = network
        .attach(request("web-3", group.endpoint(), 18080))
        .await
        .unwrap();
    let second = network
        .attach(request("web-3", other.endpoint(), 18080))
        .await
        .unwrap();
    assert_eq!(first, second);
    assert_eq!(stacks(dir.path()).len(), 1);
    // What was begun and not finished is ended by the next program.
    drop(network);
    let file = dir.path().join("web-3.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"made\":true", "\"made\":false")).unwrap();
    let network = UserModeNetwork::open(options(dir.path())).await.unwrap();
    assert_eq!(network.list().await.unwrap(), []);
    assert_eq!(stacks(dir.path()), Vec::<PathBuf>::new());
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
    // Without the program it is said what to install.
    let without = options(dir.path()).program("/nowhere/pasta");
    let error = UserModeNetwork::open(without).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.chain().contains("passt"), "{}", error.chain());
}

#[derive(Clone, Debug)]
struct Living(Arc<RwLock<Option<UserModeNetwork>>>);

impl Living {
    fn network(&self) -> UserModeNetwork {
        self.0.read().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl NetworkDriver for Living {
    fn capability(&self) -> NetworkCapability {
        self.network().capability()
    }
    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        self.network().attach(request).await
    }
    async fn set_ready(&self, sandbox: &SandboxId, ready: bool) -> Result<()> {
        self.network().set_ready(sandbox, ready).await
    }
    async fn detach(&self, sandbox: &SandboxId) -> Result<()> {
        self.network().detach(sandbox).await
    }
    async fn list(&self) -> Result<Vec<Attachment>> {
        self.network().list().await
    }
}

struct Harness {
    directory: tempfile::TempDir,
    living: Living,
    groups: Mutex<Vec<Group>>,
}

#[async_trait]
impl NetworkHarness for Harness {
    fn driver(&self) -> &dyn NetworkDriver {
        &self.living
    }
    async fn endpoint(&self, _sandbox: &SandboxId) -> NetworkEndpoint {
        let group = Group::new();
        let endpoint = group.endpoint();
        self.groups.lock().unwrap().push(group);
        endpoint
    }
    async fn close(&self, _sandbox: &SandboxId, endpoint: NetworkEndpoint) {
        if let NetworkEndpoint::Namespace(handle) = endpoint {
            let mut groups = self.groups.lock().unwrap();
            groups.retain(|g| g.handle.pid != handle.pid);
        }
    }
    async fn reopen(&self) -> Option<Box<dyn NetworkDriver>> {
        *self.living.0.write().unwrap() = None;
        let second = UserModeNetwork::open(options(self.directory.path()))
            .await
            .unwrap();
        *self.living.0.write().unwrap() = Some(second);
        Some(Box::new(self.living.clone()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept() {
    if again("the_contract_is_kept") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let first = UserModeNetwork::open(options(directory.path()))
        .await
        .unwrap();
    let harness = Harness {
        directory,
        living: Living(Arc::new(RwLock::new(Some(first)))),
        groups: Mutex::default(),
    };
    all(&harness).await;
    assert_eq!(stacks(harness.directory.path()), Vec::<PathBuf>::new());
}
