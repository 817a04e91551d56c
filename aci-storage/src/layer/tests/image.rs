//! What is particular to EROFS images.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use aci_core::error::ErrorKind;
use proptest::prelude::*;

use super::kept::seen;
use super::*;

/// Has Debian's fsck look at an image, metadata and content.
#[track_caller]
pub(super) fn check(image: &Path) {
    let output = Command::new("fsck.erofs")
        .arg("--extract")
        .arg(image)
        .output()
        .expect("fsck.erofs of the package erofs-utils");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Extended attributes of what is below a directory, by name.
fn xattrs(dir: &Path) -> BTreeMap<PathBuf, BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        if path.symlink_metadata().unwrap().is_symlink() {
            continue;
        }
        if path.is_dir() {
            todo.extend(path.read_dir().unwrap().map(|e| e.unwrap().path()));
        }
        let mut names = vec![0; 65_536];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let mut found = BTreeMap::new();
        for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            found.insert(name.to_vec(), value[..length].to_vec());
        }
        all.insert(path.strip_prefix(dir).unwrap().to_owned(), found);
    }
    all
}

/// Content that shows where it was cut or moved.
fn content(size: usize, seed: u8) -> Vec<u8> {
    (0..size)
        .map(|n| (n / 7 + n / 4096).to_le_bytes()[0] ^ seed)
        .collect()
}

/// Unpacks an archive both ways and compares all that can be seen.
fn compare(archive: &Archive) -> Option<(Ground, Ground)> {
    if !Format::Image.is_usable() {
        return None;
    }
    let (directory, image) = (Ground::new(Format::Directory), Ground::new(Format::Image));
    let one = directory.unpack(archive.clone()).unwrap();
    let other = image.unpack(archive.clone()).unwrap();
    assert_eq!(one, other);
    assert_eq!(seen(&directory.fs()), seen(&image.fs()));
    assert_eq!(xattrs(&directory.fs()), xattrs(&image.fs()));
    Some((directory, image))
}

#[test]
fn the_same_archive_gives_the_same_bytes() {
    let mut archive = Archive::new().symlink("s", "t").file(".wh.x", b"");
    for n in 0..300 {
        archive = archive
            .pax(&[("SCHILY.xattr.user.n", b"1")])
            .file(format!("d{}/f{n}", n % 7), &content(n * 31, 1));
    }
    let archive = archive.hard_link("h", "d0/f0").file(".wh..wh..opq", b"");
    let plain = archive.end();
    let mut images = Vec::new();
    for blob in [plain.clone(), plain.clone(), gzip(&plain)] {
        let ground = Ground::new(Format::Image);
        let diff_id = Digest::of(&plain);
        ground
            .unpack_with(&blob, &diff_id, &UnpackLimits::default())
            .unwrap();
        images.push(std::fs::read(ground.image()).unwrap());
    }
    assert!(images[0] == images[1] && images[0] == images[2]);
}

#[test]
fn files_of_every_size_are_whole() {
    let mut archive = Archive::new();
    let sizes = [
        0, 1, 511, 512, 2047, 2048, 2049, 4000, 4032, 4095, 4096, 4097, 6144, 6145, 8191, 8192,
        65_535, 1_048_575, 1_048_576, 1_048_577, 3_200_000,
    ];
    for size in sizes {
        archive = archive.file(format!("f{size}"), &content(size, 0x5a));
        // What follows fills the same block.
        archive = archive.file(format!("g{size}"), &content(size % 100, 0x33));
    }
    let Some((_, image)) = compare(&archive) else {
        return;
    };
    for size in sizes {
        let path = image.fs().join(format!("f{size}"));
        assert!(
            std::fs::read(path).unwrap() == content(size, 0x5a),
            "{size}"
        );
    }
}

