//! Where accounts are served, and how their shares are mounted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::wire;

/// Host and port of a file server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileServer {
    /// Name or address.
    pub host: String,
    /// TCP port; SMB's own is 445.
    pub port: u16,
}

impl FileServer {
    /// A server on SMB's port.
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: 445,
        }
    }

    /// On another port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }
}

/// Who speaks SMB to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareDriver {
    /// A share server of this crate, a process for each mount, by FUSE. It takes a new key, comes
    /// back after any outage with its open files, and works on kernels without cifs.
    #[default]
    UserSpace,
    /// The kernel's cifs, where it has it, mounted by root; refused elsewhere. Outages are its
    /// affair: `patience` and `connect_timeout` only hold for mounting, `actimeo` is cut to seconds,
    /// [`status`](super::AzureFiles::status) has nothing to tell, and a key that was changed is
    /// taken by Linux 6.10 or later.
    ///
    /// Tried under Linux 6.1 in a virtual machine; the machines that this crate is tested on have no
    /// cifs. What differs there: a range that somebody else has locked gives `EACCES`, SQLite finds
    /// its database locked (`nobrl` is for that), what one group wrote another sees some time later, a
    /// full share is told at `close`, a name's case cannot be changed by renaming it, and some
    /// characters that the share server maps are refused in names.
    Kernel,
    /// The kernel's where it has cifs and this user may mount, else the share server.
    Automatic,
}

/// What may be kept on this side of the contents of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CachePolicy {
    /// What is read, while a file is open; and what is written, as cifs' `cache=strict`: a write may
    /// be answered while it is on its way (at most 16 MiB a mount), if the server grants that nobody
    /// else has the file open (a lease for writing, which is asked for after 256 KiB) and the share has
    /// 128 MiB to spare. Nothing
    /// waits to be sent but for what is on its way before it. `fsync`, `close`, locks and anybody
    /// else's opening wait until the server has it, and `fsync`, `close` or the next write report
    /// what it refused. A write to a mapped page, with `O_APPEND`, `O_DIRECT` or `O_SYNC` is answered
    /// when the server has it. Who only looks at a file's length from elsewhere sees the one that
    /// the server has. Who opens it there waits until this side has given the lease back; if it cannot,
    /// because it or its link has died, a server waits half a minute (Samba: 35 s). It is not
    /// asked for where bytes are locked.
    #[default]
    Strict,
    /// What is read. A write is answered when the server has it.
    Through,
    /// Nothing: each read asks the server, and a write is answered when the server has it.
    None,
}

/// How [`AzureFiles`](super::AzureFiles) finds and mounts shares. The defaults are ACI's.
#[derive(Clone, Debug, PartialEq)]
pub struct AzureFilesOptions {
    /// Servers of accounts by name; the others are at `<account>.<suffix>`, port 445.
    pub servers: BTreeMap<String, FileServer>,
    /// Where accounts are that `servers` does not name.
    pub suffix: String,
    /// Who speaks to the server.
    pub driver: ShareDriver,
    /// Owner of all files; ACI: 0.
    pub uid: u32,
    /// Group of all files; ACI: 0.
    pub gid: u32,
    /// Permissions of files; ACI: 0777.
    pub file_mode: u16,
    /// Permissions of directories; ACI: 0777.
    pub dir_mode: u16,
    /// Locks of byte ranges hold among the containers of the group only and are not asked of the
    /// server, as cifs' option of this name; ACI: off. With it a program may read through one
    /// descriptor what it has locked through another; without it two groups may lock against one
    /// another.
    pub nobrl: bool,
    /// Symbolic links are kept on the server as small files that stand for them, as cifs' option of
    /// this name does; ACI: off, there are none. A link leads wherever its reader's names lead.
    pub mfsymlinks: bool,
    /// What may be kept here of the contents of files; ACI: strict.
    pub cache: CachePolicy,
    /// How long names and attributes are believed without asking the server; ACI: 1 s.
    pub actimeo: Duration,
    /// How long a file operation waits for a server that is gone before it fails with
    /// `EHOSTDOWN`: 30 s. Operations after it fail at once until the server is back.
    pub patience: Duration,
    /// How long connecting and logging in may take: 8 s.
    pub connect_timeout: Duration,
    /// How long a server may owe an answer and be silent before the connection is given up: 10 s.
    pub silence: Duration,
}

impl Default for AzureFilesOptions {
    fn default() -> Self {
        let own = wire::Options::default();
        Self {
            servers: BTreeMap::new(),
            suffix: "file.core.windows.net".to_owned(),
            driver: ShareDriver::default(),
            uid: own.uid,
            gid: own.gid,
            file_mode: own.file_mode,
            dir_mode: own.dir_mode,
            nobrl: own.nobrl,
            mfsymlinks: own.mfsymlinks,
            cache: CachePolicy::Strict,
            actimeo: Duration::from_millis(own.actimeo_ms),
            patience: Duration::from_millis(own.patience_ms),
            connect_timeout: Duration::from_millis(own.connect_ms),
            silence: Duration::from_millis(own.silence_ms),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl AzureFilesOptions {
    /// The server of an account.
    #[must_use]
    pub fn server(&self, account: &str) -> FileServer {
        self.servers
            .get(account)
            .cloned()
            .unwrap_or_else(|| FileServer::new(format!("{account}.{}", self.suffix)))
    }

    pub(super) fn wire(&self) -> wire::Options {
        wire::Options {
            uid: self.uid,
            gid: self.gid,
            file_mode: self.file_mode,
            dir_mode: self.dir_mode,
            nobrl: self.nobrl,
            mfsymlinks: self.mfsymlinks,
            cache: match self.cache {
                CachePolicy::Strict => wire::Cache::Strict,
                CachePolicy::Through => wire::Cache::Through,
                CachePolicy::None => wire::Cache::None,
            },
            actimeo_ms: milliseconds(self.actimeo),
            patience_ms: milliseconds(self.patience),
            silence_ms: milliseconds(self.silence),
            connect_ms: milliseconds(self.connect_timeout),
        }
    }
}
