//! Secrets by reference: every property that names one, looked up anew each time, bounded, and
//! shown nowhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::contract::{
    GroupStore as _, ProvidedVolume, VolumeDriver, VolumeRequest, VolumeSource,
};
use aci_core::document::SecretMode;
use aci_core::error::{ErrorKind, Result};
use aci_core::fake::{FakeHost, Fault, ManualClock, Trigger};
use aci_core::id::SandboxId;
use aci_core::model::{ContainerGroup, Volume};
use aci_runtime::{Engine, EngineBuilder, ExecOptions, Group, LogOptions};
use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;

const IDENTITY: &str = "/subscriptions/s/resourceGroups/r/providers/Microsoft.ManagedIdentity/userAssignedIdentities/reader";
const HOUR: Duration = Duration::from_secs(3600);

/// What the vault has: name and value.
const SECRETS: [(&str, &str); 4] = [
    ("password", "pull-hunter2"),
    ("token", "env-hunter2"),
    ("file", "file-hunter2"),
    ("account", "YWNjb3VudC1odW50ZXIy"),
];

fn uri(name: &str) -> String {
    format!("https://vault.example/secrets/{name}")
}

fn document(policy: &str) -> ContainerGroup {
    let mut text = format!(
        "
apiVersion: 2025-09-01
name: web
location: here
identity: {{type: UserAssigned, userAssignedIdentities: {{{IDENTITY}: {{}}}}}}
properties:
  osType: Linux
  restartPolicy: {policy}
  imageRegistryCredentials:
  - {{server: registry.example, username: puller, passwordReference: password}}
  initContainers:
  - name: first
    properties:
      image: sh
      command: [printenv, TOKEN]
      environmentVariables: [{{name: TOKEN, secureValueReference: token}}]
  containers:
  - name: app
    properties:
      image: registry.example/app:1
      command: [sh, -c, 'cat /keys/key; echo; printenv TOKEN; sleep infinity']
      environmentVariables: [{{name: TOKEN, secureValueReference: token}}]
      resources: {{requests: {{cpu: 1, memoryInGB: 1}}}}
      volumeMounts: [{{name: key-files, mountPath: /keys}}, {{name: share-files, mountPath: /share}}]
  volumes:
  - {{name: key-files, secretReference: {{key: file}}}}
  - {{name: share-files, azureFile: {{shareName: data, storageAccountName: store, storageAccountKeyReference: account}}}}
  secretReferences:
"
    );
    for (name, _) in SECRETS {
        let uri = uri(name);
        text.push_str(&format!(
            "  - {{name: {name}, identity: {IDENTITY}, secretReferenceUri: '{uri}'}}\n"
        ));
    }
    ContainerGroup::from_yaml(&text).unwrap()
}

/// Notes what it is asked for.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<Volume>>);

#[async_trait]
impl VolumeDriver for Asked {
    fn name(&self) -> &str {
        "azureFile"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.azure_file.is_some()
    }

    async fn provide(&self, request: VolumeRequest) -> Result<VolumeSource> {
        self.0.lock().unwrap().push(request.volume);
        Ok(VolumeSource::Memory { size: None })
    }

    async fn release(&self, _: &SandboxId, _: &str) -> Result<()> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ProvidedVolume>> {
        Ok(Vec::new())
    }
}

fn host() -> (FakeHost, ManualClock) {
    let (host, clock) = FakeHost::manual();
    for (name, value) in SECRETS {
        host.secrets.put(uri(name), value);
        host.secrets.allow_only(&uri(name), IDENTITY);
    }
    host.images
        .add_image("registry.example/app:1", Default::default());
    host.images
        .require_login("registry.example/app:1", "puller", "pull-hunter2");
    (host, clock)
}

fn builder(host: &FakeHost, shares: &Arc<Asked>) -> EngineBuilder {
    Engine::builder()
        .isolation(host.isolation.clone())
        .images(host.images.clone())
        .network(host.network.clone())
        .volumes(Arc::clone(shares))
        .volumes(host.volumes.clone())
        .secrets(host.secrets.clone())
        .store(host.store.clone())
        .clock(Arc::clone(&host.clock))
}

async fn log(group: &Group, container: &str) -> String {
    let container = group.container(container).unwrap();
    container.logs(LogOptions::default()).await.unwrap()
}

