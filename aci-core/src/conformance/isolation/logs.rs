//! Logs of containers.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::super::{cut_short, fails, in_time, works};
use super::{Behaviour, Bench, IsolationHarness, SOON, case, collect, lacks, texts};
use crate::contract::{LogQuery, LogStream, OutputStream, Signal};
use crate::error::ErrorKind;

/// Runs the cases of this part.
pub async fn all(h: &dyn IsolationHarness) {
    case(h, "log_streams", log_streams(h)).await;
    case(h, "log_parts", log_parts(h)).await;
    case(
        h,
        "log_long_and_unfinished_lines",
        log_long_and_unfinished_lines(h),
    )
    .await;
    case(h, "log_of_all_attempts", log_of_all_attempts(h)).await;
    case(h, "log_is_bounded", log_is_bounded(h)).await;
    case(h, "log_follow", log_follow(h)).await;
    case(
        h,
        "log_follow_of_an_ended_container",
        log_follow_of_an_ended_container(h),
    )
    .await;
    case(
        h,
        "log_follow_of_a_lost_sandbox",
        log_follow_of_a_lost_sandbox(h),
    )
    .await;
    case(h, "dropped_log", dropped_log(h)).await;
}

const FAST: Behaviour<'_> = Behaviour::Ticks {
    interval: Duration::ZERO,
    count: 20,
};
const SLOW: Behaviour<'_> = Behaviour::Ticks {
    interval: Duration::from_millis(40),
    count: 10,
};

fn ticks(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|n| format!("tick {n}")).collect()
}

async fn logs(bench: &Bench<'_>, name: &str, query: LogQuery) -> LogStream {
    works(bench.sandbox.logs(name, query).await, "logs")
}

/// Lines are kept with their stream and time, also after the end; unknown containers have none.
pub async fn log_streams(h: &dyn IsolationHarness) {
    let print = Behaviour::Print {
        stdout: "to the log",
        stderr: "an error",
    };
    if lacks(h, "log_streams", &[print]) {
        return;
    }
    let bench = Bench::new(h).await;
    let status = bench.ran("a", &print).await;
    let lines = collect(logs(&bench, "a", LogQuery::default()).await).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        let text: &[u8] = match line.stream {
            OutputStream::Stdout => b"to the log",
            OutputStream::Stderr => b"an error",
        };
        assert_eq!(line.line, text);
        assert!(!line.partial);
        // Its supervisor may read the last line after it has seen the end.
        assert!(line.at.since(status.at) < Duration::from_secs(5));
    }
    assert_ne!(lines[0].stream, lines[1].stream);
    let unknown = bench.sandbox.logs("never-started", LogQuery::default());
    let unknown = unknown.await.map(|_| ());
    fails(unknown, ErrorKind::NotFound, "a log of nothing");
    bench.destroy().await;
}

