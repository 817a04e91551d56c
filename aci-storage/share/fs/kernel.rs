//! The kernel's side: FUSE requests, each a task of its own, so that a slow one holds up no other.

use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::locking::Claim;
use super::locks::Range;
use super::work::Changes;
use super::{Inner, Listed, locked, names};
use crate::smb::Fault;
use crate::smb::ops::{Attributes, Kind, Locking, time};
use crate::wire::{Cache, Options};

/// Largest write that the kernel hands over at once, and largest read ahead.
const PIECE: u32 = 1 << 20;
/// Requests that the kernel has under way on its own account, such as reads ahead.
const BACKGROUND: u16 = 64;

/// A mounted share, as the kernel asks it.
pub(crate) struct Files {
    inner: Arc<Inner>,
    runtime: tokio::runtime::Handle,
}

fn errno(fault: &Fault) -> Errno {
    Errno::from_i32(fault.errno())
}

tokio::task_local! {
    /// The thread that a request comes from.
    static ASKER: u32;
}

/// Whether the process that asks is about to end, so that nobody waits for the answer: the kernel
/// ends no process before its request is answered.
pub(crate) fn asker_is_ending() -> bool {
    ASKER
        .try_with(|pid| *pid != 0 && is_ending(*pid))
        .unwrap_or(false)
}

/// Whether a process is about to end, and so waits for nothing any more.
pub(crate) fn is_ending(pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    let kill = 1_u64 << (libc::SIGKILL - 1);
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("SigPnd:")
                .or_else(|| line.strip_prefix("ShdPnd:"))
        })
        .filter_map(|set| u64::from_str_radix(set.trim(), 16).ok())
        .any(|set| set & kill != 0)
}

impl Files {
    pub(crate) fn new(inner: Arc<Inner>, runtime: tokio::runtime::Handle) -> Self {
        Self { inner, runtime }
    }

