//! Carrying out one probe: an exec or an HTTP request inside the group, bounded in time.
//!
//! What Kubernetes' kubelet does, ACI does too: an exec probe succeeds with exit code 0, an HTTP
//! probe with a status from 200 to 399; redirects are not followed; certificates are not checked,
//! because a container's own certificate names no address. Headers of the document may replace
//! `Host`, `User-Agent` and `Accept`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::{Clock, Duplex, ExecSpec, ProcessSpec, Sandbox, Signal};
use aci_core::error::Result;
use aci_core::model::{HttpGetAction, HttpScheme, Probe};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::guard::within;
use super::tls;

/// How much of a failing probe's output is shown, in bytes.
const SHOWN: u64 = 1024;

/// The outcome of one probe: success, and what to tell a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) message: String,
}

pub(crate) fn failed(message: impl Into<String>) -> Outcome {
    Outcome {
        success: false,
        message: message.into(),
    }
}

/// Runs a probe against a container. Everything that goes wrong is an unsuccessful outcome.
///
/// # Cancel safety
/// An exec probe's process may go on until the container ends.
pub(crate) async fn run(
    clock: &Arc<dyn Clock>,
    sandbox: &Arc<dyn Sandbox>,
    container: &str,
    probe: &Probe,
    address: IpAddr,
    timeout: Duration,
) -> Outcome {
    if let Some(exec) = &probe.exec {
        run_exec(clock, sandbox, container, &exec.command, timeout).await
    } else if let Some(get) = &probe.http_get {
        match within(&**clock, timeout, run_http(sandbox, get, address, timeout)).await {
            Some(outcome) => outcome,
            None => failed(format!(
                "no answer from {} within {} s",
                url(get, address),
                timeout.as_secs()
            )),
        }
    } else {
        failed("the probe has neither exec nor httpGet")
    }
}

async fn run_exec(
    clock: &Arc<dyn Clock>,
    sandbox: &Arc<dyn Sandbox>,
    container: &str,
    command: &[String],
    timeout: Duration,
) -> Outcome {
    let spec = ExecSpec {
        process: ProcessSpec {
            argv: command.to_vec(),
            ..Default::default()
        },
        stdin: false,
    };
    let mut process = match within(&**clock, timeout, sandbox.exec(container, spec)).await {
        Some(Ok(process)) => process,
        Some(Err(error)) => return failed(error.message()),
        None => {
            return failed(format!(
                "the command {command:?} could not be started within {} s",
                timeout.as_secs()
            ));
        }
    };
    let mut output = Vec::new();
    let ran = within(&**clock, timeout, async {
        let mut bounded = (&mut process.stdout).take(SHOWN);
        let _ = bounded.read_to_end(&mut output).await;
        if let Some(stderr) = &mut process.stderr {
            let mut bounded = stderr.take(SHOWN);
            let _ = bounded.read_to_end(&mut output).await;
        }
        process.control.wait().await
    })
    .await;
    match ran {
        Some(Ok(status)) if status.success() => Outcome {
            success: true,
            message: String::new(),
        },
        Some(Ok(status)) => {
            let said = String::from_utf8_lossy(&output);
            failed(format!(
                "the command {command:?} ended with {}: {}",
                status.code,
                said.trim()
            ))
        }
        Some(Err(error)) => failed(error.message()),
        None => {
            let _ = process.control.signal(Signal::KILL).await;
            failed(format!(
                "the command {command:?} did not end within {} s",
                timeout.as_secs()
            ))
        }
    }
}

fn is_https(get: &HttpGetAction) -> bool {
    get.scheme
        .as_ref()
        .is_some_and(|scheme| *scheme == HttpScheme::Https)
}

fn path(get: &HttpGetAction) -> String {
    let path = get.path.as_deref().unwrap_or("/");
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn url(get: &HttpGetAction, address: IpAddr) -> String {
    let scheme = if is_https(get) { "https" } else { "http" };
    format!(
        "{scheme}://{}{}",
        SocketAddr::new(address, get.port),
        path(get)
    )
}

async fn run_http(
    sandbox: &Arc<dyn Sandbox>,
    get: &HttpGetAction,
    address: IpAddr,
    timeout: Duration,
) -> Outcome {
    match request(sandbox, get, address, timeout).await {
        Ok(status) if (200..400).contains(&status) => Outcome {
            success: true,
            message: String::new(),
        },
        Ok(status) => failed(format!("{} answered {status}", url(get, address))),
        Err(why) => failed(format!("{}: {why}", url(get, address))),
    }
}

async fn request(
    sandbox: &Arc<dyn Sandbox>,
    get: &HttpGetAction,
    address: IpAddr,
    timeout: Duration,
) -> Result<u16, String> {
    let target = SocketAddr::new(address, get.port);
    let stream = sandbox
        .dial(target, timeout)
        .await
        .map_err(|e| e.message().to_owned())?;
    let stream: Box<dyn Duplex> = if is_https(get) {
        let name = ServerName::IpAddress(address.into());
        let connector = TlsConnector::from(tls::unchecked_client().map_err(|e| e.to_string())?);
        let tls = connector
            .connect(name, stream)
            .await
            .map_err(|e| format!("TLS: {e}"))?;
        Box::new(tls)
    } else {
        stream
    };
    let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let mut builder = Request::get(path(get));
    if let Some(headers) = builder.headers_mut() {
        let host = HeaderValue::from_str(&target.to_string()).map_err(|e| e.to_string())?;
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("aci-probe/1"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        for own in &get.http_headers {
            let name = own.name.as_deref().unwrap_or_default();
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("'{name}' is not a header name"))?;
            let value = HeaderValue::from_str(own.value.as_deref().unwrap_or_default())
                .map_err(|_| format!("the value of header '{name}' has forbidden characters"))?;
            headers.insert(name, value);
        }
    }
    let request = builder.body(Empty::new()).map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| {
            if e.is_canceled() || e.is_incomplete_message() {
                "the connection was closed without an answer".to_owned()
            } else {
                e.to_string()
            }
        })?;
        let status = response.status().as_u16();
        // Read a little of the body, so that the server sees a reader rather than a reset.
        let _ = Limited::new(response.into_body(), 64 * 1024)
            .collect()
            .await;
        Ok(status)
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        status = &mut exchange => status,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(e.to_string()),
        },
    }
}
