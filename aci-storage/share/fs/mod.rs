//! The mounted share: what the kernel asks, and what a server is asked for it.

mod handles;
mod kernel;
pub(crate) mod locks;
pub(crate) mod names;
pub(crate) mod nodes;
pub(crate) mod share;
mod work;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::smb::Fault;
use crate::smb::ops::DirectoryEntry;
use handles::Handle;
use locks::{Held, Locks};
use nodes::Nodes;
use share::Share;

pub(crate) use kernel::Files;

/// Everything a mounted share knows besides what the server knows.
pub(crate) struct Inner {
    pub(crate) share: Arc<Share>,
    nodes: Mutex<Nodes>,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    listings: Mutex<HashMap<u64, Arc<Vec<DirectoryEntry>>>>,
    locks: Mutex<HashMap<u64, Locks>>,
    /// One change of a file's locks at a time.
    locking: tokio::sync::Mutex<()>,
    next: AtomicU64,
    /// First half of the lease keys of this mount.
    lease: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Inner {
    pub(crate) fn new(share: Arc<Share>) -> Result<Self, Fault> {
        let mut lease = [0; 8];
        getrandom::fill(&mut lease).map_err(|e| Fault::protocol(e.to_string()))?;
        Ok(Self {
            share,
            nodes: Mutex::new(Nodes::new()),
            handles: Mutex::default(),
            listings: Mutex::default(),
            locks: Mutex::default(),
            locking: tokio::sync::Mutex::default(),
            next: AtomicU64::new(1),
            lease: u64::from_le_bytes(lease),
        })
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        locked(&self.nodes)
    }

    fn handle(&self, id: u64) -> Result<Arc<Handle>, Fault> {
        locked(&self.handles)
            .get(&id)
            .cloned()
            .ok_or(Fault::Errno(libc::EBADF))
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
}
