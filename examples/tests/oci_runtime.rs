//! The OCI command line: by itself, and as the runtime of podman and containerd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../oci_runtime/config.rs"]
#[allow(dead_code, reason = "its own tests run with these")]
mod config;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 11] = [
    "sh", "echo", "cat", "id", "sleep", "tty", "ls", "true", "grep", "stty", "mv",
];

/// The example beside this test's executable, built by the same command.
fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let program = deps
        .parent()
        .unwrap()
        .with_file_name("examples/oci_runtime");
    assert!(
        program.exists(),
        "{} is missing: cargo build --examples",
        program.display()
    );
    program
}

fn root_or_skip() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: OCI bundles are run as root");
    }
    root
}

/// A root file system with busybox.
fn tree(at: &Path) {
    for directory in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(at.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", at.join("bin/busybox")).expect("Debian package busybox-static");
    for name in PROGRAMS {
        symlink("busybox", at.join("bin").join(name)).unwrap();
    }
    std::fs::write(at.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
}

/// A command's outcome, within bounds.
fn output(command: &mut Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let (over, watch) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if watch
            .recv_timeout(PATIENCE)
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    drop(over);
    guard.join().unwrap();
    output
}

fn text(output: &Output) -> (String, String) {
    let read = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (read(&output.stdout), read(&output.stderr))
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A bundle and a place for the runtime's state.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        tree(&dir.path().join("rootfs"));
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bundle(&self, argv: &[&str], change: impl FnOnce(&mut Value)) {
        let namespaces = ["pid", "network", "ipc", "uts", "mount"];
        let mut config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "hostname": "bundle",
            "annotations": {"org.example": "kept"},
            "process": {
                "args": argv, "cwd": "/", "env": ["PATH=/bin", "GREETING=hello"],
                "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": ["CAP_KILL"]},
            },
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": namespaces.map(|kind| json!({"type": kind}))},
        });
        change(&mut config);
        std::fs::write(self.path("config.json"), config.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.path("state"));
        command
            .arg("--log")
            .arg(self.path("log"))
            .args(["--log-format", "json"]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn works(&self, arguments: &[&str]) -> String {
        let output = output(&mut self.command(arguments));
        let (out, err) = text(&output);
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out
    }

    fn fails(&self, arguments: &[&str], word: &str) {
        let output = output(&mut self.command(arguments));
        let (out, err) = text(&output);
        assert!(!output.status.success(), "{arguments:?}: {out}");
        assert!(err.contains(word), "{arguments:?}: {err}");
        let log = std::fs::read_to_string(self.path("log")).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert!(last["msg"].as_str().unwrap().contains(word), "{last}");
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.works(&["state", id])).unwrap()
    }

    fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    /// `create` with output to files: it goes on after the call.
    fn create(&self, id: &str) -> i32 {
        let bundle = self.path("").display().to_string();
        let pid_file = self.path("pid");
        let mut command = self.command(&["create", "--bundle", &bundle, "--pid-file"]);
        command.arg(&pid_file).arg(id);
        command.stdout(std::fs::File::create(self.path("out")).unwrap());
        command.stderr(std::fs::File::create(self.path("err")).unwrap());
        let status = command.status().unwrap();
        let said = std::fs::read_to_string(self.path("err")).unwrap();
        assert!(status.success(), "{said}");
        std::fs::read_to_string(pid_file).unwrap().parse().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.path("state/containers"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let id = entry.file_name().to_string_lossy().into_owned();
            let _ = output(&mut self.command(&["delete", "--force", &id]));
        }
    }
}

