//! Frames on the line, and how two sides that know nothing of each other find a common beginning.
//!
//! A frame is 1 byte kind, 1 byte 0, 2 bytes length, 4 bytes channel (little endian), the payload,
//! and 4 bytes tag. The tag is chosen by the host for each connection, and never 0: a frame that an
//! earlier host began and did not finish cannot end with it.
//!
//! A host begins with more zeros than a frame is long, which ends any such frame, and a greeting.
//! The guest answers with the same greeting; what comes before it is of an earlier connection.

/// Bytes before the payload.
pub(crate) const HEADER: usize = 8;
/// Bytes after it.
pub(crate) const TRAILER: usize = 4;
/// The longest payload.
pub(crate) const MAX: usize = 16 * 1024;
/// Marks a greeting; its first byte is no kind of a frame.
pub(crate) const MAGIC: [u8; 16] = *b"\xACaci line, v 01\n";
/// Bytes of a greeting.
pub(crate) const GREETING: usize = MAGIC.len() + 16;

/// What a frame does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A new channel of the host's; the payload tells where it leads.
    Open = 1,
    /// New channels that stand for descriptors, which go with the channel's next byte.
    Attach = 2,
    /// Bytes of a channel.
    Data = 3,
    /// The receiver has room for so many more bytes.
    Credit = 4,
    /// The sender has no more bytes.
    Fin = 5,
    /// The sender takes no more bytes.
    Stop = 6,
    /// A terminal's new size.
    Resize = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Attach,
            3 => Self::Data,
            4 => Self::Credit,
            5 => Self::Fin,
            6 => Self::Stop,
            7 => Self::Resize,
            _ => return None,
        })
    }
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// Of all frames of the connection; not 0.
    pub(crate) tag: u32,
    /// The protocol version of the agent that the host has.
    pub(crate) version: u32,
    /// The host's time in microseconds since 1970.
    pub(crate) now: u64,
}

impl Greeting {
    /// Its bytes.
    pub(crate) fn encode(&self) -> [u8; GREETING] {
        let mut out = [0; GREETING];
        out[..16].copy_from_slice(&MAGIC);
        out[16..20].copy_from_slice(&self.tag.to_le_bytes());
        out[20..24].copy_from_slice(&self.version.to_le_bytes());
        out[24..].copy_from_slice(&self.now.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; GREETING]) -> Option<Self> {
        let word = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).ok();
        let now = <[u8; 8]>::try_from(&bytes[24..]).ok()?;
        Some(Self {
            tag: u32::from_le_bytes(word(16)?),
            version: u32::from_le_bytes(word(20)?),
            now: u64::from_le_bytes(now),
        })
        .filter(|greeting| bytes.starts_with(&MAGIC) && greeting.tag != 0)
    }
}

/// Zeros that end whatever frame an earlier host began.
pub(crate) const PADDING: usize = HEADER + MAX + TRAILER;

/// Appends a frame. A payload that is too long is cut, which no caller lets happen.
pub(crate) fn frame(out: &mut Vec<u8>, tag: u32, kind: Kind, channel: u32, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX);
    let payload = &payload[..payload.len().min(MAX)];
    let length = u16::try_from(payload.len()).unwrap_or(0);
    out.extend_from_slice(&[kind as u8, 0]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&channel.to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&tag.to_le_bytes());
}

/// What the line brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Greeting(Greeting),
    Frame {
        kind: Kind,
        channel: u32,
        payload: Vec<u8>,
    },
}

/// Bytes that are no frame, where one must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoFrame;

/// Cuts received bytes into pieces. Holds less than one frame between calls.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    at: usize,
    /// The tag of the connection; before its greeting everything else is passed over.
    tag: Option<u32>,
}

impl Decoder {
    /// Adds received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Passes everything over until the next greeting.
    pub(crate) fn lose(&mut self) {
        self.tag = None;
    }

    /// The next piece. After an error [`Decoder::lose`] is called, or the line given up.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, NoFrame> {
        let Some(tag) = self.tag else {
            return Ok(self.hunt().map(Piece::Greeting));
        };
        while self.bytes.get(self.at) == Some(&0) {
            self.at += 1;
        }
        let rest = &self.bytes[self.at..];
        if rest.first() == Some(&MAGIC[0]) {
            let Some(greeting) = rest.first_chunk::<GREETING>() else {
                return Ok(None);
            };
            let greeting = Greeting::decode(greeting).ok_or(NoFrame)?;
            self.at += GREETING;
            self.tag = Some(greeting.tag);
            return Ok(Some(Piece::Greeting(greeting)));
        }
        let Some(header) = rest.first_chunk::<HEADER>() else {
            return match rest.first() {
                Some(kind) if Kind::of(*kind).is_none() => Err(NoFrame),
                _ => Ok(None),
            };
        };
        let length = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let channel = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let kind = Kind::of(header[0]).filter(|_| header[1] == 0 && length <= MAX);
        let kind = kind.ok_or(NoFrame)?;
        let end = HEADER + length;
        let Some(trailer) = rest.get(end..end + TRAILER) else {
            return Ok(None);
        };
        if trailer != tag.to_le_bytes() {
            return Err(NoFrame);
        }
        let payload = rest[HEADER..end].to_vec();
        self.at += end + TRAILER;
        Ok(Some(Piece::Frame {
            kind,
            channel,
            payload,
        }))
    }

    fn hunt(&mut self) -> Option<Greeting> {
        loop {
            let rest = &self.bytes[self.at..];
            let Some(start) = rest.iter().position(|byte| *byte == MAGIC[0]) else {
                self.at = self.bytes.len();
                return None;
            };
            self.at += start;
            let greeting = self.bytes[self.at..].first_chunk::<GREETING>()?;
            match Greeting::decode(greeting) {
                Some(greeting) => {
                    self.at += GREETING;
                    self.tag = Some(greeting.tag);
                    return Some(greeting);
                }
                None => self.at += 1,
            }
        }
    }
}
