//! Handshakes with openssl's client, which still speaks what is refused; certificates that change.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aci_runtime::server::{CertificateSource, ClientCertificates, ServerOptions, Tls};
use http::Method;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::lab::{Lab, READER, source, tls_options};

async fn s_client(lab: &Lab, options: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command
        .args([
            "s_client",
            "-brief",
            "-servername",
            "localhost",
            "-verify_return_error",
        ])
        .args(["-connect", &lab.address.to_string()])
        .arg("-CAfile")
        .arg(lab.authority())
        .args(options)
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_older_than_tls_1_2_is_spoken() {
    let lab = Lab::start().await;
    for old in ["-tls1", "-tls1_1"] {
        // At the lowest level of security the client offers all that it has.
        let said = s_client(&lab, &[old, "-cipher", "ALL:@SECLEVEL=0"]).await;
        assert!(said.contains("alert"), "{old}: {said}");
        assert!(!said.contains("CONNECTION ESTABLISHED"), "{old}: {said}");
    }
    let said = s_client(&lab, &["-tls1_2"]).await;
    assert!(said.contains("Protocol version: TLSv1.2"), "{said}");
    // Both are offered, and the newer one is taken.
    let said = s_client(&lab, &["-alpn", "h2,http/1.1"]).await;
    assert!(said.contains("Protocol version: TLSv1.3"), "{said}");
    assert!(said.contains("Verification: OK"), "{said}");
    // Without forward secrecy or authenticated encryption there is no connection.
    let said = s_client(
        &lab,
        &["-tls1_2", "-cipher", "AES256-SHA:ECDHE-ECDSA-AES256-SHA"],
    )
    .await;
    assert!(!said.contains("CONNECTION ESTABLISHED"), "{said}");
    lab.end().await;
}

#[test]
fn self_made_keys_are_their_owners_and_the_authority_stays() {
    let dir = tempfile::tempdir().unwrap();
    let open = |names: &[&str]| Tls::open(tls_options(source(&dir, names))).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("tls").join(name)).unwrap();
    open(&["localhost"]);
    let first = (read("ca.pem"), read("server.pem"));
    for (name, mode) in [("ca.key", 0o600), ("server.key", 0o600), ("ca.pem", 0o644)] {
        let meta = std::fs::metadata(dir.path().join("tls").join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{name}");
    }
    open(&["localhost"]);
    assert_eq!((read("ca.pem"), read("server.pem")), first);
    open(&["localhost", "10.1.2.3"]);
    assert_eq!(read("ca.pem"), first.0, "clients trust it already");
    assert_ne!(read("server.pem"), first.1, "it has another name");
    // What broke off between two files is made again.
    std::fs::remove_file(dir.path().join("tls/server.key")).unwrap();
    open(&["localhost", "10.1.2.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_without_a_restart() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&old, &new] {
        Tls::open(tls_options(source(dir, &["localhost"]))).unwrap();
    }
    let place = tempfile::tempdir().unwrap();
    let (chain, key) = (place.path().join("chain.pem"), place.path().join("key.pem"));
    let copy = |from: &Path| {
        std::fs::copy(from.join("tls/server.pem"), &chain).unwrap();
        std::fs::copy(from.join("tls/server.key"), &key).unwrap();
    };
    copy(old.path());
    let files = CertificateSource::Files {
        chain: chain.clone(),
        key: key.clone(),
    };
    let tls = Arc::new(Tls::open(tls_options(files)).unwrap());
    assert!(!tls.reload().unwrap(), "nothing has changed");
    let before = tls.config();
    // A chain and a key that do not belong together are not used, nor is half a file.
    std::fs::copy(new.path().join("tls/server.pem"), &chain).unwrap();
    assert!(tls.reload().is_err());
    std::fs::write(&chain, "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    assert!(tls.reload().is_err());
    assert!(Arc::ptr_eq(&before, &tls.config()));
    copy(new.path());
    assert!(tls.reload().unwrap());
    assert!(!Arc::ptr_eq(&before, &tls.config()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_takes_the_new_certificate() {
    let lab = Lab::start().await;
    let mut kept = lab.client().await;
    let path = "/subscriptions?api-version=2022-12-01";
    assert!(
        kept.ask(Method::GET, path, Some(READER), "")
            .await
            .status
            .is_success()
    );
    let shown = |stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    };
    let before = shown(lab.connect().await.unwrap());
    // The server makes the missing file anew as soon as it looks.
    std::fs::remove_file(lab.dir.path().join("tls/server.pem")).unwrap();
    let mut now = before.clone();
    while now == before {
        tokio::time::sleep(Duration::from_millis(200)).await;
        now = shown(lab.connect().await.unwrap());
    }
    // Connections from before go on.
    assert!(
        kept.ask(Method::GET, path, Some(READER), "")
            .await
            .status
            .is_success()
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_a_certificate_are_turned_away_if_it_is_required() {
    // Another server's authority signs the clients' certificates here.
    let clients = tempfile::tempdir().unwrap();
    Tls::open(tls_options(source(&clients, &["client"]))).unwrap();
    let file = |name: &str| clients.path().join("tls").join(name);
    // A certificate for clients: signed with openssl, as an operator would.
    let sh = "openssl ecparam -name prime256v1 -genkey -noout -out c.key && openssl req -new -key c.key \
              -subj /CN=ada -out c.csr && printf 'extendedKeyUsage=clientAuth' > ext && openssl x509 -req -in \
              c.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out c.pem";
    let made = Command::new("sh")
        .args(["-ec", sh])
        .current_dir(clients.path().join("tls"))
        .output();
    let made = made.unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let required = ClientCertificates::Required(file("ca.pem"));
    let lab = Lab::with(ServerOptions::default(), required).await;
    // The client notices with its first read, because in TLS 1.3 it is done before the server is.
    let mut bare = super::lab::Client::over(lab.connect().await.unwrap()).await;
    let path = "/subscriptions?api-version=2022-12-01";
    assert!(
        bare.try_ask(Method::GET, path, Some(READER), "")
            .await
            .is_err()
    );
    let mut config = lab.client_config();
    let chain = vec![CertificateDer::from_pem_file(file("c.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("c.key")).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let signing = provider.key_provider.load_private_key(key).unwrap();
    let certified = tokio_rustls::rustls::sign::CertifiedKey::new(chain, signing);
    config.client_auth_cert_resolver = Arc::new(
        tokio_rustls::rustls::sign::SingleCertAndKey::from(certified),
    );
    let mut client = super::lab::Client::over(lab.connect_with(config).await.unwrap()).await;
    // The certificate opens the connection; what may be done is the token's.
    assert!(
        client
            .ask(Method::GET, path, Some(READER), "")
            .await
            .status
            .is_success()
    );
    assert_eq!(client.ask(Method::GET, path, None, "").await.status, 401);
    lab.end().await;
}
