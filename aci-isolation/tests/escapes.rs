//! Ways out of a container that runtimes have had, and the usual tricks. Each is first shown to
//! work through a deliberate hole, so that the test would notice one, and then to fail.
#![cfg(feature = "weaken")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;
use std::time::Duration;

use aci_core::contract::*;
use aci_isolation::weaken::Hole;
use common::*;

/// What an attack is tried on.
#[derive(Clone, Copy)]
struct Wall {
    hole: Hole,
    /// Whether sandboxes have user namespaces.
    users: bool,
}

const WHOLE: Wall = Wall {
    hole: Hole::NONE,
    users: true,
};

fn hole(hole: Hole) -> Wall {
    Wall { hole, users: true }
}

fn hole_as_host_root(hole: Hole) -> Wall {
    Wall { hole, users: false }
}

impl Wall {
    fn bench(self) -> Option<Bench> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: escapes are tried as root");
            return None;
        }
        bench_with(|options| {
            let options = options.holes(self.hole);
            if self.users {
                options
            } else {
                options.user_ids(None)
            }
        })
    }
}

/// Tries an attack through the hole, where it must succeed, and on the whole wall, where it must
/// not. `$attack` is given a bench and says whether it got out.
macro_rules! escape {
    ($wall:expr, $attack:expr) => {{
        let wall: Wall = $wall;
        let Some(bench) = wall.bench() else { return };
        let attack = $attack;
        assert!(
            attack(&bench).await,
            "the attack does not even work through the hole"
        );
        let Some(bench) = WHOLE.bench() else { return };
        assert!(!attack(&bench).await, "it got out");
        bench.assert_clean();
    }};
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

/// A file of the host that every user may read, and no container may see.
fn secret(bench: &Bench) -> String {
    let path = bench.root().join("secret");
    std::fs::write(&path, "of the host\n").unwrap();
    path.to_str().unwrap().to_owned()
}

async fn says(bench: &Bench, script: &str, security: SecurityPolicy) -> String {
    let mut container = bench.shell("web", script);
    container.security = security;
    bench.run(container).await.unwrap().1
}

/// CVE-2019-5736: a container gets hold of the runtime's program through `/proc/<pid>/exe`. The
/// program is a sealed memory file besides.
#[tokio::test]
async fn cve_2019_5736_the_runtimes_program() {
    escape!(
        hole_as_host_root(Hole::AGENT_OPEN),
        async |bench: &Bench| {
            let text = says(
            bench,
            "for p in /proc/[0-9]*; do readlink $p/exe; done; head -c 4 /proc/1/exe | tail -c 3",
            privileged(),
        )
        .await;
            text.contains("memfd") && text.contains("ELF")
        }
    );
    let bench = WHOLE.bench().unwrap();
    let sandbox = bench.sandbox().await;
    let pid = bench.agent(sandbox.id()).as_raw_nonzero();
    let file = std::fs::File::open(format!("/proc/{pid}/exe")).unwrap();
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
    assert!(seals.contains(rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SEAL));
    sandbox.destroy().await.unwrap();
}

/// CVE-2024-21626: a working directory under `/proc/self/fd` leads through a leaked descriptor.
#[tokio::test]
async fn cve_2024_21626_working_directory() {
    escape!(hole(Hole::LEAKS), async |bench: &Bench| {
        let secret = secret(bench);
        let sandbox = bench.sandbox().await;
        sandbox
            .start(bench.container("web", &["sleep", "1000"]))
            .await
            .unwrap();
        let mut out = false;
        for number in 3..100 {
            let mut spec = ExecSpec {
                process: process(&["cat", secret.trim_start_matches('/')]),
                stdin: false,
            };
            spec.process.cwd = format!("/proc/self/fd/{number}");
            if let Ok(mut running) = sandbox.exec("web", spec).await {
                let mut text = String::new();
                tokio::io::AsyncReadExt::read_to_string(&mut running.stdout, &mut text)
                    .await
                    .unwrap();
                out |= text.contains("of the host");
            }
        }
        sandbox.destroy().await.unwrap();
        out
    });
}

#[tokio::test]
async fn leaked_descriptors() {
    escape!(hole(Hole::LEAKS), async |bench: &Bench| {
        let secret = secret(bench);
        let script = format!(
            "for n in /proc/self/fd/*; do cat $n{secret} 2>/dev/null; done; ls /proc/self/fd | wc -l"
        );
        let text = says(bench, &script, SecurityPolicy::default()).await;
        // 0, 1, 2 and the one that ls reads the directory with.
        text.contains("of the host") || text.trim() != "4"
    });
}

/// CVE-2025-31133: the image's `/dev/null` is a link, and what it leads to becomes the mask.
#[tokio::test]
async fn cve_2025_31133_masks() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    escape!(hole(Hole::MASK_BY_PATH), async |bench: &Bench| {
        let container = bench.shell("web", "cat /proc/interrupts");
        let (upper, _) = container.rootfs.upper.clone().unwrap();
        std::fs::create_dir(upper.join("dev")).unwrap();
        std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", upper.join("dev/null"))
            .unwrap();
        bench.run(container).await.unwrap().1 == pattern
    });
}

