//! A fuzzer that is driven by the published description: no 5xx, and nothing that the description
//! does not have.

use std::path::Path;

use super::client::{python, text};
use super::server::{self, TOKEN};

/// Cases of each of the 17 operations; `make fuzz-arm` tries so many that there are 10,000.
const EACH: &str = "40";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fuzzer_finds_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/spec/swagger/2021-10-01");
    if !folder.exists() {
        println!("SKIPPED: no swagger of 2021-10-01 beside this checkout");
        return;
    }
    let Some(python) = python("schemathesis", &["schemathesis"]) else {
        return;
    };
    let front = server::fake().await;
    let (base, authority) = (front.base.clone(), front.authority.clone());
    let work = tempfile::tempdir().unwrap();
    // Half of what is tried goes to one subscription and version, to get further than their check.
    std::fs::write(
        work.path().join("schemathesis.toml"),
        "[parameters]\n\"path.subscriptionId\" = \"00000000-0000-0000-0000-000000000000\"\n\"query.api-version\" = \"2021-10-01\"\n",
    )
    .unwrap();
    let report = work.path().join("report.ndjson");
    let schema = folder.join("containerInstance.json");
    let home = work.path().to_owned();
    let each = std::env::var("ACI_FUZZ_EXAMPLES").unwrap_or_else(|_| EACH.to_owned());
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(python)
            .args(["-m", "schemathesis.cli", "run"])
            .arg(schema)
            .args(["--url", &base, "--tls-verify"])
            .arg(authority)
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"])
            .args(["--phases", "examples,coverage,fuzzing", "--max-examples", &each])
            // One worker: CPython 3.11 fails when two threads parse at a time (its issue 106905).
            .args(["--mode", "all", "--workers", "1", "--no-shrink", "--suppress-health-check", "all"])
            .args(["--warnings", "off", "--report", "ndjson", "--report-ndjson-path"])
            .arg("report.ndjson")
            .current_dir(home)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let report = std::fs::read_to_string(report).unwrap_or_default();
    front.end().await;
    let said = text(&output);
    println!("{}", &said[said.len().saturating_sub(6_000)..]);
    let cases = report.matches("\"status_code\":").count();
    println!("answers that were checked: {cases}");
    assert!(output.status.success(), "the fuzzer found something");
    assert!(cases >= 17 * 20, "only {cases} answers were checked");
}
