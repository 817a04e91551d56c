//! One request to a workspace, and what follows from its answer.

use std::sync::Arc;
use std::time::Duration;

use aci_core::contract::Duplex;
use aci_core::model::Secret;
use aci_core::time::Timestamp;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::sign;
use super::spool::Batch;

/// The longest wait between two tries.
const LONGEST: Duration = Duration::from_secs(300);

/// What is done with a batch after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It arrived.
    Done,
    /// It never will: the workspace does not understand it.
    Drop,
    /// It is tried again after a wait.
    Retry,
}

/// By the status of the answer. A wrong key or workspace is mended by an update of the group, so it
/// is no reason to give up.
pub(super) fn judge(status: StatusCode) -> Next {
    match status.as_u16() {
        200..=299 => Next::Done,
        400 | 411 | 413 | 415 => Next::Drop,
        _ => Next::Retry,
    }
}

/// The wait after so many failures in a row: 1 s, 2 s, 4 s, ... up to 5 minutes.
pub(super) fn wait(failures: u32) -> Duration {
    let seconds = 1u64
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u64::MAX);
    LONGEST.min(Duration::from_secs(seconds))
}

/// Sends a batch.
///
/// # Errors
/// Why it could not be sent, without the key; it is tried again then.
///
/// # Cancel safety
/// It may have arrived; it is sent again then.
pub(super) async fn post(
    endpoint: &str,
    tls: &Arc<ClientConfig>,
    key: &Secret,
    batch: &Batch,
    now: Timestamp,
) -> Result<StatusCode, String> {
    let endpoint = endpoint.replace("{workspaceId}", &batch.address.workspace);
    let uri: Uri = format!(
        "{}{}?api-version=2016-04-01",
        endpoint.trim_end_matches('/'),
        sign::PATH
    )
    .parse()
    .map_err(|e| format!("the endpoint '{endpoint}' is no URL: {e}"))?;
    let host = uri.host().ok_or("the endpoint names no host")?.to_owned();
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let body = serde_json::to_vec(&batch.records).map_err(|e| e.to_string())?;
    let date = sign::date(now);
    let authorization = sign::authorization(&batch.address.workspace, key, body.len(), &date)
        .ok_or("the workspace key is not base64")?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::post(path)
        .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, authorization)
        .header("log-type", &batch.address.table)
        .header("x-ms-date", date)
        .header("x-ms-azureresourceid", &batch.address.resource)
        .header("time-generated-field", "TimeGenerated")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let stream = TcpStream::connect((&*host, port))
        .await
        .map_err(|e| e.to_string())?;
    let stream: Box<dyn Duplex> = if https {
        let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
        let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        Box::new(connecting.await.map_err(|e| format!("TLS: {e}"))?)
    } else {
        Box::new(stream)
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status();
        let _ = Limited::new(response.into_body(), 64 << 10).collect().await;
        Ok(status)
    };
    tokio::pin!(exchange);
    tokio::select! {
        status = &mut exchange => status,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(e.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_understood_is_given_up() {
        let judged = |status: u16| judge(StatusCode::from_u16(status).unwrap());
        assert_eq!(judged(200), Next::Done);
        assert_eq!((judged(400), judged(413)), (Next::Drop, Next::Drop));
        for status in [301, 403, 404, 408, 429, 500, 503] {
            assert_eq!(judged(status), Next::Retry, "{status}");
        }
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<_> = [1, 2, 3, 9, 10, 64, 500].map(|n| wait(n).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300, 300]);
    }
}
