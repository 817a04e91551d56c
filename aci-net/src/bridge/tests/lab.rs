//! Namespaces and sockets for the tests.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{AttachRequest, NamespaceHandle, NetworkEndpoint};
use aci_core::id::SandboxId;
use aci_core::model::{IpAddress, IpAddressType, Port, Protocol};
use nix::sched::{CloneFlags, setns, unshare};

use crate::bridge::{BridgeNetwork, BridgeOptions};
use crate::netlink::{Socket, nft, route};

/// Whether the test can make namespaces; says so if not.
pub(super) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIPPED: needs root to make network namespaces");
    }
    root
}

/// Whether the kernel forwards IPv6 by link; says so if not.
pub(super) fn forces_ipv6() -> bool {
    let can = std::path::Path::new("/proc/sys/net/ipv6/conf/default/force_forwarding").exists();
    if !can {
        println!("SKIPPED: the kernel does not forward IPv6 by link (Linux 6.17)");
    }
    can
}

/// Runs a function in a namespace, on a thread of its own.
pub(super) fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

/// A new network namespace with loopback up.
fn namespace() -> OwnedFd {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Socket::open(0).unwrap().one(route::set_up(1)).unwrap();
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    })
    .join()
    .unwrap()
}

/// A host of its own with a state directory.
pub(super) struct Lab {
    pub(super) host: OwnedFd,
    directory: tempfile::TempDir,
}

/// A group's namespace.
pub(super) struct Group {
    pub(super) id: SandboxId,
    pub(super) namespace: Arc<OwnedFd>,
}

impl Group {
    pub(super) fn request(&self) -> AttachRequest {
        request(&self.id, Arc::clone(&self.namespace))
    }
}

pub(super) fn request(id: &SandboxId, net: Arc<OwnedFd>) -> AttachRequest {
    AttachRequest {
        sandbox: id.clone(),
        endpoint: NetworkEndpoint::Namespace(NamespaceHandle {
            pid: std::process::id(),
            net,
        }),
        group: id.as_str().into(),
        location: "local".to_owned(),
        hostname: id.to_string(),
        ip_address: None,
        subnets: Vec::new(),
        dns: None,
    }
}

impl Lab {
    pub(super) fn new() -> Self {
        Self {
            host: namespace(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn host(&self) -> OwnedFd {
        self.host.try_clone().unwrap()
    }

    pub(super) fn options(&self) -> BridgeOptions {
        BridgeOptions::new(self.path("state")).host_namespace(self.host())
    }

    /// Opens the network; waits for the thread of one that was dropped just now.
    pub(super) async fn open(&self) -> BridgeNetwork {
        BridgeNetwork::open(self.options()).await.unwrap()
    }

    pub(super) fn group(&self, name: &str) -> Group {
        Group {
            id: format!("{name}-test").parse().unwrap(),
            namespace: Arc::new(namespace()),
        }
    }

    /// Names of all links and all routes of the host but the kernel's own, in order.
    pub(super) fn everything(&self) -> Vec<String> {
        within(&self.host, || {
            let mut socket = Socket::open(0).unwrap();
            let mut all: Vec<String> = route::links(&mut socket)
                .unwrap()
                .into_iter()
                .map(|l| format!("link {} {:x} '{}'", l.name, l.group, l.alias))
                .collect();
            let routes = route::routes(&mut socket).unwrap();
            all.extend(
                routes
                    .into_iter()
                    .filter(|r| r.protocol != 2)
                    .map(|r| format!("route {} {}", r.destination, r.protocol)),
            );
            let mut firewall = Socket::open(nft::PROTOCOL).unwrap();
            let tables = nft::tables(&mut firewall).unwrap();
            all.extend(tables.into_iter().map(|t| format!("table {t}")));
            all.sort();
            all
        })
    }

    /// All addresses of the host.
    pub(super) fn host_addresses(&self) -> Vec<IpAddr> {
        within(&self.host, || {
            let all = route::addresses(&mut Socket::open(0).unwrap()).unwrap();
            all.into_iter().map(|(_, address)| address).collect()
        })
    }

    /// The group of a link of the host.
    pub(super) fn link_group(&self, name: &str) -> u32 {
        within(&self.host, || {
            let link = route::link(&mut Socket::open(0).unwrap(), name).unwrap();
            link.unwrap().group
        })
    }

    /// How many links of ours the host has, the shared one included.
    pub(super) fn own_links(&self) -> usize {
        let ours = |l: &&String| l.contains("'aci-net ");
        self.everything().iter().filter(ours).count()
    }

    /// Checks that nothing but loopback is on the host.
    pub(super) fn assert_clean(&self) {
        let mut left = self.everything();
        left.retain(|l| !l.starts_with("link lo ") && !l.starts_with("link ifb"));
        assert_eq!(left, Vec::<String>::new());
    }

    pub(super) fn add_bridge(&self, name: &str, group: u32) {
        within(&self.host, || make_bridge(name, group));
    }

    pub(super) fn add_route(&self, link: &str, to: &str) {
        let to: IpAddr = to.parse().unwrap();
        within(&self.host, || {
            let mut socket = Socket::open(0).unwrap();
            let index = route::link(&mut socket, link).unwrap().unwrap().index;
            let requests = vec![
                route::set_up(index),
                route::new_address(index, "192.0.2.1".parse().unwrap()),
                route::route_to_link(to, index, "192.0.2.1".parse().unwrap(), 5),
            ];
            socket.all(requests).unwrap();
        });
    }
}

pub(super) fn make_bridge(name: &str, group: u32) {
    let mut socket = Socket::open(0).unwrap();
    socket.one(route::new_bridge(name, group, 1500)).unwrap();
}

/// Names of the links in a namespace; `ifb` links come with every namespace on some kernels.
pub(super) fn names(namespace: &OwnedFd) -> Vec<String> {
    let mut links = within(namespace, || {
        route::links(&mut Socket::open(0).unwrap()).unwrap()
    });
    links.retain(|l| !l.name.starts_with("ifb"));
    links.into_iter().map(|l| l.name).collect()
}

pub(super) fn add_address(namespace: &OwnedFd, link: &str, address: IpAddr) {
    within(namespace, || {
        let mut socket = Socket::open(0).unwrap();
        let index = route::link(&mut socket, link).unwrap().unwrap().index;
        socket.one(route::new_address(index, address)).unwrap();
    });
}

/// Answers every connection to a port, of either family, with a word.
pub(super) fn serve(namespace: &OwnedFd, port: u16, word: &'static str) {
    serve_on(namespace, SocketAddr::from(([0u16; 8], port)), word);
}

pub(super) fn serve_on(namespace: &OwnedFd, address: SocketAddr, word: &'static str) {
    let listener = within(namespace, || TcpListener::bind(address).unwrap());
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = write!(stream, "{word} {peer}");
        }
    });
}

