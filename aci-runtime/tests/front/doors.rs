//! Who is let in: every route of the router's own table is tried without a token, with wrong ones,
//! and with one that may only look.

use aci_runtime::arm::Need;
use http::{Method, StatusCode};

use super::lab::{GROUPS, Lab, READER, WRITER, document};

/// A path of the pattern, with a version that every route takes.
fn path(pattern: &str) -> String {
    let filled: Vec<String> = pattern
        .split('/')
        .map(|part| match part.strip_prefix('{') {
            Some(name) if name.starts_with("subscription") => {
                "00000000-0000-0000-0000-000000000000".to_owned()
            }
            Some(name) if name.starts_with("containerGroupName") => "g".to_owned(),
            Some(name) if name.starts_with("containerName") => "c".to_owned(),
            Some(_) => "rg".to_owned(),
            None => part.to_owned(),
        })
        .collect();
    format!("{}?api-version=2026-07-01", filled.join("/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_closed_to_those_without_a_right_token() {
    let lab = Lab::start().await;
    lab.run("g", &document(&["sleep", "3600"])).await;
    let before = lab.host.store.writes();
    let mut client = lab.client().await;
    let (mut closed, mut open) = (0, Vec::new());
    let expired = "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjF9.AAAA";
    let shorter = &WRITER[..WRITER.len() - 1];
    let longer = format!("{WRITER}x");
    for route in lab.api.routes() {
        if route.need == Need::Open {
            open.push(route.path);
            continue;
        }
        closed += 1;
        let path = path(route.path);
        for token in [
            None,
            Some("wrong"),
            Some(""),
            Some(shorter),
            Some(&*longer),
            Some(expired),
        ] {
            let answer = client.ask(route.method.clone(), &path, token, "{}").await;
            assert_eq!(
                answer.status,
                StatusCode::UNAUTHORIZED,
                "{route:?} {token:?}"
            );
            assert!(answer.headers.contains_key("www-authenticate"), "{route:?}");
        }
        if route.need == Need::Write {
            let answer = client
                .ask(route.method.clone(), &path, Some(READER), "{}")
                .await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{route:?}");
            assert_eq!(answer.code(), "AuthorizationFailed");
        }
    }
    assert!(closed >= 20, "{closed} routes");
    // What is open: what clients read before they have a token, and what has its own password.
    for path in &open {
        let expected = [
            "/metadata/endpoints",
            "/exec/{session}",
            "/attach/{session}",
        ];
        assert!(expected.contains(path), "{path} is open");
    }
    assert_eq!(lab.host.store.writes(), before, "something was changed");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_is_not_told_what_exists() {
    let lab = Lab::start().await;
    let mut client = lab.client().await;
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/nowhere"),
        (Method::DELETE, "/subscriptions"),
        (Method::TRACE, "/subscriptions"),
        (Method::OPTIONS, "/subscriptions"),
        (Method::GET, "/subscriptions/%ff"),
        (Method::GET, "/subscriptions/../metrics"),
        (Method::GET, "//metrics"),
        (Method::GET, "/METRICS"),
        (
            Method::GET,
            "/metrics?access_token=writer-0123456789abcdef0123456789",
        ),
    ] {
        let answer = client.ask(method.clone(), path, None, "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    let answer = client.ask(Method::GET, "/nowhere", Some(READER), "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_request_survives_its_client() {
    let lab = Lab::start().await;
    let path = format!("{GROUPS}/g?api-version=2023-05-01");
    let body = document(&["sleep", "3600"]);
    let first = lab.ask(Method::PUT, &path, Some(WRITER), &body).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let group = aci_core::id::GroupRef::new("00000000-0000-0000-0000-000000000000", "rg", "g");
    let group = lab.engine.get(group).unwrap();
    group.running().await.unwrap();
    let sandbox = group.sandbox_id();
    // The same once more, as a client does that did not see the answer: nothing is restarted.
    let again = lab.ask(Method::PUT, &path, Some(WRITER), &body).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(group.sandbox_id(), sandbox);
    let view = group.container("c").unwrap().view();
    assert_eq!(view.restart_count.unwrap_or(0), 0);
    for expected in [StatusCode::OK, StatusCode::NO_CONTENT] {
        let gone = lab.ask(Method::DELETE, &path, Some(WRITER), "").await;
        assert_eq!(gone.status, expected);
    }
    lab.end().await;
}
