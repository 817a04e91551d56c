//! The suite of [`GroupStore`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::{hides, run, works};
use crate::bill::{Ledger, Rate};
use crate::contract::{Attachment, DnsSettings, GroupRecord, GroupStore};
use crate::id::{GroupRef, SandboxId};
use crate::lifecycle::Lifecycle;
use crate::model::{
    Container, ContainerGroup, ContainerGroupProperties, ContainerProperties, EnvironmentVariable,
    Secret,
};
use crate::time::Timestamp;

/// A secret in the records that the suite writes; no file of a store may hold it in clear.
pub const SECRET: &str = "conformance-secret-6b1f";

/// A record with something in every part, and [`SECRET`] in its document.
#[must_use]
pub fn record(group: &GroupRef, size: usize) -> GroupRecord {
    let sandbox = SandboxId::generate(group.name());
    let container = Container {
        name: "web".to_owned(),
        properties: ContainerProperties {
            environment_variables: vec![EnvironmentVariable {
                name: "KEY".to_owned(),
                secure_value: Some(Secret::new(SECRET)),
                ..EnvironmentVariable::default()
            }],
            ..ContainerProperties::default()
        },
        ..Container::default()
    };
    let document = ContainerGroup {
        name: group.name().to_owned(),
        properties: ContainerGroupProperties {
            containers: vec![container],
            ..ContainerGroupProperties::default()
        },
        ..ContainerGroup::default()
    };
    let now = Timestamp::from_secs(1_700_000_000);
    let mut ledger = Ledger::default();
    ledger.start(
        Rate {
            cpu: 100,
            memory: 15,
            gpu: 0,
        },
        now,
    );
    GroupRecord {
        group: group.clone(),
        attachment: Some(Attachment {
            sandbox: sandbox.clone(),
            addresses: vec!["10.1.2.3/24".parse().unwrap()],
            ip: None,
            fqdn: None,
            published: Vec::new(),
            dns: DnsSettings::default(),
        }),
        sandbox,
        document,
        lifecycle: Lifecycle::default(),
        ledger,
        saved_logs: BTreeMap::from([("web".to_owned(), "x".repeat(size))]),
        created: now,
        images: BTreeMap::from([("nginx".to_owned(), format!("sha256:{}", "0".repeat(64)))]),
    }
}

/// Runs all cases. **Deletes all records of the store.**
pub async fn all(store: &dyn GroupStore) {
    let clean = async || {
        let mut left = Vec::new();
        for record in works(store.list().await, "list") {
            works(store.remove(&record.group).await, "remove");
            left.push(record.group.to_string());
        }
        left
    };
    clean().await;
    run("put_get_remove", put_get_remove(store), clean).await;
    run("names_are_apart", names_are_apart(store), clean).await;
    run("list_is_by_name", list_is_by_name(store), clean).await;
    run("large_records", large_records(store), clean).await;
    run("many_writers", many_writers(store), clean).await;
    run("dropped_puts", dropped_puts(store), clean).await;
    run("secrets_come_back", secrets_come_back(store), clean).await;
}

/// A record reads back as it was written, is replaced as a whole, and is gone after removal.
pub async fn put_get_remove(store: &dyn GroupStore) {
    let group = GroupRef::from("web");
    assert_eq!(works(store.get(&group).await, "get of nothing"), None);
    works(store.remove(&group).await, "remove of nothing");
    let first = record(&group, 10);
    works(store.put(&first).await, "put");
    let read = works(store.get(&group).await, "get");
    assert_eq!(read.as_ref(), Some(&first));
    let mut second = record(&group, 5);
    second.attachment = None;
    works(store.put(&second).await, "put over it");
    assert_eq!(works(store.get(&group).await, "get"), Some(second.clone()));
    assert_eq!(works(store.list().await, "list"), [second]);
    works(store.remove(&group).await, "remove");
    assert_eq!(works(store.get(&group).await, "get after remove"), None);
    works(store.remove(&group).await, "remove again");
}

