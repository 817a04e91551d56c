//! What containers print, on its way into their logs.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::{DRAIN, Server, TURN};
use crate::container::Pipe;
use crate::log;

impl Server {
    /// Reads what a stream has, at most `most` bytes; `false` when it has ended.
    pub(super) fn pump(&mut self, name: &str, index: usize, most: usize) -> bool {
        let Some(container) = self.containers.get_mut(name) else {
            return false;
        };
        let (Some(pipe), Some(log)) = (&mut container.pipes[index], &mut container.log) else {
            return false;
        };
        let mut buffer = vec![0; TURN.min(most)];
        let mut total = 0;
        let mut open = true;
        while total < most {
            match rustix::io::read(&pipe.fd, &mut buffer[..]) {
                // EIO is how a terminal says that its other end is closed.
                Ok(0) | Err(Errno::IO) => {
                    open = false;
                    break;
                }
                Ok(read) => {
                    total += read;
                    let stamp = stamp();
                    let Pipe { lines, stream, .. } = pipe;
                    lines.push(&buffer[..read], |line, partial| {
                        log.record(&stamp, stream, partial, without_return(line));
                    });
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if !open {
            let stamp = stamp();
            let Pipe { lines, stream, .. } = pipe;
            lines.finish(|line, partial| log.record(&stamp, stream, partial, without_return(line)));
        }
        log.flush();
        open
    }

    pub(super) fn output(&mut self, key: u64, index: usize) {
        let Some(name) = self.by_key(key) else {
            return;
        };
        if !self.pump(&name, index, TURN) {
            self.close_pipe(&name, index);
        }
    }

    pub(super) fn drain(&mut self, name: &str, index: usize) {
        if self.pump(name, index, DRAIN)
            && let Some(container) = self.containers.get_mut(name)
            && let (Some(pipe), Some(log)) = (&mut container.pipes[index], &mut container.log)
        {
            // Somebody outside still holds the other end; what is there now is all that counts.
            let stamp = stamp();
            let Pipe { lines, stream, .. } = pipe;
            lines.finish(|line, partial| log.record(&stamp, stream, partial, without_return(line)));
            log.flush();
        }
        self.close_pipe(name, index);
    }

    pub(super) fn close_pipe(&mut self, name: &str, index: usize) {
        if let Some(pipe) = self
            .containers
            .get_mut(name)
            .and_then(|container| container.pipes[index].take())
        {
            self.unwatch(&pipe.fd);
        }
    }
}

/// Terminals end lines with CR LF.
fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn stamp() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    log::stamp(since.as_secs(), since.subsec_nanos())
}
