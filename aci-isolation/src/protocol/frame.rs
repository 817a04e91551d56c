//! Frames on a stream: 4 bytes length (little endian), 1 byte number of descriptors, the payload
//! in postcard form. Descriptors travel with the frame's first byte.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroize;

/// The longest payload that is accepted, in bytes.
pub(crate) const MAX: usize = 32 << 20;
/// The most descriptors with one frame.
pub(crate) const MAX_FDS: u8 = 4;
/// Bytes before the payload.
pub(crate) const HEADER: usize = 5;

/// Why bytes are not a frame of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Longer than [`MAX`].
    TooLong,
    /// More descriptors than [`MAX_FDS`].
    TooManyDescriptors,
    /// The payload is not a message, or not only one.
    Payload,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a message is longer than 32 MiB",
            Self::TooManyDescriptors => "a message brings more than 4 descriptors",
            Self::Payload => "a message cannot be read",
        })
    }
}

/// A message as a frame.
pub(crate) fn encode<T: Serialize>(message: &T, fds: u8) -> Result<Vec<u8>, Malformed> {
    if fds > MAX_FDS {
        return Err(Malformed::TooManyDescriptors);
    }
    // The size is known beforehand, so that no half-filled buffer with secrets is left behind.
    let size = postcard::experimental::serialized_size(message).map_err(|_| Malformed::Payload)?;
    let mut bytes = Vec::with_capacity(HEADER + size);
    bytes.extend_from_slice(&[0, 0, 0, 0, fds]);
    let mut bytes = postcard::to_extend(message, bytes).map_err(|_| Malformed::Payload)?;
    let length = bytes.len() - HEADER;
    if length > MAX {
        bytes.zeroize();
        return Err(Malformed::TooLong);
    }
    let length = u32::try_from(length).map_err(|_| Malformed::TooLong)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Gathers received bytes and cuts them into frames. What was read is wiped.
#[derive(Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Adds received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() < self.bytes.len() + bytes.len() {
            // Grow by hand so that the old place is wiped.
            let mut larger =
                Vec::with_capacity((self.bytes.len() + bytes.len()).next_power_of_two());
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message and its number of descriptors, if it is there.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<(T, u8)>, Malformed> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).map_err(|_| Malformed::TooLong)?;
        let fds = header[4];
        if length > MAX {
            return Err(Malformed::TooLong);
        }
        if fds > MAX_FDS {
            return Err(Malformed::TooManyDescriptors);
        }
        let end = HEADER + length;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let Ok((message, [])) = postcard::take_from_bytes(&self.bytes[HEADER..end]) else {
            return Err(Malformed::Payload);
        };
        let rest = self.bytes.split_off(end);
        self.bytes.zeroize();
        self.bytes = rest;
        Ok(Some((message, fds)))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}
