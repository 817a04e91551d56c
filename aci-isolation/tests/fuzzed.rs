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
