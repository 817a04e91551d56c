//! A listener for the front: TLS, limits, graceful shutdown.
//!
//! Whoever has a service of his own mounts the front's router there and needs nothing of this.
//!
//! What a hostile or broken client can do is bounded: connections in all and from one address, the
//! time for the handshake and for a request's head, the size of that head, and the time in which
//! neither side sends anything. Bodies are bounded by the front. What is answered by these bounds:
//!
//! | what | answer |
//! |---|---|
//! | too many connections | closed at once |
//! | a handshake or head that takes too long, an idle connection | closed |
//! | a head that is too large | 431 and closed |
//! | both `Content-Length` and chunked | read as chunked, then closed (RFC 9112, 6.3) |
//! | several different `Content-Length`s, unknown transfer codings, line folding | 400 and closed |
//! | TLS 1.0, TLS 1.1 | refused in the handshake |
//!
//! One task serves one connection, and none of them holds a lock while it waits, so slow clients
//! cost memory only: some 20 KiB each with TLS.

mod guarded;
mod self_made;
mod tls;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::arm::Connection;
use guarded::Guarded;

pub use tls::{CertificateSource, ClientCertificates, Tls, TlsOptions};

/// How long the listener rests after a failed accept, such as one without a free descriptor.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How often files of certificates are looked at.
const RELOAD: Duration = Duration::from_secs(5);

/// Limits of a [`Server`].
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Connections at a time. Default 8,192. Each needs a file descriptor.
    pub max_connections: usize,
    /// Connections from one address at a time. Default 4,096.
    pub max_connections_per_address: usize,
    /// Time for a TLS handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// Time for the head of a request, counted from the end of the request before: a connection
    /// that is kept open is closed after it. Default 30 s.
    pub header_timeout: Duration,
    /// Time in which neither side sends a byte, WebSockets included. Default 5 min.
    pub idle_timeout: Duration,
    /// Bytes of a request's head. Default 64 KiB, at least 8 KiB.
    pub max_header_bytes: usize,
    /// Fields of a request's head (HTTP/1.1). Default 100.
    pub max_headers: usize,
    /// Requests at a time on one HTTP/2 connection. Default 128.
    pub max_streams: u32,
    /// After the stop: time for requests that are under way. Default 30 s.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 8_192,
            max_connections_per_address: 4_096,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            max_header_bytes: 64 << 10,
            max_headers: 100,
            max_streams: 128,
            drain: Duration::from_secs(30),
        }
    }
}

/// Who holds how many connections.
#[derive(Debug, Default)]
struct Seats {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection's place; given back when it is dropped, after an upgrade too.
#[derive(Debug)]
struct Seat {
    seats: Arc<Mutex<Seats>>,
    address: IpAddr,
}

impl Seat {
    fn take(seats: &Arc<Mutex<Seats>>, address: IpAddr, options: &ServerOptions) -> Option<Self> {
        let mut held = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = held.by_address.get(&address).copied().unwrap_or_default();
        if held.all >= options.max_connections || of_address >= options.max_connections_per_address
        {
            return None;
        }
        held.all += 1;
        held.by_address.insert(address, of_address + 1);
        metrics::gauge!("aci_server_connections").increment(1.0);
        Some(Self {
            seats: Arc::clone(seats),
            address,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(count) = held.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.by_address.remove(&self.address);
            }
        }
        metrics::gauge!("aci_server_connections").decrement(1.0);
    }
}

/// Accepts connections and hands their requests to a router, each with a [`Connection`] in its
/// extensions.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    options: ServerOptions,
}

fn refused(reason: &'static str) {
    metrics::counter!("aci_server_refused_total", "reason" => reason).increment(1);
}

impl Server {
    /// A server on a listening socket: with TLS (HTTP/1.1, and HTTP/2 where the client offers it),
    /// or in the clear (HTTP/1.1), which is for loopback and for a proxy on the same machine.
    #[must_use]
    pub const fn new(listener: TcpListener, tls: Option<Arc<Tls>>, options: ServerOptions) -> Self {
        Self {
            listener,
            tls,
            options,
        }
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled; then nothing new is accepted, requests that are under way
    /// get [`ServerOptions::drain`], and what is left is cut off. Groups are not touched. Connections
    /// that were upgraded to WebSockets belong to the front, which ends them when it is closed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and leaves open connections to their tasks, which
    /// end as if `stop` were cancelled.
    pub async fn run(self, router: Router, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let end = CancellationToken::new();
        let stopped = stop.child_token();
        let _when_dropped = stopped.clone().drop_guard();
        let seats = Arc::default();
        let mut reload = tokio::time::interval(RELOAD);
        reload.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
                _ = reload.tick() => {
                    self.reload().await;
                    continue;
                }
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let Some(seat) = Seat::take(&seats, peer.ip(), &self.options) else {
                refused("connections");
                continue;
            };
            let one = One {
                peer,
                tls: self.tls.clone(),
                options: self.options.clone(),
                stop: stopped.clone(),
                router: router.clone(),
            };
            let end = end.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = one.serve(stream, seat) => {}
                }
            });
        }
        drop(self.listener);
        connections.close();
        if tokio::time::timeout(self.options.drain, connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(left = connections.len(), "connections are cut off");
            end.cancel();
            connections.wait().await;
        }
    }

    /// Looks for new certificates. A file that cannot be used is told, and the old one stays.
    async fn reload(&self) {
        let Some(tls) = self.tls.clone() else {
            return;
        };
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(true)) => tracing::info!("new certificates are in use"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "new certificates are not used"),
            Err(error) => tracing::error!(%error, "certificates could not be looked at"),
        }
    }
}

/// One connection.
struct One {
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    options: ServerOptions,
    stop: CancellationToken,
    router: Router,
}

impl One {
    async fn serve(self, stream: TcpStream, seat: Seat) {
        // Answers are written as a whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let stream = Guarded::new(stream, self.options.idle_timeout, seat);
        let Some(tls) = &self.tls else {
            let connection = Connection {
                tls: false,
                peer: Some(self.peer),
                client_certificate: None,
            };
            return self.http(stream, connection, false).await;
        };
        let accepting = TlsAcceptor::from(tls.config()).accept(stream);
        let stream = match tokio::time::timeout(self.options.handshake_timeout, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                refused("tls");
                tracing::debug!(peer = %self.peer, %error, "a TLS handshake failed");
                return;
            }
            Err(_) => return refused("tls_timeout"),
        };
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|c| c.first());
        let connection = Connection {
            tls: true,
            peer: Some(self.peer),
            client_certificate: certificate.map(|c| Arc::from(c.as_ref())),
        };
        let http2 = session.alpn_protocol() == Some(b"h2");
        self.http(stream, connection, http2).await;
    }

    async fn http<S>(&self, stream: S, connection: Connection, http2: bool)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let options = &self.options;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_buf_size(options.max_header_bytes.max(8 << 10))
            .max_headers(options.max_headers);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(options.header_timeout)
            .keep_alive_timeout(options.handshake_timeout)
            .max_concurrent_streams(options.max_streams)
            .max_header_list_size(u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX));
        let builder = if http2 {
            builder.http2_only()
        } else {
            builder.http1_only()
        };
        let service = Marked {
            inner: TowerToHyperService::new(self.router.clone()),
            connection,
        };
        let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = self.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %self.peer, %error, "a connection ended early");
        }
    }
}

/// A router whose requests know their connection.
struct Marked {
    inner: TowerToHyperService<Router>,
    connection: Connection,
}

impl Service<Request<Incoming>> for Marked {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.connection.clone());
        self.inner.call(request)
    }
}
