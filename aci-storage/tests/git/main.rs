//! `gitRepo` volumes from Debian's git: what a document may say, and what a repository may be.
#![cfg(feature = "git-repo")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod server;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aci_core::conformance::volume::{self, VolumeHarness};
use aci_core::contract::{VolumeDriver, VolumeEvent, VolumeRequest, VolumeSource};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::{GitRepoVolume, Volume};
use aci_storage::{GitLimits, GitRepos, GitReposOptions};
use async_trait::async_trait;
use server::{Line, Repository, Server, git};

struct Bench {
    server: Server,
    driver: GitRepos,
    place: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(GitReposOptions::default())
    }

    fn limited(change: impl FnOnce(&mut GitLimits)) -> Self {
        let mut options = GitReposOptions::default();
        change(&mut options.limits);
        Self::with(options)
    }

    fn with(options: GitReposOptions) -> Self {
        let place = tempfile::tempdir().unwrap();
        Self {
            server: Server::start(),
            driver: GitRepos::open(place.path().join("v"), options).unwrap(),
            place,
        }
    }

    async fn copy(
        &self,
        url: &str,
        directory: Option<&str>,
        revision: Option<&str>,
    ) -> Result<PathBuf> {
        let made = self
            .driver
            .provide(request(url, directory, revision))
            .await?;
        let VolumeSource::Directory(path) = made else {
            panic!("not a directory")
        };
        Ok(path)
    }

    /// The copy's own directory, and what git says of it.
    async fn checked_out(&self, name: &str, revision: Option<&str>) -> (PathBuf, String) {
        self.clear().await;
        let path = self
            .copy(&self.server.url(name), Some("."), revision)
            .await
            .unwrap();
        assert_eq!(git(&path, &["status", "--porcelain"], b""), "");
        git(&path, &["fsck"], b"");
        let head = git(&path, &["rev-parse", "HEAD"], b"");
        (path, head)
    }

    async fn refused(&self, name: &str, kind: ErrorKind) -> Error {
        let error = self
            .copy(&self.server.url(name), None, None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {}", error.chain());
        assert!(error.aci_code().is_some());
        self.nothing_is_left().await;
        error
    }

    async fn clear(&self) {
        for volume in self.driver.list().await.unwrap() {
            self.driver
                .release(&volume.sandbox, &volume.name)
                .await
                .unwrap();
        }
        self.nothing_is_left().await;
    }

    async fn nothing_is_left(&self) {
        assert!(self.driver.list().await.unwrap().is_empty());
        for place in ["v/repositories", "v/repositories-trash"] {
            let left = fs::read_dir(self.place.path().join(place)).unwrap().count();
            assert_eq!(left, 0, "in {place}");
        }
    }
}

fn request(url: &str, directory: Option<&str>, revision: Option<&str>) -> VolumeRequest {
    VolumeRequest::new(
        "s1".parse().unwrap(),
        Volume {
            name: "source".into(),
            git_repo: Some(GitRepoVolume {
                repository: url.into(),
                directory: directory.map(str::to_owned),
                revision: revision.map(str::to_owned),
                ..GitRepoVolume::default()
            }),
            ..Volume::default()
        },
    )
}

/// `main` with two commits, a branch, a tag with a message, and a commit that no branch has.
fn history(repository: &Repository) -> [String; 4] {
    let blob = |text: &str| repository.blob(text.as_bytes());
    let script = blob("#!/bin/sh\n");
    let tree = |text: &str| {
        let inner = repository.tree(&[("100644", b"deep", &blob(text))]);
        repository.tree(&[
            ("100755", b"run", &script),
            ("40000", b"sub", &inner),
            ("100644", b"text", &blob(text)),
        ])
    };
    let first = repository.commit("main", &tree("first"));
    let second = repository.commit("main", &tree("second"));
    let other = repository.commit("other", &tree("other"));
    repository.git(&["tag", "-a", "-m", "a tag", "v1", &first], b"");
    let lost = repository.commit("gone", &tree("lost"));
    repository.git(&["update-ref", "-d", "refs/heads/gone"], b"");
    [first, second, other, lost]
}

