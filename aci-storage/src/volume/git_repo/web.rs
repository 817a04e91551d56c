//! HTTP for git: requests over this crate's own connections, with credentials for one origin only,
//! bounded in bytes and time.

use std::io::{self, BufRead, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aci_core::contract::{VolumeEvent, VolumeProgress};
use aci_core::error::{Error, ErrorKind};
use bytes::{Buf as _, Bytes};
use gix_transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, LOCATION};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::registry::{Address, Connector, Idle, Origin, Trouble};

/// Redirects that are followed when a repository is first asked for.
const MAX_REDIRECTS: u32 = 3;
/// After so many bytes who watches is told of them, and again.
const STEP: u64 = 256 << 10;
/// What is asked is short: names and hashes.
const MAX_REQUEST: usize = 8 << 20;
/// Where a repository's references are, below its address.
const REFS: &str = "/info/refs?service=git-upload-pack";

/// Says that the work is to end.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    pub(super) flag: Arc<AtomicBool>,
    sender: Arc<watch::Sender<bool>>,
}

impl Stop {
    pub(super) fn new() -> Self {
        Self {
            flag: Arc::default(),
            sender: Arc::new(watch::Sender::new(false)),
        }
    }

    pub(super) fn set(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.sender.send_replace(true);
    }

    pub(super) fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    async fn wait(&self) {
        // The sender is held by `self`.
        let _ = self.sender.subscribe().wait_for(|set| *set).await;
    }
}

/// What all requests of one copy share.
pub(super) struct Session {
    pub(super) handle: Handle,
    pub(super) connector: Arc<Connector>,
    pub(super) idle: Idle,
    pub(super) silence: std::time::Duration,
    pub(super) origin: Origin,
    pub(super) login: Option<HeaderValue>,
    /// Hosts that may be asked; `None`: all.
    pub(super) hosts: Option<Vec<String>>,
    pub(super) stop: Stop,
    /// Bytes that may come, and those that still may.
    pub(super) most: u64,
    pub(super) left: Mutex<u64>,
    /// What went wrong, in this project's words.
    pub(super) failure: Mutex<Option<Error>>,
    /// Who hears how it goes.
    pub(super) progress: Option<VolumeProgress>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn failed(kind: ErrorKind, why: impl Into<String>) -> Error {
    Error::new(kind, "volumes.provide", why).code("FailedMountGitRepoVolume")
}

impl Session {
    pub(super) fn take_failure(&self) -> Option<Error> {
        lock(&self.failure).take()
    }

    /// So many bytes have come.
    fn count(&self, length: u64) -> Result<(), Error> {
        let (before, after) = {
            let mut left = lock(&self.left);
            let before = *left;
            *left = before.checked_sub(length).ok_or_else(|| {
                failed(
                    ErrorKind::Invalid,
                    "the repository is larger than is allowed",
                )
                .hint("GitLimits::download bounds it")
            })?;
            (self.most - before, self.most - *left)
        };
        if let Some(progress) = &self.progress
            && before / STEP != after / STEP
        {
            let (done, total) = (after, None);
            progress(VolumeEvent::Progress { done, total });
        }
        Ok(())
    }

    fn fail(&self, error: Error) -> io::Error {
        let shown = io::Error::other(error.message().to_owned());
        lock(&self.failure).get_or_insert(error);
        shown
    }

