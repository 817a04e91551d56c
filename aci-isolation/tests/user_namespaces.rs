//! As root every sandbox has a user namespace of its own, and nobody inside notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::os::unix::fs::MetadataExt;

use aci_core::contract::*;
use aci_core::error::ErrorKind;
use common::*;

/// The first host id of a bench's sandbox, or why there is none.
fn mapped(bench: &Bench, sandbox: &dyn Sandbox) -> Option<u32> {
    let path = bench.root().join("state").join(sandbox.id().as_str());
    match std::fs::read_to_string(path.join("users")) {
        Ok(text) => Some(text.split_whitespace().next().unwrap().parse().unwrap()),
        Err(_) => {
            let missing = bench.isolation.capability().missing.join("; ");
            assert!(
                !rustix::process::geteuid().is_root() || missing.contains("user namespaces"),
                "no user namespace, and nobody says why: {missing}"
            );
            println!("SKIPPED: sandboxes have no user namespace of root's here: {missing}");
            None
        }
    }
}

fn privileged() -> SecurityPolicy {
    SecurityPolicy {
        privileged: true,
        ..SecurityPolicy::default()
    }
}

#[tokio::test]
async fn root_inside_is_nobody_outside() {
    let Some(bench) = bench() else { return };
    let host = bench.root().join("host");
    std::fs::create_dir(&host).unwrap();
    let volume = |name: &str, source| SandboxVolume {
        name: name.into(),
        source,
        read_only: false,
    };
    let sandbox = bench
        .sandbox_with(vec![
            volume("host", VolumeSource::Directory(host.clone())),
            volume("memory", VolumeSource::Memory { size: None }),
        ])
        .await;
    let Some(first) = mapped(&bench, &*sandbox) else {
        return;
    };
    let script = "
        cat /proc/self/uid_map | tr -s ' '
        stat -c '%n %u:%g' / /etc /dev /dev/null /dev/shm /dev/mqueue /dev/pts/ptmx /host /memory /proc/self/. /etc/made
        touch /host/mine /memory/mine /srv/mine
        chown 101:102 /host/theirs 2>/dev/null || { touch /host/theirs; chown 101:102 /host/theirs; }
        stat -c '%n %u:%g' /host/mine /host/theirs /srv/mine
        sleep 1000";
    let mut container = bench.shell("web", script);
    container.files = vec![FileEntry {
        path: "/etc/made".into(),
        content: "x".into(),
        mode: 0o644,
    }];
    let (upper, _) = container.rootfs.upper.clone().unwrap();
    container.mounts = ["host", "memory"]
        .map(|name| MountSpec {
            volume: name.into(),
            path: format!("/{name}"),
            read_only: false,
        })
        .to_vec();
    sandbox.start(container).await.unwrap();
    wait_for_line_with(&*sandbox, "web", "/srv/mine").await;
    let text = log(&*sandbox, "web").await;
    assert!(text.contains(&format!(" 0 {first} 65536")), "{text}");
    for line in text.lines().skip(1) {
        let owner = if line.starts_with("/host/theirs") {
            "101:102"
        } else {
            "0:0"
        };
        assert!(line.ends_with(owner), "'{line}' in\n{text}");
    }
    // On disk the ids are those of the inside, so that another sandbox can go on with them.
    let owner = |path: &std::path::Path| {
        let data = std::fs::metadata(path).unwrap();
        (data.uid(), data.gid())
    };
    assert_eq!(owner(&host.join("mine")), (0, 0));
    assert_eq!(owner(&host.join("theirs")), (101, 102));
    assert_eq!(owner(&upper.join("srv/mine")), (0, 0));
    // The program itself is somebody without any right.
    let mut seen = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        if uid.is_some_and(|uid| (first..first + 65_536).contains(&uid)) {
            seen += 1;
        }
    }
    assert!(
        seen >= 2,
        "the init and the program are host users {first} and above"
    );
    // Another sandbox is somebody else.
    let other = bench.sandbox().await;
    assert_ne!(mapped(&bench, &*other), Some(first));
    other.destroy().await.unwrap();
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

/// A user that the namespace lacks is refused with what to do about it, and doing that helps.
#[tokio::test]
async fn users_above_65535_need_a_wider_namespace() {
    let Some(bench) = bench() else { return };
    let probe = bench.sandbox().await;
    let has = mapped(&bench, &*probe).is_some();
    probe.destroy().await.unwrap();
    if !has {
        return;
    }
    let as_user = |bench: &Bench| {
        let mut container = bench.shell("web", "id -u; id -g");
        container.process.user.uid = Some(100_000);
        container.process.user.gid = Some(100_000);
        container
    };
    let refused = bench.run(as_user(&bench)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.chain().contains("100000"), "{}", refused.chain());
    assert!(
        refused.chain().contains("user_count"),
        "{}",
        refused.chain()
    );
    bench.assert_clean();

    let wide = bench_with(|options| options.user_count(200_000)).unwrap();
    let (exit, text) = wide.run(as_user(&wide)).await.unwrap();
    assert_eq!(exit.code, 0, "{text}");
    assert_eq!(text.lines().collect::<Vec<_>>(), ["100000", "100000"]);
    wide.assert_clean();
}

