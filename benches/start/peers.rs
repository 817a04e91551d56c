//! The other programs, each from Debian, with the same root file system and an equal profile.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime};

use aci_benches::contest::{Contestant, Sample, milliseconds};
use aci_benches::peers::{Containerd, find, first_line};
use anyhow::Context as _;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::setup::{MEMORY, PIDS, Setup, since};
use crate::{FIRST, TOTAL};

/// The names that the default profile always allows; the same as ours.
const ALLOWED: &str = include_str!("allowed.txt");

/// Runs a command to its end: when its container began and when it was gone.
pub(crate) fn timed(command: &mut Command) -> anyhow::Result<Sample> {
    let (begin, clock) = (Instant::now(), SystemTime::now());
    let output = command.stdin(Stdio::null()).output();
    let total = begin.elapsed();
    let output = output.with_context(|| format!("{}", command.get_program().display()))?;
    anyhow::ensure!(
        output.status.success(),
        "{} (code {:?}, signal {:?})",
        String::from_utf8_lossy(&output.stderr).trim(),
        output.status.code(),
        output.status.signal()
    );
    let first = since(clock, &String::from_utf8_lossy(&output.stdout))?;
    Ok(vec![(FIRST, first), (TOTAL, milliseconds(total))])
}

/// Does something here, or (`legacy`) in a thread whose mount namespace lacks the v2 hierarchy. The
/// namespace is made before.
pub(crate) fn where_it_can<T: Send + 'static>(
    legacy: bool,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::{CloneFlags, unshare};
    const UNIFIED: &str = "/sys/fs/cgroup/unified";
    if !legacy {
        return work();
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).context("making mounts private")?;
        umount2(UNIFIED, MntFlags::MNT_DETACH).context(UNIFIED)?;
        work()
    });
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread for {UNIFIED} panicked"))?
}

/// crun or runc: `run` makes, starts, awaits and deletes a container.
#[derive(Clone)]
pub(crate) struct Oci {
    name: String,
    /// Run it where the v2 hierarchy beside the v1 ones cannot be seen.
    legacy: bool,
    program: PathBuf,
    directory: PathBuf,
    /// The network namespace to join; without one it makes its own.
    network: Option<PathBuf>,
}

impl Oci {
    pub(crate) fn new(setup: &Setup, program: &str) -> anyhow::Result<Self> {
        Self::with(setup, program, None)
    }

    /// The same in a network namespace that is there, as for a further container of a pod.
    pub(crate) fn in_network(setup: &Setup, program: &str) -> anyhow::Result<Self> {
        let own = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
        let mut peer = Self::with(setup, program, Some(own))?;
        peer.name.push_str(", net namespace there");
        Ok(peer)
    }

    fn with(setup: &Setup, program: &str, network: Option<PathBuf>) -> anyhow::Result<Self> {
        let path = find(program, program)?;
        let kind = if network.is_some() { "-joins" } else { "" };
        let directory = setup.directory().join(format!("{program}{kind}"));
        fs::create_dir_all(directory.join("bundle"))?;
        let mut peer = Self {
            name: first_line(&path).replace(" version", ""),
            legacy: false,
            program: path,
            directory,
            network,
        };
        // crun 1.8 refuses the hybrid form of cgroups if there is a controller on the v2 side.
        if let Err(error) = peer.once() {
            println!("{}: {error:#}; again without the v2 hierarchy", peer.name);
            peer.legacy = true;
        }
        Ok(peer)
    }

    pub(crate) fn title(&self) -> &str {
        &self.name
    }

    pub(crate) fn legacy(&self) -> bool {
        self.legacy
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.directory.join("state"));
        command
    }

    /// Writes the bundle of a new container and gives its id.
    pub(crate) fn bundle(&mut self, argv: &[&str]) -> anyhow::Result<String> {
        // Clones count on together.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("aci-bench-{}-{count}", std::process::id());
        let root = self.directory.with_file_name("root");
        let mut config = config(&root, &id, argv);
        if let Some(network) = &self.network {
            config["linux"]["namespaces"][NETWORK]["path"] = json!(network);
        }
        let config = config.to_string();
        fs::write(self.directory.join("bundle/config.json"), config)?;
        Ok(id)
    }

    fn once(&mut self) -> anyhow::Result<Sample> {
        let id = self.bundle(&["/bin/first"])?;
        let mut command = self.command();
        command
            .args(["run", "--bundle"])
            .arg(self.directory.join("bundle"))
            .arg(&id);
        let outcome = where_it_can(self.legacy, move || timed(&mut command));
        if outcome.is_err() {
            let _ = self.command().args(["delete", "--force", &id]).output();
        }
        outcome
    }
}

