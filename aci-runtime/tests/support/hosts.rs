//! Network namespaces that play hosts, and what is heard from them.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that plays the host, or anybody else.
pub(crate) fn namespace() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    });
    thread.join().unwrap()
}

/// What a server says to the host, or nothing if it is not reached.
pub(crate) fn hear(host: &OwnedFd, address: IpAddr, port: u16) -> Option<String> {
    let host = host.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        setns(host.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        let to = SocketAddr::new(address, port);
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    });
    thread.join().unwrap()
}
