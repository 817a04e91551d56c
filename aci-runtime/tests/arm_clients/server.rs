//! A front on real parts or on fakes, listening with TLS on a free port of loopback.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{Isolation, ResourceStore};
use aci_core::fake::{FakeHost, TokioClock};
use aci_core::size::{Capacity, Cpu, Memory};
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::LoopbackNetwork;
use aci_runtime::arm::access::{AccessControl, Grant, Role, RoleTable, StaticTokens};
use aci_runtime::arm::{ArmApi, ArmOptions};
use aci_runtime::server::{CertificateSource, Server, ServerOptions, Tls, TlsOptions};
use aci_runtime::{Engine, EngineOptions, RedbStore, Shutdown};
use aci_storage::{EmptyDirs, HostImage, OciImages, Secrets};
use tokio_rustls::rustls::crypto::ring;
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "a-token-of-a-test-that-nobody-guesses";
pub(crate) const IMAGE: &str = "local/tools:1";

/// A front that listens. End it with [`Listening::end`]; what it made is removed even when a test
/// fails.
pub(crate) struct Listening {
    pub(crate) base: String,
    pub(crate) authority: PathBuf,
    pub(crate) engine: Engine,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    place: Place,
}

/// A directory whose sandboxes are removed with it.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        let run = self.0.path().join("run");
        if !run.exists() {
            return;
        }
        // A runtime of its own: this may run inside one that is unwinding.
        let cleared = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let isolation = isolation(&run);
                for id in isolation.list().await.unwrap() {
                    isolation.remove(&id).await.unwrap();
                }
            });
        });
        if cleared.join().is_err() {
            eprintln!(
                "sandboxes below {} could not be removed",
                self.0.path().display()
            );
        }
    }
}

fn isolation(run: &Path) -> Namespaces {
    Namespaces::new(NamespacesOptions::default().state_dir(run)).unwrap()
}

fn options() -> EngineOptions {
    EngineOptions {
        grace: Duration::from_millis(500),
        // More than the machine has: the groups of these tests use next to nothing.
        capacity: Some(Capacity {
            cpu: Cpu::from_whole_cores(1_000),
            memory: Memory::from_whole_gb(10_000),
            gpus: Vec::new(),
        }),
        ..EngineOptions::default()
    }
}

/// On namespaces, an image of the host's programs and a journal on disk.
pub(crate) async fn real() -> Listening {
    let place = Place(tempfile::tempdir().unwrap());
    let dir = place.0.path();
    let images = OciImages::open(dir.join("images")).unwrap();
    HostImage::new(IMAGE)
        .program("/bin/sh")
        .program("/bin/sleep")
        .program("/bin/true")
        .build(&images)
        .await
        .unwrap();
    let store = RedbStore::open(dir.join("journal")).unwrap();
    let engine = Engine::builder()
        .isolation(isolation(&dir.join("run")))
        .images(images)
        .network(LoopbackNetwork::new())
        .volumes(EmptyDirs::open(dir.join("volumes")).unwrap())
        .volumes(Secrets)
        .store(store.clone())
        .options(options())
        .build()
        .await
        .unwrap();
    listen(engine, store, place).await
}

/// On the fakes of `aci-core`.
pub(crate) async fn fake() -> Listening {
    let host = FakeHost::new(Arc::new(TokioClock::new()));
    let place = Place(tempfile::tempdir().unwrap());
    let engine = fake_engine(&host).await;
    listen(engine, host.store.clone(), place).await
}

pub(crate) async fn fake_engine(host: &FakeHost) -> Engine {
    Engine::builder()
        .isolation(host.isolation.clone())
        .images(host.images.clone())
        .network(host.network.clone())
        .volumes(host.volumes.clone())
        .store(host.store.clone())
        .options(options())
        .build()
        .await
        .unwrap()
}

async fn listen(engine: Engine, store: impl ResourceStore + 'static, place: Place) -> Listening {
    let dir = place.0.path();
    let tokens = StaticTokens::default().token(TOKEN, "tester").unwrap();
    let roles = RoleTable::new([Grant::everywhere("tester", Role::Contributor)]);
    let mut arm = ArmOptions::default();
    arm.page = 3;
    let api = ArmApi::builder(engine.clone())
        .store(store)
        .authorizer(AccessControl::new(roles).authenticator(tokens))
        .options(arm)
        .build()
        .await
        .unwrap();
    let source = CertificateSource::SelfMade {
        dir: dir.join("tls"),
        names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
    };
    let provider = Arc::new(ring::default_provider());
    let tls = Arc::new(Tls::open(TlsOptions::new(provider, source)).unwrap());
    let authority = tls.authority().unwrap();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::new(socket, Some(tls), ServerOptions::default());
    let base = format!("https://localhost:{}", server.local_addr().unwrap().port());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.run(api.router(), stop.clone()));
    Listening {
        base,
        authority,
        engine,
        stop,
        serving,
        place,
    }
}

impl Listening {
    /// Stops listening, then the groups.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.engine.shutdown(Shutdown::StopGroups).await.unwrap();
        drop(self.place);
    }
}
