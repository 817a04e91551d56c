//! Many clients at once. The short run asserts that nothing fails; the long one states figures:
//! `cargo test --release -p aci-runtime --features arm-server --test front -- --ignored --nocapture load`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::lab::{GROUPS, Lab, WRITER, document};

/// Resident memory of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<u64>()
        .unwrap()
        / 1024
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Clients that read, write and ask for logs, each on a connection of its own, for a time.
async fn storm(clients: usize, time: Duration) {
    let lab = Arc::new(Lab::start().await);
    for group in 0..10 {
        lab.run(&format!("g{group}"), &document(&["tick", "1", "1000000"]))
            .await;
    }
    let connected = Arc::new(tokio::sync::Barrier::new(clients + 1));
    let made = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let (lab, connected, made) =
                (Arc::clone(&lab), Arc::clone(&connected), Arc::clone(&made));
            tokio::spawn(async move {
                let mut client = lab.client().await;
                connected.wait().await;
                let (end, mut took) = (Instant::now() + time, Vec::new());
                let mut round = number;
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
                    took.push(begun.elapsed());
                    // A group that is still coming up refuses a second put in ARM's words.
                    let busy = answer.status == StatusCode::CONFLICT && method == Method::PUT;
                    assert!(
                        answer.status.is_success() || busy,
                        "{method} {path}: {answer:?}"
                    );
                    made.fetch_add(u64::from(method == Method::PUT), Ordering::Relaxed);
                    round += 1;
                }
                took
            })
        })
        .collect();
    connected.wait().await;
    let (begun, before) = (Instant::now(), resident());
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    took.sort_unstable();
    let (after, seconds) = (resident(), begun.elapsed().as_secs_f64());
    println!(
        "{clients} clients, {} requests ({} puts) in {seconds:.0} s: {:.0}/s; p50 {:?}, p99 {:?}, most {:?}; resident \
         {before} to {after} MiB, clients included",
        took.len(),
        made.load(Ordering::Relaxed),
        took.len() as f64 / seconds,
        percentile(&took, 50),
        percentile(&took, 99),
        took.last().unwrap()
    );
    assert!(took.len() >= clients, "every client was answered");
    assert!(after < before + 1_500, "{before} to {after} MiB");
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
