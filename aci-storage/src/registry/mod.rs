//! A client for registries (OCI distribution specification 1.1), for pulling only.
//!
//! It believes nothing: manifests are bounded, every blob is checked against the size and digest of
//! its descriptor while it streams, redirects are bounded and carry no credentials, and the
//! addresses that a manifest may name for its layers are not followed.

mod address;
mod blob;
mod challenge;
mod connect;
mod docker_config;
mod faults;
mod manifest;
mod proxy;
mod pull;
mod retry;
mod session;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::crypto::CryptoProvider;

#[cfg(feature = "git-repo")]
pub(crate) use address::{Address, Origin};
pub(crate) use connect::Connector;
#[cfg(feature = "git-repo")]
pub(crate) use connect::{Idle, Trouble};
pub use proxy::Proxies;
pub(crate) use pull::pull;

/// Which registries are asked and how; a part of
/// [`OciImagesOptions`](crate::OciImagesOptions).
///
/// ```
/// use aci_storage::Registries;
/// let mut registries = Registries::default();
/// registries.insecure.push("127.0.0.1:5000".into());
/// registries.mirrors.insert("docker.io".into(), vec!["mirror.example".into()]);
/// ```
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Registries {
    /// Whether registries are asked at all. Default `true`; without it an image that is not in
    /// the store is `InaccessibleImage` at once.
    pub enabled: bool,
    /// Which certificates are trusted. Default: those of the system. TLS is 1.2 at least.
    pub roots: TlsRoots,
    /// What TLS computes with, a value of `rustls` 0.23; nothing is installed for the whole process.
    /// Default: `rustls::crypto::ring::default_provider()`.
    pub crypto: Option<Arc<CryptoProvider>>,
    /// Hosts, with the port if it is named in references, that are spoken to by plain HTTP.
    /// Credentials then cross the network in clear. Default: none.
    pub insecure: Vec<String>,
    /// Hosts that are asked before a registry itself, by the registry's host as references name it
    /// (`docker.io`). They get no credentials. What they answer by tag is believed like the
    /// registry's own answer. Default: none.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Proxies on the way to registries, mirrors and token servers. Default: none. An insecure host
    /// is reached through a proxy, too, unless it is an exception.
    pub proxies: Proxies,
    /// A file like Docker's `~/.docker/config.json` or Podman's `auth.json`: the credentials under
    /// `auths` are used for images that the pull request has none for. It is read anew for each
    /// pull, and need not exist. Credential helpers are programs, and not run. Default: none.
    pub docker_config: Option<PathBuf>,
    /// The longest wait for a name and for a connection with TLS, each. Default 10 s.
    pub connect_timeout: Duration,
    /// The longest silence while an answer is awaited or read. Default 30 s.
    pub silence_timeout: Duration,
    /// How often in a row a request may fail without a byte of progress and be tried again: lost
    /// connections, answers 408, 429 and 5xx. The pauses grow from 0.2 s to 5 s. Default 5.
    pub retries: u32,
    /// The longest pause that a registry may ask for by `Retry-After` (RFC 9110, section 10.2.3);
    /// if it asks for more, the pull fails. Default 30 s.
    pub longest_pause: Duration,
    /// Layers of one image that are fetched at once, and unpacked meanwhile, each on a thread of its
    /// own and within the memory that [`UnpackLimits`](crate::layer::UnpackLimits) allow. Default 4.
    pub parallel_layers: usize,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            enabled: true,
            roots: TlsRoots::System,
            crypto: None,
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            proxies: Proxies::default(),
            docker_config: None,
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(30),
            retries: 5,
            longest_pause: Duration::from_secs(30),
            parallel_layers: 4,
        }
    }
}

impl Registries {
    /// Asks no registry.
    #[must_use]
    pub fn none() -> Self {
        Self {
            enabled: false,
            ..Self::default()
        }
    }

    /// Whether this host is named as one without TLS.
    fn is_insecure(&self, host: &str) -> bool {
        self.insecure.iter().any(|i| i.eq_ignore_ascii_case(host))
    }
}

/// The certificates of authorities that registries are trusted by.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TlsRoots {
    /// The system's bundle, the first of the files where distributions keep it
    /// (`/etc/ssl/certs/ca-certificates.crt` on Debian). It is read at the first use of TLS.
    #[default]
    System,
    /// These only, as PEM text.
    Pem(String),
}
