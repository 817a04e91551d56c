//! Debian's docker-registry as a process, and a pusher.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aci_storage::Digest;
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::{CONFIG, INDEX, LAYER, MANIFEST, gzip};

pub const USER: &str = "tester";
pub const PASSWORD: &str = "s3cret-pass";
/// bcrypt of `PASSWORD`, with the lowest cost that is allowed to be fast.
const HTPASSWD: &str = "tester:$2y$05$c/GSntenWYHacdLwlTeW3.E1adXkD3K6e7KGvyb4MjS/kFXRBnarS\n";

/// How a registry is set up.
#[derive(Default)]
pub struct Setup {
    pub password: bool,
    /// Certificate and key as PEM.
    pub tls: Option<(String, String)>,
}

/// A registry on a free port of the loopback, which goes with this value.
pub struct Registry {
    pub port: u16,
    setup: Setup,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Registry {
    /// `None` (with a word on it) if this machine has none.
    pub fn start(setup: Setup) -> Option<Self> {
        if Command::new("docker-registry")
            .arg("--version")
            .output()
            .is_err()
        {
            eprintln!("SKIPPED: there is no docker-registry (Debian: docker-registry)");
            return None;
        }
        // Somebody may take the port before the registry does; then it is another one's turn.
        for _ in 0..5 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut registry = Self {
                port: free.local_addr().unwrap().port(),
                setup: Setup {
                    password: setup.password,
                    tls: setup.tls.clone(),
                },
                dir: tempfile::tempdir().unwrap(),
                child: None,
            };
            drop(free);
            if registry.up() {
                return Some(registry);
            }
        }
        panic!("docker-registry does not start");
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it on the port that it had.
    pub fn up(&mut self) -> bool {
        let dir = self.dir.path();
        let file = |name: &str, content: &str| {
            std::fs::write(dir.join(name), content).unwrap();
            dir.join(name).display().to_string()
        };
        let mut config = json!({
            "version": 0.1,
            "log": {"accesslog": {"disabled": true}, "level": "error"},
            "storage": {"filesystem": {"rootdirectory": dir.join("data")}},
            "http": {"addr": self.host()}
        });
        if self.setup.password {
            let path = file("htpasswd", HTPASSWD);
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": path}});
        }
        if let Some((certificate, key)) = &self.setup.tls {
            let (certificate, key) = (file("cert.pem", certificate), file("key.pem", key));
            config["http"]["tls"] = json!({"certificate": certificate, "key": key});
        }
        // JSON is YAML.
        let config = file("config.yml", &config.to_string());
        let mut child = Command::new("docker-registry")
            .args(["serve", &config])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if std::net::TcpStream::connect(self.host()).is_ok() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// For the next start.
    pub fn with_tls(&mut self, certificate: String, key: String) {
        self.setup.tls = Some((certificate, key));
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Pushes to a registry without TLS.
pub struct Pusher {
    host: String,
    repository: String,
}

impl Pusher {
    pub fn new(registry: &Registry, repository: &str) -> Self {
        Self {
            host: registry.host(),
            repository: repository.to_owned(),
        }
    }

    async fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let mut stream = TcpStream::connect(&self.host).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Basic {pair}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    pub async fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let (status, answer) = self.ask("POST", &path, "", b"").await;
        assert_eq!(status, 202, "{answer}");
        let location = answer
            .lines()
            .find_map(|l| l.strip_prefix("Location: "))
            .unwrap()
            .trim();
        let path = location
            .strip_prefix(&format!("http://{}", self.host))
            .unwrap_or(location);
        let path = format!("{path}&digest={digest}");
        let (status, answer) = self
            .ask("PUT", &path, "application/octet-stream", bytes)
            .await;
        assert_eq!(status, 201, "{answer}");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Puts a manifest or index under a tag and describes it.
    pub async fn tag(&self, tag: &str, manifest: &Value) -> Value {
        let kind = manifest["mediaType"].as_str().unwrap();
        let bytes = serde_json::to_vec(manifest).unwrap();
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let (status, answer) = self.ask("PUT", &path, kind, &bytes).await;
        assert_eq!(status, 201, "{answer}");
        json!({"mediaType": kind, "digest": Digest::of(&bytes), "size": bytes.len()})
    }

    /// An image of layers, all but the first compressed.
    pub async fn image(&self, tag: &str, architecture: &str, layers: &[Vec<u8>]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|l| Digest::of(l)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Entrypoint": ["/bin/app"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}
        });
        let config = self
            .blob(CONFIG, &serde_json::to_vec(&config).unwrap())
            .await;
        let mut blobs = Vec::new();
        for (at, layer) in layers.iter().enumerate() {
            blobs.push(match at {
                0 => self.blob(LAYER, layer).await,
                _ => self.blob(&format!("{LAYER}+gzip"), &gzip(layer)).await,
            });
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": blobs
        });
        self.tag(tag, &manifest).await
    }

    /// An index of what [`Pusher::image`] described.
    pub async fn index(&self, tag: &str, images: &[(&str, &str, Value)]) -> Value {
        let manifests: Vec<_> = images
            .iter()
            .map(|(os, architecture, image)| {
                let mut image = image.clone();
                image["platform"] = json!({"os": os, "architecture": architecture});
                image
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.tag(tag, &index).await
    }
}

/// Reads a file below a directory.
pub fn content(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap()
}
