//! TLS: which certificates, which versions, and what computes it.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aci_core::error::ErrorKind;
use aci_storage::TlsRoots;
use tokio_rustls::rustls::crypto::ring;

use crate::common::{architecture, layer};
use crate::server::{Pusher, Registry, Setup};
use crate::{is, pull, store_with};

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_the_given_roots_only() {
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = signed.cert.pem();
    let key = signed.signing_key.serialize_pem();
    let Some(mut plain) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&plain, "app");
    pusher
        .image("1", architecture(), &[layer(&[("a", "1")])])
        .await;
    // The same registry, now with TLS.
    let reference = format!("localhost:{}/app:1", plain.port);
    let trusting = store_with(|r| r.roots = TlsRoots::Pem(certificate.clone()));
    let error = pull(&trusting, &reference).await.unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    assert!(
        error.next_step().unwrap().contains("insecure"),
        "plain HTTP without a word: {error:?}"
    );
    plain.kill();
    plain.with_tls(certificate.clone(), key);
    assert!(plain.up());

    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    for roots in [TlsRoots::Pem(other.cert.pem()), TlsRoots::System] {
        let store = store_with(|r| r.roots = roots.clone());
        let error = pull(&store, &reference).await.unwrap_err();
        if roots == TlsRoots::System && error.kind() == ErrorKind::Invalid {
            continue; // a system without certificates
        }
        is(
            &error,
            ErrorKind::Unavailable,
            Some("RegistryErrorResponse"),
        );
        let hint = error.next_step().unwrap();
        assert!(hint.contains("certificate"), "{hint}");
    }
    pull(&trusting, &reference).await.unwrap();
    // The certificate is for another name.
    let by_address = format!("127.0.0.1:{}/app:1", plain.port);
    let error = pull(&trusting, &by_address).await.unwrap_err();
    assert!(
        error.next_step().unwrap().contains("certificate"),
        "{error:?}"
    );
}

/// A server by `openssl` that speaks one version of TLS only, and answers with a page.
struct OneVersion {
    child: Child,
    port: u16,
}

impl OneVersion {
    fn start(version: &str, dir: &std::path::Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut child = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", version])
            // What OpenSSL itself calls too weak by now.
            .args(["-cipher", "ALL:@SECLEVEL=0"])
            .args(["-accept", &format!("127.0.0.1:{port}")])
            .arg("-cert")
            .arg(dir.join("cert.pem"))
            .arg("-key")
            .arg(dir.join("key.pem"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "openssl ended");
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }
}

impl Drop for OneVersion {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_1_2_at_least_and_computed_by_what_is_passed_in() {
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cert.pem"), signed.cert.pem()).unwrap();
    let key = signed.signing_key.serialize_pem();
    std::fs::write(dir.path().join("key.pem"), key).unwrap();
    // A provider without the older of the two versions that are spoken.
    let mut newest = ring::default_provider();
    newest.cipher_suites.retain(|suite| suite.tls13().is_some());
    let newest = Arc::new(newest);
    for (version, crypto, speaks) in [
        ("-tls1_1", None, false),
        ("-tls1_2", None, true),
        ("-tls1_3", None, true),
        ("-tls1_2", Some(&newest), false),
        ("-tls1_3", Some(&newest), true),
    ] {
        let server = OneVersion::start(version, dir.path());
        let store = store_with(|r| {
            r.roots = TlsRoots::Pem(signed.cert.pem());
            r.crypto = crypto.cloned();
            r.retries = 0;
        });
        let error = pull(&store, &format!("localhost:{}/app:1", server.port))
            .await
            .unwrap_err();
        is(
            &error,
            ErrorKind::Unavailable,
            Some("RegistryErrorResponse"),
        );
        let hint = error.next_step().unwrap();
        let expected = match speaks {
            // A page and no manifest, but it came through.
            true => "manifest",
            false => "no TLS session",
        };
        assert!(hint.contains(expected), "{version} {crypto:?}: {hint}");
    }
}
