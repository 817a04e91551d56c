//! Who may pull, and who gets to see credentials.

use aci_core::contract::PullPolicy;
use aci_core::error::ErrorKind;
use base64::Engine as _;

use crate::common::{architecture, layer};
use crate::front::{Act, Front};
use crate::server::{PASSWORD, Pusher, Registry, Setup, USER};
use crate::{is, is_empty, login, pull, pull_as, store, store_with};

const IF_NOT_PRESENT: PullPolicy = PullPolicy::IfNotPresent;

async fn with_password() -> Option<Registry> {
    let registry = Registry::start(Setup {
        password: true,
        ..Setup::default()
    })?;
    let pusher = Pusher::new(&registry, "private");
    pusher
        .image("1", architecture(), &[layer(&[("a", "1")])])
        .await;
    Some(registry)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_and_a_wrong_one_does_not() {
    let Some(registry) = with_password().await else {
        return;
    };
    let store = store(&[registry.host()]);
    let host = registry.host();
    let reference = format!("{host}/private:1");
    let wrong = format!("{PASSWORD}-not");
    for (login, hint) in [
        (None, "add imageRegistryCredentials"),
        (Some(login(&host, &wrong)), "check the user name"),
        // For somebody else, so it is not even tried.
        (
            Some(login("other.example", PASSWORD)),
            "add imageRegistryCredentials",
        ),
    ] {
        let error = pull_as(&store, &reference, IF_NOT_PRESENT, login)
            .await
            .unwrap_err();
        is(
            &error,
            ErrorKind::PermissionDenied,
            Some("InaccessibleImage"),
        );
        assert!(error.next_step().unwrap().contains(hint), "{error:?}");
        assert!(error.message().contains(&reference), "{error}");
    }
    is_empty(&store).await;
    let right = Some(login(&host, PASSWORD));
    pull_as(&store, &reference, IF_NOT_PRESENT, right)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_said() {
    let Some(registry) = with_password().await else {
        return;
    };
    let host = registry.host();
    let store = store(std::slice::from_ref(&host));
    for missing in ["private:2", "nothing:1"] {
        let reference = format!("{host}/{missing}");
        let login = Some(login(&host, PASSWORD));
        let error = pull_as(&store, &reference, IF_NOT_PRESENT, login)
            .await
            .unwrap_err();
        is(&error, ErrorKind::NotFound, Some("InaccessibleImage"));
        assert_eq!(
            error.message(),
            format!(
                "The image '{reference}' is not accessible. Please check the image and registry credential."
            )
        );
    }
}

/// A name that nobody has (RFC 6761, section 6.4): it cannot be had now, and asking again is of use.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_inaccessible() {
    let store = store(&[]);
    let error = pull(&store, "registry.invalid/app:1").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, Some("InaccessibleImage"));
    assert!(error.next_step().unwrap().contains("registry.invalid"));
}

