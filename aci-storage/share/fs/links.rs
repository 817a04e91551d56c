//! Symbolic links as files of 1067 bytes, as Minshall and French made them up and the kernel's cifs
//! (`mfsymlinks`) and macOS read them.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};
use smb2::msg::create::CreateDisposition;

use super::Inner;
use super::work::{Entry, READ};
use crate::smb::Fault;
use crate::smb::ops::{Attributes, Kind, Open};

/// How long such a file is.
pub(crate) const SIZE: u64 = 1067;
/// Where its parts begin.
const LENGTH: usize = 5;
const SUM: usize = 10;
const TARGET: usize = 43;
/// Longest target, in bytes.
const LONGEST: usize = 1024;

fn sum(target: &[u8]) -> String {
    let mut text = String::with_capacity(32);
    for byte in Md5::digest(target) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The file of a link; `None` if its target is too long or empty.
pub(crate) fn write(target: &[u8]) -> Option<Vec<u8>> {
    if target.is_empty() || target.len() > LONGEST {
        return None;
    }
    let mut file = format!("XSym\n{:04}\n{}\n", target.len(), sum(target)).into_bytes();
    file.extend_from_slice(target);
    if target.len() < LONGEST {
        file.push(b'\n');
    }
    file.resize(1067, b' ');
    Some(file)
}

/// The target of a link's file; `None` if it is an ordinary file.
pub(crate) fn read(file: &[u8]) -> Option<&[u8]> {
    if file.len() as u64 != SIZE || !file.starts_with(b"XSym\n") {
        return None;
    }
    let length = std::str::from_utf8(&file[LENGTH..SUM - 1]).ok()?;
    let length = length.parse().ok().filter(|l| (1..=LONGEST).contains(l))?;
    let target = &file[TARGET..TARGET + length];
    let told = &file[SUM..TARGET - 1];
    (told == sum(target).as_bytes() && !target.contains(&0)).then_some(target)
}

impl Inner {
    /// Whether a file may stand for a symbolic link, by what is known without reading it.
    pub(super) fn may_be_link(&self, attributes: &Attributes) -> bool {
        self.share.config().options.mfsymlinks
            && attributes.size == SIZE
            && !attributes.is_directory()
    }

    /// The attributes of the link that a file stands for, if it does.
    pub(super) async fn as_link(&self, path: &str, mut attributes: Attributes) -> Attributes {
        if self.may_be_link(&attributes)
            && let Ok(content) = self.content(path).await
        {
            let target = read(&content);
            attributes.link = target.and_then(|t| u16::try_from(t.len()).ok());
        }
        attributes
    }

    /// What stands in a file that may be a link.
    async fn content(&self, path: &str) -> Result<Bytes, Fault> {
        self.on_path(path, |link, path, _| async move {
            let open = Open {
                path: &path,
                access: READ,
                how: CreateDisposition::FileOpen,
                kind: Kind::File,
                durable: None,
            };
            let size = u32::try_from(SIZE).unwrap_or(0) + 1;
            let (opened, content) = link.open_and_read(&open, size).await?;
            link.close(opened.file).await?;
            content.ok_or(Fault::Errno(libc::EIO))
        })
        .await
    }

    pub(crate) async fn readlink(&self, node: u64) -> Result<Vec<u8>, Fault> {
        let content = self.content(&self.path(node)?).await?;
        let target = read(&content).ok_or(Fault::Errno(libc::EINVAL))?;
        Ok(target.to_vec())
    }

    pub(crate) async fn symlink(
        self: &Arc<Self>,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Entry, Fault> {
        if !self.share.config().options.mfsymlinks {
            return Err(Fault::Errno(libc::EOPNOTSUPP));
        }
        let content = write(target.as_bytes()).ok_or(Fault::Errno(libc::ENAMETOOLONG))?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_SYNC;
        let ((node, _), handle) = self.create(parent, name, flags).await?;
        let written = self.write(handle, 0, content.into(), true).await;
        self.release(handle).await;
        let path = self.path(node)?;
        let done = match written {
            Ok(_) => self.stat(&path).await,
            Err(fault) => Err(fault),
        };
        if done.is_err() {
            let _ = self.remove(parent, name, Kind::File).await;
            self.nodes().forget(node, 1);
        }
        Ok((node, done?))
    }
}
