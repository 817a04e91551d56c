//! Each class of hostile archive that is known to have hurt somebody.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use aci_core::error::ErrorKind;

use super::*;

both!(
    dots_in_names_are_refused,
    absolute_names_stay_inside,
    writing_through_a_link_stays_inside,
    a_file_over_a_link_replaces_the_link,
    a_link_for_the_root_is_refused,
    link_loops_end,
    links_that_grow_deep_end,
    hard_links_stay_within_the_layer,
    a_hard_link_to_a_link_does_not_follow_it,
    device_nodes_are_left_out,
    whiteouts_of_no_name_are_refused,
    whiteouts_behind_links_stay_inside,
    attributes_of_overlayfs_are_refused,
    other_attributes_of_the_host_are_left_out,
    an_extended_header_of_50_mb_is_refused_before_it_is_read,
    many_extended_headers_for_one_entry_are_refused,
    a_bomb_of_300_mb_is_refused,
    limits_hold,
    names_with_nul_are_refused,
    the_size_of_pax_decides_where_the_next_header_is,
    content_of_what_has_none_is_refused,
    sparse_and_unknown_entries_are_refused,
    a_file_as_parent_is_refused,
    damage_is_found,
    damaged_gzip_is_found,
    an_archive_with_another_digest_is_refused,
    damaged_zstd_is_found,
    a_bomb_of_zstd_is_refused,
    modes_of_parents_cannot_lock_us_out,
);

/// Unpacks and expects a refusal that says this.
#[track_caller]
fn refused(format: Format, archive: Archive, word: &str) {
    let ground = Ground::new(format);
    let error = ground.unpack(archive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains(word), "{error}");
}

#[track_caller]
fn broken(format: Format, archive: Archive, word: &str) {
    let error = Ground::new(format).unpack(archive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.message().contains(word), "{error}");
}

fn dots_in_names_are_refused(format: Format) {
    for name in ["../x", "a/../../x", "a/..", "..", "./../x", "/../x"] {
        refused(format, Archive::new().file(name, b"x"), "'..'");
        refused(format, Archive::new().dir(name, 0o755), "'..'");
    }
}

fn absolute_names_stay_inside(format: Format) {
    let ground = Ground::new(format);
    let outside = ground.outside();
    ground
        .unpack(
            Archive::new()
                .file(format!("{outside}/kept"), b"new")
                .file("/etc/x", b"1"),
        )
        .unwrap();
    assert_eq!(std::fs::read(ground.fs().join("etc/x")).unwrap(), b"1");
    assert_eq!(
        std::fs::read(ground.fs().join(&outside[1..]).join("kept")).unwrap(),
        b"new"
    );
}

fn writing_through_a_link_stays_inside(format: Format) {
    // CVE-2021-32760, CVE-2025-62518's cousins, and nearly every archive tool once.
    let ground = Ground::new(format);
    let outside = ground.outside();
    ground
        .unpack(
            Archive::new()
                .symlink("abs", &outside)
                .file("abs/kept", b"new")
                .symlink("up", "../../../../outside")
                .file("up/kept", b"new")
                .symlink("chain", "abs")
                .file("chain/more", b"new"),
        )
        .unwrap();
    // The links' targets are paths of the image.
    assert_eq!(
        std::fs::read(ground.fs().join(&outside[1..]).join("more")).unwrap(),
        b"new"
    );
    assert_eq!(
        std::fs::read(ground.fs().join("outside/kept")).unwrap(),
        b"new"
    );
}

fn a_file_over_a_link_replaces_the_link(format: Format) {
    let ground = Ground::new(format);
    let outside = ground.outside();
    ground
        .unpack(
            Archive::new()
                .symlink("kept", &format!("{outside}/kept"))
                .file("kept", b"mine")
                .symlink("dir", &outside)
                .entry(b'5', "dir", "", 0o700, b""),
        )
        .unwrap();
    assert_eq!(std::fs::read(ground.fs().join("kept")).unwrap(), b"mine");
    // RUSTSEC-2026-0067: a directory's mode set through a link of the same name.
    assert!(ground.fs().join("dir").symlink_metadata().unwrap().is_dir());
    assert_eq!(std::fs::metadata(&outside).unwrap().mode() & 0o777, 0o755);
}

fn a_link_for_the_root_is_refused(format: Format) {
    // CVE-2021-29136.
    for name in ["/", ".", "./", "//"] {
        refused(format, Archive::new().symlink(name, "/etc"), "'/'");
        refused(format, Archive::new().hard_link(name, "x"), "'/'");
    }
}

