//! Writes that are answered before the server has them.
//!
//! Only while the server grants that nobody else has the file open (a lease for writing), and while
//! the share has room to spare, so that a refusal is not to be expected. Whatever else is asked about
//! the file waits for them, a lease that is taken back too. What failed is told to the next that
//! writes, syncs or closes.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::handles::Handle;
use super::notes::Note;
use super::{Inner, locked};
use crate::smb::Fault;

/// How much a mount has under way at most, in bytes.
pub(crate) const WINDOW: usize = 16 << 20;
/// Small writes that follow one another are sent together, up to so many bytes.
const TOGETHER: usize = 1 << 20;
/// How many writes of a file are under way at most.
const MOST: usize = 32;

/// A part of a file, from its first byte to the one behind its last.
type Span = (u64, u64);

/// What waits to be sent.
struct Piece {
    offset: u64,
    data: Vec<Bytes>,
    length: usize,
    room: OwnedSemaphorePermit,
}

impl Piece {
    fn span(&self) -> Span {
        (self.offset, self.offset + self.length as u64)
    }
}

#[derive(Default)]
struct State {
    /// Grows while others are under way.
    gathering: Option<Piece>,
    flying: Vec<Span>,
    failed: Option<Fault>,
    /// Whether it is noted that something was answered and is neither on the server nor told.
    noted: bool,
}

fn meet(one: Span, other: Span) -> bool {
    one.0 < other.1 && other.0 < one.1
}

impl State {
    fn is_idle(&self) -> bool {
        self.flying.is_empty() && self.gathering.is_none()
    }

    /// Whether bytes are written again that are under way: the server might turn the order round.
    fn meets(&self, span: Span) -> bool {
        let gathering = self.gathering.as_ref().map(Piece::span);
        self.flying
            .iter()
            .copied()
            .chain(gathering)
            .any(|other| meet(span, other))
    }

    /// Takes a write in; what is to be sent now.
    fn take(&mut self, offset: u64, data: Bytes, room: OwnedSemaphorePermit) -> Option<Piece> {
        if let Some(piece) = &mut self.gathering
            && piece.span().1 == offset
            && piece.length + data.len() <= TOGETHER
        {
            piece.length += data.len();
            piece.data.push(data);
            piece.room.merge(room);
            return (piece.length == TOGETHER).then(|| self.send()).flatten();
        }
        let before = self.send();
        let length = data.len();
        self.gathering = Some(Piece {
            offset,
            data: vec![data],
            length,
            room,
        });
        if before.is_none() && (self.flying.is_empty() || length >= TOGETHER) {
            return self.send();
        }
        before
    }

    fn send(&mut self) -> Option<Piece> {
        let piece = self.gathering.take()?;
        self.flying.push(piece.span());
        Some(piece)
    }

    /// One came back; what is to be sent now.
    fn landed(&mut self, span: Span, outcome: Result<(), Fault>) -> Option<Piece> {
        if let Some(at) = self.flying.iter().position(|other| *other == span) {
            self.flying.swap_remove(at);
        }
        if let Err(fault) = outcome {
            self.failed.get_or_insert(fault);
        }
        self.send()
    }
}

/// What is left of pieces when so many bytes of them were written.
pub(crate) fn rest(pieces: &[Bytes], mut written: usize) -> Vec<Bytes> {
    let mut rest = Vec::new();
    for piece in pieces {
        let gone = written.min(piece.len());
        written -= gone;
        if gone < piece.len() {
            rest.push(piece.slice(gone..));
        }
    }
    rest
}

/// The writes of an open file that are under way.
#[derive(Default)]
pub(crate) struct Behind {
    state: Mutex<State>,
    changed: Notify,
}

