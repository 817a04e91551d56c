//! Layers as EROFS images: one file a layer, written while the archive streams by.
//!
//! Making a file costs a file system some 10 to 80 µs; here it costs a copy in memory. The content
//! of files goes straight to its place in the image. What stays in memory until the end is the tree
//! of names (some 130 bytes for each), which [`UnpackLimits::memory_bytes`] bounds, because
//! later entries may replace earlier ones and directories are written sorted.
//!
//! The image depends on the archive and on nothing else: no time, no random number, no order of a
//! hash table goes into it, so one layer gives the same bytes everywhere.

mod format;
mod mount;
mod output;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;

use super::directory::OPAQUE_TRUSTED;
use super::fault::{Fault, shown};
use super::limits::UnpackLimits;
use super::tar::{Entry, Kind};
use super::target::{Found, Target, What};
use format::{BLOCK, FileKind, INODE, Inode, NOWHERE, ROOT, SLOT};
use output::{Output, failed};

#[cfg(test)]
pub(crate) use mount::mount;
pub(crate) use mount::probe;

/// The end of a file's content is put beside its inode up to this size; above it, a block of its
/// own wastes less than a half-filled block of inodes.
const MAX_TAIL: usize = BLOCK / 2;

/// A directory, by its place in [`ErofsTree::dirs`].
type Index = usize;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Directory(Index),
    /// An inode that is written already, by its offset.
    Written(FileKind, u64),
}

#[derive(Debug)]
struct Directory {
    children: BTreeMap<Box<[u8]>, Child>,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    opaque: bool,
}

impl Directory {
    /// It holds itself and its parent from the start, since they are sorted among its names.
    fn new(own: Index, parent: Index) -> Self {
        let dots = [(&b"."[..], own), (&b".."[..], parent)];
        Self {
            children: dots
                .map(|(name, index)| (name.into(), Child::Directory(index)))
                .into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
            opaque: false,
        }
    }

    /// The attributes with overlayfs' own.
    fn attributes(&self) -> Option<Vec<u8>> {
        let own = self
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        let opaque = self
            .opaque
            .then_some((OPAQUE_TRUSTED.as_bytes(), &b"y"[..]));
        format::xattrs(own.chain(opaque))
    }
}

/// Where the parts of a directory go.
#[derive(Debug)]
struct Plan {
    index: Index,
    inode: u64,
    attributes: Vec<u8>,
    /// How many names go into each of its blocks.
    blocks: Vec<usize>,
    /// Bytes of the last block, and whether it follows the inode.
    tail: usize,
    inline: bool,
    /// Where its blocks begin, if it has any.
    place: u64,
}

impl Plan {
    /// Blocks that are not beside the inode.
    fn outside(&self) -> usize {
        self.blocks.len() - usize::from(self.inline)
    }

    fn size(&self) -> u64 {
        ((self.blocks.len() - 1) * BLOCK + self.tail) as u64
    }
}

/// Gives out room for inodes in blocks, none of which lies across two if it fits into one.
#[derive(Clone, Copy, Debug)]
struct Slots {
    next: u64,
    /// The end of the block.
    end: u64,
}

impl Slots {
    /// The place for so many bytes; `fresh` is where a new block would begin. Also how many blocks
    /// that takes.
    fn take(&mut self, bytes: usize, fresh: u64) -> (u64, u64) {
        let bytes = (bytes as u64).next_multiple_of(SLOT);
        if self.next + bytes <= self.end {
            self.next += bytes;
            return (self.next - bytes, 0);
        }
        let blocks = bytes.div_ceil(BLOCK as u64);
        (self.next, self.end) = (fresh + bytes, fresh + blocks * BLOCK as u64);
        (fresh, blocks)
    }
}

