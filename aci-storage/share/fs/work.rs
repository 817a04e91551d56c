//! Each operation of the kernel, as questions to the server.

use std::ffi::OsStr;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use smb2::msg::create::CreateDisposition;
use smb2::types::flags::FileAttributes;

use super::belief::Advice;
use super::handles::{Beginning, First, Handle};
use super::nodes::Nodes;
use super::notes::Note;
use super::{Inner, Listed, locked, names};
use crate::smb::ops::{self, Access, Attributes, Durable, Kind, Open, Room};
use crate::smb::{Fault, Link, lease, status};
use crate::wire::Cache;

/// A node and what the server tells of it.
pub(crate) type Entry = (u64, Attributes);

pub(super) const READ: u32 = Access::FILE_READ_DATA | Access::FILE_READ_ATTRIBUTES;
const WRITE: u32 = Access::FILE_WRITE_DATA
    | Access::FILE_APPEND_DATA
    | Access::FILE_READ_ATTRIBUTES
    | Access::FILE_WRITE_ATTRIBUTES;

/// A file that is being closed is waited for so often and so long, before it counts as open.
const CLOSING: Duration = Duration::from_millis(1);
const CLOSING_ROUNDS: u32 = 20;

/// How much of a file is read with its opening, in bytes: small files need no further message.
const BEGINNING: u32 = 64 << 10;
/// So long what was told with an open is the answer to who asks for attributes.
const JUST_OPENED: Duration = Duration::from_millis(100);

/// What a changed file gets; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<SystemTime>,
    pub(crate) written: Option<SystemTime>,
}

impl Inner {
    pub(super) fn path(&self, node: u64) -> Result<String, Fault> {
        self.nodes().path(node).ok_or(Fault::Stale)
    }

    fn below(&self, parent: u64, name: &str) -> Result<String, Fault> {
        self.nodes().below(parent, name).ok_or(Fault::Stale)
    }

    pub(super) async fn on_path<T, F>(
        &self,
        path: &str,
        mut action: impl FnMut(Arc<Link>, String, bool) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.share
            .run(|link, again| action(link, path.to_owned(), again))
            .await
    }

    pub(super) async fn stat(&self, path: &str) -> Result<Attributes, Fault> {
        let attributes = self
            .on_path(path, |link, path, _| async move { link.stat(&path).await })
            .await?;
        Ok(self.as_link(path, attributes).await)
    }

    pub(crate) async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry, Fault> {
        let name = names::to_server(name)?;
        let belief = self.belief();
        if locked(&self.absent).knows(parent, &name, Instant::now(), belief) {
            return Err(Fault::Errno(libc::ENOENT));
        }
        let known = self.nodes().known(parent, &name);
        if let Some(node) = known {
            self.settle(node).await;
        }
        match self.stat(&self.below(parent, &name)?).await {
            Err(fault @ Fault::Status(status::OBJECT_NAME_NOT_FOUND)) => {
                let advice = locked(&self.absent).missed(parent, Instant::now(), belief);
                if advice == Advice::List {
                    let all = self.list(parent).await.ok();
                    let names = all.as_ref().map(|a| a.iter().map(|e| e.name.as_str()));
                    locked(&self.absent).listed(parent, names);
                }
                Err(fault)
            }
            other => Ok((self.nodes().find(parent, &name), other?)),
        }
    }

    pub(crate) async fn getattr(
        &self,
        node: u64,
        handle: Option<u64>,
    ) -> Result<Attributes, Fault> {
        self.settle(node).await;
        if let Some(handle) = handle.and_then(|h| self.handle(h).ok()) {
            // The kernel asks right after an open whose answer could not say it.
            let first = &handle.first;
            if first.at.elapsed() < self.belief().min(JUST_OPENED)
                && first.changes == self.changes.load(Ordering::Relaxed)
            {
                return Ok(first.attributes);
            }
            return handle
                .run(self, |link, file| async move { link.stat_open(file).await })
                .await;
        }
        let now = Instant::now();
        let seen = locked(&self.seen).get(node, now, self.belief());
        if let Some(attributes) = seen {
            return Ok(attributes);
        }
        let attributes = self.stat(&self.path(node)?).await?;
        locked(&self.seen).put(node, now, attributes);
        Ok(attributes)
    }

