//! Opening, making and removing files.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};

use rustix::fs::{Mode, OFlags};

use super::{Rule, kernel, long, said, touches, write, yes};

pub(super) const RULES: &[Rule] = &[
    (
        "unlink removes",
        |d| {
            write(&d.join("f"), "x");
            fs::remove_file(d.join("f")).unwrap();
            said(File::open(d.join("f")))
        },
        "NOENT",
    ),
    (
        "unlink touches its parent",
        |d| {
            write(&d.join("f"), "x");
            touches(d, || fs::remove_file(d.join("f")).unwrap())
        },
        "done",
    ),
    (
        "unlink of a directory",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            said(fs::remove_file(d.join("a")))
        },
        "ISDIR",
    ),
    (
        "unlink of nothing",
        |d| said(fs::remove_file(d.join("none"))),
        "NOENT",
    ),
    (
        "unlink below a file",
        |d| {
            write(&d.join("f"), "");
            said(fs::remove_file(d.join("f/x")))
        },
        "NOTDIR",
    ),
    (
        "unlink of a long name",
        |d| said(fs::remove_file(d.join(long()))),
        "NAMETOOLONG",
    ),
    (
        "unlink of what cannot be written",
        |d| {
            write(&d.join("f"), "x");
            fs::set_permissions(d.join("f"), fs::Permissions::from_mode(0o444)).unwrap();
            said(fs::remove_file(d.join("f")))
        },
        "done",
    ),
    (
        "an open file outlives its name",
        |d| {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(d.join("f"))
                .unwrap();
            fs::remove_file(d.join("f")).unwrap();
            file.write_all(b"still").unwrap();
            file.set_len(3).unwrap();
            let mut text = String::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_string(&mut text).unwrap();
            yes(text == "sti" && file.metadata().unwrap().len() == 3 && !d.join("f").exists())
        },
        "done",
    ),
    (
        "a name can be taken again while the old file is open",
        |d| {
            write(&d.join("f"), "old");
            let old = File::open(d.join("f")).unwrap();
            fs::remove_file(d.join("f")).unwrap();
            write(&d.join("f"), "new");
            let mut text = [0; 3];
            old.read_exact_at(&mut text, 0).unwrap();
            yes(&text == b"old" && fs::read(d.join("f")).unwrap() == b"new")
        },
        "done",
    ),
    (
        "open makes an empty file",
        |d| {
            File::create_new(d.join("f")).unwrap();
            yes(fs::metadata(d.join("f")).unwrap().len() == 0)
        },
        "done",
    ),
    (
        "open touches the parent when it makes",
        |d| touches(d, || drop(File::create(d.join("f")).unwrap())),
        "done",
    ),
    (
        "open of what is there does not touch the parent",
        |d| {
            write(&d.join("f"), "x");
            touches(d, || drop(File::create(d.join("f")).unwrap()))
        },
        "not so",
    ),
    (
        "open of what has to be new",
        |d| {
            write(&d.join("f"), "x");
            said(File::create_new(d.join("f")))
        },
        "EXIST",
    ),
    (
        "open cuts",
        |d| {
            write(&d.join("f"), "content");
            File::create(d.join("f")).unwrap();
            yes(fs::read(d.join("f")).unwrap().is_empty())
        },
        "done",
    ),
    (
        "open of nothing",
        |d| said(File::open(d.join("none"))),
        "NOENT",
    ),
    (
        "open below a file",
        |d| {
            write(&d.join("f"), "");
            said(File::open(d.join("f/x")))
        },
        "NOTDIR",
    ),
    (
        "open of a long name",
        |d| said(File::create(d.join(long()))),
        "NAMETOOLONG",
    ),
    (
        "open of a directory to write",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            said(OpenOptions::new().write(true).open(d.join("a")))
        },
        "ISDIR",
    ),
    (
        "open of a directory to make it",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            kernel(rustix::fs::open(
                d.join("a"),
                OFlags::RDONLY | OFlags::CREATE,
                Mode::RWXU,
            ))
        },
        "ISDIR",
    ),
    (
        "open of a file as a directory",
        |d| {
            write(&d.join("f"), "");
            kernel(rustix::fs::open(
                d.join("f"),
                OFlags::RDONLY | OFlags::DIRECTORY,
                Mode::empty(),
            ))
        },
        "NOTDIR",
    ),
    (
        "a descriptor to read cannot write",
        |d| {
            write(&d.join("f"), "x");
            said(File::open(d.join("f")).unwrap().write_all_at(b"y", 0))
        },
        "BADF",
    ),
    (
        "a descriptor to write cannot read",
        |d| {
            let file = File::create(d.join("f")).unwrap();
            said(file.read_at(&mut [0], 0))
        },
        "BADF",
    ),
    (
        "open of a program that runs, to write",
        |d| {
            fs::copy("/bin/sleep", d.join("sleep")).unwrap();
            let mut runs = std::process::Command::new(d.join("sleep"))
                .arg("5")
                .spawn()
                .unwrap();
            let done = said(File::options().write(true).open(d.join("sleep")));
            runs.kill().unwrap();
            runs.wait().unwrap();
            done
        },
        "TXTBSY",
    ),
];
