use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use aci_core::contract::{ImageStore as _, Layer, RootFsKey};

use super::*;
use crate::{LayerFormat, OciImagesOptions};

struct Store {
    images: OciImages,
    dir: tempfile::TempDir,
}

fn store() -> Store {
    let dir = tempfile::tempdir().unwrap();
    // Programs are run in the layer itself.
    let options = OciImagesOptions {
        layer_format: Some(LayerFormat::Directories),
        ..OciImagesOptions::default()
    };
    let images = OciImages::open_with(dir.path().join("images"), options).unwrap();
    Store { images, dir }
}

async fn tree(images: &OciImages, image: &Image) -> PathBuf {
    let key = RootFsKey {
        sandbox: "s1".parse().unwrap(),
        container: "c".into(),
    };
    let root = images.prepare(&image.digest, &key).await.unwrap();
    match &root.layers[0] {
        Layer::Directory(path) => path.clone(),
        Layer::Erofs(_) => panic!("not a directory"),
    }
}

/// Runs a program within a tree, with nothing else in reach; `None` where that is not allowed.
fn run_in(tree: &Path, words: &[&str]) -> Option<String> {
    let mut command = Command::new("unshare");
    // The loader asks /proc where the program is.
    let proc = format!("--mount-proc={}", tree.join("proc").display());
    command.args([
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        &proc,
        "chroot",
    ]);
    command.arg(tree);
    let output = command.args(words).output().ok()?;
    if output.status.success() {
        return Some(String::from_utf8(output.stdout).unwrap());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("unshare:"), "{said}");
    eprintln!("SKIPPED: {said}");
    None
}

#[tokio::test]
async fn host_programs_run_in_the_image_alone() {
    let store = store();
    let image = HostImage::new("local/tools:1")
        .program("/bin/sh")
        .program("/bin/ls")
        .program_as("/usr/bin/env", "/opt/tool/setenv")
        .file("/etc/motd", "hello\n", 0o640)
        .symlink("/bin/dir", "ls")
        .build(&store.images)
        .await
        .unwrap();
    let tree = tree(&store.images, &image).await;
    let script = "read line < /etc/motd; echo $line; /opt/tool/setenv X=1 /bin/dir /etc";
    if let Some(said) = run_in(&tree, &["/bin/sh", "-c", script]) {
        assert_eq!(said, "hello\ngroup\nmotd\nnsswitch.conf\npasswd\n");
    }
    let mode = |path: &str| tree.join(path).metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode("etc/motd"), 0o640);
    assert_eq!(mode("tmp"), 0o1777);
    assert_eq!(mode("bin/sh"), 0o755);
    assert_eq!(mode("root"), 0o700);
}