    /// Waits for something of the network, unless the work is to end.
    fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.wait() => Err(failed(ErrorKind::Cancelled, "the copy was given up")),
                done = tokio::time::timeout(self.silence, future) => done.map_err(|_| {
                    let host = &self.origin;
                    failed(ErrorKind::Unavailable, format!("'{host}' says nothing more"))
                }),
            }
        })
    }

    fn may_ask(&self, origin: &Origin) -> Result<(), Error> {
        let allowed = self
            .hosts
            .as_ref()
            .is_none_or(|hosts| hosts.iter().any(|h| h.eq_ignore_ascii_case(&origin.host)));
        if allowed {
            return Ok(());
        }
        Err(failed(
            ErrorKind::PermissionDenied,
            format!("repositories of '{origin}' may not be used here"),
        )
        .hint("GitReposOptions::hosts lists those that may"))
    }

    fn exchange(
        &self,
        method: &Method,
        at: &Address,
        headers: &[String],
        body: &[u8],
    ) -> Result<http::Response<Incoming>, Error> {
        let host = &at.origin;
        self.may_ask(host)?;
        let unusable = |_| failed(ErrorKind::Invalid, "the repository cannot be asked for");
        let mut request = Request::builder()
            .method(method)
            .uri(&at.path)
            .header(HOST, host.authority())
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(unusable)?;
        let map = request.headers_mut();
        for line in headers {
            if let Some((name, value)) = line.split_once(':')
                && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
                && let Ok(value) = HeaderValue::from_str(value.trim())
            {
                map.insert(name, value);
            }
        }
        if let Some(login) = self.login.as_ref().filter(|_| *host == self.origin) {
            map.insert(AUTHORIZATION, login.clone());
        }
        let sending = self.connector.send(&self.idle, host, request);
        match self.wait(sending)? {
            Ok(response) => Ok(response),
            Err(trouble) => Err(explain(trouble)),
        }
    }

    /// Asks, and follows redirects if it is the first request.
    fn ask(
        &self,
        method: &Method,
        url: &str,
        headers: &[String],
        body: &[u8],
    ) -> Result<(Address, http::Response<Incoming>), Error> {
        let wrong = |why: String| failed(ErrorKind::Unavailable, why);
        let mut at = Address::parse(url).map_err(wrong)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(method, &at, headers, body)?;
            let host = &at.origin;
            let answered = |kind, why: &str| {
                let status = response.status();
                failed(kind, format!("'{host}' answers {status}: {why}"))
            };
            return Err(match response.status().as_u16() {
                200 => return Ok((at, response)),
                301 | 302 | 303 | 307 | 308 if method == Method::GET => {
                    let location = response.headers().get(LOCATION);
                    let next = location
                        .and_then(|l| l.to_str().ok())
                        .and_then(|l| at.resolve(l).ok())
                        .filter(|next| next.path.ends_with(REFS))
                        .filter(|next| next.origin.tls || !host.tls);
                    match next {
                        Some(next) => {
                            at = next;
                            continue;
                        }
                        None => answered(
                            ErrorKind::Unavailable,
                            "it leads to where no repository can be asked for",
                        ),
                    }
                }
                401 | 403 => answered(
                    ErrorKind::PermissionDenied,
                    if self.login.is_some() {
                        "the user or password is not accepted"
                    } else {
                        "a user and password are needed"
                    },
                )
                .hint("write them into the address: https://USER:PASSWORD@HOST/PATH"),
                404 | 410 => answered(ErrorKind::NotFound, "there is no such repository")
                    .hint("private repositories look so, too, without a user and password"),
                _ => answered(ErrorKind::Unavailable, "not what was asked for"),
            });
        }
        Err(wrong("it leads from one address to the next".to_owned()))
    }
}

fn explain(trouble: Trouble) -> Error {
    match trouble {
        Trouble::Unresolved(host) => failed(
            ErrorKind::Unavailable,
            format!("the name '{host}' has no address"),
        ),
        Trouble::Lost(host, why) => failed(ErrorKind::Unavailable, format!("'{host}': {why}")),
        Trouble::Busy(host, status, _) => failed(
            ErrorKind::Unavailable,
            format!("'{host}' answers {status}: it cannot now"),
        ),
        // The words of an image's pull do not fit; what is to be done does.
        Trouble::Final(error) => {
            let why = error.next_step().unwrap_or_else(|| error.message());
            failed(error.kind(), why.to_owned())
        }
    }
}

/// One request and its answer. A request with a body is sent when its answer is first asked for.
struct Exchange {
    session: Arc<Session>,
    request: Option<(Method, String, Vec<String>)>,
    body: Vec<u8>,
    /// The header that is looked at, as a line.
    head: Vec<u8>,
    answer: Option<Incoming>,
}

