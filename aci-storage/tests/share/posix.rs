//! The rules of POSIX for files, in the order of pjdfstest's groups, as far as SMB has them. Each is
//! tried on a local directory too, so that the rules themselves are known to be right.
//!
//! Left out, with what happens instead (which a test below holds):
//!
//! | group | what | why | instead |
//! |---|---|---|---|
//! | chmod | bits other than the one to write | a server keeps one attribute, "read-only" | accepted; modes are the mount's |
//! | chown | all | owners are the mount's, as in ACI | accepted, no effect |
//! | chmod, open, mkdir, ... | `EACCES`, `EPERM` by owner and mode | ACI shows 0777 to everybody; the account decides | the kernel holds programs to the modes of the options |
//! | umask, S_ISUID, S_ISGID, sticky | all | no modes on the server | the mount's modes; `nosuid` |
//! | link | all | ACI's mounts have none | `EOPNOTSUPP` |
//! | symlink, `ELOOP` | without `mfsymlinks` | ACI's mounts have none | `EOPNOTSUPP`; with `mfsymlinks` the rules hold |
//! | mkfifo, mknod | pipes, devices, sockets | a share keeps files and directories | `EPERM` |
//! | chflags, granular | all | FreeBSD's, and NFSv4's | not on Linux |
//! | unlink | a deleted open file has no links | it has a hidden name on the server until it is closed | `st_nlink` is 1 |
//! | link counts | of directories | a server does not tell them | always 2 |
//! | open | `ETXTBSY` for what another machine runs | a server does not know what runs | written to |
//! | utimensat | nanoseconds, times before 1601 | a server counts in 100 ns since 1601 | cut |
//! | rename | over an empty directory in one step | a server replaces no directory | it is removed first |
//! | names | that differ in case, or are not UTF-8 | one name to a server | found; `EILSEQ` |
//! | posix_fallocate | holes, collapsing | not asked of a server | `EOPNOTSUPP` |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT,
};

use crate::samba::{Mounted, Samba, can_mount, volume};

/// What came of something, so that two places can be compared.
fn said<T>(result: io::Result<T>) -> String {
    const NAMES: &[(i32, &str)] = &[
        (libc::EPERM, "PERM"),
        (libc::ENOENT, "NOENT"),
        (libc::EBADF, "BADF"),
        (libc::EACCES, "ACCESS"),
        (libc::EEXIST, "EXIST"),
        (libc::ENOTDIR, "NOTDIR"),
        (libc::EISDIR, "ISDIR"),
        (libc::EINVAL, "INVAL"),
        (libc::ENAMETOOLONG, "NAMETOOLONG"),
        (libc::ENOTEMPTY, "NOTEMPTY"),
        (libc::ELOOP, "LOOP"),
        (libc::EOPNOTSUPP, "OPNOTSUPP"),
        (libc::ETXTBSY, "TXTBSY"),
    ];
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => NAMES
            .iter()
            .find(|(code, _)| Some(*code) == error.raw_os_error())
            .map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned()),
    }
}

fn kernel<T>(result: rustix::io::Result<T>) -> String {
    said(result.map_err(io::Error::from))
}

fn yes(is: bool) -> String {
    if is { "done" } else { "not so" }.to_owned()
}

fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
}

fn long() -> String {
    "n".repeat(256)
}

/// Whether something changes the time of a directory.
fn touches(directory: &Path, act: impl FnOnce()) -> String {
    let before = fs::metadata(directory).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    act();
    let after = fs::metadata(directory).unwrap();
    yes(after.mtime_nsec() != before.mtime_nsec() || after.mtime() != before.mtime())
}

/// A name, what is done in an empty directory, and what has to come of it.
type Rule = (&'static str, fn(&Path) -> String, &'static str);

const RULES: &[Rule] = &[
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

fn hold(base: &Path, rules: &[Rule], place: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for (number, (name, rule, wanted)) in rules.iter().enumerate() {
        let directory = base.join(format!("rule-{number}"));
        fs::create_dir(&directory).unwrap();
        let came = rule(&directory);
        if came != *wanted {
            broken.push(format!("{place}: {name}: {came}, not {wanted}"));
        }
    }
    broken
}

#[test]
fn the_rules_of_posix_hold_as_far_as_smb_has_them() {
    let local = tempfile::tempdir().unwrap();
    let mut broken = hold(local.path(), RULES, "local");
    if can_mount() {
        let samba = Samba::start();
        let mounted = samba.mounted();
        broken.extend(hold(&mounted.path, RULES, "share"));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

const LINKS: &[Rule] = &[
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

#[test]
fn the_rules_for_symbolic_links_hold_where_they_are_asked_for() {
    let local = tempfile::tempdir().unwrap();
    let mut broken = hold(local.path(), LINKS, "local");
    if can_mount() {
        let samba = Samba::start();
        let mut options = samba.options();
        options.mfsymlinks = true;
        let mounted = Mounted::with(options, volume());
        broken.extend(hold(&mounted.path, LINKS, "share"));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What the table above says of the rules that are left out.
const INSTEAD: &[Rule] = &[
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

#[test]
fn what_is_left_out_of_posix_is_as_documented() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    let broken = hold(&mounted.path, INSTEAD, "share");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