#[tokio::test]
async fn equal_contents_have_equal_digests() {
    let mut digests = Vec::new();
    for mode in [0o4711, 0o755] {
        let store = store();
        let program = store.dir.path().join("tool");
        std::fs::copy("/bin/sh", &program).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&program, mode).unwrap();
        let image = HostImage::new("local/x:1")
            .program_as(&program, "/bin/tool")
            .env("A", "1")
            .entrypoint(["/bin/tool"])
            .build(&store.images)
            .await
            .unwrap();
        let tree = tree(&store.images, &image).await;
        // Never with the set-user-id bit.
        assert_eq!(
            tree.join("bin/tool").metadata().unwrap().mode() & 0o7777,
            0o755
        );
        digests.push(image.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn scripts_bring_their_interpreter() {
    let store = store();
    let script = store.dir.path().join("greet");
    std::fs::write(&script, "#!/usr/bin/env -S sh -e\necho greetings\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let image = HostImage::new("local/x:1")
        .program_as(&script, "/usr/bin/greet")
        .build(&store.images)
        .await
        .unwrap();
    let tree = tree(&store.images, &image).await;
    if let Some(said) = run_in(&tree, &["/usr/bin/greet"]) {
        assert_eq!(said, "greetings\n");
    }
    std::fs::write(&script, "#!/opt/no such\n").unwrap();
    let error = HostImage::new("local/x:1")
        .program_as(&script, "/greet")
        .build(&store.images)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("'/opt/no'"), "{error}");
    assert!(error.message().contains("greet"), "{error}");
}

/// Builds a program with a library by the C compiler, if there is one.
fn compiled(dir: &Path, flags: &[&str]) -> Option<PathBuf> {
    let libs = dir.join("lib");
    std::fs::create_dir_all(&libs).unwrap();
    std::fs::create_dir_all(dir.join("bin")).unwrap();
    std::fs::write(dir.join("a.c"), "int answer(void) { return 42; }").unwrap();
    std::fs::write(
        dir.join("p.c"),
        "int answer(void); int puts(const char *); int main(void) { return answer() == 42 ? puts(\"42\") < 0 : 1; }",
    )
    .unwrap();
    let cc = |args: &[&str]| {
        let status = Command::new("cc").current_dir(dir).args(args).status();
        status.is_ok_and(|status| status.success())
    };
    let built = cc(&[
        "-shared",
        "-fPIC",
        "-Wl,-soname,libanswer.so.1",
        "-o",
        "lib/libanswer.so.1",
        "a.c",
    ]) && cc(&[&["-o", "bin/p", "p.c", "lib/libanswer.so.1"], flags].concat());
    if !built {
        eprintln!("SKIPPED: no C compiler");
    }
    built.then(|| dir.join("bin/p"))
}

#[tokio::test]
async fn origin_moves_with_the_program() {
    for flag in ["-Wl,--enable-new-dtags", "-Wl,--disable-new-dtags"] {
        let store = store();
        let Some(program) = compiled(store.dir.path(), &[flag, "-Wl,-rpath,$ORIGIN/../lib"]) else {
            return;
        };
        let image = HostImage::new("local/x:1")
            .program_as(&program, "/opt/app/bin/p")
            .build(&store.images)
            .await
            .unwrap();
        let tree = tree(&store.images, &image).await;
        assert!(tree.join("opt/app/lib/libanswer.so.1").exists());
        if let Some(said) = run_in(&tree, &["/opt/app/bin/p"]) {
            assert_eq!(said, "42\n");
        }
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_needs_it() {
    let store = store();
    let build = |image: HostImage| {
        let images = store.images.clone();
        async move { image.build(&images).await.unwrap_err() }
    };
    let error = build(HostImage::new("local/x:1").program("/no/such")).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("'/no/such'"), "{error}");

    let error = build(HostImage::new("local/x:1").program("/etc/passwd")).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);

    for (image, word) in [
        (
            HostImage::new("local/x:1").file("etc/x", "", 0o644),
            "absolute",
        ),
        (HostImage::new("local/x:1").file("/", "", 0o644), "'/'"),
        (
            HostImage::new("local/x:1")
                .file("/a", "", 0o644)
                .file("/a/b", "", 0o644),
            "'/a'",
        ),
        (
            HostImage::new("local/x:1")
                .file("/a", "1", 0o644)
                .file("/a", "2", 0o644),
            "twice",
        ),
        (HostImage::new("Bad Name"), "Bad Name"),
    ] {
        let error = build(image).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(word), "{error}");
    }
    assert!(store.images.list().await.unwrap().is_empty());
    assert_eq!(store.images.usage().await.unwrap().blobs, 0);

    if let Some(program) = compiled(store.dir.path(), &["-Wl,-rpath,/no/where"]) {
        std::fs::remove_file(store.dir.path().join("lib/libanswer.so.1")).unwrap();
        let error = build(HostImage::new("local/x:1").program_as(program, "/p")).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("libanswer.so.1"), "{error}");
        assert!(error.message().contains("bin/p"), "{error}");
    }
}
