//! A front on a port of its own, and a client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{GroupStore, ResourceStore};
use aci_core::fake::{FakeHost, TokioClock};
use aci_runtime::arm::access::{AccessControl, Grant, Role, RoleTable, StaticTokens};
use aci_runtime::arm::{ArmApi, ArmOptions};
use aci_runtime::server::{
    CertificateSource, ClientCertificates, Server, ServerOptions, Tls, TlsOptions,
};
use aci_runtime::{Engine, RedbStore};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

/// A token that may do everything.
pub const WRITER: &str = "writer-0123456789abcdef0123456789";
/// A token that may look.
pub const READER: &str = "reader-0123456789abcdef0123456789";
/// Where groups are.
pub const GROUPS: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/\
                          Microsoft.ContainerInstance/containerGroups";

pub struct Lab {
    pub host: FakeHost,
    pub engine: Engine,
    pub api: ArmApi,
    pub address: SocketAddr,
    pub dir: TempDir,
    pub tls: Arc<Tls>,
    pub stop: CancellationToken,
    pub serving: JoinHandle<()>,
}

pub fn source(dir: &TempDir, names: &[&str]) -> CertificateSource {
    CertificateSource::SelfMade {
        dir: dir.path().join("tls"),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
    }
}

pub fn tls_options(source: CertificateSource) -> TlsOptions {
    TlsOptions::new(Arc::new(ring::default_provider()), source)
}

impl Lab {
    pub async fn start() -> Self {
        Self::with(ServerOptions::default(), ClientCertificates::NotAsked).await
    }

    pub async fn with(options: ServerOptions, clients: ClientCertificates) -> Self {
        let host = FakeHost::new(Arc::new(TokioClock::new()));
        let dir = tempfile::tempdir().unwrap();
        let store = host.store.clone();
        Self::over(dir, host, store, options, clients).await
    }

    /// With a journal on disk.
    pub async fn on_disk() -> Self {
        let host = FakeHost::new(Arc::new(TokioClock::new()));
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path().join("journal")).unwrap();
        let clients = ClientCertificates::NotAsked;
        Self::over(dir, host, store, ServerOptions::default(), clients).await
    }

    async fn over<S: GroupStore + ResourceStore + Clone + 'static>(
        dir: TempDir,
        host: FakeHost,
        store: S,
        options: ServerOptions,
        clients: ClientCertificates,
    ) -> Self {
        let source = source(&dir, &["localhost", "127.0.0.1"]);
        let tls = Arc::new(Tls::open(tls_options(source).clients(clients)).unwrap());
        let engine = Engine::builder()
            .isolation(host.isolation.clone())
            .images(host.images.clone())
            .network(host.network.clone())
            .volumes(host.volumes.clone())
            .store(store.clone())
            .options(aci_runtime::EngineOptions {
                capacity: Some(aci_core::size::Capacity {
                    cpu: aci_core::size::Cpu::from_hundredths(10_000_000),
                    memory: aci_core::size::Memory::from_tenths(10_000_000),
                    gpus: Vec::new(),
                }),
                ..Default::default()
            })
            .build()
            .await
            .unwrap();
        let grants = [
            Grant::everywhere("writer", Role::Contributor),
            Grant::everywhere("reader", Role::Reader),
        ];
        let tokens = StaticTokens::default().token(WRITER, "writer").unwrap();
        let access = AccessControl::new(RoleTable::new(grants))
            .authenticator(tokens.token(READER, "reader").unwrap());
        let mut front = ArmOptions::default();
        front.body_timeout = Duration::from_secs(2);
        let api = ArmApi::builder(engine.clone())
            .store(store)
            .authorizer(access)
            .options(front)
            .build()
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::new(listener, Some(Arc::clone(&tls)), options);
        let address = server.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(api.router(), stop.clone()));
        Self {
            host,
            engine,
            api,
            address,
            dir,
            tls,
            stop,
            serving,
        }
    }

    pub fn authority(&self) -> PathBuf {
        self.tls.authority().unwrap()
    }

    pub fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.authority()).unwrap())
            .unwrap();
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_with(self.client_config()).await
    }

    pub async fn connect_with(
        &self,
        config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    pub async fn client(&self) -> Client {
        Client::over(self.connect().await.unwrap()).await
    }

    pub async fn ask(&self, method: Method, path: &str, token: Option<&str>, body: &str) -> Answer {
        self.client().await.ask(method, path, token, body).await
    }

    /// Puts a group and waits until it runs.
    pub async fn run(&self, name: &str, body: &str) {
        let path = format!("{GROUPS}/{name}?api-version=2023-05-01");
        let answer = self.ask(Method::PUT, &path, Some(WRITER), body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        let group = aci_core::id::GroupRef::new("00000000-0000-0000-0000-000000000000", "rg", name);
        self.engine.get(group).unwrap().running().await.unwrap();
    }

    /// Ends it, and hands over what is on disk.
    pub async fn end(self) -> TempDir {
        self.stop.cancel();
        self.api.close().await;
        self.serving.await.unwrap();
        self.engine
            .shutdown(aci_runtime::Shutdown::LeaveRunning)
            .await
            .unwrap();
        self.dir
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn code(&self) -> String {
        let value = self.json();
        value["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// A connection that is kept.
pub struct Client(http1::SendRequest<Full<Bytes>>);

impl Client {
    pub async fn over(stream: TlsStream<TcpStream>) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> Answer {
        self.try_ask(method, path, token, body).await.unwrap()
    }

    pub async fn try_ask(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> hyper::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap();
        self.0.ready().await?;
        let (parts, body) = self.0.send_request(request).await?.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }
}

/// A group of one container that runs a command.
pub fn document(command: &[&str]) -> String {
    serde_json::json!({"location": "local", "properties": {
        "osType": "Linux", "restartPolicy": "Never",
        "containers": [{"name": "c", "properties": {
            "image": "sh", "command": command, "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}}}]}})
    .to_string()
}
