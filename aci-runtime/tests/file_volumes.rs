//! Config maps and secrets on real namespaces: they change under running containers, all files in
//! one step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aci_core::contract::Isolation as _;
use aci_core::fake::{FakeSecrets, TokioClock};
use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, ExecOptions, Group, LogOptions, RedbStore, Shutdown};
use aci_storage::{HostImage, OciImages, Secrets};
use tokio::io::AsyncReadExt as _;

const IDENTITY: &str = "/subscriptions/s/resourceGroups/r/providers/Microsoft.ManagedIdentity/userAssignedIdentities/reader";
const URI: &str = "https://vault.example/secrets/key";

fn isolation(dir: &Path) -> Namespaces {
    Namespaces::new(NamespacesOptions::default().state_dir(dir.join("run"))).unwrap()
}

async fn engine(dir: &Path, vault: &FakeSecrets) -> Engine {
    let images = OciImages::open(dir.join("images")).unwrap();
    let image = HostImage::new("local/tools:1").program("/bin/sh");
    image
        .program("/bin/cat")
        .program("/bin/sleep")
        .program("/usr/bin/stat")
        .build(&images)
        .await
        .unwrap();
    Engine::builder()
        .isolation(isolation(dir))
        .images(images)
        .network(LoopbackNetwork::new())
        .volumes(Secrets)
        .secrets(vault.clone())
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .build()
        .await
        .unwrap()
}

/// A container that says whenever two files that belong together do not fit.
fn document(value: &str, more: &str) -> ContainerGroup {
    let text = format!(
        "
apiVersion: 2025-09-01
name: files
identity: {{type: UserAssigned, userAssignedIdentities: {{{IDENTITY}: {{}}}}}}
properties:
  osType: Linux
  restartPolicy: Never
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/sh, -c, 'cd /mnt/configmap/app; while :; do cd ..data/; a=$(cat one 2>/dev/null); b=$(cat two 2>/dev/null); [ -n \"$a\" ] && [ -n \"$b\" ] && [ \"$a\" != \"$b\" ] && echo torn $a $b; cd /mnt/configmap/app; done']
      resources: {{requests: {{cpu: 0.5, memoryInGB: 0.2}}}}
      configMap: {{keyValuePairs: {{one: '{value}', two: '{value}'{more}}}}}
      volumeMounts: [{{name: key-files, mountPath: /keys}}]
  volumes:
  - {{name: key-files, secretReference: {{key: key}}}}
  secretReferences: [{{name: key, identity: {IDENTITY}, secretReferenceUri: '{URI}'}}]
"
    );
    ContainerGroup::from_yaml(&text).unwrap()
}

async fn sh(group: &Group, script: &str) -> String {
    let options = ExecOptions::command(["/bin/sh", "-c", script]);
    let mut process = group.container("app").unwrap().exec(options).await.unwrap();
    let mut output = String::new();
    process.stdout.read_to_string(&mut output).await.unwrap();
    output
}

async fn soon_has(group: &Group, script: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let shown = sh(group, script).await;
        if shown == wanted {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{script}: {shown}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Looks for a secret where other processes and users of the machine can look.
fn shows_nowhere(dir: &Path, secret: &str) {
    let has = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(secret.len()).any(|w| w == secret.as_bytes())
    };
    let own = std::process::id().to_string();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        if process.file_name().to_string_lossy() == own {
            continue;
        }
        for file in ["cmdline", "environ", "mounts", "mountinfo"] {
            // Other tests of this machine may run the same program with the same word.
            let path = process.path().join(file);
            let ours = std::fs::read_to_string(process.path().join("mountinfo"))
                .is_ok_and(|text| text.contains(&dir.display().to_string()));
            assert!(!ours || !has(&path), "{}", path.display());
        }
    }
    let mut places = vec![dir.to_owned()];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                places.push(entry.path());
            } else if kind.is_file() {
                assert!(!has(&entry.path()), "{}", entry.path().display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn config_maps_and_secrets_change_under_running_containers() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    if let Err(error) = Namespaces::new(NamespacesOptions::default().state_dir(dir.join("run"))) {
        eprintln!("SKIPPED: {error}");
        return;
    }
    let vault = FakeSecrets::new(Arc::new(TokioClock::new()));
    vault.put(URI, "first-hunter2");
    let mut engine = engine(dir, &vault).await;
    let mut group = engine.create_or_update(document("0", "")).await.unwrap();
    group.running().await.unwrap();
    let map = "cd /mnt/configmap/app; cat one two; echo; echo *; stat -L -c %a one";
    assert_eq!(sh(&group, map).await, "00\none two\n444\n");
    let key = "cat /keys/key; stat -L -c ' %a' /keys/key";
    assert_eq!(sh(&group, key).await, "first-hunter2 400\n");
    for value in 1..=20 {
        let changed = document(&value.to_string(), "");
        group = engine.create_or_update(changed).await.unwrap();
    }
    soon_has(&group, map, "2020\none two\n444\n").await;
    // A key comes, and goes, and a program that was not there for it is told by the next one.
    let more = document("21", ", three: x");
    engine.create_or_update(more).await.unwrap();
    soon_has(&group, map, "2121\none three two\n444\n").await;
    engine.create_or_update(document("22", "")).await.unwrap();
    soon_has(&group, map, "2222\none two\n444\n").await;
    vault.put(URI, "second-hunter2");
    group.refresh_secrets().await.unwrap();
    assert_eq!(sh(&group, key).await, "second-hunter2 400\n");
    // Nothing of the old values is left, and the container cannot write.
    let left = "echo x > /keys/key; echo x > /mnt/configmap/app/..data/one; echo refused";
    assert!(sh(&group, left).await.ends_with("refused\n"));
    assert_eq!(sh(&group, "set -- /keys/..[!.]*; echo $#").await, "2\n");

    // A program dies between the journal and the files: the next one writes them.
    engine.shutdown(Shutdown::LeaveRunning).await.unwrap();
    drop((group, engine));
    engine = self::engine(dir, &vault).await;
    group = engine.get("files").unwrap();
    engine.create_or_update(document("23", "")).await.unwrap();
    soon_has(&group, map, "2323\none two\n444\n").await;

    shows_nowhere(dir, "hunter2");
    let app = group.container("app").unwrap();
    assert_eq!(app.view().restart_count.unwrap_or(0), 0);
    let log = app.logs(LogOptions::default()).await.unwrap();
    assert_eq!(log, "", "files of two updates were seen together");
    engine.delete("files").await.unwrap();
    assert!(isolation(dir).list().await.unwrap().is_empty());
}
