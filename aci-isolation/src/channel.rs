//! Conversations with an agent: one connection each.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aci_core::error::{Error, ErrorKind, Result};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::{Zeroize, Zeroizing};

use crate::protocol::{Failure, Kind, Reply, Request, frame, socket};

/// Where an agent listens and who it is.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// The sandbox's directory.
    pub(crate) directory: PathBuf,
    /// The agent's pid; a socket of anybody else is not spoken to.
    pub(crate) pid: i32,
    /// The way to an agent in a guest; directory and pid are then those of what keeps the guest.
    #[cfg(feature = "microvm")]
    pub(crate) line: Option<std::sync::Arc<crate::microvm::Line>>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    decoder: Buffered,
    fds: VecDeque<OwnedFd>,
}

/// A decoder without a revealing `Debug`.
#[derive(Default)]
struct Buffered(frame::Decoder);

impl std::fmt::Debug for Buffered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

fn lost(directory: &Path, source: io::Error) -> Error {
    let id = directory.file_name().unwrap_or_default().to_string_lossy();
    Error::new(
        ErrorKind::Lost,
        "sandbox.call",
        "the sandbox's agent is gone",
    )
    .on(id)
    .because(source)
}

/// An agent's failure as an error of an operation.
pub(crate) fn error_of(failure: Failure, operation: &'static str) -> Error {
    let kind = match failure.kind {
        Kind::Invalid => ErrorKind::Invalid,
        Kind::NotFound => ErrorKind::NotFound,
        Kind::Conflict => ErrorKind::Conflict,
        Kind::Unsupported | Kind::Unmappable => ErrorKind::Unsupported,
        Kind::PermissionDenied => ErrorKind::PermissionDenied,
        Kind::Unavailable => ErrorKind::Unavailable,
        Kind::Internal => ErrorKind::Internal,
    };
    let mut error = Error::new(kind, operation, failure.message);
    if let Some(code) = failure.exit_code {
        error = error.exit_code(code);
    }
    match failure.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The error for an answer that does not fit the question.
pub(crate) fn unexpected(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Internal,
        operation,
        "the agent's answer does not fit the question",
    )
}

impl Address {
    /// Of an agent on this machine.
    pub(crate) const fn here(directory: PathBuf, pid: i32) -> Self {
        Self {
            directory,
            pid,
            #[cfg(feature = "microvm")]
            line: None,
        }
    }

    /// Whether the agent is on this machine, and not in a guest.
    pub(crate) const fn is_here(&self) -> bool {
        #[cfg(feature = "microvm")]
        {
            self.line.is_none()
        }
        #[cfg(not(feature = "microvm"))]
        {
            true
        }
    }

    /// Connects. Fails with `Lost` if the agent is gone.
    pub(crate) async fn connect(&self) -> Result<Channel> {
        let gone = |error| lost(&self.directory, error);
        #[cfg(feature = "microvm")]
        if let Some(line) = &self.line {
            let stream = line
                .open(&crate::tunnel::Target::Agent)
                .and_then(UnixStream::from_std)
                .map_err(gone)?;
            return Ok(Channel::over(stream));
        }
        let directory = rustix::fs::open(
            &self.directory,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|errno| gone(errno.into()))?;
        // Socket paths are limited to 107 bytes; this one is short whatever the directory's is.
        let path = format!("/proc/self/fd/{}/agent.sock", directory.as_raw_fd());
        let mut patience = 0;
        let stream = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => break stream,
                // The agent's queue is full for the moment.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && patience < 500 => {
                    patience += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(gone(error)),
            }
        };
        let peer = stream.peer_cred().map_err(gone)?;
        if peer.pid() != Some(self.pid) {
            return Err(gone(io::Error::other("another process serves its socket")));
        }
        Ok(Channel::over(stream))
    }

    /// One question and its answer. A failure becomes an error of `operation`.
    pub(crate) async fn ask(
        &self,
        operation: &'static str,
        request: &Request,
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        let mut channel = self.connect().await?;
        channel
            .send(request, &[])
            .await
            .map_err(|error| self.broken(operation, error))?;
        channel.answer(self, operation).await
    }

    pub(crate) fn broken(&self, operation: &'static str, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::InvalidData {
            return Error::new(ErrorKind::Internal, operation, error.to_string());
        }
        lost(&self.directory, error)
    }
}

impl Channel {
    pub(crate) fn over(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Buffered::default(),
            fds: VecDeque::new(),
        }
    }

    /// Sends a request with descriptors.
    pub(crate) async fn send(
        &mut self,
        request: &impl serde::Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
        let bytes = Zeroizing::new(frame::encode(request, count).map_err(|malformed| {
            io::Error::new(io::ErrorKind::InvalidData, malformed.to_string())
        })?);
        let mut rest = bytes.as_slice();
        let mut fds = fds;
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || socket::send(&self.stream, rest, fds))
                .await?;
            rest = &rest[sent..];
            fds = &[];
        }
        Ok(())
    }

    /// The next message with its descriptors. Dropping the future loses nothing.
    pub(crate) async fn receive(&mut self) -> io::Result<(Reply, Vec<OwnedFd>)> {
        loop {
            let next = self.decoder.0.next::<Reply>().map_err(|malformed| {
                io::Error::new(io::ErrorKind::InvalidData, malformed.to_string())
            })?;
            if let Some((reply, count)) = next {
                let count = usize::from(count).min(self.fds.len());
                return Ok((reply, self.fds.drain(..count).collect()));
            }
            self.stream.readable().await?;
            let mut buffer = [0; 16 * 1024];
            let (stream, fds) = (&self.stream, &mut self.fds);
            match stream.try_io(Interest::READABLE, || {
                socket::receive(stream, &mut buffer, fds)
            }) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.decoder.0.push(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            buffer.zeroize();
        }
    }

    /// The next message, with failures and broken connections as errors of an operation.
    pub(crate) async fn answer(
        &mut self,
        address: &Address,
        operation: &'static str,
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        match self.receive().await {
            Ok((Reply::Failed(failure), _)) => Err(error_of(failure, operation)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(address.broken(operation, error)),
        }
    }
}
