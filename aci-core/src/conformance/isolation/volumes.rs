//! Volumes and root file systems as containers see them.

use super::super::{fails, hides, works};
use super::{Behaviour, Bench, IsolationHarness, case, lacks, mount};
use crate::contract::{SandboxVolume, SecretFile, VolumeSource};
use crate::error::ErrorKind;
use crate::model::Secret;

/// Runs the cases of this part.
pub async fn all(h: &dyn IsolationHarness) {
    case(h, "memory_is_shared", memory_is_shared(h)).await;
    case(h, "memory_is_of_one_sandbox", memory_is_of_one_sandbox(h)).await;
    case(h, "read_only_mounts", read_only_mounts(h)).await;
    case(h, "read_only_volumes", read_only_volumes(h)).await;
    case(
        h,
        "secrets_are_readable_and_read_only",
        secrets_are_readable_and_read_only(h),
    )
    .await;
    case(h, "public_files", public_files(h)).await;
    case(h, "files_are_replaced", files_are_replaced(h)).await;
    case(h, "roots_are_fresh", roots_are_fresh(h)).await;
    case(h, "read_only_root", read_only_root(h)).await;
    case(h, "mount_paths_stay_inside", mount_paths_stay_inside(h)).await;
}

fn volume(name: &str, source: VolumeSource) -> SandboxVolume {
    SandboxVolume {
        name: name.to_owned(),
        source,
        read_only: false,
    }
}

fn memory(name: &str) -> SandboxVolume {
    volume(name, VolumeSource::Memory { size: None })
}

fn write(path: &str) -> Behaviour<'_> {
    Behaviour::WriteFile {
        path,
        text: "written",
    }
}

async fn run(bench: &Bench<'_>, name: &str, behaviour: Behaviour<'_>, at: &str, ro: bool) -> i32 {
    let mut spec = bench.container(name, &behaviour).await;
    spec.mounts.push(mount("data", at, ro));
    bench.ran_spec(spec).await.code
}

/// What one container writes another reads, under another path, after the writer's end and restart.
pub async fn memory_is_shared(h: &dyn IsolationHarness) {
    let needs = [write("/out/file"), Behaviour::ReadFile("/in/file")];
    if lacks(h, "memory_is_shared", &needs) {
        return;
    }
    let bench = Bench::with_volumes(h, vec![memory("data")]).await;
    assert_ne!(run(&bench, "reader", needs[1], "/in", false).await, 0);
    assert_eq!(run(&bench, "writer", needs[0], "/out", false).await, 0);
    assert_eq!(run(&bench, "reader", needs[1], "/in", false).await, 0);
    let lines = bench.lines("reader").await;
    assert_eq!(lines.last().map(String::as_str), Some("written"));
    bench.destroy().await;
}

/// Another sandbox's volume of the same name is another volume.
pub async fn memory_is_of_one_sandbox(h: &dyn IsolationHarness) {
    let needs = [write("/data/file"), Behaviour::ReadFile("/data/file")];
    if lacks(h, "memory_is_of_one_sandbox", &needs) {
        return;
    }
    let a = Bench::with_volumes(h, vec![memory("data")]).await;
    let b = Bench::with_volumes(h, vec![memory("data")]).await;
    assert_eq!(run(&a, "writer", needs[0], "/data", false).await, 0);
    assert_ne!(run(&b, "reader", needs[1], "/data", false).await, 0);
    a.destroy().await;
    b.destroy().await;
}

/// A read-only mount refuses writing where another mount of the volume allows it.
pub async fn read_only_mounts(h: &dyn IsolationHarness) {
    let needs = [write("/data/file"), Behaviour::ReadFile("/data/file")];
    if lacks(h, "read_only_mounts", &needs) {
        return;
    }
    let bench = Bench::with_volumes(h, vec![memory("data")]).await;
    assert_ne!(run(&bench, "refused", needs[0], "/data", true).await, 0);
    assert_eq!(run(&bench, "writer", needs[0], "/data", false).await, 0);
    assert_eq!(run(&bench, "reader", needs[1], "/data", true).await, 0);
    bench.destroy().await;
}

/// A read-only volume refuses writing through every mount.
pub async fn read_only_volumes(h: &dyn IsolationHarness) {
    if lacks(h, "read_only_volumes", &[write("/data/file")]) {
        return;
    }
    let mut data = memory("data");
    data.read_only = true;
    let bench = Bench::with_volumes(h, vec![data]).await;
    let refused = run(&bench, "refused", write("/data/file"), "/data", false);
    assert_ne!(refused.await, 0);
    bench.destroy().await;
}

/// A secret's file can be read and not changed, and its content does not show.
pub async fn secrets_are_readable_and_read_only(h: &dyn IsolationHarness) {
    let needs = [
        Behaviour::ReadFile("/data/key"),
        write("/data/key"),
        write("/data/new"),
    ];
    if lacks(h, "secrets_are_readable_and_read_only", &needs) {
        return;
    }
    let source = VolumeSource::Secret(vec![SecretFile {
        name: "key".to_owned(),
        // "a secret text" in base64.
        base64: Secret::new("YSBzZWNyZXQgdGV4dA=="),
    }]);
    let bench = Bench::with_volumes(h, vec![volume("data", source)]).await;
    assert_eq!(run(&bench, "reader", needs[0], "/data", false).await, 0);
    assert_eq!(bench.lines("reader").await, ["a secret text"]);
    assert_ne!(run(&bench, "changer", needs[1], "/data", false).await, 0);
    assert_ne!(run(&bench, "adder", needs[2], "/data", false).await, 0);
    for shown in ["YSBzZWNyZXQ", "a secret text"] {
        hides(&bench.sandbox, shown);
        hides(&h.isolation(), shown);
    }
    bench.destroy().await;
}