/// An image that is being written.
#[derive(Debug)]
pub(super) struct ErofsTree {
    out: Output,
    /// For corrections behind the end.
    file: File,
    slots: Slots,
    dirs: Vec<Directory>,
    /// Targets of symbolic links, by the inode's offset.
    links: HashMap<u64, Box<[u8]>>,
    /// Inodes that were given another name.
    linked: HashMap<u64, u32>,
    inodes: u32,
    uuid: [u8; 16],
    memory: u64,
    max_memory: u64,
}

impl ErofsTree {
    /// Over an empty file, which is to be open for reading and writing. `uuid` is the file
    /// system's.
    pub(super) fn new(file: File, uuid: [u8; 16], limits: &UnpackLimits) -> Result<Self, Fault> {
        let again = file.try_clone().map_err(|e| failed(b"", e))?;
        let mut out = Output::new(file);
        // The first block is the superblock's and the root's.
        out.fill_up_to(BLOCK as u64).map_err(|e| failed(b"", e))?;
        Ok(Self {
            out,
            file: again,
            slots: Slots { next: 0, end: 0 },
            dirs: vec![Directory::new(0, 0)],
            links: HashMap::new(),
            linked: HashMap::new(),
            inodes: 0,
            uuid,
            memory: 0,
            max_memory: limits.memory_bytes,
        })
    }

    /// Counts what has to stay in memory.
    fn keep(&mut self, bytes: usize) -> Result<(), Fault> {
        // A name costs two boxes, its part of a node, and what the allocator adds.
        self.memory += bytes as u64 + 112;
        if self.memory > self.max_memory {
            return Err(Fault::Refused(format!(
                "its names need more than {} bytes of memory",
                self.max_memory
            )));
        }
        Ok(())
    }

    fn insert(&mut self, dir: Index, name: &[u8], child: Child) -> Result<(), Fault> {
        self.keep(name.len())?;
        self.dirs[dir].children.insert(name.into(), child);
        Ok(())
    }

    fn next_number(&mut self) -> u32 {
        self.inodes += 1;
        self.inodes
    }

    /// Writes an inode, its attributes and the end of its content; where it is.
    fn put(
        &mut self,
        inode: &Inode,
        attributes: &[u8],
        tail: &[u8],
        path: &[u8],
    ) -> Result<u64, Fault> {
        let mut bytes = Vec::with_capacity(INODE + attributes.len() + tail.len());
        inode.write(attributes, &mut bytes);
        bytes.extend(tail);
        let fresh = self.out.position();
        let (offset, blocks) = self.slots.take(bytes.len(), fresh);
        self.out
            .fill_up_to(fresh + blocks * BLOCK as u64)
            .and_then(|()| self.out.correct(offset, &bytes))
            .map_err(|e| failed(path, e))?;
        Ok(offset)
    }

    /// Writes a file or link and its inode; where the inode is.
    fn content(
        &mut self,
        kind: FileKind,
        entry: &Entry,
        size: u64,
        data: &mut dyn Read,
    ) -> Result<u64, Fault> {
        let path = &entry.path;
        let attributes = attributes_of(entry)?;
        let tail = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        let most = if size < BLOCK as u64 && kind == FileKind::SymbolicLink {
            BLOCK
        } else {
            MAX_TAIL
        };
        let inline = tail > 0 && tail <= most && INODE + attributes.len() + tail <= BLOCK;
        let place = self.out.position();
        let outside = if inline { size - tail as u64 } else { size };
        self.out.append_from(data, outside, path)?;
        self.out.fill_block().map_err(|e| failed(path, e))?;
        let mut rest = vec![0; if inline { tail } else { 0 }];
        let mut have = 0;
        while have < rest.len() {
            match super::target::read_some(data, &mut rest[have..])? {
                0 => return Err(Fault::cut_off(path)),
                n => have += n,
            }
        }
        let inode = Inode {
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            size,
            place: if outside > 0 { block(place)? } else { NOWHERE },
            inline,
            links: 1,
            number: self.next_number(),
        };
        self.put(&inode, &attributes, &rest, path)
    }

