//! Further processes in running containers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{CUTS, cut_short, fails, in_time, works};
use super::{Behaviour, Bench, IsolationHarness, QUIET, SOON, case, lacks, process};
use crate::contract::{BoxRead, ExecSpec, ExitStatus, Process, Signal, TerminalSize};
use crate::error::ErrorKind;
use crate::model::Secret;

/// Runs the cases of this part.
pub async fn all(h: &dyn IsolationHarness) {
    case(h, "exec_streams", exec_streams(h)).await;
    case(h, "exec_input", exec_input(h)).await;
    case(h, "exec_without_input", exec_without_input(h)).await;
    case(h, "exec_wait_and_signal", exec_wait_and_signal(h)).await;
    case(h, "exec_environment", exec_environment(h)).await;
    case(h, "exec_terminal", exec_terminal(h)).await;
    case(h, "bad_execs", bad_execs(h)).await;
    case(h, "program_by_exec", program_by_exec(h)).await;
    case(
        h,
        "exec_ends_with_its_container",
        exec_ends_with_its_container(h),
    )
    .await;
    case(h, "container_outlives_exec", container_outlives_exec(h)).await;
    case(h, "dropped_exec", dropped_exec(h)).await;
}

async fn up<'a>(h: &'a dyn IsolationHarness) -> Bench<'a> {
    let bench = Bench::new(h).await;
    bench.start("a", &Behaviour::Wait).await;
    bench
}

async fn exec(bench: &Bench<'_>, behaviour: &Behaviour<'_>, stdin: bool) -> Process {
    let spec = ExecSpec {
        process: process(bench.harness, behaviour),
        stdin,
    };
    works(bench.sandbox.exec("a", spec).await, "exec")
}

async fn read(mut stream: BoxRead) -> String {
    let mut text = String::new();
    let reading = in_time(
        SOON,
        "the end of a stream",
        stream.read_to_string(&mut text),
    );
    reading.await.expect("a stream is read");
    text
}

async fn wait(process: &Process) -> ExitStatus {
    let ended = in_time(SOON, "the end of a process", process.control.wait());
    works(ended.await, "wait")
}

/// Both output streams arrive, each by itself, and end with the process.
pub async fn exec_streams(h: &dyn IsolationHarness) {
    let print = Behaviour::Print {
        stdout: "to the caller",
        stderr: "and to the side",
    };
    if lacks(
        h,
        "exec_streams",
        &[Behaviour::Wait, print, Behaviour::Exit(7)],
    ) {
        return;
    }
    let bench = up(h).await;
    let mut ran = exec(&bench, &print, false).await;
    assert!(ran.stdin.is_none(), "no input was asked for");
    let stderr = ran.stderr.take().expect("a stream of errors");
    assert_eq!(read(stderr).await, "and to the side\n");
    let stdout = std::mem::replace(&mut ran.stdout, Box::new(tokio::io::empty()));
    assert_eq!(read(stdout).await, "to the caller\n");
    assert_eq!(wait(&ran).await.code, 0);
    let ran = exec(&bench, &Behaviour::Exit(7), false).await;
    assert_eq!(wait(&ran).await.code, 7);
    assert_eq!(
        bench.lines("a").await,
        [""; 0],
        "exec does not write to the log"
    );
    bench.destroy().await;
}

/// What the caller writes arrives, all of it, and the end of it too.
pub async fn exec_input(h: &dyn IsolationHarness) {
    if lacks(h, "exec_input", &[Behaviour::Wait, Behaviour::CopyInput]) {
        return;
    }
    let bench = up(h).await;
    let mut ran = exec(&bench, &Behaviour::CopyInput, true).await;
    let mut stdin = ran.stdin.take().expect("input was asked for");
    let sent: String = (0..40_000).map(|n| format!("{n}\n")).collect();
    let write = async {
        stdin
            .write_all(sent.as_bytes())
            .await
            .expect("input is taken");
        stdin.shutdown().await.expect("input is closed");
        drop(stdin);
    };
    let stdout = std::mem::replace(&mut ran.stdout, Box::new(tokio::io::empty()));
    let ((), received) = futures_util::future::join(write, read(stdout)).await;
    assert!(
        received == sent,
        "{} of {} bytes",
        received.len(),
        sent.len()
    );
    assert_eq!(wait(&ran).await.code, 0);
    bench.destroy().await;
}

