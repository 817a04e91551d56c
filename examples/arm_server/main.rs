//! A server that Azure's clients take for Azure Container Instances:
//! `cargo run --release --example arm_server`. Its page is `examples/arm_server/README.md`.

mod issuer;
mod networks;
mod telemetry;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use aci_core::contract::SystemClock;
use aci_examples::{hello, host, secret};
use aci_isolation::{Namespaces, NamespacesOptions};
use aci_net::{BridgeNetwork, LoopbackNetwork};
use aci_runtime::analytics::{self, LogAnalyticsOptions};
use aci_runtime::arm::access::{
    AccessControl, Grant, Jwks, JwtOptions, JwtTokens, Role, RoleTable, StaticTokens,
};
use aci_runtime::arm::network::{self, NetworkAdmin as _};
use aci_runtime::arm::{ArmApi, ArmOptions};
use aci_runtime::server::{
    CertificateSource, ClientCertificates, Server, ServerOptions, Tls, TlsOptions,
};
use aci_runtime::{Engine, RedbStore, Shutdown, identity};
use aci_storage::{
    AzureFiles, AzureFilesOptions, EmptyDirs, HostImage, OciImages, OciImagesOptions, Secrets,
};
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use issuer::Issuer;
use networks::Networks;
use ring::rand::{SecureRandom as _, SystemRandom};
use telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

/// The principal that the server's own tokens are for.
const OPERATOR: &str = "00000000-0000-0000-0000-000000000001";
/// Descriptors that 8,192 connections and the groups need.
const DESCRIPTORS: u64 = 65_536;

/// Serves the management interface of Azure Container Instances on this machine.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; anything but loopback is reached by others, who need a token.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where images, journal, keys and the secret are kept.
    #[arg(long, default_value = "arm-server")]
    dir: PathBuf,
    /// The name that clients call the server by.
    #[arg(long, default_value = "localhost")]
    name: String,
    /// Further names or addresses for the self-made certificate; may be repeated.
    #[arg(long)]
    also: Vec<String>,
    /// A certificate chain (PEM) in the place of the self-made one; needs --key.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Clients have to show a certificate of one of these authorities (PEM), besides a token.
    #[arg(long)]
    client_ca: Option<PathBuf>,
    /// The subscription that clients see.
    #[arg(long, default_value = "00000000-0000-0000-0000-000000000000")]
    subscription: String,
    /// The region's name.
    #[arg(long, default_value = "local")]
    location: String,
    /// Where groups with diagnostics.logAnalytics send their logs, such as
    /// https://{workspaceId}.ods.opinsights.azure.com; without it nowhere.
    #[arg(long, value_name = "URL")]
    log_analytics: Option<String>,
    /// Imports an image from a tar file or an OCI layout: NAME=PATH; may be repeated.
    #[arg(long, value_name = "NAME=PATH")]
    image: Vec<String>,
    /// A registry that is spoken to by plain HTTP, such as 127.0.0.1:5000; may be repeated.
    #[arg(long, value_name = "HOST")]
    insecure: Vec<String>,
}

fn main() -> ExitCode {
    // Inside containers of the image local/hello:1 this very program is the web server.
    if let Some(outcome) = hello::run_if_called() {
        return exit_code(outcome);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(Err(error.into())),
    };
    let arguments = Arguments::parse();
    let started = public_authorities().and_then(|a| Telemetry::start(runtime.handle(), a));
    let telemetry = match started {
        Ok(telemetry) => telemetry,
        Err(error) => return exit_code(Err(error)),
    };
    let outcome = runtime.block_on(run(arguments, &telemetry));
    telemetry.end();
    exit_code(outcome)
}

