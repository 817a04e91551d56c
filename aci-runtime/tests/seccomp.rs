//! A document's `seccompProfile`, from its base64 to the kernel's answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::time::Duration;

use aci_core::model::ContainerGroup;
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::{Engine, EngineOptions, LogOptions, RedbStore};
use aci_storage::{HostImage, OciImages};
use base64::Engine as _;

async fn engine(dir: &Path) -> Engine {
    let images = OciImages::open(dir.join("images")).unwrap();
    HostImage::new("local/tools:1")
        .program("/bin/sh")
        .program("/bin/mkdir")
        .build(&images)
        .await
        .unwrap();
    let options = NamespacesOptions::default().state_dir(dir.join("run"));
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

/// A group whose container makes a directory and tells what came of it.
fn document(name: &str, profile: Option<&str>) -> ContainerGroup {
    let context = profile.map_or_else(String::new, |profile| {
        format!("securityContext: {{seccompProfile: {profile}}}")
    });
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
      command: [/bin/sh, -c, '/bin/mkdir /made && echo made; echo code $?']
      resources: {{requests: {{cpu: 0.1, memoryInGB: 0.1}}}}
      {context}
"
    ))
    .unwrap()
}

fn encoded(profile: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(profile)
}

/// Runs a group to its end and gives its log.
async fn said(engine: &Engine, document: ContainerGroup) -> String {
    let group = engine.create_or_update(document).await.unwrap();
    group.ended().await.unwrap();
    let app = group.container("app").unwrap();
    app.logs(LogOptions::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_call_fails_with_the_chosen_error() {
    let place = tempfile::tempdir().unwrap();
    let engine = engine(place.path()).await;
    // What the default profile lets pass.
    let free = said(&engine, document("free", None)).await;
    assert_eq!(free, "made\ncode 0\n");
    // ENOSPC, which nothing but the profile would answer.
    let deny = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    let held = said(&engine, document("held", Some(&encoded(deny)))).await;
    assert!(held.contains("No space left on device"), "{held}");
    assert!(held.ends_with("code 1\n"), "{held}");
    // Without a number it is EPERM.
    let deny = deny.replace(r#", "errnoRet": 28"#, "");
    let held = said(&engine, document("plain", Some(&encoded(&deny)))).await;
    assert!(held.contains("Operation not permitted"), "{held}");
    for name in ["free", "held", "plain"] {
        engine.delete(name).await.unwrap();
    }
}

/// A broken profile is refused before anything runs, with ACI's code and the property's place; a
/// container without its filter would run with more rights than were asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_profile_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let engine = engine(place.path()).await;
    let property = "properties.containers[0].properties.securityContext.seccompProfile";
    for (profile, why) in [
        ("'not base64!'".to_owned(), "is not base64 encoded"),
        (encoded("{"), "is not JSON in base64"),
        (encoded("{}"), "has no 'defaultAction'"),
        (
            encoded(r#"{"defaultAction": "SCMP_ACT_DENY"}"#),
            "has the unknown action 'SCMP_ACT_DENY'",
        ),
    ] {
        let refused = engine
            .create_or_update(document("broken", Some(&profile)))
            .await;
        let error = refused.expect_err(why);
        assert_eq!(error.aci_code(), Some("InvalidSecurityContext"), "{error}");
        let [problem] = error.problems() else {
            panic!("{error}");
        };
        assert_eq!(problem.path, property);
        let named = problem
            .message
            .contains("'seccompProfile' of container 'app'");
        assert!(named && problem.message.contains(why), "{problem}");
    }
    assert!(engine.list().is_empty());
}
