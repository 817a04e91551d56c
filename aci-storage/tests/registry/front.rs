//! A server before a registry that notes every request and may do anything with it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Let it through.
    Pass,
    /// Let it through, but break the connection after so many bytes of the answer.
    Cut(usize),
    /// Answer so: status, headers, body.
    Say(u16, Vec<(String, String)>, Vec<u8>),
    /// Say nothing.
    Silence,
}

/// A request's head.
#[derive(Clone, Debug)]
pub struct Head {
    pub method: String,
    pub path: String,
    pub text: String,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

type Decide = dyn Fn(&Head, usize) -> Act + Send + Sync;

/// The server; it ends with the test's runtime.
pub struct Front {
    pub port: u16,
    seen: Arc<Mutex<Vec<Head>>>,
}

impl Front {
    /// `decide` gets a request and how many of the same path were before it.
    pub async fn before(
        upstream: impl Into<String>,
        decide: impl Fn(&Head, usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (upstream, noted, decide) = (upstream.into(), Arc::clone(&seen), Arc::new(decide));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(
                    stream,
                    upstream.clone(),
                    Arc::clone(&noted),
                    Arc::clone(&decide) as Arc<Decide>,
                ));
            }
        });
        Self { port, seen }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: String,
    seen: Arc<Mutex<Vec<Head>>>,
    decide: Arc<Decide>,
) -> Option<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(client.read_u8().await.ok()?);
    }
    let text = String::from_utf8(bytes.clone()).ok()?;
    let mut words = text.split(' ');
    let head = Head {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        text: text.clone(),
    };
    let act = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|h| h.path == head.path).count();
        let act = decide(&head, before);
        seen.push(head);
        act
    };
    match act {
        Act::Silence => tokio::time::sleep(Duration::from_secs(60)).await,
        Act::Say(status, headers, body) => {
            let mut answer = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
            if !headers.iter().any(|(n, _)| n == "Transfer-Encoding") {
                answer += &format!("Content-Length: {}\r\n", body.len());
            }
            for (name, value) in headers {
                answer += &format!("{name}: {value}\r\n");
            }
            answer += "\r\n";
            client.write_all(answer.as_bytes()).await.ok()?;
            client.write_all(&body).await.ok()?;
            client.shutdown().await.ok()?;
        }
        Act::Pass | Act::Cut(_) => {
            let mut left = match act {
                Act::Cut(most) => most,
                _ => usize::MAX,
            };
            let mut server = TcpStream::connect(upstream).await.ok()?;
            server.write_all(&bytes).await.ok()?;
            let mut buffer = vec![0; 16 * 1024];
            let mut unused = [0; 1];
            while left > 0 {
                let n = tokio::select! {
                    n = server.read(&mut buffer) => n.ok()?,
                    // The client is done.
                    _ = client.read(&mut unused) => return None,
                };
                if n == 0 {
                    break;
                }
                client.write_all(&buffer[..n.min(left)]).await.ok()?;
                left -= n.min(left);
            }
        }
    }
    Some(())
}
