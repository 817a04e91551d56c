//! Containers start, run, end and are gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aci_core::contract::*;
use aci_core::error::ErrorKind;
use common::*;

#[tokio::test]
async fn a_program_runs_and_its_code_comes_back() {
    let Some(bench) = bench() else { return };
    let (exit, log) = bench
        .run(bench.shell(
            "web",
            "echo hello; echo oops >&2; id; hostname; pwd; exit 7",
        ))
        .await
        .unwrap();
    assert_eq!(exit.code, 7);
    assert_eq!(exit.signal, None);
    assert!(!exit.oom);
    assert!(
        log.contains("hello\n") && log.contains("oops\n") && log.contains("group\n"),
        "{log}"
    );
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
