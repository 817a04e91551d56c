//! Names of groups: a small server on the gateways' addresses that answers for the groups of this
//! host and asks the host's resolvers for everything else.
//!
//! What a packet means is decided by pure functions ([`answer`], over a [`Zone`]); [`forward`]
//! asks other servers; [`serve`] has the sockets and the bounds. The server has a thread of its own,
//! which is in the host's network namespace as the driver's is, so that a busy program does not slow
//! its groups' names down.

mod answer;
mod cache;
mod forward;
mod rates;
mod serve;
#[cfg(test)]
mod tests;
mod zone;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

pub(crate) use forward::Upstreams;
pub(crate) use zone::{Member, Zone, search};

/// The zone that groups' names end in, if no other was chosen. `internal` is reserved for private
/// use, so nothing of the internet is hidden by it.
pub(crate) const DEFAULT_ZONE: &str = "aci.internal";
/// The port of DNS.
pub(crate) const PORT: u16 = 53;

/// What the server answers from at the moment.
type Shared = Arc<RwLock<Zone>>;

/// How the server is to work.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The zone's name.
    pub(crate) zone: String,
    /// Servers to ask instead of those of the host's file.
    pub(crate) upstreams: Option<Vec<SocketAddr>>,
    /// The host's `resolv.conf`.
    pub(crate) resolv_conf: PathBuf,
}

/// The server: nothing runs until [`Server::ensure`] is called.
pub(crate) struct Server {
    settings: Settings,
    shared: Shared,
    running: Option<Running>,
}

struct Running {
    addresses: Vec<IpAddr>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.running.as_ref().map(|r| &r.addresses);
        f.debug_struct("Server")
            .field("settings", &self.settings)
            .field("addresses", &addresses)
            .finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Until it has ended its sockets are open, and the next server needs their addresses.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the name server's thread had panicked");
        }
    }
}

impl Server {
    /// A server that does not run.
    pub(crate) fn new(settings: Settings) -> Self {
        let zone = Zone::new(&settings.zone, Vec::new(), Vec::new(), Vec::new());
        Self {
            settings,
            shared: Arc::new(RwLock::new(zone)),
            running: None,
        }
    }

    /// Lets the server listen on these addresses and no others, in the calling thread's network
    /// namespace. They need not be there yet.
    pub(crate) fn ensure(&mut self, addresses: &[IpAddr]) -> std::io::Result<()> {
        let at_work = self.running.as_ref().is_some_and(|running| {
            running.addresses == addresses
                && running.thread.as_ref().is_some_and(|t| !t.is_finished())
        });
        if at_work {
            return Ok(());
        }
        self.stop();
        let sockets = serve::bind(addresses)?;
        let upstreams = Upstreams::new(
            self.settings.upstreams.clone(),
            self.settings.resolv_conf.clone(),
            addresses.to_vec(),
        );
        let shared = Arc::clone(&self.shared);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("aci-net-names".to_owned())
            .spawn(move || serve::run(sockets, shared, upstreams, stopped))?;
        self.running = Some(Running {
            addresses: addresses.to_vec(),
            stop: Some(stop),
            thread: Some(thread),
        });
        Ok(())
    }

    /// Closes the sockets and ends the thread.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Answers from this from now on; without anybody it ends.
    pub(crate) fn publish(
        &mut self,
        ranges: Vec<ipnet::IpNet>,
        gateways: Vec<IpAddr>,
        members: Vec<Member>,
    ) {
        let zone = Zone::new(&self.settings.zone, ranges, gateways, members);
        if zone.is_empty() {
            self.stop();
        }
        *self.zone() = zone;
    }

    /// Answers for these too.
    pub(crate) fn add(&self, members: impl IntoIterator<Item = Member>) {
        let mut zone = self.zone();
        members.into_iter().for_each(|member| zone.add(member));
    }

    /// Answers no more for the groups with these first addresses; without anybody it ends.
    pub(crate) fn remove(&mut self, firsts: impl IntoIterator<Item = IpAddr>) {
        let mut zone = self.zone();
        firsts.into_iter().for_each(|first| zone.remove(first));
        let nobody = zone.is_empty();
        drop(zone);
        if nobody {
            self.stop();
        }
    }

    fn zone(&self) -> std::sync::RwLockWriteGuard<'_, Zone> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn current(shared: &Shared) -> RwLockReadGuard<'_, Zone> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}
