//! A network for groups of an ordinary user: a program of that user, `pasta`, carries what a group
//! sends through sockets of its own.

mod process;
mod state;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aci_core::contract::{
    AttachRequest, Attachment, DnsSettings, NetworkCapability, NetworkDriver, NetworkEndpoint,
    PublishedPort,
};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use aci_core::model::{IpAddressType, Protocol};
use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::Mutex;

use crate::resolv;
use state::{Stack, Store};

const OPEN: &str = "network.open";
const ATTACH: &str = "network.attach";
const PROGRAM: &str = "pasta";
/// The addresses in every group; each has a network of its own, so they are all alike.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const PREFIX: u8 = 24;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Questions to this address are asked of the host's resolver.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Settings of a [`UserModeNetwork`].
#[derive(Clone, Debug)]
pub struct UserModeOptions {
    directory: PathBuf,
    publish_on: Option<IpAddr>,
    program: Option<PathBuf>,
    resolv_conf: PathBuf,
}

impl UserModeOptions {
    /// Settings with a state directory, which is made if missing and is used by one program at a
    /// time.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            publish_on: None,
            program: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }

    /// The IPv4 address of the host on which the ports of groups with `ipAddress.type: Public` are
    /// published; `0.0.0.0` for all of them. None by default. One only, because `pasta` (of 2023,
    /// as in Debian 12) takes one for each port.
    #[must_use]
    pub const fn publish_on(mut self, address: IpAddr) -> Self {
        self.publish_on = Some(address);
        self
    }

    /// The program; by default the first `pasta` in `PATH`.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// The file with the host's search domains and options, by default `/etc/resolv.conf`.
    #[must_use]
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.resolv_conf = path.into();
        self
    }
}

/// The network of an ordinary user's groups, by `pasta` (Debian package `passt`).
///
/// Each group gets `eth0` with an address of its own little network, the way out by TCP and UDP,
/// the host's resolver, and ports published on the host from
/// `net.ipv4.ip_unprivileged_port_start` (1024) up. The host's loopback is out of reach. Other
/// groups and the host reach it by published ports only; [`NetworkCapability::missing`] says what
/// else is lacking.
///
/// # State
/// One `pasta` for each group. It outlives this program, and is found again by its files in the
/// state directory and its command line; [`detach`](NetworkDriver::detach) ends it. What was begun
/// and not finished is ended when the directory is opened.
#[derive(Clone, Debug)]
pub struct UserModeNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: UserModeOptions,
    program: PathBuf,
    store: Store,
    stacks: Mutex<BTreeMap<SandboxId, Stack>>,
}

