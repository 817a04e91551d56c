//! EROFS on disk, as far as it is written here (Linux, `fs/erofs/erofs_fs.h`; its documentation is
//! `Documentation/filesystems/erofs.rst`): uncompressed, extended inodes, attributes beside their
//! inode. Numbers are little-endian.

/// Bytes of a block.
pub(super) const BLOCK: usize = 4096;
/// Where the superblock is.
const SUPER: usize = 1024;
/// Where the root's inode is: behind the superblock, since its number has 16 bits only.
pub(super) const ROOT: u64 = 1152;
/// Its number.
const ROOT_NUMBER: u16 = 36;
/// How many bytes it may take.
pub(super) const ROOT_ROOM: usize = BLOCK - 1152;
/// Inodes lie at multiples of this; an inode's number says which.
pub(super) const SLOT: u64 = 32;
/// Bytes of an inode without attributes.
pub(super) const INODE: usize = 64;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT: usize = 12;
/// Where in an inode the number of its links is.
pub(super) const LINKS: u64 = 44;
/// Stands for the place of content that there is none of.
pub(super) const NOWHERE: u32 = u32::MAX;

const MAGIC: u32 = 0xE0F5_E1E2;
/// Times are those of last modification (`EROFS_FEATURE_COMPAT_MTIME`).
const MTIME: u32 = 2;
/// Attributes take at most so many bytes: their size is counted in 16 bits, by four.
const MAX_XATTRS: usize = 4 * 65_534 + 12;

/// What an inode is: the type bits of its mode, and the type in directory entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    File,
    Directory,
    /// Only ever the device 0/0, overlayfs' deletion.
    Whiteout,
    Fifo,
    SymbolicLink,
}

impl FileKind {
    const fn bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Whiteout => 0o020_000,
            Self::Fifo => 0o010_000,
            Self::SymbolicLink => 0o120_000,
        }
    }

    const fn dirent(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Whiteout => 3,
            Self::Fifo => 5,
            Self::SymbolicLink => 7,
        }
    }
}

/// An inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) kind: FileKind,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) size: u64,
    /// The block at which the content begins; the device's number.
    pub(super) place: u32,
    /// The end of the content follows the attributes.
    pub(super) inline: bool,
    pub(super) links: u32,
    /// What `stat` shows to 32-bit programs.
    pub(super) number: u32,
}

impl Inode {
    /// The inode and its attributes, as [`xattrs`] wrote them.
    pub(super) fn write(&self, attributes: &[u8], to: &mut Vec<u8>) {
        let layout: u16 = if self.inline { 2 } else { 0 };
        let count = match attributes.len() {
            0 => 0,
            n => (n - 12) / 4 + 1,
        };
        let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        to.extend((1 | layout << 1).to_le_bytes());
        to.extend(u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        to.extend(narrow(self.kind.bits() | self.mode & 0o7777).to_le_bytes());
        to.extend([0; 2]);
        to.extend(self.size.to_le_bytes());
        to.extend(self.place.to_le_bytes());
        to.extend(self.number.to_le_bytes());
        to.extend(self.uid.to_le_bytes());
        to.extend(self.gid.to_le_bytes());
        to.extend(self.mtime.0.to_le_bytes());
        to.extend(self.mtime.1.to_le_bytes());
        to.extend(self.links.to_le_bytes());
        to.extend([0; 16]);
        to.extend(attributes);
    }
}

/// Owner and permissions that an inode says.
pub(super) fn owner_and_mode(inode: &[u8; INODE]) -> (u32, u32, u32) {
    let at = |n: usize| u32::from_le_bytes([inode[n], inode[n + 1], inode[n + 2], inode[n + 3]]);
    let mode = u16::from_le_bytes([inode[4], inode[5]]);
    (at(24), at(28), u32::from(mode) & 0o7777)
}

/// Attributes as they follow an inode; nothing for none. `None` if they are too many or if one is
/// of a kind that is not written here.
pub(super) fn xattrs<'a>(all: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Vec<u8>> {
    const KINDS: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    let mut bytes = Vec::new();
    for (name, value) in all {
        if bytes.is_empty() {
            bytes.resize(12, 0); // no filter of names, none shared
        }
        let (kind, name) = KINDS
            .iter()
            .find_map(|(kind, prefix)| Some((*kind, name.strip_prefix(*prefix)?)))?;
        bytes.push(u8::try_from(name.len()).ok()?);
        bytes.push(kind);
        bytes.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        bytes.extend(name);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    (bytes.len() <= MAX_XATTRS).then_some(bytes)
}

/// How many entries go into each block, and the bytes of the last block.
pub(super) fn blocks_of_directory(names: impl Iterator<Item = usize>) -> (Vec<usize>, usize) {
    let (mut blocks, mut entries, mut used) = (Vec::new(), 0, 0);
    for length in names {
        if used + DIRENT + length > BLOCK {
            blocks.push(entries);
            (entries, used) = (0, 0);
        }
        entries += 1;
        used += DIRENT + length;
    }
    blocks.push(entries);
    (blocks, used)
}

/// Writes entries as one block of a directory, not filled up.
pub(super) fn write_dirents(entries: &[(&[u8], u64, FileKind)], to: &mut Vec<u8>) {
    let mut name_at = entries.len() * DIRENT;
    for (name, number, kind) in entries {
        to.extend(number.to_le_bytes());
        to.extend(u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
        to.extend([kind.dirent(), 0]);
        name_at += name.len();
    }
    for (name, ..) in entries {
        to.extend(*name);
    }
}

/// The superblock and its offset.
pub(super) fn superblock(inodes: u64, blocks: u32, uuid: [u8; 16]) -> (u64, [u8; 128]) {
    let mut bytes = [0; 128];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &MAGIC.to_le_bytes());
    put(8, &MTIME.to_le_bytes());
    put(12, &[12]); // the block's size, as a power of two
    put(14, &ROOT_NUMBER.to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(48, &uuid);
    (SUPER as u64, bytes)
}

/// The number of the inode at an offset.
pub(super) const fn number_of(offset: u64) -> u64 {
    offset / SLOT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_where_its_number_says() {
        assert_eq!(number_of(ROOT), u64::from(ROOT_NUMBER));
    }
}
