//! Further processes in running containers, logs as they grow, and connections into the group.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use aci_core::contract::*;
use aci_core::error::ErrorKind;
use common::*;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn with_input(argv: &[&str]) -> ExecSpec {
    ExecSpec {
        process: ProcessSpec {
            env: Vec::new(),
            ..process(argv)
        },
        stdin: true,
    }
}

#[tokio::test]
async fn pipes_codes_and_environment() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("web", &["sleep", "1000"]))
        .await
        .unwrap();
    let (code, out) = exec(
        &*sandbox,
        "web",
        &["sh", "-c", "echo $MARK; echo err >&2; exit 9"],
    )
    .await
    .unwrap();
    assert_eq!((code, out.as_str()), (9, "seen\nerr\n"));

    let mut cat = sandbox.exec("web", with_input(&["cat"])).await.unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    let text = "x".repeat(300_000);
    let sent = text.clone();
    let writer = tokio::spawn(async move {
        stdin.write_all(sent.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let mut back = String::new();
    cat.stdout.read_to_string(&mut back).await.unwrap();
    writer.await.unwrap();
    assert_eq!(back.len(), text.len());
    // Several may wait, and again.
    let (one, two) = tokio::join!(cat.control.wait(), cat.control.wait());
    assert_eq!((one.unwrap().code, two.unwrap().code), (0, 0));
    assert_eq!(cat.control.wait().await.unwrap().code, 0);
    cat.control.signal(Signal::TERM).await.unwrap();

    let sleeper = sandbox
        .exec("web", with_input(&["sleep", "1000"]))
        .await
        .unwrap();
    sleeper.control.signal(Signal::KILL).await.unwrap();
    assert_eq!(sleeper.control.wait().await.unwrap().code, 137);

    let error = sandbox
        .exec("web", with_input(&["nothing"]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.program_exit_code()),
        (ErrorKind::Invalid, Some(127))
    );
    let error = sandbox
        .exec("other", with_input(&["true"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    // Nothing of the agent's is open in a process of a container.
    let (_, out) = exec(&*sandbox, "web", &["sh", "-c", "ls /proc/self/fd"])
        .await
        .unwrap();
    assert_eq!(
        out.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "{out}"
    );
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn a_terminal_is_one() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("web", &["sleep", "1000"]))
        .await
        .unwrap();
    let mut spec = with_input(&["sh"]);
    spec.process.terminal = Some(TerminalSize { rows: 33, cols: 77 });
    let mut shell = sandbox.exec("web", spec).await.unwrap();
    assert!(shell.stderr.is_none());
    let mut stdin = shell.stdin.take().unwrap();
    let mut seen = String::new();
    stdin.write_all(b"tty; stty size\n").await.unwrap();
    read_until(&mut shell.stdout, &mut seen, "33 77").await;
    assert!(seen.contains("/dev/pts/"), "{seen}");
    shell
        .control
        .resize(TerminalSize { rows: 44, cols: 88 })
        .await
        .unwrap();
    stdin.write_all(b"stty size\n").await.unwrap();
    read_until(&mut shell.stdout, &mut seen, "44 88").await;
    // Control-C reaches the foreground job, not the shell.
    stdin.write_all(b"sleep 1000\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stdin.write_all(&[3]).await.unwrap();
    stdin.write_all(b"echo still $((40+2))\n").await.unwrap();
    read_until(&mut shell.stdout, &mut seen, "still 42").await;
    stdin.write_all(b"exit 5\n").await.unwrap();
    assert_eq!(shell.control.wait().await.unwrap().code, 5);
    let mut rest = String::new();
    shell.stdout.read_to_string(&mut rest).await.unwrap();

    // Dropping the streams hangs up.
    let mut spec = with_input(&[
        "sh",
        "-c",
        "trap 'echo hung >/tmp/hung; exit' HUP; echo ready; while :; do sleep 0.1; done",
    ]);
    spec.process.terminal = Some(TerminalSize::default());
    let mut hung = sandbox.exec("web", spec).await.unwrap();
    read_until(&mut hung.stdout, &mut String::new(), "ready").await;
    drop(hung);
    for _ in 0..100 {
        if exec(&*sandbox, "web", &["cat", "/tmp/hung"])
            .await
            .unwrap()
            .0
            == 0
        {
            sandbox.destroy().await.unwrap();
            bench.assert_clean();
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the process did not hear of the hang-up");
}

async fn read_until(from: &mut BoxRead, seen: &mut String, what: &str) {
    let read = async {
        let mut buffer = [0; 4096];
        while !seen.contains(what) {
            let count = from.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "the terminal ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .is_err()
    {
        panic!("'{what}' did not come");
    }
}

#[tokio::test]
async fn a_container_may_have_a_terminal_itself() {
    let Some(bench) = bench() else { return };
    let mut container = bench.shell("web", "tty; stty size; echo hello");
    container.process.terminal = Some(TerminalSize { rows: 10, cols: 20 });
    let (exit, log) = bench.run(container).await.unwrap();
    assert_eq!(exit.code, 0);
    assert_eq!(log, "/dev/pts/0\n10 20\nhello\n");
    bench.assert_clean();
}

#[tokio::test]
async fn logs_follow_through_rotation() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    let mut container = bench.shell(
        "web",
        "for i in $(seq 1 3000); do echo line $i; [ $((i % 100)) = 0 ] && usleep 20000; done",
    );
    container.log_bytes = 16 << 10;
    sandbox.start(container).await.unwrap();
    let query = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let lines: Vec<_> = sandbox.logs("web", query).await.unwrap().collect().await;
    let numbers: Vec<u32> = lines
        .into_iter()
        .map(|line| {
            let line = line.unwrap();
            let text = String::from_utf8_lossy(&line.line).into_owned();
            text.rsplit(' ').next().unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(numbers.last(), Some(&3000));
    assert!(
        numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "lines are missing"
    );
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn a_flood_of_output_stops_nobody() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("flood", &["yes"]))
        .await
        .unwrap();
    for number in 0..10 {
        let name = format!("calm{number}");
        let began = std::time::Instant::now();
        sandbox
            .start(bench.shell(&name, "echo calm"))
            .await
            .unwrap();
        assert_eq!(ended(&*sandbox, &name).await.code, 0);
        assert_eq!(log(&*sandbox, &name).await, "calm\n");
        assert!(began.elapsed() < Duration::from_secs(3));
    }
    let kept: u64 = std::fs::read_dir(
        bench
            .root()
            .join("state")
            .join(sandbox.id().as_str())
            .join("log"),
    )
    .unwrap()
    .map(|entry| entry.unwrap().metadata().unwrap().len())
    .sum();
    // 1 MiB of text; each line of 1 byte carries a stamp of some 40.
    assert!(kept < 40 << 20, "{kept} bytes are kept");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn dialling_goes_into_the_groups_network() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    let script = "while :; do printf 'hello from inside' | nc -l -p 80; done";
    sandbox.start(bench.shell("web", script)).await.unwrap();
    let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let mut tries = 0;
    let mut stream = loop {
        match sandbox.dial(address, Duration::from_secs(1)).await {
            Ok(stream) => break stream,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                tries += 1;
                assert!(tries < 100);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello from inside");
    drop(stream);
    let error = sandbox
        .dial("127.0.0.1:81".parse().unwrap(), Duration::from_secs(1))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // Both containers of a group share the network.
    sandbox
        .start(bench.shell(
            "peer",
            "while ! nc 127.0.0.1 80 </dev/null 2>/dev/null; do usleep 50000; done",
        ))
        .await
        .unwrap();
    ended(&*sandbox, "peer").await;
    assert_eq!(log(&*sandbox, "peer").await, "hello from inside\n");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[test]
fn without_root() {
    again_without_root(&[
        "pipes_codes_and_environment",
        "a_terminal_is_one",
        "a_container_may_have_a_terminal_itself",
        "dialling_goes_into_the_groups_network",
    ]);
}
