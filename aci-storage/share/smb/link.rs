//! One logged-in connection: requests in flight, credits, encryption, and its death.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smb2::msg::header::Header;
use smb2::pack::{Pack, ReadCursor, Unpack, WriteCursor};
use smb2::types::flags::HeaderFlags;
use smb2::types::{Command, CreditCharge, MessageId, SessionId, TreeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::seal::{self, Seal};
use super::{Fault, lease, status};

/// What a message begins with that is not encrypted.
const CLEAR: [u8; 4] = [0xFE, b'S', b'M', b'B'];
/// Largest frame that is taken from a server: a read of 8 MiB and its headers.
const FRAME: usize = 9 << 20;
/// After so long without a word an idle connection is asked whether it lives.
const ECHO: Duration = Duration::from_secs(60);
/// How many credits are asked for at a time.
const WISH: u16 = 64;
/// How many credits are kept at most: 512 of 64 KiB are 32 MiB in flight.
const MOST: usize = 512;

/// An answer of the server: its header and what follows.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) header: Header,
    /// Behind the header. Offsets in messages count from the header's beginning.
    pub(crate) body: Bytes,
}

/// A message to send: what to ask, and data that follows without being copied twice.
pub(crate) struct Ask<'a> {
    pub(crate) command: Command,
    pub(crate) body: &'a dyn Pack,
    pub(crate) data: &'a [&'a [u8]],
    /// Bytes that the answer or the data has, which decides the credits it costs.
    pub(crate) size: usize,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(command: Command, body: &'a dyn Pack) -> Self {
        Self {
            command,
            body,
            data: &[],
            size: 0,
        }
    }

    /// A credit for each 64 KiB begun (MS-SMB2 3.1.5.2).
    fn charge(&self) -> u16 {
        u16::try_from(self.size.div_ceil(65_536).max(1)).unwrap_or(u16::MAX)
    }
}

/// A connection with a session and a tree.
pub(crate) struct Link {
    shared: Arc<Shared>,
    /// What the server takes and gives at a time, in bytes.
    pub(crate) limits: Limits,
}

/// What the server takes and gives at a time, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) read: u32,
    pub(crate) write: u32,
    pub(crate) transact: u32,
}

struct Shared {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    state: Mutex<State>,
    credits: Semaphore,
    over: watch::Sender<bool>,
    next: AtomicU64,
    seal: Seal,
    session: u64,
    /// Where leases go that the server takes back.
    breaks: mpsc::UnboundedSender<lease::Break>,
    begun: Instant,
    /// Milliseconds from `begun` to the last word of the server.
    heard: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: HashMap<u64, Waiting>,
    dead: Option<Fault>,
    tree: TreeId,
}

struct Waiting {
    answer: oneshot::Sender<Result<Reply, Fault>>,
    /// When it was sent; `None` once the server has said that it will take long.
    since: Option<Instant>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Ends the connection: everyone who waits hears of it.
    fn die(&self, why: &Fault) {
        let waiting = {
            let mut state = self.state();
            if state.dead.is_some() {
                return;
            }
            state.dead = Some(why.clone());
            std::mem::take(&mut state.waiting)
        };
        self.credits.close();
        self.over.send_replace(true);
        for waiting in waiting.into_values() {
            let _ = waiting.answer.send(Err(Fault::Lost));
        }
    }

