//! What a container may do, and what it may not. Each refusal is shown beside a container that is
//! allowed the same, so that the test would notice a wall that stands for another reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aci_core::contract::*;
use aci_core::error::ErrorKind;
use common::*;

async fn run(bench: &Bench, script: &str, security: SecurityPolicy) -> String {
    let mut container = bench.shell("web", script);
    container.security = security;
    bench.run(container).await.unwrap().1
}

fn privileged() -> SecurityPolicy {
    SecurityPolicy {
        privileged: true,
        ..SecurityPolicy::default()
    }
}

fn with(capability: &str) -> SecurityPolicy {
    SecurityPolicy {
        add_capabilities: vec![capability.into()],
        ..SecurityPolicy::default()
    }
}

const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'";

#[tokio::test]
async fn rights_are_dockers() {
    let Some(bench) = bench() else { return };
    let text = run(&bench, STATUS, SecurityPolicy::default()).await;
    for line in [
        "CapInh:0000000000000000",
        "CapPrm:00000000a80425fb",
        "CapEff:00000000a80425fb",
        "CapBnd:00000000a80425fb",
        "CapAmb:0000000000000000",
        "NoNewPrivs:1",
        "Seccomp:2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let open = SecurityPolicy {
        allow_privilege_escalation: true,
        drop_capabilities: vec!["ALL".into()],
        add_capabilities: vec!["NET_BIND_SERVICE".into()],
        ..SecurityPolicy::default()
    };
    let text = run(&bench, STATUS, open).await;
    for line in ["CapEff:0000000000000400", "NoNewPrivs:0", "Seccomp:2"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let text = run(&bench, STATUS, privileged()).await;
    assert!(
        text.contains("Seccomp:0") && text.contains("NoNewPrivs:0"),
        "{text}"
    );
    // An exec gets the container's rights.
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("web", &["sleep", "1000"]))
        .await
        .unwrap();
    let (_, text) = exec(&*sandbox, "web", &["sh", "-c", STATUS]).await.unwrap();
    for line in ["CapEff:00000000a80425fb", "NoNewPrivs:1", "Seccomp:2"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn a_user_has_no_capabilities() {
    let Some(bench) = bench() else { return };
    if !bench.isolation.capability().many_users {
        println!("SKIPPED: only one user here");
        return;
    }
    let mut container = bench.shell("web", STATUS);
    container.process.user.uid = Some(1000);
    let (_, text) = bench.run(container).await.unwrap();
    for line in [
        "CapPrm:0000000000000000",
        "CapEff:0000000000000000",
        "CapBnd:00000000a80425fb",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    bench.assert_clean();
}

#[tokio::test]
async fn mounting_is_filtered() {
    let Some(bench) = bench() else { return };
    let script = "mount -t tmpfs none /tmp 2>&1; echo $?";
    assert!(
        run(&bench, script, SecurityPolicy::default())
            .await
            .contains("1\n")
    );
    assert_eq!(run(&bench, script, with("SYS_ADMIN")).await, "0\n");
    bench.assert_clean();
}

#[tokio::test]
async fn a_profile_of_the_document_is_obeyed() {
    let Some(bench) = bench() else { return };
    let profile = |json: &str| SecurityPolicy {
        seccomp: SeccompPolicy::Profile(json.into()),
        ..SecurityPolicy::default()
    };
    let text = run(
        &bench,
        "mkdir /tmp/x; echo $?",
        profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#),
    )
    .await;
    assert!(
        text.contains("Permission denied") && text.contains("1\n"),
        "{text}"
    );
    let mut container = bench.shell("web", "true");
    container.security = profile("{}");
    assert_eq!(
        bench.run(container).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    bench.assert_clean();
}

#[tokio::test]
async fn what_shows_the_host_is_covered() {
    let Some(bench) = bench() else { return };
    let script = "
        for f in kcore keys timer_list interrupts; do [ -e /proc/$f ] && wc -c </proc/$f; done
        ls /proc/scsi /sys/firmware | wc -l
        echo 1 >/proc/sys/kernel/hostname; echo sys $?
        echo b >/proc/sysrq-trigger; echo sysrq $?
        mkdir /sys/x; echo sysfs $?
        cat /proc/1/comm; [ -r /proc/1/environ ] && cat /proc/1/environ; ls /proc | grep -c '^[0-9]'";
    let text = run(&bench, script, SecurityPolicy::default()).await;
    for line in ["sys 1", "sysrq 1", "sysfs 1", "aci-init"] {
        assert!(
            text.lines().any(|have| have == line),
            "'{line}' is not in\n{text}"
        );
    }
    for line in text.lines().take_while(|line| !line.starts_with("sys")) {
        assert!(
            !line.chars().all(|c| c.is_ascii_digit()) || line.len() <= 2,
            "{text}"
        );
    }
    let text = run(&bench, "wc -c </proc/interrupts", privileged()).await;
    assert_ne!(text.trim(), "0", "the control sees nothing either");
    bench.assert_clean();
}

#[tokio::test]
async fn made_devices_are_of_no_use() {
    let Some(bench) = bench() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: without root nobody makes devices");
        return;
    }
    // 1:1 is /dev/mem's driver; 1:5 is zero and would give bytes.
    let script = "for d in /tmp /dev /root; do mkdir -p $d; mknod $d/z c 1 5 && head -c 4 $d/z | wc -c; done 2>&1; head -c 4 /dev/zero | wc -c; echo x >/dev/null; echo null $?";
    // In a user namespace they cannot be made, without one they cannot be opened.
    let text = run(&bench, script, SecurityPolicy::default()).await;
    assert_eq!(text.matches(" not permitted").count(), 3, "{text}");
    assert!(text.ends_with("4\nnull 0\n"), "{text}");
    bench.assert_clean();
    let Some(bench) = bench_with(|options| options.user_ids(None)) else {
        return;
    };
    let text = run(&bench, script, SecurityPolicy::default()).await;
    assert_eq!(text.matches("Permission denied").count(), 3, "{text}");
    assert!(text.ends_with("4\nnull 0\n"), "{text}");
    bench.assert_clean();
}

#[tokio::test]
async fn the_hosts_devices_are_not_changed_from_inside() {
    let Some(bench) = bench() else { return };
    use std::os::unix::fs::MetadataExt;
    let before = std::fs::metadata("/dev/null").unwrap();
    run(
        &bench,
        "chmod 600 /dev/null /dev/zero",
        SecurityPolicy::default(),
    )
    .await;
    let after = std::fs::metadata("/dev/null").unwrap();
    assert_eq!((before.mode(), before.uid()), (after.mode(), after.uid()));
    bench.assert_clean();
}

#[tokio::test]
async fn the_outside_is_not_there() {
    let Some(bench) = bench() else { return };
    let script = "
        ls -a / | tr '\\n' ' '
        ls /proc/1/root/ 2>&1 | head -1
        grep -c . /proc/self/mountinfo
        grep -E 'shared:|master:' /proc/self/mountinfo
        ip link 2>/dev/null | grep -c '^[0-9]'
        kill -9 1; sleep 0.1; echo survived";
    let text = run(&bench, script, SecurityPolicy::default()).await;
    assert!(
        !text.contains("master:") && !text.contains("shared:"),
        "mounts propagate:\n{text}"
    );
    assert!(text.contains("survived"), "{text}");
    assert!(
        !text.contains(bench.root().to_str().unwrap()),
        "the host's paths show:\n{text}"
    );
    bench.assert_clean();
}

/// CVE-2024-21626: a working directory under /proc/self/fd.
#[tokio::test]
async fn no_descriptor_leads_out() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("web", &["sleep", "1000"]))
        .await
        .unwrap();
    for number in 3..20 {
        let mut spec = ExecSpec {
            process: process(&["sh", "-c", "pwd; ls ../../../.."]),
            stdin: false,
        };
        spec.process.cwd = format!("/proc/self/fd/{number}");
        let error = sandbox.exec("web", spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

/// CVE-2019-5736: the program of a process that joins can be opened for writing.
#[tokio::test]
async fn the_agents_program_cannot_be_overwritten() {
    let Some(bench) = bench() else { return };
    let text = run(
        &bench,
        "echo evil 2>&1 >/proc/1/exe; echo $?; readlink /proc/1/exe",
        privileged(),
    )
    .await;
    assert!(text.contains("1\n"), "{text}");
    // The agent still works for others.
    assert_eq!(
        run(&bench, "echo fine", SecurityPolicy::default()).await,
        "fine\n"
    );
    bench.assert_clean();
}

/// An image that makes its system directories lead elsewhere is refused, and its own devices are
/// not taken for ours (CVE-2025-31133: a mask bound from the image's /dev/null).
#[tokio::test]
async fn an_image_cannot_shape_the_system_directories() {
    let Some(bench) = bench() else { return };
    for name in ["proc", "sys", "dev"] {
        let mut container = bench.container("web", &["true"]);
        let (upper, _) = container.rootfs.upper.clone().unwrap();
        std::os::unix::fs::symlink("/etc", upper.join(name)).unwrap();
        let error = bench.run(container.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(name), "{error}");
        // The same container with a directory in its place runs.
        std::fs::remove_file(upper.join(name)).unwrap();
        container.rootfs = bench.rootfs("web");
        assert_eq!(bench.run(container).await.unwrap().0.code, 0);
    }
    let container = bench.shell(
        "web",
        "wc -c </proc/interrupts; echo x >/dev/null; cat /dev/null /srv/target",
    );
    let (upper, _) = container.rootfs.upper.clone().unwrap();
    std::fs::create_dir(upper.join("dev")).unwrap();
    std::fs::create_dir(upper.join("srv")).unwrap();
    std::fs::write(upper.join("srv/target"), "untouched\n").unwrap();
    std::os::unix::fs::symlink("/srv/target", upper.join("dev/null")).unwrap();
    let (exit, text) = bench.run(container).await.unwrap();
    assert_eq!(exit.code, 0, "{text}");
    assert_eq!(text, "0\nuntouched\n");
    bench.assert_clean();
}

#[tokio::test]
async fn containers_do_not_see_each_other() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    sandbox
        .start(bench.container("one", &["sleep", "1234"]))
        .await
        .unwrap();
    sandbox
        .start(bench.shell("two", "ps; kill -9 -1; sleep 1000"))
        .await
        .unwrap();
    wait_for_line_with(&*sandbox, "two", "aci-init").await;
    let text = log(&*sandbox, "two").await;
    assert!(!text.contains("1234"), "{text}");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(matches!(
        state(&*sandbox, "one").await,
        RunState::Running { .. }
    ));
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[test]
fn without_root() {
    again_without_root(&[
        "rights_are_dockers",
        "mounting_is_filtered",
        "what_shows_the_host_is_covered",
        "the_hosts_devices_are_not_changed_from_inside",
        "the_outside_is_not_there",
        "no_descriptor_leads_out",
        "the_agents_program_cannot_be_overwritten",
        "an_image_cannot_shape_the_system_directories",
        "containers_do_not_see_each_other",
    ]);
}