    pub(crate) async fn setattr(
        &self,
        node: u64,
        handle: Option<u64>,
        changes: Changes,
    ) -> Result<Attributes, Fault> {
        self.settle(node).await;
        self.changed();
        locked(&self.seen).forget(node);
        if let Some(size) = changes.size {
            match handle.and_then(|h| self.handle(h).ok()) {
                Some(handle) => {
                    handle
                        .run(
                            self,
                            |link, file| async move { link.set_size(file, size).await },
                        )
                        .await?;
                }
                None => self.set_size(&self.path(node)?, size).await?,
            }
        }
        let bits = match changes.mode {
            Some(mode) => self.read_only_bit(node, mode).await?,
            None => None,
        };
        let (accessed, written) = (changes.accessed, changes.written);
        if bits.is_some() || accessed.is_some() || written.is_some() {
            let path = self.path(node)?;
            self.on_path(&path, |link, path, _| async move {
                link.set_basic(&path, accessed, written, bits).await
            })
            .await?;
        }
        self.getattr(node, handle).await
    }

    async fn set_size(&self, path: &str, size: u64) -> Result<(), Fault> {
        self.on_path(path, |link, path, _| async move {
            let open = Open {
                path: &path,
                access: WRITE,
                how: CreateDisposition::FileOpen,
                kind: Kind::File,
                durable: None,
            };
            let opened = link.open(&open).await?;
            let done = link.set_size(opened.file, size).await;
            link.close(opened.file).await?;
            done
        })
        .await
    }

    /// The attributes that say whether a file can be written, if they change: all that a server
    /// keeps of a mode. As the kernel's cifs does it.
    async fn read_only_bit(&self, node: u64, mode: u32) -> Result<Option<u32>, Fault> {
        let now = self.stat(&self.path(node)?).await?;
        let read_only = mode & 0o222 == 0;
        if now.is_directory() || read_only == now.is_read_only() {
            return Ok(None);
        }
        let bits = if read_only {
            now.bits | FileAttributes::READONLY
        } else {
            now.bits & !FileAttributes::READONLY
        };
        // No attribute at all would mean that nothing is to change.
        let bits = bits & !FileAttributes::NORMAL;
        Ok(Some(if bits == 0 {
            FileAttributes::NORMAL
        } else {
            bits
        }))
    }

    fn durable(&self, node: u64) -> Result<Durable, Fault> {
        let mut lease = [0; 16];
        lease[..8].copy_from_slice(&self.lease.to_le_bytes());
        lease[8..].copy_from_slice(&node.to_le_bytes());
        Ok(Durable {
            guid: ops::random()?,
            lease,
            state: lease::READ_HANDLE,
        })
    }

    fn access(flags: i32) -> u32 {
        match flags & libc::O_ACCMODE {
            libc::O_RDONLY => READ,
            libc::O_WRONLY => WRITE,
            _ => READ | WRITE,
        }
    }

    async fn open_as(
        &self,
        node: u64,
        path: &str,
        flags: i32,
        how: CreateDisposition,
    ) -> Result<(u64, Attributes), Fault> {
        self.settle(node).await;
        let access = Self::access(flags);
        let durable = self.durable(node)?;
        let reads = access == READ && self.share.config().options.cache != Cache::None;
        if how != CreateDisposition::FileOpen {
            self.changed();
        }
        let changes = self.changes.load(Ordering::Relaxed);
        let mut leased = true;
        loop {
            let current = self.share.current().await?;
            let open = Open {
                path,
                access,
                how,
                kind: Kind::File,
                durable: leased.then_some(durable),
            };
            let opened = if leased && reads {
                current.link.open_and_read(&open, BEGINNING).await
            } else {
                current.link.open(&open).await.map(|opened| (opened, None))
            };
            let (opened, data) = match opened {
                Err(fault) if fault.is_loss() => {
                    self.share.found_lost(current.generation);
                    continue;
                }
                // The lease is still counted for what the file was called before.
                Err(Fault::Status(status::INVALID_PARAMETER)) if leased => {
                    leased = false;
                    continue;
                }
                other => other?,
            };
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let first = First {
                attributes: opened.attributes,
                at: Instant::now(),
                changes,
            };
            let beginning = data.map(|data| Beginning {
                whole: data.len() < BEGINNING as usize,
                data,
                read: Instant::now(),
                changes,
            });
            let at = (current.generation, &opened);
            let told = (first, beginning);
            let handle = Handle::new((id, node), (access, flags), durable, at, told);
            self.granted(node, current.generation, opened.lease);
            self.notes.write(&[Note::Open(handle.note().await)]);
            locked(&self.handles).insert(id, Arc::new(handle));
            let told = {
                let mut nodes = self.nodes();
                nodes.opened(node);
                nodes.is_told(node, &opened.attributes)
            };
            // Somebody else wrote it: who opens it now is not to believe its old length.
            if !told && how == CreateDisposition::FileOpen {
                self.disbelieve(node);
            }
            return Ok((id, opened.attributes));
        }
    }