fn exit_code(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments, telemetry: &Telemetry) -> Result<()> {
    more_descriptors();
    secret::directory(&arguments.dir)?;
    let dir = std::fs::canonicalize(&arguments.dir)?;
    let tls = Arc::new(open_tls(&arguments, &dir)?);
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let port = listener.local_addr()?.port();
    let base = format!("https://{}:{port}", arguments.name);

    let recorder = telemetry.count()?;
    let store = Arc::new(RedbStore::open(dir.join("journal"))?);
    let bridge = host::bridge(&dir).await?;
    // Groups that come back before the front does find their subnets.
    let networks = match &bridge {
        Some(bridge) => {
            let networks = Networks::over(bridge.clone()).await?;
            let journaled = network::journaled(Arc::clone(&store)).await?;
            // What cannot be in force is told again by the front, which can then be used to mend it.
            if let Err(error) = networks.configure(journaled).await {
                tracing::warn!(%error, "not all virtual networks are in force");
            }
            Some(networks)
        }
        None => None,
    };
    let engine = open_engine(&arguments, &dir, &store, bridge.clone()).await?;
    if let Some(endpoint) = &arguments.log_analytics {
        let mut options = LogAnalyticsOptions::new(dir.join("analytics"), public_authorities()?);
        options.endpoint.clone_from(endpoint);
        analytics::start(&engine, options)?;
    }

    let own_secret = own_secret(&dir)?;
    let tenant = ArmOptions::default().tenant_id;
    let issuer = Arc::new(Issuer::open(
        &dir,
        &base,
        &tenant,
        OPERATOR,
        own_secret.clone(),
    )?);
    let tokens = JwtOptions::new(issuer.issuer()).audience(&base);
    let keys = Jwks::parse(&issuer.jwks().to_string())?;
    let access = AccessControl::new(RoleTable::new([Grant::everywhere(
        OPERATOR,
        Role::Contributor,
    )]))
    .authority(&issuer.issuer())
    .authenticator(StaticTokens::default().token(&own_secret, OPERATOR)?)
    .authenticator(JwtTokens::new(
        tokens,
        keys,
        Arc::new(SystemClock::default()),
    ));

    let mut options = ArmOptions::default();
    options.subscriptions = vec![(arguments.subscription.clone(), "local".to_owned())];
    let api = ArmApi::builder(engine.clone())
        .store(Arc::clone(&store))
        .authorizer(access)
        .options(options)
        .identities(Arc::clone(&issuer) as Arc<dyn identity::IdentityProvider>)
        .exposition(move || open_metrics(&recorder.render()));
    let api = match networks {
        Some(networks) => api.networks(networks),
        None => api,
    };
    let api = api.build().await?;
    let router = Arc::clone(&issuer).router().fallback_service(api.router());

    let stop = CancellationToken::new();
    let server = Server::new(listener, Some(Arc::clone(&tls)), ServerOptions::default());
    let serving = tokio::spawn(server.run(router, stop.clone()));
    let metadata = match &bridge {
        Some(bridge) => {
            let listener = bridge.metadata_listener().await?;
            listener.set_nonblocking(true)?;
            let server = Server::new(
                TcpListener::from_std(listener)?,
                None,
                ServerOptions::default(),
            );
            let router = identity::router(engine.clone(), issuer);
            Some(tokio::spawn(server.run(router, stop.clone())))
        }
        None => None,
    };
    let environment = environment(&dir, &arguments, &base, &tls, &own_secret)?;
    println!("listening on {base}");
    println!("for clients:  . {}", environment.display());

    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    println!("stopping; groups go on, and the next start takes them over");
    stop.cancel();
    api.close().await;
    serving.await?;
    if let Some(metadata) = metadata {
        metadata.await?;
    }
    engine.shutdown(Shutdown::LeaveRunning).await?;
    Ok(())
}

