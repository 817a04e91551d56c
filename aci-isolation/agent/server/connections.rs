//! Connections of hosts: bytes in, requests out, replies back.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventFlags};
use rustix::net::SocketFlags;

use super::{Connection, MAX_CONNECTIONS, Server, Source, TURN};
use crate::protocol::{Failure, Kind, Reply, Request, frame, socket};
use crate::sys;

impl Server {
    pub(super) fn accept(&mut self) {
        for _ in 0..16 {
            let accepted = rustix::net::accept_with(
                &self.parts.listener,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            );
            let Ok(socket) = accepted else {
                return;
            };
            // The directory already keeps others out; this is the second lock.
            let trusted = sys::peer_user(&socket).is_ok_and(|uid| uid == 0);
            if !trusted || self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            let key = self.number();
            if self
                .watch(&socket, Source::Connection, key, EventFlags::IN)
                .is_ok()
            {
                self.connections.insert(
                    key,
                    Connection {
                        socket,
                        decoder: frame::Decoder::default(),
                        fds: VecDeque::new(),
                        out: VecDeque::new(),
                        writing: false,
                    },
                );
            }
        }
    }

    pub(super) fn close(&mut self, key: u64) {
        self.connections.remove(&key);
        self.waiting.retain(|(connection, _)| *connection != key);
        self.destroying.retain(|connection| *connection != key);
        self.queued.retain(|(connection, _)| *connection != key);
        self.dials.retain(|_, (connection, _)| *connection != key);
        for process in self.processes.values_mut() {
            if process.connection == Some(key) {
                process.connection = None;
            }
        }
    }

    pub(super) fn connection(&mut self, key: u64, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) && self.flush(key).is_err() {
            return self.close(key);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let mut buffer = zeroize::Zeroizing::new(vec![0; TURN]);
        match socket::receive(&connection.socket, &mut buffer, &mut connection.fds) {
            Ok(0) => return self.close(key),
            Ok(read) => connection.decoder.push(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(_) => return self.close(key),
        }
        loop {
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            match connection.decoder.next::<Request>() {
                Ok(None) => return,
                Ok(Some((request, count))) => {
                    if connection.fds.len() < usize::from(count) {
                        return self.close(key);
                    }
                    let fds = connection.fds.drain(..usize::from(count)).collect();
                    self.request(key, request, fds);
                }
                Err(malformed) => {
                    let failure = Failure::new(Kind::Invalid, malformed.to_string());
                    self.reply(key, &Reply::Failed(failure), Vec::new());
                    return self.close(key);
                }
            }
        }
    }

    pub(super) fn reply(&mut self, key: u64, reply: &Reply, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
        let Ok(bytes) = frame::encode(reply, count) else {
            return self.close(key);
        };
        connection.out.push_back((bytes, 0, fds));
        if self.flush(key).is_err() {
            self.close(key);
        }
    }

    pub(super) fn flush(&mut self, key: u64) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&key) else {
            return Ok(());
        };
        while let Some((bytes, sent, fds)) = connection.out.front_mut() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match socket::send(&connection.socket, &bytes[*sent..], &borrowed) {
                Ok(count) => {
                    *sent += count;
                    fds.clear();
                    if *sent == bytes.len() {
                        connection.out.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let writing = !connection.out.is_empty();
        if writing != connection.writing {
            connection.writing = writing;
            let mut flags = EventFlags::IN;
            if writing {
                flags |= EventFlags::OUT;
            }
            epoll::modify(
                &self.epoll,
                &connection.socket,
                Source::Connection.data(key),
                flags,
            )?;
        }
        Ok(())
    }
}
