//! Channels over frames: a state machine without input or output.
//!
//! Every channel has a window: its sender has at most [`WINDOW`] bytes on the way that the receiver
//! has not passed on yet. So a flood on one channel fills that channel's window and nothing else,
//! and neither side ever holds more than a window for each channel. What the other side does
//! against these rules is garbage, and ends the line; it never costs memory.
//!
//! Channels are numbered by the side that makes them, the host's odd, the guest's even, never
//! twice, so that what is still on its way to a closed channel is told from what never was one.

use std::collections::BTreeMap;

use zeroize::Zeroize;

use super::wire::{self, Decoder, Greeting, Kind, Piece};

/// Bytes of one channel on their way at once.
pub(crate) const WINDOW: usize = 64 * 1024;
/// The most bytes in one frame: what others wait for on a slow line.
pub(crate) const DATA: usize = 4 * 1024;
/// More channels of the other side at once are taken for an attack: what a host's may be, which is
/// trusted, and a guest's, which costs the host descriptors.
const MOST: [usize; 2] = [4096, 512];
/// With so many bytes waiting for the line no more are taken in.
pub(crate) const FULL: usize = 4 * DATA;
/// Descriptors with one message (`frame::MAX_FDS`).
const MAX_FDS: usize = 4;

/// Which end of the line this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Host,
    Guest,
}

/// What stands for a passed descriptor on the side that receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing; it is `/dev/null` there too.
    Null,
    /// It is read there.
    Read,
    /// It is written there.
    Write,
    /// Both.
    Both,
}

impl End {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Null,
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::Both,
            _ => return None,
        })
    }

    fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// What the other side did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A connection begins: all channels are gone.
    Greeted(Greeting),
    Opened {
        channel: u32,
        target: Vec<u8>,
    },
    /// New channels, in the order of the descriptors; they go with the next byte of `channel`.
    Attached {
        channel: u32,
        ends: Vec<(u32, End)>,
    },
    Data {
        channel: u32,
        bytes: Vec<u8>,
    },
    /// There will be no more data.
    Fin(u32),
    /// Data is not wanted any more.
    Stop(u32),
    Resize {
        channel: u32,
        rows: u16,
        columns: u16,
    },
}

/// Why the line cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Garbage {
    Frame,
    UnknownChannel,
    WrongNumber,
    TooManyChannels,
    Window,
    Credit,
    Payload,
    Role,
}

impl std::fmt::Display for Garbage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Frame => "bytes that are no frame",
            Self::UnknownChannel => "a frame of a channel that never was",
            Self::WrongNumber => "a channel number out of turn",
            Self::TooManyChannels => "more channels than anybody needs",
            Self::Window => "more data than the window of a channel allows",
            Self::Credit => "more credit than a window",
            Self::Payload => "a frame with a wrong payload",
            Self::Role => "a frame that only the host sends",
        })
    }
}

#[derive(Debug)]
struct Channel {
    /// What may be sent now.
    credit: usize,
    /// What the other side may send now.
    granted: usize,
    /// What was passed on and not granted anew yet.
    owed: usize,
    sending: bool,
    receiving: bool,
    /// Descriptors have come without the byte that they go with.
    attached: bool,
}

/// One end of the line.
#[derive(Debug)]
pub(crate) struct Mux {
    side: Side,
    decoder: Decoder,
    tag: Option<u32>,
    channels: BTreeMap<u32, Channel>,
    /// The last channel made here, and the last of the other side.
    own: u32,
    theirs: u32,
    out: Vec<u8>,
    written: usize,
}

