//! Writing and reading netlink messages: a header, a family's fixed part, then attributes that are
//! padded to four bytes (`include/uapi/linux/netlink.h`).

/// The request flag.
pub(crate) const REQUEST: u16 = 0x1;
/// Asks for an acknowledgement.
pub(crate) const ACK: u16 = 0x4;
/// Asks for all objects.
pub(crate) const DUMP: u16 = 0x300;
/// Replaces an existing object.
pub(crate) const REPLACE: u16 = 0x100;
/// Refuses to touch an existing object.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// Creates the object.
pub(crate) const CREATE: u16 = 0x400;

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
/// The bits of an attribute's kind that are no flags.
const KIND: u16 = 0x3fff;

/// A request that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    what: &'static str,
}

impl Request {
    /// A request of a kind; `what` names it in errors ("create the veth pair").
    pub(crate) fn new(what: &'static str, kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes, what }
    }

    /// What the request is for.
    pub(crate) const fn what(&self) -> &'static str {
        self.what
    }

    /// Appends a fixed part, padded.
    pub(crate) fn raw(mut self, part: &[u8]) -> Self {
        self.bytes.extend_from_slice(part);
        self.pad();
        self
    }

    /// Appends an attribute. Values are far below the 64 KiB that its length can say.
    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a number in the machine's byte order.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a text with its closing zero.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends an attribute that holds what `inner` writes.
    pub(crate) fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut this = inner(self);
        let length = u16::try_from(this.bytes.len() - start).unwrap_or(u16::MAX);
        this.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        this
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Appends the finished message to a datagram.
    pub(crate) fn write(self, datagram: &mut Vec<u8>, sequence: u32, flags: u16) {
        datagram.extend_from_slice(&self.finish(sequence, flags));
    }

    /// The finished message, with a sequence number and further flags.
    pub(crate) fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let mine = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(mine | flags).to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// Its kind.
    pub(crate) kind: u16,
    /// Its flags.
    pub(crate) flags: u16,
    /// The request that it answers.
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// The messages of a datagram; ends at the first that is cut off.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(read_u32(bytes)?).ok()?;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = Message {
            kind: read_u16(&bytes[4..])?,
            flags: read_u16(&bytes[6..])?,
            sequence: read_u32(&bytes[8..])?,
            body: &bytes[HEADER..length],
        };
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some(message)
    })
}

/// The attributes in a part of a message, as kind and value; ends at the first that is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(bytes)?);
        if length < 4 || length > bytes.len() {
            return None;
        }
        let kind = read_u16(&bytes[2..])? & KIND;
        let value = &bytes[4..length];
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

/// The first two bytes as a number in the machine's order.
pub(crate) fn read_u16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|c| u16::from_ne_bytes(*c))
}

/// The first four bytes as a number in the machine's order.
pub(crate) fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|c| u32::from_ne_bytes(*c))
}

/// A text attribute without its closing zero.
pub(crate) fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn attributes_read_back(
            flat in prop::collection::vec((1u16..100, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            inner in prop::collection::vec((1u16..100, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            sequence: u32,
        ) {
            let mut request = Request::new("test", 16, CREATE).raw(&[7; 16]);
            for (kind, value) in &flat {
                request = request.attr(*kind, value);
            }
            request = request.nest(200, |mut nested| {
                for (kind, value) in &inner {
                    nested = nested.attr(*kind, value);
                }
                nested
            });
            let bytes = request.finish(sequence, ACK);
            prop_assert_eq!(bytes.len() % 4, 0);
            let all: Vec<_> = messages(&bytes).collect();
            prop_assert_eq!(all.len(), 1);
            prop_assert_eq!(all[0].sequence, sequence);
            prop_assert_eq!(all[0].flags, REQUEST | ACK | CREATE);
            let read: Vec<_> = attributes(&all[0].body[16..]).collect();
            prop_assert_eq!(read.len(), flat.len() + 1);
            for ((kind, value), (read_kind, read_value)) in flat.iter().zip(&read) {
                prop_assert_eq!(kind, read_kind);
                prop_assert_eq!(value.as_slice(), *read_value);
            }
            let nested: Vec<_> = attributes(read[flat.len()].1)
                .map(|(kind, value)| (kind, value.to_vec()))
                .collect();
            prop_assert_eq!(nested, inner);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                for (_, value) in attributes(message.body) {
                    let _ = attributes(value).count();
                }
            }
        }
    }
}