fn link_loops_end(format: Format) {
    refused(
        format,
        Archive::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", b""),
        "too many symbolic links",
    );
    refused(
        format,
        Archive::new().symlink("a", "a/a/a").file("a/x", b""),
        "too many symbolic links",
    );
}

fn links_that_grow_deep_end(format: Format) {
    let long = "d/".repeat(300);
    refused(
        format,
        Archive::new().symlink("l", &long).file("l/x", b""),
        "deep",
    );
}

fn hard_links_stay_within_the_layer(format: Format) {
    let ground = Ground::new(format);
    let kept = format!("{}/kept", ground.outside());
    let error = ground
        .unpack(Archive::new().hard_link("x", &kept))
        .unwrap_err();
    assert!(
        error.message().contains("which this layer does not have"),
        "{error}"
    );
    refused(
        format,
        Archive::new().hard_link("x", "../outside/kept"),
        "'..'",
    );
    refused(
        format,
        Archive::new()
            .symlink("l", "/outside")
            .hard_link("x", "l/kept"),
        "does not have",
    );
    refused(
        format,
        Archive::new().dir("d", 0o755).hard_link("x", "d"),
        "directory",
    );
    refused(format, Archive::new().hard_link("x", "/"), "directory");
    refused(
        format,
        Archive::new().file(".wh.gone", b"").hard_link("x", "gone"),
        "does not have",
    );
}

fn a_hard_link_to_a_link_does_not_follow_it(format: Format) {
    let ground = Ground::new(format);
    let kept = format!("{}/kept", ground.outside());
    ground
        .unpack(
            Archive::new()
                .symlink("l", &kept)
                .hard_link("h", "l")
                .file("h", b"mine"),
        )
        .unwrap();
    assert_eq!(
        std::fs::read_link(ground.fs().join("l"))
            .unwrap()
            .display()
            .to_string(),
        kept
    );
    assert_eq!(std::fs::read(ground.fs().join("h")).unwrap(), b"mine");
}

fn device_nodes_are_left_out(format: Format) {
    let ground = Ground::new(format);
    let done = ground
        .unpack(
            Archive::new()
                .entry(b'3', "dev/mem", "", 0o666, b"")
                .entry(b'4', "sda", "", 0o666, b"")
                // 0/0 would hide what is below without a whiteout.
                .entry(b'3', "etc", "", 0o666, b""),
        )
        .unwrap();
    assert_eq!((done.devices_skipped, done.entries), (3, 0));
    assert_eq!(std::fs::read_dir(ground.fs()).unwrap().count(), 0);
}

fn whiteouts_of_no_name_are_refused(format: Format) {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        refused(format, Archive::new().file(name, b""), "whiteout");
    }
}

fn whiteouts_behind_links_stay_inside(format: Format) {
    let ground = Ground::new(format);
    let outside = ground.outside();
    ground
        .unpack(
            Archive::new()
                .symlink("l", &outside)
                .file("l/.wh.kept", b"")
                .file("l/.wh..wh..opq", b""),
        )
        .unwrap();
    let hidden = ground.fs().join(&outside[1..]).join("kept");
    assert!(
        hidden
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

fn attributes_of_overlayfs_are_refused(format: Format) {
    for name in [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "user.overlay.whiteout",
        "user.overlay.origin",
    ] {
        let key = format!("SCHILY.xattr.{name}");
        refused(
            format,
            Archive::new().pax(&[(&key, b"y")]).dir("d", 0o755),
            "overlayfs",
        );
        refused(
            format,
            Archive::new().pax(&[(&key, b"/etc")]).file("f", b""),
            "overlayfs",
        );
    }
}

fn other_attributes_of_the_host_are_left_out(format: Format) {
    let ground = Ground::new(format);
    let done = ground
        .unpack(
            Archive::new()
                .pax(&[
                    ("SCHILY.xattr.security.selinux", b"x"),
                    ("SCHILY.xattr.trusted.md5", b"x"),
                    ("SCHILY.xattr.system.posix_acl_access", b"x"),
                ])
                .file("f", b""),
        )
        .unwrap();
    assert_eq!(done.xattrs_skipped, 3);
}

fn an_extended_header_of_50_mb_is_refused_before_it_is_read(format: Format) {
    // The content is not there at all: a reader that trusted the size would say "it ends".
    let mut archive = Archive::new();
    archive.header(b'x', b"pax", "", 0o644, 50 << 20);
    refused(format, archive, "extended headers");
    for kind in [b'L', b'K', b'g'] {
        let mut archive = Archive::new();
        archive.header(kind, b"x", "", 0o644, u64::from(u32::MAX));
        refused(format, archive, "extended headers");
    }
}

fn many_extended_headers_for_one_entry_are_refused(format: Format) {
    let mut archive = Archive::new();
    for _ in 0..1100 {
        archive = archive.pax(&[("comment", &[b'x'; 1000])]);
    }
    refused(format, archive.file("f", b""), "extended headers");
}

fn a_bomb_of_300_mb_is_refused(format: Format) {
    let mut header = Archive::new();
    header.header(b'0', b"zeros", "", 0o644, 300 << 20);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 1 << 20]).unwrap();
    let zeros = encoder.finish().unwrap();
    let mut blob = gzip(&header.0);
    for _ in 0..300 {
        blob.extend_from_slice(&zeros);
    }
    let ground = Ground::new(format);
    let error = ground
        .unpack_with(&blob, &Digest::of(b""), &UnpackLimits::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("compressed size"), "{error}");
    let written = match format {
        Format::Directory => ground.fs().join("zeros"),
        Format::Image => ground.image(),
    };
    let written = std::fs::metadata(written).unwrap().len();
    assert!(written <= 65 << 20, "{written}");
}

