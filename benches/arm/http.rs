//! A client that keeps its connections and times each request.

use std::net::SocketAddr;
use std::time::Instant;

use aci_benches::contest::{Sample, milliseconds};
use aci_benches::stats::percentile;
use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::{CONNECTIONS, GETS, LISTS};

/// One connection.
pub(crate) struct Client {
    sender: SendRequest<Empty<Bytes>>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Asks once and reads the whole answer; its bytes.
    pub(crate) async fn get(&mut self, target: &str) -> anyhow::Result<Bytes> {
        let request = hyper::Request::builder()
            .uri(target)
            .header("host", "localhost");
        let request = request.body(Empty::new())?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        anyhow::ensure!(
            answer.status().is_success(),
            "{target}: {}",
            answer.status()
        );
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    /// The times of so many requests in milliseconds, sorted.
    async fn times(&mut self, target: &str, count: usize) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            self.get(target).await?;
            times.push(milliseconds(begin.elapsed()));
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }
}

/// Where one side answers one resource, a list of one, and a list of all.
#[derive(Clone)]
pub(crate) struct Targets {
    pub(crate) address: SocketAddr,
    pub(crate) one: String,
    pub(crate) list_one: String,
    pub(crate) list: String,
}

/// One turn.
pub(crate) async fn turn(targets: &Targets) -> anyhow::Result<Sample> {
    let mut client = Client::connect(targets.address).await?;
    let of = |times: &[f64], percent| percentile(times, percent).context("no requests");
    let gets = client.times(&targets.one, GETS).await?;
    let ones = client.times(&targets.list_one, LISTS).await?;
    let lists = client.times(&targets.list, LISTS).await?;
    let begin = Instant::now();
    let asking = (0..CONNECTIONS).map(|_| {
        let targets = targets.clone();
        tokio::spawn(async move {
            let mut client = Client::connect(targets.address).await?;
            client.times(&targets.one, GETS).await.map(drop)
        })
    });
    for asked in futures_util::future::join_all(asking).await {
        asked??;
    }
    #[allow(clippy::cast_precision_loss)] // a few hundred
    let each = milliseconds(begin.elapsed()) / (CONNECTIONS * GETS) as f64;
    Ok(vec![
        ("get p50", of(&gets, 50)?),
        ("get p99", of(&gets, 99)?),
        ("get each", each),
        ("list 1 p50", of(&ones, 50)?),
        ("list p50", of(&lists, 50)?),
        ("list p99", of(&lists, 99)?),
    ])
}