    fn hear(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    fn grant(&self, credits: u16) {
        let room = MOST.saturating_sub(self.credits.available_permits());
        self.credits.add_permits(usize::from(credits).min(room));
    }

    /// Sends a message, or several as one related chain, and returns where the answers will come.
    async fn send(
        &self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<oneshot::Receiver<Result<Reply, Fault>>>, Fault> {
        let charges: u32 = asks.iter().map(|a| u32::from(a.charge())).sum();
        match self.credits.acquire_many(charges).await {
            Ok(permits) => permits.forget(),
            Err(_) => return Err(Fault::Lost),
        }
        let first = self.next.fetch_add(u64::from(charges), Ordering::Relaxed);
        let mut answers = Vec::with_capacity(asks.len());
        let tree = {
            let mut state = self.state();
            if state.dead.is_some() {
                return Err(Fault::Lost);
            }
            let mut id = first;
            for ask in asks {
                let (answer, receiver) = oneshot::channel();
                let since = Some(Instant::now());
                state.waiting.insert(id, Waiting { answer, since });
                answers.push(receiver);
                id += u64::from(ask.charge());
            }
            state.tree
        };
        let mut frame = self.pack(asks, first, tree);
        let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.seal.close(&mut frame[4..])?;
        let written = self.writer.lock().await.write_all(&frame).await;
        if written.is_err() {
            self.die(&Fault::Lost);
            return Err(Fault::Lost);
        }
        Ok(answers)
    }

    /// Room for length and transform header, then the messages, each at a multiple of 8 bytes.
    fn pack(&self, asks: &[Ask<'_>], first: u64, tree: TreeId) -> Vec<u8> {
        let data: usize = asks.iter().flat_map(|a| a.data).map(|d| d.len()).sum();
        let base = 4 + seal::HEADER;
        let mut cursor = WriteCursor::with_capacity(base + data + 512 * asks.len());
        cursor.write_zeros(base);
        let mut id = first;
        for (at, ask) in asks.iter().enumerate() {
            let last = at + 1 == asks.len();
            let start = cursor.position();
            let mut header = Header::new_request(ask.command);
            header.credit_charge = CreditCharge(ask.charge());
            header.credits = WISH.max(ask.charge());
            header.message_id = MessageId(id);
            header.session_id = SessionId(self.session);
            header.tree_id = Some(tree);
            if at > 0 {
                header.flags.set(HeaderFlags::RELATED_OPERATIONS);
            }
            header.pack(&mut cursor);
            ask.body.pack(&mut cursor);
            for data in ask.data {
                cursor.write_bytes(data);
            }
            if !last {
                let ragged = (cursor.position() - start) % 8;
                if ragged != 0 {
                    cursor.write_zeros(8 - ragged);
                }
                let next = u32::try_from(cursor.position() - start).unwrap_or(0);
                cursor.set_u32_le_at(start + 20, next);
            }
            id += u64::from(ask.charge());
        }
        cursor.into_inner()
    }

    /// Hands the messages of a frame to those who wait for them.
    fn take(&self, frame: Vec<u8>) -> Result<(), Fault> {
        let frame = Bytes::from(frame);
        let mut at = seal::HEADER;
        loop {
            let message = frame.slice(at..);
            if message.len() < Header::SIZE {
                return Err(Fault::protocol("a message shorter than its header"));
            }
            let header = Header::unpack(&mut ReadCursor::new(&message[..Header::SIZE]))?;
            let next = header.next_command as usize;
            let end = if next == 0 { message.len() } else { next };
            if end < Header::SIZE || end > message.len() {
                return Err(Fault::protocol("a chain of messages that leads outside"));
            }
            self.deliver(Reply {
                body: message.slice(Header::SIZE..end),
                header,
            });
            if next == 0 {
                return Ok(());
            }
            at += next;
        }
    }

    /// A message that is not encrypted: a lease that is taken back belongs to no session, so a server
    /// may tell of it in clear (MS-SMB2 3.3.4.7). Whoever makes one up brings about that this side
    /// keeps less. Nothing else may come so.
    fn take_clear(&self, frame: &[u8]) -> Result<(), Fault> {
        if frame.len() < Header::SIZE {
            return Err(Fault::protocol("a message shorter than its header"));
        }
        let (header, body) = frame.split_at(Header::SIZE);
        let header = Header::unpack(&mut ReadCursor::new(header))?;
        let unsolicited = header.message_id == MessageId::UNSOLICITED
            && header.command == Command::OplockBreak
            && header.is_response();
        match lease::Break::read(body).filter(|_| unsolicited) {
            Some(broken) => {
                let _ = self.breaks.send(broken);
                Ok(())
            }
            None => Err(Fault::protocol(
                "the server sent a message that is not encrypted",
            )),
        }
    }

    fn deliver(&self, reply: Reply) {
        let header = &reply.header;
        self.grant(header.credits);
        if header.message_id == MessageId::UNSOLICITED {
            if let Some(broken) = lease::Break::read(&reply.body) {
                let _ = self.breaks.send(broken);
            }
            return;
        }
        // An interim answer: the true one follows.
        if header.status.0 == status::PENDING && header.flags.is_async() {
            if let Some(waiting) = self.state().waiting.get_mut(&header.message_id.0) {
                waiting.since = None;
            }
            return;
        }
        let waiting = self.state().waiting.remove(&header.message_id.0);
        if let Some(waiting) = waiting {
            let _ = waiting.answer.send(Ok(reply));
        }
    }
}

/// Reads frames until the connection ends.
async fn read(mut from: OwnedReadHalf, shared: Arc<Shared>) {
    let mut over = shared.over.subscribe();
    loop {
        let received = tokio::select! {
            _ = over.wait_for(|over| *over) => return,
            received = receive(&mut from) => received,
        };
        let mut frame = match received {
            Ok(frame) => frame,
            Err(fault) => return shared.die(&fault),
        };
        shared.hear();
        let taken = if frame.starts_with(&CLEAR) {
            shared.take_clear(&frame)
        } else {
            shared
                .seal
                .open(&mut frame)
                .and_then(|()| shared.take(frame))
        };
        if let Err(fault) = taken {
            return shared.die(&fault);
        }
    }
}

/// Reads one frame: a length of 24 bits, then so many bytes (MS-SMB2 2.1).
pub(crate) async fn receive(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Result<Vec<u8>, Fault> {
    let mut head = [0; 4];
    from.read_exact(&mut head).await.map_err(|_| Fault::Lost)?;
    let length = u32::from_be_bytes(head) as usize;
    if length > FRAME {
        return Err(Fault::protocol("a frame that is too long"));
    }
    // Room for the tag, which is put behind the message to decrypt in place.
    let mut frame = Vec::with_capacity(length + 16);
    let got = (&mut *from)
        .take(length as u64)
        .read_to_end(&mut frame)
        .await
        .map_err(|_| Fault::Lost)?;
    if got < length {
        return Err(Fault::Lost);
    }
    Ok(frame)
}

/// Ends a connection that owes an answer and says nothing; asks an idle one whether it lives.
async fn guard(shared: Weak<Shared>, silence: Duration) {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let heard = shared.begun + Duration::from_millis(shared.heard.load(Ordering::Relaxed));
        let (oldest, patient) = {
            let state = shared.state();
            if state.dead.is_some() {
                return;
            }
            let oldest = state.waiting.values().filter_map(|w| w.since).min();
            (oldest, !state.waiting.is_empty())
        };
        match oldest {
            Some(oldest) if heard.max(oldest).elapsed() > silence => {
                return shared.die(&Fault::Lost);
            }
            None if heard.elapsed() > if patient { silence } else { ECHO } => {
                let echo = smb2::msg::echo::EchoRequest;
                let sent = shared.send(&[Ask::new(Command::Echo, &echo)]).await;
                drop(sent);
            }
            _ => {}
        }
    }
}

/// What a login hands over to become a connection.
pub(crate) struct Login {
    pub(crate) from: OwnedReadHalf,
    pub(crate) to: OwnedWriteHalf,
    pub(crate) seal: Seal,
    pub(crate) session: u64,
    pub(crate) next: u64,
    pub(crate) credits: u16,
    pub(crate) limits: Limits,
    pub(crate) silence: Duration,
    pub(crate) breaks: mpsc::UnboundedSender<lease::Break>,
}

impl Link {
    pub(crate) fn new(login: Login) -> Self {
        let shared = Arc::new(Shared {
            writer: tokio::sync::Mutex::new(login.to),
            state: Mutex::default(),
            credits: Semaphore::new(usize::from(login.credits.max(1))),
            over: watch::Sender::new(false),
            next: AtomicU64::new(login.next),
            seal: login.seal,
            session: login.session,
            breaks: login.breaks,
            begun: Instant::now(),
            heard: AtomicU64::new(0),
        });
        tokio::spawn(read(login.from, Arc::clone(&shared)));
        tokio::spawn(guard(Arc::downgrade(&shared), login.silence));
        Self {
            shared,
            limits: login.limits,
        }
    }

    /// The tree that requests are about from now on.
    pub(crate) fn set_tree(&self, tree: TreeId) {
        self.shared.state().tree = tree;
    }

    pub(crate) fn session(&self) -> u64 {
        self.shared.session
    }

    /// Why the connection is dead, if it is.
    pub(crate) fn dead(&self) -> Option<Fault> {
        self.shared.state().dead.clone()
    }

    /// Gives the connection up; everyone who waits hears [`Fault::Lost`].
    pub(crate) fn give_up(&self) {
        self.shared.die(&Fault::Lost);
    }

    /// Tells the server that a lease is given up which it has taken back.
    pub(crate) async fn acknowledge(&self, broken: &lease::Break) {
        if let Some(acknowledgement) = broken.acknowledgement() {
            let ask = Ask::new(Command::OplockBreak, &acknowledgement);
            let _ = self.ask(ask).await;
        }
    }

    /// Asks and waits for the answer; a refusal is a [`Fault::Status`].
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Reply, Fault> {
        let mut replies = self.chain(&[ask]).await?;
        replies.pop().unwrap_or(Err(Fault::Lost))
    }

    /// Asks several things about one file at once; each after the first is about what the first
    /// opened.
    pub(crate) async fn chain(&self, asks: &[Ask<'_>]) -> Result<Vec<Result<Reply, Fault>>, Fault> {
        let answers = self.shared.send(asks).await?;
        let mut replies = Vec::with_capacity(answers.len());
        for answer in answers {
            let reply = answer.await.unwrap_or(Err(Fault::Lost));
            replies.push(reply.and_then(refusal));
        }
        Ok(replies)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.die(&Fault::Lost);
    }
}

/// Turns a refusal into a fault. Warnings (0x8...) are answers.
fn refusal(reply: Reply) -> Result<Reply, Fault> {
    match reply.header.status.0 {
        refused if refused >> 30 == 3 => Err(Fault::Status(refused)),
        _ => Ok(reply),
    }
}