impl Mux {
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            decoder: Decoder::default(),
            tag: None,
            channels: BTreeMap::new(),
            own: 0,
            theirs: 0,
            out: Vec::new(),
            written: 0,
        }
    }

    /// Begins a connection; the host's first act.
    pub(crate) fn greet(&mut self, greeting: Greeting) {
        self.out.resize(self.out.len() + wire::PADDING, 0);
        self.out.extend_from_slice(&greeting.encode());
        self.tag = Some(greeting.tag);
    }

    /// Forgets the connection: a guest whose host is gone.
    pub(crate) fn forget(&mut self) {
        self.begin(None);
        self.decoder.lose();
    }

    fn begin(&mut self, tag: Option<u32>) {
        self.channels.clear();
        self.out.clear();
        (self.written, self.own, self.theirs, self.tag) = (0, 0, 0, tag);
    }

    /// What waits for the line.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// So many of the pending bytes are on the line.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.written == self.out.len() {
            // Conversations hold secrets.
            self.out.zeroize();
            self.written = 0;
        } else if self.written > 64 * 1024 {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    fn frame(&mut self, kind: Kind, channel: u32, payload: &[u8]) {
        if let Some(tag) = self.tag {
            wire::frame(&mut self.out, tag, kind, channel, payload);
        }
    }

    fn first_own(&self) -> u32 {
        match self.side {
            Side::Host => 1,
            Side::Guest => 2,
        }
    }

    fn make(&mut self, sending: bool, receiving: bool) -> u32 {
        self.own = match self.own {
            0 => self.first_own(),
            last => last.wrapping_add(2),
        };
        self.insert(self.own, sending, receiving);
        self.own
    }

    fn insert(&mut self, number: u32, sending: bool, receiving: bool) {
        let channel = Channel {
            credit: WINDOW,
            granted: WINDOW,
            owed: 0,
            sending,
            receiving,
            attached: false,
        };
        self.channels.insert(number, channel);
    }

    /// Opens a channel to a target.
    pub(crate) fn open(&mut self, target: &[u8]) -> u32 {
        let number = self.make(true, true);
        self.frame(Kind::Open, number, target);
        number
    }

    /// Makes channels for descriptors that go with the next byte of `channel`.
    pub(crate) fn attach(&mut self, channel: u32, ends: &[End]) -> Vec<u32> {
        let mut payload = Vec::new();
        let mut numbers = Vec::new();
        for end in ends.iter().take(MAX_FDS) {
            let number = match end {
                End::Null => 0,
                end => self.make(end.reads(), end.writes()),
            };
            payload.extend_from_slice(&number.to_le_bytes());
            payload.push(*end as u8);
            numbers.push(number);
        }
        self.frame(Kind::Attach, channel, &payload);
        numbers
    }

    /// How many bytes [`Mux::send`] takes for a channel now.
    pub(crate) fn room(&self, channel: u32) -> usize {
        if self.tag.is_none() || self.pending().len() >= FULL {
            return 0;
        }
        self.channels
            .get(&channel)
            .filter(|channel| channel.sending)
            .map_or(0, |channel| channel.credit.min(DATA))
    }

    /// Sends bytes within the room.
    pub(crate) fn send(&mut self, number: u32, bytes: &[u8]) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if !channel.sending || bytes.is_empty() {
            return;
        }
        debug_assert!(bytes.len() <= channel.credit);
        channel.credit = channel.credit.saturating_sub(bytes.len());
        self.frame(Kind::Data, number, bytes);
    }

    /// There is no more to send.
    pub(crate) fn fin(&mut self, number: u32) {
        if let Some(channel) = self.channels.get_mut(&number)
            && std::mem::take(&mut channel.sending)
        {
            self.frame(Kind::Fin, number, &[]);
            self.sweep(number);
        }
    }

    /// No more is taken.
    pub(crate) fn stop(&mut self, number: u32) {
        if let Some(channel) = self.channels.get_mut(&number)
            && std::mem::take(&mut channel.receiving)
        {
            self.frame(Kind::Stop, number, &[]);
            self.sweep(number);
        }
    }

    /// A terminal's new size.
    pub(crate) fn resize(&mut self, number: u32, rows: u16, columns: u16) {
        if self.channels.contains_key(&number) {
            let [a, b] = rows.to_le_bytes();
            let [c, d] = columns.to_le_bytes();
            self.frame(Kind::Resize, number, &[a, b, c, d]);
        }
    }

    /// So many received bytes were passed on.
    pub(crate) fn passed_on(&mut self, number: u32, count: usize) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        channel.owed += count;
        if !channel.receiving || channel.owed < WINDOW / 2 {
            return;
        }
        let owed = std::mem::take(&mut channel.owed);
        channel.granted += owed;
        let owed = u32::try_from(owed).unwrap_or(u32::MAX);
        self.frame(Kind::Credit, number, &owed.to_le_bytes());
    }

    /// Whether bytes may still be sent on a channel, now or with more credit.
    pub(crate) fn sending(&self, number: u32) -> bool {
        self.channels
            .get(&number)
            .is_some_and(|channel| channel.sending)
    }

    fn sweep(&mut self, number: u32) {
        let done = |channel: &Channel| !channel.sending && !channel.receiving;
        if self.channels.get(&number).is_some_and(done) {
            self.channels.remove(&number);
        }
    }

    /// Takes what the line brought.
    pub(crate) fn receive(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Garbage> {
        self.decoder.push(bytes);
        loop {
            match self.decoder.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Piece::Greeting(greeting))) => self.greeted(greeting, events)?,
                Ok(Some(Piece::Frame {
                    kind,
                    channel,
                    payload,
                })) => self.frame_received(kind, channel, payload, events)?,
                // What an earlier host left; this one's greeting is on its way.
                Err(wire::NoFrame) if self.side == Side::Guest => self.decoder.lose(),
                Err(wire::NoFrame) => return Err(Garbage::Frame),
            }
        }
    }

    fn greeted(&mut self, greeting: Greeting, events: &mut Vec<Event>) -> Result<(), Garbage> {
        match self.side {
            Side::Guest => {
                self.begin(Some(greeting.tag));
                self.out.extend_from_slice(&greeting.encode());
                events.clear();
            }
            // An answer to an earlier host.
            Side::Host if self.tag != Some(greeting.tag) => {
                self.decoder.lose();
                return Ok(());
            }
            Side::Host => {}
        }
        events.push(Event::Greeted(greeting));
        Ok(())
    }

    /// A channel that is open; `None` if it is closed already.
    fn known(&mut self, number: u32) -> Result<Option<&mut Channel>, Garbage> {
        let parity = self.first_own() & 1;
        let last = if number & 1 == parity {
            self.own
        } else {
            self.theirs
        };
        if number == 0 || number > last {
            return Err(Garbage::UnknownChannel);
        }
        Ok(self.channels.get_mut(&number))
    }

    /// Notes a channel that the other side has made.
    fn made(&mut self, number: u32, sending: bool, receiving: bool) -> Result<(), Garbage> {
        let first = 3 - self.first_own();
        let due = match self.theirs {
            0 => first,
            last => last.wrapping_add(2),
        };
        if number != due {
            return Err(Garbage::WrongNumber);
        }
        let most = match self.side {
            Side::Guest => MOST[0],
            Side::Host => MOST[1],
        };
        let theirs = self.channels.keys().filter(|key| *key & 1 == first & 1);
        if theirs.count() >= most {
            return Err(Garbage::TooManyChannels);
        }
        self.theirs = number;
        self.insert(number, sending, receiving);
        Ok(())
    }

    fn frame_received(
        &mut self,
        kind: Kind,
        number: u32,
        payload: Vec<u8>,
        events: &mut Vec<Event>,
    ) -> Result<(), Garbage> {
        match kind {
            Kind::Open => {
                if self.side == Side::Host {
                    return Err(Garbage::Role);
                }
                self.made(number, true, true)?;
                events.push(Event::Opened {
                    channel: number,
                    target: payload,
                });
            }
            Kind::Attach => {
                if let Some(channel) = self.known(number)?
                    && std::mem::replace(&mut channel.attached, true)
                {
                    return Err(Garbage::Payload);
                }
                if !payload.len().is_multiple_of(5)
                    || payload.is_empty()
                    || payload.len() > 5 * MAX_FDS
                {
                    return Err(Garbage::Payload);
                }
                let mut ends = Vec::new();
                for entry in payload.chunks_exact(5) {
                    let channel = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
                    let end = End::of(entry[4]).ok_or(Garbage::Payload)?;
                    match end {
                        End::Null if channel == 0 => {}
                        End::Null => return Err(Garbage::Payload),
                        end => self.made(channel, end.writes(), end.reads())?,
                    }
                    ends.push((channel, end));
                }
                events.push(Event::Attached {
                    channel: number,
                    ends,
                });
            }
            Kind::Data => {
                let Some(channel) = self.known(number)?.filter(|channel| channel.receiving) else {
                    return Ok(());
                };
                if payload.len() > channel.granted {
                    return Err(Garbage::Window);
                }
                channel.granted -= payload.len();
                channel.attached = false;
                events.push(Event::Data {
                    channel: number,
                    bytes: payload,
                });
            }
            Kind::Credit => {
                let Ok(count) = <[u8; 4]>::try_from(payload.as_slice()) else {
                    return Err(Garbage::Payload);
                };
                let count = usize::try_from(u32::from_le_bytes(count)).unwrap_or(usize::MAX);
                if let Some(channel) = self.known(number)? {
                    channel.credit = channel.credit.saturating_add(count);
                    if channel.credit > WINDOW {
                        return Err(Garbage::Credit);
                    }
                }
            }
            Kind::Fin | Kind::Stop => {
                let Some(channel) = self.known(number)? else {
                    return Ok(());
                };
                let (half, event) = if kind == Kind::Fin {
                    (&mut channel.receiving, Event::Fin(number))
                } else {
                    (&mut channel.sending, Event::Stop(number))
                };
                if std::mem::take(half) {
                    events.push(event);
                    self.sweep(number);
                }
            }
            Kind::Resize => {
                let Ok([a, b, c, d]) = <[u8; 4]>::try_from(payload.as_slice()) else {
                    return Err(Garbage::Payload);
                };
                if self.side == Side::Host {
                    return Err(Garbage::Role);
                }
                if self.known(number)?.is_some() {
                    events.push(Event::Resize {
                        channel: number,
                        rows: u16::from_le_bytes([a, b]),
                        columns: u16::from_le_bytes([c, d]),
                    });
                }
            }
        }
        Ok(())
    }
}
