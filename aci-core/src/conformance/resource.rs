//! The suite of [`ResourceStore`].

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::store::SECRET;
use super::{CUTS, cut_short, hides, run, works};
use crate::contract::{ResourceStore, ResourceWrite};

fn put(key: &str, value: &[u8]) -> ResourceWrite {
    ResourceWrite {
        key: key.to_owned(),
        value: Some(Zeroizing::new(value.to_vec())),
    }
}

fn remove(key: &str) -> ResourceWrite {
    ResourceWrite {
        key: key.to_owned(),
        value: None,
    }
}

async fn kept(store: &dyn ResourceStore) -> BTreeMap<String, Vec<u8>> {
    let all = works(store.load().await, "load");
    assert!(
        all.is_sorted_by(|(a, _), (b, _)| a < b),
        "not by key, or one twice"
    );
    all.into_iter().map(|(k, v)| (k, v.to_vec())).collect()
}

/// Runs all cases. **Deletes all records of the store.**
pub async fn all(store: &dyn ResourceStore) {
    let clean = async || {
        let old = kept(store).await;
        let removals: Vec<_> = old.keys().map(|key| remove(key)).collect();
        works(store.apply(&removals).await, "apply");
        kept(store).await.into_keys().collect()
    };
    clean().await;
    run("writes are read back", written(store), &clean).await;
    run("several at once", together(store), &clean).await;
    run("given up", given_up(store), &clean).await;
}

/// What was written is there as it was, whatever its name and bytes; secrets are not shown.
async fn written(store: &dyn ResourceStore) {
    assert!(kept(store).await.is_empty());
    let long = "k".repeat(2_048);
    let every: Vec<u8> = (0..=255).collect();
    for (key, value) in [
        ("a", SECRET.as_bytes()),
        ("resourceGroup/s/ü 1", b"".as_slice()),
        (&long, &every),
    ] {
        let write = put(key, value);
        hides(&write, SECRET);
        works(store.apply(&[write]).await, "apply");
        assert_eq!(kept(store).await.get(key).unwrap(), value, "{key}");
    }
    works(store.apply(&[put("a", b"new")]).await, "apply");
    assert_eq!(kept(store).await["a"], b"new");
    works(store.apply(&[remove("a")]).await, "apply");
    works(
        store.apply(&[remove("a")]).await,
        "removing what is not there",
    );
    works(store.apply(&[]).await, "applying nothing");
    assert_eq!(kept(store).await.len(), 2);
    hides(&store, SECRET);
}

/// Changes are made in their order.
async fn together(store: &dyn ResourceStore) {
    let writes = [
        put("a", b"1"),
        put("b", b"1"),
        remove("a"),
        put("b", b"2"),
        put("c", b"1"),
    ];
    works(store.apply(&writes).await, "apply");
    let wanted = [("b", b"2"), ("c", b"1")];
    let wanted = wanted.map(|(k, v)| (k.to_owned(), v.to_vec()));
    assert_eq!(kept(store).await, BTreeMap::from(wanted));
}

/// A call that is given up has made all its changes or none, and makes none after a later call.
async fn given_up(store: &dyn ResourceStore) {
    for (i, cut) in CUTS.into_iter().enumerate() {
        let old = u8::try_from(2 * i).unwrap();
        let both = |n: u8| [put("x", &[n]), put("y", &[n])];
        cut_short(cut, store.apply(&both(old))).await;
        let seen = kept(store).await;
        assert_eq!(seen.get("x"), seen.get("y"), "half done after {cut:?}");
        works(store.apply(&both(old + 1)).await, "apply");
        tokio::time::sleep(cut).await;
        assert_eq!(
            kept(store).await["x"],
            [old + 1],
            "a late write after {cut:?}"
        );
    }
}
