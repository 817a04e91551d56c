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

/// What a server grants, as its answer to an open says; 0 is nothing.
pub(crate) fn granted(contexts: &[CreateContext]) -> u32 {
    create_context::find(contexts, NAME)
        .and_then(|context| context.data.get(16..20)?.first_chunk().copied())
        .map_or(0, u32::from_le_bytes)
}

/// A server's notice that it takes a lease back.
#[derive(Debug)]
pub(crate) struct Break {
    acknowledge: bool,
    key: [u8; 16],
    state: u32,
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
            state: word(28),
        })
    }

    /// What the lease was asked for by.
    pub(crate) fn key(&self) -> [u8; 16] {
        self.key
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> u32 {
        self.state
    }

    /// The acknowledgement, if the server waits for one.
    pub(crate) fn acknowledgement(&self) -> Option<Acknowledgement> {
        self.acknowledge.then_some(Acknowledgement {
            key: self.key,
            state: self.state,
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
