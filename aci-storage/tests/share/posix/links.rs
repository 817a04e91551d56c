//! Symbolic links, where they are asked for.

use std::fs::{self, File};

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Rule, said, write, yes};

pub(super) const RULES: &[Rule] = &[
    (
        "a link is followed",
        |d| {
            write(&d.join("f"), "x");
            std::os::unix::fs::symlink("f", d.join("l")).unwrap();
            yes(fs::read(d.join("l")).unwrap() == b"x")
        },
        "done",
    ),
    (
        "links in a circle",
        |d| {
            std::os::unix::fs::symlink("m", d.join("l")).unwrap();
            std::os::unix::fs::symlink("l", d.join("m")).unwrap();
            said(File::open(d.join("l")))
        },
        "LOOP",
    ),
    (
        "a link that is not to be followed",
        |d| {
            std::os::unix::fs::symlink("f", d.join("l")).unwrap();
            said(
                File::options()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW)
                    .open(d.join("l")),
            )
        },
        "LOOP",
    ),
    (
        "a link where something is",
        |d| {
            write(&d.join("f"), "");
            said(std::os::unix::fs::symlink("x", d.join("f")))
        },
        "EXIST",
    ),
    (
        "a link below nothing",
        |d| said(std::os::unix::fs::symlink("x", d.join("none/l"))),
        "NOENT",
    ),
    (
        "unlink takes the link",
        |d| {
            write(&d.join("f"), "x");
            std::os::unix::fs::symlink("f", d.join("l")).unwrap();
            fs::remove_file(d.join("l")).unwrap();
            yes(d.join("f").exists() && fs::symlink_metadata(d.join("l")).is_err())
        },
        "done",
    ),
    (
        "rename moves the link",
        |d| {
            std::os::unix::fs::symlink("f", d.join("l")).unwrap();
            fs::rename(d.join("l"), d.join("m")).unwrap();
            yes(fs::read_link(d.join("m")).unwrap() == Path::new("f"))
        },
        "done",
    ),
    (
        "readlink of a file",
        |d| {
            write(&d.join("f"), "");
            said(fs::read_link(d.join("f")))
        },
        "INVAL",
    ),
];
