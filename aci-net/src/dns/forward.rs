//! Asking other servers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer::{Ask, UDP_PAYLOAD};
use super::cache::{Cache, Key};
use super::{PORT, serve};
use crate::resolv;

/// How long one server is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a client's question is worked on; resolvers give up after five seconds.
const WHOLE: Duration = Duration::from_millis(4_800);
/// How often each server is asked.
const ROUNDS: usize = 2;
/// How old the list of servers may get.
const FRESH: Duration = Duration::from_secs(5);
/// The most different questions under way.
const UNDER_WAY: usize = 256;
/// The most clients that wait for the same question.
const WAITING: usize = 128;

/// The servers that are asked.
#[derive(Debug)]
pub(crate) struct Upstreams {
    given: Option<Vec<SocketAddr>>,
    file: PathBuf,
    own: Vec<IpAddr>,
    read: RefCell<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Upstreams {
    /// Those that are given, or those of the host's `resolv.conf`; never our own addresses.
    pub(crate) fn new(given: Option<Vec<SocketAddr>>, file: PathBuf, own: Vec<IpAddr>) -> Self {
        Self {
            given,
            file,
            own,
            read: RefCell::new(None),
        }
    }

    pub(super) fn list(&self, now: Instant) -> Vec<SocketAddr> {
        let ours = |to: &SocketAddr| to.port() == PORT && self.own.contains(&to.ip());
        if let Some(given) = &self.given {
            return given.iter().filter(|to| !ours(to)).copied().collect();
        }
        let mut read = self.read.borrow_mut();
        if let Some((at, list)) = &*read
            && now.saturating_duration_since(*at) < FRESH
        {
            return list.clone();
        }
        // The file changes when the host moves to another network.
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let servers = resolv::servers(&text).into_iter();
        let list: Vec<SocketAddr> = servers
            .map(|address| SocketAddr::new(address, PORT))
            .filter(|to| !ours(to))
            .collect();
        *read = Some((now, list.clone()));
        list
    }
}

/// Asks, remembers, and asks only once what many want to know. That also ends loops: a question
/// that comes back to us by way of another server waits for itself until time is up.
#[derive(Debug)]
pub(super) struct Forwarder {
    upstreams: Upstreams,
    cache: RefCell<Cache>,
    under_way: RefCell<HashMap<Key, Vec<oneshot::Sender<Option<Message>>>>>,
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams,
            cache: RefCell::default(),
            under_way: RefCell::default(),
        }
    }

    /// The answer of another server; `None` if there is none in time.
    pub(super) async fn resolve(self: &Rc<Self>, ask: &Ask) -> Option<Message> {
        let checking = ask.reply.metadata.checking_disabled;
        let key: Key = (
            ask.query.name().to_lowercase().to_ascii(),
            ask.query.query_type(),
            ask.dnssec,
            checking,
        );
        if let Some(kept) = self.cache.borrow().get(&key, Instant::now()) {
            return Some(kept);
        }
        let (tell, told) = oneshot::channel();
        {
            let mut under_way = self.under_way.borrow_mut();
            let full = under_way.len() >= UNDER_WAY;
            match under_way.get_mut(&key) {
                Some(waiting) if waiting.len() >= WAITING => return None,
                Some(waiting) => waiting.push(tell),
                None if full => return None,
                None => {
                    under_way.insert(key.clone(), vec![tell]);
                    // A task of its own: who asked first may go away before the answer comes.
                    let (this, query, dnssec) = (Rc::clone(self), ask.query.clone(), ask.dnssec);
                    tokio::task::spawn_local(async move {
                        let asking = this.ask_all(&query, dnssec, checking);
                        let answer = timeout(WHOLE, asking).await.ok().flatten();
                        if let Some(answer) = &answer {
                            let mut cache = this.cache.borrow_mut();
                            cache.put(key.clone(), answer, Instant::now());
                        }
                        let waiting = this.under_way.borrow_mut().remove(&key);
                        for tell in waiting.into_iter().flatten() {
                            let _ = tell.send(answer.clone());
                        }
                    });
                }
            }
        }
        told.await.ok().flatten()
    }

    async fn ask_all(&self, query: &Query, dnssec: bool, checking: bool) -> Option<Message> {
        let mut refusal = None;
        for _ in 0..ROUNDS {
            for server in self.upstreams.list(Instant::now()) {
                let asked = ask(server, query, dnssec, checking);
                match timeout(PATIENCE, asked).await {
                    Ok(Ok(answer)) if useful(&answer) => return Some(answer),
                    Ok(Ok(answer)) => refusal = Some(answer),
                    Ok(Err(error)) => {
                        tracing::debug!(%server, %error, "a name server did not answer")
                    }
                    Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
                }
            }
            if refusal.is_some() {
                break;
            }
        }
        refusal
    }
}

/// Whether another server could not say more.
fn useful(answer: &Message) -> bool {
    !matches!(
        answer.metadata.response_code,
        ResponseCode::ServFail
            | ResponseCode::Refused
            | ResponseCode::NotImp
            | ResponseCode::FormErr
    )
}

/// One question to one server: by UDP from a port of its own, and by TCP if the answer is too long.
async fn ask(
    server: SocketAddr,
    query: &Query,
    dnssec: bool,
    checking: bool,
) -> std::io::Result<Message> {
    // The id is random; with the port that makes answers by strangers hopeless.
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = checking;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    edns.set_version(0);
    edns.set_dnssec_ok(dnssec);
    message.set_edns(edns);
    let packet = message.to_vec().map_err(std::io::Error::other)?;
    let from: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.connect(server).await?;
    socket.send(&packet).await?;
    let mut buffer = vec![0; 4_096];
    let answer = loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = matching(&message, &buffer[..length]) {
            break answer;
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&serve::framed(&packet)).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut whole = vec![0; length];
    stream.read_exact(&mut whole).await?;
    matching(&message, &whole)
        .ok_or_else(|| std::io::Error::other("the answer is not to the question"))
}

/// The answer in a packet, if it is one to this question.
pub(super) fn matching(question: &Message, packet: &[u8]) -> Option<Message> {
    let id = question.metadata.id.to_be_bytes();
    if packet.get(..2)? != id || u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]) != 1 {
        return None;
    }
    let answer = Message::from_vec(packet).ok()?;
    let (asked, answered) = (question.queries.first()?, answer.queries.first()?);
    let same = answer.metadata.message_type == MessageType::Response
        && asked.query_type() == answered.query_type()
        && asked.query_class() == answered.query_class()
        && asked.name() == answered.name();
    same.then_some(answer)
}
