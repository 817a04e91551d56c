//! Connections: name, TCP or a proxy, TLS; HTTP/1.1 exchanges one after the other on each.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aci_core::error::{Error, ErrorKind};
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::address::Origin;
use super::faults::bad_answer;
use super::proxy::Proxy;
use super::{Registries, TlsRoots};
use crate::image::lock;

/// Where distributions keep the bundle of certificates: Debian, Fedora, openSUSE, Alpine.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// More addresses of one name are not tried.
const MAX_ADDRESSES: usize = 4;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The name has no address, or nobody can be asked for it.
    Unresolved(Origin),
    /// The connection did not come about or broke.
    Lost(Origin, String),
    /// The server answered that it cannot now, with what it asked for by `Retry-After`.
    Busy(Origin, u16, Option<Duration>),
    /// Another try is of no use.
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Makes connections as the settings say.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(super) settings: Registries,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Connector {
    pub(crate) const fn new(settings: Registries) -> Self {
        Self {
            settings,
            tls: OnceLock::new(),
        }
    }

    /// Sends a request and waits for the head of the answer, on an idle connection if there is one.
    pub(crate) async fn send(
        &self,
        idle: &Idle,
        to: &Origin,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Trouble> {
        let proxy = self.settings.proxies.towards(to);
        if let Some(proxy) = proxy.filter(|_| !to.tls) {
            // Without TLS a proxy is asked for the whole address (RFC 9112, section 3.2.2).
            let path = request.uri().to_string();
            *request.uri_mut() = format!("http://{}{path}", to.authority())
                .parse()
                .map_err(|_| bad_answer(to, "an address that cannot be asked for"))?;
            if let Some(proof) = &proxy.proof {
                request
                    .headers_mut()
                    .insert(PROXY_AUTHORIZATION, proof.clone());
            }
        }
        // Lets the task of a connection notice that its answer was read.
        tokio::task::yield_now().await;
        // A server may close a connection that idles at any time, so what fails there says nothing:
        // all that is asked for here can be asked for again.
        while let Some(mut sender) = idle.take(to) {
            match self.exchange(to, &mut sender, request.clone()).await {
                Ok(response) => {
                    idle.put(to, sender);
                    return refused_by_proxy(proxy, to, response);
                }
                Err(trouble) => tracing::trace!(?trouble, "an idle connection was lost"),
            }
        }
        let mut sender = self.open(to, proxy).await?;
        let response = self.exchange(to, &mut sender, request).await?;
        idle.put(to, sender);
        refused_by_proxy(proxy, to, response)
    }

    /// A new connection.
    async fn open(&self, to: &Origin, proxy: Option<&Proxy>) -> Result<Sender, Trouble> {
        let Some(proxy) = proxy else {
            let tcp = self.tcp(to).await?;
            return if to.tls {
                let stream = self.secured(to, tcp).await?;
                handshake(to, TokioIo::new(stream)).await
            } else {
                handshake(to, TokioIo::new(tcp)).await
            };
        };
        let tcp = match self.tcp(&proxy.origin).await {
            Ok(tcp) => tcp,
            Err(Trouble::Unresolved(host)) => {
                let why = format!("the name of the proxy '{host}' cannot be resolved");
                return Err(bad_answer(to, why).into());
            }
            Err(Trouble::Lost(host, why)) => {
                return Err(lost(to, format!("the proxy '{host}': {why}")));
            }
            Err(other) => return Err(other),
        };
        if !to.tls {
            return handshake(to, TokioIo::new(tcp)).await;
        }
        let tunnel = self.tunnel(to, proxy, tcp).await?;
        let stream = self.secured(to, TokioIo::new(tunnel)).await?;
        handshake(to, TokioIo::new(stream)).await
    }

    /// A tunnel through a proxy (RFC 9110, section 9.3.6).
    async fn tunnel(
        &self,
        to: &Origin,
        proxy: &Proxy,
        tcp: TcpStream,
    ) -> Result<hyper::upgrade::Upgraded, Trouble> {
        let host = if to.host.contains(':') {
            format!("[{}]:{}", to.host, to.port)
        } else {
            format!("{}:{}", to.host, to.port)
        };
        let target: Uri = host
            .parse()
            .map_err(|_| bad_answer(to, "a host that cannot be asked for"))?;
        let mut ask = Request::builder()
            .method(Method::CONNECT)
            .uri(target)
            .header(HOST, host);
        if let Some(proof) = &proxy.proof {
            ask = ask.header(PROXY_AUTHORIZATION, proof);
        }
        let ask = ask
            .body(Full::default())
            .map_err(|_| bad_answer(to, "a host that cannot be asked for"))?;
        let mut sender = handshake(to, TokioIo::new(tcp)).await?;
        let response = self.exchange(to, &mut sender, ask).await?;
        let name = &proxy.origin;
        match response.status().as_u16() {
            200..=299 => {}
            502..=504 => {
                let why = format!(
                    "the proxy '{name}' does not reach it ({})",
                    response.status()
                );
                return Err(lost(to, why));
            }
            _ => {
                let response = refused_by_proxy(Some(proxy), to, response)?;
                let why = format!("the proxy '{name}' refuses it ({})", response.status());
                return Err(bad_answer(to, why).into());
            }
        }
        hyper::upgrade::on(response)
            .await
            .map_err(|e| lost(to, format!("the proxy '{name}': {e}")))
    }

    /// TLS over a stream.
    async fn secured<S>(&self, to: &Origin, stream: S) -> Result<TlsStream<S>, Trouble>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.tls()?);
        let name = ServerName::try_from(to.host.clone())
            .map_err(|_| bad_answer(to, "the host's name is not one for TLS"))?;
        match timeout(
            self.settings.connect_timeout,
            connector.connect(name, stream),
        )
        .await
        {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(tls_failed(to, &error)),
            Err(_) => Err(lost(to, "no TLS session came about in time")),
        }
    }

    async fn tcp(&self, to: &Origin) -> Result<TcpStream, Trouble> {
        let limit = self.settings.connect_timeout;
        let lookup = tokio::net::lookup_host((to.host.as_str(), to.port));
        let addresses: Vec<SocketAddr> = match timeout(limit, lookup).await {
            Ok(Ok(addresses)) => addresses.take(MAX_ADDRESSES).collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        if addresses.is_empty() {
            return Err(Trouble::Unresolved(to.clone()));
        }
        let share = limit / u32::try_from(addresses.len()).unwrap_or(1);
        let mut why = String::new();
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Requests are small and waited for.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => why = format!("cannot connect: {error}"),
                Err(_) => why = "cannot connect: no answer in time".to_owned(),
            }
        }
        Err(lost(to, why))
    }

    async fn exchange(
        &self,
        to: &Origin,
        sender: &mut Sender,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Trouble> {
        match timeout(self.settings.silence_timeout, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(lost(to, error.to_string())),
            Err(_) => Err(lost(to, "no answer in time")),
        }
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let roots = match &self.settings.roots {
            TlsRoots::System => system_roots()?,
            TlsRoots::Pem(text) => parse_roots(text.as_bytes())?,
        };
        let given = self.settings.crypto.clone();
        let crypto = given.unwrap_or_else(|| Arc::new(ring::default_provider()));
        let config = ClientConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .map_err(|e| {
                Error::new(ErrorKind::Internal, "registry.tls", "TLS cannot be set up").because(e)
            })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// Connections of one pull that may be used again; they are closed with it.
#[derive(Debug, Default)]
pub(crate) struct Idle(Mutex<Vec<(Origin, Sender)>>);

impl Idle {
    /// One whose last answer was read to its end.
    fn take(&self, to: &Origin) -> Option<Sender> {
        let mut all = lock(&self.0);
        all.retain(|(_, sender)| !sender.is_closed());
        let at = all
            .iter()
            .position(|(origin, sender)| origin == to && sender.is_ready())?;
        Some(all.swap_remove(at).1)
    }

    /// Its answer may still be on its way.
    fn put(&self, to: &Origin, sender: Sender) {
        lock(&self.0).push((to.clone(), sender));
    }
}

async fn handshake<S>(to: &Origin, stream: S) -> Result<Sender, Trouble>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream)
        .await
        .map_err(|e| lost(to, e.to_string()))?;
    // It ends when nobody can ask on it any more, and the last answer is read or dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::trace!(%error, "a connection to a registry ended");
        }
    });
    Ok(sender)
}