#[test]
fn every_name_of_a_large_directory_is_found() {
    let mut archive = Archive::new().dir("big", 0o755);
    let names: Vec<Vec<u8>> = (0..9000_u32)
        .map(|n| {
            // Before and behind `.` and `..`, of all lengths, and no text.
            let first = b"!-.0Az\xc3\xff"[n as usize % 8];
            let mut name = vec![first];
            name.extend(n.wrapping_mul(2_654_435_761).to_string().bytes());
            name.resize(name.len() + n as usize % 200, b'.');
            name
        })
        .collect();
    for name in &names {
        archive = archive.file([b"big/", &name[..]].concat(), name);
    }
    let Some((_, image)) = compare(&archive) else {
        return;
    };
    let big = image.fs().join("big");
    assert_eq!(big.read_dir().unwrap().count(), names.len());
    assert!(!big.join("!nothing").exists() && !big.join("\u{fffd}").exists());
    assert_eq!(big.join("..").metadata().unwrap().ino(), 36);
    assert_eq!(
        big.join(".").metadata().unwrap().ino(),
        big.metadata().unwrap().ino()
    );
}

#[test]
fn blocks_of_directories_may_be_full_to_the_last_byte() {
    // `.` and `..` take 27 bytes; each further name its length and 12.
    for last in [200_usize, 214, 215, 216, 217, 240] {
        let mut archive = Archive::new();
        for n in 0..16 {
            archive = archive.file(format!("d/{n:0230}"), b"x");
        }
        archive = archive.file(format!("d/{}", "z".repeat(last.min(255))), b"x");
        compare(&archive);
    }
}

#[test]
fn attributes_beside_and_beyond_a_block_are_kept() {
    let large = content(3000, 9);
    let archive = Archive::new()
        .pax(&[("SCHILY.xattr.user.root", b"r")])
        .dir("./", 0o755)
        .pax(&[("SCHILY.xattr.user.a", &large)])
        .file("small", b"end of it")
        .pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.a", b"2")])
        .file("twice", b"")
        .pax(&[
            ("SCHILY.xattr.user.a", b""),
            ("SCHILY.xattr.user.b", &large[..999]),
        ])
        .dir("dir", 0o700)
        // Said again: attributes add up, as they do on a directory that is there.
        .pax(&[("SCHILY.xattr.user.a", b"new")])
        .dir("dir", 0o711)
        .file("dir/f", &content(5000, 1));
    compare(&archive);

    // More than the file systems of this test take in a tree.
    let huge = content(60_000, 3);
    let archive = Archive::new()
        .pax(&[
            ("SCHILY.xattr.user.a", &huge),
            ("SCHILY.xattr.user.b", &huge),
        ])
        .file("f", &content(100, 1))
        .file("g", b"behind it");
    if !Format::Image.is_usable() {
        return;
    }
    let ground = Ground::new(Format::Image);
    ground.unpack(archive).unwrap();
    let found = xattrs(&ground.fs());
    assert_eq!(found[Path::new("f")][&b"user.b"[..]], huge);
    assert_eq!(
        std::fs::read(ground.fs().join("f")).unwrap(),
        content(100, 1)
    );
    assert_eq!(std::fs::read(ground.fs().join("g")).unwrap(), b"behind it");
}

#[test]
fn attributes_that_do_not_fit_are_refused() {
    let value = content(65_000, 3);
    let records: Vec<_> = (0..5)
        .map(|n| (format!("SCHILY.xattr.user.{n}"), &value[..]))
        .collect();
    let records: Vec<_> = records.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    for archive in [
        Archive::new().pax(&records).file("f", b""),
        Archive::new().pax(&records).dir("d", 0o755),
        // The root's place is behind the superblock.
        Archive::new().pax(&records[..1]).dir("./", 0o755),
    ] {
        let error = Ground::new(Format::Image).unpack(archive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("extended attributes"), "{error}");
    }
}

#[test]
fn times_before_1970_and_long_links_are_kept() {
    let archive = Archive::new()
        .pax(&[("mtime", b"-1.25")])
        .file("old", b"")
        .pax(&[("mtime", b"4294967299.000000007")])
        .file("later", b"")
        .symlink("long", &"l/".repeat(2047))
        .symlink("short", "x")
        .file("after", b"1");
    let Some((_, image)) = compare(&archive) else {
        return;
    };
    let old = image.fs().join("old").metadata().unwrap();
    assert_eq!((old.mtime(), old.mtime_nsec()), (-2, 750_000_000));
    let later = image.fs().join("later").metadata().unwrap();
    assert_eq!((later.mtime(), later.mtime_nsec()), (4_294_967_299, 7));
    let long = std::fs::read_link(image.fs().join("long")).unwrap();
    assert_eq!(long.as_os_str().len(), 4094);
}

