//! The way to a registry: connections that are used again, proxies, credentials from a file, and
//! what a broken-off pull leaves for the next one.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::contract::{
    ImageStore as _, PullEvent, PullPhase, PullPolicy, PullProgress, PullRequest,
};
use aci_core::error::ErrorKind;
use aci_storage::{Digest, OciImages, OciImagesOptions, Proxies, TlsRoots};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{
    CONFIG, LAYER, MANIFEST, Store, architecture, gzip, layer, layer_dirs, prepare,
};
use crate::front::{Act, Front};
use crate::server::{PASSWORD, Pusher, Registry, Setup, USER, content};
use crate::{is, login, noise, pull, pull_as, store, store_with};

/// Passes connections on and counts them.
async fn relay(to: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let to = to.clone();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (host, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let layers: Vec<_> = (0..12)
        .map(|n| layer(&[(&format!("f{n}"), &noise(40_000))]))
        .collect();
    pusher.image("1", architecture(), &layers).await;
    let (host, count) = relay(registry.host()).await;
    let store = store_with(|r| {
        r.insecure = vec![host.clone()];
        r.parallel_layers = 2;
    });
    pull(&store, &format!("{host}/app:1")).await.unwrap();
    // A manifest, a configuration and twelve layers.
    let count = count.load(Ordering::SeqCst);
    assert!(count < 8, "{count} connections for 14 requests");
}

/// A proxy for names that only it knows.
struct Proxy {
    host: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Leads all to one server; wants this proof if there is one.
    async fn start(server: String, proof: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, proof, noted) = (server.clone(), proof.clone(), Arc::clone(&noted));
                tokio::spawn(serve_proxy(client, server, proof, noted));
            }
        });
        Self { host, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve_proxy(
    mut client: TcpStream,
    server: String,
    proof: Option<String>,
    heads: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes).ok()?;
    heads.lock().unwrap().push(head.clone());
    let shown = |line: &str| {
        line.to_ascii_lowercase()
            .starts_with("proxy-authorization:")
    };
    let known = proof.is_none_or(|p| head.lines().any(|l| shown(l) && l.ends_with(&p)));
    if !known {
        let answer = b"HTTP/1.1 407 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        client.write_all(answer).await.ok()?;
        return client.shutdown().await.ok();
    }
    let mut upstream = TcpStream::connect(server).await.ok()?;
    if head.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 ok\r\n\r\n").await.ok()?;
    } else {
        // One exchange, in the form that servers know.
        let (_, rest) = head.split_once("://")?;
        let path = &rest[rest.find('/')?..];
        let head = format!("GET {path}").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        upstream.write_all(head.as_bytes()).await.ok()?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut upstream)
        .await
        .ok()
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_asked_for_what_only_it_can_reach() {
    let signed = rcgen::generate_simple_self_signed(vec!["registry.invalid".to_owned()]).unwrap();
    let (certificate, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
    let Some(mut registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let pushed = pusher
        .image("1", architecture(), &[layer(&[("a", "1")])])
        .await;
    let digest = pushed["digest"].as_str().unwrap();

    // By plain HTTP, where the proxy sees every request.
    let proxy = Proxy::start(registry.host(), None).await;
    let store = store_with(|r| {
        r.insecure = vec!["registry.invalid:5000".into()];
        r.proxies = Proxies::new("", &proxy.host, "").unwrap();
    });
    let image = pull(&store, "registry.invalid:5000/app:1").await.unwrap();
    assert_eq!(image.digest, digest);
    let heads = proxy.heads();
    assert!(heads[0].starts_with("GET http://registry.invalid:5000/v2/app/manifests/1 "));
    assert_eq!(heads.len(), 3);

    // By TLS, where it sees none: through a tunnel, with a password for the proxy.
    registry.kill();
    registry.with_tls(certificate.clone(), key);
    assert!(registry.up());
    let proof = STANDARD.encode("me:pw:x");
    let proxy = Proxy::start(registry.host(), Some(format!("Basic {proof}"))).await;
    let with = |address: String, except: &str| {
        let proxies = Proxies::new(&address, "", except).unwrap();
        let certificate = certificate.clone();
        store_with(|r| {
            r.roots = TlsRoots::Pem(certificate);
            r.proxies = proxies;
            r.retries = 0;
        })
    };
    let reference = "registry.invalid/app:1";
    let store = with(format!("http://me:pw%3Ax@{}", proxy.host), "");
    assert_eq!(pull(&store, reference).await.unwrap().digest, digest);
    let heads = proxy.heads();
    assert!(heads[0].starts_with("CONNECT registry.invalid:443 HTTP/1.1\r\n"));
    assert!(heads.iter().all(|h| !h.contains("manifests")), "{heads:?}");

    let store = with(format!("http://me:wrong@{}", proxy.host), "");
    let error = pull(&store, reference).await.unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    let hint = error.next_step().unwrap();
    assert!(hint.contains(&proxy.host) && hint.contains("407"), "{hint}");
    assert!(!format!("{error:?}").contains("wrong"));

    // An exception is reached directly, and nobody knows this name.
    let before = proxy.heads().len();
    let store = with(format!("http://me:pw%3Ax@{}", proxy.host), ".invalid");
    let error = pull(&store, reference).await.unwrap_err();
    is(&error, ErrorKind::Unavailable, Some("InaccessibleImage"));
    assert_eq!(proxy.heads().len(), before);

    let store = with("127.0.0.1:1".to_owned(), "");
    let error = pull(&store, reference).await.unwrap_err();
    assert!(error.next_step().unwrap().contains("proxy"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_dockers_file_are_used_where_the_request_has_none() {
    let Some(registry) = Registry::start(Setup {
        password: true,
        ..Setup::default()
    }) else {
        return;
    };
    let host = registry.host();
    let pusher = Pusher::new(&registry, "private");
    pusher
        .image("1", architecture(), &[layer(&[("a", "1")])])
        .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let write = |password: &str| {
        let auth = STANDARD.encode(format!("{USER}:{password}"));
        let text = json!({"auths": {&host: {"auth": auth}}}).to_string();
        std::fs::write(&file, text).unwrap();
    };
    let store = store_with(|r| {
        r.insecure = vec![host.clone()];
        r.docker_config = Some(file.clone());
    });
    let reference = format!("{host}/private:1");
    let denied = |error| {
        is(
            &error,
            ErrorKind::PermissionDenied,
            Some("InaccessibleImage"),
        )
    };

    denied(pull(&store, &reference).await.unwrap_err()); // there is no file
    write("wrong");
    denied(pull(&store, &reference).await.unwrap_err());
    // The request's own credentials come first, right or wrong.
    write(PASSWORD);
    let wrong = Some(login(&host, "wrong"));
    denied(
        pull_as(&store, &reference, PullPolicy::IfNotPresent, wrong)
            .await
            .unwrap_err(),
    );
    pull(&store, &reference).await.unwrap();
}

fn partial(images: &OciImages) -> Vec<u64> {
    std::fs::read_dir(images.dir().join("partial"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect()
}

/// Opens a store again, as the next program does.
fn reopen(store: Store, host: &str) -> Store {
    let Store { images, dir } = store;
    let path = images.dir().to_owned();
    drop(images);
    let mut options = OciImagesOptions::default();
    options.registries.insecure = vec![host.to_owned()];
    options.registries.retries = 0;
    // A writer of the pull before may still be at its end.
    let images = (0..100)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            OciImages::open_with(&path, options.clone()).ok()
        })
        .unwrap();
    Store { images, dir }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_program_goes_on_where_a_pull_broke_off() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let big = layer(&[("big", &noise(3_000_000))]);
    pusher
        .image("1", architecture(), std::slice::from_ref(&big))
        .await;
    let path = format!("/v2/app/blobs/{}", Digest::of(&big));
    let known = path.clone();
    let front = Front::before(registry.host(), move |head, before| {
        match head.path == known && before % 2 == 0 {
            true => Act::Cut(1_000_000),
            false => Act::Pass,
        }
    })
    .await;
    let reference = format!("{}/app:1", front.host());
    let store = store_with(|r| {
        r.insecure = vec![front.host()];
        r.retries = 0;
    });
    let error = pull(&store, &reference).await.unwrap_err();
    is(
        &error,
        ErrorKind::Unavailable,
        Some("RegistryErrorResponse"),
    );
    let left = partial(&store.images);
    assert!(left.len() == 1 && left[0] > 900_000, "{left:?}");
    assert_eq!(store.images.usage().await.unwrap().partial_bytes, left[0]);
    // Removing another image leaves it for the next try.
    store.images.remove("nothing:1").await.unwrap();

    let store = reopen(store, &front.host());
    pull(&store, &reference).await.unwrap();
    let seen = front.seen();
    let asked: Vec<_> = seen.iter().filter(|h| h.path == path).collect();
    let range = format!("bytes={}-", left[0]);
    assert_eq!(asked.last().unwrap().header("Range"), Some(range.as_str()));
    assert_eq!(partial(&store.images), [0; 0]);

    // What was left is damaged: fetched anew, once, without a word to the caller.
    store.images.remove(&reference).await.unwrap();
    pull(&store, &reference).await.unwrap_err();
    let file = std::fs::read_dir(store.images.dir().join("partial"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let store = reopen(store, &front.host());
    let before = front.seen().len();
    // The second of the two answers is broken off again.
    pull(&store, &reference).await.unwrap_err();
    pull(&store, &reference).await.unwrap();
    let since = front.seen()[before..].to_vec();
    let ranges: Vec<_> = since
        .iter()
        .filter(|h| h.path == path)
        .map(|h| h.header("Range").is_some())
        .collect();
    assert_eq!(ranges, [true, false, true]);
    let image = store.images.get(&reference).await.unwrap();
    let root = prepare(&store.images, &image).await;
    assert_eq!(content(&layer_dirs(&root)[0], "big").len(), 3_000_000);

    // A collection that is asked for takes what is left.
    store
        .images
        .release(&crate::common::key("c"))
        .await
        .unwrap();
    store.images.remove(&reference).await.unwrap();
    pull(&store, &reference).await.unwrap_err();
    let freed = store.images.collect_garbage().await.unwrap();
    assert!(freed.partial_bytes > 900_000, "{freed:?}");
    assert_eq!(partial(&store.images), [0; 0]);
}

/// What the real `zstd` makes, under both names that layers of this kind go by.
#[tokio::test(flavor = "multi_thread")]
async fn layers_of_zstd_are_read() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let zstd = |bytes: &[u8], options: &[&str]| {
        let mut child = Command::new("zstd")
            .args(["--quiet", "--stdout", "--no-progress"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let pusher = Pusher::new(&registry, "app");
    let layers = [
        layer(&[("a", &noise(2_000_000))]),
        layer(&[("b", &"text ".repeat(500_000))]),
        layer(&[("c", "3")]),
    ];
    let blobs = [
        (format!("{LAYER}+zstd"), zstd(&layers[0], &["-1"])),
        (
            "application/vnd.docker.image.rootfs.diff.tar.zstd".to_owned(),
            zstd(&layers[1], &["-19", "--long=27", "--check"]),
        ),
        (format!("{LAYER}+gzip"), gzip(&layers[2])),
    ];
    let mut described = Vec::new();
    for (kind, bytes) in &blobs {
        described.push(pusher.blob(kind, bytes).await);
    }
    let diff_ids: Vec<_> = layers.iter().map(|l| Digest::of(l)).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    });
    let config = pusher
        .blob(CONFIG, &serde_json::to_vec(&config).unwrap())
        .await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described
    });
    pusher.tag("1", &manifest).await;
    let store = store(&[registry.host()]);
    let image = pull(&store, &format!("{}/app:1", registry.host()))
        .await
        .unwrap();
    let root = prepare(&store.images, &image).await;
    let dirs = layer_dirs(&root);
    assert_eq!(content(&dirs[2], "a"), noise(2_000_000));
    assert_eq!(content(&dirs[1], "b"), "text ".repeat(500_000));
    assert_eq!(content(&dirs[0], "c"), "3");
}

/// The second half of a layer is sent only when the first was unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn layers_are_unpacked_while_they_are_fetched() {
    let Some(registry) = Registry::start(Setup::default()) else {
        return;
    };
    let pusher = Pusher::new(&registry, "app");
    let big = layer(&[("one", &noise(1_000_000)), ("two", &noise(1_000_000))]);
    pusher
        .image("1", architecture(), std::slice::from_ref(&big))
        .await;
    let path = format!("/v2/app/blobs/{}", Digest::of(&big));
    let unpacked = Arc::new(AtomicUsize::new(0));
    let (known, reached) = (path.clone(), Arc::clone(&unpacked));
    let front = Front::before(registry.host(), move |head, before| {
        if head.path != known || before > 1 {
            return Act::Pass;
        }
        if before == 0 {
            return Act::Cut(1_200_000);
        }
        for _ in 0..2000 {
            if reached.load(Ordering::SeqCst) > 900_000 {
                return Act::Pass;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Act::Say(404, vec![], vec![])
    })
    .await;
    let store = store(&[front.host()]);
    let request = PullRequest {
        reference: format!("{}/app:1", front.host()),
        login: None,
        policy: PullPolicy::IfNotPresent,
    };
    let hear: PullProgress = Arc::new(move |event: PullEvent| {
        if event.phase == PullPhase::Unpacking {
            let done = usize::try_from(event.done).unwrap();
            unpacked.fetch_max(done, Ordering::SeqCst);
        }
    });
    let image = store.images.pull(request, Some(hear)).await.unwrap();
    let root = prepare(&store.images, &image).await;
    assert_eq!(content(&layer_dirs(&root)[0], "two"), noise(1_000_000));
}
