//! Renaming.

use std::fs::{self, File};

use std::os::unix::fs::{FileExt, PermissionsExt};

use rustix::fs::{CWD, RenameFlags};

use super::{Rule, kernel, long, said, touches, write, yes};

pub(super) const RULES: &[Rule] = &[
    (
        "rename gives another name",
        |d| {
            write(&d.join("f"), "x");
            fs::rename(d.join("f"), d.join("g")).unwrap();
            yes(fs::read(d.join("g")).unwrap() == b"x" && !d.join("f").exists())
        },
        "done",
    ),
    (
        "rename touches both parents",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            fs::create_dir(d.join("b")).unwrap();
            write(&d.join("a/f"), "x");
            let mut one = String::new();
            let both = touches(&d.join("b"), || {
                one = touches(&d.join("a"), || {
                    fs::rename(d.join("a/f"), d.join("b/f")).unwrap()
                });
            });
            yes(one == "done" && both == "done")
        },
        "done",
    ),
    (
        "rename replaces a file",
        |d| {
            write(&d.join("f"), "new");
            write(&d.join("g"), "old");
            fs::rename(d.join("f"), d.join("g")).unwrap();
            yes(fs::read(d.join("g")).unwrap() == b"new" && !d.join("f").exists())
        },
        "done",
    ),
    (
        "rename replaces a file that cannot be written",
        |d| {
            write(&d.join("f"), "new");
            write(&d.join("g"), "old");
            fs::set_permissions(d.join("g"), fs::Permissions::from_mode(0o444)).unwrap();
            fs::rename(d.join("f"), d.join("g")).unwrap();
            yes(fs::read(d.join("g")).unwrap() == b"new")
        },
        "done",
    ),
    (
        "rename replaces an empty directory",
        |d| {
            fs::create_dir_all(d.join("a/in")).unwrap();
            fs::create_dir(d.join("b")).unwrap();
            fs::rename(d.join("a"), d.join("b")).unwrap();
            yes(d.join("b/in").is_dir() && !d.join("a").exists())
        },
        "done",
    ),
    (
        "rename over a directory with something in it",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            fs::create_dir_all(d.join("b/in")).unwrap();
            said(fs::rename(d.join("a"), d.join("b")))
        },
        "NOTEMPTY",
    ),
    (
        "rename of a file over a directory",
        |d| {
            write(&d.join("f"), "");
            fs::create_dir(d.join("a")).unwrap();
            said(fs::rename(d.join("f"), d.join("a")))
        },
        "ISDIR",
    ),
    (
        "rename of a directory over a file",
        |d| {
            write(&d.join("f"), "");
            fs::create_dir(d.join("a")).unwrap();
            said(fs::rename(d.join("a"), d.join("f")))
        },
        "NOTDIR",
    ),
    (
        "rename of a directory into itself",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            said(fs::rename(d.join("a"), d.join("a/b")))
        },
        "INVAL",
    ),
    (
        "rename of nothing",
        |d| said(fs::rename(d.join("none"), d.join("f"))),
        "NOENT",
    ),
    (
        "rename to below nothing",
        |d| {
            write(&d.join("f"), "");
            said(fs::rename(d.join("f"), d.join("none/f")))
        },
        "NOENT",
    ),
    (
        "rename to a long name",
        |d| {
            write(&d.join("f"), "");
            said(fs::rename(d.join("f"), d.join(long())))
        },
        "NAMETOOLONG",
    ),
    (
        "rename to itself",
        |d| {
            write(&d.join("f"), "x");
            fs::rename(d.join("f"), d.join("f")).unwrap();
            yes(fs::read(d.join("f")).unwrap() == b"x")
        },
        "done",
    ),
    (
        "rename that is not to replace",
        |d| {
            write(&d.join("f"), "");
            write(&d.join("g"), "");
            kernel(rustix::fs::renameat_with(
                CWD,
                d.join("f"),
                CWD,
                d.join("g"),
                RenameFlags::NOREPLACE,
            ))
        },
        "EXIST",
    ),
    (
        "rename leaves what is open open",
        |d| {
            write(&d.join("f"), "x");
            let open = File::options()
                .read(true)
                .write(true)
                .open(d.join("f"))
                .unwrap();
            fs::rename(d.join("f"), d.join("g")).unwrap();
            open.write_all_at(b"y", 0).unwrap();
            yes(fs::read(d.join("g")).unwrap() == b"y")
        },
        "done",
    ),
];