/// Without input a program reads the end at once.
pub async fn exec_without_input(h: &dyn IsolationHarness) {
    if lacks(
        h,
        "exec_without_input",
        &[Behaviour::Wait, Behaviour::CopyInput],
    ) {
        return;
    }
    let bench = up(h).await;
    let ran = exec(&bench, &Behaviour::CopyInput, false).await;
    assert_eq!(wait(&ran).await.code, 0);
    bench.destroy().await;
}

/// Many may wait, before and after the end; a signal ends the process and not the container.
pub async fn exec_wait_and_signal(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::IgnoreTerm];
    if lacks(h, "exec_wait_and_signal", &needs) {
        return;
    }
    let bench = up(h).await;
    let ran = exec(&bench, &Behaviour::IgnoreTerm, false).await;
    tokio::time::sleep(QUIET).await;
    works(ran.control.signal(Signal::TERM).await, "SIGTERM");
    let early = cut_short(QUIET, ran.control.wait()).await;
    assert!(early.is_none(), "it ignores SIGTERM: {early:?}");
    let kill = async {
        tokio::time::sleep(QUIET / 10).await;
        works(ran.control.signal(Signal::KILL).await, "SIGKILL");
    };
    let (one, two, ()) = futures_util::future::join3(wait(&ran), wait(&ran), kill).await;
    assert_eq!(one, two);
    assert_eq!((one.code, one.signal), (137, Some(Signal::KILL)));
    assert_eq!(wait(&ran).await, one);
    works(ran.control.signal(Signal::KILL).await, "a late signal");
    assert!(bench.is_running("a").await);
    bench.destroy().await;
}

/// Without variables of its own a process has those of its container.
pub async fn exec_environment(h: &dyn IsolationHarness) {
    let print = Behaviour::PrintEnv("NAME");
    if lacks(h, "exec_environment", &[Behaviour::Wait, print]) {
        return;
    }
    let bench = Bench::new(h).await;
    let mut spec = bench.container("a", &Behaviour::Wait).await;
    let mut own = spec.process.env.clone();
    let name = "NAME".to_owned();
    spec.process
        .env
        .push((name.clone(), Secret::new("container's")));
    own.push((name, Secret::new("own")));
    bench.start_spec(spec).await;
    for (env, printed) in [(Vec::new(), "container's\n"), (own, "own\n")] {
        let mut spec = ExecSpec {
            process: process(h, &print),
            stdin: false,
        };
        spec.process.env = env;
        let ran = works(bench.sandbox.exec("a", spec).await, "exec");
        assert_eq!(read(ran.stdout).await, printed);
    }
    bench.destroy().await;
}

/// A terminal has a size, which can be changed, and one stream for all output.
pub async fn exec_terminal(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::PrintTerminal];
    if lacks(h, "exec_terminal", &needs) {
        return;
    }
    let bench = up(h).await;
    let spec = |behaviour: &Behaviour<'_>, rows, cols| {
        let mut spec = ExecSpec {
            process: process(h, behaviour),
            stdin: true,
        };
        spec.process.terminal = Some(TerminalSize { rows, cols });
        spec
    };
    let asked = spec(&Behaviour::PrintTerminal, 33, 111);
    let ran = works(bench.sandbox.exec("a", asked).await, "exec");
    assert!(ran.stderr.is_none(), "a terminal has one stream");
    let control = std::sync::Arc::clone(&ran.control);
    // A terminal ends its lines with "\r\n".
    assert_eq!(read_terminal(ran.stdout).await.trim_end(), "33 111");
    works(in_time(SOON, "the end", control.wait()).await, "wait");
    let size = TerminalSize { rows: 9, cols: 8 };
    works(control.resize(size).await, "resize after the end");
    let ran = works(
        bench
            .sandbox
            .exec("a", spec(&Behaviour::Wait, 24, 80))
            .await,
        "exec",
    );
    works(ran.control.resize(size).await, "resize");
    works(ran.control.signal(Signal::KILL).await, "signal");
    wait(&ran).await;
    bench.destroy().await;
}

/// Reads a terminal to its end; the kernel may tell the end as an input or output error (`EIO`).
async fn read_terminal(mut stream: BoxRead) -> String {
    let mut text = Vec::new();
    let reading = in_time(SOON, "the end of a terminal", async {
        while let Ok(read) = stream.read_buf(&mut text).await {
            if read == 0 {
                break;
            }
        }
    });
    reading.await;
    String::from_utf8_lossy(&text).into_owned()
}

