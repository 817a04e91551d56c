//! A network with addresses, made in the kernel by a program with root's rights.

mod choose;
mod firewall;
mod flows;
mod host;
mod journal;
mod ledger;
mod names;
mod options;
mod policy;
mod report;
mod sweeper;
mod uplink;
mod worker;

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use aci_core::contract::{AttachRequest, Attachment, NetworkCapability, NetworkDriver};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::SandboxId;
use async_trait::async_trait;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::ipam::VirtualNetwork;
pub use options::BridgeOptions;
pub use report::{AttachmentReport, Collected, NetworkReport, NetworkUse};
use worker::{Command, Reply, Worker};

const OPEN: &str = "network.open";

/// Groups with addresses of their own in a virtual network on this host.
///
/// Each group gets a virtual Ethernet pair; its end inside is `eth0` with addresses that stand
/// alone (/32, /128), so that all its traffic, also within a subnet, is routed by the host and can be
/// judged there. Neighbours are fixed and the host answers no ARP; it drops packets with a sender's
/// address or MAC address that is not the group's. The gateways' addresses (the second of each subnet)
/// are the host's; the host reaches the groups; its loopback is out of reach. The gateways' addresses
/// are on a bridge without ports, which stands while at least one group is attached.
///
/// Groups of one [`VirtualNetwork`] reach each other, those of others only if both are peered. What
/// may be begun is said by the [`SecurityGroup`](crate::SecurityGroup) of a subnet, where packets go
/// by its [`RouteTable`](crate::RouteTable), with which sender by its NAT gateway. Groups with
/// `ipAddress.type: Public` get an address of a pool ([`BridgeOptions::public_addresses`]), or their
/// ports are published on addresses of the host ([`BridgeOptions::publish_on`]); `Private` is the
/// address in the subnet. A group with an `ipAddress` is reached by the listed ports only. Everything
/// else leaves with the host's address as sender. All that is rules in a table of our own of the
/// kernel's firewall, nf_tables, and holds for IPv4 and IPv6 alike.
///
/// Other links, rules and settings of the host are not touched, with one exception: forwarding by the
/// links of its default routes, where it is off, is on while groups are attached (for IPv6 by
/// `force_forwarding`, Linux 6.17), and rules see to it that what comes in there is forwarded to
/// groups only. Ours are known by link group, alias, route protocol and metric, and by the table's
/// name.
///
/// # State
/// Before the kernel hears of an attachment, its addresses and names are in a journal in the state
/// directory. Opening removes what was half made, finishes what was half removed, and removes
/// links and routes of ours that no attachment explains. Dropping the value leaves attachments as
/// they are; opening the same directory again finds them.
#[derive(Clone)]
pub struct BridgeNetwork {
    commands: Arc<Commands>,
    directory: Arc<std::path::PathBuf>,
    capability: Arc<NetworkCapability>,
}

/// The way to the thread, which ends with the last handle.
struct Commands(Sender<Command>);

impl Drop for Commands {
    fn drop(&mut self) {
        let _ = self.0.send(Command::Close);
    }
}

