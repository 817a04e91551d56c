//! A document with an `azureFile` volume, on real namespaces and Debian's Samba.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The same server as for the driver's own tests.
#[allow(dead_code, reason = "the driver's tests use more of it")]
#[path = "../../aci-storage/tests/share/samba.rs"]
mod samba;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aci_core::contract::Isolation;
use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, LogOptions, RedbStore, Shutdown};
use aci_storage::{AzureFiles, AzureFilesOptions, FileServer, HostImage, OciImages};
use samba::{ACCOUNT, KEY, SHARE, Samba, can_mount};
use tracing_subscriber::fmt::format::FmtSpan;

async fn engine(dir: &Path, samba: &Samba) -> Engine {
    engine_with(dir, samba.options()).await
}

async fn engine_with(dir: &Path, shares: AzureFilesOptions) -> Engine {
    let images = OciImages::open(dir.join("images")).unwrap();
    HostImage::new("local/tools:1")
        .program("/bin/sh")
        .program("/bin/cat")
        .program("/bin/sleep")
        .build(&images)
        .await
        .unwrap();
    Engine::builder()
        .isolation(
            Namespaces::new(NamespacesOptions::default().state_dir(dir.join("run"))).unwrap(),
        )
        .images(images)
        .network(LoopbackNetwork::new())
        .volumes(AzureFiles::open(dir.join("volumes"), shares).unwrap())
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .build()
        .await
        .unwrap()
}

fn document(key: &str) -> ContainerGroup {
    named("files", key)
}