    fn spawn<F>(&self, request: &Request, work: impl FnOnce(Arc<Inner>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = work(Arc::clone(&self.inner));
        self.runtime.spawn(ASKER.scope(request.pid(), work));
    }
}

fn ttl(options: &Options) -> Duration {
    Duration::from_millis(options.actimeo_ms)
}

fn kind(attributes: &Attributes) -> FileType {
    if attributes.is_directory() {
        FileType::Directory
    } else if attributes.link.is_some() {
        FileType::Symlink
    } else {
        FileType::RegularFile
    }
}

/// How a program sees a file.
fn shown(options: &Options, node: u64, attributes: &Attributes) -> FileAttr {
    let directory = attributes.is_directory();
    let mut perm = if directory {
        options.dir_mode
    } else {
        options.file_mode
    };
    if !directory && attributes.is_read_only() {
        perm &= !0o222;
    }
    if attributes.link.is_some() {
        perm = 0o777;
    }
    FileAttr {
        ino: INodeNo(node),
        size: attributes.link.map_or(attributes.size, u64::from),
        blocks: attributes.allocated.div_ceil(512),
        atime: time(attributes.accessed),
        mtime: time(attributes.written),
        ctime: time(attributes.changed),
        crtime: time(attributes.created),
        kind: kind(attributes),
        perm,
        nlink: if directory { 2 } else { 1 },
        uid: options.uid,
        gid: options.gid,
        rdev: 0,
        blksize: PIECE,
        flags: 0,
    }
}

fn moment(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

fn claim(
    node: INodeNo,
    handle: FileHandle,
    owner: LockOwner,
    (start, end): (u64, u64),
    kind: i32,
) -> Claim {
    Claim {
        node: node.0,
        handle: handle.0,
        owner: owner.0,
        range: Range { start, end },
        locking: match kind {
            libc::F_RDLCK => Locking::Shared,
            libc::F_WRLCK => Locking::Exclusive,
            _ => Locking::Unlock,
        },
    }
}

/// Answers with an entry or an error.
fn entry(inner: &Inner, reply: ReplyEntry, done: Result<super::work::Entry, Fault>) {
    let options = &inner.share.config().options;
    match done {
        Ok((node, attributes)) => {
            inner.nodes().tell(node, &attributes);
            reply.entry(
                &ttl(options),
                &shown(options, node, &attributes),
                Generation(0),
            );
        }
        Err(fault) => reply.error(errno(&fault)),
    }
}

fn attributes(inner: &Inner, node: u64, reply: ReplyAttr, done: Result<Attributes, Fault>) {
    let options = &inner.share.config().options;
    match done {
        Ok(attributes) => {
            inner.nodes().tell(node, &attributes);
            reply.attr(&ttl(options), &shown(options, node, &attributes));
        }
        Err(fault) => reply.error(errno(&fault)),
    }
}

/// Whether the kernel keeps what it reads while a file is open. What is only written need not be
/// copied to where reads are kept.
fn kept(inner: &Inner, flags: i32) -> FopenFlags {
    let writes = flags & libc::O_ACCMODE == libc::O_WRONLY && inner.writes_directly();
    match inner.share.config().options.cache {
        Cache::Strict | Cache::Through if !writes => FopenFlags::empty(),
        _ => FopenFlags::FOPEN_DIRECT_IO,
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Fault>) {
    match done {
        Ok(()) => reply.ok(),
        Err(fault) => reply.error(errno(&fault)),
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            // Always: a server tells the attributes with the names.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            // What a kernel does not have is done without.
            let _ = config.add_capabilities(wanted);
        }
        // Kernels that have it also drop what they kept where something is written past it.
        if config
            .capabilities()
            .contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
        {
            self.inner.write_directly();
        }
        // An ordinary user's mount is never idmapped, and with it the kernel tells no user's number,
        // which the session wants to see there.
        if rustix::process::geteuid().is_root() {
            let _ = config.add_capabilities(InitFlags::FUSE_ALLOW_IDMAP);
        }
        let _ = config.set_max_write(PIECE);
        let _ = config
            .set_max_readahead(u32::MAX)
            .or_else(|most| config.set_max_readahead(most));
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.spawn(request, |inner| async move {
            let done = inner.lookup(parent.0, &name).await;
            entry(&inner, reply, done);
        });
    }

    fn forget(&self, _: &Request, node: INodeNo, times: u64) {
        self.inner.nodes().forget(node.0, times);
    }

    fn getattr(&self, request: &Request, node: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.spawn(request, |inner| async move {
            let done = inner.getattr(node.0, fh.map(|h| h.0)).await;
            attributes(&inner, node.0, reply, done);
        });
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        written: Option<TimeOrNow>,
        _: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Owners are those of the mount, as in ACI: a change of them is accepted and has no effect.
        let changes = Changes {
            mode,
            size,
            accessed: accessed.map(moment),
            written: written.map(moment),
        };
        self.spawn(request, |inner| async move {
            let done = inner.setattr(node.0, fh.map(|h| h.0), changes).await;
            attributes(&inner, node.0, reply, done);
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        // Devices, pipes and sockets have no place on a share.
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::EPERM);
        }
        let name = name.to_owned();
        self.spawn(request, |inner| async move {
            let done = inner.mknod(parent.0, &name).await;
            entry(&inner, reply, done);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.spawn(request, |inner| async move {
            let done = inner.mkdir(parent.0, &name).await;
            entry(&inner, reply, done);
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.spawn(request, |inner| async move {
            empty(reply, inner.remove(parent.0, &name, Kind::File).await);
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.spawn(request, |inner| async move {
            empty(reply, inner.remove(parent.0, &name, Kind::Directory).await);
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        let (name, target) = (name.to_owned(), target.as_os_str().to_owned());
        self.spawn(request, |inner| async move {
            let done = inner.symlink(parent.0, &name, &target).await;
            entry(&inner, reply, done);
        });
    }

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        self.spawn(request, |inner| async move {
            match inner.readlink(node.0).await {
                Ok(target) => reply.data(&target),
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (name, to_name) = (name.to_owned(), to_name.to_owned());
        self.spawn(request, |inner| async move {
            let (from, to) = (
                (parent.0, name.as_os_str()),
                (to_parent.0, to_name.as_os_str()),
            );
            empty(reply, inner.rename(from, to, replace).await);
        });
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.spawn(request, |inner| async move {
            match inner.open(node.0, flags.0).await {
                // What was read before is dropped: close-to-open.
                Ok(handle) => reply.opened(FileHandle(handle), kept(&inner, flags.0)),
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_owned();
        self.spawn(request, |inner| async move {
            let options = &inner.share.config().options;
            match inner.create(parent.0, &name, flags).await {
                Ok(((node, attributes), handle)) => {
                    inner.nodes().tell(node, &attributes);
                    reply.created(
                        &ttl(options),
                        &shown(options, node, &attributes),
                        Generation(0),
                        FileHandle(handle),
                        kept(&inner, flags),
                    );
                }
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.spawn(request, |inner| async move {
            match inner.read(fh.0, offset, size).await {
                Ok(data) => reply.data(&data),
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        // The kernel tells what becomes of a mapped page by what this answers, not by the descriptor.
        let wait = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        self.spawn(request, move |inner| async move {
            match inner.write(fh.0, offset, data, wait).await {
                Ok(written) => reply.written(written),
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    /// A close says what became of the writes that were answered before the server had them; the
    /// locks of the process go, as POSIX has it.
    fn flush(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.spawn(request, |inner| async move {
            let written = inner.flush(fh.0).await;
            let unlocked = inner.unlock_all(node.0, owner.0, fh.0).await;
            empty(reply, written.and(unlocked));
        });
    }

    fn release(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.spawn(request, |inner| async move {
            inner.release(fh.0).await;
            reply.ok();
        });
    }

    fn fsync(&self, request: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.spawn(request, |inner| async move {
            empty(reply, inner.fsync(fh.0).await);
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        reply.opened(FileHandle(id), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.spawn(request, |inner| async move {
            let entries = match inner.listing(node.0, fh.0, offset).await {
                Ok(entries) => entries,
                Err(fault) => return reply.error(errno(&fault)),
            };
            for at in offset..entries.len() as u64 + 2 {
                // Numbers of nodes are given by lookups; a listing's are only shown.
                let full = match at {
                    0 => reply.add(node, 1, FileType::Directory, "."),
                    1 => reply.add(node, 2, FileType::Directory, ".."),
                    _ => {
                        let entry = &entries[usize::try_from(at - 2).unwrap_or(0)];
                        let name = names::from_server(&entry.name).unwrap_or_default();
                        let number = entry.number.filter(|n| *n != 0).unwrap_or(u64::MAX);
                        reply.add(INodeNo(number), at + 1, kind(&entry.attributes), &*name)
                    }
                };
                if full {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.spawn(request, |inner| async move {
            let entries = match inner.listing(node.0, fh.0, offset).await {
                Ok(entries) => entries,
                Err(fault) => return reply.error(errno(&fault)),
            };
            let options = &inner.share.config().options;
            let ttl = ttl(options);
            for at in offset..entries.len() as u64 + 2 {
                let full = if at < 2 {
                    let here = FileAttr {
                        kind: FileType::Directory,
                        ..shown(options, node.0, &NOTHING)
                    };
                    let name = if at == 0 { "." } else { ".." };
                    reply.add(node, at + 1, name, &ttl, &here, Generation(0))
                } else {
                    let entry = &entries[usize::try_from(at - 2).unwrap_or(0)];
                    let name = names::from_server(&entry.name).unwrap_or_default();
                    let id = {
                        let mut nodes = inner.nodes();
                        let id = nodes.find(node.0, &entry.name);
                        nodes.tell(id, &entry.attributes);
                        id
                    };
                    let shown = shown(options, id, &entry.attributes);
                    let full = reply.add(INodeNo(id), at + 1, &*name, &ttl, &shown, Generation(0));
                    if full {
                        // The kernel was not told of it.
                        inner.nodes().forget(id, 1);
                    }
                    full
                };
                if full {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        locked(&self.inner.listings).remove(&fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.spawn(request, |inner| async move {
            match inner.room().await {
                Ok(room) => {
                    let unit = u32::try_from(room.unit).unwrap_or(4096).max(512);
                    reply.statfs(room.total, room.free, room.free, 0, 0, unit, 255, unit);
                }
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    fn getlk(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        let claim = claim(node, fh, owner, (start, end), kind);
        self.spawn(request, |inner| async move {
            match inner.blocked(claim).await {
                Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
                Ok(Some(held)) => {
                    let kind = if held.exclusive {
                        libc::F_WRLCK
                    } else {
                        libc::F_RDLCK
                    };
                    reply.locked(held.range.start, held.range.end, kind, 0);
                }
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    fn setlk(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let claim = claim(node, fh, owner, (start, end), kind);
        let wait = sleep.then(|| request.pid());
        self.spawn(request, |inner| async move {
            empty(reply, inner.lock(claim, wait).await);
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // Holes cannot be made; room can be had.
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.spawn(request, |inner| async move {
            let end = offset.saturating_add(length);
            empty(reply, inner.allocate(fh.0, end).await);
        });
    }
}

const NOTHING: Attributes = Attributes {
    bits: smb2::types::flags::FileAttributes::DIRECTORY,
    ..Attributes::UNKNOWN
};

impl Inner {
    /// A directory's names, read anew at its beginning and kept for the rest of the reading.
    async fn listing(
        &self,
        node: u64,
        handle: u64,
        offset: u64,
    ) -> Result<Arc<Vec<Listed>>, Fault> {
        let kept = locked(&self.listings).get(&handle).cloned();
        if let Some(kept) = kept.filter(|_| offset > 0) {
            return Ok(kept);
        }
        let entries = Arc::new(self.list(node).await?);
        locked(&self.listings).insert(handle, Arc::clone(&entries));
        Ok(entries)
    }
}