    /// Every directory that can be reached, parents first; and counts the links of files.
    fn reached(&mut self) -> Vec<Index> {
        for count in self.linked.values_mut() {
            *count = 0;
        }
        let mut all = Vec::new();
        let mut todo = vec![0];
        while let Some(index) = todo.pop() {
            all.push(index);
            for (name, child) in self.dirs[index].children.iter().rev() {
                match child {
                    Child::Directory(_) if matches!(&**name, b"." | b"..") => {}
                    Child::Directory(below) => todo.push(*below),
                    Child::Written(_, offset) => {
                        if let Some(count) = self.linked.get_mut(offset) {
                            *count += 1;
                        }
                    }
                }
            }
        }
        all
    }

    /// Decides where directories go: all inodes, then all blocks.
    fn plan(&mut self) -> Result<Vec<Plan>, Fault> {
        let mut plans = Vec::new();
        let mut end = self.out.position();
        for index in self.reached() {
            let dir = &self.dirs[index];
            let attributes = dir.attributes().ok_or_else(|| too_many(b"directory"))?;
            let lengths = dir.children.keys().map(|name| name.len());
            let (blocks, tail) = format::blocks_of_directory(lengths);
            let room = if index == 0 { format::ROOT_ROOM } else { BLOCK };
            let head = INODE + attributes.len();
            let inline = head + tail <= room;
            if index == 0 && head > room {
                return Err(too_many(b"/"));
            }
            let (inode, more) = if index == 0 {
                (ROOT, 0)
            } else {
                let bytes = head + if inline { tail } else { 0 };
                self.slots.take(bytes, end)
            };
            end += more * BLOCK as u64;
            plans.push(Plan {
                index,
                inode,
                attributes,
                blocks,
                tail,
                inline,
                place: 0,
            });
        }
        for plan in &mut plans {
            plan.place = end;
            end += (plan.outside() * BLOCK) as u64;
        }
        Ok(plans)
    }

