//! A terminal's outer end as an asynchronous stream, and the host's ends of pipes.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::pipe::PipeFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};

/// A pipe that the host reads and a process writes.
pub(crate) fn from_process() -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Receiver::from_owned_fd(read)?, write))
}

/// A pipe that the host writes and a process reads.
pub(crate) fn to_process() -> io::Result<(Sender, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Sender::from_owned_fd(write)?, read))
}

/// Reads a terminal. Its end, which the kernel reports as EIO, is the end of the stream.
pub(crate) struct TerminalReader(Receiver);

/// Writes to a terminal.
pub(crate) struct TerminalWriter(Sender);

/// Both directions of a terminal.
pub(crate) fn terminal(outer: OwnedFd) -> io::Result<(TerminalReader, TerminalWriter)> {
    rustix::io::ioctl_fionbio(&outer, true)?;
    let again = outer.try_clone()?;
    // Terminals are read and written like pipes; only their kind of file differs.
    Ok((
        TerminalReader(Receiver::from_owned_fd_unchecked(outer)?),
        TerminalWriter(Sender::from_owned_fd_unchecked(again)?),
    ))
}

impl AsyncRead for TerminalReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for TerminalWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
