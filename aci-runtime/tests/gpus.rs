//! `resources.gpu` through the engine: a CDI specification over harmless devices stands for GPUs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::time::Duration;

use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, EngineOptions, ExecOptions, Group, RedbStore};
use aci_storage::{HostImage, OciImages};
use tokio::io::AsyncReadExt;

const SPEC: &str = r#"{
  "cdiVersion": "0.6.0",
  "kind": "example.com/gpu",
  "containerEdits": {"env": ["GPU_LIBRARY=/opt/gpu/library"]},
  "devices": [
    {"name": "0", "containerEdits": {
      "env": ["GPU_0=here"],
      "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero", "permissions": "rw"}],
      "mounts": [{"hostPath": "@library@", "containerPath": "/opt/gpu/library", "options": ["ro"]}]}},
    {"name": "1", "containerEdits": {
      "env": ["GPU_1=here"],
      "deviceNodes": [{"path": "/dev/gpu1", "type": "c", "major": 1, "minor": 9, "fileMode": 438}]}}
  ]
}"#;

async fn engine(dir: &Path, cdi: &Path) -> Engine {
    let images = OciImages::open(dir.join("images")).unwrap();
    HostImage::new("local/tools:1")
        .program("/bin/sh")
        .program("/bin/cat")
        .program("/bin/sleep")
        .program("/usr/bin/head")
        .program("/usr/bin/wc")
        .build(&images)
        .await
        .unwrap();
    let options = NamespacesOptions::default()
        .state_dir(dir.join("run"))
        .cdi_dirs([cdi.to_owned()]);
    Engine::builder()
        .isolation(Namespaces::new(options).unwrap())
        .images(images)
        .network(LoopbackNetwork::new())
        .store(RedbStore::open(dir.join("journal")).unwrap())
        .options(EngineOptions {
            grace: Duration::from_secs(2),
            ..Default::default()
        })
        .build()
        .await
        .unwrap()
}

fn document(name: &str, gpus: u32) -> ContainerGroup {
    ContainerGroup::from_yaml(&format!(
        "
name: {name}
properties:
  osType: Linux
  restartPolicy: Never
  containers:
  - name: app
    properties:
      image: local/tools:1
      command: [/bin/sleep, '1000']
      resources: {{requests: {{cpu: 0.1, memoryInGB: 0.1, gpu: {{count: {gpus}, sku: V100}}}}}}
"
    ))
    .unwrap()
}

async fn exec(group: &Group, script: &str) -> String {
    let options = ExecOptions::command(["/bin/sh", "-c", script]);
    let mut process = group.container("app").unwrap().exec(options).await.unwrap();
    let mut output = String::new();
    process.stdout.read_to_string(&mut output).await.unwrap();
    output
}

const LOOK: &str = "for n in 0 1; do
    if [ -c /dev/gpu$n ]; then head -c 4 /dev/gpu$n | wc -c; echo has $n; fi; done
    echo $GPU_0 $GPU_1 $GPU_LIBRARY; cat /opt/gpu/library 2>/dev/null; true";

#[tokio::test(flavor = "multi_thread")]
async fn gpus_are_counted_given_and_free_again() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: devices are root's to give");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let cdi = place.path().join("cdi");
    std::fs::create_dir(&cdi).unwrap();
    let library = place.path().join("library");
    std::fs::write(&library, "the vendor's\n").unwrap();
    let spec = SPEC.replace("@library@", library.to_str().unwrap());
    std::fs::write(cdi.join("example.json"), spec).unwrap();

    let engine = engine(place.path(), &cdi).await;
    let one = engine.create_or_update(document("one", 1)).await.unwrap();
    one.running().await.unwrap();
    let text = exec(&one, LOOK).await;
    assert_eq!(text, "4\nhas 0\nhere /opt/gpu/library\nthe vendor's\n");
    let two = engine.create_or_update(document("two", 1)).await.unwrap();
    two.running().await.unwrap();
    let text = exec(&two, LOOK).await;
    assert!(text.contains("has 1") && !text.contains("has 0"), "{text}");
    // There are two; ACI's answer to a third.
    let error = engine
        .create_or_update(document("three", 1))
        .await
        .unwrap_err();
    assert_eq!(error.aci_code(), Some("ServiceUnavailable"), "{error}");
    engine.delete("one").await.unwrap();
    let three = engine.create_or_update(document("three", 1)).await.unwrap();
    three.running().await.unwrap();
    assert!(exec(&three, LOOK).await.contains("has 0"));
    for name in ["two", "three"] {
        engine.delete(name).await.unwrap();
    }
}