/// Public files can be read and not changed.
pub async fn public_files(h: &dyn IsolationHarness) {
    let needs = [Behaviour::ReadFile("/data/conf"), write("/data/conf")];
    if lacks(h, "public_files", &needs) {
        return;
    }
    let source = VolumeSource::Files(vec![("conf".to_owned(), "key=value\n".into())]);
    let bench = Bench::with_volumes(h, vec![volume("data", source)]).await;
    assert_eq!(run(&bench, "reader", needs[0], "/data", false).await, 0);
    assert_eq!(bench.lines("reader").await, ["key=value"]);
    assert_ne!(run(&bench, "changer", needs[1], "/data", false).await, 0);
    bench.destroy().await;
}

/// Files of a volume are replaced as a whole; what cannot be replaced stays as it was.
pub async fn files_are_replaced(h: &dyn IsolationHarness) {
    let needs = [
        Behaviour::ReadFile("/data/a"),
        Behaviour::ReadFile("/data/b"),
    ];
    if lacks(h, "files_are_replaced", &needs) {
        return;
    }
    let files = |files: &[(&str, &'static str)]| {
        let files = files.iter().map(|(name, text)| {
            let content: bytes::Bytes = (*text).into();
            ((*name).to_owned(), content)
        });
        VolumeSource::Files(files.collect())
    };
    let keys = |text: &str| {
        VolumeSource::Secret(vec![SecretFile {
            name: "a".to_owned(),
            base64: Secret::new(text),
        }])
    };
    let public = volume("data", files(&[("a", "one\n")]));
    let secret = volume("keys", keys("b25lCg=="));
    let bench = Bench::with_volumes(h, vec![public, secret, memory("memory")]).await;
    let replace = async |volume, source| bench.sandbox.replace_files(volume, source).await;
    let read = async |name, behaviour, volume: &str| {
        let mut spec = bench.container(name, &behaviour).await;
        spec.mounts.push(mount(volume, "/data", false));
        let code = bench.ran_spec(spec).await.code;
        (code == 0).then_some(bench.lines(name).await)
    };
    assert_eq!(read("first", needs[0], "data").await.unwrap(), ["one"]);
    let new = files(&[("a", "two\n"), ("b", "more\n")]);
    for _ in 0..2 {
        works(replace("data", new.clone()).await, "replace");
    }
    assert_eq!(read("second", needs[0], "data").await.unwrap(), ["two"]);
    assert_eq!(read("third", needs[1], "data").await.unwrap(), ["more"]);
    for (volume, source, kind) in [
        ("data", files(&[("../x", "bad")]), ErrorKind::Invalid),
        ("data", files(&[("..x", "bad")]), ErrorKind::Invalid),
        (
            "data",
            VolumeSource::Memory { size: None },
            ErrorKind::Invalid,
        ),
        ("keys", keys("h1dden !text"), ErrorKind::Invalid),
        ("memory", files(&[]), ErrorKind::Invalid),
        ("unknown", files(&[]), ErrorKind::NotFound),
    ] {
        let error = fails(replace(volume, source).await, kind, volume);
        hides(&error, "h1dden");
    }
    assert_eq!(read("fourth", needs[0], "data").await.unwrap(), ["two"]);
    // One that was taken out is gone.
    works(replace("data", files(&[("b", "left\n")])).await, "replace");
    assert_eq!(read("fifth", needs[0], "data").await, None);
    assert_eq!(read("sixth", needs[1], "data").await.unwrap(), ["left"]);
    works(replace("keys", keys("dHdvCg==")).await, "replace");
    assert_eq!(read("seventh", needs[0], "keys").await.unwrap(), ["two"]);
    bench.destroy().await;
}

/// What a container writes outside its volumes is not seen by another.
pub async fn roots_are_fresh(h: &dyn IsolationHarness) {
    let needs = [write("/file"), Behaviour::ReadFile("/file")];
    if lacks(h, "roots_are_fresh", &needs) {
        return;
    }
    let bench = Bench::new(h).await;
    assert_eq!(bench.ran("a", &needs[0]).await.code, 0);
    assert_ne!(bench.ran("b", &needs[1]).await.code, 0);
    bench.destroy().await;
}

/// Without a place to write, the root is read-only.
pub async fn read_only_root(h: &dyn IsolationHarness) {
    if lacks(h, "read_only_root", &[write("/file")]) {
        return;
    }
    let bench = Bench::new(h).await;
    let mut spec = bench.container("a", &write("/file")).await;
    spec.rootfs.upper = None;
    assert_ne!(bench.ran_spec(spec).await.code, 0);
    bench.destroy().await;
}

/// A mount path with `..` ends inside the container's own root or is refused.
pub async fn mount_paths_stay_inside(h: &dyn IsolationHarness) {
    let needs = [write("/data/file"), Behaviour::ReadFile("/data/file")];
    if lacks(h, "mount_paths_stay_inside", &needs) {
        return;
    }
    let bench = Bench::with_volumes(h, vec![memory("data")]).await;
    let mut spec = bench.container("a", &needs[0]).await;
    spec.mounts.push(mount("data", "/../../../data", false));
    match bench.sandbox.start(spec).await {
        Ok(()) => assert_eq!(bench.ended("a").await.code, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
    }
    let mut spec = bench.container("b", &needs[0]).await;
    spec.mounts.push(mount("data", "relative", false));
    let refused = bench.sandbox.start(spec).await;
    fails(refused, ErrorKind::Invalid, "a relative path");
    works(bench.sandbox.status().await, "status");
    bench.destroy().await;
}