/// The standard streams can be opened again by name, whoever the user is.
#[tokio::test]
async fn streams_belong_to_their_user() {
    let Some(bench) = bench() else { return };
    if !bench.isolation.capability().many_users {
        println!("SKIPPED: there is one user only");
        return;
    }
    let mut container = bench.shell(
        "web",
        "echo again >/dev/stdout; echo err >/dev/stderr; sleep 1000",
    );
    container.process.user.uid = Some(101);
    let sandbox = bench.sandbox().await;
    sandbox.start(container).await.unwrap();
    wait_for_line(&*sandbox, "web", "again").await;
    wait_for_line(&*sandbox, "web", "err").await;
    let mut exec_as = ExecSpec {
        process: process(&["sh", "-c", "id -u; echo x >/dev/stdout"]),
        stdin: false,
    };
    exec_as.process.user.uid = Some(4242);
    let mut running = sandbox.exec("web", exec_as).await.unwrap();
    let mut out = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut running.stdout, &mut out)
        .await
        .unwrap();
    assert_eq!(out, "4242\nx\n");
    let mut terminal = ExecSpec {
        process: process(&[
            "sh",
            "-c",
            "stat -c %u:%g:%a $(tty); echo y >$(tty); echo z >/dev/tty",
        ]),
        stdin: false,
    };
    terminal.process.user.uid = Some(101);
    terminal.process.terminal = Some(TerminalSize { rows: 24, cols: 80 });
    let mut running = sandbox.exec("web", terminal).await.unwrap();
    let mut out = Vec::new();
    // A terminal ends with EIO, which counts as its end.
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut running.stdout, &mut out).await;
    let out = String::from_utf8_lossy(&out).replace('\r', "");
    assert_eq!(out, "101:5:620\ny\nz\n");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

/// The init's memory is a copy of the agent's, which holds what other containers were given. Not
/// even a privileged container may look into it; as root and without.
#[tokio::test]
async fn nobody_reads_the_inits_memory() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    let mut container = bench.shell(
        "web",
        "for f in mem environ maps fd/0 exe root/etc cwd; do
            head -c 1 /proc/1/$f >/dev/null 2>&1 || ls /proc/1/$f/ >/dev/null 2>&1; echo $f $?; done
         head -c 1 /proc/self/environ >/dev/null; echo control $?; sleep 1000",
    );
    container.security = privileged();
    sandbox.start(container).await.unwrap();
    wait_for_line_with(&*sandbox, "web", "control").await;
    let text = log(&*sandbox, "web").await;
    assert!(text.contains("control 0"), "{text}");
    if !rustix::process::geteuid().is_root() || mapped(&bench, &*sandbox).is_some() {
        for line in text.lines().filter(|line| !line.starts_with("control")) {
            assert!(line.ends_with(" 1"), "{line} in\n{text}");
        }
        assert_eq!(text.lines().count(), 8, "{text}");
    }
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

/// With CAP_SYS_ADMIN one can mount, but not take away what covers the host's parts.
#[tokio::test]
async fn covers_are_locked() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    if mapped(&bench, &*sandbox).is_none() {
        return;
    }
    let mut container = bench.shell(
        "web",
        "for p in /proc/sys /proc/interrupts /sys/firmware /dev/null /proc; do umount $p 2>/dev/null; echo umount $?; done
         for p in /proc/sys /sys; do mount -o remount,bind,rw $p 2>/dev/null; echo rw $?; done
         mount -o remount,bind,dev / 2>/dev/null; grep ' / ' /proc/self/mounts | head -1 | grep -c nodev
         mount -t tmpfs none /srv && echo mounted; umount /srv && echo unmounted",
    );
    container.security.add_capabilities = vec!["SYS_ADMIN".into()];
    sandbox.start(container).await.unwrap();
    ended(&*sandbox, "web").await;
    let text = log(&*sandbox, "web").await;
    assert_eq!(text.matches("umount 1").count(), 5, "{text}");
    assert_eq!(text.matches("rw 1").count(), 2, "{text}");
    assert!(text.ends_with("1\nmounted\nunmounted\n"), "{text}");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

/// A volume on a file system without idmapped mounts that is not open to all: the sandbox does
/// without a user namespace rather than show the container files that it cannot use.
#[tokio::test]
async fn what_cannot_be_mapped_is_used_without() {
    let Some(bench) = bench() else { return };
    let sandbox = bench.sandbox().await;
    if mapped(&bench, &*sandbox).is_none() {
        return;
    }
    sandbox.destroy().await.unwrap();
    let sandbox = bench
        .sandbox_with(vec![SandboxVolume {
            name: "odd".into(),
            source: VolumeSource::Directory("/sys/kernel".into()),
            read_only: true,
        }])
        .await;
    let mut container = bench.shell("web", "stat -c %u /odd; cat /proc/self/uid_map | tr -s ' '");
    container.mounts = vec![MountSpec {
        volume: "odd".into(),
        path: "/odd".into(),
        read_only: true,
    }];
    sandbox.start(container).await.unwrap();
    ended(&*sandbox, "web").await;
    assert_eq!(log(&*sandbox, "web").await, "0\n 0 0 4294967295\n");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[test]
fn without_root() {
    again_without_root(&[
        "nobody_reads_the_inits_memory",
        "streams_belong_to_their_user",
    ]);
}
