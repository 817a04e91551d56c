//! The engine on real namespaces, images, volumes and its journal: what a crash of the host program
//! leaves, and that the next one goes on from it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aci_core::contract::{Isolation, NetworkDriver, TerminalSize};
use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, LogOptions, RedbStore, Shutdown};
use aci_storage::{EmptyDirs, HostImage, OciImages, Secrets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The directory of a host program that a test starts to kill it.
const HOST_DIR: &str = "ACI_TEST_HOST_DIR";

/// A directory whose sandboxes are removed with it, also when a test fails.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let dir = self.path().to_owned();
        // A runtime of its own: this may run inside one that is unwinding.
        let cleared = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let isolation = isolation(&dir);
                for id in isolation.list().await.unwrap() {
                    isolation.remove(&id).await.unwrap();
                }
            });
        });
        if cleared.join().is_err() {
            eprintln!(
                "sandboxes below {} could not be removed",
                self.path().display()
            );
        }
    }
}

fn isolation(dir: &Path) -> Namespaces {
    Namespaces::new(NamespacesOptions::default().state_dir(dir.join("run"))).unwrap()
}

async fn engine(dir: &Path) -> Engine {
    let images = OciImages::open(dir.join("images")).unwrap();
    HostImage::new("local/tools:1")
        .program("/bin/sh")
        .program("/bin/cat")
        .program("/bin/sleep")
        .program("/bin/stty")
        .build(&images)
        .await
        .unwrap();
    Engine::builder()
        .isolation(isolation(dir))
        .images(images)
        .network(LoopbackNetwork::new())
        .volumes(EmptyDirs::open(dir.join("volumes")).unwrap())
        .volumes(Secrets)
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .options(EngineOptions {
            grace: Duration::from_secs(2),
            ..Default::default()
        })
        .build()
        .await
        .unwrap()
}

