//! Volumes of every kind, and what an image may not do with mount paths.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aci_core::contract::*;
use aci_core::error::ErrorKind;
use aci_core::model::Secret;
use common::*;

fn volume(name: &str, source: VolumeSource) -> SandboxVolume {
    SandboxVolume {
        name: name.into(),
        source,
        read_only: false,
    }
}

fn at(volume: &str, path: &str, read_only: bool) -> MountSpec {
    MountSpec {
        volume: volume.into(),
        path: path.into(),
        read_only,
    }
}

#[tokio::test]
async fn every_kind_is_mounted_as_it_should() {
    let Some(bench) = bench() else { return };
    let host = bench.root().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("given"), "from the host").unwrap();
    let sandbox = bench
        .sandbox_with(vec![
            volume("host", VolumeSource::Directory(host.clone())),
            volume(
                "memory",
                VolumeSource::Memory {
                    size: Some(1 << 20),
                },
            ),
            volume(
                "secret",
                VolumeSource::Secret(vec![SecretFile {
                    name: "key".into(),
                    base64: Secret::new("aHVudGVyMg=="),
                }]),
            ),
            volume(
                "files",
                VolumeSource::Files(vec![("conf".into(), "a=b".into())]),
            ),
        ])
        .await;
    let script = "
        cat /host/given && echo back >/host/answer
        echo x >/readonly/answer; echo refused $?
        dd if=/dev/zero of=/memory/big bs=1k count=2000 2>/dev/null; echo full $?; rm /memory/big
        echo shared >/memory/small
        cat /secret/key; stat -L -c ' %a' /secret/key; stat -L -c %a /files/conf
        echo y >/secret/key; echo secret $?
        grep ' /secret ' /proc/self/mounts";
    let mut container = bench.shell("one", script);
    container.mounts = vec![
        at("host", "/host", false),
        at("host", "/readonly", true),
        at("memory", "/memory", false),
        at("secret", "/secret", false),
        at("files", "/files", false),
    ];
    sandbox.start(container).await.unwrap();
    assert_eq!(ended(&*sandbox, "one").await.code, 0);
    let text = log(&*sandbox, "one").await;
    for line in [
        "from the host",
        "refused 1",
        "full 1",
        "hunter2 400",
        "444",
        "secret 1",
    ] {
        assert!(text.contains(line), "'{line}' is missing in:\n{text}");
    }
    let mount = text
        .lines()
        .find(|line| line.contains(" /secret "))
        .unwrap();
    for option in ["ro,", "nosuid", "nodev", "noexec"] {
        assert!(mount.contains(option), "{mount}");
    }
    assert_eq!(
        std::fs::read_to_string(host.join("answer")).unwrap(),
        "back\n"
    );
    // A second container sees what the first wrote into memory.
    let mut container = bench.shell("two", "cat /elsewhere/small");
    container.mounts = vec![at("memory", "/elsewhere", true)];
    sandbox.start(container).await.unwrap();
    ended(&*sandbox, "two").await;
    assert_eq!(log(&*sandbox, "two").await, "shared\n");
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn symlinks_of_the_image_do_not_lead_out() {
    let Some(bench) = bench() else { return };
    let sandbox = bench
        .sandbox_with(vec![volume("data", VolumeSource::Memory { size: None })])
        .await;
    // `up` points to ../../../../../../tmp, `escape` to /etc, both meant for the host.
    let mark = "/tmp/aci-test-mark";
    let mut container = bench.shell(
        "web",
        &format!("echo in >/tmp/sub/file; echo in >{mark}; ls /tmp/sub /etc/deep"),
    );
    container.mounts = vec![
        at("data", "/srv/up/sub", false),
        at("data", "/escape/deep", false),
    ];
    container.files = vec![FileEntry {
        path: "/escape/made".into(),
        content: "x".into(),
        mode: 0o600,
    }];
    sandbox.start(container).await.unwrap();
    assert_eq!(ended(&*sandbox, "web").await.code, 0);
    assert_eq!(log(&*sandbox, "web").await.matches("file").count(), 2);
    for path in ["/tmp/sub", "/etc/deep", "/etc/made", mark] {
        assert!(
            !std::path::Path::new(path).exists(),
            "{path} was made on the host"
        );
    }
    for (path, words) in [
        ("relative", "absolute"),
        ("/a/../../b", "'..'"),
        ("/bin/sh/x", "no directory"),
        ("/dangling/x", "leads nowhere"),
    ] {
        let mut container = bench.container("bad", &["true"]);
        let (upper, _) = container.rootfs.upper.clone().unwrap();
        std::os::unix::fs::symlink("/nowhere", upper.join("dangling")).unwrap();
        container.mounts = vec![at("data", path, false)];
        let error = sandbox.start(container).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[tokio::test]
async fn secrets_show_nowhere() {
    let Some(bench) = bench() else { return };
    let sandbox = bench
        .sandbox_with(vec![volume(
            "secret",
            VolumeSource::Secret(vec![SecretFile {
                name: "key".into(),
                base64: Secret::new("c2VjcmV0LW1hcms="),
            }]),
        )])
        .await;
    let mut container = bench.container("web", &["sleep", "1000"]);
    container.mounts = vec![at("secret", "/secret", false)];
    sandbox.start(container).await.unwrap();
    let state = bench.root().join("state").join(sandbox.id().as_str());
    let agent = bench.agent(sandbox.id()).as_raw_nonzero().get();
    for path in [
        format!("/proc/{agent}/cmdline"),
        format!("/proc/{agent}/environ"),
    ] {
        let text = std::fs::read(&path).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&text).contains("secret-mark"),
            "{path}"
        );
    }
    let mut places = vec![state];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(place).unwrap().flatten() {
            if entry.path().is_dir() {
                places.push(entry.path());
            } else if entry.path().is_file() {
                let text = std::fs::read(entry.path()).unwrap();
                assert!(
                    !String::from_utf8_lossy(&text).contains("secret-mark"),
                    "{:?}",
                    entry.path()
                );
            }
        }
    }
    sandbox.destroy().await.unwrap();
    bench.assert_clean();
}

#[test]
fn without_root() {
    again_without_root(&[
        "every_kind_is_mounted_as_it_should",
        "symlinks_of_the_image_do_not_lead_out",
    ]);
}
