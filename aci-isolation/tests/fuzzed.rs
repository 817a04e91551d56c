//! The fuzz target of `fuzz/` on its corpus and on changes of it.
#![cfg(feature = "fuzzing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use aci_isolation::fuzzing::protocol;
use proptest::prelude::*;

fn corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/protocol");
    let all: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(all.len() >= 5, "{}", dir.display());
    all
}

#[test]
fn the_corpus_is_handled() {
    let mut read: Vec<_> = corpus().iter().map(|bytes| protocol(bytes)).collect();
    read.sort_unstable();
    // A bad message after a good one, a start, an identity, all replies, all requests.
    assert_eq!(read, [1, 1, 1, 8, 10]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_messages_are_handled(
        mut bytes in prop::sample::select(corpus()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        protocol(&bytes);
    }
}

#[cfg(feature = "microvm")]
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A hostile guest: steps of the fuzz target `line`, of which many are well formed.
    #[test]
    fn a_guest_s_side_of_the_line_is_handled(
        steps in prop::collection::vec((any::<u8>(), 0u8..8, prop::collection::vec(any::<u8>(), 0..40)), 0..60),
    ) {
        let mut bytes = Vec::new();
        for (op, channel, payload) in steps {
            bytes.extend([op, channel, u8::try_from(payload.len()).unwrap()]);
            bytes.extend(payload);
        }
        aci_isolation::fuzzing::line(&bytes);
    }
}

/// What a guest really does is an event each, or the target would look at nothing.
#[cfg(feature = "microvm")]
#[test]
fn the_steps_of_an_honest_guest_are_events() {
    // Data of channel 1 twice, its end, and that no more is wanted.
    let steps = [
        &[2 | 32, 1, 2, b'h', b'i'][..],
        &[2 | 32, 1, 1, b'!'],
        &[4, 1, 0],
        &[5, 1, 0],
    ];
    assert_eq!(aci_isolation::fuzzing::line(&steps.concat()), 4);
}
