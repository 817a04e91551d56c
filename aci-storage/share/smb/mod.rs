//! SMB 3.1.1, as much of it as a mounted share needs, always encrypted.
//!
//! The messages, NTLM and the key derivation are those of the crate `smb2`. The connection is our
//! own: the crate's omits the capability that servers insist on which require encryption, knows no
//! leases, and acknowledges no break of an open that it did not make itself.

pub(crate) mod lease;
pub(crate) mod link;
pub(crate) mod login;
pub(crate) mod ops;
pub(crate) mod seal;
pub(crate) mod status;

pub(crate) use link::Link;
pub(crate) use status::Fault;
