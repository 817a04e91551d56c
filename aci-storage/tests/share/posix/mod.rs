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

mod directories;
mod instead;
mod links;
mod opening;
mod renaming;
mod writing;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

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
    let groups = [
        directories::RULES,
        opening::RULES,
        writing::RULES,
        renaming::RULES,
    ];
    let rules = groups.concat();
    let local = tempfile::tempdir().unwrap();
    let mut broken = hold(local.path(), &rules, "local");
    if can_mount() {
        let samba = Samba::start();
        let mounted = samba.mounted();
        broken.extend(hold(&mounted.path, &rules, "share"));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_rules_for_symbolic_links_hold_where_they_are_asked_for() {
    let local = tempfile::tempdir().unwrap();
    let mut broken = hold(local.path(), links::RULES, "local");
    if can_mount() {
        let samba = Samba::start();
        let mut options = samba.options();
        options.mfsymlinks = true;
        let mounted = Mounted::with(options, volume());
        broken.extend(hold(&mounted.path, links::RULES, "share"));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn what_is_left_out_of_posix_is_as_documented() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    let broken = hold(&mounted.path, instead::RULES, "share");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