/// The last lines, and the lines since a time.
pub async fn log_parts(h: &dyn IsolationHarness) {
    if lacks(h, "log_parts", &[FAST, SLOW]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.ran("a", &FAST).await;
    assert_eq!(bench.lines("a").await, ticks(1..=20));
    for tail in [0, 1, 3, 20, 1000] {
        let query = LogQuery {
            tail: Some(tail),
            ..LogQuery::default()
        };
        let lines = texts(&collect(logs(&bench, "a", query).await).await);
        assert_eq!(lines, ticks(21 - tail.min(20)..=20), "tail {tail}");
    }
    bench.ran("slow", &SLOW).await;
    let all = collect(logs(&bench, "slow", LogQuery::default()).await).await;
    assert!(all.is_sorted_by_key(|line| line.at), "times go back");
    let query = LogQuery {
        since: Some(all[4].at),
        ..LogQuery::default()
    };
    let since = collect(logs(&bench, "slow", query).await).await;
    assert_eq!(since, all[4..]);
    let both = LogQuery {
        tail: Some(2),
        ..query
    };
    assert_eq!(collect(logs(&bench, "slow", both).await).await, all[8..]);
    bench.destroy().await;
}

/// A very long line comes in records that together are the line; a last line without its end is
/// kept.
pub async fn log_long_and_unfinished_lines(h: &dyn IsolationHarness) {
    let long = Behaviour::LongLine(100_000);
    let open = Behaviour::Unterminated("no end");
    if lacks(h, "log_long_and_unfinished_lines", &[long, open]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.ran("long", &long).await;
    let lines = collect(logs(&bench, "long", LogQuery::default()).await).await;
    let length: usize = lines.iter().map(|line| line.line.len()).sum();
    assert_eq!(length, 100_000);
    assert!(
        lines
            .iter()
            .all(|line| line.line.iter().all(|b| *b == b'x'))
    );
    let (last, before) = lines.split_last().expect("a line");
    assert!(!last.partial && before.iter().all(|line| line.partial));
    bench.ran("open", &open).await;
    assert_eq!(bench.lines("open").await, ["no end"]);
    bench.destroy().await;
}

/// A restart does not lose what the attempt before had said.
pub async fn log_of_all_attempts(h: &dyn IsolationHarness) {
    let (one, two) = (
        Behaviour::Unterminated("first"),
        Behaviour::Unterminated("second"),
    );
    if lacks(h, "log_of_all_attempts", &[one, two]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.ran("a", &one).await;
    let mut spec = bench.container("a", &two).await;
    spec.attempt = 1;
    bench.ran_spec(spec).await;
    assert_eq!(bench.lines("a").await, ["first", "second"]);
    bench.destroy().await;
}

/// A log keeps its end and stays near its bound.
pub async fn log_is_bounded(h: &dyn IsolationHarness) {
    let many = Behaviour::Ticks {
        interval: Duration::ZERO,
        count: 5000,
    };
    if lacks(h, "log_is_bounded", &[many]) {
        return;
    }
    let bench = Bench::new(h).await;
    let mut spec = bench.container("a", &many).await;
    spec.log_bytes = 16 << 10;
    bench.ran_spec(spec).await;
    let lines = bench.lines("a").await;
    assert_eq!(lines.last().map(String::as_str), Some("tick 5000"));
    let kept: usize = lines.iter().map(|line| line.len() + 1).sum();
    assert!(kept <= 16 << 10, "{kept} bytes are kept of 16 KiB allowed");
    assert!(
        kept >= 4 << 10,
        "only {kept} bytes are kept of 16 KiB allowed"
    );
    let first = 5001 - u32::try_from(lines.len()).unwrap();
    assert_eq!(
        lines,
        ticks(first..=5000),
        "lines are missing in the middle"
    );
    bench.destroy().await;
}

/// Following gives old lines, new lines as they come, and ends with the container.
pub async fn log_follow(h: &dyn IsolationHarness) {
    if lacks(h, "log_follow", &[SLOW]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &SLOW).await;
    let query = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let (one, two) = (
        logs(&bench, "a", query).await,
        logs(&bench, "a", query).await,
    );
    let (one, two) = futures_util::future::join(collect(one), collect(two)).await;
    assert_eq!(texts(&one), ticks(1..=10));
    assert_eq!(one, two);
    assert!(
        !bench.is_running("a").await,
        "the log ended before the container"
    );
    bench.destroy().await;
}

/// Following an ended container gives its log and ends.
pub async fn log_follow_of_an_ended_container(h: &dyn IsolationHarness) {
    if lacks(h, "log_follow_of_an_ended_container", &[FAST]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.ran("a", &FAST).await;
    let query = LogQuery {
        follow: true,
        tail: Some(2),
        ..LogQuery::default()
    };
    let lines = collect(logs(&bench, "a", query).await).await;
    assert_eq!(texts(&lines), ticks(19..=20));
    bench.destroy().await;
}

/// Following ends with `Lost` if the sandbox goes.
pub async fn log_follow_of_a_lost_sandbox(h: &dyn IsolationHarness) {
    if lacks(h, "log_follow_of_a_lost_sandbox", &[Behaviour::Wait]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &Behaviour::Wait).await;
    let query = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let mut log = logs(&bench, "a", query).await;
    let early = cut_short(Duration::from_millis(50), log.next()).await;
    assert!(early.is_none(), "the log of a silent container: {early:?}");
    bench.destroy().await;
    let end = in_time(SOON, "the end of the log", log.next()).await;
    let end = end.expect("the log says why it ends");
    fails(end.map(|_| ()), ErrorKind::Lost, "the end of the log");
    let after = in_time(SOON, "the end of the stream", log.next()).await;
    assert!(after.is_none());
}

/// A dropped stream takes nothing out of the log.
pub async fn dropped_log(h: &dyn IsolationHarness) {
    if lacks(h, "dropped_log", &[SLOW, Behaviour::Wait]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &SLOW).await;
    for _ in 0..3 {
        let query = LogQuery {
            follow: true,
            ..LogQuery::default()
        };
        let mut log = logs(&bench, "a", query).await;
        let first = in_time(SOON, "the first line", log.next()).await;
        let first = works(first.expect("a line"), "a line");
        assert_eq!(first.line, "tick 1");
    }
    bench.ended("a").await;
    assert_eq!(bench.lines("a").await, ticks(1..=10));
    works(
        bench.sandbox.signal("a", Signal::KILL, true).await,
        "signal",
    );
    bench.destroy().await;
}
