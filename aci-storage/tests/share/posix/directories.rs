//! Directories: made, removed and read.

use std::fs::{self, File};

use rustix::fs::FileType;

use super::{Rule, kernel, long, said, touches, write, yes};

pub(super) const RULES: &[Rule] = &[
    (
        "mkdir makes a directory",
        |d| said(fs::create_dir(d.join("a"))),
        "done",
    ),
    (
        "mkdir touches its parent",
        |d| touches(d, || fs::create_dir(d.join("a")).unwrap()),
        "done",
    ),
    (
        "mkdir below a file",
        |d| {
            write(&d.join("f"), "");
            said(fs::create_dir(d.join("f/a")))
        },
        "NOTDIR",
    ),
    (
        "mkdir of a long name",
        |d| said(fs::create_dir(d.join(long()))),
        "NAMETOOLONG",
    ),
    (
        "mkdir of a long path",
        |d| said(fs::create_dir(d.join("x/".repeat(2100)))),
        "NAMETOOLONG",
    ),
    (
        "mkdir below nothing",
        |d| said(fs::create_dir(d.join("none/a"))),
        "NOENT",
    ),
    (
        "mkdir of what is there",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            said(fs::create_dir(d.join("a")))
        },
        "EXIST",
    ),
    (
        "mkdir of a file that is there",
        |d| {
            write(&d.join("f"), "");
            said(fs::create_dir(d.join("f")))
        },
        "EXIST",
    ),
    (
        "rmdir removes",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            fs::remove_dir(d.join("a")).unwrap();
            said(fs::metadata(d.join("a")))
        },
        "NOENT",
    ),
    (
        "rmdir touches its parent",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            touches(d, || fs::remove_dir(d.join("a")).unwrap())
        },
        "done",
    ),
    (
        "rmdir of a file",
        |d| {
            write(&d.join("f"), "");
            said(fs::remove_dir(d.join("f")))
        },
        "NOTDIR",
    ),
    (
        "rmdir of nothing",
        |d| said(fs::remove_dir(d.join("none"))),
        "NOENT",
    ),
    (
        "rmdir of a long name",
        |d| said(fs::remove_dir(d.join(long()))),
        "NAMETOOLONG",
    ),
    (
        "rmdir of one with something in it",
        |d| {
            fs::create_dir_all(d.join("a/b")).unwrap();
            said(fs::remove_dir(d.join("a")))
        },
        "NOTEMPTY",
    ),
    (
        "rmdir of a dot",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            kernel(rustix::fs::rmdir(d.join("a/.")))
        },
        "INVAL",
    ),
    (
        "rmdir while it is read",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            let open = File::open(d.join("a")).unwrap();
            let done = said(fs::remove_dir(d.join("a")));
            drop(open);
            done
        },
        "done",
    ),
    (
        "a directory is read whole, with kinds, and again",
        |d| {
            for name in 0..300 {
                write(&d.join(format!("f{name}")), "");
            }
            fs::create_dir(d.join("a")).unwrap();
            let mut read = rustix::fs::Dir::read_from(File::open(d).unwrap()).unwrap();
            let mut count = || {
                let all: Vec<_> = read.by_ref().map(Result::unwrap).collect();
                let kinds = all
                    .iter()
                    .filter(|e| e.file_type() == FileType::Directory)
                    .count();
                read.rewind();
                (all.len(), kinds)
            };
            let first = count();
            write(&d.join("later"), "");
            yes(first == (303, 3) && count() == (304, 3))
        },
        "done",
    ),
    (
        "what is removed while a directory is read does not end the reading",
        |d| {
            for name in 0..300 {
                write(&d.join(format!("f{name}")), "");
            }
            for entry in fs::read_dir(d).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            yes(fs::read_dir(d).unwrap().next().is_none())
        },
        "done",
    ),
];
