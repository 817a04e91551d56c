//! Bytes that no honest client sends.

use std::time::Duration;

use aci_runtime::server::{ClientCertificates, ServerOptions};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::lab::{GROUPS, Lab, READER, WRITER, document};

/// Writes bytes as they are, and reads until the server closes or says nothing for a second.
async fn raw(lab: &Lab, bytes: &[u8]) -> String {
    let mut stream = lab.connect().await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(n)) =
        tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await
    {
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_in_another() {
    let lab = Lab::start().await;
    lab.run("g", &document(&["sleep", "3600"])).await;
    // What hides in the body of an allowed request would delete the group, if it were read as one.
    let hidden = format!(
        "DELETE {GROUPS}/g?api-version=2023-05-01 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {WRITER}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let chunked = "0\r\n\r\n";
    let head = |fields: &str| {
        format!(
            "POST {GROUPS}/g/stop-not?api-version=2023-05-01 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \
             {READER}\r\n{fields}\r\n"
        )
    };
    let length = hidden.len();
    let cases = [
        // Both lengths, in both orders: read as chunked, then the connection ends.
        head(&format!(
            "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"
        )) + chunked,
        head(&format!(
            "Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"
        )) + chunked,
        // Codings that another server may read differently.
        head("Transfer-Encoding: chunked, identity\r\n") + chunked,
        head("Transfer-Encoding: xchunked\r\n") + chunked,
        head("Transfer-Encoding : chunked\r\n") + chunked,
        head("Transfer-Encoding:\u{b}chunked\r\n") + chunked,
        head("Content-Length: 0\r\nContent-Length: 5\r\n"),
        head("Content-Length: +0\r\n"),
        head("Content-Length: 0, 5\r\n"),
        head("Content-Length: -1\r\n"),
        head("Content-Length: 0\r\n Transfer-Encoding: chunked\r\n"),
        head("X: a\r\n\tb: c\r\nTransfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0"),
    ];
    for case in cases {
        let answer = raw(&lab, format!("{case}{hidden}").as_bytes()).await;
        assert!(answers(&answer) <= 1, "{case}\n{answer}");
    }
    // Chunks that are not what they say.
    for body in [
        "5;x\r\nab\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "g\r\n\r\n",
    ] {
        let case = head("Transfer-Encoding: chunked\r\n") + body;
        let answer = raw(&lab, format!("{case}{hidden}").as_bytes()).await;
        assert!(answers(&answer) <= 1, "{case}\n{answer}");
    }
    let group = aci_core::id::GroupRef::new("00000000-0000-0000-0000-000000000000", "rg", "g");
    assert_eq!(lab.engine.get(group).unwrap().state().as_str(), "Running");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_kept() {
    let lab = Lab::start().await;
    let authority = format!("Host: localhost\r\nAuthorization: Bearer {WRITER}\r\n");
    let status = |answer: &str| answer.get(9..12).unwrap_or_default().to_owned();
    // A head beyond 64 KiB, a path beyond it, more than 100 fields.
    let head = format!(
        "GET /subscriptions HTTP/1.1\r\n{authority}X: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    assert_eq!(status(&raw(&lab, head.as_bytes()).await), "431");
    let path = format!("GET /{} HTTP/1.1\r\n{authority}\r\n", "x".repeat(100_000));
    let answer = status(&raw(&lab, path.as_bytes()).await);
    assert!(["414", "431", "400"].contains(&&*answer), "{answer}");
    let many = (0..200)
        .map(|n| format!("X-{n}: y\r\n"))
        .collect::<String>();
    let head = format!("GET /subscriptions HTTP/1.1\r\n{authority}{many}\r\n");
    assert_eq!(status(&raw(&lab, head.as_bytes()).await), "431");
    // A body of 5 GB that is announced, and one of 6 MB that is sent.
    let put = format!("PUT {GROUPS}/g?api-version=2023-05-01 HTTP/1.1\r\n{authority}");
    let announced = format!("{put}Content-Length: 5000000000\r\n\r\n{{");
    assert_eq!(status(&raw(&lab, announced.as_bytes()).await), "413");
    let mut sent = format!("{put}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..6 {
        sent.extend_from_slice(b"100000\r\n");
        sent.resize(sent.len() + 0x10_0000, b' ');
        sent.extend_from_slice(b"\r\n");
    }
    let answer = raw(&lab, &sent).await;
    assert!(answer.is_empty() || status(&answer) == "413", "{answer}");
    // A body that does not come.
    let mut stream = lab.connect().await.unwrap();
    let late = format!("{put}Content-Length: 100\r\nConnection: close\r\n\r\n{{");
    stream.write_all(late.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert_eq!(status(&answer), "408", "{answer}");
    // JSON that is deep, and bytes that are no text.
    let path = format!("{GROUPS}/g?api-version=2023-05-01");
    let deep = "[".repeat(100_000);
    for body in [&*deep, "{\"a\":", "\u{0}", "null", "[]"] {
        let answer = lab.ask(Method::PUT, &path, Some(WRITER), body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    }
    assert!(lab.engine.list().is_empty());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_hold_their_own_connections_only() {
    let options = ServerOptions {
        max_connections: 400,
        header_timeout: Duration::from_secs(3),
        handshake_timeout: Duration::from_secs(3),
        ..Default::default()
    };
    let lab = Lab::with(options, ClientCertificates::NotAsked).await;
    // Some never shake hands, some never end their head, some never send their body, some never read.
    let mut slow = Vec::new();
    for kind in 0..300 {
        let address = lab.address;
        if kind % 3 == 0 {
            slow.push(tokio::spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
            }));
            continue;
        }
        let mut stream = lab.connect().await.unwrap();
        let head = match kind % 3 {
            1 => "GET /subscriptions HTTP/1.1\r\nHost: localhost\r\n".to_owned(),
            _ => format!(
                "PUT {GROUPS}/g?api-version=2023-05-01 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \
                 {WRITER}\r\nContent-Length: 1000\r\n\r\n"
            ),
        };
        slow.push(tokio::spawn(async move {
            // A byte now and then, until the server has had enough.
            let _ = stream.write_all(head.as_bytes()).await;
            let (mut reading, mut writing) = tokio::io::split(stream);
            let drip = async {
                while writing.write_all(b"x").await.is_ok() && writing.flush().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let mut answer = Vec::new();
            tokio::select! {
                () = drip => {}
                _ = reading.read_to_end(&mut answer) => {}
            }
        }));
    }
    let path = "/subscriptions?api-version=2022-12-01";
    for _ in 0..50 {
        let answer = lab.ask(Method::GET, path, Some(READER), "").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    // All of them are let go by the server.
    for one in slow {
        tokio::time::timeout(Duration::from_secs(60), one)
            .await
            .unwrap()
            .unwrap();
    }
    assert!(lab.engine.list().is_empty());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    let options = ServerOptions {
        max_connections: 10,
        max_connections_per_address: 5,
        ..Default::default()
    };
    let lab = Lab::with(options, ClientCertificates::NotAsked).await;
    let path = "/subscriptions?api-version=2022-12-01";
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(lab.client().await);
    }
    assert!(lab.connect().await.is_err());
    for client in &mut held {
        assert_eq!(
            client.ask(Method::GET, path, Some(READER), "").await.status,
            StatusCode::OK
        );
    }
    drop(held);
    while lab.connect().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_requests_end_and_leaves_groups_running() {
    let lab = Lab::start().await;
    lab.run("g", &document(&["sleep", "3600"])).await;
    // A request whose body is still on its way when the server is told to stop.
    let mut stream = lab.connect().await.unwrap();
    let body = document(&["sleep", "3600"]);
    let (first, second) = body.split_at(20);
    let head = format!(
        "PUT {GROUPS}/late?api-version=2023-05-01 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {WRITER}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{first}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    lab.stop.cancel();
    while lab.connect().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.write_all(second.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(lab.engine.list().len(), 2);
    let (host, engine) = (lab.host.clone(), lab.engine.clone());
    lab.end().await;
    assert!(engine.list().is_empty(), "the engine has ended");
    assert!(!host.leftovers().is_empty(), "its groups have not");
}
