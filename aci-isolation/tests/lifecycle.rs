//! Containers start, run, end and are gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use aci_core::contract::*;
use aci_core::error::ErrorKind;
use common::*;

#[tokio::test]
async fn a_program_runs_and_its_code_comes_back() {
    let Some(bench) = bench() else { return };
    let (exit, log) = bench
        .run(bench.shell("web", "echo hello; echo oops >&2; hostname; exit 7"))
        .await
        .unwrap();
    assert_eq!(exit.code, 7);
    assert_eq!(exit.signal, None);
    assert!(!exit.oom);
    for line in ["hello\n", "oops\n", "group\n"] {
        assert!(log.contains(line), "{log}");
    }
    bench.assert_clean();
}

#[tokio::test]
async fn what_cannot_be_run_is_explained() {
    let Some(bench) = bench() else { return };
    for (argv, words) in [
        (&["/bin/nothing"][..], "exit code 127"),
        (&["nothing"][..], "searched in /bin"),
        (&["/etc/noexec"][..], "exit code 126"),
        (&["/etc"][..], "exit code 126"),
        (&["/etc/script"][..], "interpreter"),
    ] {
        let error = bench.run(bench.container("web", argv)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.chain());
        assert!(error.to_string().contains(words), "{error}");
    }
    let mut container = bench.shell("web", "true");
    container.process.user.image = Some("ghost".into());
    let error = bench.run(container).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("'ghost'"), "{error}");
    bench.assert_clean();
}

#[tokio::test]
async fn a_failed_start_leaves_the_attempt_before() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.shell("web", "echo first; exit 3"))
        .await
        .unwrap();
    ended(&*sandbox, "web").await;
    let before = sandbox.status().await.unwrap();
    let mut again = bench.container("web", &["/nowhere"]);
    again.attempt = 1;
    assert_eq!(
        sandbox.start(again).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        sandbox.status().await.unwrap().containers,
        before.containers
    );
    assert_eq!(log(&*sandbox, "web").await, "first\n");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn restarts_count_attempts_and_go_on_with_the_log() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    let mut said = String::new();
    for attempt in 0..3 {
        let mut container = bench.shell("web", &format!("echo attempt {attempt}; exit {attempt}"));
        container.attempt = attempt;
        sandbox.start(container).await.unwrap();
        assert_eq!(
            ended(&*sandbox, "web").await.code,
            i32::try_from(attempt).unwrap()
        );
        said += &format!("attempt {attempt}\n");
        assert_eq!(log(&*sandbox, "web").await, said);
    }
    assert_eq!(sandbox.status().await.unwrap().containers[0].attempt, 2);
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn signals_reach_the_process_and_kill_all_reaches_everybody() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("polite", &["sleep", "1000"]))
        .await
        .unwrap();
    assert_eq!(
        sandbox
            .start(bench.container("polite", &["true"]))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Conflict
    );
    sandbox.signal("polite", Signal::TERM, false).await.unwrap();
    let exit = ended(&*sandbox, "polite").await;
    assert_eq!((exit.code, exit.signal), (143, Some(Signal::TERM)));

    let stubborn = "trap '' TERM; sleep 1000 & sleep 1000 & echo ready; while :; do sleep 1; done";
    sandbox
        .start(bench.shell("stubborn", stubborn))
        .await
        .unwrap();
    wait_for_line(&*sandbox, "stubborn", "ready").await;
    sandbox
        .signal("stubborn", Signal::TERM, false)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matches!(
        state(&*sandbox, "stubborn").await,
        RunState::Running { .. }
    ));
    let began = Instant::now();
    sandbox
        .signal("stubborn", Signal::KILL, true)
        .await
        .unwrap();
    let exit = ended(&*sandbox, "stubborn").await;
    assert_eq!((exit.code, exit.signal), (137, Some(Signal::KILL)));
    assert!(began.elapsed() < Duration::from_secs(2));

    // A signal for all that can be caught reaches the children too.
    let family = "trap 'echo parent' USR1; (trap 'echo child; exit' USR1; echo ready; while :; do sleep 0.1; done) & while :; do sleep 0.1; done";
    sandbox.start(bench.shell("family", family)).await.unwrap();
    wait_for_line(&*sandbox, "family", "ready").await;
    sandbox
        .signal("family", Signal::from_number(10).unwrap(), true)
        .await
        .unwrap();
    wait_for_line(&*sandbox, "family", "parent").await;
    wait_for_line(&*sandbox, "family", "child").await;
    // Ended and unknown containers are no error.
    sandbox.signal("polite", Signal::KILL, true).await.unwrap();
    sandbox.signal("nobody", Signal::KILL, false).await.unwrap();
    sandbox.destroy().await.unwrap();
    sandbox.destroy().await.unwrap();
    assert_eq!(sandbox.status().await.unwrap_err().kind(), ErrorKind::Lost);
    bench.assert_clean();
}