impl UserModeNetwork {
    /// Opens the network of a state directory and ends what an earlier program left half done.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) without `pasta` or without access to
    /// `/dev/net/tun`, and for root, who has [`BridgeNetwork`](crate::BridgeNetwork);
    /// [`Conflict`](ErrorKind::Conflict) if another program has the directory open;
    /// [`Internal`](ErrorKind::Internal) if the directory cannot be used.
    ///
    /// # Cancel safety
    /// Nothing is left open.
    #[tracing::instrument(name = "network.open", skip_all, fields(directory = %options.directory.display()))]
    pub async fn open(options: UserModeOptions) -> Result<Self> {
        blocking(move || {
            let unsupported =
                |message: String| Error::new(ErrorKind::Unsupported, OPEN, message);
            if rustix::process::geteuid().is_root() {
                return Err(unsupported("root's groups need no user-mode network".to_owned())
                    .hint("use `BridgeNetwork`"));
            }
            let program = match &options.program {
                Some(program) => Some(program.clone()).filter(|p| p.is_file()),
                None => find(PROGRAM),
            }
            .ok_or_else(|| {
                unsupported("the program `pasta` is not installed".to_owned()).hint(
                    "install it (Debian package `passt`), or use `LoopbackNetwork`, which gives loopback only",
                )
            })?;
            let tun = Path::new("/dev/net/tun");
            OpenOptions::new().read(true).write(true).open(tun).map_err(|e| {
                unsupported("the device for user-mode networks cannot be opened".to_owned())
                    .on(tun.display())
                    .hint("`modprobe tun`, and let everybody use it (`chmod 666 /dev/net/tun`), as distributions do; or use `LoopbackNetwork`")
                    .because(e)
            })?;
            let (store, found) = Store::open(&options.directory)?;
            let mut stacks = BTreeMap::new();
            for (sandbox, stack) in found {
                if stack.made {
                    stacks.insert(sandbox, stack);
                } else {
                    process::end(&store.pid_file(&sandbox))?;
                    store.remove(&sandbox)?;
                    metrics::counter!("aci_net_mended_total").increment(1);
                }
            }
            Ok(Self {
                inner: Arc::new(Inner {
                    options,
                    program,
                    store,
                    stacks: Mutex::new(stacks),
                }),
            })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::new(
            ErrorKind::Internal,
            "network",
            "a task of the network failed",
        )
        .because(e))
    })
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// The first port that ordinary users may listen on.
fn first_port() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

impl Inner {
    fn wish(
        &self,
        request: &AttachRequest,
        others: &BTreeMap<SandboxId, Stack>,
    ) -> Result<Attachment> {
        let error = |kind, message: String| Error::new(kind, ATTACH, message).on(&request.sandbox);
        if let Some(subnet) = request.subnets.first() {
            return Err(error(
                ErrorKind::Invalid,
                format!(
                    "subnetIds: '{subnet}' is unknown here: a user-mode network has no subnets"
                ),
            )
            .hint("run as root with `BridgeNetwork`"));
        }
        let dns = match &request.dns {
            Some(dns) => resolv::from_document(dns)?,
            None => {
                let text = std::fs::read_to_string(&self.options.resolv_conf).unwrap_or_default();
                DnsSettings {
                    name_servers: vec![RESOLVER.into()],
                    ..resolv::from_host(&text)
                }
            }
        };
        let address = request.ip_address.as_ref();
        let public = address.filter(|a| a.type_ == IpAddressType::Public);
        let first = first_port();
        let mut published = Vec::new();
        for port in public.into_iter().flat_map(|a| &a.ports) {
            if let Some(on) = &self.options.publish_on {
                let port = PublishedPort {
                    protocol: port.protocol.clone().unwrap_or(Protocol::Tcp),
                    address: *on,
                    port: port.port,
                };
                if port.port < first {
                    return Err(error(
                        ErrorKind::Unsupported,
                        format!("ipAddress.ports: {} cannot be published by an ordinary user, who has the ports from {first} up", port.port),
                    )
                    .hint("choose a higher port, or lower net.ipv4.ip_unprivileged_port_start (sysctl)"));
                }
                free(&port, others)?;
                published.push(port);
            }
        }
        Ok(Attachment {
            sandbox: request.sandbox.clone(),
            addresses: Ipv4Net::new(ADDRESS, PREFIX)
                .map(IpNet::V4)
                .into_iter()
                .collect(),
            // Where it is reached from outside, if it is.
            ip: published.first().map(|p| p.address),
            fqdn: None,
            published,
            dns,
        })
    }
}

/// Refuses a port that another group or program has.
fn free(port: &PublishedPort, others: &BTreeMap<SandboxId, Stack>) -> Result<()> {
    let taken = |why: &str| {
        Error::new(
            ErrorKind::AlreadyExists,
            ATTACH,
            format!(
                "ipAddress.ports: {} port {} of the host cannot be published on {}: {why}",
                port.protocol, port.port, port.address
            ),
        )
        .hint("choose another port, or publish the groups on different addresses of the host")
    };
    if others
        .values()
        .any(|s| s.attachment.published.contains(port))
    {
        return Err(taken("another group has it"));
    }
    let at = SocketAddr::new(port.address, port.port);
    let tried = if port.protocol == Protocol::Udp {
        UdpSocket::bind(at).map(drop)
    } else {
        TcpListener::bind(at).map(drop)
    };
    tried.map_err(|e| taken("the host does not give it").because(e))
}

#[async_trait]
impl NetworkDriver for UserModeNetwork {
    fn capability(&self) -> NetworkCapability {
        let publish = self.inner.options.publish_on.is_some();
        let mut missing = vec![
            "groups have no address that others reach: they are reached by published ports only; run as root with `BridgeNetwork` to give them one".to_owned(),
            "dnsNameLabel gets no name, and groups do not find each other by name".to_owned(),
            "traffic is not withheld from a group whose readiness probe fails, port 25 is open, and bandwidth is not limited: an ordinary user has no firewall".to_owned(),
            "only TCP, UDP and echo requests leave a group".to_owned(),
        ];
        missing.push(if publish {
            format!("ports below {} cannot be published", first_port())
        } else {
            "ports are not published on the host: choose an address by `UserModeOptions::publish_on`"
                .to_owned()
        });
        NetworkCapability {
            name: "user-mode".to_owned(),
            addresses: false,
            publish,
            outbound: true,
            names: false,
            missing,
        }
    }

