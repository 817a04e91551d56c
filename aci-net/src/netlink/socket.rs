//! A netlink socket that is used by one thread: it sends a batch of requests in one call and reads
//! the answer to each.

use std::fmt;
use std::io;

use netlink_sys::{Socket as RawSocket, SocketAddr};
use rustix::io::Errno;

use super::codec::{ACK, DUMP, Message, Request, attributes, messages, read_text, read_u32};

/// The message that acknowledges or refuses.
const ERROR: u16 = 2;
/// The message that ends a dump.
const DONE: u16 = 3;
/// Set on an answer whose error carries attributes.
const ACK_TLVS: u16 = 0x200;
/// The answer left the request's content out.
const CAPPED: u16 = 0x100;
/// A dump was disturbed by a change.
const DUMP_INTERRUPTED: u16 = 0x10;
/// The attribute with the kernel's sentence.
const ERROR_TEXT: u16 = 1;
/// Fits every datagram that the kernel makes for a dump.
const BUFFER: usize = 64 * 1024;
/// How often a dump that was disturbed is repeated.
const DUMP_TRIES: u32 = 8;

/// A request that the kernel refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// What was asked.
    pub(crate) what: &'static str,
    /// Why not.
    pub(crate) errno: Errno,
    /// The kernel's own sentence, if it gave one.
    pub(crate) text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno)?;
        if let Some(text) = &self.text {
            write!(f, " ({text})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// A failure of the socket itself.
    pub(crate) fn io(what: &'static str, error: &io::Error) -> Self {
        Self {
            what,
            errno: Errno::from_io_error(error).unwrap_or(Errno::IO),
            text: None,
        }
    }
}

/// A socket of one netlink family, in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    inner: RawSocket,
    sequence: u32,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket of a netlink protocol.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut inner = RawSocket::new(protocol)?;
        inner.bind_auto()?;
        inner.connect(&SocketAddr::new(0, 0))?;
        // Both only make answers richer or shorter; kernels before 4.12 have none of them.
        let _ = inner.set_ext_ack(true);
        let _ = inner.set_cap_ack(true);
        Ok(Self { inner, sequence: 0 })
    }

    /// Lets one message and its answers be as large as a firewall of thousands of rules.
    pub(crate) fn allow_large(&mut self) {
        use rustix::net::sockopt;
        const LARGE: usize = 32 * 1024 * 1024;
        // Without `CAP_NET_ADMIN` in the first user namespace only as far as the system's limit.
        let socket = &self.inner;
        if sockopt::set_socket_send_buffer_size_force(socket, LARGE).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(socket, LARGE);
        }
    }

    /// Sends requests in one datagram and returns the answer to each. The kernel carries out every
    /// request of a batch, also those after a refused one, in order. Only the last one is asked to be
    /// acknowledged: what is refused is always answered, and before it.
    pub(crate) fn batch(&mut self, requests: Vec<Request>) -> Vec<Result<(), Refusal>> {
        let first = self.sequence.wrapping_add(1);
        let mut names = Vec::with_capacity(requests.len());
        let mut datagram = Vec::new();
        let count = requests.len();
        for (at, request) in requests.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            names.push(request.what());
            let flags = if at + 1 == count { ACK } else { 0 };
            request.write(&mut datagram, self.sequence, flags);
        }
        let mut answers: Vec<Result<(), Refusal>> = vec![Ok(()); names.len()];
        let mut open = count > 0;
        let mut failed = if open {
            self.send(&datagram).err()
        } else {
            None
        };
        while open && failed.is_none() {
            let received = self.receive(|message| {
                let place = message.sequence.wrapping_sub(first) as usize;
                if message.kind != ERROR || place >= names.len() {
                    return;
                }
                answers[place] = answer(names[place], &message);
                open &= place + 1 < count;
            });
            failed = received.err();
        }
        match failed {
            Some(lost) => names
                .into_iter()
                .map(|what| Err(Refusal::io(what, &lost)))
                .collect(),
            None => answers,
        }
    }

    /// Sends requests that are carried out all together or not at all, between the messages that
    /// begin and end such a transaction (nf_tables).
    pub(crate) fn transaction(
        &mut self,
        begin: Request,
        requests: Vec<Request>,
        end: Request,
    ) -> Result<(), Refusal> {
        let whole = begin.what();
        self.sequence = self.sequence.wrapping_add(1);
        let opening = self.sequence;
        let mut datagram = Vec::new();
        begin.write(&mut datagram, opening, 0);
        let count = requests.len();
        let mut names = Vec::with_capacity(count);
        for (at, request) in requests.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            names.push(request.what());
            // Refusals are always answered, and before the answer to the last request.
            let flags = if at + 1 == count { ACK } else { 0 };
            request.write(&mut datagram, self.sequence, flags);
        }
        self.sequence = self.sequence.wrapping_add(1);
        end.write(&mut datagram, self.sequence, 0);
        let fail = |error: io::Error| Refusal::io(whole, &error);
        self.send(&datagram).map_err(fail)?;
        let mut refusal = None;
        let mut over = count == 0;
        while !over {
            self.receive(|message| {
                let place = message.sequence.wrapping_sub(opening) as usize;
                if message.kind != ERROR || place > count + 1 {
                    return;
                }
                // The transaction as a whole was refused, or this answers a single request.
                let name = names.get(place.wrapping_sub(1)).unwrap_or(&whole);
                if refusal.is_none() {
                    refusal = answer(name, &message).err();
                }
                over |= place == 0 || place >= count;
            })
            .map_err(fail)?;
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends requests and returns the first refusal.
    pub(crate) fn all(&mut self, requests: Vec<Request>) -> Result<(), Refusal> {
        self.batch(requests).into_iter().collect()
    }

    /// Sends one request.
    pub(crate) fn one(&mut self, request: Request) -> Result<(), Refusal> {
        self.all(vec![request])
    }

    /// Asks for one object and hands its message's body to `read`.
    pub(crate) fn get<T>(
        &mut self,
        request: Request,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let what = request.what();
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let fail = |error: io::Error| Refusal::io(what, &error);
        self.send(&request.finish(sequence, 0)).map_err(fail)?;
        loop {
            let mut found = None;
            self.receive(|message| {
                if message.sequence == sequence && found.is_none() {
                    found = Some(if message.kind == ERROR {
                        answer(what, &message).map(|()| None)
                    } else {
                        Ok(read(message.body))
                    });
                }
            })
            .map_err(fail)?;
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// Asks for all objects; `read` gets each message's body and returns what it makes of it. A dump
    /// that a change disturbed is repeated, because objects may be missing in it.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        let what = request.what();
        for _ in 0..DUMP_TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            let fail = |error: io::Error| Refusal::io(what, &error);
            self.send(&request.clone().finish(sequence, DUMP))
                .map_err(fail)?;
            let mut found = Vec::new();
            let mut end = None;
            let mut disturbed = false;
            while end.is_none() {
                self.receive(|message| {
                    if message.sequence != sequence || end.is_some() {
                        return;
                    }
                    disturbed |= message.flags & DUMP_INTERRUPTED != 0;
                    match message.kind {
                        DONE | ERROR => end = Some(answer(what, &message)),
                        _ => found.extend(read(message.body)),
                    }
                })
                .map_err(fail)?;
            }
            if let Some(Err(refusal)) = end {
                return Err(refusal);
            }
            if !disturbed {
                return Ok(found);
            }
        }
        Err(Refusal {
            what,
            errno: Errno::AGAIN,
            text: Some("the listing was disturbed by changes again and again".to_owned()),
        })
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        loop {
            match self.inner.send(datagram, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&self, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            match self.inner.recv(&mut buffer, 0) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        messages(&buffer).for_each(&mut each);
        Ok(())
    }
}

/// Reads an acknowledgement or the end of a dump: a negative errno, or zero.
fn answer(what: &'static str, message: &Message<'_>) -> Result<(), Refusal> {
    let code = read_u32(message.body).map_or(0, u32::cast_signed);
    if code == 0 {
        return Ok(());
    }
    // After the code comes the refused request, its header alone when capped, then attributes.
    let text = (message.flags & ACK_TLVS != 0)
        .then(|| {
            let request = message.body.get(4..)?;
            let skip = if message.flags & CAPPED != 0 {
                16
            } else {
                usize::try_from(read_u32(request)?)
                    .ok()?
                    .next_multiple_of(4)
            };
            attributes(request.get(skip..)?)
                .find(|(kind, _)| *kind == ERROR_TEXT)
                .map(|(_, value)| read_text(value))
        })
        .flatten();
    Err(Refusal {
        what,
        errno: Errno::from_raw_os_error(code.saturating_neg()),
        text,
    })
}