/// As many open files as the machine allows, up to what the limits of the server can need.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    if now.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: now.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// Whom the system trusts.
fn public_authorities() -> Result<Arc<ClientConfig>> {
    let path = "/etc/ssl/certs/ca-certificates.crt";
    let mut roots = RootCertStore::empty();
    if Path::new(path).exists() {
        let found = CertificateDer::pem_file_iter(path)?.filter_map(|c| c.ok());
        roots.add_parsable_certificates(found);
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn open_tls(arguments: &Arguments, dir: &Path) -> Result<Tls> {
    let certificate = match (&arguments.cert, &arguments.key) {
        (Some(chain), Some(key)) => CertificateSource::Files {
            chain: chain.clone(),
            key: key.clone(),
        },
        _ => {
            let mut names = vec![arguments.name.clone()];
            let usual = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            for name in arguments.also.iter().chain(&usual) {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            CertificateSource::SelfMade {
                dir: dir.join("tls"),
                names,
            }
        }
    };
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let options = TlsOptions::new(provider, certificate);
    Ok(Tls::open(match &arguments.client_ca {
        Some(file) => options.clients(ClientCertificates::Required(file.clone())),
        None => options,
    })?)
}

async fn open_engine(
    arguments: &Arguments,
    dir: &Path,
    store: &Arc<RedbStore>,
    bridge: Option<BridgeNetwork>,
) -> Result<Engine> {
    let options = NamespacesOptions::default().state_dir(dir.join("run"));
    let mut images = OciImagesOptions::default();
    images.registries.insecure.clone_from(&arguments.insecure);
    let images = OciImages::open_with(dir.join("images"), images)?;
    let mut image = HostImage::new("local/hello:1");
    if Path::new("/usr/bin/curl").exists() {
        image = image.program("/usr/bin/curl");
    }
    image
        .program("/bin/sh")
        .program("/bin/cat")
        .program("/bin/ls")
        .program("/bin/sleep")
        .program("/usr/bin/id")
        .program_as(std::env::current_exe()?, "/bin/hello-web")
        .build(&images)
        .await?;
    for import in &arguments.image {
        let Some((name, path)) = import.split_once('=') else {
            bail!("--image {import}: it must be NAME=PATH");
        };
        let path = Path::new(path);
        if path.is_dir() {
            images.import_layout(path, name).await?;
        } else {
            images.import_tar(path, name).await?;
        }
    }
    let mut engine = aci_runtime::EngineOptions::default();
    engine.location.clone_from(&arguments.location);
    let builder = Engine::builder()
        .options(engine)
        .isolation(Namespaces::new(options)?)
        .images(images)
        .volumes(EmptyDirs::open(dir.join("volumes"))?)
        .volumes(Secrets)
        .volumes(AzureFiles::open(
            dir.join("volumes"),
            AzureFilesOptions::default(),
        )?)
        .store(Arc::clone(store));
    let builder = match bridge {
        Some(bridge) => builder.network(bridge),
        None => builder.network(LoopbackNetwork::new()),
    };
    Ok(builder.build().await?)
}

/// The server's secret: a bearer token, the secret of the operator's client credentials, and
/// `IDENTITY_HEADER`. Made at the first start.
fn own_secret(dir: &Path) -> Result<String> {
    let path = dir.join("secret");
    if !path.exists() {
        let mut bytes = [0; 32];
        if SystemRandom::new().fill(&mut bytes).is_err() {
            bail!("no randomness");
        }
        secret::write(&path, URL_SAFE_NO_PAD.encode(bytes).as_bytes())?;
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

/// What clients need, as variables that a shell reads.
fn environment(
    dir: &Path,
    arguments: &Arguments,
    base: &str,
    tls: &Tls,
    secret: &str,
) -> Result<PathBuf> {
    let mut lines = vec![
        format!("export ACI_ENDPOINT='{base}'"),
        format!("export ACI_TOKEN='{secret}'"),
        format!("export AZURE_SUBSCRIPTION_ID='{}'", arguments.subscription),
        format!("export AZURE_CLIENT_ID='{OPERATOR}'"),
        "# Managed identity, for 'az login --identity' and the SDKs' ManagedIdentityCredential:"
            .to_owned(),
        format!("export IDENTITY_ENDPOINT='{base}/identity/token'"),
        format!("export IDENTITY_HEADER='{secret}'"),
    ];
    if let Some(authority) = tls.authority() {
        lines.push(
            "# Who has signed the server's certificate, for Python, Node.js and WebSockets:"
                .to_owned(),
        );
        for name in [
            "REQUESTS_CA_BUNDLE",
            "SSL_CERT_FILE",
            "NODE_EXTRA_CA_CERTS",
            "WEBSOCKET_CLIENT_CA_BUNDLE",
        ] {
            lines.push(format!("export {name}='{}'", authority.display()));
        }
    }
    let path = dir.join("azure.env");
    secret::write(&path, format!("{}\n", lines.join("\n")).as_bytes())?;
    Ok(path)
}

/// The recorder's text as OpenMetrics wants it: no empty lines, and counters' families without the
/// ending that their samples have.
fn open_metrics(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line
            .strip_prefix("# TYPE ")
            .and_then(|l| l.strip_suffix("_total counter"))
        {
            Some(name) => out.push_str(&format!("# TYPE {name} counter")),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}