#[test]
fn zeros_take_no_space() {
    let ground = Ground::new(Format::Image);
    ground
        .unpack(Archive::new().file("a", &[0; 8 << 20]).file("b", b"x"))
        .unwrap();
    let meta = ground.image().metadata().unwrap();
    assert!(
        meta.len() > 8 << 20 && meta.blocks() * 512 < 4 << 20,
        "{meta:?}"
    );
    if Format::Image.is_usable() {
        assert!(std::fs::read(ground.fs().join("a")).unwrap() == [0; 8 << 20]);
        assert_eq!(std::fs::read(ground.fs().join("b")).unwrap(), b"x");
    }
}

#[test]
fn names_are_held_in_bounded_memory() {
    let limits = UnpackLimits {
        memory_bytes: 100_000,
        ..UnpackLimits::default()
    };
    let mut many = Archive::new();
    for n in 0..1000 {
        many = many.file(format!("f{n}"), b"");
    }
    // The same name again and again, and what is replaced, count too.
    let mut again = Archive::new();
    for n in 0..1000 {
        again = again
            .dir("d", 0o755)
            .file(format!("d/{n}"), b"")
            .file("d", b"");
    }
    let mut attributes = Archive::new();
    for _ in 0..100 {
        attributes = attributes
            .pax(&[("SCHILY.xattr.user.a", &[1; 2000])])
            .dir("d", 0o755);
    }
    for archive in [many, again, attributes] {
        let bytes = archive.end();
        let error = Ground::new(Format::Image)
            .unpack_with(&bytes, &Digest::of(&bytes), &limits)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error.message().contains("100000 bytes of memory"),
            "{error}"
        );
    }
}

#[derive(Clone, Debug)]
struct Thing {
    dir: Vec<u8>,
    name: Vec<u8>,
    size: usize,
    kind: u8,
    mode: u32,
    attribute: Option<usize>,
}

fn thing() -> impl Strategy<Value = Thing> {
    let part = || {
        prop::collection::vec(any::<u8>(), 1..40).prop_map(|mut name| {
            // Bytes that no name has, and names that have a meaning.
            name.retain(|b| !matches!(b, 0 | b'/'));
            name.insert(0, b'n');
            name
        })
    };
    (
        prop::sample::select(vec![&b""[..], b"a/", b"a/b/", b"-/"]),
        part(),
        prop_oneof![
            0..100_usize,
            1900..2200_usize,
            3900..4300_usize,
            0..30_000_usize
        ],
        0..10_u8,
        0..0o10000_u32,
        prop::option::of(0..3000_usize),
    )
        .prop_map(|(dir, name, size, kind, mode, attribute)| Thing {
            dir: dir.to_vec(),
            name,
            size,
            kind,
            mode,
            attribute,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn images_and_directories_are_the_same_trees(things in prop::collection::vec(thing(), 1..60)) {
        let mut archive = Archive::new();
        let mut first: Option<String> = None;
        for (n, thing) in things.iter().enumerate() {
            let path = [&thing.dir[..], &thing.name].concat();
            if let Some(size) = thing.attribute {
                archive = archive.pax(&[("SCHILY.xattr.user.note", &content(size, 4))]);
            }
            archive = match (thing.kind, &first) {
                (0, _) => archive.dir(&path, thing.mode),
                (1, _) => archive.symlink(&path, &"x".repeat(thing.size % 300 + 1)),
                (2, _) => archive.entry(b'6', &path, "", thing.mode, b""),
                (3, Some(first)) => archive.hard_link(&path, first),
                _ => {
                    let plain = format!("f{n}");
                    let data = content(thing.size, n.to_le_bytes()[0]);
                    archive = archive.entry(b'0', &plain, "", thing.mode, &data);
                    first = Some(plain);
                    archive.entry(b'0', &path, "", thing.mode, &data)
                }
            };
        }
        compare(&archive);
    }
}
