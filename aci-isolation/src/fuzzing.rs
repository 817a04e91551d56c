//! The bodies of the fuzz targets `protocol` and `line`; not part of the interface.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::frame::{Decoder, encode};
use crate::protocol::{Boot, Identity, Reply, Request};

/// Reads bytes as what one side of an agent's connection says, in pieces of any size. The first byte
/// chooses the direction and the size. Whatever is read as a message must come back when it is
/// written and read again. Gives the number of messages.
///
/// # Panics
/// If one does not; that is what is looked for.
pub fn protocol(bytes: &[u8]) -> usize {
    let Some((choice, stream)) = bytes.split_first() else {
        return 0;
    };
    let step = usize::from(choice >> 2) + 1;
    match choice & 3 {
        0 => read::<Request>(stream, step),
        1 => read::<Reply>(stream, step),
        2 => read::<Boot>(stream, step),
        _ => read::<Identity>(stream, step),
    }
}

fn read<T: Serialize + DeserializeOwned + PartialEq>(stream: &[u8], step: usize) -> usize {
    let mut count = 0;
    let mut decoder = Decoder::default();
    for part in stream.chunks(step) {
        decoder.push(part);
        loop {
            match decoder.next::<T>() {
                Ok(Some((message, fds))) => {
                    count += 1;
                    let mut again = Decoder::default();
                    let written = encode(&message, fds);
                    written.iter().for_each(|bytes| again.push(bytes));
                    assert!(
                        again.next() == Ok(Some((message, fds))),
                        "a message differs after it was written and read again"
                    );
                }
                Ok(None) => break,
                // A connection that says this is closed.
                Err(_) => return count,
            }
        }
    }
    count
}

/// A guest's side of the line, as a hostile guest may play it, against the host's: the first bytes of
/// each step choose a frame that is well formed, or bytes as they are. The host keeps what it holds in
/// bounds and never takes more of a channel than it has granted. Gives the number of events.
///
/// # Panics
/// If it does not; that is what is looked for.
#[cfg(feature = "microvm")]
pub fn line(bytes: &[u8]) -> usize {
    use std::collections::BTreeMap;

    use crate::tunnel::mux::{DATA, End, Event, Mux, Side, WINDOW};
    use crate::tunnel::wire::{self, Greeting, Kind};

    const TAG: u32 = 7;
    const KINDS: [Kind; 7] = [
        Kind::Open,
        Kind::Attach,
        Kind::Data,
        Kind::Credit,
        Kind::Fin,
        Kind::Stop,
        Kind::Resize,
    ];
    /// Answers of the host to one frame.
    const ANSWER: usize = 64;
    let greeting = Greeting {
        tag: TAG,
        version: 1,
        now: 2,
    };
    let mut host = Mux::new(Side::Host);
    host.greet(greeting);
    let mut events = Vec::new();
    let met = host.receive(&greeting.encode(), &mut events);
    assert!(met.is_ok() && events == [Event::Greeted(greeting)]);
    let first = host.open(b"agent");
    host.send(first, b"request");
    host.attach(first, &[End::Read, End::Write, End::Both]);
    let mut held: BTreeMap<u32, usize> = BTreeMap::new();
    let mut count = 0;
    let mut rest = bytes;
    while let [op, channel, length, tail @ ..] = rest {
        let (payload, after) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = after;
        let mut sent = Vec::new();
        let kind = KINDS.get(usize::from(op & 15)).copied();
        match kind {
            // A long one of little input.
            Some(Kind::Data) if op & 16 != 0 => {
                let long = payload.repeat(DATA / payload.len().max(1));
                wire::frame(&mut sent, TAG, Kind::Data, u32::from(*channel), &long);
            }
            Some(kind) => wire::frame(&mut sent, TAG, kind, u32::from(*channel), payload),
            None => sent.extend_from_slice(payload),
        }
        let pending = host.pending().len();
        events.clear();
        if host.receive(&sent, &mut events).is_err() {
            // Such a line is given up.
            return count;
        }
        count += events.len();
        for event in &events {
            match event {
                Event::Data { channel, bytes } => {
                    let held = held.entry(*channel).or_default();
                    *held += bytes.len();
                    assert!(*held <= WINDOW, "more than was granted is taken");
                    if op & 32 != 0 {
                        host.passed_on(*channel, std::mem::take(held));
                    }
                }
                Event::Greeted(_) => held.clear(),
                Event::Opened { .. } => unreachable!("a guest opens channels at the host"),
                _ => {}
            }
        }
        // A greeting takes everything back; anything else is answered by credit at most.
        assert!(host.pending().len() <= pending + ANSWER * (events.len() + 1));
        if op & 64 != 0 {
            host.wrote(host.pending().len());
        }
    }
    count
}
