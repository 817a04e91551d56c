//! What a layer is written into.

use std::io::Read;

use super::fault::Fault;
use super::tar::Entry;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Directory,
    SymbolicLink,
    /// A deletion of ours.
    Whiteout,
    Other,
}

/// What is there under a name, and the number of its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) what: What,
    pub(super) inode: u64,
}

/// A tree that is being written. It holds no rules: names were checked, and what is in the way was
/// removed, before something is made. `path` is the name in the archive, for messages.
///
/// A directory is written with mode 0755, owner 0 (or this user) and time 0 unless it is dressed.
pub(super) trait Target {
    /// A directory of the tree; it stays usable when the directory is removed from its place.
    type Dir;

    /// The topmost directory.
    fn root(&self) -> Result<Self::Dir, Fault>;

    /// The same directory once more.
    fn again(&self, dir: &Self::Dir) -> Result<Self::Dir, Fault>;

    /// A directory that exists, found in one step, links of the tree followed. `None` if there is
    /// none, or if it takes a walk to find it.
    fn beneath(&self, parts: &[&[u8]]) -> Result<Option<Self::Dir>, Fault>;

    /// What is there under a name.
    fn look(&self, dir: &Self::Dir, name: &[u8], path: &[u8]) -> Result<Option<Found>, Fault>;

    /// Opens what [`Target::look`] called a directory.
    fn enter(&self, dir: &Self::Dir, name: &[u8], path: &[u8]) -> Result<Self::Dir, Fault>;

    /// Where a symbolic link points.
    fn read_link(&self, dir: &Self::Dir, name: &[u8], path: &[u8]) -> Result<Vec<u8>, Fault>;

    /// Takes a name away with all below it.
    fn remove(&mut self, dir: &Self::Dir, name: &[u8], path: &[u8]) -> Result<(), Fault>;

    /// Makes a directory.
    fn make_dir(&mut self, dir: &Self::Dir, name: &[u8], path: &[u8]) -> Result<Self::Dir, Fault>;

    /// Makes a file, symbolic link or FIFO, dressed; how many attributes it could not take.
    fn make(
        &mut self,
        dir: &Self::Dir,
        name: &[u8],
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<u64, Fault>;

    /// Makes a deletion.
    fn make_whiteout(&mut self, dir: &Self::Dir, name: &[u8], path: &[u8]) -> Result<(), Fault>;

    /// Gives what is no directory another name.
    fn link(
        &mut self,
        from: (&Self::Dir, &[u8]),
        to: (&Self::Dir, &[u8]),
        path: &[u8],
    ) -> Result<(), Fault>;

    /// Has a directory hide what is below it.
    fn hide_below(&mut self, dir: &Self::Dir, path: &[u8]) -> Result<(), Fault>;

    /// Sets owner, mode, time and attributes of a directory; how many attributes it could not take.
    fn dress(&mut self, dir: &Self::Dir, entry: &Entry) -> Result<u64, Fault>;

    /// Nothing more comes.
    fn finish(self) -> Result<(), Fault>;
}

/// Copies content; unlike `io::copy` it tells a reader's failure from a writer's.
pub(super) fn read_some(from: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, Fault> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.map_err(Fault::from_read),
        }
    }
}
