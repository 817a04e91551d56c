//! What the driver and its share server say to one another.
//!
//! The driver hands the configuration over the server's standard input and reads one line from its
//! standard output; later requests go over a Unix socket, a line of JSON each way. So the key is in
//! no argument list, no environment and no file.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything a share server needs to know.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Where the share shows; an empty directory.
    pub(crate) mountpoint: PathBuf,
    /// The socket to answer on; its directory is private.
    pub(crate) control: PathBuf,
    /// Host and port of the server.
    pub(crate) host: String,
    /// TCP port of the server.
    pub(crate) port: u16,
    /// The share's name.
    pub(crate) share: String,
    /// The account's name.
    pub(crate) user: String,
    /// The account's key.
    pub(crate) password: Password,
    /// Nothing can be written.
    pub(crate) read_only: bool,
    /// How files are shown and kept.
    pub(crate) options: Options,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("share", &self.share)
            .field("user", &self.user)
            .field("read_only", &self.read_only)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A key. Its text never shows in `Debug` and is wiped when dropped.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Password(String);

#[allow(dead_code, reason = "the driver makes it, the share server reads it")]
impl Password {
    /// Takes a text.
    #[must_use]
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Password {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// How a mounted share behaves. The defaults are those of ACI's own mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    /// Owner of every file. ACI: 0.
    pub(crate) uid: u32,
    /// Group of every file. ACI: 0.
    pub(crate) gid: u32,
    /// Permissions of files. ACI: 0777.
    pub(crate) file_mode: u16,
    /// Permissions of directories. ACI: 0777.
    pub(crate) dir_mode: u16,
    /// Locks hold inside this mount only and are not asked of the server. ACI: false. It lets
    /// programs work that read through one descriptor what they locked through another.
    pub(crate) nobrl: bool,
    /// Symbolic links are kept as files that stand for them. ACI: false, there are none.
    pub(crate) mfsymlinks: bool,
    /// What may be kept here of contents.
    pub(crate) cache: Cache,
    /// How long attributes and names are believed without asking, in milliseconds. ACI: 1000.
    pub(crate) actimeo_ms: u64,
    /// How long a file operation waits for a server that is gone, in milliseconds; then it fails
    /// with `EHOSTDOWN`, and those after it at once, until the server is back.
    pub(crate) patience_ms: u64,
    /// How long a connection that has something to answer may be silent, in milliseconds.
    pub(crate) silence_ms: u64,
    /// How long connecting and logging in may take, in milliseconds.
    pub(crate) connect_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            file_mode: 0o777,
            dir_mode: 0o777,
            nobrl: false,
            mfsymlinks: false,
            cache: Cache::Strict,
            actimeo_ms: 1_000,
            patience_ms: 30_000,
            silence_ms: 10_000,
            connect_ms: 8_000,
        }
    }
}

/// What may be kept here of the contents of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cache {
    /// What is read, while a file is open; and what is written, while nobody else has it open.
    Strict,
    /// What is read.
    Through,
    /// Nothing.
    None,
}

/// The one line that a share server says when it stands, or why it does not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Started {
    /// The share is mounted, by this process.
    Mounted {
        /// Process id of the server.
        pid: u32,
    },
    /// It is not.
    Failed(Failure),
}

/// Why a share cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What kind of failure.
    pub(crate) cause: Cause,
    /// What happened, without secrets.
    pub(crate) message: String,
}

/// The kinds of failure that a user does something different about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// No answer, or the name has no address.
    Unreachable,
    /// The account or its key is wrong, or may not use the share.
    Denied,
    /// There is no such share.
    NoShare,
    /// The server does not encrypt, speaks no SMB 3.1.1, or took us for a guest.
    Insecure,
    /// The server answered what the protocol does not allow.
    Protocol,
    /// This machine cannot mount it: no FUSE, no permission.
    Host,
}

/// What a driver asks of a running share server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// How it stands.
    Status,
    /// How full the share is.
    Usage,
    /// Use this key from the next login on.
    Rotate(Password),
    /// Unmount and end.
    Stop,
}

/// What a running share server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// How it stands.
    Status(Status),
    /// How full the share is.
    Usage(Usage),
    /// It cannot be done now.
    Failed(Failure),
}

/// How full a share is, in bytes, as the server tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// What the share may hold: its quota, if the server has one for it.
    pub(crate) total: u64,
    /// What can still be written.
    pub(crate) free: u64,
}

/// How a mounted share stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Whether there is a connection right now.
    pub(crate) connected: bool,
    /// How often the connection was made.
    pub(crate) connections: u64,
    /// Why there is none, if there is none.
    pub(crate) failure: Option<Failure>,
    /// Files that are open now.
    pub(crate) open_files: u64,
    /// Bytes read from the server.
    pub(crate) bytes_read: u64,
    /// Bytes written to the server.
    pub(crate) bytes_written: u64,
}
