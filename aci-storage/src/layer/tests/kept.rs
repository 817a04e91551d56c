//! What must arrive as it was.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use super::*;

both!(
    modes_times_owners_and_names_are_kept,
    hard_links_and_attributes_are_kept,
    the_last_of_one_name_wins,
    links_of_the_layer_lead_to_their_targets,
    deletions_become_overlayfs_own_form,
    gzip_of_several_members_and_no_end_mark_are_read,
    archives_of_gnu_tar_give_the_same_tree,
);

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 64];
    let n = rustix::fs::lgetxattr(path, name, &mut buffer[..]).ok()?;
    buffer.truncate(n);
    Some(buffer)
}

fn modes_times_owners_and_names_are_kept(format: Format) {
    let ground = Ground::new(format);
    let long = "n".repeat(200);
    let form = ground.form();
    ground
        .unpack(
            Archive::new()
                .dir("./", 0o751)
                .pax(&[("mtime", b"1234567.5"), ("uid", b"1234"), ("gid", b"70000")])
                .entry(b'0', "sbin/su", "", 0o4755, b"program")
                .file(b"bytes-\xff\xfe", b"x")
                .file(format!("deep/{long}"), b"y")
                .symlink("link", &"t".repeat(150))
                .entry(b'6', "pipe", "", 0o622, b"")
                .dir("srv", 0o2775),
        )
        .unwrap();
    let fs = ground.fs();
    let su = fs.join("sbin/su").metadata().unwrap();
    assert_eq!(su.mode() & 0o7777, 0o4755);
    assert_eq!((su.mtime(), su.mtime_nsec()), (1_234_567, 500_000_000));
    if form.owners {
        assert_eq!((su.uid(), su.gid()), (1234, 70000));
    }
    assert_eq!(fs.metadata().unwrap().mode() & 0o7777, 0o751);
    assert_eq!(fs.join("sbin").metadata().unwrap().mode() & 0o7777, 0o755);
    assert!(fs.join(OsStr::from_bytes(b"bytes-\xff\xfe")).exists());
    assert!(fs.join("deep").join(&long).exists());
    assert_eq!(
        std::fs::read_link(fs.join("link"))
            .unwrap()
            .as_os_str()
            .len(),
        150
    );
    let pipe = fs.join("pipe").symlink_metadata().unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o622);
    let srv = fs.join("srv").metadata().unwrap();
    assert_eq!((srv.mode() & 0o7777, srv.mtime()), (0o2775, 1_000_000));
}

fn hard_links_and_attributes_are_kept(format: Format) {
    let ground = Ground::new(format);
    // Version 2 of a file capability: CAP_NET_RAW, effective.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let done = ground
        .unpack(
            Archive::new()
                .pax(&[
                    ("SCHILY.xattr.user.note", b"line 1\nline=2\0"),
                    ("SCHILY.xattr.security.capability", &capability),
                ])
                .file("a", b"content")
                .hard_link("b", "./a")
                .hard_link("dir/c", "/b"),
        )
        .unwrap();
    let fs = ground.fs();
    let inode = |name: &str| fs.join(name).metadata().unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    assert_eq!(inode("a"), inode("dir/c"));
    assert_eq!(
        xattr(&fs.join("a"), "user.note").unwrap(),
        b"line 1\nline=2\0"
    );
    if ground.form().trusted {
        assert_eq!(done.xattrs_skipped, 0);
        assert_eq!(
            xattr(&fs.join("a"), "security.capability").unwrap(),
            capability
        );
    }
}

fn the_last_of_one_name_wins(format: Format) {
    let ground = Ground::new(format);
    ground
        .unpack(
            Archive::new()
                .file("x", b"1")
                .dir("x", 0o755)
                .file("x/inner", b"")
                .symlink("x", "elsewhere")
                .file("x", b"last")
                .file("d/one", b"")
                .dir("d", 0o711)
                .file("d/two", b""),
        )
        .unwrap();
    let fs = ground.fs();
    assert_eq!(std::fs::read(fs.join("x")).unwrap(), b"last");
    assert!(fs.join("d/one").exists() && fs.join("d/two").exists());
    assert_eq!(fs.join("d").metadata().unwrap().mode() & 0o777, 0o711);
    if format == Format::Directory {
        let scratch = ground.dir.path().join("scratch");
        assert_eq!(scratch.read_dir().unwrap().count(), 0);
    }
}

fn links_of_the_layer_lead_to_their_targets(format: Format) {
    let ground = Ground::new(format);
    ground
        .unpack(
            Archive::new()
                .symlink("lib", "usr/lib")
                .file("lib/a.so", b"a")
                .symlink("usr/lib64", "/lib")
                .file("usr/lib64/b.so", b"b"),
        )
        .unwrap();
    let fs = ground.fs();
    assert!(fs.join("lib").symlink_metadata().unwrap().is_symlink());
    assert!(fs.join("usr/lib/a.so").exists());
    assert!(fs.join("usr/lib/b.so").exists());
}