/// Blobs often lie elsewhere; that host must not see the registry's password.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_takes_no_credentials_along() {
    let Some(registry) = with_password().await else {
        return;
    };
    // The second host asks the registry with credentials of its own, so it can serve the blobs.
    let elsewhere = Front::before(registry.host(), |_, _| {
        Act::Say(200, vec![], b"{}".to_vec())
    })
    .await;
    let target = elsewhere.host();
    let front = Front::before(registry.host(), move |head, _| {
        if head.is_blob() {
            let location = format!("http://{target}/elsewhere?signature=c2VjcmV0");
            Act::Say(307, vec![("Location".into(), location)], vec![])
        } else {
            Act::Pass
        }
    })
    .await;
    let reference = format!("{}/private:1", front.host());
    let right = || Some(login(&front.host(), PASSWORD));

    // To a host without TLS that is not named: not at all.
    let store = store(&[front.host()]);
    let error = pull_as(&store, &reference, IF_NOT_PRESENT, right())
        .await
        .unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    assert!(elsewhere.seen().is_empty());

    let store = self::store(&[front.host(), elsewhere.host()]);
    let error = pull_as(&store, &reference, IF_NOT_PRESENT, right())
        .await
        .unwrap_err();
    // What came from there was checked.
    is(&error, ErrorKind::Corrupt, None);
    let seen = elsewhere.seen();
    assert!(!seen.is_empty());
    for head in seen {
        assert_eq!(head.header("Authorization"), None, "{}", head.text);
        assert_eq!(head.header("Host"), Some(elsewhere.host().as_str()));
    }
    assert!(
        front
            .seen()
            .iter()
            .any(|h| h.header("Authorization").is_some())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_in_a_circle_end() {
    let front = Front::before("127.0.0.1:1", |head, _| {
        Act::Say(302, vec![("Location".into(), head.path.clone())], vec![])
    })
    .await;
    let store = store(&[front.host()]);
    let error = pull(&store, &format!("{}/a:1", front.host()))
        .await
        .unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    assert!(front.seen().len() < 10);
}

/// Docker's token authentication: the token server sees the password, the registry the token.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_and_shown() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "team/app");
    pusher
        .image("1", architecture(), &[layer(&[("a", "1")])])
        .await;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let tokens = Front::before("127.0.0.1:1", move |head, _| {
        let known = head.header("Authorization") == Some(&format!("Basic {pair}"));
        let (status, body) = match known {
            true => (200, r#"{"token": "T0ken", "expires_in": 60}"#),
            false => (401, "{}"),
        };
        Act::Say(status, vec![], body.into())
    })
    .await;
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:team/app:pull\"",
        tokens.host()
    );
    let front = Front::before(registry.host(), move |head, _| {
        if head.header("Authorization") == Some("Bearer T0ken") {
            Act::Pass
        } else {
            Act::Say(
                401,
                vec![("WWW-Authenticate".into(), realm.clone())],
                vec![],
            )
        }
    })
    .await;
    let reference = format!("{}/team/app:1", front.host());
    let hosts = [front.host(), tokens.host()];

    let store = store(&hosts);
    let error = pull(&store, &reference).await.unwrap_err();
    is(
        &error,
        ErrorKind::PermissionDenied,
        Some("InaccessibleImage"),
    );
    let right = Some(login(&front.host(), PASSWORD));
    pull_as(&store, &reference, IF_NOT_PRESENT, right.clone())
        .await
        .unwrap();
    for head in front.seen() {
        let shown = head.header("Authorization").unwrap_or_default();
        assert!(!shown.contains("Basic"), "{}", head.text);
    }
    // One for each pull, whatever the number of blobs.
    let seen = tokens.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(
        seen[1].path,
        "/token?scope=repository%3Ateam%2Fapp%3Apull&service=test"
    );

    // A token server without TLS which is not named gets nothing.
    let store = self::store(&hosts[..1]);
    let error = pull_as(&store, &reference, IF_NOT_PRESENT, right)
        .await
        .unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    assert_eq!(tokens.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first_and_without_credentials() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "team/app");
    pusher
        .image("1", architecture(), &[layer(&[("a", "1")])])
        .await;
    let mirror = Front::before(registry.host(), |_, _| Act::Pass).await;
    let broken = Front::before("127.0.0.1:1", |_, _| Act::Say(404, vec![], vec![])).await;
    let hosts = [broken.host(), mirror.host()];
    let store = store_with(|r| {
        r.insecure = hosts.to_vec();
        r.mirrors.insert("registry.invalid".into(), hosts.to_vec());
    });
    let login = Some(login("registry.invalid", PASSWORD));
    let image = pull_as(&store, "registry.invalid/team/app:1", IF_NOT_PRESENT, login).await;
    assert_eq!(image.unwrap().reference, "registry.invalid/team/app:1");
    for head in mirror.seen().iter().chain(&broken.seen()) {
        assert_eq!(head.header("Authorization"), None, "{}", head.text);
    }
    // When no mirror has it, the registry itself decides.
    let error = pull(&store, "registry.invalid/other:1").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, Some("InaccessibleImage"));
}

/// Tokens last minutes; a pull may last longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_in_the_middle_is_replaced() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    pusher
        .image("1", architecture(), &[layer(&[("a", "1")])])
        .await;
    let tokens = Front::before("127.0.0.1:1", |_, before| {
        let body = format!("{{\"access_token\": \"token-{before}\"}}");
        Act::Say(200, vec![], body.into())
    })
    .await;
    let challenge = format!("Bearer realm=\"http://{}/\"", tokens.host());
    let front = Front::before(registry.host(), move |head, _| {
        let wanted = match head.is_blob() {
            true => "Bearer token-1",
            false => "Bearer token-0",
        };
        if head.header("Authorization") == Some(wanted) {
            Act::Pass
        } else {
            Act::Say(
                401,
                vec![("WWW-Authenticate".into(), challenge.clone())],
                vec![],
            )
        }
    })
    .await;
    let store = store(&[front.host(), tokens.host()]);
    pull(&store, &format!("{}/app:1", front.host()))
        .await
        .unwrap();
    assert_eq!(tokens.seen().len(), 2);
}