    pub(crate) async fn open(&self, node: u64, flags: i32) -> Result<u64, Fault> {
        let path = self.path(node)?;
        let opened = self.open_as(node, &path, flags, CreateDisposition::FileOpen);
        Ok(opened.await?.0)
    }

    pub(crate) async fn create(
        &self,
        parent: u64,
        name: &OsStr,
        flags: i32,
    ) -> Result<(Entry, u64), Fault> {
        let name = names::to_server(name)?;
        let path = self.below(parent, &name)?;
        let how = match (flags & libc::O_EXCL != 0, flags & libc::O_TRUNC != 0) {
            (true, _) => CreateDisposition::FileCreate,
            (false, true) => CreateDisposition::FileOverwriteIf,
            (false, false) => CreateDisposition::FileOpenIf,
        };
        locked(&self.absent).made(parent, &name);
        let node = self.nodes().find(parent, &name);
        match self.open_as(node, &path, flags, how).await {
            Ok((handle, attributes)) => {
                locked(&self.seen).made(parent, attributes.created);
                Ok(((node, attributes), handle))
            }
            Err(fault) => {
                self.nodes().forget(node, 1);
                Err(fault)
            }
        }
    }

    pub(crate) async fn mkdir(&self, parent: u64, name: &OsStr) -> Result<Entry, Fault> {
        self.make(parent, name, Kind::Directory).await
    }

    pub(crate) async fn mknod(&self, parent: u64, name: &OsStr) -> Result<Entry, Fault> {
        self.make(parent, name, Kind::File).await
    }

    async fn make(&self, parent: u64, name: &OsStr, kind: Kind) -> Result<Entry, Fault> {
        let name = names::to_server(name)?;
        let path = self.below(parent, &name)?;
        locked(&self.absent).made(parent, &name);
        let attributes = self
            .on_path(&path, |link, path, again| async move {
                let open = Open {
                    path: &path,
                    access: Access::FILE_READ_ATTRIBUTES,
                    how: CreateDisposition::FileCreate,
                    kind,
                    durable: None,
                };
                match link.open(&open).await {
                    Ok(opened) => {
                        link.close(opened.file).await?;
                        Ok(opened.attributes)
                    }
                    // The attempt whose answer was lost has made it.
                    Err(Fault::Status(status::OBJECT_NAME_COLLISION)) if again => {
                        link.stat(&path).await
                    }
                    Err(fault) => Err(fault),
                }
            })
            .await?;
        locked(&self.seen).made(parent, attributes.created);
        Ok((self.nodes().find(parent, &name), attributes))
    }

    pub(crate) async fn remove(&self, parent: u64, name: &OsStr, kind: Kind) -> Result<(), Fault> {
        let name = names::to_server(name)?;
        let done = self.remove_name(parent, &name, kind).await;
        locked(&self.seen).forget(parent);
        done
    }