impl Behind {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Of a file of which an earlier share server has lost what was under way.
    pub(crate) fn lost() -> Self {
        let state = State {
            failed: Some(Fault::Errno(libc::EIO)),
            noted: true,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state().is_idle()
    }

    /// Notes whether the next share server would have something to tell. Under the lock, so that
    /// notes come in the order of what they say.
    fn note(state: &mut State, inner: &Inner, handle: u64) {
        let dirty = !state.is_idle() || state.failed.is_some();
        if dirty != state.noted {
            state.noted = dirty;
            let note = if dirty {
                Note::Dirty(handle)
            } else {
                Note::Clean(handle)
            };
            inner.notes.write(&[note]);
        }
    }

    /// Waits until the server has all, or refused it.
    pub(crate) async fn settle(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_idle() {
                return;
            }
            changed.await;
        }
    }

    /// What failed, told once.
    pub(crate) fn failure(&self, inner: &Inner, handle: u64) -> Result<(), Fault> {
        let mut state = self.state();
        let failed = state.failed.take();
        Self::note(&mut state, inner, handle);
        failed.map_or(Ok(()), Err)
    }

    /// Takes a write in, if it may wait; `false` if it may not.
    pub(crate) async fn put(
        inner: &Arc<Inner>,
        handle: &Arc<Handle>,
        offset: u64,
        data: Bytes,
    ) -> Result<bool, Fault> {
        let behind = &handle.behind;
        let span = (offset, offset + data.len() as u64);
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&inner.window).acquire_many_owned(size).await;
        let mut taken = Some((data, room.map_err(|_| Fault::Lost)?));
        loop {
            let changed = behind.changed.notified();
            let sent = {
                let mut state = behind.state();
                if let Some(fault) = &state.failed {
                    return Err(fault.clone());
                }
                // Looked at under the lock: whoever takes the lease back then waits for this.
                if !inner.is_alone(handle.node) {
                    return Ok(false);
                }
                if state.meets(span) || state.flying.len() >= MOST {
                    None
                } else {
                    let sent = taken
                        .take()
                        .map(|(data, room)| state.take(offset, data, room));
                    Self::note(&mut state, inner, handle.id);
                    sent
                }
            };
            match sent {
                None => changed.await,
                Some(piece) => {
                    inner.note_behind(handle);
                    if let Some(piece) = piece {
                        Self::fly(Arc::clone(inner), Arc::clone(handle), piece);
                    }
                    return Ok(true);
                }
            }
        }
    }

    /// Sends a piece, and after it what has gathered meanwhile.
    fn fly(inner: Arc<Inner>, handle: Arc<Handle>, piece: Piece) {
        tokio::spawn(async move {
            let mut next = Some(piece);
            while let Some(piece) = next {
                let span = piece.span();
                let done = inner.write_pieces(&handle, piece.offset, piece.data).await;
                drop(piece.room);
                let behind = &handle.behind;
                next = {
                    let mut state = behind.state();
                    let next = state.landed(span, done.map(drop));
                    Self::note(&mut state, &inner, handle.id);
                    next
                };
                behind.changed.notify_waiters();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn small_writes_gather_while_one_is_under_way_and_overlaps_are_seen() {
        let mut state = State::default();
        let all = Arc::new(Semaphore::new(64));
        let room = || Arc::clone(&all).try_acquire_owned().unwrap();
        let four = Bytes::from_static(b"1234");
        assert_eq!(state.take(0, four.clone(), room()).unwrap().span(), (0, 4));
        assert!(state.take(4, four.clone(), room()).is_none());
        assert!(state.take(8, four.clone(), room()).is_none());
        assert!(state.meets((3, 5)) && state.meets((11, 12)) && !state.meets((12, 16)));
        // Elsewhere: what has gathered goes first.
        assert_eq!(state.take(100, four, room()).unwrap().span(), (4, 12));
        assert_eq!(state.landed((0, 4), Ok(())).unwrap().span(), (100, 104));
        assert!(state.landed((4, 12), Err(Fault::Lost)).is_none());
        assert!(!state.is_idle());
        assert!(state.landed((100, 104), Ok(())).is_none());
        assert!(state.is_idle());
        assert_eq!(state.failed, Some(Fault::Lost));
    }
}