fn document(name: &str, policy: &str, script: &str) -> ContainerGroup {
    let text = format!(
        "
name: {name}
properties:
  osType: Linux
  restartPolicy: {policy}
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/sh, -c, '{script}']
      environmentVariables: [{{name: TOKEN, secureValue: hunter2-in-clear}}]
      resources: {{requests: {{cpu: 0.5, memoryInGB: 0.2}}}}
      volumeMounts:
      - {{name: shared-files, mountPath: /shared}}
      - {{name: secret-files, mountPath: /secret}}
  volumes:
  - {{name: shared-files, emptyDir: {{}}}}
  - {{name: secret-files, secret: {{key: aHVudGVyMi1pbi1maWxl}}}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

async fn log(group: &Group) -> String {
    let app = group.container("app").unwrap();
    app.logs(LogOptions::default()).await.unwrap_or_default()
}

async fn exec(group: &Group, script: &str) -> String {
    let options = ExecOptions::command(["/bin/sh", "-c", script]);
    let mut process = group.container("app").unwrap().exec(options).await.unwrap();
    let mut output = String::new();
    process.stdout.read_to_string(&mut output).await.unwrap();
    output
}

/// Not a test of its own: the host program that `a_killed_host` starts and kills.
#[tokio::test]
async fn host_program() {
    let Some(dir) = std::env::var_os(HOST_DIR).map(PathBuf::from) else {
        return;
    };
    let engine = engine(&dir).await;
    let long = document(
        "long",
        "Always",
        "echo one > /shared/file; i=0; while true; do echo tick $i; i=$((i+1)); sleep 0.1; done",
    );
    let job = document("job", "Never", "sleep 1.5; echo finished; exit 5");
    let long = engine.create_or_update(long).await.unwrap();
    let job = engine.create_or_update(job).await.unwrap();
    long.running().await.unwrap();
    job.running().await.unwrap();
    std::fs::write(dir.join("up"), "").unwrap();
    std::future::pending::<()>().await;
}

fn start_host(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host_program", "--nocapture"])
        .env(HOST_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_host_leaves_groups_that_the_next_one_adopts() {
    if std::env::var_os(HOST_DIR).is_some() {
        return;
    }
    let dir = Place::new();
    let mut host = start_host(dir.path());
    let begun = Instant::now();
    while !dir.path().join("up").exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the host does not come up"
        );
        assert!(host.try_wait().unwrap().is_none(), "the host has ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.kill().unwrap();
    host.wait().unwrap();

    // No program has the groups now; one goes on, the other ends.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let engine = engine(dir.path()).await;
    let (long, job) = (engine.get("long").unwrap(), engine.get("job").unwrap());
    assert_eq!(job.ended().await.unwrap().as_str(), "Failed");
    let view = job.container("app").unwrap().view();
    assert_eq!(view.current_state.unwrap().exit_code, Some(5));
    assert_eq!(log(&job).await, "finished\n");

    long.running().await.unwrap();
    assert_eq!(long.container("app").unwrap().view().restart_count, Some(0));
    let text = log(&long).await;
    let ticks = text.lines().filter(|l| l.starts_with("tick ")).count();
    assert!(
        text.starts_with("tick 0\n") && ticks > 25,
        "{ticks} in {text}"
    );
    assert_eq!(exec(&long, "cat /shared/file").await, "one\n");
    assert_eq!(exec(&long, "cat /secret/key").await, "hunter2-in-file");
    assert_eq!(exec(&long, "echo $TOKEN").await, "hunter2-in-clear\n");

    engine.delete("long").await.unwrap();
    engine.delete("job").await.unwrap();
    engine.shutdown(Shutdown::LeaveRunning).await.unwrap();
    assert_eq!(isolation(dir.path()).list().await.unwrap(), []);
    assert!(LoopbackNetwork::new().list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_terminal_has_a_size_and_an_exit_code() {
    let dir = Place::new();
    let engine = engine(dir.path()).await;
    let group = engine
        .create_or_update(document("tty", "Always", "sleep 1000"))
        .await
        .unwrap();
    group.running().await.unwrap();
    let options = ExecOptions {
        terminal: Some(TerminalSize { rows: 33, cols: 99 }),
        ..ExecOptions::shell()
    };
    let mut shell = group.container("app").unwrap().exec(options).await.unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(b"stty size\n").await.unwrap();
    let mut seen = String::new();
    let mut bytes = [0; 1024];
    while !seen.contains("33 99") {
        let n = tokio::time::timeout(Duration::from_secs(10), shell.stdout.read(&mut bytes))
            .await
            .expect("no answer")
            .unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    shell
        .control
        .resize(TerminalSize { rows: 44, cols: 88 })
        .await
        .unwrap();
    stdin.write_all(b"stty size; exit 9\n").await.unwrap();
    assert_eq!(shell.control.wait().await.unwrap().code, 9);
    let mut rest = String::new();
    let _ = shell.stdout.read_to_string(&mut rest).await;
    assert!(rest.contains("44 88"), "{rest}");
    engine.delete("tty").await.unwrap();
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
}

#[tokio::test]
async fn no_secret_of_a_document_is_in_clear_on_disk_or_in_the_process_list() {
    let dir = Place::new();
    let engine = engine(dir.path()).await;
    let group = engine
        .create_or_update(document("quiet", "Always", "sleep 1000"))
        .await
        .unwrap();
    group.running().await.unwrap();
    let secrets: [&[u8]; 3] = [
        b"hunter2-in-clear",
        b"hunter2-in-file",
        b"aHVudGVyMi1pbi1maWxl",
    ];
    let mut places = Vec::new();
    let mut directories = vec![dir.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                places.push(entry.path());
            }
        }
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        places.push(process.path().join("cmdline"));
        places.push(process.path().join("mountinfo"));
    }
    places.retain(|place| {
        std::fs::read(place).is_ok_and(|bytes| {
            secrets
                .iter()
                .any(|secret| bytes.windows(secret.len()).any(|part| part == *secret))
        })
    });
    assert_eq!(places, Vec::<PathBuf>::new());
    assert!(!format!("{group:?} {:?}", group.view()).contains("hunter2"));
    assert!(
        !serde_json::to_string(&group.view())
            .unwrap()
            .contains("hunter2")
    );
    engine.delete("quiet").await.unwrap();
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
}