async fn cat(group: &Group, file: &str) -> String {
    let options = ExecOptions::command(["cat", file]);
    let mut process = group.container("app").unwrap().exec(options).await.unwrap();
    let mut output = String::new();
    process.stdout.read_to_string(&mut output).await.unwrap();
    output
}

/// What is told, at every level.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u8>>>);

impl io::Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_reference_becomes_its_value_and_shows_nowhere() {
    let told = Told::default();
    let writer = told.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (host, clock) = host();
    let shares = Arc::new(Asked::default());
    let engine = builder(&host, &shares).build().await.unwrap();
    let running = async {
        let group = engine.create_or_update(document("Always")).await.unwrap();
        group.running().await.unwrap();
        group
    };
    let group = clock.drive(HOUR, running).await.expect("it hangs");
    assert_eq!(log(&group, "first").await, "env-hunter2\n");
    assert_eq!(log(&group, "app").await, "file-hunter2\nenv-hunter2\n");
    {
        let asked = shares.0.lock().unwrap();
        let share = asked[0].azure_file.as_ref().unwrap();
        let key = share.storage_account_key.as_ref().unwrap();
        assert_eq!(key.expose(), "YWNjb3VudC1odW50ZXIy");
        assert_eq!(share.storage_account_key_reference, None);
    }
    // Another value is there for what looks it up next, and at once where that is asked for.
    host.secrets.put(uri("file"), "file-rotated2");
    host.secrets.put(uri("token"), "env-rotated2");
    assert_eq!(cat(&group, "/keys/key").await, "file-hunter2");
    group.refresh_secrets().await.unwrap();
    assert_eq!(cat(&group, "/keys/key").await, "file-rotated2");
    let again = async { group.restart().await.unwrap() };
    clock.drive(HOUR, again).await.expect("it hangs");
    clock.drive(HOUR, group.running()).await.unwrap().unwrap();
    assert!(log(&group, "first").await.ends_with("env-rotated2\n"));
    // The journal has names only, besides what containers have printed.
    let mut records = host.store.list().await.unwrap();
    records[0].saved_logs.clear();
    let journal = format!(
        "{:?} {}",
        records[0],
        records[0].document.to_json(SecretMode::Reveal)
    );
    let view = group.view().to_json(SecretMode::Reveal);
    let told = String::from_utf8_lossy(&told.0.lock().unwrap()).into_owned();
    assert!(
        told.contains("an attempt") || told.contains("action"),
        "nothing was told"
    );
    for (what, text) in [("journal", &journal), ("view", &view), ("log", &told)] {
        for part in ["hunter2", "rotated2", "YWNjb3VudC1odW50ZXIy"] {
            assert!(!text.contains(part), "{part} in the {what}");
        }
    }
    clock
        .drive(HOUR, engine.delete("web"))
        .await
        .unwrap()
        .unwrap();
    assert!(host.leftovers().is_empty());
}

