//! Each operation of the kernel, as questions to the server.

use std::ffi::OsStr;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use smb2::msg::create::CreateDisposition;
use smb2::types::flags::FileAttributes;

use super::handles::Handle;
use super::locks::{self, Range};
use super::nodes::Nodes;
use super::{Inner, locked, names};
use crate::smb::ops::{
    self, Access, Attributes, DirectoryEntry, Durable, Kind, Locking, Open, Room,
};
use crate::smb::{Fault, Link, status};

/// A node and what the server tells of it.
pub(crate) type Entry = (u64, Attributes);

const READ: u32 = Access::FILE_READ_DATA | Access::FILE_READ_ATTRIBUTES;
const WRITE: u32 = Access::FILE_WRITE_DATA
    | Access::FILE_APPEND_DATA
    | Access::FILE_READ_ATTRIBUTES
    | Access::FILE_WRITE_ATTRIBUTES;

/// Pauses while another holds a lock that is waited for.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_LOCK_PAUSE: Duration = Duration::from_millis(500);

/// A file that is being closed is waited for so often and so long, before it counts as open.
const CLOSING: Duration = Duration::from_millis(1);
const CLOSING_ROUNDS: u32 = 20;

/// What a changed file gets; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<SystemTime>,
    pub(crate) written: Option<SystemTime>,
}

/// What a lock is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) node: u64,
    pub(crate) handle: u64,
    pub(crate) owner: u64,
    pub(crate) range: Range,
    pub(crate) locking: Locking,
}

impl Inner {
    fn path(&self, node: u64) -> Result<String, Fault> {
        self.nodes().path(node).ok_or(Fault::Stale)
    }

    fn below(&self, parent: u64, name: &str) -> Result<String, Fault> {
        self.nodes().below(parent, name).ok_or(Fault::Stale)
    }

