//! `azureFile` volumes against Debian's Samba, and the share server's own parts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The share server's modules, so that its pure parts are tested here.
#[allow(
    dead_code,
    unused_imports,
    reason = "what runs only in the share server"
)]
#[path = "../../share/fs/mod.rs"]
mod fs;
#[allow(dead_code, reason = "what runs only in the share server")]
#[path = "../../share/smb/mod.rs"]
mod smb;
#[allow(dead_code, reason = "what runs only in the share server")]
#[path = "../../share/wire.rs"]
mod wire;

mod files;
mod kernel;
mod link;
mod model;
mod options;
mod posix;
mod pure;
mod recovery;
mod refused;
mod replaced;
mod samba;
mod secrets;
mod sharing;