fn limits_hold(format: Format) {
    let tight = |change: fn(&mut UnpackLimits), archive: Archive, word: &str| {
        let mut limits = UnpackLimits::default();
        change(&mut limits);
        let bytes = archive.end();
        let error = Ground::new(format)
            .unpack_with(&bytes, &Digest::of(&bytes), &limits)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains(word), "{error}");
    };
    let three = || Archive::new().file("a", b"").file("b", b"").file("c", b"");
    tight(|l| l.entries = 2, three(), "more than 2 entries");
    let large = Archive::new().file("f", &[1; 200_000]);
    tight(|l| l.bytes = 100_000, large, "more than 100000 bytes");
    let deep = Archive::new().file("a/b/c/d", b"");
    tight(|l| l.depth = 2, deep.clone(), "more than 2 directories");
    tight(|l| l.path_bytes = 6, deep, "longer than 6 bytes");
    refused(
        format,
        Archive::new().file("x".repeat(256), b""),
        "255 bytes",
    );
    refused(
        format,
        Archive::new().file("x/".repeat(2100) + "f", b""),
        "4096 bytes",
    );
    refused(
        format,
        Archive::new().file("x/".repeat(300) + "f", b""),
        "256 directories",
    );
}

fn names_with_nul_are_refused(format: Format) {
    refused(
        format,
        Archive::new().pax(&[("path", b"a\0b")]).file("f", b""),
        "NUL",
    );
    refused(
        format,
        Archive::new()
            .pax(&[("linkpath", b"a\0b")])
            .symlink("l", "x"),
        "target",
    );
    refused(format, Archive::new().symlink("l", ""), "target");
}

fn the_size_of_pax_decides_where_the_next_header_is(format: Format) {
    // CVE-2025-62518: a reader that goes by the ustar size finds entries within the content.
    let inner = Archive::new().file("smuggled", b"x");
    let mut archive = Archive::new().pax(&[("size", inner.0.len().to_string().as_bytes())]);
    archive.header(b'0', b"outer", "", 0o644, 0);
    archive.0.extend_from_slice(&inner.0);
    let ground = Ground::new(format);
    ground.unpack(archive.file("after", b"")).unwrap();
    assert!(!ground.fs().join("smuggled").exists());
    assert!(ground.fs().join("after").exists());
    assert_eq!(std::fs::read(ground.fs().join("outer")).unwrap(), inner.0);
}

fn content_of_what_has_none_is_refused(format: Format) {
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let archive = Archive::new()
            .file("t", b"")
            .entry(kind, "x", "t", 0o644, b"content");
        refused(format, archive, "content");
    }
}

fn sparse_and_unknown_entries_are_refused(format: Format) {
    refused(
        format,
        Archive::new().entry(b'S', "x", "", 0o644, b""),
        "sparse",
    );
    refused(
        format,
        Archive::new()
            .pax(&[("GNU.sparse.major", b"1")])
            .file("x", b""),
        "sparse",
    );
    for kind in [b'D', b'M', b'V', b'N', b'Z', 0xff] {
        refused(
            format,
            Archive::new().entry(kind, "x", "", 0o644, b""),
            "unknown type",
        );
    }
}