    async fn remove_name(&self, parent: u64, name: &str, kind: Kind) -> Result<(), Fault> {
        let path = self.below(parent, name)?;
        let known = self.nodes().known(parent, name);
        if let Some(node) = known {
            self.settle(node).await;
        }
        if kind == Kind::File && self.stays_open(parent, name).await {
            let hidden = names::hidden(ops::random()?);
            let to = self.below(parent, &hidden)?;
            self.share
                .run(|link, _| {
                    let (path, to) = (path.clone(), to.clone());
                    async move { link.rename(&path, &to, false).await }
                })
                .await?;
            self.nodes().hide(parent, name, &hidden);
            return Ok(());
        }
        if kind == Kind::Directory {
            self.await_hidden(parent, name).await;
        }
        self.on_path(&path, |link, path, again| async move {
            match link.delete(&path, kind).await {
                // The attempt whose answer was lost has done it.
                Err(Fault::Status(status::OBJECT_NAME_NOT_FOUND)) if again => Ok(()),
                // POSIX deletes what cannot be written; a server does not.
                Err(Fault::Status(status::CANNOT_DELETE)) => {
                    let bits = Some(FileAttributes::NORMAL);
                    link.set_basic(&path, None, None, bits).await?;
                    link.delete(&path, kind).await
                }
                other => other,
            }
        })
        .await?;
        self.nodes().removed(parent, name);
        Ok(())
    }

    /// Whether a file is open by somebody. The kernel closes without waiting for us, so that a
    /// program may have closed what is only about to be.
    async fn stays_open(&self, parent: u64, name: &str) -> bool {
        self.until(|nodes| {
            let node = nodes.known(parent, name);
            node.is_none_or(|node| nodes.opens(node) == 0)
        })
        .await
    }

    /// Waits a moment for deleted files of a directory whose last descriptor is being closed.
    async fn await_hidden(&self, parent: u64, name: &str) {
        self.until(|nodes| {
            let node = nodes.known(parent, name);
            node.is_none_or(|node| !nodes.has_hidden(node))
        })
        .await;
    }

    /// Waits for something about the nodes, but not long; answers whether it did not come.
    async fn until(&self, done: impl Fn(&Nodes) -> bool) -> bool {
        for _ in 0..CLOSING_ROUNDS {
            if done(&self.nodes()) {
                return false;
            }
            tokio::time::sleep(CLOSING).await;
        }
        true
    }

    pub(crate) async fn rename(
        &self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        replace: bool,
    ) -> Result<(), Fault> {
        let (from_name, to_name) = (names::to_server(from.1)?, names::to_server(to.1)?);
        let from_path = self.below(from.0, &from_name)?;
        let to_path = self.below(to.0, &to_name)?;
        if from_path == to_path {
            return Ok(());
        }
        self.settle_all().await;
        locked(&self.absent).made(to.0, &to_name);
        let mut done = self.rename_paths(&from_path, &to_path, replace).await;
        // A server replaces neither a directory nor a file that is open.
        let refused = matches!(
            done,
            Err(Fault::Status(
                status::ACCESS_DENIED | status::OBJECT_NAME_COLLISION | status::SHARING_VIOLATION
            ))
        );
        if refused && replace {
            let (source, target) = (self.stat(&from_path).await?, self.stat(&to_path).await);
            if source.is_directory() {
                self.park_below(&from_path).await;
            }
            match target {
                Ok(target) if target.is_directory() && !source.is_directory() => {
                    return Err(Fault::Errno(libc::EISDIR));
                }
                Ok(target) if !target.is_directory() && source.is_directory() => {
                    return Err(Fault::Errno(libc::ENOTDIR));
                }
                Ok(target) if from_path.to_lowercase() != to_path.to_lowercase() => {
                    let kind = if target.is_directory() {
                        Kind::Directory
                    } else {
                        Kind::File
                    };
                    self.remove_name(to.0, &to_name, kind).await?;
                    done = self.rename_paths(&from_path, &to_path, replace).await;
                }
                _ if source.is_directory() => {
                    done = self.rename_paths(&from_path, &to_path, replace).await;
                }
                _ => {}
            }
        }
        done?;
        self.nodes().moved((from.0, &from_name), (to.0, &to_name));
        locked(&self.seen).forget(from.0);
        locked(&self.seen).forget(to.0);
        Ok(())
    }

    /// Closes the open files of a directory on the server until they are used again.
    async fn park_below(&self, path: &str) {
        let below = format!("{path}\\");
        let handles: Vec<_> = locked(&self.handles).values().cloned().collect();
        for handle in handles {
            let at = self.nodes().path(handle.node);
            if at.is_some_and(|at| at.starts_with(&below)) {
                handle.park(self).await;
            }
        }
    }

