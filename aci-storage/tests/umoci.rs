//! The trees that we make of images are those that Debian's `umoci unpack` makes, for both formats
//! of layers: every name, kind, mode, owner, time, content, link and attribute.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use aci_core::contract::RootFs;
use common::*;

/// Describes a tree, a line for each name. Of directories that no layer mentions the time is
/// nobody's to say, so times of directories are compared where the test asks for it.
const LOOK: &str = r#"
import hashlib, os, stat, sys
top, directories = os.fsencode(sys.argv[1]), sys.argv[2] == "times"
first = {}
def look(path, name):
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode)
    line = [name, oct(s.st_mode), str(s.st_uid), str(s.st_gid)]
    # The top of what is mounted is the place for what a container writes.
    if not stat.S_ISDIR(s.st_mode) or (directories and name != b"/"):
        line.append("%d" % s.st_mtime_ns)
    if stat.S_ISREG(s.st_mode):
        with open(path, "rb") as f:
            line.append("%d %s" % (s.st_size, hashlib.sha256(f.read()).hexdigest()))
    if stat.S_ISLNK(s.st_mode):
        line.append(repr(os.readlink(path)))
    if s.st_nlink > 1 and not stat.S_ISDIR(s.st_mode):
        line.append("links %d same as %r" % (s.st_nlink, first.setdefault(s.st_ino, name)))
    for attribute in sorted(os.listxattr(path, follow_symlinks=False)):
        if attribute.startswith(("user.overlay.", "trusted.overlay.")):
            continue
        value = os.getxattr(path, attribute, follow_symlinks=False)
        line.append("%s=%r" % (attribute, value))
    print(*[x if isinstance(x, str) else repr(x) for x in line])
    if stat.S_ISDIR(s.st_mode):
        for n in sorted(os.listdir(path)):
            look(os.path.join(path, n), os.path.join(name, n))
look(top, b"/")
"#;

fn finish(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", command.get_program().display()));
    assert!(
        output.status.success(),
        "{}: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The tree of a root file system, mounted where nobody else sees it.
fn ours(root: &RootFs, at: &Path, times: &str) -> String {
    let (upper, work) = root.upper.as_ref().unwrap();
    let dirs: Vec<_> = layer_dirs(root)
        .iter()
        .map(|d| d.display().to_string())
        .collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        dirs.join(":"),
        upper.display(),
        work.display()
    );
    std::fs::create_dir_all(at).unwrap();
    let script =
        "mount -t overlay overlay -o \"$0\" \"$1\" && exec python3 -c \"$2\" \"$1\" \"$3\"";
    finish(
        Command::new("unshare")
            .args(["--mount", "sh", "-ec", script, &options])
            .arg(at)
            .args([LOOK, times]),
    )
}

/// Compares both formats with umoci; `times` says whether times of directories are to be equal.
async fn same_as_umoci(layers: &[Vec<u8>], times: &str) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners and overlay mounts need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path().join("layout"));
    let image = layout.image(architecture(), layers);
    layout.add(image, Some("1"));
    let bundle = dir.path().join("bundle");
    finish(
        Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:1", layout.dir.display()))
            .arg(&bundle),
    );
    let rootfs = bundle.join("rootfs");
    let theirs = finish(
        Command::new("python3")
            .args(["-c", LOOK])
            .arg(&rootfs)
            .arg(times),
    );
    assert!(theirs.lines().count() > 3, "{theirs}");
    for format in formats() {
        let store = store_of(Some(format));
        let image = store
            .images
            .import_layout(&layout.dir, "x:1")
            .await
            .unwrap();
        let root = prepare(&store.images, &image).await;
        let ours = ours(&root, &store.dir.path().join("at"), times);
        if ours == theirs {
            continue;
        }
        let (a, b): (Vec<_>, Vec<_>) = (ours.lines().collect(), theirs.lines().collect());
        let only = |of: &[&str], not: &[&str]| -> Vec<String> {
            let lines = of.iter().filter(|line| !not.contains(line)).take(10);
            lines.map(ToString::to_string).collect()
        };
        panic!(
            "{format:?}: only ours {:#?}, only umoci's {:#?}",
            only(&a, &b),
            only(&b, &a)
        );
    }
}

