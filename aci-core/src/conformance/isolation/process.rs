//! Containers: started, signalled, ended, seen.

use super::super::{CUTS, cut_short, fails, in_time, skip, works};
use super::{Behaviour, Bench, IsolationHarness, QUIET, SOON, case, lacks, mount};
use crate::contract::{FileEntry, RunState, Signal};
use crate::error::ErrorKind;
use crate::model::Secret;

/// Runs the cases of this part.
pub async fn all(h: &dyn IsolationHarness) {
    case(h, "exit_codes", exit_codes(h)).await;
    case(h, "signals", signals(h)).await;
    case(h, "signal_all", signal_all(h)).await;
    case(
        h,
        "changes_are_level_triggered",
        changes_are_level_triggered(h),
    )
    .await;
    case(h, "start_twice", start_twice(h)).await;
    case(h, "attempts", attempts(h)).await;
    case(h, "bad_starts", bad_starts(h)).await;
    case(h, "environment", environment(h)).await;
    case(h, "users", users(h)).await;
    case(h, "many_containers_at_once", many_containers_at_once(h)).await;
    case(h, "dropped_start", dropped_start(h)).await;
    case(h, "dropped_changed", dropped_changed(h)).await;
}

/// The code of a program's end is seen as it is, with the times of its life.
pub async fn exit_codes(h: &dyn IsolationHarness) {
    if lacks(h, "exit_codes", &[Behaviour::Exit(0)]) {
        return;
    }
    let bench = Bench::new(h).await;
    for code in [0, 1, 42, 126, 255] {
        let name = format!("c{code}");
        let status = bench.ran(&name, &Behaviour::Exit(code)).await;
        assert_eq!(status.code, code);
        assert_eq!((status.signal, status.oom), (None, false));
        match bench.state(&name).await {
            Some(RunState::Exited { since, status }) => assert!(since <= status.at),
            other => panic!("{other:?}"),
        }
    }
    bench.destroy().await;
}

/// A signal reaches the program; one that ends it is told; late and lost ones are no error.
pub async fn signals(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::IgnoreTerm];
    if lacks(h, "signals", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    let signal = async |name: &str, signal| {
        works(bench.sandbox.signal(name, signal, false).await, "signal");
    };
    bench.start("polite", &Behaviour::Wait).await;
    bench.start("deaf", &Behaviour::IgnoreTerm).await;
    // They need a moment to prepare for the signal.
    tokio::time::sleep(QUIET).await;
    signal("polite", Signal::TERM).await;
    let status = bench.ended("polite").await;
    assert_eq!((status.code, status.signal), (0, None));
    signal("deaf", Signal::TERM).await;
    tokio::time::sleep(QUIET).await;
    assert!(bench.is_running("deaf").await, "it ignores SIGTERM");
    signal("deaf", Signal::KILL).await;
    let status = bench.ended("deaf").await;
    assert_eq!((status.code, status.signal), (137, Some(Signal::KILL)));
    assert!(!status.oom);
    signal("deaf", Signal::KILL).await;
    signal("never-started", Signal::TERM).await;
    bench.destroy().await;
}

/// A kill of all processes ends the container.
pub async fn signal_all(h: &dyn IsolationHarness) {
    if lacks(h, "signal_all", &[Behaviour::IgnoreTerm]) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &Behaviour::IgnoreTerm).await;
    bench.start("b", &Behaviour::IgnoreTerm).await;
    tokio::time::sleep(QUIET).await;
    let all = bench.sandbox.signal("a", Signal::TERM, true).await;
    works(all, "SIGTERM to all");
    tokio::time::sleep(QUIET).await;
    assert!(bench.is_running("a").await);
    let all = bench.sandbox.signal("a", Signal::KILL, true).await;
    works(all, "SIGKILL to all");
    assert_eq!(bench.ended("a").await.signal, Some(Signal::KILL));
    assert!(bench.is_running("b").await, "the other container was hit");
    bench.destroy().await;
}