    async fn on_path<T, F>(
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

    async fn stat(&self, path: &str) -> Result<Attributes, Fault> {
        self.on_path(path, |link, path, _| async move { link.stat(&path).await })
            .await
    }

    pub(crate) async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry, Fault> {
        let name = names::to_server(name)?;
        let attributes = self.stat(&self.below(parent, &name)?).await?;
        Ok((self.nodes().find(parent, &name), attributes))
    }

    pub(crate) async fn getattr(
        &self,
        node: u64,
        handle: Option<u64>,
    ) -> Result<Attributes, Fault> {
        if let Some(handle) = handle.and_then(|h| self.handle(h).ok()) {
            return handle
                .run(self, |link, file| async move { link.stat_open(file).await })
                .await;
        }
        self.stat(&self.path(node)?).await
    }

    pub(crate) async fn setattr(
        &self,
        node: u64,
        handle: Option<u64>,
        changes: Changes,
    ) -> Result<Attributes, Fault> {
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
            guid: ops::guid()?,
            lease,
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
        let durable = self.durable(node)?;
        let access = Self::access(flags);
        loop {
            let current = self.share.current().await?;
            let open = Open {
                path,
                access,
                how,
                kind: Kind::File,
                durable: Some(durable),
            };
            let opened = match current.link.open(&open).await {
                Err(fault) if fault.is_loss() => {
                    self.share.found_lost(current.generation);
                    continue;
                }
                other => other?,
            };
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let append = flags & libc::O_APPEND != 0;
            let handle = Handle::new(
                id,
                node,
                access,
                append,
                durable,
                (current.generation, &opened),
            );
            locked(&self.handles).insert(id, Arc::new(handle));
            self.nodes().opened(node);
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
        let node = self.nodes().find(parent, &name);
        match self.open_as(node, &path, flags, how).await {
            Ok((handle, attributes)) => Ok(((node, attributes), handle)),
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
        Ok((self.nodes().find(parent, &name), attributes))
    }

    pub(crate) async fn remove(&self, parent: u64, name: &OsStr, kind: Kind) -> Result<(), Fault> {
        let name = names::to_server(name)?;
        self.remove_name(parent, &name, kind).await
    }

    async fn remove_name(&self, parent: u64, name: &str, kind: Kind) -> Result<(), Fault> {
        let path = self.below(parent, name)?;
        if kind == Kind::File && self.stays_open(parent, name).await {
            let hidden = names::hidden(ops::guid()?);
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
        let data = handle
            .run(self, |link, file| async move {
                link.read(file, offset, size).await
            })
            .await?;
        let read = &self.share.bytes_read;
        read.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(data)
    }

    pub(crate) async fn write(&self, handle: u64, offset: u64, data: Bytes) -> Result<u32, Fault> {
        let handle = self.handle(handle)?;
        // Where the file ends now, for others may have appended too.
        let offset = if handle.append {
            let now = handle.run(self, |link, file| async move { link.stat_open(file).await });
            now.await?.size
        } else {
            offset
        };
        let mut done = 0;
        while done < data.len() {
            let rest = data.slice(done..);
            let at = offset + done as u64;
            let written = handle
                .run(self, |link, file| {
                    let rest = rest.clone();
                    async move { link.write(file, at, &rest).await }
                })
                .await?;
            if written == 0 {
                return Err(Fault::Errno(libc::EIO));
            }
            done += written as usize;
        }
        let written = &self.share.bytes_written;
        written.fetch_add(done as u64, Ordering::Relaxed);
        Ok(u32::try_from(done).unwrap_or(u32::MAX))
    }

    pub(crate) async fn fsync(&self, handle: u64) -> Result<(), Fault> {
        self.handle(handle)?
            .run(self, |link, file| async move { link.flush(file).await })
            .await
    }

    /// Lengthens a file to hold a range.
    pub(crate) async fn allocate(&self, handle: u64, end: u64) -> Result<(), Fault> {
        self.handle(handle)?
            .run(self, |link, file| async move {
                if link.stat_open(file).await?.size < end {
                    link.set_size(file, end).await?;
                }
                Ok(())
            })
            .await
    }

    pub(crate) async fn release(&self, id: u64) {
        let Some(handle) = locked(&self.handles).remove(&id) else {
            return;
        };
        {
            let mut all = locked(&self.locks);
            if let Some(locks) = all.get_mut(&handle.node) {
                locks.forget(id);
                if locks.is_empty() {
                    all.remove(&handle.node);
                }
            }
        }
        handle.close(self).await;
        let doomed = self.nodes().closed(handle.node);
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
    pub(crate) async fn list(&self, node: u64) -> Result<Vec<DirectoryEntry>, Fault> {
        let path = self.path(node)?;
        self.on_path(&path, |link, path, _| async move {
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
                all.extend(piece.into_iter().filter(|entry| {
                    names::from_server(&entry.file_name).is_some()
                        && !entry.file_name.starts_with(names::HIDDEN)
                }));
            }
            link.close(opened.file).await?;
            Ok(all)
        })
        .await
    }

    pub(crate) async fn room(&self) -> Result<Room, Fault> {
        self.share
            .run(|link, _| async move { link.room().await })
            .await
    }

    /// A lock that stands against this one, if any.
    pub(crate) async fn blocked(&self, claim: Claim) -> Result<Option<locks::Held>, Fault> {
        let exclusive = claim.locking == Locking::Exclusive;
        let here = locked(&self.locks)
            .get(&claim.node)
            .and_then(|l| l.conflict(claim.owner, claim.range, exclusive));
        if here.is_some() || self.share.config().options.nobrl {
            return Ok(here);
        }
        // A server cannot be asked who holds a lock; it is tried and given back.
        let _turn = self.locking.lock().await;
        let (start, length) = claim.range.extent();
        let locking = claim.locking;
        let tried = self
            .handle(claim.handle)?
            .run(self, |link, file| async move {
                link.lock(file, &[(start, length, locking)]).await?;
                link.lock(file, &[(start, length, Locking::Unlock)]).await
            })
            .await;
        match tried {
            Ok(()) => Ok(None),
            Err(Fault::Status(status::LOCK_NOT_GRANTED | status::FILE_LOCK_CONFLICT)) => {
                Ok(Some(locks::Held {
                    range: claim.range,
                    exclusive: true,
                    handle: 0,
                }))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Takes or gives a lock; waits for it as long as the asking process lives, if it wants.
    pub(crate) async fn lock(&self, claim: Claim, wait: Option<u32>) -> Result<(), Fault> {
        let mut pause = LOCK_PAUSE;
        loop {
            match (self.try_lock(claim).await, wait) {
                (Err(Fault::Errno(libc::EAGAIN)), Some(pid)) => {
                    if super::kernel::is_ending(pid) {
                        return Err(Fault::Errno(libc::EINTR));
                    }
                }
                (done, _) => return done,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOCK_PAUSE);
        }
    }

    async fn try_lock(&self, claim: Claim) -> Result<(), Fault> {
        let _turn = self.locking.lock().await;
        let exclusive = claim.locking == Locking::Exclusive;
        let (after, change) = {
            let mut all = locked(&self.locks);
            let locks = all.entry(claim.node).or_default();
            let taken = claim.locking != Locking::Unlock
                && locks
                    .conflict(claim.owner, claim.range, exclusive)
                    .is_some();
            if taken {
                return Err(Fault::Errno(libc::EAGAIN));
            }
            let after = locks.after(claim.owner, claim.range, claim.locking, claim.handle);
            let change = locks.change(claim.owner, &after);
            (after, change)
        };
        if !self.share.config().options.nobrl {
            self.ask_locks(&change).await?;
        }
        let mut all = locked(&self.locks);
        let locks = all.entry(claim.node).or_default();
        locks.set(claim.owner, after);
        if locks.is_empty() {
            all.remove(&claim.node);
        }
        Ok(())
    }

    async fn ask_locks(&self, change: &locks::Change) -> Result<(), Fault> {
        for held in &change.unlock {
            // Its descriptor may be closed meanwhile; the server gave it up then.
            if self.handle(held.handle).is_ok() {
                let given = self.ask_lock(held, Locking::Unlock).await;
                if !matches!(given, Err(Fault::Status(status::RANGE_NOT_LOCKED))) {
                    given?;
                }
            }
        }
        let mut taken = Vec::new();
        for held in &change.lock {
            if let Err(fault) = self.ask_lock(held, locks::locking(held)).await {
                // As it was, as far as that can be had.
                for held in taken {
                    let _ = self.ask_lock(held, Locking::Unlock).await;
                }
                for held in &change.unlock {
                    let _ = self.ask_lock(held, locks::locking(held)).await;
                }
                return Err(match fault {
                    Fault::Status(status::LOCK_NOT_GRANTED | status::FILE_LOCK_CONFLICT) => {
                        Fault::Errno(libc::EAGAIN)
                    }
                    other => other,
                });
            }
            taken.push(held);
        }
        Ok(())
    }

    async fn ask_lock(&self, held: &locks::Held, locking: Locking) -> Result<(), Fault> {
        let (start, length) = held.range.extent();
        self.handle(held.handle)?
            .run(self, |link, file| async move {
                link.lock(file, &[(start, length, locking)]).await
            })
            .await
    }

    /// Gives up all that an owner holds of a file, as POSIX does when it closes any descriptor.
    pub(crate) async fn unlock_all(&self, node: u64, owner: u64, handle: u64) -> Result<(), Fault> {
        if !locked(&self.locks).contains_key(&node) {
            return Ok(());
        }
        let claim = Claim {
            node,
            handle,
            owner,
            range: Range {
                start: 0,
                end: u64::MAX,
            },
            locking: Locking::Unlock,
        };
        self.lock(claim, None).await
    }
}
