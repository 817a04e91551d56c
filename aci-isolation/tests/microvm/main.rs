//! Guests under emulation: real QEMU, a real kernel, the agent in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod hostile;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aci_core::conformance::isolation::{self as suite, Behaviour, IsolationHarness};
use aci_core::contract::*;
use aci_core::error::ErrorKind;
use aci_core::id::SandboxId;
use aci_isolation::microvm::{Accelerator, Kernel, MicroVm, MicroVmOptions, Qemu, Vmm};
use async_trait::async_trait;
use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Debian's kernel, unpacked from its package.
fn kernel() -> Kernel {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/guest-kernel");
    let output = std::process::Command::new(script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let root = String::from_utf8(output.stdout).unwrap();
    Kernel::find(Path::new(root.trim())).unwrap()
}

fn options(bench: &Bench) -> MicroVmOptions {
    let unique = bench.root().to_string_lossy().replace(['.', '/'], "");
    MicroVmOptions::new(Accelerator::Emulation)
        .kernel(kernel())
        .jail(by_driver(
            aci_isolation::NamespacesOptions::default()
                .state_dir(bench.root().join("state-vm"))
                .cgroup_parent(format!("aci-test-{unique}")),
        ))
}

struct Guests {
    bench: Bench,
    isolation: MicroVm,
}

/// `None` (and a line that says why) where the test cannot run.
fn guests() -> Option<Guests> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: machines are made by root only");
        return None;
    }
    let bench = bench()?;
    let isolation = MicroVm::new(options(&bench)).unwrap();
    Some(Guests { bench, isolation })
}

impl Guests {
    async fn sandbox(&self, volumes: Vec<SandboxVolume>) -> Arc<dyn Sandbox> {
        let mut spec = spec(volumes);
        spec.limits.memory_max = Some(128 << 20);
        match self.isolation.create(spec).await {
            Ok(sandbox) => sandbox,
            Err(error) => panic!("{}", error.chain()),
        }
    }

    fn assert_clean(&self) {
        let left: Vec<PathBuf> = std::fs::read_dir(self.bench.root().join("state-vm"))
            .unwrap()
            .chain(std::fs::read_dir(self.bench.root().join("state-vm/.machines")).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                ![".lock", ".machines", "kernel", "initramfs"].contains(&name)
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
        self.bench.assert_clean();
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // What a failed test left must not stay; the bench removes the cgroups afterwards.
        let state = self.bench.root().join("state-vm");
        for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path().join("agent")).unwrap_or_default();
            let pid = text.split(' ').nth(1).and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
        }
    }
}

/// One guest for everything that a container does, as each takes seconds to boot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_runs_in_a_guest() {
    let Some(guests) = guests() else { return };
    let shared = guests.bench.root().join("volume");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("from-host"), "hello guest\n").unwrap();
    let volumes = vec![
        SandboxVolume {
            name: "data".to_owned(),
            source: VolumeSource::Directory(shared.clone()),
            read_only: false,
        },
        SandboxVolume {
            name: "memory".to_owned(),
            source: VolumeSource::Memory { size: None },
            read_only: false,
        },
    ];
    let sandbox = guests.sandbox(volumes).await;
    assert!(!guests.isolation.capability().boundary);

    // A program, its log, its end.
    let mut first = guests.bench.shell(
        "first",
        "uname -r 2>/dev/null; cat /proc/version; cat /data/from-host; echo from-guest > /data/answer; exit 3",
    );
    let mount = |volume: &str, path: &str| MountSpec {
        volume: volume.to_owned(),
        path: path.to_owned(),
        read_only: false,
    };
    first.mounts.push(mount("data", "/data"));
    sandbox.start(first).await.unwrap();
    assert_eq!(ended(&*sandbox, "first").await.code, 3);
    let text = log(&*sandbox, "first").await;
    let host = std::fs::read_to_string("/proc/version").unwrap();
    assert!(text.contains("cloud-amd64"), "{text}");
    assert!(!text.contains(host.trim()), "it ran on the host's kernel");
    assert!(text.contains("hello guest"), "{text}");
    let answer = std::fs::read_to_string(shared.join("answer")).unwrap();
    assert_eq!(answer, "from-guest\n");

    // A container that goes on: exec with streams, with a terminal, statistics, connections.
    let mut web = guests.bench.shell(
        "web",
        "echo up; while true; do echo served | nc -l -p 8080 >/dev/null 2>&1; done",
    );
    web.mounts.push(mount("memory", "/mem"));
    sandbox.start(web).await.unwrap();
    wait_for_line(&*sandbox, "web", "up").await;
    let (code, out) = exec(
        &*sandbox,
        "web",
        &["/bin/sh", "-c", "echo $MARK; ls /; exit 4"],
    )
    .await
    .unwrap();
    assert_eq!(code, 4);
    assert!(out.starts_with("seen\n") && out.contains("mem"), "{out}");
    let copied = copy_through(&*sandbox).await;
    assert_eq!(copied, 300_000);
    assert_eq!(terminal_size(&*sandbox).await, "31 77");
    let stats = sandbox.stats().await.unwrap();
    let used = &stats.containers[0];
    assert!(
        used.exact && used.memory_bytes > 0 && used.pids > 0,
        "{used:?}"
    );
    let address = "127.0.0.1:8080".parse().unwrap();
    // The server may not listen yet.
    let mut tries = 0;
    let mut stream = loop {
        let patience = std::time::Duration::from_secs(20);
        match sandbox.dial(address, patience).await {
            Ok(stream) => break stream,
            Err(error) if tries > 100 => panic!("{}", error.chain()),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let mut served = String::new();
    stream.read_to_string(&mut served).await.unwrap();
    assert_eq!(served, "served\n");
    let closed = "127.0.0.1:9".parse().unwrap();
    let refused = sandbox
        .dial(closed, std::time::Duration::from_secs(20))
        .await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Unavailable);

    // Stopped, nothing in it goes on; then it does.
    let control = guests.bench.root().join("state-vm/.machines");
    let control = control.join(sandbox.id().as_str()).join("sockets/control");
    let qemu = Qemu::default();
    qemu.pause(&control, true).await.unwrap();
    let quiet = std::time::Duration::from_millis(300);
    let asked = tokio::time::timeout(quiet, sandbox.status()).await;
    assert!(asked.is_err(), "a stopped guest answers");
    qemu.pause(&control, false).await.unwrap();
    sandbox.status().await.unwrap();

    // A second program takes the guest over; the first's handle goes on as well.
    let id = sandbox.id().clone();
    let second = MicroVm::new(options(&guests.bench)).unwrap();
    let adopted = second.adopt(&id).await.unwrap();
    let (code, _) = exec(&*adopted, "web", &["/bin/true"]).await.unwrap();
    assert_eq!(code, 0);

    adopted.destroy().await.unwrap();
    assert_eq!(sandbox.status().await.unwrap_err().kind(), ErrorKind::Lost);
    guests.assert_clean();
}