/// Who was away misses nothing; all waiters hear; nothing is told twice.
pub async fn changes_are_level_triggered(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Exit(3), Behaviour::Wait];
    if lacks(h, "changes_are_level_triggered", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    let sandbox = &bench.sandbox;
    let before = works(sandbox.status().await, "status").generation;
    bench.start("a", &Behaviour::Exit(3)).await;
    tokio::time::sleep(QUIET).await;
    let asked = sandbox.changed(before);
    let missed = works(in_time(SOON, "a missed change", asked).await, "changed");
    assert!(missed.generation > before);
    assert_eq!(missed.containers.len(), 1);
    bench.ended("a").await;
    bench.start("b", &Behaviour::Wait).await;
    tokio::time::sleep(QUIET).await;
    let seen = works(sandbox.status().await, "status").generation;
    let nothing = cut_short(QUIET, sandbox.changed(seen)).await;
    assert!(nothing.is_none(), "a change without a change: {nothing:?}");
    let end = async {
        let sent = sandbox.signal("b", Signal::KILL, true).await;
        works(sent, "signal");
    };
    let (one, two, ()) = in_time(
        SOON,
        "both waiters",
        futures_util::future::join3(sandbox.changed(seen), sandbox.changed(seen), end),
    )
    .await;
    for status in [works(one, "changed"), works(two, "changed")] {
        assert!(status.generation > seen);
    }
    bench.ended("b").await;
    let mut names: Vec<_> = works(sandbox.status().await, "status")
        .containers
        .into_iter()
        .map(|c| c.name)
        .collect();
    assert!(names.is_sorted(), "by name: {names:?}");
    names.sort();
    assert_eq!(names, ["a", "b"]);
    bench.destroy().await;
}

/// A running container cannot be started again, an ended one can.
pub async fn start_twice(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Exit(0), Behaviour::Wait];
    if lacks(h, "start_twice", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    bench.start("a", &Behaviour::Wait).await;
    let spec = bench.container("a", &Behaviour::Exit(0)).await;
    let again = bench.sandbox.start(spec).await;
    fails(again, ErrorKind::Conflict, "start of a running container");
    assert!(bench.is_running("a").await);
    works(
        bench.sandbox.signal("a", Signal::KILL, true).await,
        "signal",
    );
    bench.ended("a").await;
    bench.ran("a", &Behaviour::Exit(0)).await;
    bench.destroy().await;
}

/// Each attempt is shown by its number, with its own end.
pub async fn attempts(h: &dyn IsolationHarness) {
    if lacks(h, "attempts", &[Behaviour::Exit(0)]) {
        return;
    }
    let bench = Bench::new(h).await;
    for attempt in 0..4_u32 {
        let code = i32::try_from(attempt).unwrap();
        let mut spec = bench.container("a", &Behaviour::Exit(code)).await;
        spec.attempt = attempt;
        let before = works(bench.sandbox.status().await, "status").generation;
        bench.start_spec(spec).await;
        let status = bench.ended("a").await;
        assert_eq!(status.code, code);
        let now = works(bench.sandbox.status().await, "status");
        assert!(now.generation > before);
        assert_eq!(now.containers.len(), 1);
        assert_eq!(now.containers[0].attempt, attempt);
    }
    bench.destroy().await;
}

/// What the container's author has to mend is told in words, and nothing is left of the attempt.
pub async fn bad_starts(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Exit(0), Behaviour::Missing];
    if lacks(h, "bad_starts", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    let sandbox = &bench.sandbox;
    let before = works(sandbox.status().await, "status");
    let good = || bench.container("a", &Behaviour::Exit(0));

    let spec = bench.container("a", &Behaviour::Missing).await;
    let error = fails(sandbox.start(spec).await, ErrorKind::Invalid, "no program");
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    assert_eq!(error.program_exit_code(), Some(127), "{error}");

    let mut spec = good().await;
    spec.process.argv = vec![String::new()];
    fails(sandbox.start(spec).await, ErrorKind::Invalid, "no name");

    let mut spec = good().await;
    spec.mounts.push(mount("no-such-volume", "/data", false));
    let error = fails(sandbox.start(spec).await, ErrorKind::Invalid, "no volume");
    assert!(error.to_string().contains("no-such-volume"), "{error}");

    let mut spec = good().await;
    spec.process.user.image = Some("no-such-user".to_owned());
    let error = fails(sandbox.start(spec).await, ErrorKind::Invalid, "no user");
    assert!(error.to_string().contains("no-such-user"), "{error}");

    let after = works(sandbox.status().await, "status");
    assert_eq!(
        after.containers, before.containers,
        "a trace of a failed start"
    );
    assert_eq!(bench.ran("a", &Behaviour::Exit(0)).await.code, 0);
    bench.destroy().await;
}