/// Connects from a namespace; returns the server's word and the client's address as it saw it.
pub(super) fn connect(
    namespace: &OwnedFd,
    address: IpAddr,
    port: u16,
) -> std::io::Result<(String, IpAddr)> {
    let mut stream = within(namespace, || {
        TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(2))
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (word, peer) = text.split_once(' ').unwrap();
    Ok((word.to_owned(), peer.parse().unwrap()))
}

pub(super) fn listen_udp(namespace: &OwnedFd, address: SocketAddr) -> UdpSocket {
    let socket = within(namespace, || UdpSocket::bind(address).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

pub(super) fn send_udp(namespace: &OwnedFd, from: IpAddr, to: SocketAddr, data: &[u8]) {
    within(namespace, || {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
        socket.send_to(data, to).unwrap();
    });
}

/// A public address with these ports.
pub(super) fn public(ports: &[(u16, Protocol)]) -> Option<IpAddress> {
    Some(IpAddress {
        type_: IpAddressType::Public,
        ports: ports
            .iter()
            .map(|(port, protocol)| Port {
                port: *port,
                protocol: Some(protocol.clone()),
                ..Port::default()
            })
            .collect(),
        ..IpAddress::default()
    })
}

/// A namespace beside the host, joined to it by a pair that is not ours.
pub(super) struct Outside {
    pub(super) namespace: OwnedFd,
}

impl Outside {
    /// The host's end is `link` with address `here`; the other end has address `there` and sends
    /// everything to the host.
    pub(super) fn new(lab: &Lab, link: &str, here: &str, there: &str) -> Self {
        let (here, there): (IpAddr, IpAddr) = (here.parse().unwrap(), there.parse().unwrap());
        let namespace = namespace();
        within(&lab.host, || {
            let mut socket = Socket::open(0).unwrap();
            let pair = route::Pair {
                name: link,
                index: 0,
                peer_index: 0,
                group: 0,
                mac: [2, 0, 0, 0, 1, 1],
                peer: "net0",
                peer_mac: [2, 0, 0, 0, 1, 2],
                namespace: namespace.as_fd(),
                mtu: 1500,
            };
            socket.one(route::new_pair(&pair)).unwrap();
            let index = route::link(&mut socket, link).unwrap().unwrap().index;
            let requests = vec![
                route::new_address(index, here),
                route::set_up(index),
                route::route_to_link(there, index, here, 5),
            ];
            socket.all(requests).unwrap();
        });
        within(&namespace, || {
            let mut socket = Socket::open(0).unwrap();
            let index = route::link(&mut socket, "net0").unwrap().unwrap().index;
            let requests = vec![
                route::new_address(index, there),
                route::set_up(index),
                route::default_route(here, index),
            ];
            socket.all(requests).unwrap();
        });
        Self { namespace }
    }

    /// Makes this the host's way to everything else.
    pub(super) fn be_default(&self, lab: &Lab, link: &str, there: &str) {
        within(&lab.host, || {
            let mut socket = Socket::open(0).unwrap();
            let index = route::link(&mut socket, link).unwrap().unwrap().index;
            let gateway = there.parse().unwrap();
            socket.one(route::default_route(gateway, index)).unwrap();
        });
    }
}

/// Whether the host forwards what comes in by a link.
pub(super) fn forwards(lab: &Lab, link: &str) -> bool {
    within(&lab.host, || {
        let mut socket = Socket::open(0).unwrap();
        route::link(&mut socket, link).unwrap().unwrap().forwards
    })
}

/// Sends a datagram and returns the answer.
pub(super) fn ask_udp(namespace: &OwnedFd, to: SocketAddr) -> std::io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = within(namespace, || UdpSocket::bind(any).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Answers every datagram with a word.
pub(super) fn serve_udp(namespace: &OwnedFd, port: u16, word: &'static str) {
    let socket = within(namespace, || UdpSocket::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(word.as_bytes(), from);
        }
    });
}

/// The largest packet of a link.
pub(super) fn mtu(namespace: &OwnedFd, link: &str) -> u32 {
    let found = within(namespace, || {
        route::link(&mut Socket::open(0).unwrap(), link).unwrap()
    });
    found.unwrap().mtu
}

pub(super) fn set_mtu(namespace: &OwnedFd, link: &str, mtu: u32) {
    within(namespace, || {
        let status = std::process::Command::new("ip")
            .args(["link", "set", link, "mtu", &mtu.to_string()])
            .status()
            .expect("ip (Debian: iproute2)");
        assert!(status.success());
    });
}
