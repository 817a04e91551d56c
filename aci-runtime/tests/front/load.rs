//! Many clients at once. The short run asserts that nothing fails; the long one states figures:
//! `cargo test --release -p aci-runtime --features arm-server --test front -- --ignored --nocapture load`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aci_core::contract::GroupStore as _;
use aci_core::error::ErrorKind;
use aci_runtime::RedbStore;
use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Barrier;

use super::lab::{GROUPS, Lab, WRITER, document};

/// Memory of this process, in MiB: now (`VmRSS`) or at its most (`VmHWM`).
fn memory(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(which)).unwrap();
    let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    kib.trim().parse::<u64>().unwrap() / 1024
}

/// Says how long requests took.
fn state(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let percentile = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    println!(
        "{} {what}: p50 {:.0?}, p99 {:.0?}, most {:.0?}",
        took.len(),
        percentile(50),
        percentile(99),
        percentile(100)
    );
}

/// A client that sends a byte of a head now and then, and begins anew when it is sent away.
async fn slow(lab: Arc<Lab>, end: Instant) {
    while Instant::now() < end {
        let Ok(mut stream) = lab.connect().await else {
            continue;
        };
        while Instant::now() < end && stream.write_all(b"G").await.is_ok() {
            let _ = stream.flush().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Clients that read, write and ask for logs, each on a connection of its own, for a time; beside
/// a tenth as many that are slow. The journal is on disk.
async fn storm(clients: usize, time: Duration) {
    let lab = Arc::new(Lab::on_disk().await);
    for group in 0..10 {
        lab.run(&format!("g{group}"), &document(&["tick", "1", "1000000"]))
            .await;
    }
    let connected = Arc::new(Barrier::new(clients + 1));
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let (lab, connected) = (Arc::clone(&lab), Arc::clone(&connected));
            tokio::spawn(async move {
                let mut client = lab.client().await;
                connected.wait().await;
                let (end, mut puts, mut others) = (Instant::now() + time, Vec::new(), Vec::new());
                let (mut round, mut made) = (number, false);
                while Instant::now() < end {
                    let group = format!("{GROUPS}/g{}", round % 10);
                    let version = "api-version=2023-05-01";
                    let own = format!("{GROUPS}/own{number}?{version}");
                    let (method, path, body) = match round % 20 {
                        // A group of its own, at first made and then put again.
                        0 => (Method::PUT, own, document(&["sleep", "3600"])),
                        1..=4 => (
                            Method::GET,
                            format!("{group}/containers/c/logs?{version}&tail=5"),
                            String::new(),
                        ),
                        _ => (Method::GET, format!("{group}?{version}"), String::new()),
                    };
                    let begun = Instant::now();
                    let answer = client.ask(method.clone(), &path, Some(WRITER), &body).await;
                    let took = if method == Method::PUT {
                        &mut puts
                    } else {
                        &mut others
                    };
                    took.push(begun.elapsed());
                    // A group that is still coming up refuses a second put in ARM's words.
                    let busy = answer.status == StatusCode::CONFLICT && method == Method::PUT;
                    assert!(
                        answer.status.is_success() || busy,
                        "{method} {path}: {answer:?}"
                    );
                    made |= answer.status == StatusCode::CREATED;
                    round += 1;
                }
                (puts, others, made)
            })
        })
        .collect();
    connected.wait().await;
    let (begun, before) = (Instant::now(), memory("VmRSS"));
    let slow: Vec<_> = (0..clients / 10)
        .map(|_| tokio::spawn(slow(Arc::clone(&lab), begun + time)))
        .collect();
    let (mut puts, mut others, mut made) = (Vec::new(), Vec::new(), Vec::new());
    for (number, task) in tasks.into_iter().enumerate() {
        let (more_puts, more_others, is_made) = task.await.unwrap();
        puts.extend(more_puts);
        others.extend(more_others);
        made.extend(is_made.then(|| format!("own{number}")));
    }
    let (after, seconds) = (memory("VmRSS"), begun.elapsed().as_secs_f64());
    let all = [&*puts, &*others].concat();
    assert!(all.len() >= clients, "every client was answered");
    println!(
        "{clients} clients and {} slow ones, {:.0} requests a second for {seconds:.0} s; resident {before} to {after} \
         MiB, at most {} MiB, clients included",
        slow.len(),
        all.len() as f64 / seconds,
        memory("VmHWM")
    );
    state("requests", all);
    state("puts among them", puts);
    for slow in slow {
        slow.await.unwrap();
    }
    assert!(after < before + 1_500, "{before} to {after} MiB");
    let dir = Arc::into_inner(lab).unwrap().end().await;
    let journal = loop {
        match RedbStore::open(dir.path().join("journal")) {
            Ok(journal) => break journal,
            // Somebody still holds what has ended.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let kept = journal.list().await.unwrap();
    let kept: HashSet<&str> = kept.iter().map(|record| record.group.name()).collect();
    assert!(!made.is_empty());
    for name in &made {
        assert!(kept.contains(&**name), "{name} was accepted");
    }
}

fn files(most: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let current = Some(now.maximum.unwrap_or(most).min(most));
    let raised = Rlimit {
        current,
        maximum: now.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_clients_at_once_see_no_error() {
    files(4_096);
    storm(300, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute of load, to state figures"]
async fn load_of_two_thousand_clients() {
    files(16_384);
    storm(2_000, Duration::from_secs(60)).await;
}
