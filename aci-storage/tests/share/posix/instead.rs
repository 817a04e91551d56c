//! What the table of rules that are left out says happens instead.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode};

use super::{Rule, kernel, said, write, yes};

pub(super) const RULES: &[Rule] = &[
    (
        "hard links",
        |d| {
            write(&d.join("f"), "");
            said(fs::hard_link(d.join("f"), d.join("l")))
        },
        "OPNOTSUPP",
    ),
    (
        "symbolic links",
        |d| said(std::os::unix::fs::symlink("f", d.join("l"))),
        "OPNOTSUPP",
    ),
    (
        "pipes",
        |d| {
            kernel(rustix::fs::mknodat(
                CWD,
                d.join("p"),
                FileType::Fifo,
                Mode::RWXU,
                0,
            ))
        },
        "PERM",
    ),
    (
        "sockets",
        |d| said(std::os::unix::net::UnixListener::bind(d.join("s"))),
        "PERM",
    ),
    (
        "devices",
        |d| {
            kernel(rustix::fs::mknodat(
                CWD,
                d.join("n"),
                FileType::CharacterDevice,
                Mode::RWXU,
                0x103,
            ))
        },
        "PERM",
    ),
    (
        "chmod keeps whether a file can be written",
        |d| {
            write(&d.join("f"), "");
            let mode = |mode| {
                fs::set_permissions(d.join("f"), fs::Permissions::from_mode(mode)).unwrap();
                fs::metadata(d.join("f")).unwrap().mode() & 0o7777
            };
            yes(mode(0o400) == 0o555 && mode(0o600) == 0o777 && mode(0o4711) == 0o777)
        },
        "done",
    ),
    (
        "chown has no effect",
        |d| {
            write(&d.join("f"), "");
            std::os::unix::fs::chown(d.join("f"), Some(5), Some(6)).unwrap();
            let now = fs::metadata(d.join("f")).unwrap();
            yes((now.uid(), now.gid()) == (0, 0))
        },
        "done",
    ),
    (
        "links of a deleted file",
        |d| {
            let file = File::create(d.join("f")).unwrap();
            fs::remove_file(d.join("f")).unwrap();
            yes(file.metadata().unwrap().nlink() == 1)
        },
        "done",
    ),
    (
        "links of a directory",
        |d| {
            fs::create_dir_all(d.join("a/b")).unwrap();
            yes(fs::metadata(d.join("a")).unwrap().nlink() == 2)
        },
        "done",
    ),
    (
        "nanoseconds are cut",
        |d| {
            let file = File::create(d.join("f")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_899))
                .unwrap();
            yes(fs::metadata(d.join("f")).unwrap().mtime_nsec() == 234_567_800)
        },
        "done",
    ),
    (
        "holes",
        |d| {
            let file = File::create(d.join("f")).unwrap();
            file.set_len(100_000).unwrap();
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            kernel(rustix::fs::fallocate(&file, how, 0, 50_000))
        },
        "OPNOTSUPP",
    ),
];
