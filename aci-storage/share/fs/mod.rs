//! The mounted share: what the kernel asks, and what a server is asked for it.

mod behind;
pub(crate) mod belief;
mod handles;
mod kernel;
pub(crate) mod links;
mod locking;
pub(crate) mod locks;
pub(crate) mod names;
pub(crate) mod nodes;
pub(crate) mod notes;
pub(crate) mod share;
mod work;
mod writing;

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier};
use tokio::sync::{Semaphore, mpsc};

use crate::smb::Fault;
use crate::smb::lease::{self, Break, Granted};
use crate::smb::ops::{self, Attributes, Kind};
use belief::{Absent, Seen};
use handles::Handle;
use locks::{Held, Locks};
use nodes::Nodes;
use notes::{Book, Note, Notes};
use share::Share;

pub(crate) use kernel::Files;

/// An entry of a directory.
pub(crate) struct Listed {
    /// As the server has it.
    pub(crate) name: String,
    pub(crate) attributes: Attributes,
    /// The server's number of the file, if it tells.
    pub(crate) number: Option<u64>,
}

/// Everything a mounted share knows besides what the server knows.
pub(crate) struct Inner {
    pub(crate) share: Arc<Share>,
    notes: Arc<Notes>,
    nodes: Mutex<Nodes>,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    listings: Mutex<HashMap<u64, Arc<Vec<Listed>>>>,
    locks: Mutex<HashMap<u64, Locks>>,
    /// One change of a file's locks at a time.
    locking: tokio::sync::Mutex<()>,
    next: AtomicU64,
    /// What the server grants for open files, by node: over which connection, and what.
    leases: Mutex<HashMap<u64, (u64, Granted)>>,
    /// Open files with writes under way.
    behind: Mutex<Vec<Arc<Handle>>>,
    /// Room for them.
    window: Arc<Semaphore>,
    /// How much room the share had when it was last asked.
    spare: tokio::sync::Mutex<Option<(Instant, bool)>>,
    absent: Mutex<Absent>,
    seen: Mutex<Seen>,
    /// Counts what changes contents.
    changes: AtomicU64,
    /// First half of the lease keys of this mount.
    lease: u64,
    /// Through which the kernel is told what it is not to believe any more.
    notifier: OnceLock<Notifier>,
    /// Whether what is only written passes the kernel's cache.
    direct: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The nodes while they are used. What was changed is noted before anybody else uses them.
struct NodesGuard<'a> {
    nodes: MutexGuard<'a, Nodes>,
    notes: &'a Notes,
}

impl Deref for NodesGuard<'_> {
    type Target = Nodes;

    fn deref(&self) -> &Nodes {
        &self.nodes
    }
}

impl DerefMut for NodesGuard<'_> {
    fn deref_mut(&mut self) -> &mut Nodes {
        &mut self.nodes
    }
}

impl Drop for NodesGuard<'_> {
    fn drop(&mut self) {
        let changes = self.nodes.changes();
        if !changes.is_empty() {
            let changes: Vec<_> = changes.into_iter().map(Note::Node).collect();
            self.notes.write(&changes);
        }
    }
}

/// By what servers know a mount, whichever share server speaks for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) client: [u8; 16],
    pub(crate) lease: u64,
}

impl Identity {
    /// That of an earlier share server of this mount, or a new one.
    pub(crate) fn of(book: &Book, notes: &Notes) -> Result<Self, Fault> {
        if let Some((client, lease)) = book.client {
            return Ok(Self { client, lease });
        }
        let [client, lease] = [ops::random()?, ops::random()?];
        let lease = lease.first_chunk().copied().map_or(0, u64::from_le_bytes);
        notes.write(&[Note::Client(client, lease)]);
        Ok(Self { client, lease })
    }
}

impl Inner {
    /// What is open and known is what an earlier share server noted.
    pub(crate) fn new(
        share: Arc<Share>,
        identity: Identity,
        notes: Arc<Notes>,
        book: Book,
    ) -> Self {
        let servers = book.servers + 1;
        notes.write(&[Note::Server(servers)]);
        let mut handles = HashMap::new();
        for open in book.open.values() {
            let lost = book.dirty.contains(&open.id);
            handles.insert(open.id, Arc::new(Handle::noted(open, lost)));
        }
        let mut locks: HashMap<u64, Locks> = HashMap::new();
        for (node, held) in book.locks {
            locks.insert(node, Locks::noted(held));
        }
        Self {
            share,
            notes,
            nodes: Mutex::new(book.nodes),
            handles: Mutex::new(handles),
            listings: Mutex::default(),
            locks: Mutex::new(locks),
            locking: tokio::sync::Mutex::default(),
            // None that an earlier server gave.
            next: AtomicU64::new((servers << 40) + 1),
            leases: Mutex::default(),
            behind: Mutex::default(),
            window: Arc::new(Semaphore::new(behind::WINDOW)),
            spare: tokio::sync::Mutex::default(),
            absent: Mutex::default(),
            seen: Mutex::default(),
            changes: AtomicU64::new(0),
            lease: identity.lease,
            notifier: OnceLock::new(),
            direct: AtomicBool::new(false),
        }
    }

