//! The terminal between a caller's console socket and a process in a sandbox.
//!
//! The caller gets the outer end of a terminal of the host; what attends to the process copies
//! between its inner end, which passes everything through, and the terminal inside the sandbox.

use std::fs::File;
use std::io::{IoSlice, IsTerminal as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use aci_core::contract::TerminalSize;
use anyhow::{Context as _, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Winsize};

/// Makes a terminal, sends its outer end to the console socket and gives the inner end.
pub(crate) fn make(console: &Path, size: TerminalSize) -> Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let outer = rustix::pty::openpt(flags).context("making a terminal")?;
    rustix::pty::grantpt(&outer)?;
    rustix::pty::unlockpt(&outer)?;
    let name = rustix::pty::ptsname(&outer, Vec::new())?;
    let inner = rustix::fs::open(
        name.as_c_str(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let mut mode = rustix::termios::tcgetattr(&inner)?;
    mode.make_raw();
    rustix::termios::tcsetattr(&inner, OptionalActions::Now, &mode)?;
    rustix::termios::tcsetwinsize(
        &inner,
        Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?;
    let socket = UnixStream::connect(console)
        .with_context(|| format!("--console-socket {}", console.display()))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [outer.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        &socket,
        &[IoSlice::new(name.as_bytes())],
        &mut control,
        SendFlags::empty(),
    )
    .context("sending the terminal to the console socket")?;
    Ok(inner)
}

/// Makes the terminal that is this process's standard input its own, to hear of its size; whether
/// it is one.
pub(crate) fn own() -> bool {
    let stdin = std::io::stdin();
    stdin.is_terminal() && rustix::process::ioctl_tiocsctty(&stdin).is_ok()
}

/// The size of the terminal that is this process's standard input.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdin()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// Three descriptors of one terminal, for standard input, output and error.
pub(crate) fn three(inner: OwnedFd) -> Result<[File; 3]> {
    let inner = File::from(inner);
    Ok([inner.try_clone()?, inner.try_clone()?, inner])
}