fn a_file_as_parent_is_refused(format: Format) {
    refused(
        format,
        Archive::new().file("a", b"").file("a/b", b""),
        "not a directory",
    );
    refused(
        format,
        Archive::new()
            .entry(b'6', "p", "", 0o644, b"")
            .file("p/b", b""),
        "not a directory",
    );
}

fn damage_is_found(format: Format) {
    let mut wrong_sum = Archive::new().file("a", b"x");
    wrong_sum.0[0] ^= 1;
    broken(format, wrong_sum, "checksum");
    let mut cut = Archive::new().file("a", &[1; 5000]);
    cut.0.truncate(2000);
    // `end` would fill it up.
    let bytes = cut.0;
    let ground = Ground::new(format);
    let limits = UnpackLimits::default();
    let error = ground
        .unpack_with(&bytes, &Digest::of(&bytes), &limits)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let ground = Ground::new(format);
    let error = ground.unpack_with(&bytes[..300], &Digest::of(&bytes[..300]), &limits);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
    for records in [
        "5 a\n",
        "x",
        "999999 a=b\n",
        "0 a=b\n",
        "7 size=x\n",
        "18446744073709551617 a=b\n",
    ] {
        let archive = Archive::new().entry(b'x', "pax", "", 0, records.as_bytes());
        broken(format, archive.file("f", b""), "extended header");
    }
    let mut huge = Archive::new().pax(&[("size", b"18446744073709551615")]);
    huge.header(b'0', b"f", "", 0o644, 0);
    let error = Ground::new(format).unpack(huge).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    broken(
        format,
        Archive::new().pax(&[("uid", b"4294967295")]).file("f", b""),
        "user id",
    );
    broken(
        format,
        Archive::new().pax(&[("path", b"x")]),
        "extended header",
    );
}

fn damaged_gzip_is_found(format: Format) {
    let blob = gzip(&Archive::new().file("a", &[7; 100_000]).end());
    let limits = UnpackLimits::default();
    let mut flipped = blob.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    for bytes in [
        &flipped[..],
        &blob[..blob.len() - 6],
        &blob[..blob.len() / 2],
    ] {
        let error = Ground::new(format)
            .unpack_with(bytes, &Digest::of(b""), &limits)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

fn an_archive_with_another_digest_is_refused(format: Format) {
    let limits = UnpackLimits::default();
    let bytes = Archive::new().file("a", b"x").end();
    let error = Ground::new(format)
        .unpack_with(&bytes, &Digest::of(b"y"), &limits)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // What follows the end mark belongs to the digest too.
    let mut more = bytes.clone();
    more.extend_from_slice(b"hidden");
    let error = Ground::new(format)
        .unpack_with(&more, &Digest::of(&bytes), &limits)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

fn damaged_zstd_is_found(format: Format) {
    let archive = Archive::new().file("f", &[b'x'; 200_000]).end();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let blob = ruzstd::encoding::compress_to_vec(&archive[..], level);
    let digest = Digest::of(&archive);
    let limits = UnpackLimits::default();
    let done = Ground::new(format).unpack_with(&blob, &digest, &limits);
    assert_eq!(done.unwrap().entries, 1);
    for bytes in [
        &blob[..blob.len() / 2],
        &[0x28, 0xb5, 0x2f, 0xfd, 0],
        &[&blob[..], b"and something else"].concat(),
    ] {
        let error = Ground::new(format)
            .unpack_with(bytes, &digest, &limits)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

fn a_bomb_of_zstd_is_refused(format: Format) {
    let mut archive = Archive::new();
    archive.header(b'0', b"zeros", "", 0o644, 1 << 30);
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let mut blob = ruzstd::encoding::compress_to_vec(&archive.0[..], level);
    let zeros = ruzstd::encoding::compress_to_vec(&vec![0; 1 << 20][..], level);
    for _ in 0..1024 {
        blob.extend_from_slice(&zeros);
    }
    let error = Ground::new(format)
        .unpack_with(&blob, &Digest::of(b""), &UnpackLimits::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("compressed size"), "{error}");
}

fn modes_of_parents_cannot_lock_us_out(format: Format) {
    let ground = Ground::new(format);
    ground
        .unpack(
            Archive::new()
                .dir("d", 0)
                .file("d/f", b"x")
                .dir("d/e", 0o500)
                .file("d/e/g", b""),
        )
        .unwrap();
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
    let shut = ground.fs().join("d");
    assert_eq!(mode(&shut), 0);
    if format == Format::Directory {
        std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(mode(&shut.join("e")), 0o500);
    assert!(shut.join("e/g").exists());
}
