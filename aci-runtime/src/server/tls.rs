//! TLS of the server: 1.3, or 1.2 with clients that know no better; nothing older.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::self_made::{self, about};

/// Where the server's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// Files in PEM: the chain with the server's certificate first, and its key.
    Files {
        /// The chain.
        chain: PathBuf,
        /// The key; nobody but the server should be able to read it.
        key: PathBuf,
    },
    /// Made at the first start and kept: `ca.pem` (what clients trust), `server.pem` and their keys,
    /// readable by their owner alone. The server's certificate is good for 397 days and renewed
    /// after 300.
    SelfMade {
        /// The directory; made if it is missing.
        dir: PathBuf,
        /// Host names and addresses that clients call the server by.
        names: Vec<String>,
    },
}

/// Whether clients show certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    NotAsked,
    /// They may; one that was not signed by an authority of this file (PEM) fails the handshake.
    Optional(PathBuf),
    /// They must.
    Required(PathBuf),
}

/// Settings of [`Tls`].
#[derive(Clone)]
pub struct TlsOptions {
    /// The cryptography; nothing is installed for the whole process.
    pub provider: Arc<CryptoProvider>,
    /// The server's certificate.
    pub certificate: CertificateSource,
    /// The clients' certificates. Default: they are not asked.
    pub clients: ClientCertificates,
}

impl TlsOptions {
    /// Settings that ask clients for no certificate.
    #[must_use]
    pub const fn new(provider: Arc<CryptoProvider>, certificate: CertificateSource) -> Self {
        Self {
            provider,
            certificate,
            clients: ClientCertificates::NotAsked,
        }
    }

    /// Sets whether clients show certificates.
    #[must_use]
    pub fn clients(mut self, clients: ClientCertificates) -> Self {
        self.clients = clients;
        self
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("certificate", &self.certificate)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

/// What tells one version of a file from the next: inode, length, and time of change in
/// nanoseconds.
type Stamp = Vec<(u64, u64, i64, i64)>;

/// The server's side of TLS; certificates are replaced while it runs, for connections to come.
pub struct Tls {
    options: TlsOptions,
    current: RwLock<Arc<ServerConfig>>,
    stamp: Mutex<Stamp>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the certificates, or makes them. It reads and writes files.
    ///
    /// # Errors
    /// A file that cannot be read, holds no certificate or key, or a key that is not the
    /// certificate's; with its name.
    pub fn open(options: TlsOptions) -> io::Result<Self> {
        let (config, stamp) = load(&options)?;
        Ok(Self {
            options,
            current: RwLock::new(Arc::new(config)),
            stamp: Mutex::new(stamp),
        })
    }

    /// What connections are accepted with from now on.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file that clients are told to trust, if the certificate is self-made.
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        match &self.options.certificate {
            CertificateSource::SelfMade { dir, .. } => Some(self_made::Files::of(dir).authority),
            CertificateSource::Files { .. } => None,
        }
    }

    /// Takes new certificates if a file has changed, and renews self-made ones. `true` if there are
    /// new ones. [`super::Server`] calls it every few seconds. It reads files.
    ///
    /// # Errors
    /// As [`Tls::open`]; the certificates stay as they are then.
    pub fn reload(&self) -> io::Result<bool> {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let files = files(&self.options)?;
        if stamps(&files)? == *stamp {
            return Ok(false);
        }
        let (config, now) = load(&self.options)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        *stamp = now;
        Ok(true)
    }
}

/// The chain, the key and the clients' authorities.
struct Files {
    chain: PathBuf,
    key: PathBuf,
    clients: Option<PathBuf>,
}

fn files(options: &TlsOptions) -> io::Result<Files> {
    let (chain, key) = match &options.certificate {
        CertificateSource::Files { chain, key } => (chain.clone(), key.clone()),
        CertificateSource::SelfMade { dir, names } => {
            let made = self_made::provide(dir, names, SystemTime::now())?;
            (made.chain, made.key)
        }
    };
    let clients = match &options.clients {
        ClientCertificates::NotAsked => None,
        ClientCertificates::Optional(file) | ClientCertificates::Required(file) => {
            Some(file.clone())
        }
    };
    Ok(Files {
        chain,
        key,
        clients,
    })
}

fn stamps(files: &Files) -> io::Result<Stamp> {
    [Some(&files.chain), Some(&files.key), files.clients.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| {
            let meta = fs::metadata(path).map_err(|e| about(path, &e))?;
            Ok((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
        })
        .collect()
}

fn load(options: &TlsOptions) -> io::Result<(ServerConfig, Stamp)> {
    let files = files(options)?;
    // Taken before the content: what changes in between is read once more.
    let stamp = stamps(&files)?;
    let chain = certificates(&files.chain)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| invalid(&files.key, e))?;
    let provider = Arc::clone(&options.provider);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(io::Error::other)?;
    let builder = match &files.clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| invalid(path, e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = match options.clients {
                ClientCertificates::Required(_) => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| invalid(path, e))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| invalid(&files.chain, e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((config, stamp))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| invalid(path, e))?;
    if found.is_empty() {
        return Err(invalid(path, "it holds no certificate in PEM"));
    }
    Ok(found)
}

fn invalid(path: &Path, why: impl fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: {why}", path.display()),
    )
}
