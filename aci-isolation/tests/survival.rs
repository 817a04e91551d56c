//! Hosts that die and agents that die.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use aci_core::contract::*;
use aci_core::error::ErrorKind;
use aci_core::id::SandboxId;
use common::*;

/// What the child of the test below is told by its environment.
const STATE: &str = "ACI_TEST_STATE";

/// Not a test of its own: the host that is killed. It makes a sandbox with two containers, says so
/// and waits for its end.
#[tokio::test]
async fn a_host_to_be_killed() {
    let Ok(directory) = std::env::var(STATE) else {
        return;
    };
    let directory = std::path::PathBuf::from(directory);
    lay_out(&directory);
    let bench = bench_at(directory).unwrap();
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.shell("job", "echo begin; sleep 1; echo end; exit 42"))
        .await
        .unwrap();
    sandbox
        .start(bench.container("web", &["sleep", "1000"]))
        .await
        .unwrap();
    std::fs::write(bench.root().join("ready.new"), sandbox.id().as_str()).unwrap();
    std::fs::rename(bench.root().join("ready.new"), bench.root().join("ready")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_hosts_sandbox_is_adopted() {
    let Some(outer) = bench() else { return };
    let directory = outer.root().join("host");
    std::fs::create_dir(&directory).unwrap();
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_host_to_be_killed", "--nocapture"])
        .env(STATE, &directory)
        .spawn()
        .unwrap();
    let ready = directory.join("ready");
    for _ in 0..400 {
        if ready.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let id: SandboxId = std::fs::read_to_string(&ready).unwrap().parse().unwrap();
    host.kill().unwrap();
    host.wait().unwrap();
    // The job ends while nobody looks.
    tokio::time::sleep(Duration::from_millis(1500)).await;

    let bench = bench_at(directory).unwrap();
    let again = bench.isolation.clone();
    assert_eq!(again.list().await.unwrap(), std::slice::from_ref(&id));
    let sandbox = again.adopt(&id).await.unwrap();
    assert_eq!(ended(&*sandbox, "job").await.code, 42);
    assert_eq!(log(&*sandbox, "job").await, "begin\nend\n");
    assert!(matches!(
        state(&*sandbox, "web").await,
        RunState::Running { .. }
    ));
    assert_eq!(
        exec(&*sandbox, "web", &["echo", "alive"]).await.unwrap(),
        (0, "alive\n".into())
    );
    let NetworkEndpoint::Namespace(namespace) = sandbox.network() else {
        panic!("no network namespace");
    };
    assert_eq!(
        namespace.pid,
        bench.agent(&id).as_raw_nonzero().get().unsigned_abs()
    );
    sandbox.start(bench.shell("more", "exit 3")).await.unwrap();
    assert_eq!(ended(&*sandbox, "more").await.code, 3);
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn with_its_agent_everything_ends() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.shell("web", "sleep 1000 & setsid sleep 1000 & sleep 1000; true"))
        .await
        .unwrap();
    let running = sandbox.exec(
        "web",
        ExecSpec {
            process: process(&["sleep", "1000"]),
            stdin: false,
        },
    );
    let running = running.await.unwrap();
    bench.kill_agent(sandbox.id());
    assert_eq!(
        running.control.wait().await.unwrap_err().kind(),
        ErrorKind::Lost
    );
    assert_eq!(sandbox.status().await.unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(
        sandbox.changed(1_000_000).await.unwrap_err().kind(),
        ErrorKind::Lost
    );
    assert_eq!(
        bench.isolation.list().await.unwrap(),
        [sandbox.id().clone()]
    );
    let error = bench
        .isolation
        .adopt(sandbox.id())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    bench.isolation.remove(sandbox.id()).await.unwrap();
    bench.isolation.remove(sandbox.id()).await.unwrap();
    assert_eq!(
        bench
            .isolation
            .adopt(sandbox.id())
            .await
            .map(drop)
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    bench.assert_clean();
}

/// A pid that was given to another process is not taken for the agent, and not killed.
#[tokio::test]
async fn a_reused_pid_is_nobodys_agent() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    let id = sandbox.id().clone();
    let record = bench.root().join("state").join(id.as_str()).join("agent");
    let text = std::fs::read_to_string(&record).unwrap();
    bench.kill_agent(&id);
    // Start times count in hundredths of a second.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut other = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    words[1] = other.id().to_string();
    std::fs::write(&record, words.join(" ")).unwrap();
    assert_eq!(
        bench
            .isolation
            .adopt(&id)
            .await
            .map(drop)
            .unwrap_err()
            .kind(),
        ErrorKind::Lost
    );
    bench.isolation.remove(&id).await.unwrap();
    assert!(
        other.try_wait().unwrap().is_none(),
        "another process was killed"
    );
    other.kill().unwrap();
    other.wait().unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn a_failed_creation_leaves_nothing() {
    let Some(bench) = bench() else { return };
    for (source, words) in [
        (
            VolumeSource::Directory("/no/such/directory".into()),
            "/no/such/directory",
        ),
        (
            VolumeSource::Files(vec![("a/b".into(), "x".into())]),
            "not a file name",
        ),
    ] {
        let volume = SandboxVolume {
            name: "data".into(),
            source,
            read_only: false,
        };
        let error = bench
            .isolation
            .create(spec(vec![volume]))
            .await
            .map(drop)
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(bench.isolation.list().await.unwrap(), []);
    }
    bench.assert_clean();
}

#[test]
fn without_root() {
    again_without_root(&[
        "a_killed_hosts_sandbox_is_adopted",
        "with_its_agent_everything_ends",
        "a_failed_creation_leaves_nothing",
    ]);
}
