//! Connections: name, TCP, TLS, one HTTP/1.1 exchange on each.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aci_core::error::{Error, ErrorKind};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::address::Origin;
use super::faults::bad_answer;
use super::{Registries, TlsRoots};

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
pub(super) enum Trouble {
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

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        to: &Origin,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Trouble> {
        let tcp = self.tcp(to).await?;
        if to.tls {
            let connector = TlsConnector::from(self.tls()?);
            let name = ServerName::try_from(to.host.clone())
                .map_err(|_| bad_answer(to, "the host's name is not one for TLS"))?;
            let limit = self.settings.connect_timeout;
            let stream = match timeout(limit, connector.connect(name, tcp)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(tls_failed(to, &error)),
                Err(_) => return Err(lost(to, "no TLS session came about in time")),
            };
            self.exchange(to, TokioIo::new(stream), request).await
        } else {
            self.exchange(to, TokioIo::new(tcp), request).await
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

    async fn exchange<S>(
        &self,
        to: &Origin,
        stream: S,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Trouble>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(stream)
            .await
            .map_err(|e| lost(to, e.to_string()))?;
        // It ends when the answer is read or dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection to a registry ended");
            }
        });
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
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| {
                Error::new(ErrorKind::Internal, "registry.tls", "TLS cannot be set up").because(e)
            })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
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