/// CVE-2025-52565: the image's `/dev/console` is a link, and the terminal is mounted where it
/// leads to, before what is there is protected.
#[tokio::test]
async fn cve_2025_52565_console() {
    escape!(hole(Hole::CONSOLE_BY_PATH), async |bench: &Bench| {
        let mut container = bench.shell("web", "[ -c /srv/victim ] && echo elsewhere");
        container.process.terminal = Some(TerminalSize { rows: 24, cols: 80 });
        let (upper, _) = container.rootfs.upper.clone().unwrap();
        std::fs::create_dir(upper.join("dev")).unwrap();
        std::fs::create_dir(upper.join("srv")).unwrap();
        std::fs::write(upper.join("srv/victim"), "").unwrap();
        std::os::unix::fs::symlink("/srv/victim", upper.join("dev/console")).unwrap();
        bench.run(container).await.unwrap().1.contains("elsewhere")
    });
}

/// CVE-2025-52881: what the runtime writes into `/proc` lands in a file of the container's choice.
#[tokio::test]
async fn cve_2025_52881_redirected_writes() {
    escape!(hole(Hole::PROC_BY_PATH), async |bench: &Bench| {
        let sandbox = bench.sandbox().await;
        // Every file of a process that one could want to set.
        let mut container = bench.shell(
            "web",
            "mkdir -p /tmp/p/self/attr /tmp/p/sys/kernel /tmp/p/thread-self
             cd /tmp/p/self; touch timerslack_ns oom_score_adj attr/exec attr/keycreate loginuid setgroups uid_map gid_map
             mount --bind /tmp/p /proc && echo ready; sleep 1000",
        );
        container.security = privileged();
        sandbox.start(container).await.unwrap();
        wait_for_line(&*sandbox, "web", "ready").await;
        let mut spec = ExecSpec {
            process: process(&["find", "/tmp/p", "-type", "f", "-size", "+0"]),
            stdin: false,
        };
        spec.process.terminal = Some(TerminalSize { rows: 24, cols: 80 });
        let mut running = sandbox.exec("web", spec).await.unwrap();
        let mut text = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut running.stdout, &mut text).await;
        sandbox.destroy().await.unwrap();
        !text.is_empty()
    });
}

#[tokio::test]
async fn the_hosts_root_through_proc() {
    escape!(
        hole_as_host_root(Hole::PIDS | Hole::AGENT_OPEN),
        async |bench: &Bench| {
            let secret = secret(bench);
            let script = format!(
                "for p in /proc/[0-9]*; do cat $p/root{secret} $p/cwd{secret}; done 2>/dev/null"
            );
            says(bench, &script, privileged())
                .await
                .contains("of the host")
        }
    );
}

