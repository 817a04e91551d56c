//! Containers reached over the network, measured and held within their limits.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{fails, in_time, skip, works};
use super::{Behaviour, Bench, IsolationHarness, QUIET, SOON, case, lacks, process};
use crate::contract::ExecSpec;
use crate::error::ErrorKind;
use crate::size::Limits;

/// Runs the cases of this part.
pub async fn all(h: &dyn IsolationHarness) {
    case(h, "dial_served", dial_served(h)).await;
    case(h, "dial_refused_and_silent", dial_refused_and_silent(h)).await;
    case(h, "stats", stats(h)).await;
    case(h, "out_of_memory", out_of_memory(h)).await;
    case(h, "frozen", frozen(h)).await;
}

/// A server in the group is reached through `dial`, in turn and again after it was left.
pub async fn dial_served(h: &dyn IsolationHarness) {
    let serve = Behaviour::Serve {
        port: 18_181,
        body: "served",
    };
    if lacks(h, "dial_served", &[serve]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("web", &serve).await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 18_181));
    for _ in 0..3 {
        let mut stream = in_time(SOON, "a server", async {
            loop {
                match bench.sandbox.dial(address, Duration::from_secs(2)).await {
                    Ok(stream) => return stream,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
        asked.expect("a request is taken");
        let mut reply = vec![0; 4096];
        let mut length = 0;
        in_time(SOON, "an answer", async {
            while !reply[..length].ends_with(b"served") {
                let read = stream.read(&mut reply[length..]).await.expect("a reply");
                assert_ne!(read, 0, "the reply ends early");
                length += read;
            }
        })
        .await;
        assert!(reply.starts_with(b"HTTP/1.0 200"));
    }
    bench.destroy().await;
}

/// Where nothing listens `dial` is refused; where nothing answers it ends in time.
pub async fn dial_refused_and_silent(h: &dyn IsolationHarness) {
    let bench = Bench::new(h).await;
    let time = Duration::from_millis(400);
    let begun = Instant::now();
    let refused = SocketAddr::from((Ipv4Addr::LOCALHOST, 18_182));
    let dialled = bench.sandbox.dial(refused, SOON).await;
    fails(
        dialled.map(|_| ()),
        ErrorKind::Unavailable,
        "nothing listens",
    );
    assert!(begun.elapsed() < SOON / 2, "a refusal is told at once");
    let begun = Instant::now();
    let silent = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let dialled = bench.sandbox.dial(silent, time).await;
    fails(
        dialled.map(|_| ()),
        ErrorKind::Unavailable,
        "nothing answers",
    );
    assert!(begun.elapsed() < time + Duration::from_secs(5));
    bench.destroy().await;
}

/// Running containers are measured, ended ones are not.
pub async fn stats(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Exit(0), Behaviour::Wait];
    if lacks(h, "stats", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.ran("done", &Behaviour::Exit(0)).await;
    bench.start("up", &Behaviour::Wait).await;
    tokio::time::sleep(QUIET).await;
    let first = works(bench.sandbox.stats().await, "stats");
    let names: Vec<_> = first.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["up"]);
    assert!(first.containers[0].memory_bytes > 0);
    assert!(first.containers[0].pids > 0);
    tokio::time::sleep(QUIET).await;
    let second = works(bench.sandbox.stats().await, "stats");
    assert!(second.at > first.at);
    assert!(second.containers[0].cpu >= first.containers[0].cpu);
    bench.destroy().await;
}

/// A frozen sandbox does nothing, goes on where it was, and can be destroyed as it is.
pub async fn frozen(h: &dyn IsolationHarness) {
    let copy = Behaviour::CopyInput;
    if lacks(h, "frozen", &[Behaviour::Wait, copy]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &Behaviour::Wait).await;
    if !h.isolation().capability().freeze {
        let refused = bench.sandbox.freeze(true).await;
        fails(refused, ErrorKind::Unsupported, "nothing freezes here");
        return bench.destroy().await;
    }
    let spec = ExecSpec {
        process: process(h, &copy),
        stdin: true,
    };
    let mut ran = works(bench.sandbox.exec("a", spec).await, "exec");
    let mut input = ran.stdin.take().expect("an input");
    let mut byte = [0; 1];
    let mut say = async |letter: u8| {
        let sent = input.write_all(&[letter]).await;
        sent.expect("input is taken");
        input.flush().await.expect("input is taken");
    };
    say(b'a').await;
    let back = ran.stdout.read_exact(&mut byte);
    let back = in_time(SOON, "the first letter", back).await;
    back.expect("what was sent comes back");
    for frozen in [true, true] {
        works(bench.sandbox.freeze(frozen).await, "freeze");
    }
    say(b'b').await;
    let back = tokio::time::timeout(QUIET, ran.stdout.read_exact(&mut byte)).await;
    assert!(back.is_err(), "it goes on while it is frozen");
    assert!(bench.is_running("a").await);
    works(bench.sandbox.freeze(false).await, "thaw");
    let back = ran.stdout.read_exact(&mut byte);
    let back = in_time(SOON, "the letter after the thaw", back).await;
    back.expect("what was sent comes back");
    assert_eq!(byte, [b'b'], "it goes on where it was");
    works(bench.sandbox.freeze(true).await, "freeze");
    let sandbox = std::sync::Arc::clone(&bench.sandbox);
    bench.destroy().await;
    fails(sandbox.freeze(true).await, ErrorKind::Lost, "it is gone");
}

/// A container that takes more memory than it may is killed, and the reason is known.
pub async fn out_of_memory(h: &dyn IsolationHarness) {
    let hog = Behaviour::Hog(256 << 20);
    if lacks(h, "out_of_memory", &[hog, Behaviour::Wait]) {
        return;
    }
    if !h.isolation().capability().limits {
        return skip("out_of_memory", "the isolation enforces no limits");
    }
    let bench = Bench::new(h).await;
    bench.start("neighbour", &Behaviour::Wait).await;
    let mut spec = bench.container("hog", &hog).await;
    spec.limits = Limits {
        memory_max: Some(64 << 20),
        ..Limits::default()
    };
    let status = bench.ran_spec(spec).await;
    assert!(status.oom, "{status:?}");
    assert_ne!(status.code, 0);
    assert!(bench.is_running("neighbour").await, "the neighbour was hit");
    bench.destroy().await;
}
