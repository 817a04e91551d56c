//! Exec and attach over WebSockets, as Azure's clients speak and with what is beyond that.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::lab::{GROUPS, Lab, READER, WRITER, document};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

const CONTROL: &str = "exec.v1.container-groups";

async fn ticket(lab: &Lab, kind: &str, body: &Value) -> (String, String) {
    let path = format!("{GROUPS}/g/containers/c/{kind}?api-version=2023-05-01");
    let answer = lab
        .ask(Method::POST, &path, Some(WRITER), &body.to_string())
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let value = answer.json();
    let text = |name: &str| value[name].as_str().unwrap().to_owned();
    (text("webSocketUri"), text("password"))
}

async fn exec(lab: &Lab, command: &str) -> (String, String) {
    let body = json!({"command": command, "terminalSize": {"rows": 12, "cols": 80}});
    ticket(lab, "exec", &body).await
}

/// Dials as a client of Azure's does; with a header and a subprotocol only if they are given.
async fn dial(
    lab: &Lab,
    uri: &str,
    header: Option<&str>,
    protocol: Option<&str>,
) -> Result<Socket, Error> {
    assert!(uri.starts_with("wss://localhost/"), "{uri}");
    let mut request = uri.into_client_request().unwrap();
    for (name, value) in [
        ("authorization", header),
        ("sec-websocket-protocol", protocol),
    ] {
        if let Some(value) = value {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    let stream = lab.connect().await.unwrap();
    client_async(request, stream)
        .await
        .map(|(socket, _)| socket)
}

/// All output, all text frames of the server's, and how it closed.
async fn rest(socket: &mut Socket) -> (String, Vec<String>, Option<CloseFrame>) {
    let (mut output, mut texts) = (Vec::new(), Vec::new());
    while let Some(message) = socket.next().await {
        match message {
            Ok(Message::Binary(bytes)) => output.extend_from_slice(&bytes),
            Ok(Message::Text(text)) => texts.push(text.to_string()),
            Ok(Message::Close(frame)) => {
                return (String::from_utf8_lossy(&output).into_owned(), texts, frame);
            }
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
    (String::from_utf8_lossy(&output).into_owned(), texts, None)
}

async fn lab() -> Lab {
    let lab = Lab::start().await;
    lab.run("g", &document(&["tick", "0.05", "1000000"])).await;
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_sends_the_password_and_sees_the_terminal() {
    let lab = lab().await;
    let (uri, password) = exec(&lab, "/bin/sh -c 'stty; echo one two; exit 7'").await;
    let mut socket = dial(&lab, &uri, None, None).await.unwrap();
    socket.send(Message::text(password)).await.unwrap();
    let (output, texts, close) = rest(&mut socket).await;
    assert!(output.contains("12 80"), "{output}");
    assert!(output.contains("one two"), "{output}");
    assert!(
        texts.is_empty(),
        "an old client takes every frame for output: {texts:?}"
    );
    let close = close.unwrap();
    assert_eq!(u16::from(close.code), 1000);
    assert_eq!(
        serde_json::from_str::<Value>(&close.reason).unwrap(),
        json!({"exitCode": 7})
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_taken_as_text_and_as_binary() {
    let lab = lab().await;
    for password_in_header in [false, true] {
        let (uri, password) = exec(&lab, "cat").await;
        let header = password_in_header.then_some(&*password);
        let mut socket = dial(&lab, &uri, header, None).await.unwrap();
        if !password_in_header {
            socket
                .send(Message::binary(password.clone().into_bytes()))
                .await
                .unwrap();
        }
        socket.send(Message::text("typed\n")).await.unwrap();
        socket
            .send(Message::binary(b"sent\n".to_vec()))
            .await
            .unwrap();
        let mut seen = String::new();
        while !(seen.contains("typed") && seen.contains("sent")) {
            if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() {
                seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        assert!(!seen.contains(&password));
        socket.close(None).await.unwrap();
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_resizes_signals_and_sees_the_exit() {
    let lab = lab().await;
    let (uri, password) = exec(&lab, "cat").await;
    let mut socket = dial(&lab, &uri, Some(&password), Some(CONTROL))
        .await
        .unwrap();
    for message in [
        json!({"resize": {"rows": 50, "cols": 132}}),
        json!({"later": "more"}),
        json!({"eof": true}),
    ] {
        socket
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }
    let (_, texts, close) = rest(&mut socket).await;
    assert_eq!(texts, [r#"{"exitCode":0}"#]);
    assert_eq!(u16::from(close.unwrap().code), 1000);
    let (uri, password) = exec(&lab, "sleep 3600").await;
    let mut socket = dial(&lab, &uri, Some(&password), Some(CONTROL))
        .await
        .unwrap();
    socket
        .send(Message::text(json!({"signal": "SIGKILL"}).to_string()))
        .await
        .unwrap();
    let (_, texts, _) = rest(&mut socket).await;
    assert_eq!(texts, [r#"{"exitCode":137,"signal":"SIGKILL"}"#]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_good_once() {
    let lab = lab().await;
    let (uri, password) = exec(&lab, "echo once").await;
    let mut socket = dial(&lab, &uri, Some(&password), None).await.unwrap();
    assert!(rest(&mut socket).await.0.contains("once"));
    refused(dial(&lab, &uri, Some(&password), None).await);
    // A wrong try uses the address up, too: nobody guesses twice.
    let (uri, password) = exec(&lab, "echo never").await;
    let mut socket = dial(&lab, &uri, None, None).await.unwrap();
    socket.send(Message::text("wrong")).await.unwrap();
    let (output, _, close) = rest(&mut socket).await;
    assert_eq!((&*output, u16::from(close.unwrap().code)), ("", 1008));
    refused(dial(&lab, &uri, Some(&password), None).await);
    let (uri, password) = exec(&lab, "echo never").await;
    refused(dial(&lab, &uri, Some(&password[1..]), None).await);
    refused(dial(&lab, &uri, Some(&password), None).await);
    // Another session's password, and a bearer token, are not this one's.
    let (uri, _) = exec(&lab, "echo never").await;
    let (_, other) = exec(&lab, "echo never").await;
    refused(dial(&lab, &uri, Some(&other), None).await);
    let (uri, _) = exec(&lab, "echo never").await;
    refused(dial(&lab, &uri, Some(&format!("Bearer {WRITER}")), None).await);
    lab.end().await;
}

fn refused(dialled: Result<Socket, Error>) {
    match dialled {
        Err(Error::Http(response)) => assert_eq!(response.status(), StatusCode::UNAUTHORIZED),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_dial_at_once_do_not_both_get_in() {
    let lab = lab().await;
    for _ in 0..10 {
        let (uri, password) = exec(&lab, "echo once").await;
        let tries = (0..8).map(|_| dial(&lab, &uri, Some(&password), None));
        let dialled = futures_util::future::join_all(tries).await;
        assert_eq!(dialled.iter().filter(|d| d.is_ok()).count(), 1);
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_shows_the_output_to_who_has_the_header() {
    let lab = lab().await;
    let (uri, password) = ticket(&lab, "attach", &json!({})).await;
    refused(dial(&lab, &uri, None, None).await);
    let (uri, second) = ticket(&lab, "attach", &json!({})).await;
    assert_ne!(password, second);
    let mut socket = dial(&lab, &uri, Some(&second), None).await.unwrap();
    for _ in 0..3 {
        let message = socket.next().await.unwrap().unwrap();
        assert!(
            matches!(message, Message::Binary(_) | Message::Ping(_)),
            "{message:?}"
        );
    }
    // When the front is closed, open sockets end.
    lab.api.close().await;
    while let Some(Ok(message)) = socket.next().await {
        assert!(matches!(
            message,
            Message::Binary(_) | Message::Ping(_) | Message::Close(_)
        ));
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said() {
    let lab = lab().await;
    let path = format!("{GROUPS}/g/containers/c/exec?api-version=2023-05-01");
    for (body, target) in [
        (json!({}), "command"),
        (json!({"command": ""}), "command"),
        (json!({"command": "sh -c 'open"}), "command"),
        (
            json!({"command": "sh", "terminalSize": {"rows": 70000}}),
            "terminalSize.rows",
        ),
        (
            json!({"command": "sh", "terminalSize": {"cols": "80"}}),
            "terminalSize.cols",
        ),
    ] {
        let answer = lab
            .ask(Method::POST, &path, Some(WRITER), &body.to_string())
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.json()["error"]["target"], target, "{body}");
    }
    let path = format!("{GROUPS}/g/containers/other/exec?api-version=2023-05-01");
    let answer = lab
        .ask(Method::POST, &path, Some(WRITER), r#"{"command": "sh"}"#)
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let answer = lab
        .ask(Method::POST, &path, Some(READER), r#"{"command": "sh"}"#)
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    // An address that is opened as a page is not used up by that.
    let (uri, password) = exec(&lab, "echo still good").await;
    let page = lab
        .ask(
            Method::GET,
            uri.strip_prefix("wss://localhost").unwrap(),
            None,
            "",
        )
        .await;
    assert_eq!(page.status, StatusCode::UPGRADE_REQUIRED);
    let mut socket = dial(&lab, &uri, Some(&password), None).await.unwrap();
    assert!(rest(&mut socket).await.0.contains("still good"));
    // A program that is not there ends as in a shell.
    let (uri, password) = exec(&lab, "/no/such/program").await;
    let mut socket = dial(&lab, &uri, Some(&password), None).await.unwrap();
    let (output, _, close) = tokio::time::timeout(Duration::from_secs(10), rest(&mut socket))
        .await
        .unwrap();
    assert!(output.contains("program"), "{output}");
    assert_eq!(close.unwrap().reason.as_str(), r#"{"exitCode":127}"#);
    // A group that is stopped.
    let group = aci_core::id::GroupRef::new("00000000-0000-0000-0000-000000000000", "rg", "g");
    lab.engine.get(group).unwrap().stop().await.unwrap();
    let path = format!("{GROUPS}/g/containers/c/exec?api-version=2023-05-01");
    let answer = lab
        .ask(Method::POST, &path, Some(WRITER), r#"{"command": "sh"}"#)
        .await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (StatusCode::BAD_REQUEST, "ContainerGroupStopped")
    );
    lab.end().await;
}
