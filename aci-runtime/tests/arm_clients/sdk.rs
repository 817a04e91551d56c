//! Azure's SDKs, unmodified: for Python its newest stable release and its newest preview, for
//! JavaScript its newest release.

use std::process::{Command, Output};

use super::client::{node, python, script, text};
use super::server::{self, IMAGE, TOKEN};

async fn drive(name: &str, packages: &[&str]) {
    let Some(python) = python(name, packages) else {
        return;
    };
    against_a_real_front(move |base, authority| {
        let mut command = Command::new(python);
        command.arg(script("sdk.py")).args([base, TOKEN]);
        command.arg(authority).arg(IMAGE).output().unwrap()
    })
    .await;
}

async fn against_a_real_front(run: impl FnOnce(&str, &std::path::Path) -> Output + Send + 'static) {
    let front = server::real().await;
    let (base, authority) = (front.base.clone(), front.authority.clone());
    let output = tokio::task::spawn_blocking(move || run(&base, &authority));
    let output = output.await.unwrap();
    front.end().await;
    let said = text(&output);
    println!("{said}");
    assert!(
        output.status.success() && said.contains("passed: "),
        "the SDK's test failed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_sdk_for_javascript() {
    let Some(home) = node("sdk", &["@azure/arm-containerinstance", "ws"]) else {
        return;
    };
    against_a_real_front(move |base, authority| {
        Command::new("node")
            .arg(script("sdk.cjs"))
            .args([base, TOKEN, IMAGE])
            .env("NODE_PATH", home.join("node_modules"))
            .env("NODE_EXTRA_CA_CERTS", authority)
            .output()
            .unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_stable_sdk() {
    drive(
        "sdk-stable",
        &["azure-mgmt-containerinstance", "websocket-client"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_preview_of_the_sdk() {
    // `--pre` for this package alone: a version that only previews reach.
    drive(
        "sdk-preview",
        &["--pre", "azure-mgmt-containerinstance", "websocket-client"],
    )
    .await;
}