/// An archive by GNU tar of a directory that a script filled.
fn tar_by(script: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    finish(
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(dir.path()),
    );
    let archive = tempfile::NamedTempFile::new().unwrap();
    finish(
        Command::new("tar")
            .args(["--create", "--format=posix", "--xattrs"])
            .args([
                "--xattrs-include=user.*",
                "--xattrs-include=security.capability",
            ])
            .arg("--file")
            .arg(archive.path())
            .arg("--directory")
            .arg(dir.path())
            .arg("."),
    );
    std::fs::read(archive.path()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn busybox() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners need root");
        return;
    }
    let base = tar_by(
        "mkdir -p bin etc tmp root usr/bin var/run
         cp /bin/busybox bin/busybox
         for program in $(bin/busybox --list | grep -vx busybox); do ln -s busybox bin/$program; done
         ln bin/busybox bin/hard
         echo root:x:0:0:root:/root:/bin/sh > etc/passwd
         chmod 1777 tmp; chmod 0700 root; chmod 4755 bin/hard; chown 12:34 usr/bin
         touch -d '2001-02-03 04:05:06.789' etc/passwd",
    );
    let change = tar_by(
        "mkdir -p etc bin
         echo changed > etc/passwd; touch bin/.wh.vi etc/motd; chown 7:8 etc/motd; chmod 0600 etc/motd",
    );
    same_as_umoci(&[base, change], "times").await;
}

/// Everything that archives can hold and that unpacking can lose.
#[tokio::test(flavor = "multi_thread")]
async fn names_links_attributes_and_deletions() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners and attributes need root");
        return;
    }
    let base = tar_by(
        r#"mkdir -p a/b/c opaque/inner hidden/deep kept links
         for n in 1 2 3; do echo $n > a/b/c/f$n; echo $n > opaque/old$n; echo $n > hidden/deep/$n; done
         echo old > opaque/inner/old; echo x > kept/file; echo y > deleted
         long=$(printf 'n%.0s' $(seq 1 240)); mkdir -p long/$long/$long; echo l > long/$long/$long/$long
         ln -s ../$(printf 't/%.0s' $(seq 1 100)) long/link
         printf n > "$(printf 'bytes\377\376\n\t')"; printf u > 'Ünï çødé 名'
         echo hard > links/one; ln links/one links/two; ln links/one a/three; ln -s one links/soft
         ln links/soft links/softer; ln -s nowhere links/dangling; ln -s /etc/absolute links/absolute
         mkfifo links/fifo; chmod 0640 links/fifo; chown 3:4 links/fifo
         echo s > setuid; chown 1000:1001 setuid; chmod 6751 setuid; chown -h 5:6 links/soft
         chmod 3777 kept; truncate -s 1000000 zeros; touch -d '1971-01-01' zeros; : > empty
         echo a > attributes
         python3 -c 'import os
os.setxattr("attributes", "user.test", b"value\0with\xffbytes"); os.setxattr("kept", "user.dir", b"d")
os.setxattr("setuid", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))'"#,
    );
    let change = tar_by(
        "mkdir -p opaque hidden a/b
         touch opaque/.wh..wh..opq; echo new > opaque/new
         touch .wh.deleted .wh.hidden a/b/.wh.c
         echo two > a/b/two; rmdir hidden",
    );
    let again = tar_by(
        "mkdir -p hidden a/b/c
         echo back > hidden/back; echo back > a/b/c/back; echo back > deleted; ln deleted a/deleted",
    );
    same_as_umoci(&[base, change, again], "times").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_files() {
    let files: Vec<(String, String)> = (0..3000)
        .map(|n| (format!("srv/d{}/e{}/f{n}", n % 7, n % 61), format!("{n}\n")))
        .collect();
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let gone: Vec<String> = (0..61).map(|n| format!("srv/d0/.wh.e{n}")).collect();
    let gone: Vec<_> = gone.iter().map(|name| (name.as_str(), "")).collect();
    // Nothing says when the directories were made.
    same_as_umoci(&[layer(&files), layer(&gone[..30])], "").await;
}

/// The release that this machine has the keys of.
fn codename() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or("stable")
        .to_owned()
}

/// A whole distribution, made here from Debian's packages.
#[tokio::test(flavor = "multi_thread")]
async fn debian() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: making a Debian needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive: PathBuf = dir.path().join("minbase.tar");
    let made = Command::new("mmdebstrap")
        .args(["--variant=minbase", "--quiet", "--format=tar"])
        // Device nodes are left out of layers; a container gets its own.
        .args(["--skip=output/dev", "--skip=check/empty", &codename()])
        .arg(&archive)
        .output()
        .unwrap();
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        let network = ["apt-get update --error-on=any", "Failed to fetch"];
        assert!(network.iter().any(|word| said.contains(word)), "{said}");
        eprintln!("SKIPPED: Debian's packages cannot be fetched");
        return;
    }
    let base = std::fs::read(&archive).unwrap();
    let change = tar_by(
        "mkdir -p usr/share/doc etc
         touch usr/share/doc/.wh..wh..opq etc/.wh.debian_version; echo changed > etc/hostname",
    );
    same_as_umoci(&[base, change], "times").await;
}

#[test]
fn names_of_files_are_bytes() {
    // The script's own language is UTF-8; what it writes for other bytes must not be lost.
    let dir = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff");
    std::fs::write(dir.path().join(odd), "").unwrap();
    let said = finish(
        Command::new("python3")
            .args(["-c", LOOK])
            .arg(dir.path())
            .arg(""),
    );
    assert!(said.contains("odd\\xff"), "{said}");
}