/// What cannot be executed, or nowhere, is told.
pub async fn bad_execs(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::Exit(0), Behaviour::Missing];
    if lacks(h, "bad_execs", &needs) {
        return;
    }
    let bench = up(h).await;
    bench.ran("ended", &Behaviour::Exit(0)).await;
    let spec = |behaviour: &Behaviour<'_>| ExecSpec {
        process: process(h, behaviour),
        stdin: false,
    };
    let missing = bench.sandbox.exec("a", spec(&Behaviour::Missing)).await;
    let error = fails(missing, ErrorKind::Invalid, "no program");
    assert_eq!(error.program_exit_code(), Some(127), "{error}");
    for name in ["never-started", "ended"] {
        let nowhere = bench.sandbox.exec(name, spec(&Behaviour::Exit(0))).await;
        fails(nowhere, ErrorKind::NotFound, name);
    }
    bench.destroy().await;
}

/// A container without a program waits; the first process that is brought is its own.
pub async fn program_by_exec(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::Exit(7), Behaviour::Missing];
    if lacks(h, "program_by_exec", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    let mut empty = bench.container("a", &Behaviour::Wait).await;
    empty.process.argv.clear();
    bench.start_spec(empty.clone()).await;
    assert!(bench.is_running("a").await);
    let again = bench.sandbox.start(empty.clone()).await;
    fails(again, ErrorKind::Conflict, "it is there already");
    // One that cannot be started changes nothing.
    let missing = ExecSpec {
        process: process(h, &Behaviour::Missing),
        stdin: false,
    };
    let missing = bench.sandbox.exec("a", missing).await;
    fails(missing, ErrorKind::Invalid, "no program");
    assert!(bench.is_running("a").await);
    let own = exec(&bench, &Behaviour::Exit(7), false).await;
    assert_eq!(wait(&own).await.code, 7);
    assert_eq!(bench.ended("a").await.code, 7);

    // Signals to the container reach it, and others end with it.
    empty.attempt = 1;
    bench.start_spec(empty.clone()).await;
    let own = exec(&bench, &Behaviour::Wait, false).await;
    let other = exec(&bench, &Behaviour::Wait, false).await;
    let sent = bench.sandbox.signal("a", Signal::KILL, false).await;
    works(sent, "signal");
    for ran in [&own, &other] {
        assert_eq!(wait(ran).await.signal, Some(Signal::KILL));
    }
    assert_eq!(bench.ended("a").await.signal, Some(Signal::KILL));

    // One that waits for ever can be ended.
    empty.attempt = 2;
    bench.start_spec(empty).await;
    let sent = bench.sandbox.signal("a", Signal::KILL, true).await;
    works(sent, "signal");
    assert_eq!(bench.ended("a").await.signal, Some(Signal::KILL));
    bench.destroy().await;
}

/// With the container's own process all others in it end.
pub async fn exec_ends_with_its_container(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::IgnoreTerm];
    if lacks(h, "exec_ends_with_its_container", &needs) {
        return;
    }
    let bench = up(h).await;
    let ran = exec(&bench, &Behaviour::IgnoreTerm, false).await;
    tokio::time::sleep(QUIET).await;
    let sent = bench.sandbox.signal("a", Signal::KILL, false).await;
    works(sent, "signal");
    bench.ended("a").await;
    assert_eq!(wait(&ran).await.signal, Some(Signal::KILL));
    bench.destroy().await;
}

/// A container goes on when an exec in it ends or its handle is dropped.
pub async fn container_outlives_exec(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::Exit(1), Behaviour::CopyInput];
    if lacks(h, "container_outlives_exec", &needs) {
        return;
    }
    let bench = up(h).await;
    let ran = exec(&bench, &Behaviour::Exit(1), false).await;
    wait(&ran).await;
    let ran = exec(&bench, &Behaviour::CopyInput, true).await;
    let control = std::sync::Arc::clone(&ran.control);
    // Its input ends, so it ends.
    drop(ran);
    works(in_time(SOON, "the end", control.wait()).await, "wait");
    assert!(bench.is_running("a").await);
    bench.destroy().await;
}

/// A dropped `exec` leaves the container as it was.
pub async fn dropped_exec(h: &dyn IsolationHarness) {
    let needs = [Behaviour::Wait, Behaviour::Exit(0)];
    if lacks(h, "dropped_exec", &needs) {
        return;
    }
    let bench = up(h).await;
    for cut in CUTS {
        let spec = ExecSpec {
            process: process(h, &Behaviour::Exit(0)),
            stdin: true,
        };
        let _ = cut_short(cut, bench.sandbox.exec("a", spec)).await;
        let ran = exec(&bench, &Behaviour::Exit(0), false).await;
        assert_eq!(wait(&ran).await.code, 0);
    }
    assert!(bench.is_running("a").await);
    bench.destroy().await;
}