/// Takes an answer that comes from the proxy itself for what it is.
fn refused_by_proxy(
    proxy: Option<&Proxy>,
    to: &Origin,
    response: Response<Incoming>,
) -> Result<Response<Incoming>, Trouble> {
    match proxy {
        Some(proxy) if response.status() == 407 => {
            let why = format!(
                "the proxy '{}' wants other credentials (407); check the user and password in its address",
                proxy.origin
            );
            Err(bad_answer(to, why).into())
        }
        _ => Ok(response),
    }
}

pub(super) fn lost(to: &Origin, why: impl Into<String>) -> Trouble {
    Trouble::Lost(to.clone(), why.into())
}

fn tls_failed(to: &Origin, error: &io::Error) -> Trouble {
    use tokio_rustls::rustls::Error as Tls;
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Tls>());
    match inner {
        Some(Tls::InvalidCertificate(why)) => Trouble::Final(bad_answer(
            to,
            format!(
                "its certificate is not trusted: {why:?}; add its authority to the roots in Registries"
            ),
        )),
        Some(why) => Trouble::Final(bad_answer(
            to,
            format!(
                "no TLS session came about: {why}; if it speaks plain HTTP, name it in Registries as insecure"
            ),
        )),
        None => lost(to, format!("no TLS session came about: {error}")),
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    for path in BUNDLES.map(Path::new) {
        match std::fs::read(path) {
            Ok(bytes) => return parse_roots(&bytes).map_err(|e| e.on(path.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(crate::fail::io("registry.tls", "read it", path, e)),
        }
    }
    Err(no_roots(
        "the system has no bundle of trusted certificates".to_owned(),
    ))
}

fn parse_roots(pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| no_roots(format!("the trusted certificates are not PEM: {e}")))?;
    // A bundle often has some that are too old to be read.
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(no_roots("no trusted certificate is among them".to_owned()));
    }
    Ok(roots)
}

fn no_roots(why: String) -> Error {
    Error::new(ErrorKind::Invalid, "registry.tls", why)
        .hint("install ca-certificates or give certificates as Registries::roots")
}