    #[tracing::instrument(name = "network.attach", skip_all, fields(sandbox = %request.sandbox))]
    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let NetworkEndpoint::Namespace(end) = &request.endpoint else {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    ATTACH,
                    "the sandbox has no network namespace to attach to",
                )
                .on(&request.sandbox));
            };
            let namespace = process::inode(&end.net)?;
            let mut stacks = inner.stacks.blocking_lock();
            let pid_file = inner.store.pid_file(&request.sandbox);
            let attachment = match stacks.get(&request.sandbox) {
                Some(stack) if stack.namespace == namespace && process::is_alive(&pid_file) => {
                    return Ok(stack.attachment.clone());
                }
                Some(stack) => {
                    process::end(&pid_file)?;
                    stack.attachment.clone()
                }
                None => inner.wish(&request, &stacks)?,
            };
            let mut stack = Stack {
                attachment,
                namespace,
                made: false,
            };
            inner.store.put(&stack)?;
            let started = process::start(&inner.program, &stack.attachment, end, &pid_file)
                .and_then(|()| {
                    stack.made = true;
                    inner.store.put(&stack)
                });
            if let Err(error) = started {
                stacks.remove(&request.sandbox);
                process::end(&pid_file)?;
                inner.store.remove(&request.sandbox)?;
                return Err(error.on(&request.sandbox));
            }
            let attachment = stack.attachment.clone();
            stacks.insert(request.sandbox.clone(), stack);
            Ok(attachment)
        })
        .await
    }

    /// Does nothing: an ordinary user has no firewall. The capability says so.
    async fn set_ready(&self, _sandbox: &SandboxId, _ready: bool) -> Result<()> {
        Ok(())
    }

    #[tracing::instrument(name = "network.detach", skip(self))]
    async fn detach(&self, sandbox: &SandboxId) -> Result<()> {
        let (inner, sandbox) = (Arc::clone(&self.inner), sandbox.clone());
        blocking(move || {
            let mut stacks = inner.stacks.blocking_lock();
            if stacks.contains_key(&sandbox) {
                process::end(&inner.store.pid_file(&sandbox))?;
                inner.store.remove(&sandbox)?;
                stacks.remove(&sandbox);
            }
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Attachment>> {
        let stacks = self.inner.stacks.lock().await;
        Ok(stacks.values().map(|s| s.attachment.clone()).collect())
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        "network.journal",
        format!("cannot {what}"),
    )
    .on(path.display())
    .hint("check the state directory's rights and free space")
    .because(error)
}

/// Makes the names in a directory durable.
fn sync(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}
