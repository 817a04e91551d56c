//! What the keeper of a mount and its share server hand to one another: a message each time, with
//! descriptors, over a socket that is the server's standard input. So neither a key nor what is open
//! is in an argument list, an environment or a file.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::wire::{Config, Password};

/// No message is longer.
const LONGEST: usize = 128 << 10;
/// So many descriptors come with one at most.
const MOST: usize = 4;

/// To the server, once. With it come the two files of notes, and the device of a mount that stands.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) config: Config,
    /// How the kernel greeted the first server of the mount, for those after it.
    pub(crate) greeting: Option<Vec<u8>>,
}

/// To the keeper.
#[derive(Serialize, Deserialize)]
pub(crate) enum Word {
    /// The mount stands; its device comes with it. How the kernel greeted.
    Mounted(Vec<u8>),
    /// The account's key is another one now.
    Key(Password),
}

/// Two ends.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

pub(crate) fn send(
    to: impl AsFd,
    message: &impl Serialize,
    with: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = Zeroizing::new(serde_json::to_vec(message)?);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL;
    sendmsg(to, &[IoSlice::new(&text)], &mut control, flags)?;
    Ok(())
}

/// The next message; `None` when the other end is closed. Waits, or with `now` fails with
/// `WouldBlock`.
pub(crate) fn receive<T: DeserializeOwned>(
    from: impl AsFd,
    now: bool,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = Zeroizing::new(vec![0; LONGEST]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if now {
        flags |= RecvFlags::DONTWAIT;
    }
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(&from, &mut [IoSliceMut::new(&mut text)], &mut control, flags)
    })?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut with = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            with.extend(fds);
        }
    }
    let message = serde_json::from_slice(text.get(..got.bytes).unwrap_or_default())?;
    Ok(Some((message, with)))
}

/// A descriptor that comes with a byte, as `fusermount3` answers; `None` if none comes.
pub(crate) fn descriptor(from: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(&from, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}
