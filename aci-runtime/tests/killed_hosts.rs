//! The host program is killed at random moments while it starts, executes and deletes; whoever opens
//! the same directory next finds every group as it was promised.
//!
//! `ACI_TEST_KILLS` sets how often; 200 take five to ten minutes on two cores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aci_core::contract::{Isolation, NetworkDriver};
use aci_core::error::ErrorKind;
use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, LogOptions, RedbStore, Shutdown};
use aci_storage::{EmptyDirs, HostImage, OciImages};
use tokio::io::AsyncReadExt;

/// The directory of the host program that the test starts to kill it.
const HOST_DIR: &str = "ACI_TEST_KILLED_HOST_DIR";
const KILLS: &str = "ACI_TEST_KILLS";
/// Lines that every job writes.
const LINES: usize = 6;
/// Groups that one worker of the host keeps at a time.
const KEPT: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

fn cgroup_parent(dir: &Path) -> String {
    let name = dir.file_name().unwrap().to_string_lossy();
    format!("aci-test-{}", name.trim_start_matches('.'))
}

fn isolation(dir: &Path) -> Namespaces {
    let options = NamespacesOptions::default()
        .state_dir(dir.join("run"))
        .cgroup_parent(cgroup_parent(dir))
        .spares(1);
    Namespaces::new(options).unwrap()
}

async fn engine(dir: &Path) -> Engine {
    Engine::builder()
        .isolation(isolation(dir))
        .images(OciImages::open(dir.join("images")).unwrap())
        .network(LoopbackNetwork::new())
        .volumes(EmptyDirs::open(dir.join("volumes")).unwrap())
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .options(EngineOptions {
            grace: Duration::from_secs(1),
            ..Default::default()
        })
        .build()
        .await
        .unwrap()
}

/// A job ends by itself with a code of its own; the others stay.
fn document(name: &str, code: Option<u8>) -> ContainerGroup {
    let (policy, script) = match code {
        Some(code) => (
            "Never",
            format!(
                "i=0; while [ $i -lt {LINES} ]; do echo {name} $i; i=$((i+1)); sleep 0.05; done; exit {code}"
            ),
        ),
        None => ("Always", format!("echo {name}; sleep 1000")),
    };
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
      resources: {{requests: {{cpu: 0.01, memoryInGB: 0.1}}}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

/// What a host has begun and what it was told, one line each: written before it asks and after it
/// has the answer.
struct Ledger(PathBuf);

impl Ledger {
    fn note(&self, what: &str, name: &str, code: Option<u8>) {
        let code = code.map_or_else(|| "-".to_owned(), |code| code.to_string());
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.0)
            .unwrap();
        // One write is one line, whoever else writes.
        file.write_all(format!("{what} {name} {code}\n").as_bytes())
            .unwrap();
    }

    /// The last word on every group.
    fn read(&self) -> BTreeMap<String, (String, Option<u8>)> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines()
            .map(|line| {
                let mut words = line.split(' ');
                let what = words.next().unwrap().to_owned();
                let name = words.next().unwrap().to_owned();
                (name, (what, words.next().unwrap().parse().ok()))
            })
            .collect()
    }
}

async fn exec(group: &Group, script: &str) -> Option<String> {
    let options = ExecOptions::command(["/bin/sh", "-c", script]);
    let mut process = group.container("app").ok()?.exec(options).await.ok()?;
    let mut output = String::new();
    process.stdout.read_to_string(&mut output).await.ok()?;
    Some(output)
}

async fn worker(engine: Engine, ledger: &Ledger, number: u32) {
    let mut kept = Vec::new();
    for count in 0_u32.. {
        let name = format!("g-{}-{number}-{count}", std::process::id());
        let code = (count % 2 == 0).then(|| u8::try_from(count % 5).unwrap());
        ledger.note("create", &name, code);
        let group = engine
            .create_or_update(document(&name, code))
            .await
            .unwrap();
        ledger.note("created", &name, code);
        if code.is_none() {
            group.running().await.unwrap();
            let said = exec(&group, "echo here").await;
            assert_eq!(said.as_deref(), Some("here\n"));
        }
        kept.push((name, code, group));
        if kept.len() > KEPT {
            let (name, code, group) = kept.remove(0);
            ledger.note("delete", &name, code);
            group.delete().await.unwrap();
            ledger.note("deleted", &name, code);
        }
    }
}