/// The program begins with `start` and not before; each call is a process of its own.
#[test]
fn a_container_goes_through_its_states() {
    if !root_or_skip() {
        return;
    }
    let place = Place::new();
    let script = "echo $GREETING from $(cat /proc/sys/kernel/hostname); echo aside >&2; echo kept > /written; while ! [ -e /go ]; do sleep 0.02; done";
    place.bundle(&["sh", "-c", script], |_| {});
    let pid = place.create("one");
    let state = place.state("one");
    assert_eq!(state["status"], "created", "{state}");
    assert_eq!(state["pid"], pid, "{state}");
    assert_eq!(state["annotations"]["org.example"], "kept", "{state}");
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    place.fails(
        &[
            "create",
            "--bundle",
            &place.path("").display().to_string(),
            "one",
        ],
        "exists",
    );
    place.fails(&["delete", "one"], "not stopped");
    place.fails(&["state", "other"], "does not exist");
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        !place.path("rootfs/written").exists(),
        "it ran before it was started"
    );

    place.works(&["start", "one"]);
    assert_eq!(place.status("one"), "running");
    place.fails(&["start", "one"], "has been started");
    wait_for("the program's work", || {
        place.path("rootfs/written").exists()
    });
    std::fs::write(place.path("rootfs/go"), "").unwrap();
    wait_for("the end", || place.status("one") == "stopped");
    let read = |name| std::fs::read_to_string(place.path(name)).unwrap();
    assert_eq!(read("out"), "hello from bundle\n");
    assert_eq!(read("err"), "aside\n");
    place.fails(&["kill", "one", "TERM"], "not running");
    place.works(&["delete", "one"]);
    place.fails(&["state", "one"], "does not exist");
    let left: Vec<_> = std::fs::read_dir(place.path("state/sandboxes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != ".lock")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Exit codes, standard input, signals and further processes.
#[test]
fn processes_are_run_told_and_ended() {
    if !root_or_skip() {
        return;
    }
    let place = Place::new();
    let bundle = place.path("").display().to_string();
    place.bundle(&["sh", "-c", "cat; exit 7"], |_| {});
    let mut child = place
        .command(&["run", "--bundle", &bundle, "two"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"to and fro").unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.stdout, b"to and fro");
    assert_eq!(ended.status.code(), Some(7));

    // A container that waits can be ended; one whose program is missing has stopped.
    place.bundle(&["nowhere"], |_| {});
    place.create("three");
    place.works(&["kill", "three", "KILL"]);
    wait_for("the end", || place.status("three") == "stopped");
    place.works(&["delete", "three"]);
    place.create("three");
    place.fails(&["start", "three"], "nowhere");
    wait_for("the end", || place.status("three") == "stopped");
    place.works(&["delete", "three"]);

    let trap = "trap 'echo told; exit 5' TERM; while :; do sleep 0.02; done";
    place.bundle(&["sh", "-c", trap], |_| {});
    let pid = place.create("four");
    place.works(&["start", "four"]);
    let ran = output(&mut place.command(&[
        "exec",
        "--env",
        "GREETING=bye",
        "four",
        "sh",
        "-c",
        "echo $GREETING; exit 3",
    ]));
    assert_eq!(text(&ran).0, "bye\n");
    assert_eq!(ran.status.code(), Some(3));
    place.fails(&["exec", "four", "nowhere"], "nowhere");
    let process = json!({"args": ["sleep", "100"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    std::fs::write(place.path("process.json"), process.to_string()).unwrap();
    let mut detached = place.command(&["exec", "--detach", "--process"]);
    detached
        .arg(place.path("process.json"))
        .arg("--pid-file")
        .arg(place.path("exec-pid"));
    assert!(detached.arg("four").status().unwrap().success());
    let further: i32 = std::fs::read_to_string(place.path("exec-pid"))
        .unwrap()
        .parse()
        .unwrap();
    assert!(Path::new(&format!("/proc/{further}")).exists());
    place.works(&["kill", "four", "TERM"]);
    wait_for("the end", || place.status("four") == "stopped");
    assert_eq!(
        std::fs::read_to_string(place.path("out")).unwrap(),
        "told\n"
    );
    wait_for("the end of what stood for it", || !runs(pid));
    wait_for("the end of the further process", || !runs(further));
    place.works(&["delete", "four"]);
}

/// OCI's own schemas, from Debian's package golang-github-opencontainers-specs-dev.
const SCHEMAS: &str = "/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema";

/// One of OCI's schemas, with the files that it refers to taken in.
fn schema(name: &str) -> jsonschema::Validator {
    let mut files = serde_json::Map::new();
    let mut wanted = vec![name.to_owned()];
    while let Some(file) = wanted.pop() {
        if !files.contains_key(&file) {
            let text = std::fs::read_to_string(Path::new(SCHEMAS).join(&file))
                .expect("Debian package golang-github-opencontainers-specs-dev");
            let mut schema = serde_json::from_str(&text).unwrap();
            take_in(&mut schema, &file, &mut wanted);
            files.insert(file, schema);
        }
    }
    let root = json!({"allOf": [{"$ref": format!("#/files/{name}")}], "files": files});
    jsonschema::draft4::new(&root).unwrap()
}

/// Makes references to files ones within a document, and notes the files.
fn take_in(value: &mut Value, file: &str, wanted: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                match inner.as_str().and_then(|target| target.split_once('#')) {
                    Some((other, place)) if key == "$ref" => {
                        let other = if other.is_empty() { file } else { other };
                        wanted.push(other.to_owned());
                        *inner = format!("#/files/{other}{place}").into();
                    }
                    _ => take_in(inner, file, wanted),
                }
            }
        }
        Value::Array(items) => {
            for inner in items {
                take_in(inner, file, wanted);
            }
        }
        _ => {}
    }
}

/// The bundles of these tests and what `state` says of them are as OCI's own schemas have it.
#[test]
fn bundles_and_states_are_those_of_the_specification() {
    if !root_or_skip() {
        return;
    }
    let check = |validator: &jsonschema::Validator, value: &Value| {
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{faults:#?}\n{value:#}");
    };
    let (config, state) = (schema("config-schema.json"), schema("state-schema.json"));
    // A schema that lets everything pass would show nothing.
    assert!(
        !state
            .is_valid(&json!({"ociVersion": "1.0.2", "id": "x", "status": "gone", "bundle": "/"}))
    );
    assert!(
        !config.is_valid(&json!({"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": 5}]}}))
    );
    let place = Place::new();
    place.bundle(&["sleep", "100"], |_| {});
    let text = std::fs::read_to_string(place.path("config.json")).unwrap();
    check(&config, &serde_json::from_str(&text).unwrap());
    place.create("seven");
    check(&state, &place.state("seven"));
    place.works(&["start", "seven"]);
    check(&state, &place.state("seven"));
    place.works(&["kill", "seven", "KILL"]);
    wait_for("the end", || place.status("seven") == "stopped");
    check(&state, &place.state("seven"));
    place.works(&["delete", "seven"]);
}

