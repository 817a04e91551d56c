//! A sandbox for tests: a root file system of one static busybox, removed with everything else.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::*;
use aci_core::error::Result;
use aci_core::id::SandboxId;
use aci_core::model::Secret;
use aci_core::size::Limits;
use aci_isolation::{Namespaces, NamespacesOptions};
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;

/// Where Debian's busybox-static puts its program.
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"];

/// A machine of its own for one test.
pub struct Bench {
    root: PathBuf,
    /// Removed at the end; `None` for a bench that belongs to another process.
    owned: Option<tempfile::TempDir>,
    pub isolation: Namespaces,
    pub options: NamespacesOptions,
}

/// `None` (and a line that says why) where the test cannot run.
pub fn bench() -> Option<Bench> {
    bench_with(|options| options)
}

/// A bench with other options.
pub fn bench_with(change: impl FnOnce(NamespacesOptions) -> NamespacesOptions) -> Option<Bench> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = directory.path().to_owned();
    if !lay_out(&root) {
        return None;
    }
    let mut bench = open(root, change)?;
    bench.owned = Some(directory);
    Some(bench)
}

/// A bench over the directory of another one.
pub fn bench_at(root: PathBuf) -> Option<Bench> {
    open(root, |options| options)
}

fn open(
    root: PathBuf,
    change: impl FnOnce(NamespacesOptions) -> NamespacesOptions,
) -> Option<Bench> {
    let unique = root.to_string_lossy().replace(['.', '/'], "");
    let options = NamespacesOptions::default()
        .state_dir(root.join("state"))
        .cgroup_parent(format!("aci-test-{unique}"));
    let options = by_driver(change(options));
    match Namespaces::new(options.clone()) {
        Ok(isolation) => Some(Bench {
            root,
            owned: None,
            isolation,
            options,
        }),
        Err(error) => {
            println!("SKIPPED: {}", error.chain());
            None
        }
    }
}

/// Says in a child that cgroups are made by the crate cgroups-rs.
#[cfg(feature = "cgroups-rs")]
const CGROUPS_RS: &str = "ACI_TEST_CGROUPS_RS";

/// With the driver of cgroups that this process tests.
pub fn by_driver(options: NamespacesOptions) -> NamespacesOptions {
    #[cfg(feature = "cgroups-rs")]
    if std::env::var_os(CGROUPS_RS).is_some() {
        return options.cgroup_driver(aci_isolation::CgroupDriver::CgroupsRs);
    }
    options
}

/// Runs the tests of the same binary once more with cgroups made by cgroups-rs: those that are
/// named, or all but those that start others.
#[cfg(feature = "cgroups-rs")]
pub fn again_by_cgroups_rs(tests: &[&str]) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--nocapture", "--test-threads=2"]);
    if tests.is_empty() {
        command.args([
            "--skip",
            "by_cgroups_rs",
            "--skip",
            "without_root",
            "--skip",
            "ordinary",
        ]);
    } else {
        command.arg("--exact").args(tests);
    }
    let output = command.env(CGROUPS_RS, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "failed by cgroups-rs");
    assert!(
        !said.contains("test result: ok. 0 passed"),
        "nothing was run"
    );
}