#[tokio::test]
async fn when_the_program_ends_its_children_end_too() {
    let Some(bench) = bench() else { return };
    let began = Instant::now();
    let (exit, _) = bench
        .run(bench.shell("web", "sleep 1000 & sleep 1000 & exit 0"))
        .await
        .unwrap();
    assert_eq!(exit.code, 0);
    assert!(began.elapsed() < Duration::from_secs(5));
    bench.assert_clean();
}

#[tokio::test]
async fn users_come_from_the_container() {
    let Some(bench) = bench() else { return };
    if !bench.isolation.capability().many_users {
        println!("SKIPPED: only one user here");
        return;
    }
    let mut container = bench.shell("web", "id; echo $HOME");
    container.process.user.image = Some("web".into());
    let (exit, log) = bench.run(container).await.unwrap();
    assert_eq!(exit.code, 0);
    assert!(log.contains("uid=101(web) gid=102(web)"), "{log}");
    assert!(log.contains("4(adm)"), "{log}");
    assert!(log.contains("/srv"), "{log}");
    let mut container = bench.shell("web", "id -u; id -g");
    container.process.user = UserSpec {
        image: Some("web".into()),
        uid: Some(4000),
        gid: Some(5000),
    };
    assert_eq!(bench.run(container).await.unwrap().1, "4000\n5000\n");
    bench.assert_clean();
}

/// Whoever wrote it, the caller can delete it.
#[tokio::test]
async fn what_other_users_wrote_can_be_deleted() {
    let Some(bench) = bench() else { return };
    if !bench.isolation.capability().many_users {
        println!("SKIPPED: only one user here");
        return;
    }
    let script = "mkdir -p /tmp/a/b && echo x >/tmp/a/b/c && ln -s /etc /tmp/a/out && chmod 000 /tmp/a/b && chmod 500 /tmp/a";
    let mut container = bench.shell("web", script);
    container.process.user.uid = Some(1000);
    let (upper, _) = container.rootfs.upper.clone().unwrap();
    assert_eq!(bench.run(container).await.unwrap().0.code, 0);
    assert!(upper.join("tmp/a").exists());
    std::fs::remove_dir_all(upper.join("tmp")).unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn the_working_directory_is_made() {
    let Some(bench) = bench() else { return };
    let mut container = bench.shell("web", "pwd");
    container.process.cwd = "/srv/deep/down".into();
    assert_eq!(bench.run(container).await.unwrap().1, "/srv/deep/down\n");
    let mut container = bench.shell("web", "pwd");
    container.process.cwd = "relative".into();
    assert_eq!(
        bench.run(container).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    bench.assert_clean();
}

#[tokio::test]
async fn a_read_only_root_is_read_only() {
    let Some(bench) = bench() else { return };
    let mut container = bench.shell(
        "web",
        "touch /x; echo $?; touch /mnt/data/x && cat /etc/hosts",
    );
    container.rootfs.upper = None;
    container.mounts = vec![MountSpec {
        volume: "data".into(),
        path: "/mnt/data".into(),
        read_only: false,
    }];
    container.files = vec![FileEntry {
        path: "/etc/hosts".into(),
        content: "127.0.0.1 localhost\n".into(),
        mode: 0o644,
    }];
    let sandbox = bench
        .sandbox_with(vec![SandboxVolume {
            name: "data".into(),
            source: VolumeSource::Memory { size: None },
            read_only: false,
        }])
        .await;
    sandbox.start(container).await.unwrap();
    assert_eq!(ended(&*sandbox, "web").await.code, 0);
    let log = log(&*sandbox, "web").await;
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(log.contains("127.0.0.1 localhost"), "{log}");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_sandboxes_at_once() {
    let Some(bench) = bench() else { return };
    let bench = std::sync::Arc::new(bench);
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let bench = std::sync::Arc::clone(&bench);
            tokio::spawn(async move {
                let code = number % 100;
                let (exit, log) = bench
                    .run(bench.shell("web", &format!("echo {number}; exit {code}")))
                    .await
                    .unwrap();
                assert_eq!((exit.code, log), (code, format!("{number}\n")));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    bench.assert_clean();
}