impl fmt::Debug for BridgeNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeNetwork")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl BridgeNetwork {
    /// Opens the network of a state directory and mends what an earlier program left half done.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) without `CAP_NET_ADMIN` in the host's
    /// network namespace; [`Conflict`](ErrorKind::Conflict) if another program has the directory
    /// open, or if the addresses clash with the host's routes or with those of attached groups;
    /// [`Corrupt`](ErrorKind::Corrupt) for a damaged journal; [`Invalid`](ErrorKind::Invalid) for
    /// bad options; [`Internal`](ErrorKind::Internal) otherwise.
    ///
    /// # Cancel safety
    /// The directory may stay locked for the moment that opening takes; open it again.
    #[tracing::instrument(name = "network.open", skip_all, fields(directory = %options.directory.display()))]
    pub async fn open(options: BridgeOptions) -> Result<Self> {
        let home = match &options.host {
            Some(host) => Arc::clone(host),
            None => Arc::new(own_namespace()?),
        };
        let boot = match &options.boot {
            Some(boot) => boot.clone(),
            None => boot_id()?,
        };
        let directory = Arc::new(options.directory.clone());
        let (commands, queue) = mpsc::channel();
        let back = commands.clone();
        let (opened, result) = oneshot::channel();
        let run = move || {
            // The thread stays in the host's namespace, whatever its maker's is.
            let entered = move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| {
                    let what = "enter the host's network namespace";
                    let text = None;
                    crate::error::refused(OPEN, crate::netlink::Refusal { what, errno, text })
                });
            match entered.and_then(|()| Worker::open(options, home, boot, back)) {
                Ok(worker) => {
                    if opened.send(Ok(worker.capability())).is_ok() {
                        worker.run(&queue);
                    }
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        };
        thread::Builder::new()
            .name("aci-net".to_owned())
            .spawn(run)
            .map_err(|e| {
                Error::new(ErrorKind::Internal, OPEN, "cannot start a thread").because(e)
            })?;
        let capability = result.await.unwrap_or_else(|_| Err(gone(OPEN)))?;
        Ok(Self {
            capability: Arc::new(capability),
            commands: Arc::new(Commands(commands)),
            directory,
        })
    }

    /// A listener to which the connections of groups to 169.254.169.254:80 are led, Azure's address
    /// for metadata and tokens. Nobody else reaches it, and senders cannot lie: the peer's address is
    /// that of a group, which [`sandbox_of`](Self::sandbox_of) tells. A later listener replaces the
    /// former; without one the address answers nobody. It listens until it is dropped, also while no
    /// group is attached.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) without the kernel's firewall;
    /// [`Internal`](ErrorKind::Internal) if no socket can be had.
    ///
    /// # Cancel safety
    /// A listener that nobody has may be the one that groups are led to; ask again.
    pub async fn metadata_listener(&self) -> Result<std::net::TcpListener> {
        self.ask("network.metadata", Command::Metadata).await
    }

    /// The sandbox that has an address, its own or a public one.
    ///
    /// # Errors
    /// [`Lost`](ErrorKind::Lost) if the network's thread has ended.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn sandbox_of(&self, address: std::net::IpAddr) -> Result<Option<SandboxId>> {
        self.ask("network.owner", |reply| Command::Owner(address, reply))
            .await
    }

    /// Puts other virtual networks in force, with their security groups, routes and gateways; what
    /// rules say holds for new connections. The subnets of attached groups must stay as they are.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for networks that cannot stand side by side;
    /// [`Conflict`](ErrorKind::Conflict) if an attached group would lose its subnet, or the host
    /// itself has routes to the addresses. Then everything stays as it was.
    ///
    /// # Cancel safety
    /// It may have been done; call it again.
    pub async fn configure(&self, networks: Vec<VirtualNetwork>) -> Result<()> {
        self.ask("network.configure", |reply| {
            Command::Configure(networks, reply)
        })
        .await
    }

    /// The network as journal and kernel have it, for operators.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) if the kernel does not tell.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn report(&self) -> Result<NetworkReport> {
        self.ask("network.report", Command::Report).await
    }

    /// Removes the attachments of all sandboxes but these, and whatever bears our marks and belongs
    /// to no attachment. Other people's links, routes and rules stay.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) naming what could not be removed.
    ///
    /// # Cancel safety
    /// A part may be removed; call it again.
    pub async fn collect(&self, keep: &[SandboxId]) -> Result<Collected> {
        let mut gone = Vec::new();
        for attachment in self.list().await? {
            if !keep.contains(&attachment.sandbox) {
                gone.push(attachment.sandbox);
            }
        }
        // All are asked for before the first is waited for, so that they are removed as one act.
        let mut answers = Vec::new();
        for sandbox in &gone {
            let (reply, answer) = oneshot::channel();
            let command = Command::Detach(sandbox.clone(), reply);
            self.commands
                .0
                .send(command)
                .map_err(|_| self::gone("network.collect"))?;
            answers.push(answer);
        }
        for answer in answers {
            answer
                .await
                .unwrap_or_else(|_| Err(self::gone("network.collect")))?;
        }
        let strays = self.ask("network.collect", Command::Sweep).await?;
        Ok(Collected {
            detached: gone,
            strays,
        })
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .0
            .send(command(reply))
            .map_err(|_| gone(operation))?;
        answer.await.unwrap_or_else(|_| Err(gone(operation)))
    }
}

fn gone(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Lost,
        operation,
        "the network's thread has ended unexpectedly",
    )
    .hint("open the network again; it mends itself")
}

/// The calling thread's network namespace.
fn own_namespace() -> Result<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    File::open(path).map(OwnedFd::from).map_err(|e| {
        Error::new(
            ErrorKind::Internal,
            OPEN,
            "cannot open the network namespace",
        )
        .on(path)
        .hint("the program needs /proc")
        .because(e)
    })
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|e| {
            Error::new(ErrorKind::Internal, OPEN, "cannot read the boot's id")
                .on(path)
                .hint("the program needs /proc")
                .because(e)
        })
}

#[async_trait]
impl NetworkDriver for BridgeNetwork {
    fn capability(&self) -> NetworkCapability {
        NetworkCapability::clone(&self.capability)
    }

    #[tracing::instrument(name = "network.attach", skip_all, fields(sandbox = %request.sandbox))]
    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        self.ask("network.attach", |reply| {
            Command::Attach(Box::new(request), reply)
        })
        .await
    }

    #[tracing::instrument(name = "network.set_ready", skip(self))]
    async fn set_ready(&self, sandbox: &SandboxId, ready: bool) -> Result<()> {
        self.ask("network.set_ready", |reply| {
            Command::Ready(sandbox.clone(), ready, reply)
        })
        .await
    }

    #[tracing::instrument(name = "network.detach", skip(self))]
    async fn detach(&self, sandbox: &SandboxId) -> Result<()> {
        self.ask("network.detach", |reply| {
            Command::Detach(sandbox.clone(), reply)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Attachment>> {
        self.ask("network.list", Command::List).await
    }
}

#[cfg(test)]
mod tests;
