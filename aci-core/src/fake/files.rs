//! The files that a simulated container sees.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::lock;

/// A tree of files in memory; clones share it.
#[derive(Clone, Debug)]
pub(super) struct FileTree {
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
    /// Upper bound of all content in bytes.
    size: Option<u64>,
}

impl FileTree {
    pub(super) fn new(size: Option<u64>) -> Self {
        Self {
            files: Arc::default(),
            size,
        }
    }

    /// Writes a file without regard to any bound.
    pub(super) fn put(&self, path: &str, content: Bytes) {
        lock(&self.files).insert(path.trim_start_matches('/').to_owned(), content);
    }

    /// Takes other files in the place of all there are.
    pub(super) fn replace(&self, files: BTreeMap<String, Bytes>) {
        *lock(&self.files) = files;
    }

    pub(super) fn get(&self, path: &str) -> Option<Bytes> {
        lock(&self.files).get(path.trim_start_matches('/')).cloned()
    }

    fn write(&self, path: &str, content: Bytes) -> io::Result<()> {
        let mut files = lock(&self.files);
        let others: u64 = files
            .iter()
            .filter(|(name, _)| *name != path)
            .map(|(_, content)| content.len() as u64)
            .sum();
        if self
            .size
            .is_some_and(|size| others + content.len() as u64 > size)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        files.insert(path.to_owned(), content);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Mount {
    pub(super) path: String,
    pub(super) tree: FileTree,
    pub(super) read_only: bool,
}

/// A root and the mounts over it.
#[derive(Debug)]
pub(super) struct Files {
    /// The longest paths first, the root (`/`) last.
    mounts: Vec<Mount>,
}

impl Files {
    pub(super) fn new(root: FileTree, read_only: bool, mut mounts: Vec<Mount>) -> Self {
        mounts.push(Mount {
            path: "/".to_owned(),
            tree: root,
            read_only,
        });
        // Later mounts hide earlier ones of the same path, as mount(2) does: a stable sort of the
        // reversed list keeps them in front.
        mounts.reverse();
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        Self { mounts }
    }

    /// The mount that a path lies on, and the path below it.
    fn find(&self, path: &str) -> io::Result<(&Mount, String)> {
        let path = normal(path);
        for mount in &self.mounts {
            let below = match mount.path.as_str() {
                "/" => path.strip_prefix('/'),
                at => path
                    .strip_prefix(at)
                    .and_then(|rest| rest.strip_prefix('/')),
            };
            if let Some(below) = below {
                return Ok((mount, below.to_owned()));
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    pub(super) fn read(&self, path: &str) -> io::Result<Bytes> {
        let (mount, below) = self.find(path)?;
        mount
            .tree
            .get(&below)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn write(&self, path: &str, content: Bytes) -> io::Result<()> {
        let (mount, below) = self.find(path)?;
        if mount.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        mount.tree.write(&below, content)
    }

    pub(super) fn delete(&self, path: &str) -> io::Result<()> {
        let (mount, below) = self.find(path)?;
        if mount.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        lock(&mount.tree.files).remove(&below);
        Ok(())
    }
}

/// A path from the root on, without `.`, `..` and doubled slashes.
pub(super) fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