/// Makes the layer of all root file systems.
pub fn lay_out(root: &Path) -> bool {
    let Some(busybox) = BUSYBOX.iter().map(Path::new).find(|path| path.exists()) else {
        println!("SKIPPED: no static busybox; install the package busybox-static");
        return false;
    };
    let layer = root.join("layer");
    for name in ["bin", "etc", "tmp", "srv"] {
        std::fs::create_dir_all(layer.join(name)).unwrap();
    }
    let mode = |name: &str, mode| {
        std::fs::set_permissions(layer.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("tmp", 0o1777);
    std::fs::copy(busybox, layer.join("bin/busybox")).unwrap();
    for name in PROGRAMS.split_whitespace() {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(name)).unwrap();
    }
    let write = |name: &str, text: &str| std::fs::write(layer.join(name), text).unwrap();
    write(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:Web:/srv:/bin/sh\n",
    );
    write("etc/group", "root:x:0:\nweb:x:102:\nadm:x:4:web\n");
    write("etc/noexec", "#!/bin/sh\n");
    write("etc/script", "#!/nowhere/sh\n");
    mode("etc/script", 0o755);
    std::os::unix::fs::symlink("/etc", layer.join("escape")).unwrap();
    std::os::unix::fs::symlink("../../../../../../tmp", layer.join("srv/up")).unwrap();
    true
}

const PROGRAMS: &str = "sh true false sleep cat echo id ls mount kill ps nc head yes stat seq dd env \
    tty stty grep mknod hostname ip mkdir touch pwd wc umount chmod ln rm tail tr date readlink \
    find printf usleep timeout setsid chown unshare nsenter sort cut awk mkfifo";

impl Bench {
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A fresh root file system.
    pub fn rootfs(&self, name: &str) -> RootFs {
        let base = self
            .root
            .join("roots")
            .join(SandboxId::generate(name).as_str());
        let (upper, work) = (base.join("upper"), base.join("work"));
        std::fs::create_dir_all(&upper).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        RootFs {
            layers: vec![Layer::Directory(self.root.join("layer"))],
            upper: Some((upper, work)),
        }
    }

    pub fn layer(&self) -> PathBuf {
        self.root.join("layer")
    }

    /// A container that runs a shell command.
    pub fn shell(&self, name: &str, script: &str) -> ContainerSpec {
        self.container(name, &["/bin/sh", "-c", script])
    }

    pub fn container(&self, name: &str, argv: &[&str]) -> ContainerSpec {
        ContainerSpec {
            name: name.to_owned(),
            attempt: 0,
            rootfs: self.rootfs(name),
            process: process(argv),
            mounts: Vec::new(),
            files: Vec::new(),
            limits: Limits::default(),
            security: SecurityPolicy::default(),
            log_bytes: 1 << 20,
            gpus: 0,
        }
    }

    pub async fn sandbox(&self) -> Arc<dyn Sandbox> {
        self.sandbox_with(Vec::new()).await
    }

    pub async fn sandbox_with(&self, volumes: Vec<SandboxVolume>) -> Arc<dyn Sandbox> {
        self.isolation.create(spec(volumes)).await.unwrap()
    }

    /// Runs a container to its end in a sandbox of its own.
    pub async fn run(&self, container: ContainerSpec) -> Result<(ExitStatus, String)> {
        let sandbox = self.sandbox().await;
        let name = container.name.clone();
        let outcome = match sandbox.start(container).await {
            Ok(()) => {
                let exit = ended(&*sandbox, &name).await;
                Ok((exit, log(&*sandbox, &name).await))
            }
            Err(error) => Err(error),
        };
        sandbox.destroy().await.unwrap();
        outcome
    }

    /// Nothing may be left: no sandbox, cgroup, mount, process or file.
    pub fn assert_clean(&self) {
        let state = self.root.join("state");
        let left: Vec<_> = std::fs::read_dir(&state)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != ".lock")
            .collect();
        assert!(left.is_empty(), "left in the state directory: {left:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.root.to_str().unwrap();
        assert!(!mounts.contains(path), "a mount is left: {mounts}");
        for directory in self.cgroups() {
            assert!(!directory.exists(), "left: {}", directory.display());
        }
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(link) = std::fs::read_link(process.path().join("root")) else {
                continue;
            };
            assert!(
                !link.starts_with(path),
                "a process is left: {}",
                process.path().display()
            );
        }
    }

    /// This bench's cgroup in every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4))
            .map(|point| Path::new(point).join(&self.options.cgroup_parent))
            .collect()
    }

    /// A file of a cgroup, whichever hierarchy has it.
    pub fn cgroup_file(&self, path: &str, names: &[&str]) -> Option<String> {
        self.cgroups().iter().find_map(|base| {
            names
                .iter()
                .find_map(|name| std::fs::read_to_string(base.join(path).join(name)).ok())
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.owned.is_none() {
            return;
        }
        // After a failed test nothing may stay either.
        for entry in std::fs::read_dir(self.root.join("state"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = std::fs::read_to_string(entry.path().join("agent")).unwrap_or_default();
            if let Some(pid) = text
                .split(' ')
                .nth(1)
                .and_then(|pid| pid.parse::<i32>().ok())
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        for base in self.cgroups() {
            remove_tree(&base);
        }
    }
}

fn remove_tree(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}

pub fn spec(volumes: Vec<SandboxVolume>) -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::generate("test"),
        hostname: "group".to_owned(),
        limits: Limits::default(),
        volumes,
    }
}

pub fn process(argv: &[&str]) -> ProcessSpec {
    ProcessSpec {
        argv: argv.iter().map(|text| (*text).to_owned()).collect(),
        env: vec![
            ("PATH".to_owned(), Secret::new("/bin")),
            ("MARK".to_owned(), Secret::new("seen")),
        ],
        ..ProcessSpec::default()
    }
}

/// Waits for a container's end.
pub async fn ended(sandbox: &dyn Sandbox, name: &str) -> ExitStatus {
    let wait = async {
        let mut seen = 0;
        loop {
            let status = sandbox.changed(seen).await.unwrap();
            seen = status.generation;
            for container in status.containers {
                if container.name == name
                    && let RunState::Exited { status, .. } = container.state
                {
                    return status;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(90), wait)
        .await
        .expect("the container ends")
}

/// A container's log as text, one line each.
pub async fn log(sandbox: &dyn Sandbox, name: &str) -> String {
    let stream = sandbox.logs(name, LogQuery::default()).await.unwrap();
    let lines: Vec<_> = stream.collect().await;
    lines
        .into_iter()
        .map(|line| String::from_utf8_lossy(&line.unwrap().line).into_owned() + "\n")
        .collect()
}

/// Runs a command in a container and gives its exit code and output.
pub async fn exec(sandbox: &dyn Sandbox, name: &str, argv: &[&str]) -> Result<(i32, String)> {
    let mut process = sandbox
        .exec(
            name,
            ExecSpec {
                process: ProcessSpec {
                    env: Vec::new(),
                    ..process(argv)
                },
                stdin: false,
            },
        )
        .await?;
    let mut out = String::new();
    process.stdout.read_to_string(&mut out).await.unwrap();
    if let Some(mut stderr) = process.stderr.take() {
        stderr.read_to_string(&mut out).await.unwrap();
    }
    let exit = process.control.wait().await?;
    Ok((exit.code, out))
}

/// A container's state now.
pub async fn state(sandbox: &dyn Sandbox, name: &str) -> RunState {
    let status = sandbox.status().await.unwrap();
    status
        .containers
        .iter()
        .find(|container| container.name == name)
        .unwrap()
        .state
}

/// Waits until a container has written a line.
pub async fn wait_for_line(sandbox: &dyn Sandbox, name: &str, line: &str) {
    for _ in 0..500 {
        if log(sandbox, name).await.lines().any(|have| have == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("'{line}' is not in the log:\n{}", log(sandbox, name).await);
}

impl Bench {
    /// The pid of a sandbox's agent.
    pub fn agent(&self, id: &SandboxId) -> rustix::process::Pid {
        let path = self.root.join("state").join(id.as_str()).join("agent");
        let text = std::fs::read_to_string(path).unwrap();
        let pid = text.split(' ').nth(1).unwrap().parse().unwrap();
        rustix::process::Pid::from_raw(pid).unwrap()
    }

    pub fn kill_agent(&self, id: &SandboxId) {
        rustix::process::kill_process(self.agent(id), rustix::process::Signal::KILL).unwrap();
    }
}

/// Runs tests of the same binary once more as user 65534, if this is root and can become it.
pub fn again_without_root(tests: &[&str]) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: it runs without root already");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // The binary may lie where only root gets to.
    let binary = scratch.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&binary)
        .args(["--exact", "--nocapture"])
        .args(tests)
        .env("TMPDIR", scratch.path())
        .env_remove("XDG_RUNTIME_DIR")
        .current_dir("/")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: setpriv: {error}");
            return;
        }
    };
    println!("{}", String::from_utf8_lossy(&output.stdout));
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tests:?} failed without root");
}

/// Waits until a container has written a line that contains something.
pub async fn wait_for_line_with(sandbox: &dyn Sandbox, name: &str, part: &str) {
    for _ in 0..500 {
        if log(sandbox, name).await.contains(part) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("'{part}' is not in the log:\n{}", log(sandbox, name).await);
}