#[tokio::test]
async fn branches_tags_and_commits_are_found_by_both_protocols() {
    let bench = Bench::new();
    let [first, second, other, lost] = history(&bench.server.repository("app"));
    for old in [false, true] {
        bench.server.behaviour.old.store(old, Ordering::Relaxed);
        let text = |path: &Path| fs::read_to_string(path.join("sub/deep")).unwrap();
        for (revision, commit, content) in [
            (None, &second, "second"),
            (Some("main"), &second, "second"),
            (Some("other"), &other, "other"),
            (Some("refs/heads/other"), &other, "other"),
            (Some("v1"), &first, "first"),
            (Some("refs/tags/v1"), &first, "first"),
            (Some(first.as_str()), &first, "first"),
            (Some(&first[..8]), &first, "first"),
        ] {
            let (path, head) = bench.checked_out("app", revision).await;
            assert_eq!(&head, commit, "{revision:?}, old: {old}");
            assert_eq!(text(&path), content);
        }
        // Only the newest commit came, by the protocol that can say so.
        let (path, _) = bench.checked_out("app", None).await;
        let count = git(&path, &["rev-list", "--count", "HEAD"], b"");
        assert_eq!(count, if old { "2" } else { "1" });
        assert_eq!(git(&path, &["branch", "--show-current"], b""), "main");
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().mode() & 0o7777;
        assert_eq!(
            [mode(""), mode("run"), mode("text"), mode("sub")],
            [0o777, 0o755, 0o644, 0o755]
        );
        bench.clear().await;
        for missing in ["nothing", "0123456789", &"7".repeat(40), "refs/heads/v1"] {
            let url = bench.server.url("app");
            let error = bench.copy(&url, None, Some(missing)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
            assert!(error.to_string().contains(missing), "{error}");
            bench.nothing_is_left().await;
        }
    }
    // A commit that nothing leads to is given by the newer protocol only.
    bench.server.behaviour.old.store(false, Ordering::Relaxed);
    assert_eq!(bench.checked_out("app", Some(&lost)).await.1, lost);
    bench.clear().await;
}

#[tokio::test]
async fn directories_are_as_in_aci() {
    let bench = Bench::new();
    history(&bench.server.repository("app"));
    let url = bench.server.url("app");
    for (directory, place) in [(None, "app"), (Some("."), "."), (Some("my-dir"), "my-dir")] {
        let path = bench.copy(&url, directory, None).await.unwrap();
        assert!(path.join(place).join("text").exists(), "{directory:?}");
        assert!(path.join(place).join(".git/HEAD").exists());
        // Again: the same, with what was written.
        fs::write(path.join("kept"), "x").unwrap();
        assert!(
            bench
                .copy(&url, directory, None)
                .await
                .unwrap()
                .join("kept")
                .exists()
        );
        bench.clear().await;
    }
    bench.server.repository("empty");
    let error = bench.refused("empty", ErrorKind::NotFound).await;
    assert!(error.to_string().contains("no commit yet"), "{error}");
    let error = bench.refused("unknown", ErrorKind::NotFound).await;
    assert!(error.to_string().contains("no such repository"), "{error}");
    let error = bench
        .copy("http://127.0.0.1:1/x", None, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn hooks_filters_links_and_submodules_do_nothing() {
    let bench = Bench::new();
    let repository = bench.server.repository("app");
    let mark = bench.place.path().join("mark");
    let evil = format!("#!/bin/sh\ntouch {}\n", mark.display());
    let text = |text: &str| repository.blob(text.as_bytes());
    let hooks = repository.tree(&[("100755", b"post-checkout", &text(&evil))]);
    let commit = history(&bench.server.repository("sub"))[0].clone();
    let modules = format!(
        "[submodule \"m\"]\n\tpath = m\n\turl = {}\n",
        bench.server.url("sub")
    );
    let attributes = "* filter=evil eol=crlf working-tree-encoding=UTF-16\n";
    let tree = repository.tree(&[
        ("100644", b".gitattributes", &text(attributes)),
        ("100644", b".gitmodules", &text(&modules)),
        ("40000", b"hooks", &hooks),
        ("120000", b"link", &text("/etc/passwd")),
        ("160000", b"m", &commit),
        ("100644", b"text", &text("a\nb\n")),
    ]);
    repository.commit("main", &tree);
    fs::write(repository.path.join("hooks/post-checkout"), &evil).unwrap();
    let path = bench
        .copy(&bench.server.url("app"), Some("."), None)
        .await
        .unwrap();
    assert_eq!(
        fs::read_link(path.join("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert_eq!(fs::read_dir(path.join("m")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(path.join("text")).unwrap(), "a\nb\n");
    assert!(!path.join(".git/hooks").exists() && !path.join(".git/modules").exists());
    assert!(!mark.exists());
    bench.clear().await;
}

/// Makes a tree in a repository and answers its hash.
type MakeTree = Box<dyn Fn(&Repository) -> String>;

#[tokio::test]
async fn trees_that_lead_elsewhere_are_refused_and_leave_nothing() {
    let bench = Bench::new();
    let outside = bench.place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let mut case = 0;
    let mut trees: Vec<MakeTree> = Vec::new();
    for name in [
        &b".."[..],
        b".",
        b"",
        b".git",
        b".GIT",
        b".Git ",
        b"git~1",
        b".git::$INDEX_ALLOCATION",
        b"a/b",
        b"../x",
        b"/etc/x",
        ".g\u{200c}it".as_bytes(),
    ] {
        trees.push(Box::new(move |r| {
            r.tree(&[("100644", name, &r.blob(b"x"))])
        }));
        trees.push(Box::new(move |r| {
            let inner = r.tree(&[("100755", b"config", &r.blob(b"x"))]);
            r.tree(&[("40000", name, &inner)])
        }));
    }
    // A link, and a directory of the same name that would be written through it.
    let to = outside.display().to_string();
    trees.push(Box::new(move |r| {
        let inner = r.tree(&[("100644", b"written", &r.blob(b"x"))]);
        r.tree(&[
            ("120000", b"a", &r.blob(to.as_bytes())),
            ("40000", b"a", &inner),
        ])
    }));
    let to = outside.join("written").display().to_string();
    trees.push(Box::new(move |r| {
        let lines: [Line<'_>; 2] = [
            ("120000", b"a", &r.blob(to.as_bytes())),
            ("100644", b"a", &r.blob(b"x")),
        ];
        r.tree(&lines)
    }));
    trees.push(Box::new(|r| r.tree(&[("120000", b"a", &r.blob(b"a\0b"))])));
    trees.push(Box::new(|r| {
        r.tree(&[("120000", b"a", &r.blob(&[b'x'; 5000]))])
    }));
    trees.push(Box::new(|r| {
        r.tree(&[("100644", &[b'n'; 300], &r.blob(b"x"))])
    }));
    trees.push(Box::new(|r| {
        (0..200).fold(r.tree(&[("100644", b"f", &r.blob(b"x"))]), |tree, _| {
            r.tree(&[("40000", b"d", &tree)])
        })
    }));
    for tree in trees {
        case += 1;
        let name = format!("case{case}");
        let repository = bench.server.repository(&name);
        let tree = tree(&repository);
        repository.commit("main", &tree);
        let error = bench.copy(&bench.server.url(&name), Some("."), None).await;
        let error = error
            .map(|p| fs::read_dir(p).unwrap().count())
            .expect_err(&name);
        let kinds = [ErrorKind::Invalid, ErrorKind::Corrupt];
        assert!(kinds.contains(&error.kind()), "{name}: {}", error.chain());
        bench.nothing_is_left().await;
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name}");
    }
}

#[tokio::test]
async fn bombs_are_held_in_files_bytes_and_memory() {
    let bench = Bench::limited(|limits| {
        limits.files = 5_000;
        limits.file = 1 << 20;
        limits.bytes = 8 << 20;
        limits.download = 2 << 20;
    });
    // Ten to the tenth files of a few objects.
    let repository = bench.server.repository("wide");
    let mut tree = repository.tree(&[("100644", b"f", &repository.blob(b"x"))]);
    for _ in 0..10 {
        let names: Vec<[u8; 1]> = (b'0'..=b'9').map(|n| [n]).collect();
        let lines: Vec<Line<'_>> = names
            .iter()
            .map(|n| ("40000", &n[..], tree.as_str()))
            .collect();
        tree = repository.tree(&lines);
    }
    repository.commit("main", &tree);
    let error = bench.refused("wide", ErrorKind::Invalid).await;
    assert!(error.to_string().contains("more files"), "{error}");
    // 256 MiB that cost nothing to send.
    let repository = bench.server.repository("tall");
    let blob = repository.blob(&vec![0; 256 << 20]);
    repository.commit("main", &repository.tree(&[("100644", b"f", &blob)]));
    let error = bench
        .copy(&bench.server.url("tall"), None, None)
        .await
        .unwrap_err();
    assert!(error.aci_code().is_some(), "{error}");
    bench.nothing_is_left().await;
    // The same file again and again.
    let repository = bench.server.repository("many");
    let blob = repository.blob(&vec![7; 1 << 20]);
    let names: Vec<[u8; 1]> = (b'a'..=b'p').map(|n| [n]).collect();
    let lines: Vec<Line<'_>> = names
        .iter()
        .map(|n| ("100644", &n[..], blob.as_str()))
        .collect();
    repository.commit("main", &repository.tree(&lines));
    let error = bench.refused("many", ErrorKind::Invalid).await;
    assert!(error.to_string().contains("larger files"), "{error}");
    // What cannot be compressed.
    let repository = bench.server.repository("long");
    let mut noise = vec![0; 900 << 10];
    let lines: Vec<(Vec<u8>, String)> = (0..4)
        .map(|n| {
            getrandom::fill(&mut noise).unwrap();
            (vec![b'a' + n], repository.blob(&noise))
        })
        .collect();
    let lines: Vec<Line<'_>> = lines
        .iter()
        .map(|(n, b)| ("100644", &n[..], b.as_str()))
        .collect();
    repository.commit("main", &repository.tree(&lines));
    let error = bench.refused("long", ErrorKind::Invalid).await;
    assert!(
        error.to_string().contains("larger than is allowed"),
        "{error}"
    );
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    // This test itself has held 256 MiB.
    assert!(peak < 450 << 10, "{peak} KiB at the peak");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_and_a_dropped_copy_ends() {
    let bench = Bench::limited(|limits| limits.time = Duration::from_millis(300));
    history(&bench.server.repository("app"));
    bench.server.behaviour.silent.store(true, Ordering::Relaxed);
    bench.refused("app", ErrorKind::Timeout).await;
    let bench = Bench::new();
    history(&bench.server.repository("app"));
    bench.server.behaviour.silent.store(true, Ordering::Relaxed);
    let url = bench.server.url("app");
    let copying = bench.copy(&url, None, None);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), copying)
            .await
            .is_err()
    );
    bench
        .server
        .behaviour
        .silent
        .store(false, Ordering::Relaxed);
    // Waits until the work of the dropped call has ended, which is soon.
    let path = bench.copy(&url, None, None).await.unwrap();
    assert!(path.join("app/text").exists());
    bench.clear().await;
}

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Told {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn passwords_go_to_their_server_only_and_show_nowhere() {
    let told = Told::default();
    let writer = told.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    let bench = Bench::new();
    history(&bench.server.repository("app"));
    // "puller:hunter2" in base64.
    let proof = "Basic cHVsbGVyOmh1bnRlcjI=";
    *bench.server.behaviour.login.lock().unwrap() = Some(proof.to_owned());
    let with = |password: &str, path: &str| {
        format!(
            "http://puller:{password}@127.0.0.1:{}/{path}",
            bench.server.port
        )
    };
    let path = bench
        .copy(&with("hunter2", "app.git"), None, None)
        .await
        .unwrap();
    let config = fs::read_to_string(path.join("app/.git/config")).unwrap();
    assert!(
        !config.contains("hunter2") && !config.contains('@'),
        "{config}"
    );
    bench.clear().await;
    let mut shown = String::new();
    for url in [with("hunter22", "app.git"), bench.server.url("app")] {
        let error = bench.copy(&url, None, None).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::PermissionDenied,
            "{}",
            error.chain()
        );
        shown.push_str(&format!("{error} {error:?} {}", error.chain()));
    }
    // A redirect to another server brings no password there; within one server it does.
    let other = Server::start();
    history(&other.repository("app"));
    let elsewhere = |server: &Server| Some(format!("http://127.0.0.1:{}", server.port));
    *bench.server.behaviour.elsewhere.lock().unwrap() = elsewhere(&other);
    let path = bench
        .copy(&with("hunter2", "moved/app.git"), None, None)
        .await
        .unwrap();
    assert!(path.join("app/text").exists());
    assert!(other.behaviour.given.lock().unwrap().is_empty());
    bench.clear().await;
    *bench.server.behaviour.elsewhere.lock().unwrap() = elsewhere(&bench.server);
    bench
        .copy(&with("hunter2", "moved/app.git"), None, None)
        .await
        .unwrap();
    bench.clear().await;
    // Nowhere else than to a repository, and not for ever.
    for to in [
        "http://127.0.0.1:1/x?y=",
        "file:///etc",
        &format!("http://127.0.0.1:{}/moved", bench.server.port),
    ] {
        *bench.server.behaviour.elsewhere.lock().unwrap() = Some(to.to_owned());
        let error = bench
            .copy(&with("hunter2", "moved/app.git"), None, None)
            .await
            .unwrap_err();
        shown.push_str(&format!("{error} {error:?}"));
        bench.nothing_is_left().await;
    }
    shown.push_str(&format!("{:?}", bench.driver));
    shown.push_str(&String::from_utf8_lossy(&told.0.lock().unwrap()));
    assert!(shown.contains("fetched"), "nothing was told");
    for part in ["hunter2", "cHVsbGVyOmh1bnRlcjI"] {
        assert!(!shown.contains(part), "{part} is shown");
    }
}

#[tokio::test]
async fn who_listens_hears_of_a_copy_and_of_no_password() {
    let bench = Bench::new();
    let repository = bench.server.repository("app");
    let mut noise = vec![0; 2 << 20];
    getrandom::fill(&mut noise).unwrap();
    let tree = repository.tree(&[("100644", b"noise", &repository.blob(&noise))]);
    let commit = repository.commit("main", &tree);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    let url = format!(
        "http://puller:hunter2@127.0.0.1:{}/app.git",
        bench.server.port
    );
    let request = || {
        let ear = Arc::clone(&ear);
        request(&url, None, None).progress(Arc::new(move |event| ear.lock().unwrap().push(event)))
    };
    bench.driver.provide(request()).await.unwrap();
    let all = heard.lock().unwrap().clone();
    let told = |event: &VolumeEvent| match event {
        VolumeEvent::Told { name, message } => format!("{name}: {message}"),
        other => format!("{other:?}"),
    };
    let (first, last) = (told(&all[0]), told(&all[all.len() - 1]));
    assert!(
        first.starts_with("Cloning: ") && first.contains("/app.git"),
        "{first}"
    );
    assert!(
        last.starts_with("Cloned: ") && last.contains(&commit),
        "{last}"
    );
    let mut came = 0;
    for event in &all[1..all.len() - 1] {
        let VolumeEvent::Progress { done, total: None } = event else {
            panic!("{event:?}")
        };
        assert!(*done > came);
        came = *done;
    }
    assert!(came > 1 << 20, "{came} bytes");
    assert!(!format!("{all:?} {:?}", request()).contains("hunter2"));
    // What is there already is not copied again.
    bench.driver.provide(request()).await.unwrap();
    assert_eq!(heard.lock().unwrap().len(), all.len());
    bench.clear().await;
}

#[tokio::test]
async fn only_listed_hosts_are_asked() {
    let mut options = GitReposOptions::default();
    options.hosts = Some(vec!["git.example".into()]);
    let bench = Bench::with(options);
    history(&bench.server.repository("app"));
    bench.refused("app", ErrorKind::PermissionDenied).await;
}

struct Harness(Bench);

#[async_trait]
impl VolumeHarness for Harness {
    fn driver(&self) -> &dyn VolumeDriver {
        &self.0.driver
    }

    fn volume(&self, name: &str) -> Volume {
        let mut volume = request(&self.0.server.url("app"), None, None).volume;
        name.clone_into(&mut volume.name);
        volume
    }

    async fn reopen(&self) -> Option<Box<dyn VolumeDriver>> {
        let base = self.0.place.path().join("v");
        Some(Box::new(
            GitRepos::open(base, GitReposOptions::default()).unwrap(),
        ))
    }

    async fn write(&self, source: &VolumeSource, name: &str, content: &[u8]) -> bool {
        match source {
            VolumeSource::Directory(path) => fs::write(path.join(name), content).is_ok(),
            _ => false,
        }
    }

    async fn read(&self, source: &VolumeSource, name: &str) -> Option<Vec<u8>> {
        match source {
            VolumeSource::Directory(path) => fs::read(path.join(name)).ok(),
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept() {
    let bench = Bench::new();
    history(&bench.server.repository("app"));
    volume::all(&Harness(bench)).await;
}
