//! Connections into the group's network, made without waiting for them.

use std::io;
use std::net::SocketAddr;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Server, Source, internal};
use crate::protocol::{Failure, Kind, Reply};
use crate::root;

fn refused(errno: Errno) -> Failure {
    let error = io::Error::from_raw_os_error(errno.raw_os_error());
    Failure::new(Kind::Unavailable, format!("nothing answers: {error}"))
}

impl Server {
    /// Begins a connection; its outcome is the answer.
    pub(super) fn dial(&mut self, connection: u64, address: &SocketAddr) -> Result<(), Failure> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = rustix::net::socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(root::failed("opening a socket"))?;
        match rustix::net::connect(&socket, address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(refused(errno)),
        }
        let key = self.number();
        self.watch(&socket, Source::Dial, key, EventFlags::OUT)
            .map_err(internal("watching a connection"))?;
        self.dials.insert(key, (connection, socket));
        Ok(())
    }

    /// A connection stands, or does not come about.
    pub(super) fn dialed(&mut self, key: u64) {
        let Some((connection, socket)) = self.dials.remove(&key) else {
            return;
        };
        self.unwatch(&socket);
        match rustix::net::sockopt::socket_error(&socket) {
            Ok(Ok(())) => self.reply(connection, &Reply::Dialed, vec![socket]),
            Ok(Err(errno)) | Err(errno) => {
                self.reply(connection, &Reply::Failed(refused(errno)), Vec::new());
            }
        }
    }
}
