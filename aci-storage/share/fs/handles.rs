//! Open files that outlive connections.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bytes::Bytes;

use smb2::msg::create::CreateDisposition;
use smb2::types::FileId;

use super::Inner;
use super::behind::Behind;
use super::notes::{Note, OpenNote};
use super::share::Current;
use crate::smb::ops::{Attributes, Durable, Kind, Open, Opened};
use crate::smb::{Fault, Link, status};

/// An open file of the kernel's.
pub(crate) struct Handle {
    pub(crate) id: u64,
    pub(crate) node: u64,
    /// Every write goes to the end of the file.
    pub(crate) append: bool,
    /// Every write is on the server when it is answered.
    pub(crate) sync: bool,
    pub(crate) behind: Behind,
    /// What stood at the beginning when it was opened.
    pub(crate) beginning: Option<Beginning>,
    /// What the server told when it was opened.
    pub(crate) first: First,
    /// How many bytes were written while others could have it open.
    pub(crate) streamed: AtomicU64,
    pub(crate) access: u32,
    flags: i32,
    slot: tokio::sync::Mutex<Slot>,
}

/// What the server knows it by, over one connection.
struct Slot {
    generation: u64,
    file: FileId,
    durable: Durable,
    granted: bool,
    /// Which file it is; the same after a new connection, or it is another file.
    number: u64,
    stale: bool,
}

/// The beginning of a file, read when it was opened.
pub(crate) struct Beginning {
    pub(crate) data: Bytes,
    /// Nothing follows.
    pub(crate) whole: bool,
    pub(crate) read: Instant,
    /// What had been changed by then.
    pub(crate) changes: u64,
}

/// What the server told of a file when it was opened.
pub(crate) struct First {
    pub(crate) attributes: Attributes,
    pub(crate) at: Instant,
    /// What had been changed by then.
    pub(crate) changes: u64,
}

impl First {
    /// Nothing that counts.
    fn unknown() -> Self {
        Self {
            attributes: Attributes::UNKNOWN,
            at: Instant::now(),
            changes: u64::MAX,
        }
    }
}

impl Handle {
    /// One that an earlier share server had open; with `lost` it has answered a write that the
    /// file server does not have.
    pub(crate) fn noted(note: &OpenNote, lost: bool) -> Self {
        let durable = Durable {
            guid: note.guid,
            lease: note.lease,
            state: note.state,
        };
        let (persistent, volatile) = note.file;
        Self {
            id: note.id,
            node: note.node,
            append: note.flags & libc::O_APPEND != 0,
            sync: note.flags & (libc::O_DSYNC | libc::O_DIRECT) != 0,
            behind: if lost {
                Behind::lost()
            } else {
                Behind::default()
            },
            beginning: None,
            first: First::unknown(),
            streamed: AtomicU64::new(0),
            access: note.access,
            flags: note.flags,
            slot: tokio::sync::Mutex::new(Slot {
                generation: 0,
                file: FileId {
                    persistent,
                    volatile,
                },
                durable,
                granted: note.granted,
                number: note.number,
                stale: false,
            }),
        }
    }

    /// What the next share server has to know of it.
    pub(crate) async fn note(&self) -> OpenNote {
        self.note_of(&*self.slot.lock().await)
    }

    /// By what it is leased, and which file it is.
    pub(crate) async fn lease(&self) -> (Durable, u64) {
        let slot = self.slot.lock().await;
        (slot.durable, slot.number)
    }

    fn note_of(&self, slot: &Slot) -> OpenNote {
        OpenNote {
            id: self.id,
            node: self.node,
            access: self.access,
            flags: self.flags,
            guid: slot.durable.guid,
            lease: slot.durable.lease,
            state: slot.durable.state,
            file: (slot.file.persistent, slot.file.volatile),
            granted: slot.granted,
            number: slot.number,
        }
    }

    pub(crate) fn new(
        (id, node): (u64, u64),
        (access, flags): (u32, i32),
        durable: Durable,
        (generation, opened): (u64, &Opened),
        (first, beginning): (First, Option<Beginning>),
    ) -> Self {
        Self {
            id,
            node,
            append: flags & libc::O_APPEND != 0,
            sync: flags & (libc::O_DSYNC | libc::O_DIRECT) != 0,
            behind: Behind::default(),
            beginning,
            first,
            streamed: AtomicU64::new(0),
            access,
            flags,
            slot: tokio::sync::Mutex::new(Slot {
                generation,
                file: opened.file,
                durable,
                granted: opened.durable,
                number: opened.number,
                stale: false,
            }),
        }
    }

