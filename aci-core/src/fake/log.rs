//! A container's log in memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::select;
use tokio::io::AsyncWrite;
use tokio::sync::watch;

use super::lock;
use super::process::{End, ProcessState, lost};
use crate::contract::{Clock, LogLine, LogQuery, OutputStream};
use crate::error::Result;
use crate::id::SandboxId;
use crate::time::Timestamp;

/// Longer lines are cut into records of so many bytes, as container runtimes do.
const RECORD: usize = 16 * 1024;

#[derive(Debug)]
struct Inner {
    lines: VecDeque<LogLine>,
    /// The number of the first line in `lines`.
    first: u64,
    bytes: u64,
    bound: u64,
}

/// The lines of one container, of all its attempts in one sandbox.
#[derive(Debug)]
pub(super) struct Log {
    inner: Mutex<Inner>,
    /// The number of the next line.
    next: watch::Sender<u64>,
}

impl Log {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                lines: VecDeque::new(),
                first: 0,
                bytes: 0,
                bound: u64::MAX,
            }),
            next: watch::Sender::new(0),
        })
    }

    pub(super) fn set_bound(&self, bytes: u64) {
        lock(&self.inner).bound = bytes;
    }

    fn push(&self, line: LogLine) {
        let mut inner = lock(&self.inner);
        inner.bytes += line.line.len() as u64 + 1;
        inner.lines.push_back(line);
        while inner.bytes > inner.bound && inner.lines.len() > 1 {
            if let Some(old) = inner.lines.pop_front() {
                inner.bytes -= old.line.len() as u64 + 1;
                inner.first += 1;
            }
        }
        let next = inner.first + inner.lines.len() as u64;
        drop(inner);
        self.next.send_replace(next);
    }

    /// The lines that a query asks for, and the number of the line after them.
    pub(super) fn select(&self, query: &LogQuery) -> (VecDeque<LogLine>, u64) {
        let inner = lock(&self.inner);
        let mut lines: VecDeque<_> = inner
            .lines
            .iter()
            .filter(|line| query.since.is_none_or(|since| line.at >= since))
            .cloned()
            .collect();
        if let Some(tail) = query.tail {
            while lines.len() > tail as usize {
                lines.pop_front();
            }
        }
        (lines, inner.first + inner.lines.len() as u64)
    }

    /// The lines from a number on, and the number of the line after them.
    pub(super) fn from(&self, number: u64) -> (VecDeque<LogLine>, u64) {
        let inner = lock(&self.inner);
        let skip = usize::try_from(number.saturating_sub(inner.first)).unwrap_or(usize::MAX);
        let lines = inner.lines.iter().skip(skip).cloned().collect();
        (lines, inner.first + inner.lines.len() as u64)
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }
}

/// Cuts what a process writes into lines of its log.
pub(super) struct LogWriter {
    pub(super) log: Arc<Log>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stream: OutputStream,
    pub(super) begun: Vec<u8>,
}

impl LogWriter {
    fn push(&mut self, partial: bool) {
        let line = Bytes::from(std::mem::take(&mut self.begun));
        self.log.push(LogLine {
            at: self.clock.now(),
            stream: self.stream,
            line,
            partial,
        });
    }
}

impl AsyncWrite for LogWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        for &byte in buf {
            if byte == b'\n' {
                self.push(false);
                continue;
            }
            if self.begun.len() == RECORD {
                self.push(true);
            }
            self.begun.push(byte);
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if !self.begun.is_empty() {
            self.push(false);
        }
    }
}

/// A log that goes on.
pub(super) struct Follow {
    pub(super) sandbox: SandboxId,
    pub(super) log: Arc<Log>,
    pub(super) changed: watch::Receiver<u64>,
    pub(super) lines: VecDeque<LogLine>,
    pub(super) next: u64,
    pub(super) since: Option<Timestamp>,
    pub(super) process: Option<Arc<ProcessState>>,
    pub(super) done: bool,
}

impl Follow {
    pub(super) async fn next(mut self) -> Option<(Result<LogLine>, Self)> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                if self.since.is_some_and(|since| line.at < since) {
                    continue;
                }
                return Some((Ok(line), self));
            }
            if self.done {
                return None;
            }
            // Asked before the log is read: a log that is read after the end is complete.
            let end = self.process.as_ref().and_then(|p| *p.end.borrow());
            (self.lines, self.next) = self.log.from(self.next);
            if !self.lines.is_empty() {
                continue;
            }
            match (&self.process, end) {
                (None, _) | (_, Some(End::Status(_))) => self.done = true,
                (_, Some(End::Lost)) => {
                    self.done = true;
                    return Some((Err(lost("sandbox.logs", &self.sandbox)), self));
                }
                (Some(process), None) => {
                    let next = self.next;
                    let grown = std::pin::pin!(self.changed.wait_for(|now| *now > next));
                    let ended = std::pin::pin!(process.wait());
                    select(grown, ended).await;
                }
            }
        }
    }
}