    /// The blocks of a directory one by one.
    fn write_blocks(
        &self,
        plan: &Plan,
        numbers: &HashMap<Index, u64>,
        mut hear: impl FnMut(usize, &[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut names = self.dirs[plan.index].children.iter();
        let mut bytes = Vec::with_capacity(BLOCK);
        for (at, count) in plan.blocks.iter().enumerate() {
            let entries: Vec<_> = names
                .by_ref()
                .take(*count)
                .map(|(name, child)| match child {
                    Child::Directory(index) => (
                        &**name,
                        numbers.get(index).copied().unwrap_or_default(),
                        FileKind::Directory,
                    ),
                    Child::Written(kind, offset) => (&**name, format::number_of(*offset), *kind),
                })
                .collect();
            bytes.clear();
            format::write_dirents(&entries, &mut bytes);
            hear(at, &bytes)?;
        }
        Ok(())
    }

    fn write_directories(&mut self, plans: &[Plan]) -> Result<(), Fault> {
        let broken = |e| failed(b"/", e);
        let numbers: HashMap<Index, u64> = plans
            .iter()
            .map(|plan| (plan.index, format::number_of(plan.inode)))
            .collect();
        for plan in plans {
            let dir = &self.dirs[plan.index];
            let below = dir
                .children
                .values()
                .filter(|child| matches!(child, Child::Directory(_)))
                .count();
            let inode = Inode {
                kind: FileKind::Directory,
                mode: dir.mode,
                uid: dir.uid,
                gid: dir.gid,
                mtime: dir.mtime,
                size: plan.size(),
                place: if plan.outside() > 0 {
                    block(plan.place)?
                } else {
                    NOWHERE
                },
                inline: plan.inline,
                // Each directory below it counts, as do its own two names.
                links: u32::try_from(below).unwrap_or(u32::MAX),
                number: self.next_number(),
            };
            let mut bytes = Vec::new();
            inode.write(&plan.attributes, &mut bytes);
            if plan.inline {
                let last = plan.blocks.len() - 1;
                self.write_blocks(plan, &numbers, |at, block| {
                    if at == last {
                        bytes.extend(block);
                    }
                    Ok(())
                })
                .map_err(broken)?;
            }
            if plan.inode + bytes.len() as u64 > self.out.position() {
                self.out
                    .fill_up_to((plan.inode + bytes.len() as u64).next_multiple_of(BLOCK as u64))
                    .map_err(broken)?;
            }
            self.out.correct(plan.inode, &bytes).map_err(broken)?;
        }
        for plan in plans.iter().filter(|plan| plan.outside() > 0) {
            self.out.fill_up_to(plan.place).map_err(broken)?;
            let mut blocks = Vec::new();
            self.write_blocks(plan, &numbers, |at, bytes| {
                if at < plan.outside() {
                    blocks.extend(bytes);
                    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
                }
                Ok(())
            })
            .map_err(broken)?;
            self.out.append(&blocks).map_err(broken)?;
        }
        Ok(())
    }
}

impl Target for ErofsTree {
    type Dir = Index;

    fn root(&self) -> Result<Index, Fault> {
        Ok(0)
    }

    fn again(&self, dir: &Index) -> Result<Index, Fault> {
        Ok(*dir)
    }

    fn beneath(&self, parts: &[&[u8]]) -> Result<Option<Index>, Fault> {
        let mut at = 0;
        for part in parts {
            match self.dirs[at].children.get(*part) {
                Some(Child::Directory(below)) => at = *below,
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn look(&self, dir: &Index, name: &[u8], _: &[u8]) -> Result<Option<Found>, Fault> {
        let child = self.dirs[*dir].children.get(name);
        Ok(child.map(|child| match child {
            // Offsets of inodes are multiples, so this is none of them.
            Child::Directory(index) => Found {
                what: What::Directory,
                inode: *index as u64 * SLOT + 1,
            },
            Child::Written(kind, offset) => Found {
                what: match kind {
                    FileKind::SymbolicLink => What::SymbolicLink,
                    FileKind::Whiteout => What::Whiteout,
                    _ => What::Other,
                },
                inode: *offset,
            },
        }))
    }

    fn enter(&self, dir: &Index, name: &[u8], path: &[u8]) -> Result<Index, Fault> {
        match self.dirs[*dir].children.get(name) {
            Some(Child::Directory(index)) => Ok(*index),
            _ => Err(lost(path)),
        }
    }

    fn read_link(&self, dir: &Index, name: &[u8], path: &[u8]) -> Result<Vec<u8>, Fault> {
        match self.dirs[*dir].children.get(name) {
            Some(Child::Written(_, offset)) => self.links.get(offset).map(|to| to.to_vec()),
            _ => None,
        }
        .ok_or_else(|| lost(path))
    }

    /// What was below it stays in memory: a hard link may still lead there.
    fn remove(&mut self, dir: &Index, name: &[u8], _: &[u8]) -> Result<(), Fault> {
        self.dirs[*dir].children.remove(name);
        Ok(())
    }

    fn make_dir(&mut self, dir: &Index, name: &[u8], _: &[u8]) -> Result<Index, Fault> {
        let index = self.dirs.len();
        self.keep(2 * size_of::<Directory>())?;
        self.dirs.push(Directory::new(index, *dir));
        self.insert(*dir, name, Child::Directory(index))?;
        Ok(index)
    }

    fn make(
        &mut self,
        dir: &Index,
        name: &[u8],
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<u64, Fault> {
        let (kind, offset) = match entry.kind {
            Kind::File => {
                let kind = FileKind::File;
                (kind, self.content(kind, entry, entry.size, data)?)
            }
            Kind::SymbolicLink => {
                self.keep(entry.link.len())?;
                let kind = FileKind::SymbolicLink;
                let size = entry.link.len() as u64;
                // Links have no permissions of their own; Linux says 0777.
                let plain = Entry {
                    mode: 0o777,
                    ..entry.clone()
                };
                let offset = self.content(kind, &plain, size, &mut &entry.link[..])?;
                self.links.insert(offset, entry.link[..].into());
                (kind, offset)
            }
            Kind::Fifo => {
                let kind = FileKind::Fifo;
                (kind, self.content(kind, entry, 0, data)?)
            }
            Kind::Directory | Kind::HardLink | Kind::Device => return Ok(0),
        };
        self.insert(*dir, name, Child::Written(kind, offset))?;
        Ok(0)
    }

    fn make_whiteout(&mut self, dir: &Index, name: &[u8], path: &[u8]) -> Result<(), Fault> {
        let inode = Inode {
            kind: FileKind::Whiteout,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            place: 0,
            inline: false,
            links: 1,
            number: self.next_number(),
        };
        let offset = self.put(&inode, &[], &[], path)?;
        self.insert(*dir, name, Child::Written(FileKind::Whiteout, offset))
    }

    fn link(
        &mut self,
        (from, from_name): (&Index, &[u8]),
        (to, to_name): (&Index, &[u8]),
        path: &[u8],
    ) -> Result<(), Fault> {
        let child = self.dirs[*from].children.get(from_name).copied();
        let Some(child @ Child::Written(_, offset)) = child else {
            return Err(lost(path));
        };
        self.linked.insert(offset, 0);
        self.insert(*to, to_name, child)
    }

    fn hide_below(&mut self, dir: &Index, _: &[u8]) -> Result<(), Fault> {
        self.dirs[*dir].opaque = true;
        Ok(())
    }

    fn dress(&mut self, dir: &Index, entry: &Entry) -> Result<u64, Fault> {
        let attributes = attributes_of(entry)?;
        if !attributes.is_empty() {
            self.keep(attributes.len())?;
        }
        let dir = &mut self.dirs[*dir];
        (dir.mode, dir.uid, dir.gid) = (entry.mode, entry.uid, entry.gid);
        dir.mtime = entry.mtime;
        for (name, value) in &entry.xattrs {
            dir.xattrs.retain(|(other, _)| other != name);
            dir.xattrs.push((name.clone(), value.clone()));
        }
        Ok(0)
    }

    fn finish(mut self) -> Result<(), Fault> {
        let broken = |e| failed(b"/", e);
        let plans = self.plan()?;
        self.write_directories(&plans)?;
        self.out.fill_block().map_err(broken)?;
        let (blocks, inodes) = (block(self.out.position())?, u64::from(self.inodes));
        let (at, bytes) = format::superblock(inodes, blocks, self.uuid);
        self.out.correct(at, &bytes).map_err(broken)?;
        self.out.finish().map_err(broken)?;
        for (offset, count) in self.linked {
            self.file
                .write_all_at(&count.to_le_bytes(), offset + format::LINKS)
                .map_err(broken)?;
        }
        Ok(())
    }
}

/// Owner and permissions of the root of an image, for who puts a directory over it.
pub(crate) fn root_owner_and_mode(image: &File) -> std::io::Result<(u32, u32, u32)> {
    let mut inode = [0; INODE];
    image.read_exact_at(&mut inode, ROOT)?;
    Ok(format::owner_and_mode(&inode))
}

fn attributes_of(entry: &Entry) -> Result<Vec<u8>, Fault> {
    let all = entry
        .xattrs
        .iter()
        .map(|(name, value)| (&name[..], &value[..]));
    format::xattrs(all).ok_or_else(|| too_many(&entry.path))
}

fn too_many(path: &[u8]) -> Fault {
    Fault::Refused(format!(
        "'{}' has more extended attributes than fit beside it",
        shown(path)
    ))
}

/// What was there a moment ago is not.
fn lost(path: &[u8]) -> Fault {
    failed(path, std::io::ErrorKind::NotFound.into())
}

/// The number of the block at an offset.
fn block(offset: u64) -> Result<u32, Fault> {
    u32::try_from(offset / BLOCK as u64)
        .map_err(|_| Fault::Refused("it is larger than an EROFS image can be".to_owned()))
}
