//! The fuzz targets of `fuzz/` on their corpus, on what was found once, and on changes of both.
#![cfg(feature = "fuzzing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use aci_storage::fuzzing;
use proptest::prelude::*;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut all: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    assert!(all.len() >= 4, "{}", dir.display());
    all.iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Bytes of the corpus with a few changes, or the start of them, or two joined.
fn changed(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let all = corpus(target);
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (
        prop::sample::select(all.clone()),
        prop::sample::select(all),
        prop::collection::vec(change, 0..6),
        prop::option::of(any::<prop::sample::Index>()),
        any::<bool>(),
    )
        .prop_map(|(mut bytes, other, changes, cut, join)| {
            if join {
                bytes.extend_from_slice(&other);
            }
            if !bytes.is_empty() {
                for (at, value) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
                if let Some(cut) = cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
            }
            bytes
        })
}

#[test]
fn the_corpus_is_handled() {
    for bytes in corpus("layer") {
        fuzzing::layer(&bytes);
    }
    for bytes in corpus("manifest") {
        fuzzing::manifest(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_layers_are_handled(bytes in changed("layer")) {
        fuzzing::layer(&bytes);
    }

    #[test]
    fn changed_manifests_are_handled(bytes in changed("manifest")) {
        fuzzing::manifest(&bytes);
    }
}