/// Not a test of its own: the host program that the test below starts and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_program() {
    let Some(dir) = std::env::var_os(HOST_DIR).map(PathBuf::from) else {
        return;
    };
    let engine = engine(&dir).await;
    let ledger = Ledger(dir.join("ledger"));
    tokio::join!(
        worker(engine.clone(), &ledger, 0),
        worker(engine.clone(), &ledger, 1),
    );
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

/// A job has run once, to its end, and nothing of what it wrote is missing.
async fn job_is_complete(group: &Group, name: &str, code: u8) {
    let state = tokio::time::timeout(PATIENCE, group.ended())
        .await
        .expect(name)
        .unwrap();
    let expected = if code == 0 { "Succeeded" } else { "Failed" };
    assert_eq!(state.as_str(), expected, "{name}");
    let app = group.container("app").unwrap();
    let view = app.view();
    assert_eq!(
        view.current_state.unwrap().exit_code,
        Some(i32::from(code)),
        "{name}"
    );
    let log = app.logs(LogOptions::default()).await.unwrap();
    let expected: String = (0..LINES).map(|line| format!("{name} {line}\n")).collect();
    assert_eq!(log, expected, "{name}");
}

async fn verify(dir: &Path, ledger: &Ledger, kill: u32) {
    let engine = engine(dir).await;
    for (name, (word, code)) in ledger.read() {
        let group = match (engine.get(name.as_str()), word.as_str()) {
            (Ok(_), "deleted") => panic!("after kill {kill}: {name} was deleted and is there"),
            (Ok(group), _) => group,
            (Err(error), "created") => panic!("after kill {kill}: {name} is lost: {error}"),
            // Begun and not answered: either may be.
            (Err(error), _) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
                continue;
            }
        };
        let deleting = word == "delete";
        match code {
            Some(code) if !deleting => job_is_complete(&group, &name, code).await,
            None if !deleting => {
                tokio::time::timeout(PATIENCE, group.running())
                    .await
                    .expect(&name)
                    .unwrap();
                let app = group.container("app").unwrap();
                assert_eq!(app.view().restart_count, Some(0), "{name}");
                // It runs, but may not have come to its first line when its host was killed.
                let said = async {
                    loop {
                        let log = app.logs(LogOptions::default()).await.unwrap();
                        if !log.is_empty() {
                            return log;
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                let said = tokio::time::timeout(PATIENCE, said).await.expect(&name);
                assert_eq!(said, format!("{name}\n"));
                assert_eq!(
                    exec(&group, "echo again").await.as_deref(),
                    Some("again\n"),
                    "{name}"
                );
            }
            _ => {}
        }
        group.delete().await.unwrap();
    }
    assert!(engine.list().is_empty(), "groups that nobody made");
    engine.shutdown(Shutdown::LeaveRunning).await.unwrap();
    drop(engine);
    assert_eq!(
        isolation(dir).list().await.unwrap(),
        [],
        "after kill {kill}"
    );
    let _ = std::fs::remove_file(&ledger.0);
}

/// Removes what a failed test leaves.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        let dir = self.0.path().to_owned();
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
        let _ = cleared.join();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_killed_at_random_moments_loses_nothing() {
    if std::env::var_os(HOST_DIR).is_some() {
        return;
    }
    let place = Place(tempfile::tempdir().unwrap());
    let dir = place.0.path();
    let images = OciImages::open(dir.join("images")).unwrap();
    HostImage::new("local/tools:1")
        .program("/bin/sh")
        .program("/bin/sleep")
        .build(&images)
        .await
        .unwrap();
    drop(images);
    let kills: u32 = std::env::var(KILLS)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(15);
    // Other moments every time; where a host dies is a matter of the machine anyway.
    let random = |below: u64| RandomState::new().hash_one(0) % below;
    let ledger = Ledger(dir.join("ledger"));
    let mut begun = 0;
    for kill in 0..kills {
        let mut host = start_host(dir);
        tokio::time::sleep(Duration::from_millis(random(1200))).await;
        host.kill().unwrap();
        let status = host.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "{status}"
        );
        begun += ledger.read().len();
        // Now and then the next host is not the one that looks.
        if random(4) != 0 || kill + 1 == kills {
            verify(dir, &ledger, kill).await;
        }
    }
    println!("{kills} kills, {begun} groups begun");
    assert!(begun > 0, "no host came as far as to make a group");
    assert!(LoopbackNetwork::new().list().await.unwrap().is_empty());
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let left = hierarchy.path().join(cgroup_parent(dir));
        assert!(!left.exists(), "left: {}", left.display());
    }
}
