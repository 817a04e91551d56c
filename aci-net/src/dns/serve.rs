//! Sockets and bounds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_ip_freebind, set_ipv6_freebind, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind as bind_to, listen, socket_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::answer::{Verdict, encode, failed, judge, relay, udp_limit};
use super::forward::{Forwarder, Upstreams};
use super::rates::Rates;
use super::{PORT, Shared, current};

/// The most questions of one sender that others are being asked for.
const PENDING_OF_ONE: usize = 64;
/// The most questions of all senders that others are being asked for.
const PENDING: usize = 1_024;
/// The most TCP connections.
const CONNECTIONS: usize = 128;
/// The most TCP connections of one sender.
const CONNECTIONS_OF_ONE: usize = 8;
/// How long a TCP connection may be quiet.
const IDLE: Duration = Duration::from_secs(10);
/// The longest question that is read; one name, an OPT record and room for options.
const LONGEST: usize = 4_096;

/// The sockets of one address.
pub(super) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

/// Sockets on these addresses, which need not be there yet.
pub(super) fn bind(addresses: &[IpAddr]) -> io::Result<Vec<Sockets>> {
    let one = |address: IpAddr, kind: SocketType| -> io::Result<std::os::fd::OwnedFd> {
        let (family, v4) = match address {
            IpAddr::V4(_) => (AddressFamily::INET, true),
            IpAddr::V6(_) => (AddressFamily::INET6, false),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, kind, flags, None)?;
        if v4 {
            set_ip_freebind(&socket, true)?;
        } else {
            set_ipv6_freebind(&socket, true)?;
        }
        if kind == SocketType::STREAM {
            set_socket_reuseaddr(&socket, true)?;
        }
        bind_to(&socket, &SocketAddr::new(address, PORT))?;
        if kind == SocketType::STREAM {
            listen(&socket, 64)?;
        }
        Ok(socket)
    };
    addresses
        .iter()
        .map(|address| {
            Ok(Sockets {
                udp: one(*address, SocketType::DGRAM)?.into(),
                tcp: one(*address, SocketType::STREAM)?.into(),
            })
        })
        .collect()
}

/// Serves until `stopped` or its sender's end. Runs on a thread of its own.
pub(super) fn run(
    sockets: Vec<Sockets>,
    shared: Shared,
    upstreams: Upstreams,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the name server cannot run");
            return;
        }
    };
    let state = Rc::new(State {
        shared,
        forwarder: Rc::new(Forwarder::new(upstreams)),
        rates: RefCell::default(),
        pending: RefCell::default(),
        connections: RefCell::default(),
    });
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        for Sockets { udp, tcp } in sockets {
            match (UdpSocket::from_std(udp), TcpListener::from_std(tcp)) {
                (Ok(udp), Ok(tcp)) => {
                    tokio::task::spawn_local(Rc::clone(&state).datagrams(Rc::new(udp)));
                    tokio::task::spawn_local(Rc::clone(&state).streams(tcp));
                }
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(%error, "the name server cannot use a socket");
                }
            }
        }
        let _ = stopped.await;
    });
}

/// How many things each sender has under way.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One of those things; it counts until it is dropped.
struct Counted<'a> {
    counts: &'a RefCell<Counts>,
    sender: IpAddr,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut counts = self.counts.borrow_mut();
        counts.all -= 1;
        if let Some(of_one) = counts.of.get_mut(&self.sender) {
            *of_one -= 1;
            if *of_one == 0 {
                counts.of.remove(&self.sender);
            }
        }
    }
}

fn count(
    counts: &RefCell<Counts>,
    sender: IpAddr,
    of_one: usize,
    of_all: usize,
) -> Option<Counted<'_>> {
    let mut all = counts.borrow_mut();
    if all.all >= of_all || all.of.get(&sender).is_some_and(|n| *n >= of_one) {
        return None;
    }
    all.all += 1;
    *all.of.entry(sender).or_default() += 1;
    drop(all);
    Some(Counted { counts, sender })
}

struct State {
    shared: Shared,
    forwarder: Rc<Forwarder>,
    rates: RefCell<Rates>,
    pending: RefCell<Counts>,
    connections: RefCell<Counts>,
}

impl State {
    async fn datagrams(self: Rc<Self>, socket: Rc<UdpSocket>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // Such as the news that an earlier answer did not arrive.
                    tracing::debug!(%error, "receiving a question");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
            };
            let sender = from.ip().to_canonical();
            let packet = &buffer[..length];
            if !self.rates.borrow_mut().allow(sender, Instant::now()) {
                metrics::counter!("aci_net_names_dropped_total").increment(1);
                continue;
            }
            let limit = udp_limit(packet);
            let verdict = judge(packet, sender, &current(&self.shared));
            match verdict {
                Verdict::Drop => {}
                Verdict::Reply(reply) => {
                    metrics::counter!("aci_net_names_total", "by" => "us").increment(1);
                    if let Some(bytes) = encode(&reply, limit) {
                        let _ = socket.send_to(&bytes, from).await;
                    }
                }
                Verdict::Forward(ask) => {
                    let (this, socket) = (Rc::clone(&self), Rc::clone(&socket));
                    tokio::task::spawn_local(async move {
                        let reply = this.forward(sender, &ask).await;
                        if let Some(bytes) = encode(&reply, limit) {
                            let _ = socket.send_to(&bytes, from).await;
                        }
                    });
                }
            }
        }
    }

    async fn forward(
        &self,
        sender: IpAddr,
        ask: &super::answer::Ask,
    ) -> hickory_proto::op::Message {
        metrics::counter!("aci_net_names_total", "by" => "others").increment(1);
        let Some(_counted) = count(&self.pending, sender, PENDING_OF_ONE, PENDING) else {
            return failed(ask);
        };
        match self.forwarder.resolve(ask).await {
            Some(theirs) => relay(ask, &theirs),
            None => failed(ask),
        }
    }

    async fn streams(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    tokio::task::spawn_local(Rc::clone(&self).stream(stream, from.ip()));
                }
                Err(error) => {
                    tracing::debug!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn stream(self: Rc<Self>, mut stream: TcpStream, from: IpAddr) {
        let sender = from.to_canonical();
        let of_one = CONNECTIONS_OF_ONE;
        let Some(_counted) = count(&self.connections, sender, of_one, CONNECTIONS) else {
            return;
        };
        // The connection ends with the first thing that goes wrong, and when it is quiet.
        while let Ok(Ok(Some(packet))) = timeout(IDLE, read(&mut stream)).await {
            if !self.rates.borrow_mut().allow(sender, Instant::now()) {
                return;
            }
            let verdict = judge(&packet, sender, &current(&self.shared));
            let reply = match verdict {
                Verdict::Drop => return,
                Verdict::Reply(reply) => reply,
                Verdict::Forward(ask) => self.forward(sender, &ask).await,
            };
            let Some(bytes) = encode(&reply, usize::from(u16::MAX)) else {
                return;
            };
            let framed = framed(&bytes);
            let writing = stream.write_all(&framed);
            if !matches!(timeout(IDLE, writing).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// The next question of a connection; `None` for one that is too long.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = usize::from(stream.read_u16().await?);
    if length > LONGEST {
        return Ok(None);
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(Some(packet))
}

/// A message with its length before it, as TCP carries it. Longer ones than that can say are cut,
/// which `encode` has seen to already.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&message[..usize::from(length)]);
    framed
}
