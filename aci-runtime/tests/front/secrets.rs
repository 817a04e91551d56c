//! Nothing that is secret is in an answer or in a log, however much is logged.

use std::io::Write;
use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};

use tracing_subscriber::fmt::format::FmtSpan;

use super::lab::{GROUPS, Lab, READER, WRITER};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every place in a document that holds a secret, each with a text that is found again.
fn document() -> Value {
    json!({"location": "local", "properties": {
        "osType": "Linux",
        "containers": [{"name": "c", "properties": {
            "image": "sh", "command": ["sleep", "3600"],
            "environmentVariables": [{"name": "A", "secureValue": "canary-secure-value"}],
            "volumeMounts": [{"name": "secretfiles", "mountPath": "/s"}],
            "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}}}],
        "imageRegistryCredentials": [
            {"server": "registry.example", "username": "u", "password": "canary-registry-password"}],
        "volumes": [{"name": "secretfiles", "secret": {"file": "Y2FuYXJ5LXNlY3JldC12b2x1bWU="}}],
        "diagnostics": {"logAnalytics": {"workspaceId": "0e4bdc24-0f51-4a4b-8ec2-6cf2dea8a5f1",
            "workspaceKey": "Y2FuYXJ5LXdvcmtzcGFjZS1rZXk="}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_and_no_log_has_a_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let lab = Lab::start().await;
    let group = format!("{GROUPS}/g");
    let mut answers = Vec::new();
    let put = format!("{group}?api-version=2026-07-01");
    let mut bad = document();
    bad["properties"]["osType"] = json!("canary-is-no-secret");
    bad["properties"]["containers"][0]["properties"]["environmentVariables"][0]["value"] =
        json!("both");
    let mut odd = document();
    odd["properties"]["imageRegistryCredentials"][0]["password"] =
        json!(["canary-registry-password"]);
    odd["properties"]["volumes"][0]["secret"]["file"] = json!("canary-secret-volume");
    for body in [bad, odd] {
        answers.push(
            lab.ask(Method::PUT, &put, Some(WRITER), &body.to_string())
                .await,
        );
        assert_eq!(answers.last().unwrap().status, 400);
    }
    // Half a document, so that the reader complains in the middle of a secret.
    let text = document().to_string();
    let cut = text.find("canary-registry").unwrap() + 10;
    answers.push(lab.ask(Method::PUT, &put, Some(WRITER), &text[..cut]).await);
    lab.run("g", &text).await;
    for token in [WRITER, READER] {
        for path in [
            &*group,
            GROUPS,
            "/subscriptions/00000000-0000-0000-0000-000000000000/providers/Microsoft.ContainerInstance/containerGroups",
            &format!("{group}/containers/c/logs"),
            &format!("{group}/providers/Microsoft.Insights/metrics"),
            "/metrics",
        ] {
            for version in ["2018-10-01", "2021-10-01", "2023-05-01", "2026-07-01"] {
                let path = format!("{path}?api-version={version}");
                answers.push(lab.ask(Method::GET, &path, Some(token), "").await);
            }
        }
    }
    answers.push(lab.ask(Method::PUT, &put, Some(WRITER), &text).await);
    let path = format!("{group}/containers/c/exec?api-version=2023-05-01");
    let exec = lab
        .ask(
            Method::POST,
            &path,
            Some(WRITER),
            r#"{"command": "printenv"}"#,
        )
        .await
        .json();
    let password = exec["password"].as_str().unwrap().to_owned();
    let wrong = "wrong-token-that-somebody-tried";
    answers.push(lab.ask(Method::GET, &put, Some(wrong), "").await);
    answers.push(lab.ask(Method::DELETE, &put, Some(WRITER), "").await);
    lab.end().await;

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(
        log.contains("arm.request") && log.contains("action"),
        "everything is logged"
    );
    let secrets = [
        "canary-secure-value",
        "canary-registry-password",
        "canary-reg",
        "canary-secret-volume",
        "Y2FuYXJ5LXNlY3JldC12b2x1bWU=",
        "Y2FuYXJ5LXdvcmtzcGFjZS1rZXk=",
        "canary-workspace-key",
        WRITER,
        READER,
        &password,
        wrong,
    ];
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} is in the log: {line:?}");
        for answer in &answers {
            let body = String::from_utf8_lossy(&answer.body);
            assert!(!body.contains(secret), "{secret} is in an answer: {body}");
            assert!(!format!("{:?}", answer.headers).contains(secret));
        }
    }
}
