//! Writing, cutting, times and room.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{Rule, kernel, touches, write, yes};

pub(super) const RULES: &[Rule] = &[
    (
        "appending goes to the end, wherever one is",
        |d| {
            write(&d.join("f"), "0123");
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .open(d.join("f"))
                .unwrap();
            file.seek(SeekFrom::Start(1)).unwrap();
            file.write_all(b"45").unwrap();
            yes(fs::read(d.join("f")).unwrap() == b"012345")
        },
        "done",
    ),
    (
        "writing beyond the end leaves zeros",
        |d| {
            let file = File::create(d.join("f")).unwrap();
            file.write_all_at(b"x", 70_000).unwrap();
            let content = fs::read(d.join("f")).unwrap();
            yes(content.len() == 70_001 && content[..70_000].iter().all(|b| *b == 0))
        },
        "done",
    ),
    (
        "writing touches the file",
        |d| {
            write(&d.join("f"), "x");
            touches(&d.join("f"), || write(&d.join("f"), "y"))
        },
        "done",
    ),
    (
        "writing nothing changes nothing",
        |d| {
            write(&d.join("f"), "x");
            let file = File::options().write(true).open(d.join("f")).unwrap();
            yes(file.write_at(b"", 100).unwrap() == 0 && fs::read(d.join("f")).unwrap() == b"x")
        },
        "done",
    ),
    (
        "truncate cuts and lengthens with zeros",
        |d| {
            write(&d.join("f"), "0123456789");
            let file = File::options().write(true).open(d.join("f")).unwrap();
            file.set_len(3).unwrap();
            file.set_len(6).unwrap();
            yes(fs::read(d.join("f")).unwrap() == b"012\0\0\0")
        },
        "done",
    ),
    (
        "truncate touches the file",
        |d| {
            write(&d.join("f"), "x");
            let file = File::options().write(true).open(d.join("f")).unwrap();
            touches(&d.join("f"), || file.set_len(100).unwrap())
        },
        "done",
    ),
    (
        "truncate of what is open to read",
        |d| {
            write(&d.join("f"), "x");
            kernel(rustix::fs::ftruncate(File::open(d.join("f")).unwrap(), 0))
        },
        "INVAL",
    ),
    (
        "truncate beyond any file",
        |d| {
            let file = File::create(d.join("f")).unwrap();
            kernel(rustix::fs::ftruncate(file, u64::MAX))
        },
        "INVAL",
    ),
    (
        "times are set",
        |d| {
            write(&d.join("f"), "x");
            let times = Timestamps {
                last_access: Timespec {
                    tv_sec: 1_000_000,
                    tv_nsec: 100,
                },
                last_modification: Timespec {
                    tv_sec: 2_000_000,
                    tv_nsec: 200,
                },
            };
            rustix::fs::utimensat(CWD, d.join("f"), &times, AtFlags::empty()).unwrap();
            let now = fs::metadata(d.join("f")).unwrap();
            yes(
                (now.atime(), now.atime_nsec(), now.mtime(), now.mtime_nsec())
                    == (1_000_000, 100, 2_000_000, 200),
            )
        },
        "done",
    ),
    (
        "times are set to now and left alone",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            let some = |tv_nsec| Timespec {
                tv_sec: 3_000_000,
                tv_nsec,
            };
            let set = |last_access, last_modification| {
                let times = Timestamps {
                    last_access,
                    last_modification,
                };
                rustix::fs::utimensat(CWD, d.join("a"), &times, AtFlags::empty()).unwrap();
            };
            set(some(0), some(0));
            set(some(UTIME_NOW), some(UTIME_OMIT));
            let now = fs::metadata(d.join("a")).unwrap();
            let age = SystemTime::now().duration_since(now.accessed().unwrap());
            yes(now.mtime() == 3_000_000 && age.is_ok_and(|age| age < Duration::from_secs(60)))
        },
        "done",
    ),
    (
        "times of nothing",
        |d| {
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            };
            let times = Timestamps {
                last_access: now,
                last_modification: now,
            };
            kernel(rustix::fs::utimensat(
                CWD,
                d.join("none"),
                &times,
                AtFlags::empty(),
            ))
        },
        "NOENT",
    ),
    (
        "room is had without losing content",
        |d| {
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(d.join("f"))
                .unwrap();
            file.write_all_at(b"content", 0).unwrap();
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 3, 10_000).unwrap();
            let content = fs::read(d.join("f")).unwrap();
            yes(content.len() == 10_003 && &content[..7] == b"content")
        },
        "done",
    ),
    (
        "two descriptors see one another's writes",
        |d| {
            let one = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(d.join("f"))
                .unwrap();
            let two = File::options()
                .read(true)
                .write(true)
                .open(d.join("f"))
                .unwrap();
            let mut same = true;
            for round in 0..50_u8 {
                one.write_all_at(&[round; 3000], u64::from(round) * 1000)
                    .unwrap();
                let mut back = [0; 3000];
                two.read_exact_at(&mut back, u64::from(round) * 1000)
                    .unwrap();
                same &= back == [round; 3000]
                    && two.metadata().unwrap().len() == u64::from(round) * 1000 + 3000;
            }
            yes(same)
        },
        "done",
    ),
];
