//! Leases (MS-SMB2 2.2.13.2.10, 2.2.23.2, 2.2.24.2): asked for so that an open file outlives a
//! connection, and so that writes may be answered before the server has them. A break is
//! acknowledged when it has them.

use smb2::msg::create_context::{self, CreateContext};
use smb2::pack::{Pack, WriteCursor};

const NAME: &[u8] = b"RqLs";
/// What is read may be kept, what is closed may stay open.
pub(crate) const READ_HANDLE: u32 = 0x1 | 0x2;
/// What is written may wait: nobody else has the file open.
pub(crate) const WRITE: u32 = 0x4;

/// The context that asks for a lease of version 2.
pub(crate) fn context(key: [u8; 16], state: u32) -> CreateContext {
    let mut data = Vec::with_capacity(52);
    data.extend_from_slice(&key);
    data.extend_from_slice(&state.to_le_bytes());
    data.resize(52, 0);
    CreateContext::new(NAME, data)
}

/// What a server grants, and a number that grows with each change of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) state: u32,
    pub(crate) epoch: u16,
}

impl Granted {
    /// Whether this was said after another.
    pub(crate) fn is_after(self, other: Self) -> bool {
        (1..0x8000).contains(&self.epoch.wrapping_sub(other.epoch))
    }
}

/// What a server grants, as its answer to an open says; nothing by default.
pub(crate) fn granted(contexts: &[CreateContext]) -> Granted {
    let read = || {
        let data = &create_context::find(contexts, NAME)?.data;
        let state = data.get(16..20)?.first_chunk().copied()?;
        let epoch = data.get(48..50).and_then(|e| e.first_chunk().copied());
        Some(Granted {
            state: u32::from_le_bytes(state),
            epoch: epoch.map_or(0, u16::from_le_bytes),
        })
    };
    read().unwrap_or_default()
}

/// A server's notice that it takes a lease back.
#[derive(Debug)]
pub(crate) struct Break {
    acknowledge: bool,
    key: [u8; 16],
    left: Granted,
}

/// Length of a lease break notice; an oplock's is 24.
const LENGTH: u16 = 44;

impl Break {
    /// Reads the body of an unsolicited message; `None` if it is none of a lease.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        if body.len() < usize::from(LENGTH) || body[..2] != LENGTH.to_le_bytes() {
            return None;
        }
        let word =
            |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
        Some(Self {
            acknowledge: word(4) & 1 != 0,
            key: body[8..24].try_into().ok()?,
            left: Granted {
                state: word(28),
                epoch: u16::from_le_bytes([body[2], body[3]]),
            },
        })
    }

    /// What the lease was asked for by.
    pub(crate) fn key(&self) -> [u8; 16] {
        self.key
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Granted {
        self.left
    }

    /// The acknowledgement, if the server waits for one.
    pub(crate) fn acknowledgement(&self) -> Option<Acknowledgement> {
        self.acknowledge.then_some(Acknowledgement {
            key: self.key,
            state: self.left.state,
        })
    }
}

/// Our acknowledgement of a broken lease.
pub(crate) struct Acknowledgement {
    key: [u8; 16],
    state: u32,
}

impl Pack for Acknowledgement {
    fn pack(&self, cursor: &mut WriteCursor) {
        cursor.write_u16_le(36);
        cursor.write_u16_le(0);
        cursor.write_u32_le(0);
        cursor.write_bytes(&self.key);
        cursor.write_u32_le(self.state);
        cursor.write_u64_le(0);
    }
}
