//! Finds, in a stream of the agent's protocol, the places where descriptors belong.

use crate::protocol::frame::{HEADER, MAX, MAX_FDS, Malformed};

/// A part of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Bytes(Vec<u8>),
    /// So many descriptors go with the next byte.
    Descriptors(u8),
}

/// Where in the stream of frames it is.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    header: Vec<u8>,
    /// Bytes that the frame still has.
    rest: usize,
}

impl Cutter {
    /// Cuts received bytes. A header is held back until it is whole.
    pub(crate) fn cut(&mut self, mut bytes: &[u8]) -> Result<Vec<Part>, Malformed> {
        let mut parts = Vec::new();
        let mut run = Vec::new();
        while !bytes.is_empty() {
            if self.rest > 0 {
                let count = self.rest.min(bytes.len());
                run.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                self.rest -= count;
                continue;
            }
            let count = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            let Some(header) = self.header.first_chunk::<HEADER>() else {
                break;
            };
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            self.rest = usize::try_from(length).unwrap_or(usize::MAX);
            if self.rest > MAX {
                return Err(Malformed::TooLong);
            }
            match header[4] {
                0 => {}
                count if count > MAX_FDS => return Err(Malformed::TooManyDescriptors),
                count => {
                    if !run.is_empty() {
                        parts.push(Part::Bytes(std::mem::take(&mut run)));
                    }
                    parts.push(Part::Descriptors(count));
                }
            }
            run.append(&mut self.header);
        }
        if !run.is_empty() {
            parts.push(Part::Bytes(run));
        }
        Ok(parts)
    }
}
