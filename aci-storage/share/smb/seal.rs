//! Encryption of messages: AES-GCM by `ring`, in place (MS-SMB2 2.2.41, 3.1.4.3).

use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::Fault;

/// Length of the header before an encrypted message.
pub(crate) const HEADER: usize = 52;
const PROTOCOL: [u8; 4] = [0xFD, b'S', b'M', b'B'];
const TAG: std::ops::Range<usize> = 4..20;
/// What is authenticated besides the message: nonce, length, flags and session.
const AUTHENTICATED: std::ops::Range<usize> = 20..HEADER;

/// The keys of one session.
pub(crate) struct Seal {
    ours: LessSafeKey,
    theirs: LessSafeKey,
    session: u64,
    // Unique for a key: it counts, and each login makes new keys.
    sent: AtomicU64,
}

impl Seal {
    pub(crate) fn new(session: u64, ours: &[u8], theirs: &[u8]) -> Result<Self, Fault> {
        Ok(Self {
            ours: key(ours)?,
            theirs: key(theirs)?,
            session,
            sent: AtomicU64::new(1),
        })
    }

    /// Encrypts a message in place. The buffer begins with room for the header.
    pub(crate) fn close(&self, buffer: &mut [u8]) -> Result<(), Fault> {
        let (header, message) = buffer.split_at_mut(HEADER);
        let length =
            u32::try_from(message.len()).map_err(|_| Fault::protocol("a message of over 4 GiB"))?;
        let count = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&count.to_le_bytes());
        header.fill(0);
        header[..4].copy_from_slice(&PROTOCOL);
        header[20..32].copy_from_slice(&nonce);
        header[36..40].copy_from_slice(&length.to_le_bytes());
        header[42] = 1;
        header[44..52].copy_from_slice(&self.session.to_le_bytes());
        let aad = Aad::from(<[u8; 32]>::try_from(&header[AUTHENTICATED]).unwrap_or([0; 32]));
        let tag = self
            .ours
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, message)
            .map_err(|_| Fault::protocol("a message cannot be encrypted"))?;
        header[TAG].copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts a frame in place; the message stands behind the header. What is not encrypted, is
    /// of another session or was altered is refused.
    pub(crate) fn open(&self, frame: &mut Vec<u8>) -> Result<(), Fault> {
        if frame.len() < HEADER || frame[..4] != PROTOCOL {
            return Err(Fault::protocol(
                "the server sent a message that is not encrypted",
            ));
        }
        if frame[44..52] != self.session.to_le_bytes() {
            return Err(Fault::protocol(
                "the server sent a message of another session",
            ));
        }
        let mut header = [0; HEADER];
        header.copy_from_slice(&frame[..HEADER]);
        frame.extend_from_slice(&header[TAG]);
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&header[20..32]);
        let aad = Aad::from(<[u8; 32]>::try_from(&header[AUTHENTICATED]).unwrap_or([0; 32]));
        self.theirs
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                aad,
                &mut frame[HEADER..],
            )
            .map_err(|_| Fault::protocol("a message of the server was altered on its way"))?;
        frame.truncate(frame.len() - 16);
        Ok(())
    }
}

fn key(bytes: &[u8]) -> Result<LessSafeKey, Fault> {
    let algorithm = match bytes.len() {
        16 => &AES_128_GCM,
        32 => &AES_256_GCM,
        _ => return Err(Fault::protocol("a key of an unknown length")),
    };
    UnboundKey::new(algorithm, bytes)
        .map(LessSafeKey::new)
        .map_err(|_| Fault::protocol("a key that cannot be used"))
}