/// How many bytes come back from a process that copies its input.
async fn copy_through(sandbox: &dyn Sandbox) -> usize {
    let spec = ExecSpec {
        process: process(&["/bin/cat"]),
        stdin: true,
    };
    let mut process = sandbox.exec("web", spec).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let writing = tokio::spawn(async move {
        stdin.write_all(&vec![b'z'; 300_000]).await.unwrap();
    });
    let mut out = Vec::new();
    process.stdout.read_to_end(&mut out).await.unwrap();
    writing.await.unwrap();
    assert_eq!(process.control.wait().await.unwrap().code, 0);
    out.len()
}

/// What a terminal's size is for a process inside after it was changed.
async fn terminal_size(sandbox: &dyn Sandbox) -> String {
    let mut spec = ExecSpec {
        process: process(&["/bin/sh", "-c", "read line; stty size"]),
        stdin: true,
    };
    spec.process.terminal = Some(TerminalSize { rows: 20, cols: 40 });
    let mut process = sandbox.exec("web", spec).await.unwrap();
    let size = TerminalSize { rows: 31, cols: 77 };
    process.control.resize(size).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(b"\n").await.unwrap();
    let mut out = String::new();
    process.stdout.read_to_string(&mut out).await.unwrap();
    assert_eq!(process.control.wait().await.unwrap().code, 0);
    out.trim().to_owned()
}

/// A guest whose kernel panics is told with what it said last, and nothing of it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_cannot_boot_is_explained() {
    let Some(guests) = guests() else { return };
    // A kernel that is an ELF file and nothing else.
    let mut bad = kernel();
    bad.image = guests.bench.root().join("bad-kernel");
    std::fs::write(
        &bad.image,
        b"\x7fELF and nothing else, which is no program at all",
    )
    .unwrap();
    let id: SandboxId = SandboxId::generate("bad");
    let isolation = MicroVm::new(options(&guests.bench).kernel(bad)).unwrap();
    let mut spec = spec(Vec::new());
    spec.id = id.clone();
    let error = isolation.create(spec).await.unwrap_err().chain();
    assert!(error.contains("'machine' ended with code 1"), "{error}");
    assert!(error.contains("qemu-system-x86_64:"), "{error}");
    assert!(isolation.list().await.unwrap().is_empty());
    guests.assert_clean();
}

/// What the contract's own suite needs.
struct Harness {
    guests: Guests,
    isolation: Arc<dyn Isolation>,
}

#[async_trait]
impl IsolationHarness for Harness {
    fn isolation(&self) -> Arc<dyn Isolation> {
        Arc::clone(&self.isolation)
    }

    fn argv(&self, behaviour: &Behaviour<'_>) -> Option<Vec<String>> {
        behaviour.shell()
    }

    async fn rootfs(&self, key: &RootFsKey) -> RootFs {
        self.guests.bench.rootfs(&key.container)
    }

    async fn reopen(&self) -> Option<Arc<dyn Isolation>> {
        let options = options(&self.guests.bench);
        Some(Arc::new(MicroVm::new(options).unwrap()))
    }

    async fn kill_supervisor(&self, id: &SandboxId) -> bool {
        let state = self.guests.bench.root().join("state-vm");
        let record = std::fs::read_to_string(state.join(id.as_str()).join("agent")).unwrap();
        let pid = record.split(' ').nth(1).unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        true
    }
}

fn harness() -> Option<Harness> {
    let guests = guests()?;
    let isolation = Arc::new(guests.isolation.clone());
    Some(Harness { guests, isolation })
}

/// One case of each part of the suite; each boots guests of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_in_guests() {
    let Some(harness) = harness() else { return };
    suite::process::exit_codes(&harness).await;
    suite::exec::exec_terminal(&harness).await;
    suite::logs::log_of_all_attempts(&harness).await;
    suite::logs::log_follow_of_a_lost_sandbox(&harness).await;
    suite::volumes::read_only_root(&harness).await;
    suite::resources::out_of_memory(&harness).await;
    suite::crash::lost_sandboxes(&harness).await;
    harness.guests.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "boots some sixty guests, minutes of CPU; run it with --run-ignored all"]
async fn the_whole_suite() {
    let Some(harness) = harness() else { return };
    suite::all(&harness).await;
    harness.guests.assert_clean();
}

/// Guests have version 2 alone.
#[cfg(feature = "cgroups-rs")]
#[test]
fn by_cgroups_rs() {
    again_by_cgroups_rs(&["a_group_runs_in_a_guest", "the_contract_holds_in_guests"]);
}