/// A restart took place in the sandbox that was there, whose volumes had been made with the old
/// values.
#[tokio::test]
async fn a_restart_looks_up_the_references_of_volumes_again() {
    let (host, clock) = host();
    let shares = Arc::new(Asked::default());
    let engine = builder(&host, &shares).build().await.unwrap();
    let group = engine.create_or_update(document("Always")).await.unwrap();
    clock.drive(HOUR, group.running()).await.unwrap().unwrap();
    assert_eq!(cat(&group, "/keys/key").await, "file-hunter2");
    host.secrets.put(uri("file"), "file-rotated2");
    host.secrets.put(uri("account"), "cm90YXRlZA==");
    clock.drive(HOUR, group.restart()).await.unwrap().unwrap();
    clock.drive(HOUR, group.running()).await.unwrap().unwrap();
    assert_eq!(cat(&group, "/keys/key").await, "file-rotated2");
    {
        let asked = shares.0.lock().unwrap();
        let share = asked.last().unwrap().azure_file.as_ref().unwrap();
        let key = share.storage_account_key.as_ref().unwrap();
        assert_eq!(key.expose(), "cm90YXRlZA==");
    }
    // So does an update that by itself changes nothing about volumes.
    host.secrets.put(uri("file"), "file-rotated3");
    let mut changed = document("Always");
    changed.properties.containers[0].properties.command =
        ["sh", "-c", "sleep infinity"].map(str::to_owned).into();
    let updating = engine.create_or_update(changed);
    clock.drive(HOUR, updating).await.unwrap().unwrap();
    clock.drive(HOUR, group.running()).await.unwrap().unwrap();
    assert_eq!(cat(&group, "/keys/key").await, "file-rotated3");
    // A reference that is gone fails the restart as it fails a deployment.
    host.secrets.remove(&uri("file"));
    clock.drive(HOUR, group.restart()).await.unwrap().unwrap();
    let error = clock.drive(HOUR, group.running()).await.unwrap();
    assert_eq!(
        error.unwrap_err().aci_code(),
        Some("InvalidSecretReference")
    );
    let deleting = engine.delete("web");
    clock.drive(HOUR, deleting).await.unwrap().unwrap();
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn without_a_resolver_documents_with_references_are_refused_by_name() {
    let (host, _) = host();
    let engine = Engine::builder()
        .isolation(host.isolation.clone())
        .images(host.images.clone())
        .network(host.network.clone())
        .volumes(host.volumes.clone())
        .store(host.store.clone())
        .clock(Arc::clone(&host.clock))
        .build()
        .await
        .unwrap();
    let error = engine
        .create_or_update(document("Never"))
        .await
        .unwrap_err();
    assert_eq!(error.aci_code(), Some("SecretReferenceNotSupported"));
    let paths: Vec<&str> = error.problems().iter().map(|p| p.path.as_str()).collect();
    for path in [
        "properties.containers[0].properties.environmentVariables[0].secureValueReference",
        "properties.initContainers[0].properties.environmentVariables[0].secureValueReference",
        "properties.imageRegistryCredentials[0].passwordReference",
        "properties.volumes[0].secretReference",
        "properties.volumes[1].azureFile.storageAccountKeyReference",
    ] {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
    assert!(host.leftovers().is_empty());
}

#[tokio::test]
async fn a_secret_that_is_gone_or_forbidden_fails_the_group_with_acis_code() {
    for (change, words) in [
        (0, "there is no secret at this address"),
        (1, "may not read"),
    ] {
        let (host, clock) = host();
        let engine = builder(&host, &Arc::default()).build().await.unwrap();
        match change {
            0 => host.secrets.remove(&uri("file")),
            _ => host.secrets.allow_only(&uri("file"), "somebody else"),
        }
        let group = engine.create_or_update(document("Never")).await.unwrap();
        let error = clock.drive(HOUR, group.running()).await.unwrap();
        let error = error.unwrap_err();
        assert_eq!(error.aci_code(), Some("InvalidSecretReference"), "{error}");
        assert!(error.to_string().contains("'file'"), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        clock
            .drive(HOUR, engine.delete("web"))
            .await
            .unwrap()
            .unwrap();
        assert!(host.leftovers().is_empty());
    }
}

#[tokio::test]
async fn a_vault_that_is_away_or_hangs_is_waited_for_within_bounds() {
    let (host, clock) = host();
    let engine = builder(&host, &Arc::default()).build().await.unwrap();
    // Away for a moment: nobody notices.
    let faults = &host.faults;
    let away = Fault::Error(ErrorKind::Unavailable);
    faults.on("secret.resolve", Trigger::Nth(1), away.clone());
    faults.on("secret.resolve", Trigger::Nth(4), away);
    let group = engine.create_or_update(document("Always")).await.unwrap();
    clock.drive(HOUR, group.running()).await.unwrap().unwrap();
    let pulls_failed = |view: &ContainerGroup| {
        let text = view.to_json(SecretMode::Redact);
        text.contains("Failed")
    };
    assert!(!pulls_failed(&group.view()));
    clock
        .drive(HOUR, engine.delete("web"))
        .await
        .unwrap()
        .unwrap();
    // For ever: the group says so, can be deleted, and comes up when the vault does.
    faults.heal();
    faults.on("secret.resolve", Trigger::Always, Fault::Hang);
    let group = engine.create_or_update(document("Always")).await.unwrap();
    let deadline = host.clock.now() + Duration::from_secs(120);
    clock
        .drive(HOUR, async { host.clock.sleep_until(deadline).await })
        .await
        .unwrap();
    let shown = group.view().to_json(SecretMode::Redact);
    assert!(shown.contains("no answer within 30 s"), "{shown}");
    faults.heal();
    clock.drive(HOUR, group.running()).await.unwrap().unwrap();
    clock
        .drive(HOUR, engine.delete("web"))
        .await
        .unwrap()
        .unwrap();
    assert!(host.leftovers().is_empty());
}