fn deletions_become_overlayfs_own_form(format: Format) {
    let ground = Ground::new(format);
    let opaque = if ground.form().trusted {
        "trusted.overlay.opaque"
    } else {
        "user.overlay.opaque"
    };
    let done = ground
        .unpack(
            Archive::new()
                .file("etc/.wh.gone", b"")
                .file("var/new", b"")
                .file("var/.wh..wh..opq", b"")
                .file(".wh..wh.plnk", b"")
                // What the same layer brings is not deleted, whatever the order.
                .file("both", b"x")
                .file(".wh.both", b"")
                .file(".wh.later", b"")
                .file("later", b"y")
                // A directory in the place of a deleted one does not merge with it.
                .file(".wh.dir", b"")
                .file("dir/f", b"")
                .dir("dir2", 0o755)
                .file(".wh.dir2", b""),
        )
        .unwrap();
    assert_eq!(done.whiteouts, 6);
    let fs = ground.fs();
    let gone = fs.join("etc/gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device());
    assert_eq!(gone.rdev(), 0);
    assert_eq!(xattr(&fs.join("var"), opaque).unwrap(), b"y");
    assert!(fs.join("var/new").exists());
    assert_eq!(std::fs::read(fs.join("both")).unwrap(), b"x");
    assert_eq!(std::fs::read(fs.join("later")).unwrap(), b"y");
    for dir in ["dir", "dir2"] {
        assert_eq!(xattr(&fs.join(dir), opaque).unwrap(), b"y", "{dir}");
    }
    assert_eq!(xattr(&fs.join("etc"), opaque), None);
    let names: Vec<_> = fs
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !names.iter().any(|n| n.as_bytes().starts_with(b".wh.")),
        "{names:?}"
    );
}

fn gzip_of_several_members_and_no_end_mark_are_read(format: Format) {
    let plain = Archive::new().file("a", &[3; 1000]).file("b", b"x").0;
    let mut blob = gzip(&plain[..700]);
    blob.extend(gzip(&plain[700..]));
    let ground = Ground::new(format);
    ground
        .unpack_with(&blob, &Digest::of(&plain), &UnpackLimits::default())
        .unwrap();
    assert_eq!(std::fs::read(ground.fs().join("a")).unwrap(), [3; 1000]);
    assert!(ground.fs().join("b").exists());
}

/// Everything that can be seen of a tree, but inode numbers.
pub(super) fn seen(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    let mut links = std::collections::HashMap::new();
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(dir).unwrap();
        let mut line = format!(
            "{name:?} {:o} {} {} {} {}.{}",
            meta.mode(),
            if meta.is_dir() { 0 } else { meta.nlink() },
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec() / 1_000_000_000
        );
        if meta.is_dir() {
            let mut inner: Vec<_> = path
                .read_dir()
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            inner.sort();
            todo.extend(inner.into_iter().rev());
        } else if meta.is_symlink() {
            line += &format!(" -> {:?}", std::fs::read_link(&path).unwrap());
        } else if meta.is_file() {
            let first = links.entry(meta.ino()).or_insert_with(|| name.to_owned());
            line += &format!(
                " = {first:?} {}",
                Digest::of(&std::fs::read(&path).unwrap())
            );
        }
        all.push(line);
    }
    all
}

fn archives_of_gnu_tar_give_the_same_tree(format: Format) {
    use std::process::Command;
    let from = tempfile::tempdir().unwrap();
    let tree = from.path().join("tree");
    let deep = tree.join("d".repeat(90)).join("e".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("f".repeat(250)), [9; 70_000]).unwrap();
    std::fs::write(tree.join("empty"), "").unwrap();
    std::fs::write(tree.join(OsStr::from_bytes(b"n\xc3\xa4me \xff\n\"")), "x").unwrap();
    std::fs::write(tree.join("block"), [1; 512]).unwrap();
    std::fs::hard_link(tree.join("block"), tree.join("another")).unwrap();
    std::os::unix::fs::symlink("l".repeat(200), tree.join("link")).unwrap();
    std::os::unix::fs::symlink("/", tree.join("d-root")).unwrap();
    for (name, mode) in [("empty", 0o6755), ("block", 0o440)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(tree.join(name), mode).unwrap();
    }
    for kind in ["gnu", "pax", "oldgnu"] {
        let output = Command::new("tar")
            .args(["--create", "--format", kind, "--directory"])
            .arg(&tree)
            .arg(".")
            .output();
        let Ok(output) = output else {
            eprintln!("SKIPPED: there is no tar");
            return;
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for blob in [gzip(&output.stdout), output.stdout.clone()] {
            let ground = Ground::new(format);
            let diff_id = Digest::of(&output.stdout);
            ground
                .unpack_with(&blob, &diff_id, &UnpackLimits::default())
                .unwrap();
            assert_eq!(seen(&ground.fs()), seen(&tree), "{kind}");
        }
    }
}