    /// The connection of the moment, and the file on it: asked back or opened again if the
    /// connection is another one than before.
    async fn ready(&self, inner: &Inner) -> Result<(Current, FileId), Fault> {
        loop {
            let current = inner.share.current().await?;
            let mut slot = self.slot.lock().await;
            if slot.stale {
                return Err(Fault::Stale);
            }
            if slot.generation == current.generation {
                return Ok((current, slot.file));
            }
            match self.again(inner, &current.link, &slot).await {
                Ok(opened) => {
                    inner.granted(self.node, current.generation, opened.lease);
                    slot.generation = current.generation;
                    slot.file = opened.file;
                    slot.granted = opened.durable;
                    inner.notes.write(&[Note::Open(self.note_of(&slot))]);
                    return Ok((current, opened.file));
                }
                Err(fault) if fault.is_loss() => {
                    drop(slot);
                    inner.share.found_lost(current.generation);
                }
                Err(Fault::Stale) => {
                    slot.stale = true;
                    return Err(Fault::Stale);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    async fn again(&self, inner: &Inner, link: &Link, slot: &Slot) -> Result<Opened, Fault> {
        let path = inner.nodes().path(self.node).ok_or(Fault::Stale)?;
        let open = Open {
            path: &path,
            access: self.access,
            how: CreateDisposition::FileOpen,
            kind: Kind::File,
            durable: Some(slot.durable),
        };
        if slot.granted {
            match link.reclaim(&open, slot.file).await {
                // With its locks, which the server kept.
                Ok(opened) if opened.number == slot.number => return Ok(opened),
                Ok(opened) => {
                    let _ = link.close(opened.file).await;
                    return Err(Fault::Stale);
                }
                Err(fault) if fault.is_loss() => return Err(fault),
                Err(_) => {}
            }
        }
        let mut opened = link.open(&open).await;
        if let Err(Fault::Status(status::INVALID_PARAMETER)) = opened {
            // The lease is still counted for what the file was called before.
            let durable = None;
            opened = link.open(&Open { durable, ..open }).await;
        }
        let opened = match opened {
            Ok(opened) if opened.number == slot.number => opened,
            Ok(opened) => {
                let _ = link.close(opened.file).await;
                return Err(Fault::Stale);
            }
            Err(Fault::Status(status::OBJECT_NAME_NOT_FOUND | status::OBJECT_PATH_NOT_FOUND)) => {
                return Err(Fault::Stale);
            }
            Err(fault) => return Err(fault),
        };
        let held = inner.locks_through(self.node, self.id);
        let ranges: Vec<_> = held
            .iter()
            .map(|h| {
                let (start, length) = h.range.extent();
                (start, length, super::locks::locking(h))
            })
            .collect();
        if !ranges.is_empty() && !inner.share.config().options.nobrl {
            match link.lock(opened.file, &ranges).await {
                Ok(()) => {}
                Err(fault) if fault.is_loss() => return Err(fault),
                // Somebody else has the lock now: what the owner knows of the file is not true.
                Err(_) => {
                    let _ = link.close(opened.file).await;
                    return Err(Fault::Stale);
                }
            }
        }
        Ok(opened)
    }

    /// Carries something out on the open file; after a lost connection once more over the next.
    /// Only what may be done twice.
    pub(crate) async fn run<T, F>(
        &self,
        inner: &Inner,
        mut action: impl FnMut(Arc<Link>, FileId) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        loop {
            let (current, file) = self.ready(inner).await?;
            match action(current.link, file).await {
                Err(fault) if fault.is_loss() => inner.share.found_lost(current.generation),
                // An administrator closed it on the server: it is opened again, as often as that.
                Err(Fault::Status(status::FILE_CLOSED)) => {
                    let mut slot = self.slot.lock().await;
                    if slot.file == file {
                        let current = inner.share.current().await?;
                        let opened = self.again(inner, &current.link, &slot).await?;
                        slot.generation = current.generation;
                        slot.file = opened.file;
                        slot.granted = opened.durable;
                        inner.notes.write(&[Note::Open(self.note_of(&slot))]);
                    }
                }
                done => return done,
            }
        }
    }

    /// Closes it on the server until it is used again: a server renames no directory in which a
    /// file is open. Its locks are taken again then.
    pub(crate) async fn park(&self, inner: &Inner) {
        self.behind.settle().await;
        let mut slot = self.slot.lock().await;
        if let Some(current) = inner.share.up()
            && current.generation == slot.generation
            && current.link.close(slot.file).await.is_ok()
        {
            inner.forget_lease(self.node);
            // No connection has this number.
            slot.generation = 0;
            slot.granted = false;
            inner.notes.write(&[Note::Open(self.note_of(&slot))]);
        }
    }

    /// Closes it on the server, if there is a connection; a server that lost the connection closes
    /// it by itself.
    pub(crate) async fn close(&self, inner: &Inner) {
        self.behind.settle().await;
        let slot = self.slot.lock().await;
        if let Some(current) = inner.share.up()
            && current.generation == slot.generation
            && !slot.stale
        {
            let _ = current.link.close(slot.file).await;
        } else if !slot.stale && slot.granted {
            // The server keeps it for us; it is asked back to be closed.
            drop(slot);
            if let Ok((current, file)) = self.ready(inner).await {
                let _ = current.link.close(file).await;
            }
        }
    }
}
