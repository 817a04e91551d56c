//! Images of a registry as a newcomer meets them: the example `image_pull` with right and wrong
//! arguments, and the quickstart with a document that names such an image.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "../../aci-storage/tests/common/mod.rs"]
mod common;
#[path = "../../aci-storage/tests/registry/server.rs"]
mod server;

use std::path::PathBuf;
use std::process::{Command, Output};

use aci_storage::HostImage;
use serde_json::Value;
use server::{PASSWORD, Pusher, Registry, Setup, USER};

/// An example beside this test's executable, built by the same command.
fn example(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let program = deps.parent().unwrap().parent().unwrap();
    let program = program.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: cargo build --examples",
        program.display()
    );
    program
}

/// A registry that wants a password, with an image of this machine's shell; and the image's digest.
async fn with_image() -> Option<(Registry, String)> {
    let registry = Registry::start(Setup {
        password: true,
        ..Setup::default()
    })?;
    let store = common::store();
    HostImage::new("local/shell:1")
        .program("/bin/sh")
        .program("/bin/ls")
        .program("/bin/sleep")
        .program("/usr/bin/id")
        .build(&store.images)
        .await
        .unwrap();
    let layout = store.dir.path().join("layout");
    store
        .images
        .export_layout("local/shell:1", &layout)
        .await
        .unwrap();
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let hex = digest.strip_prefix("sha256:").unwrap();
        std::fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
    };
    let index: Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
    let pusher = Pusher::new(&registry, "team/shell");
    let layers = manifest["layers"].as_array().unwrap();
    for part in layers.iter().chain([&manifest["config"]]) {
        let kind = part["mediaType"].as_str().unwrap();
        pusher.blob(kind, &blob(part)).await;
    }
    let image = pusher.tag("1", &manifest).await;
    Some((registry, image["digest"].as_str().unwrap().to_owned()))
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    let text = format!(
        "{}\n--- stderr\n{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    );
    assert!(!text.contains(PASSWORD), "{text}");
    text
}

fn pull(arguments: &[&str], password: &str) -> Output {
    Command::new(example("image_pull"))
        .args(arguments)
        .env("REGISTRY_PASSWORD", password)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_with_bars_and_what_was_verified_is_told() {
    let Some((registry, digest)) = with_image().await else {
        return;
    };
    let host = registry.host();
    let reference = format!("{host}/team/shell:1");
    // On a terminal, which `script` is.
    let dir = tempfile::tempdir().unwrap();
    let command = format!(
        "{} {reference} --insecure {host} --user {USER} --dir {}",
        example("image_pull").display(),
        dir.path().display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("REGISTRY_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for expected in [
        &*format!("{reference} is {reference}"),
        &digest,
        "in 0 seconds",
        "verified  size and SHA-256",
        "took      0.",
    ] {
        assert!(
            text.contains(expected),
            "'{expected}' is missing in:\n{text}"
        );
    }
    // A second time nothing is fetched, and so there is no bar.
    let kept = ["--dir", dir.path().to_str().unwrap()];
    let again = ["--insecure", &host, "--user", USER, "--if-not-present"];
    let arguments = [&[&*reference][..], &kept, &again].concat();
    drop(registry);
    let output = pull(&arguments, PASSWORD);
    assert!(output.status.success(), "{}", self::text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_the_next_step() {
    let Some((registry, _)) = with_image().await else {
        return;
    };
    let host = registry.host();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    drop(free);
    let plain = ["--insecure", &host, "--insecure", &nobody, "--user", USER];
    for (reference, options, password, expected) in [
        (
            format!("{host}/team/shell:2"),
            &plain[..],
            PASSWORD,
            ["not accessible", "check the name and the tag"],
        ),
        (
            format!("{host}/team/shell:1"),
            &plain,
            "wrong",
            ["not accessible", "check the user name and the password"],
        ),
        (
            format!("{host}/team/shell:1"),
            &plain[..4],
            PASSWORD,
            ["not accessible", "add imageRegistryCredentials"],
        ),
        (
            format!("{host}/team/shell:1"),
            &plain[4..],
            PASSWORD,
            ["no TLS session", "as insecure"],
        ),
        (
            format!("{nobody}/team/shell:1"),
            &plain,
            PASSWORD,
            [&*nobody, "cannot connect"],
        ),
        (
            "registry.invalid/a:1".to_owned(),
            &plain,
            PASSWORD,
            ["registry.invalid", "cannot be resolved"],
        ),
        (
            "Upper/a:1:2".to_owned(),
            &plain,
            PASSWORD,
            ["Upper/a:1:2", "is not an image reference"],
        ),
    ] {
        let output = pull(&[&[&*reference][..], options].concat(), password);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let [what, next_step] = expected;
        assert!(text.contains(what), "'{what}' is missing in:\n{text}");
        // Once: it stood twice in a message.
        assert_eq!(
            text.matches(next_step).count(),
            1,
            "'{next_step}' in:\n{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_runs_an_image_of_a_registry() {
    let Some((registry, digest)) = with_image().await else {
        return;
    };
    let host = registry.host();
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("group.yaml");
    let run = |password: &str| {
        let text = format!(
            r#"
name: pulled
properties:
  osType: Linux
  restartPolicy: Never
  imageRegistryCredentials:
  - server: "{host}"
    username: {USER}
    password: {password}
  containers:
  - name: shell
    properties:
      image: {host}/team/shell:1
      command: [/bin/sh, -c, "id; sleep 30"]
      resources: {{requests: {{cpu: 0.1, memoryInGB: 0.1}}}}
"#
        );
        std::fs::write(&document, text).unwrap();
        Command::new(example("quickstart"))
            .arg(&document)
            .args(["--insecure", &host])
            .env_remove("XDG_RUNTIME_DIR")
            .output()
            .unwrap()
    };
    let output = run(PASSWORD);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for expected in [
        &*format!("pulling image \"{host}/team/shell:1\""),
        &format!("Successfully pulled image \"{host}/team/shell@{digest}\""),
        "uid=0",
        "nothing is left",
    ] {
        assert!(
            said.contains(expected),
            "'{expected}' is missing in:\n{said}"
        );
    }
    let output = run("wrong");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not accessible"), "{said}");
    assert!(!said.contains("left behind"), "{said}");
}