    async fn rename_paths(&self, from: &str, to: &str, replace: bool) -> Result<(), Fault> {
        self.share
            .run(|link, again| {
                let (from, to) = (from.to_owned(), to.to_owned());
                async move {
                    match link.rename(&from, &to, replace).await {
                        // The attempt whose answer was lost has done it.
                        Err(Fault::Status(status::OBJECT_NAME_NOT_FOUND)) if again => {
                            link.stat(&to).await.map(drop)
                        }
                        other => other,
                    }
                }
            })
            .await
    }

    pub(crate) async fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Bytes, Fault> {
        let handle = self.handle(handle)?;
        self.settle(handle.node).await;
        let data = match self.begins(&handle, offset, size) {
            Some(data) => data,
            None => {
                handle
                    .run(self, |link, file| async move {
                        link.read(file, offset, size).await
                    })
                    .await?
            }
        };
        let read = &self.share.bytes_read;
        read.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(data)
    }

    /// What was read when the file was opened, if that is it and nothing was written since.
    fn begins(&self, handle: &Handle, offset: u64, size: u32) -> Option<Bytes> {
        let beginning = handle.beginning.as_ref()?;
        let data = &beginning.data;
        let from = usize::try_from(offset).ok()?;
        let to = from.checked_add(size as usize)?;
        let current = beginning.read.elapsed() < self.belief()
            && beginning.changes == self.changes.load(Ordering::Relaxed);
        if !current || (to > data.len() && !beginning.whole) {
            return None;
        }
        Some(data.slice(from.min(data.len())..to.min(data.len())))
    }

    pub(crate) async fn release(&self, id: u64) {
        let Some(handle) = locked(&self.handles).remove(&id) else {
            return;
        };
        {
            let mut all = locked(&self.locks);
            if let Some(locks) = all.get_mut(&handle.node) {
                locks.forget(id);
                self.note_locks(handle.node, Some(locks));
                if locks.is_empty() {
                    all.remove(&handle.node);
                }
            }
        }
        handle.close(self).await;
        self.notes.write(&[Note::Closed(id)]);
        let doomed = self.nodes().closed(handle.node);
        if self.nodes().opens(handle.node) == 0 {
            self.forget_lease(handle.node);
        }
        if let Some(path) = doomed {
            let _ = self
                .on_path(&path, |link, path, _| async move {
                    link.delete(&path, Kind::File).await
                })
                .await;
            self.nodes().unhide(handle.node);
        }
    }

    /// All names of a directory and what the server tells of them, `.` and `..` left out.
    pub(crate) async fn list(&self, node: u64) -> Result<Vec<Listed>, Fault> {
        self.settle_all().await;
        let path = self.path(node)?;
        let mut all = self
            .on_path(&path, |link, path, _| async move {
                let open = Open {
                    path: &path,
                    access: Access::FILE_READ_DATA | Access::FILE_READ_ATTRIBUTES,
                    how: CreateDisposition::FileOpen,
                    kind: Kind::Directory,
                    durable: None,
                };
                let opened = link.open(&open).await?;
                let mut all = Vec::new();
                let mut restart = true;
                loop {
                    let piece = link.list(opened.file, restart).await?;
                    if piece.is_empty() {
                        break;
                    }
                    restart = false;
                    let piece = piece.into_iter().map(|entry| Listed {
                        attributes: (&entry).into(),
                        number: entry.file_id,
                        name: entry.file_name,
                    });
                    all.extend(piece.filter(|entry| {
                        names::from_server(&entry.name).is_some()
                            && !entry.name.starts_with(names::HIDDEN)
                    }));
                }
                link.close(opened.file).await?;
                Ok(all)
            })
            .await?;
        for entry in &mut all {
            if self.may_be_link(&entry.attributes) {
                let path = self.below(node, &entry.name)?;
                entry.attributes = self.as_link(&path, entry.attributes).await;
            }
        }
        Ok(all)
    }

    /// How much room the share has.
    pub(crate) async fn room(&self) -> Result<Room, Fault> {
        self.share
            .run(|link, _| async move { link.room().await })
            .await
    }
}