    fn nodes(&self) -> NodesGuard<'_> {
        NodesGuard {
            nodes: locked(&self.nodes),
            notes: &self.notes,
        }
    }

    /// Deletes what an earlier share server was to delete when it was closed.
    pub(crate) async fn tidy(&self) {
        let doomed = self.nodes().doomed();
        for (node, path) in doomed {
            let deleting = self.on_path(&path, |link, path, _| async move {
                link.delete(&path, Kind::File).await
            });
            if deleting.await.is_ok() {
                self.nodes().unhide(node);
            }
        }
    }

    /// Notes who holds which locks of a file now.
    fn note_locks(&self, node: u64, locks: Option<&Locks>) {
        let held = locks.map(Locks::all).unwrap_or_default();
        self.notes.write(&[Note::Locks(node, held)]);
    }

    /// The mount stands; the kernel can be told things.
    pub(crate) fn mounted(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Lets the kernel ask for a file's attributes again.
    fn disbelieve(&self, node: u64) {
        if let Some(notifier) = self.notifier.get() {
            // What it does not know needs no telling.
            let _ = notifier.inval_inode(INodeNo(node), -1, 0);
        }
    }

    fn write_directly(&self) {
        self.direct.store(true, Ordering::Relaxed);
    }

    fn writes_directly(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    fn handle(&self, id: u64) -> Result<Arc<Handle>, Fault> {
        locked(&self.handles).get(&id).cloned().ok_or(Fault::Stale)
    }

    fn locks_through(&self, node: u64, handle: u64) -> Vec<Held> {
        locked(&self.locks)
            .get(&node)
            .map(|l| l.through(handle))
            .unwrap_or_default()
    }

    /// Descriptors that are open now.
    pub(crate) fn open_files(&self) -> u64 {
        self.nodes().all_opens()
    }

    /// Hears of leases that the server takes back, as long as the mount lives.
    pub(crate) async fn hear(inner: Weak<Self>, mut breaks: mpsc::UnboundedReceiver<Break>) {
        while let (Some(broken), Some(inner)) = (breaks.recv().await, inner.upgrade()) {
            tokio::spawn(async move {
                let key = broken.key();
                let node = key.last_chunk().copied().map_or(0, u64::from_le_bytes);
                inner.taken_back(node, broken.left());
                // Somebody else opens the file: first the server gets what was written.
                inner.settle(node).await;
                if let Some(current) = inner.share.up() {
                    current.link.acknowledge(&broken).await;
                }
            });
        }
    }

    /// Whether the server grants that nobody else has a file open; what it granted over a
    /// connection that is lost counts for nothing.
    fn is_alone(&self, node: u64) -> bool {
        let granted = locked(&self.leases).get(&node).copied();
        granted.is_some_and(|(generation, granted)| {
            let up = self.share.up();
            granted.state & lease::WRITE != 0 && up.is_some_and(|up| up.generation == generation)
        })
    }

    fn granted(&self, node: u64, generation: u64, granted: Granted) {
        let mut leases = locked(&self.leases);
        let known = leases.entry(node).or_insert((generation, granted));
        // It may be taken back before the one who asked for it looks at the answer.
        if known.0 != generation || !known.1.is_after(granted) {
            *known = (generation, granted);
        }
    }

    fn forget_lease(&self, node: u64) {
        locked(&self.leases).remove(&node);
    }

    fn taken_back(&self, node: u64, left: Granted) {
        let generation = self.share.up().map_or(0, |current| current.generation);
        let mut leases = locked(&self.leases);
        let known = leases.entry(node).or_insert((generation, left));
        if known.0 != generation || left.is_after(known.1) {
            *known = (generation, left);
        } else {
            known.1.state &= left.state;
        }
    }

    fn note_behind(&self, handle: &Arc<Handle>) {
        let mut behind = locked(&self.behind);
        if !behind.iter().any(|other| other.id == handle.id) {
            behind.push(Arc::clone(handle));
        }
    }

    /// Waits for writes under way, of one file or of all; the server has them then, or refused
    /// them.
    async fn settle_those(&self, which: impl Fn(&Handle) -> bool) {
        let those: Vec<_> = {
            let mut behind = locked(&self.behind);
            behind.retain(|handle| !handle.behind.is_idle());
            behind.iter().filter(|h| which(h)).cloned().collect()
        };
        for handle in those {
            handle.behind.settle().await;
        }
    }

    pub(crate) async fn settle(&self, node: u64) {
        self.settle_those(|handle| handle.node == node).await;
    }

    pub(crate) async fn settle_all(&self) {
        self.settle_those(|_| true).await;
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// How long names and attributes are believed.
    fn belief(&self) -> Duration {
        Duration::from_millis(self.share.config().options.actimeo_ms)
    }
}
