//! A fuzzer that is driven by the published description: no 5xx, and nothing that the description
//! does not have.

use std::path::{Path, PathBuf};

use super::client::{python, text};
use super::server::{self, TOKEN};

/// Cases of each of the 17 operations; `make fuzz-arm` tries so many that there are 10,000.
const EACH: &str = "40";

/// What the fuzzer said, whether it found nothing, and how many answers it checked.
struct Outcome {
    said: String,
    clean: bool,
    answers: usize,
}

/// Runs the fuzzer against a front on fakes, with what is `more` than the usual options. `None`, and
/// said so, where it cannot be had.
async fn fuzz(description: PathBuf, more: Vec<String>) -> Option<Outcome> {
    let python = python("schemathesis", &["schemathesis"])?;
    let front = server::fake().await;
    let (base, authority) = (front.base.clone(), front.authority.clone());
    let work = tempfile::tempdir().unwrap();
    // Half of what is tried goes to one subscription and version, to get further than their check.
    std::fs::write(
        work.path().join("schemathesis.toml"),
        "[parameters]\n\"path.subscriptionId\" = \"00000000-0000-0000-0000-000000000000\"\n\"query.api-version\" = \"2021-10-01\"\n",
    )
    .unwrap();
    let home = work.path().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(python)
            .args(["-m", "schemathesis.cli", "run"])
            .arg(description)
            .args(["--url", &base, "--tls-verify"])
            .arg(authority)
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"])
            .args(["--phases", "examples,coverage,fuzzing"])
            // One worker: CPython 3.11 fails when two threads parse at a time (its issue 106905).
            .args(["--mode", "all", "--workers", "1", "--no-shrink", "--suppress-health-check", "all"])
            .args(["--warnings", "off", "--report", "ndjson", "--report-ndjson-path"])
            .arg("report.ndjson")
            .args(more)
            .current_dir(home)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let report = std::fs::read_to_string(work.path().join("report.ndjson")).unwrap_or_default();
    front.end().await;
    Some(Outcome {
        said: text(&output),
        clean: output.status.success(),
        answers: report.matches("\"status_code\":").count(),
    })
}

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/spec/swagger/2021-10-01");
    if folder.exists() {
        return Some(folder);
    }
    println!("SKIPPED: no swagger of 2021-10-01 beside this checkout");
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fuzzer_finds_nothing() {
    let Some(folder) = folder() else { return };
    let each = std::env::var("ACI_FUZZ_EXAMPLES").unwrap_or_else(|_| EACH.to_owned());
    let more = vec!["--max-examples".to_owned(), each];
    let Some(outcome) = fuzz(folder.join("containerInstance.json"), more).await else {
        return;
    };
    let said = &outcome.said;
    println!("{}", &said[said.len().saturating_sub(6_000)..]);
    println!("answers that were checked: {}", outcome.answers);
    assert!(outcome.clean, "the fuzzer found something");
    assert!(outcome.answers >= 17 * 20);
}

/// A description that says something else than is answered: what the test above relies on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fuzzer_would_find_a_wrong_answer() {
    let Some(folder) = folder() else { return };
    let text = std::fs::read_to_string(folder.join("containerInstance.json")).unwrap();
    let mut description: serde_json::Value = serde_json::from_str(&text).unwrap();
    description["definitions"]["Usage"]["properties"]["unit"]["type"] = "integer".into();
    // The examples that it names are beside it.
    let other = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(folder.join("examples"), other.path().join("examples")).unwrap();
    let file = other.path().join("containerInstance.json");
    std::fs::write(&file, description.to_string()).unwrap();
    let only = [
        "--max-examples",
        "2",
        "--include-operation-id",
        "Location_ListUsage",
    ];
    let Some(outcome) = fuzz(file, only.map(str::to_owned).to_vec()).await else {
        return;
    };
    assert!(!outcome.clean, "{}", outcome.said);
    assert!(
        outcome.said.contains("Response violates schema"),
        "{}",
        outcome.said
    );
}