/// A program sees its variables, its directory, its host name and the files laid over its root.
pub async fn environment(h: &dyn IsolationHarness) {
    let needs = [
        Behaviour::PrintEnv("NAME"),
        Behaviour::PrintDirectory,
        Behaviour::PrintHostname,
        Behaviour::ReadFile("/etc/conformance"),
    ];
    if lacks(h, "environment", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    let mut spec = bench.container("env", &needs[0]).await;
    for value in ["first", "a value with 'quotes' and $"] {
        let value = Secret::new(value);
        spec.process.env.push(("NAME".to_owned(), value));
    }
    assert_eq!(bench.ran_spec(spec).await.code, 0);
    let printed = bench.lines("env").await;
    assert_eq!(
        printed,
        ["a value with 'quotes' and $"],
        "a later name wins"
    );

    let mut spec = bench.container("dir", &needs[1]).await;
    spec.process.cwd = "/new/directory".to_owned();
    assert_eq!(bench.ran_spec(spec).await.code, 0);
    assert_eq!(bench.lines("dir").await, ["/new/directory"]);

    assert_eq!(bench.ran("host", &needs[2]).await.code, 0);
    assert_eq!(bench.lines("host").await, ["conformance"]);

    let mut spec = bench.container("file", &needs[3]).await;
    spec.files.push(FileEntry {
        path: "/etc/conformance".to_owned(),
        content: "laid over\n".into(),
        mode: 0o644,
    });
    assert_eq!(bench.ran_spec(spec).await.code, 0);
    assert_eq!(bench.lines("file").await, ["laid over"]);
    bench.destroy().await;
}

/// A program runs as the user that was asked for; ACI's numbers stand above the image's.
pub async fn users(h: &dyn IsolationHarness) {
    if lacks(h, "users", &[Behaviour::PrintId]) {
        return;
    }
    let bench = Bench::new(h).await;
    assert_eq!(bench.ran("root", &Behaviour::PrintId).await.code, 0);
    assert_eq!(bench.lines("root").await, ["0:0"]);
    if h.isolation().capability().many_users {
        for (name, image, uid, gid, printed) in [
            ("image", Some("1234:2345"), None, None, "1234:2345"),
            ("above", Some("1234:2345"), Some(77), Some(78), "77:78"),
            ("half", Some("1234:2345"), Some(77), None, "77:2345"),
        ] {
            let mut spec = bench.container(name, &Behaviour::PrintId).await;
            spec.process.user.image = image.map(str::to_owned);
            (spec.process.user.uid, spec.process.user.gid) = (uid, gid);
            assert_eq!(bench.ran_spec(spec).await.code, 0, "{name}");
            assert_eq!(bench.lines(name).await, [printed], "{name}");
        }
    } else {
        skip("users: other numbers", "the isolation has one user only");
    }
    bench.destroy().await;
}

/// Containers that start and end at once are all seen.
pub async fn many_containers_at_once(h: &dyn IsolationHarness) {
    if lacks(h, "many_containers_at_once", &[Behaviour::Exit(0)]) {
        return;
    }
    let bench = Bench::new(h).await;
    let runs = (0..12).map(|code| {
        let bench = &bench;
        async move {
            let status = bench.ran(&format!("c{code}"), &Behaviour::Exit(code)).await;
            assert_eq!(status.code, code);
        }
    });
    futures_util::future::join_all(runs).await;
    let status = works(bench.sandbox.status().await, "status");
    assert_eq!(status.containers.len(), 12);
    bench.destroy().await;
}

/// After a dropped `start`, `status` tells whether the container runs.
pub async fn dropped_start(h: &dyn IsolationHarness) {
    if lacks(h, "dropped_start", &[Behaviour::Wait]) {
        return;
    }
    let bench = Bench::new(h).await;
    for (index, cut) in CUTS.into_iter().enumerate() {
        let name = format!("c{index}");
        let spec = bench.container(&name, &Behaviour::Wait).await;
        let _ = cut_short(cut, bench.sandbox.start(spec)).await;
        let spec = bench.container(&name, &Behaviour::Wait).await;
        match bench.sandbox.start(spec).await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
        assert!(bench.is_running(&name).await);
    }
    bench.destroy().await;
}

/// A dropped `changed` takes no change with it.
pub async fn dropped_changed(h: &dyn IsolationHarness) {
    if lacks(h, "dropped_changed", &[Behaviour::Exit(0)]) {
        return;
    }
    let bench = Bench::new(h).await;
    let before = works(bench.sandbox.status().await, "status").generation;
    bench.start("a", &Behaviour::Exit(0)).await;
    for cut in CUTS {
        let _ = cut_short(cut, bench.sandbox.changed(before)).await;
    }
    let asked = in_time(SOON, "the change", bench.sandbox.changed(before)).await;
    assert!(works(asked, "changed").generation > before);
    bench.ended("a").await;
    bench.destroy().await;
}