impl Exchange {
    fn run(&mut self) -> Result<Option<Address>, Error> {
        let Some((method, url, headers)) = self.request.take() else {
            return Ok(None);
        };
        let (at, response) = self.session.ask(&method, &url, &headers, &self.body)?;
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|k| k.to_str().ok()).unwrap_or_default();
        self.head = format!("content-type: {kind}\n").into_bytes();
        self.answer = Some(response.into_body());
        Ok(Some(at))
    }
}

type Shared = Arc<Mutex<Exchange>>;

/// The part of a body that is not read yet.
pub(super) struct Body {
    shared: Shared,
    chunk: Bytes,
    of_head: bool,
    over: bool,
}

impl Body {
    fn new(shared: &Shared, of_head: bool) -> Self {
        Self {
            shared: Arc::clone(shared),
            chunk: Bytes::new(),
            of_head,
            over: false,
        }
    }

    fn next(&mut self) -> Result<(), Error> {
        let mut exchange = lock(&self.shared);
        exchange.run()?;
        if self.of_head {
            self.chunk = std::mem::take(&mut exchange.head).into();
            self.over = true;
            return Ok(());
        }
        let session = Arc::clone(&exchange.session);
        let Some(answer) = &mut exchange.answer else {
            self.over = true;
            return Ok(());
        };
        while self.chunk.is_empty() {
            match session.wait(answer.frame())? {
                None => {
                    self.over = true;
                    break;
                }
                Some(Err(error)) => {
                    return Err(failed(
                        ErrorKind::Unavailable,
                        format!("the connection to '{}' broke: {error}", session.origin),
                    ));
                }
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    session.count(data.len() as u64)?;
                    self.chunk = data;
                }
            }
        }
        Ok(())
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() && !self.over {
            self.next().map_err(|error| {
                let session = Arc::clone(&lock(&self.shared).session);
                session.fail(error)
            })?;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount.min(self.chunk.len()));
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// What a request brings along.
pub(super) struct Outgoing(Shared);

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut exchange = lock(&self.0);
        if exchange.body.len() + bytes.len() > MAX_REQUEST {
            return Err(io::Error::other("the repository has too many references"));
        }
        exchange.body.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The transport's way to the server.
pub(super) struct Web {
    session: Arc<Session>,
    /// Where a redirect has led.
    moved: Option<String>,
}

impl Web {
    pub(super) const fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            moved: None,
        }
    }

    fn exchange(
        &self,
        method: Method,
        url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Exchange {
        let headers = headers.into_iter().map(|h| h.as_ref().to_owned());
        Exchange {
            session: Arc::clone(&self.session),
            request: Some((method, url.to_owned(), headers.collect())),
            body: Vec::new(),
            head: Vec::new(),
            answer: None,
        }
    }
}

impl Http for Web {
    type Headers = Body;
    type ResponseBody = Body;
    type PostBody = Outgoing;

    fn get(
        &mut self,
        url: &str,
        _: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix_error::Result<GetResponse<Body, Body>> {
        let mut exchange = self.exchange(Method::GET, url, headers);
        let at = exchange
            .run()
            .map_err(|error| gix_error::Error::from_error(self.session.fail(error)))?;
        if let Some(at) = at {
            let scheme = if at.origin.tls { "https" } else { "http" };
            let path = at.path.strip_suffix(REFS).unwrap_or(&at.path);
            self.moved = Some(format!("{scheme}://{}{path}", at.origin.authority()));
        }
        let shared = Arc::new(Mutex::new(exchange));
        Ok(GetResponse {
            headers: Body::new(&shared, true),
            body: Body::new(&shared, false),
        })
    }

    fn post(
        &mut self,
        url: &str,
        _: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _: PostBodyDataKind,
    ) -> gix_error::Result<PostResponse<Body, Body, Outgoing>> {
        let shared = Arc::new(Mutex::new(self.exchange(Method::POST, url, headers)));
        Ok(PostResponse {
            post_body: Outgoing(Arc::clone(&shared)),
            headers: Body::new(&shared, true),
            body: Body::new(&shared, false),
        })
    }

    fn configure(&mut self, _: &dyn std::any::Any) -> gix_error::Result {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.moved.clone()
    }
}
