//! Azure's SDK for Python, unmodified: its newest stable release and its newest preview.

use super::client::{python, script, text};
use super::server::{self, IMAGE, TOKEN};

async fn drive(name: &str, packages: &[&str]) {
    let Some(python) = python(name, packages) else {
        return;
    };
    let front = server::real().await;
    let (base, authority) = (front.base.clone(), front.authority.clone());
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(python)
            .arg(script("sdk.py"))
            .args([base.as_str(), TOKEN])
            .arg(authority)
            .arg(IMAGE)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    front.end().await;
    let said = text(&output);
    println!("{said}");
    assert!(
        output.status.success() && said.contains("passed: "),
        "the SDK's test failed"
    );
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
