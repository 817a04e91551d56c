//! The body of the fuzz target `protocol`; not part of the interface.

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