/// What a container has counted to in a file.
fn count(place: &Place) -> u64 {
    let text = std::fs::read_to_string(place.path("rootfs/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i > /new; mv /new /count; sleep 0.01; done";

/// A paused container does nothing until it is resumed, and dies when it is killed.
#[test]
fn containers_are_paused_and_resumed() {
    if !root_or_skip() {
        return;
    }
    let place = Place::new();
    place.bundle(&["sh", "-c", COUNT], |_| {});
    place.create("five");
    place.fails(&["resume", "five"], "not paused");
    place.works(&["start", "five"]);
    wait_for("its work", || count(&place) > 3);
    place.works(&["pause", "five"]);
    assert_eq!(place.status("five"), "paused");
    let reached = count(&place);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(count(&place), reached, "it went on");
    place.fails(&["exec", "five", "true"], "paused");
    place.fails(&["pause", "five"], "paused");
    place.fails(&["delete", "five"], "not stopped");
    place.works(&["resume", "five"]);
    assert_eq!(place.status("five"), "running");
    wait_for("more of its work", || count(&place) > reached);
    place.works(&["pause", "five"]);
    place.works(&["kill", "five", "KILL"]);
    wait_for("the end", || place.status("five") == "stopped");
    place.works(&["delete", "five"]);

    // One that is paused is removed by force.
    place.create("six");
    place.works(&["start", "six"]);
    place.works(&["pause", "six"]);
    place.works(&["delete", "--force", "six"]);
    place.fails(&["state", "six"], "does not exist");
}

fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

#[test]
fn features_are_those_of_the_specification() {
    let output = output(
        Command::new(program())
            .arg("--root")
            .arg(tempfile::tempdir().unwrap().path())
            .arg("features"),
    );
    let said: oci_spec::runtime::Features = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said.oci_version_max(), "1.0.2");
    assert_eq!(said.hooks().as_ref().map(Vec::len), Some(0));
}

/// Podman over a place of its own.
struct Podman {
    place: Place,
}

impl Podman {
    fn new() -> Self {
        let podman = Self {
            place: Place::new(),
        };
        let archive = podman.place.path("image.tar");
        let made = Command::new("tar")
            .arg("-C")
            .arg(podman.place.path("rootfs"))
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(made.unwrap().success());
        // What podman runs by itself later on gets no flags of the runtime's.
        let runtime = podman.place.path("runtime");
        let state = podman.place.path("state");
        let script = format!(
            "#!/bin/sh\nexec {} --root {} \"$@\"\n",
            program().display(),
            state.display()
        );
        std::fs::write(&runtime, script).unwrap();
        std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o755)).unwrap();
        podman.works(&["import", archive.to_str().unwrap(), "tools"]);
        podman
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        for (flag, name) in [
            ("--root", "root"),
            ("--runroot", "runroot"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(self.place.path(name));
        }
        command.args([
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
        ]);
        command.arg("--runtime").arg(self.place.path("runtime"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, options: &[&str], program: &[&str]) -> Command {
        let mut all = vec!["run", "--network", "none", "--log-driver", "k8s-file"];
        all.extend(options);
        all.push("localhost/tools:latest");
        all.extend(program);
        self.command(&all)
    }

    fn works(&self, arguments: &[&str]) -> String {
        let output = output(&mut self.command(arguments));
        let (out, err) = text(&output);
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = output(&mut self.command(&["rm", "--all", "--force", "--time", "0"]));
        // What podman makes for its own monitor and leaves.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let parent = hierarchy.path().join("libpod_parent");
            for child in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(child.path());
            }
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// Debian's podman runs containers with this runtime: output, exit codes, input, terminal, exec, pause,
/// stop and removal.
#[test]
fn podman_runs_containers_with_it() {
    if !root_or_skip() {
        return;
    }
    let podman = Podman::new();
    let ran = output(&mut podman.run(
        &["--rm", "--name", "first"],
        &["sh", "-c", "echo out; echo err >&2; exit 3"],
    ));
    let (out, err) = text(&ran);
    assert_eq!(ran.status.code(), Some(3), "{out}{err}");
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));

    let mut asked = podman.run(&["--rm", "--interactive"], &["cat"]);
    let mut child = asked
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through podman\n").unwrap();
    assert_eq!(
        child.wait_with_output().unwrap().stdout,
        b"through podman\n"
    );

    let ran = output(&mut podman.run(
        &["--rm", "--tty"],
        &["sh", "-c", "tty; stty size > /dev/null && echo terminal"],
    ));
    let (out, err) = text(&ran);
    assert!(
        out.contains("/dev/pts/0\r\n") && out.contains("terminal\r\n"),
        "{out}{err}"
    );

    let name = "stays";
    let ran = output(&mut podman.run(
        &["--detach", "--memory", "64m", "--name", name],
        &[
            "sh",
            "-c",
            "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 0.02; done",
        ],
    ));
    assert!(ran.status.success(), "{}", text(&ran).1);
    wait_for("its first line", || podman.works(&["logs", name]) == "up\n");
    let inside = podman.works(&[
        "exec",
        name,
        "sh",
        "-c",
        "grep -c . /proc/self/cgroup > /dev/null; id -u",
    ]);
    assert_eq!(inside, "0\n");
    let bad = output(&mut podman.command(&["exec", name, "sh", "-c", "exit 9"]));
    assert_eq!(bad.status.code(), Some(9), "{}", text(&bad).1);
    let status = ["inspect", "--format", "{{.State.Status}}", name];
    podman.works(&["pause", name]);
    assert_eq!(podman.works(&status), "paused\n");
    let held = output(&mut podman.command(&["exec", name, "true"]));
    assert!(!held.status.success());
    podman.works(&["unpause", name]);
    assert_eq!(podman.works(&status), "running\n");
    podman.works(&["exec", name, "true"]);
    podman.works(&["stop", "--time", "20", name]);
    assert_eq!(
        podman.works(&[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            name
        ]),
        "exited 5\n"
    );
    assert_eq!(podman.works(&["logs", name]), "up\ntold\n");
    podman.works(&["rm", name]);

    let refused = output(&mut podman.run(&["--rm", "--device", "/dev/loop-control"], &["true"]));
    assert!(!refused.status.success());
    assert!(
        text(&refused).1.contains("linux.devices"),
        "{}",
        text(&refused).1
    );
    // podman removes what it was told to by --rm in the background.
    wait_for("the removal of all containers", || {
        let mut left = std::fs::read_dir(podman.place.path("state/containers")).unwrap();
        left.next().is_none()
    });
}

/// containerd with a directory, a socket and a namespace of its own.
struct Containerd {
    socket: PathBuf,
    namespace: String,
    daemon: std::process::Child,
}

impl Containerd {
    fn start(directory: &Path) -> Self {
        std::fs::create_dir(directory).unwrap();
        let path = |name: &str| directory.join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("sock"),
            path("sock.ttrpc")
        );
        std::fs::write(path("config.toml"), config).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .expect("Debian package containerd");
        let containerd = Self {
            socket: path("sock"),
            namespace: format!("aci-test-{}", std::process::id()),
            daemon,
        };
        wait_for("containerd's start", || {
            output(&mut containerd.ctr(&["version"])).status.success()
        });
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        command.args(["--namespace", &self.namespace]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn works(&self, arguments: &[&str]) -> String {
        let output = output(&mut self.ctr(arguments));
        let (out, err) = text(&output);
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for arguments in [
            &["task", "rm", "--force", "stays"][..],
            &["container", "rm", "stays"],
        ] {
            let _ = output(&mut self.ctr(arguments));
        }
        let pid = i32::try_from(self.daemon.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.daemon.wait();
        // Where its shim keeps the state of OCI runtimes.
        let _ = std::fs::remove_dir_all(Path::new("/run/containerd/runc").join(&self.namespace));
    }
}

/// Debian's containerd runs containers with this runtime by its own shim: output, exit codes, exec, pause,
/// kill and removal.
#[test]
fn containerd_runs_containers_with_it() {
    if !root_or_skip() {
        return;
    }
    let place = Place::new();
    let containerd = Containerd::start(&place.path("containerd"));
    let run = |flag: &str, rest: &[&str]| {
        let mut command = containerd.ctr(&["run", flag, "--runc-binary"]);
        command.arg(program()).arg("--rootfs");
        command.arg(place.path("rootfs")).args(rest);
        output(&mut command)
    };
    let ran = run("--rm", &["first", "/bin/sh", "-c", "echo out; exit 4"]);
    assert_eq!(text(&ran).0, "out\n", "{}", text(&ran).1);
    assert_eq!(ran.status.code(), Some(4));

    let ran = run("--detach", &["stays", "/bin/sleep", "100"]);
    assert!(ran.status.success(), "{}", text(&ran).1);
    assert!(containerd.works(&["task", "ls"]).contains("RUNNING"));
    let inside = ["task", "exec", "--exec-id", "e", "stays", "/bin/echo", "in"];
    assert_eq!(containerd.works(&inside), "in\n");
    containerd.works(&["task", "pause", "stays"]);
    assert!(containerd.works(&["task", "ls"]).contains("PAUSED"));
    containerd.works(&["task", "resume", "stays"]);
    assert!(containerd.works(&["task", "ls"]).contains("RUNNING"));
    containerd.works(&["task", "kill", "--signal", "KILL", "stays"]);
    wait_for("the end", || {
        containerd.works(&["task", "ls"]).contains("STOPPED")
    });
    let removed = output(&mut containerd.ctr(&["task", "rm", "stays"]));
    assert!(text(&removed).1.contains("137"), "{}", text(&removed).1);
    containerd.works(&["container", "rm", "stays"]);
}