/// Detaches what is mounted below a path of the host.
fn unmount_below(path: &Path) {
    loop {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let Some(point) = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .rfind(|point| Path::new(point).starts_with(path))
        else {
            return;
        };
        rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn mount_propagation() {
    escape!(
        hole_as_host_root(Hole::PROPAGATION),
        async |bench: &Bench| {
            let shared = bench.root().join("shared");
            std::fs::create_dir(&shared).unwrap();
            use rustix::mount::{MountFlags, MountPropagationFlags};
            rustix::mount::mount("none", &shared, "tmpfs", MountFlags::empty(), None).unwrap();
            rustix::mount::mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
            let sandbox = bench
                .sandbox_with(vec![SandboxVolume {
                    name: "shared".into(),
                    source: VolumeSource::Directory(shared.clone()),
                    read_only: false,
                }])
                .await;
            let mut container = bench.shell(
            "web",
            "mkdir /v/sub && mount -t tmpfs none /v/sub && touch /v/sub/mark && echo mounted; sleep 1000",
        );
            container.security = privileged();
            container.mounts = vec![MountSpec {
                volume: "shared".into(),
                path: "/v".into(),
                read_only: false,
            }];
            sandbox.start(container).await.unwrap();
            wait_for_line(&*sandbox, "web", "mounted").await;
            let out = shared.join("sub/mark").exists();
            sandbox.destroy().await.unwrap();
            unmount_below(bench.root());
            out
        }
    );
}

#[tokio::test]
async fn ptrace_and_signals_across_containers() {
    escape!(hole(Hole::PIDS), async |bench: &Bench| {
        let sandbox = bench.sandbox().await;
        let mut victim = bench.container("victim", &["sleep", "1234"]);
        victim
            .process
            .env
            .push(("KEPT".into(), aci_core::model::Secret::new("from others")));
        sandbox.start(victim).await.unwrap();
        let mut container = bench.shell(
            "web",
            "cat /proc/[0-9]*/environ 2>/dev/null | grep -ac KEPT; kill -9 -1; echo tried; exec sleep 1000",
        );
        container.security = with("SYS_PTRACE");
        sandbox.start(container).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let read = !log(&*sandbox, "web").await.starts_with('0');
        let killed = !matches!(state(&*sandbox, "victim").await, RunState::Running { .. });
        sandbox.destroy().await.unwrap();
        assert_eq!(
            read, killed,
            "one of the two walls stands without the other"
        );
        read
    });
}

/// A cgroup file system of its own would let a container name a program that the host's root runs
/// (release_agent; CVE-2022-0492 without any capability).
#[tokio::test]
async fn release_agent() {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    if !known.lines().any(|line| line.ends_with("\tcgroup")) {
        println!("SKIPPED: the kernel has no cgroups of version 1");
        return;
    }
    escape!(
        hole_as_host_root(Hole::CGROUPS | Hole::FILTER),
        async |bench: &Bench| {
            let script = "mount -t cgroup -o none,name=aci-escape cgroup /srv 2>/dev/null &&
            echo /bin/true >/srv/release_agent && echo out; umount /srv 2>/dev/null
            unshare -C sh -c 'mount -t cgroup -o none,name=aci-escape cgroup /srv && echo /bin/true >/srv/release_agent && echo out; umount /srv' 2>/dev/null
            mkdir /tmp/c; unshare -UrmC sh -c 'mount -t cgroup -o none,name=aci-escape cgroup /tmp/c && echo /bin/true >/tmp/c/release_agent && echo out' 2>/dev/null; true";
            says(bench, script, with("SYS_ADMIN")).await.contains("out")
        }
    );
}

/// A node of a host's device in the image, open to everybody.
#[tokio::test]
async fn device_nodes() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    // One that this process can open, so that the wall is what holds a container back.
    let found = ["vda", "sda", "nvme0n1", "loop-control", "fuse", "net/tun"]
        .iter()
        .find_map(|name| {
            let file = std::fs::File::open(format!("/dev/{name}")).ok()?;
            file.metadata().ok()
        });
    let Some(found) = found else {
        println!("SKIPPED: no device of the host can be opened here");
        return;
    };
    let device = found.rdev();
    let kind = if found.file_type().is_block_device() {
        rustix::fs::FileType::BlockDevice
    } else {
        rustix::fs::FileType::CharacterDevice
    };
    escape!(hole(Hole::DEVICES), async |bench: &Bench| {
        let container = bench.shell("web", "if (exec 3</srv/disk); then echo out; fi");
        let (upper, _) = container.rootfs.upper.clone().unwrap();
        std::fs::create_dir(upper.join("srv")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, upper.join("srv/disk"), kind, mode, device).unwrap();
        std::fs::set_permissions(
            upper.join("srv/disk"),
            std::os::unix::fs::PermissionsExt::from_mode(0o666),
        )
        .unwrap();
        bench.run(container).await.unwrap().1.contains("out")
    });
}

#[tokio::test]
async fn set_user_id_programs() {
    escape!(hole(Hole::PRIVILEGES), async |bench: &Bench| {
        let mut container = bench.shell("web", "/srv/su root -c 'echo I am $(id -u)'");
        container.process.user.uid = Some(101);
        let (upper, _) = container.rootfs.upper.clone().unwrap();
        for name in ["srv", "etc"] {
            std::fs::create_dir(upper.join(name)).unwrap();
        }
        std::fs::write(
            upper.join("etc/passwd"),
            "root::0:0:root:/:/bin/sh\nweb:x:101:102:Web:/:/bin/sh\n",
        )
        .unwrap();
        std::fs::copy(bench.layer().join("bin/busybox"), upper.join("srv/su")).unwrap();
        std::fs::set_permissions(
            upper.join("srv/su"),
            std::os::unix::fs::PermissionsExt::from_mode(0o4755),
        )
        .unwrap();
        bench.run(container).await.unwrap().1.contains("I am 0")
    });
}

#[tokio::test]
async fn nested_user_namespaces_and_mounts() {
    escape!(hole(Hole::FILTER), async |bench: &Bench| {
        let script = "unshare -Urm sh -c 'mount -t tmpfs none /srv && echo out'";
        says(bench, script, SecurityPolicy::default())
            .await
            .contains("out")
    });
}

/// Another container swaps a directory of a shared volume for a link to the host's, over and over,
/// while a mount is placed below it.
#[tokio::test]
async fn symlinks_swapped_during_start() {
    escape!(hole(Hole::PATHS), async |bench: &Bench| {
        let outside = bench.root().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let volume = |name: &str| SandboxVolume {
            name: name.into(),
            source: VolumeSource::Memory { size: None },
            read_only: false,
        };
        let sandbox = bench
            .sandbox_with(vec![volume("swapped"), volume("inner")])
            .await;
        let at = |volume: &str, path: &str| MountSpec {
            volume: volume.into(),
            path: path.into(),
            read_only: false,
        };
        let mut swapper = bench.shell(
            "swapper",
            &format!(
                "cd /v; while true; do rm -rf sub; ln -s {0} sub; rm -f sub; mkdir sub; done 2>/dev/null",
                outside.display()
            ),
        );
        swapper.mounts = vec![at("swapped", "/v")];
        sandbox.start(swapper).await.unwrap();
        let mut started = 0;
        for attempt in 0..2000 {
            let mut container = bench.container("web", &["true"]);
            container.attempt = attempt;
            container.mounts = vec![at("swapped", "/v"), at("inner", "/v/sub/inner")];
            // It may find no directory at all at that moment.
            if sandbox.start(container).await.is_ok() {
                started += 1;
                ended(&*sandbox, "web").await;
            }
            if outside.join("inner").exists() || (attempt >= 60 && started > 0) {
                break;
            }
        }
        let escaped = outside.join("inner").exists();
        assert!(
            escaped || started > 0,
            "no start succeeded: nothing is shown"
        );
        sandbox.destroy().await.unwrap();
        std::fs::read_dir(&outside).unwrap().count() > 0
    });
}

fn lacks_limits(bench: &Bench) -> bool {
    let lacks = !bench.isolation.capability().limits;
    if lacks {
        println!(
            "SKIPPED: no limits here: {:?}",
            bench.isolation.capability().missing
        );
    }
    lacks
}

#[tokio::test]
async fn fork_bomb() {
    if WHOLE.bench().is_none_or(|bench| lacks_limits(&bench)) {
        return;
    }
    escape!(hole(Hole::LIMITS), async |bench: &Bench| {
        let mut container = bench.shell(
            "web",
            "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; echo all of them",
        );
        container.limits.pids_max = Some(30);
        bench
            .run(container)
            .await
            .unwrap()
            .1
            .contains("all of them")
    });
}

#[tokio::test]
async fn memory_bomb() {
    if WHOLE.bench().is_none_or(|bench| lacks_limits(&bench)) {
        return;
    }
    escape!(hole(Hole::LIMITS), async |bench: &Bench| {
        let mut container = bench.shell(
            "web",
            "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null && echo got it",
        );
        container.limits.memory_max = Some(32 << 20);
        bench.run(container).await.unwrap().1.contains("got it")
    });
}

#[tokio::test]
async fn log_bomb() {
    escape!(hole(Hole::LOGS), async |bench: &Bench| {
        let sandbox = bench.sandbox().await;
        let mut container = bench.shell("web", "yes '' | head -c 300000");
        container.log_bytes = 1 << 18;
        sandbox.start(container).await.unwrap();
        ended(&*sandbox, "web").await;
        let directory = bench
            .root()
            .join("state")
            .join(sandbox.id().as_str())
            .join("log");
        let bytes: u64 = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        sandbox.destroy().await.unwrap();
        // Eight times the bound, for the stamps.
        bytes > 9 << 18
    });
}

/// Open files are the kernel's memory; they are charged to who opens them.
#[tokio::test]
async fn exhausted_descriptors() {
    if WHOLE.bench().is_none_or(|bench| lacks_limits(&bench)) {
        return;
    }
    escape!(hole(Hole::LIMITS), async |bench: &Bench| {
        let sandbox = bench.sandbox().await;
        sandbox
            .start(bench.container("calm", &["sleep", "1000"]))
            .await
            .unwrap();
        let mut container = bench.shell(
            "web",
            "for n in 1 2 3 4 5 6; do
                awk -v n=$n 'BEGIN { for (i = 0; i < 15000; i++) printf \"\" > (\"/dev/shm/\" n \".\" i); print \"opened\"; fflush(); system(\"sleep 2\") }' &
             done; wait",
        );
        container.limits.memory_max = Some(24 << 20);
        sandbox.start(container).await.unwrap();
        ended(&*sandbox, "web").await;
        let opened = log(&*sandbox, "web").await.matches("opened").count();
        // Nobody else notices.
        assert_eq!(
            exec(&*sandbox, "calm", &["echo", "fine"]).await.unwrap().1,
            "fine\n"
        );
        sandbox.destroy().await.unwrap();
        opened == 6
    });
}

#[tokio::test]
async fn a_container_that_ignores_sigterm() {
    escape!(hole(Hole::POLITE), async |bench: &Bench| {
        let sandbox = bench.sandbox().await;
        let script = "trap '' TERM; (trap '' TERM; sleep 1000) & echo armed; while true; do sleep 1000; done";
        sandbox.start(bench.shell("web", script)).await.unwrap();
        wait_for_line(&*sandbox, "web", "armed").await;
        sandbox.signal("web", Signal::TERM, false).await.unwrap();
        sandbox.signal("web", Signal::KILL, true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let alive = matches!(state(&*sandbox, "web").await, RunState::Running { .. });
        sandbox.destroy().await.unwrap();
        alive
    });
}