/// Groups differ by subscription, resource group and name, and by nothing else.
pub async fn names_are_apart(store: &dyn GroupStore) {
    let groups = [
        GroupRef::new("s", "r", "n"),
        GroupRef::new("s", "r", "nn"),
        GroupRef::new("s", "rr", "n"),
        GroupRef::new("sr", "", "n"),
        GroupRef::new("", "sr", "n"),
        GroupRef::new("s/r", "", "n"),
        GroupRef::from("n"),
        GroupRef::from("ünïcode"),
    ];
    for (index, group) in groups.iter().enumerate() {
        works(store.put(&record(group, index)).await, "put");
    }
    assert_eq!(works(store.list().await, "list").len(), groups.len());
    for (index, group) in groups.iter().enumerate() {
        let read = works(store.get(group).await, "get").expect("a record that was put");
        assert_eq!(&read.group, group);
        assert_eq!(read.saved_logs["web"].len(), index);
    }
    let upper = GroupRef::new("S", "R", "N");
    assert!(
        works(store.get(&upper).await, "get").is_some(),
        "case differs"
    );
    for group in &groups {
        works(store.remove(group).await, "remove");
    }
}

/// `list` is sorted by the groups' names, whatever the order of writing.
pub async fn list_is_by_name(store: &dyn GroupStore) {
    let names = ["m", "b", "z", "a", "b-1", "b0"];
    for name in names {
        works(store.put(&record(&name.into(), 0)).await, "put");
    }
    let listed: Vec<_> = works(store.list().await, "list")
        .into_iter()
        .map(|r| r.group)
        .collect();
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    assert_eq!(listed.len(), names.len());
    for name in names {
        works(store.remove(&name.into()).await, "remove");
    }
}

/// Records of some megabytes, as saved logs make them.
pub async fn large_records(store: &dyn GroupStore) {
    let group = GroupRef::from("large");
    for size in [0, 1, 4095, 4096, 65_537, 4 << 20] {
        let record = record(&group, size);
        works(store.put(&record).await, "put");
        let read = works(store.get(&group).await, "get");
        assert!(read == Some(record), "a record of {size} bytes changed");
    }
    works(store.remove(&group).await, "remove");
}

/// Puts from many tasks at once: each record is one of those written, none is lost.
pub async fn many_writers(store: &dyn GroupStore) {
    let groups: Vec<GroupRef> = (0..8).map(|n| GroupRef::from(&format!("g{n}"))).collect();
    let shared = GroupRef::from("shared");
    let writers = groups.iter().enumerate().map(async |(index, group)| {
        for round in 0..5 {
            works(store.put(&record(group, round)).await, "put");
            works(store.put(&record(&shared, index * 10 + round)).await, "put");
        }
    });
    futures_util::future::join_all(writers).await;
    for group in &groups {
        let read = works(store.get(group).await, "get").expect("a record that was put");
        assert_eq!(read.saved_logs["web"].len(), 4);
    }
    let read = works(store.get(&shared).await, "get").expect("the shared record");
    assert_eq!(read.saved_logs["web"].len() % 10, 4, "not a last write");
    for group in groups.iter().chain([&shared]) {
        works(store.remove(group).await, "remove");
    }
}

/// A dropped put is done or not done, and the store goes on.
pub async fn dropped_puts(store: &dyn GroupStore) {
    let group = GroupRef::from("dropped");
    let mut last = record(&group, 0);
    works(store.put(&last).await, "put");
    for (round, cut) in super::CUTS.into_iter().cycle().take(30).enumerate() {
        let next = record(&group, 1000 + round);
        let _ = super::cut_short(cut, store.put(&next)).await;
        // A write that goes on in the background may still come; it comes whole.
        let read = works(store.get(&group).await, "get").expect("the record");
        if read != last {
            let size = read.saved_logs["web"].len();
            assert!((1000..=1000 + round).contains(&size), "half a record");
            last = read;
        }
    }
    let end = record(&group, 7);
    // What was dropped may still be on its way and must not come after a later, finished put.
    works(store.put(&end).await, "put");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(works(store.get(&group).await, "get"), Some(end));
    works(store.remove(&group).await, "remove");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(works(store.get(&group).await, "get"), None);
}

/// Secrets of the document survive, and do not show in `Debug`.
pub async fn secrets_come_back(store: &dyn GroupStore) {
    let group = GroupRef::from("secretive");
    works(store.put(&record(&group, 0)).await, "put");
    let read = works(store.get(&group).await, "get").expect("the record");
    let container = &read.document.properties.containers[0];
    let secret = &container.properties.environment_variables[0].secure_value;
    assert_eq!(secret.as_ref().map(Secret::expose), Some(SECRET));
    hides(&read, SECRET);
    hides(&store, SECRET);
    works(store.remove(&group).await, "remove");
}
