//! The layer of an assembled image.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aci_core::error::Result;
use bytes::Bytes;

use super::OPERATION;
use crate::fail;

/// What is at a path of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Copy(PathBuf),
    Bytes(Bytes, u32),
    Link(String),
    Directory(u32),
}

/// What every image has unless it brings its own.
pub(super) fn skeleton() -> Vec<(PathBuf, Node)> {
    let directory = |path: &str, mode| (PathBuf::from(path), Node::Directory(mode));
    let file = |path: &str, text: &'static str| {
        (
            PathBuf::from(path),
            Node::Bytes(Bytes::from_static(text.as_bytes()), 0o644),
        )
    };
    vec![
        directory("/tmp", 0o1777),
        directory("/var/tmp", 0o1777),
        directory("/root", 0o700),
        directory("/proc", 0o755),
        directory("/sys", 0o755),
        directory("/dev", 0o755),
        directory("/run", 0o755),
        file(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
        ),
        file("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        file(
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
        ),
    ]
}

/// Writes the layer's archive: sorted, owned by root, dated 1970.
pub(super) fn write_layer(nodes: &BTreeMap<PathBuf, Node>, to: &mut impl Write) -> Result<()> {
    let mut archive = tar::Builder::new(to);
    for (path, node) in nodes {
        append(&mut archive, path, node).map_err(|e| {
            let from = match node {
                Node::Copy(host) => host,
                _ => path,
            };
            fail::io(OPERATION, "copy it", from, e)
        })?;
    }
    archive
        .finish()
        .map_err(|e| fail::io(OPERATION, "write the layer", Path::new("/"), e))
}

fn append<W: Write>(archive: &mut tar::Builder<W>, path: &Path, node: &Node) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let name = path.strip_prefix("/").unwrap_or(path);
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    match node {
        Node::Directory(mode) => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            let name = if name.as_os_str().is_empty() {
                Path::new("./")
            } else {
                name
            };
            archive.append_data(&mut header, name, io::empty())
        }
        Node::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, name, target)
        }
        Node::Bytes(content, mode) => {
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, &content[..])
        }
        Node::Copy(host) => {
            let mode = std::fs::metadata(host)?.permissions().mode();
            let content = std::fs::read(host)?;
            header.set_mode(if mode & 0o111 == 0 { 0o644 } else { 0o755 });
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, &content[..])
        }
    }
}
