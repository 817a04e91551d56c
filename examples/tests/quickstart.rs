//! The quickstart as a newcomer runs it: as root and as an ordinary user, with right and wrong
//! documents. Each run shows by itself that nothing is left; here it is looked at once more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// An ordinary user's number, in nobody's possession.
const ORDINARY: &str = "54321";

/// The example beside this test's executable, built by the same command.
fn quickstart() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let target = deps.parent().unwrap().parent().unwrap();
    let program = target.join("examples/quickstart");
    assert!(
        program.exists(),
        "{} is missing: cargo build --examples",
        program.display()
    );
    program
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

/// A place that an ordinary user can read, with the program and the document in it.
fn place(document: Option<(&str, &str)>) -> (TempDir, PathBuf, Option<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("quickstart");
    std::fs::copy(quickstart(), &program).unwrap();
    let document = document.map(|(name, text)| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    (dir, program, document)
}

fn run(program: &Path, document: &Path, ordinary: bool) -> Output {
    let mut command = if ordinary {
        let mut command = Command::new("setpriv");
        command.args([
            &format!("--reuid={ORDINARY}"),
            &format!("--regid={ORDINARY}"),
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    command.arg(document).env_remove("XDG_RUNTIME_DIR");
    command.output().unwrap()
}

fn hello() -> (&'static str, &'static str) {
    ("hello.yaml", include_str!("../groups/hello.yaml"))
}

fn text(output: &Output) -> String {
    format!(
        "{}\n--- stderr\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn shows_everything(output: &Output) {
    let text = text(output);
    assert!(output.status.success(), "{text}");
    for expected in [
        "Pulled",
        "Started",
        "HTTP/1.1 200 OK",
        "Hello from a container group",
        "== logs of prepare",
        "prepared",
        "== logs of sidecar",
        "http://localhost:8080/index.html: Hello",
        "uid=0",
        "exit code 0",
        "millicores",
        "restarted 2 time(s); before: exit code 137",
        "BackOff",
        "vCPU-seconds",
        "nothing is left",
    ] {
        assert!(
            text.contains(expected),
            "'{expected}' is missing in:\n{text}"
        );
    }
}

#[test]
fn as_root() {
    if !is_root() {
        println!("SKIPPED: quickstart as root: this is an ordinary user");
        return;
    }
    let (_dir, program, document) = place(Some(hello()));
    let output = run(&program, &document.unwrap(), false);
    shows_everything(&output);
    assert!(text(&output).contains("\naddress "), "{}", text(&output));
}

#[test]
fn as_an_ordinary_user() {
    let (_dir, program, document) = place(Some(hello()));
    let output = run(&program, &document.unwrap(), is_root());
    shows_everything(&output);
    // What a rootless run lacks is said.
    assert!(text(&output).contains("note: "), "{}", text(&output));
}

/// A document that is right but for one thing.
fn wrong(from: &str, to: &str) -> String {
    let (_, right) = hello();
    assert!(right.contains(from), "{from}");
    right.replace(from, to)
}

fn refused(name: &str, document: &str, expected: &[&str]) {
    let (_dir, program, document) = place(Some((name, document)));
    for ordinary in [false, true] {
        if ordinary && !is_root() {
            continue;
        }
        let output = run(&program, document.as_ref().unwrap(), ordinary);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for expected in expected {
            assert!(
                text.contains(expected),
                "'{expected}' is missing in:\n{text}"
            );
        }
        assert!(!text.contains("left behind"), "{text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let (dir, program, _) = place(None);
    let output = run(&program, &dir.path().join("nowhere.yaml"), false);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("nowhere.yaml"), "{}", text(&output));
    assert!(text(&output).contains("No such file"), "{}", text(&output));
}

#[test]
fn text_that_is_not_yaml_is_shown_with_its_place() {
    refused(
        "broken.yaml",
        "name: web\nproperties: [\n",
        &["broken.yaml", "error:"],
    );
}

#[test]
fn a_group_without_containers_is_refused() {
    let document = "name: empty\nproperties:\n  osType: Linux\n  containers: []\n";
    refused("empty.yaml", document, &["containers"]);
}

#[test]
fn an_unknown_image_is_named_with_the_next_step() {
    let document = wrong("image: local/hello:1", "image: registry.example/none:1");
    refused(
        "image.yaml",
        &document,
        &[
            "registry.example/none:1",
            "InaccessibleImage",
            "not accessible",
        ],
    );
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    let document = wrong(
        "\"/bin/hello-web\", \"serve\"",
        "\"/bin/no-such-program\", \"serve\"",
    );
    refused(
        "command.yaml",
        &document,
        &["container 'web'", "/bin/no-such-program"],
    );
}

#[test]
fn a_port_that_is_used_twice_is_refused() {
    let document = wrong(
        "      - port: 8080\n",
        "      - port: 8080\n      - port: 8080\n",
    );
    refused("port.yaml", &document, &["8080"]);
}

#[test]
fn a_hundred_cores_are_refused() {
    let document = wrong("cpu: 0.5", "cpu: 100");
    // The two containers together, and what there is.
    refused(
        "cores.yaml",
        &document,
        &["'200' CPU", "ServiceUnavailable", "all groups together get"],
    );
}

/// The kernel makes no user namespace for a process whose root is not that of its mount namespace
/// (user_namespaces(7)), which stands here for a machine that forbids them.
#[test]
fn where_the_machine_forbids_it_the_switch_is_named() {
    if !is_root() {
        println!("SKIPPED: only root can put a process where user namespaces are forbidden");
        return;
    }
    let (dir, program, document) = place(Some(hello()));
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let script = format!(
        "mount --rbind / {0} && exec chroot {0} setpriv --reuid={ORDINARY} --regid={ORDINARY} --clear-groups {1} {2}",
        root.display(),
        program.display(),
        document.unwrap().display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .env_remove("XDG_RUNTIME_DIR")
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("user.max_user_namespaces"), "{text}");
    assert!(!text.contains("left behind"), "{text}");
}