#[async_trait(?Send)]
impl Contestant for Oci {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.once()
    }
}

/// Where the network stands among the namespaces of [`config`].
const NETWORK: usize = 1;

/// An OCI configuration with Docker's default profile.
fn config(root: &Path, id: &str, argv: &[&str]) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    let mount = |kind: &str, at: &str, options: Value| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let plain = json!(["nosuid", "noexec", "nodev"]);
    let mut namespaces = ["pid", "", "ipc", "uts", "mount", "cgroup"];
    namespaces[NETWORK] = "network";
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": argv,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": &capabilities, "effective": &capabilities, "permitted": &capabilities
            }
        },
        "root": {"path": root, "readonly": false},
        "hostname": "bench",
        "mounts": [
            mount("proc", "/proc", plain.clone()),
            mount("tmpfs", "/dev", json!(["nosuid", "strictatime", "mode=755", "size=65536k"])),
            mount("devpts", "/dev/pts", json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"])),
            mount("tmpfs", "/dev/shm", json!(["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])),
            mount("mqueue", "/dev/mqueue", plain),
            mount("sysfs", "/sys", json!(["nosuid", "noexec", "nodev", "ro"])),
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": MEMORY, "swap": MEMORY},
                "cpu": {"quota": 100_000, "period": 100_000},
                "pids": {"limit": PIDS}
            },
            "namespaces": namespaces.map(|kind| json!({"type": kind})),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp()
        }
    })
}

fn seccomp() -> Value {
    let allow = "SCMP_ACT_ALLOW";
    let mut names: Vec<&str> = ALLOWED.split_whitespace().collect();
    names.extend(["chroot", "process_vm_readv", "process_vm_writev", "ptrace"]);
    let architectures = if cfg!(target_arch = "aarch64") {
        names.push("sync_file_range2");
        json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])
    } else {
        names.extend(["arch_prctl", "modify_ldt"]);
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    };
    let mut rules = vec![json!({"names": names, "action": allow})];
    let mut first = |name: &str, op: &str, value: u64, two: u64| {
        let argument = json!({"index": 0, "value": value, "valueTwo": two, "op": op});
        rules.push(json!({"names": [name], "action": allow, "args": [argument]}));
    };
    first("socket", "SCMP_CMP_LT", 38, 0);
    first("socket", "SCMP_CMP_EQ", 39, 0);
    first("socket", "SCMP_CMP_GT", 40, 0);
    for value in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        first("personality", "SCMP_CMP_EQ", value, 0);
    }
    first("clone", "SCMP_CMP_MASKED_EQ", 0x7E02_0000, 0);
    rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures,
        "syscalls": rules
    })
}

/// `ctr run` with containerd.
pub(crate) struct CtrRun {
    name: String,
    containerd: Containerd,
    root: PathBuf,
    count: u32,
}

impl CtrRun {
    pub(crate) fn new(setup: &Arc<Setup>) -> anyhow::Result<Self> {
        find("containerd-shim-runc-v2", "containerd")?;
        find("runc", "runc")?;
        let containerd = Containerd::start(&setup.directory().join("containerd"))?;
        Ok(Self {
            name: format!("ctr run {}", containerd.version()),
            containerd,
            root: setup.root(),
            count: 0,
        })
    }
}

#[async_trait(?Send)]
impl Contestant for CtrRun {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.count += 1;
        let id = format!("bench-{}-{}", std::process::id(), self.count);
        let mut command = self.containerd.ctr();
        command.args(["run", "--rm", "--seccomp", "--cgroup"]);
        command.arg(format!("/aci-{id}"));
        command.args(["--memory-limit", &MEMORY.to_string(), "--rootfs"]);
        timed(command.arg(&self.root).arg(&id).arg("/bin/first"))
    }
}

/// The raw floor; `floor.c` says what it includes.
pub(crate) struct Floor {
    program: PathBuf,
    root: PathBuf,
}

impl Floor {
    pub(crate) fn new(setup: &Setup) -> anyhow::Result<Self> {
        Ok(Self {
            program: setup.floor()?,
            root: setup.root(),
        })
    }
}

#[async_trait(?Send)]
impl Contestant for Floor {
    fn name(&self) -> &str {
        "raw floor"
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        timed(
            Command::new(&self.program)
                .arg(&self.root)
                .arg("/bin/first"),
        )
    }
}
