//! The rest of the default profile: devices, the console, resource limits, Landlock. Each wall is
//! shown beside a container that does not have it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aci_core::contract::*;
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

/// A node that nothing else holds back: made by the host's root on a file system without `nodev`.
/// The kernel log is harmless to open; zero is one of the default devices.
#[tokio::test]
async fn other_devices_are_held_back() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: devices are root's");
        return;
    }
    let Some(bench) = bench_with(|options| options.user_ids(None)) else {
        return;
    };
    let script = "mount -t tmpfs none /srv && mknod /srv/log c 1 11 && mknod /srv/zero c 1 5
        head -c 1 /srv/log >/dev/null 2>&1; echo log $?
        head -c 1 /srv/zero >/dev/null; echo zero $?
        head -c 1 /dev/urandom >/dev/null; echo x >/dev/null; echo default $?";
    let text = run(&bench, script, privileged()).await;
    assert_eq!(text, "log 0\nzero 0\ndefault 0\n", "the control");
    let text = run(&bench, script, with("SYS_ADMIN")).await;
    let gated = !bench
        .isolation
        .capability()
        .missing
        .iter()
        .any(|sentence| sentence.starts_with("devices are held back by mount flags"));
    if gated {
        assert_eq!(text, "log 1\nzero 0\ndefault 0\n");
    } else {
        println!("SKIPPED: no device cgroup on this machine");
    }
    bench.assert_clean();
}

/// The same by the v1 controller, where the v2 hierarchy is not mounted.
#[test]
fn devices_are_held_back_by_version_1() {
    let points: Vec<String> = std::fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| point.to_owned())
        })
        .collect();
    let controller = std::fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .any(|line| line.contains(" cgroup ") && line.contains("devices"));
    if !rustix::process::geteuid().is_root() || !controller {
        println!("SKIPPED: no v1 controller 'devices', or no root");
        return;
    }
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("for point in $POINTS; do umount -l $point || exit 9; done; exec \"$@\"")
        .arg("sh")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "other_devices_are_held_back"])
        .env("POINTS", points.join(" "))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!text.contains("SKIPPED"), "{text}");
}

#[tokio::test]
async fn the_console_is_the_containers_terminal() {
    let Some(bench) = bench() else { return };
    let script = "tty; echo through >/dev/console; [ /dev/console -ef /dev/pts/0 ] || stat -c '%t:%T' /dev/console /dev/pts/0; stty size </dev/console";
    let mut container = bench.shell("web", script);
    container.process.terminal = Some(TerminalSize { rows: 33, cols: 99 });
    let (exit, text) = bench.run(container).await.unwrap();
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    assert_eq!(exit.code, 0, "{text}");
    assert_eq!(lines[0], "/dev/pts/0", "{text}");
    assert_eq!(lines[1], "through", "{text}");
    assert_eq!(*lines.last().unwrap(), "33 99", "{text}");
    // Without a terminal there is no console.
    let text = run(
        &bench,
        "ls /dev/console 2>/dev/null; echo $?",
        SecurityPolicy::default(),
    )
    .await;
    assert_eq!(text, "1\n");
    bench.assert_clean();
}

#[tokio::test]
async fn limits_are_not_those_of_the_embedding_program() {
    let Some(bench) = bench() else { return };
    let text = run(
        &bench,
        "ulimit -c; ulimit -s; ulimit -n; ulimit -Hn; ulimit -f; ulimit -t",
        SecurityPolicy::default(),
    )
    .await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["0", "8192"], "{text}");
    let (soft, hard): (u64, u64) = (lines[2].parse().unwrap(), lines[3].parse().unwrap());
    assert_eq!(soft, hard.min(1 << 20), "{text}");
    assert_eq!(lines[4..], ["unlimited", "unlimited"], "{text}");
    bench.assert_clean();
}

/// The program does not get hold of processes that an operator starts beside it (CVE-2019-5736 and
/// its like began there); the operator's see the program.
#[tokio::test]
async fn execs_are_out_of_the_programs_reach() {
    let Some(bench) = bench() else { return };
    if !std::fs::read_to_string("/sys/kernel/security/lsm")
        .map_or_else(|_| landlock(), |text| text.contains("landlock"))
    {
        println!("SKIPPED: the kernel has no Landlock");
        return;
    }
    for (security, reached) in [
        (SecurityPolicy::default(), "out of reach"),
        (with("SYS_ADMIN"), "reached"),
    ] {
        let sandbox = bench.sandbox().await;
        let script = "while true; do
            for p in /proc/[0-9]*; do
                if grep -q victim $p/cmdline 2>/dev/null && [ $p != /proc/$$ ]; then
                    if cat $p/environ >/dev/null 2>&1; then echo reached; else echo out of reach; fi; exec sleep 1000
                fi
            done; usleep 20000
        done";
        let mut container = bench.shell("web", script);
        container.security = security;
        sandbox.start(container).await.unwrap();
        let other = sandbox
            .exec(
                "web",
                ExecSpec {
                    process: process(&["sh", "-c", "sleep 1000; : victim"]),
                    stdin: false,
                },
            )
            .await
            .unwrap();
        wait_for_line_with(&*sandbox, "web", "reach").await;
        assert_eq!(log(&*sandbox, "web").await.trim(), reached);
        let (code, text) = exec(&*sandbox, "web", &["sh", "-c", "for p in /proc/[0-9]*; do grep -aq MARK=seen $p/environ && echo $p; done 2>/dev/null | wc -l"])
            .await
            .unwrap();
        assert_eq!(code, 0);
        assert_ne!(text.trim(), "0", "an operator sees the program");
        drop(other);
        sandbox.destroy().await.unwrap();
    }
    bench.assert_clean();
}

/// Whether the kernel answers landlock_create_ruleset(2) with a version.
fn landlock() -> bool {
    std::fs::read_to_string("/proc/kallsyms")
        .is_ok_and(|text| text.contains("landlock_restrict_self"))
}

#[test]
fn without_root() {
    again_without_root(&[
        "the_console_is_the_containers_terminal",
        "limits_are_not_those_of_the_embedding_program",
        "execs_are_out_of_the_programs_reach",
    ]);
}