fn named(name: &str, key: &str) -> ContainerGroup {
    let text = format!(
        "
name: {name}
properties:
  osType: Linux
  restartPolicy: Always
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/sh, -c, 'cat /data/from-outside; n=0; while :; do n=$((n+1)); echo $n > /data/count; echo $n; sleep 0.1; done']
      resources: {{requests: {{cpu: 0.5, memoryInGB: 0.2}}}}
      volumeMounts:
      - {{name: share-files, mountPath: /data}}
  volumes:
  - name: share-files
    azureFile: {{shareName: {SHARE}, storageAccountName: {ACCOUNT}, storageAccountKey: '{key}'}}
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

fn count(samba: &Samba) -> Option<u64> {
    let text = fs::read_to_string(samba.files().join("count")).ok()?;
    text.trim().parse().ok()
}

async fn counts_on(samba: &Samba, what: &str) {
    let (begun, first) = (Instant::now(), count(samba).unwrap_or(0));
    while count(samba).is_none_or(|now| now <= first + 2) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Kills the server of the only share that is mounted.
fn kill_share_server(shares: &Path) {
    let only = |directory: &Path| fs::read_dir(directory).unwrap().next().unwrap().unwrap();
    let volume = only(&only(shares).path()).path();
    let control = std::os::unix::net::UnixStream::connect(volume.join("control")).unwrap();
    let peer = rustix::net::sockopt::socket_peercred(&control).unwrap();
    rustix::process::kill_process(peer.pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_writes_to_its_share_across_restarts_of_server_and_engine() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut samba = Samba::start();
    fs::write(samba.files().join("from-outside"), "hello from outside\n").unwrap();
    let first = engine(dir.path(), &samba).await;
    let group = first.create_or_update(document(KEY)).await.unwrap();
    group.running().await.unwrap();
    counts_on(&samba, "the group does not write").await;
    let app = group.container("app").unwrap();
    let log = app.logs(LogOptions::default()).await.unwrap();
    assert!(log.contains("hello from outside"), "{log}");

    samba.down();
    samba.up();
    counts_on(
        &samba,
        "the group does not write after the server's restart",
    )
    .await;

    // Its share server is killed: the group goes on as it is, with the next one.
    kill_share_server(&dir.path().join("volumes/shares"));
    counts_on(&samba, "the group does not write without its share server").await;
    assert_eq!(app.view().restart_count.unwrap_or(0), 0);

    // The share belongs to the group, not to the program that mounted it.
    drop(app);
    drop(group);
    first.shutdown(Shutdown::LeaveRunning).await.unwrap();
    drop(first);
    counts_on(&samba, "the group does not write without its engine").await;
    let second = engine(dir.path(), &samba).await;
    counts_on(
        &samba,
        "the group does not write after the engine's restart",
    )
    .await;
    second.delete("files").await.unwrap();
    second.shutdown(Shutdown::StopGroups).await.unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(&dir.path().display().to_string()),
        "{mounts}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_in_the_group_s_events_without_showing_it() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let samba = Samba::start();
    let engine = engine(dir.path(), &samba).await;
    let group = engine
        .create_or_update(document("wr0ng-key"))
        .await
        .unwrap();
    let begun = Instant::now();
    loop {
        let shown = format!("{:?}", group.view());
        assert!(!shown.contains("wr0ng-key"), "{shown}");
        if shown.contains("does not accept the account and its key") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.delete("files").await.unwrap();
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
    let isolation = Namespaces::new(NamespacesOptions::default().state_dir(dir.path().join("run")));
    assert!(isolation.unwrap().list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_server_is_gone_is_deleted_all_the_same() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut samba = Samba::start();
    let engine = engine(dir.path(), &samba).await;
    let group = engine.create_or_update(document(KEY)).await.unwrap();
    group.running().await.unwrap();
    counts_on(&samba, "the group does not write").await;
    samba.down();
    // The container waits for the server, half a minute by default.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let gone = tokio::time::timeout(Duration::from_secs(25), engine.delete("files")).await;
    gone.expect("it waits for the server").unwrap();
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether a text has the key, as it is or in hexadecimal digits.
fn shows(text: &[u8], key: &str) -> bool {
    let digits: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    [key, &digits].iter().any(|secret| {
        text.windows(secret.len())
            .any(|part| part.eq_ignore_ascii_case(secret.as_bytes()))
    })
}

fn files_below(path: &Path, all: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), all),
            Ok(kind) if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_s_key_is_in_no_log_journal_process_or_error() {
    if !can_mount() {
        return;
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut samba = Samba::start();
    let engine = engine(dir.path(), &samba).await;
    let group = engine.create_or_update(document(KEY)).await.unwrap();
    group.running().await.unwrap();
    counts_on(&samba, "the group does not write").await;
    // What is logged of a lost connection, and of a key that is refused.
    samba.down();
    samba.up();
    counts_on(&samba, "the group does not write again").await;
    let wrong = "An0ther+Wr0ng/Key==";
    let other = engine.create_or_update(named("refused", wrong)).await;
    let shown = format!("{:?} {:?} {:?}", group.view(), other, document(KEY));

    let mut found = Vec::new();
    let mut look = |place: String, text: &[u8]| {
        if shows(text, KEY) || shows(text, wrong) {
            found.push(place);
        }
    };
    look("Debug".to_owned(), shown.as_bytes());
    let mut files = Vec::new();
    for part in ["journal", "volumes", "run", "images"] {
        files_below(&dir.path().join(part), &mut files);
    }
    assert!(
        files
            .iter()
            .any(|f| f.starts_with(dir.path().join("journal")))
    );
    for file in files {
        // The mounted share's own files are the user's.
        look(
            file.display().to_string(),
            &fs::read(&file).unwrap_or_default(),
        );
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for name in [
            "cmdline",
            "environ",
            "mounts",
            "mountinfo",
            "comm",
            "status",
        ] {
            let path = process.path().join(name);
            look(
                path.display().to_string(),
                &fs::read(&path).unwrap_or_default(),
            );
        }
    }
    engine.delete("files").await.unwrap();
    let _ = engine.delete("refused").await;
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
    let log = log.0.lock().unwrap();
    assert!(log.len() > 1000, "nothing was logged");
    look("the log".to_owned(), &log);
    assert!(found.is_empty(), "{found:?}");
}

/// Set for the part of a test that runs as an ordinary user: the server's port.
const AS_USER: &str = "ACI_TEST_SHARE_PORT";

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_s_group_has_its_share_too() {
    let Ok(port) = std::env::var(AS_USER) else {
        return root_prepares();
    };
    let dir = tempfile::tempdir().unwrap();
    let server = FileServer::new("127.0.0.1").port(port.parse().unwrap());
    let options = AzureFilesOptions {
        servers: [(ACCOUNT.to_owned(), server)].into(),
        ..AzureFilesOptions::default()
    };
    let engine = engine_with(dir.path(), options).await;
    let group = engine.create_or_update(document(KEY)).await.unwrap();
    group.running().await.unwrap();
    let app = group.container("app").unwrap();
    let begun = Instant::now();
    loop {
        let log = app.logs(LogOptions::default()).await.unwrap();
        if log.contains("hello from outside") && log.contains("\n3\n") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.delete("files").await.unwrap();
    engine.shutdown(Shutdown::StopGroups).await.unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = dir.path().display().to_string();
    assert!(!mounts.contains(&ours), "{mounts}");
}

/// Starts the server, which needs root, and then this test again as user 65534, who may use FUSE.
fn root_prepares() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    fs::write(samba.files().join("from-outside"), "hello from outside\n").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(dir.path(), everybody).unwrap();
    fs::copy(std::env::current_exe().unwrap(), dir.path().join("test")).unwrap();
    // fusermount3 wants a user who has a name.
    let script = format!(
        "set -e; cd {}; mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse
         exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all \
              ./test --exact an_ordinary_user_s_group_has_its_share_too --nocapture",
        dir.path().display()
    );
    let output = std::process::Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .env(AS_USER, samba.port.to_string())
        .env("TMPDIR", dir.path())
        .env_remove("XDG_RUNTIME_DIR")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "it failed without root");
    assert!(
        count(&samba).is_some_and(|count| count >= 3),
        "the server has nothing of it"
    );
}
