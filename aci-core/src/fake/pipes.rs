//! The streams of simulated processes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::lock;
use super::process::ProcessState;
use crate::contract::{BoxRead, Signal};

/// One end that several writers share: both output streams of a process with a terminal.
#[derive(Clone)]
pub(super) struct SharedWriter(Arc<Mutex<DuplexStream>>);

impl SharedWriter {
    pub(super) fn new(stream: DuplexStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }
}

impl AsyncWrite for SharedWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The other stream may go on.
        Poll::Ready(Ok(()))
    }
}

/// The outside of a terminal: whoever drops it hangs up.
pub(super) struct HangUp {
    pub(super) reader: BoxRead,
    pub(super) process: Arc<ProcessState>,
}

impl AsyncRead for HangUp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        self.process.deliver(Signal::HUP);
    }
}
