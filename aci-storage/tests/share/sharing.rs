//! What two who use a share see of one another, and of a link that fails.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aci_core::contract::VolumeDriver;
use aci_storage::{AzureFilesOptions, CachePolicy, FileServer};

use crate::link::Link;
use crate::samba::{ACCOUNT, Mounted, Samba, can_mount, volume};

fn through(samba: &Samba, link: &Link) -> AzureFilesOptions {
    let server = FileServer::new("127.0.0.1").port(link.port);
    AzureFilesOptions {
        servers: [(ACCOUNT.to_owned(), server)].into(),
        ..samba.options()
    }
}

fn both(path: &std::path::Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn what_was_written_and_not_closed_is_seen_by_whoever_opens_the_file_next() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let (one, two) = (samba.mounted(), samba.mounted());
    for round in 0..20_u8 {
        let name = format!("file-{round}");
        let mut file = File::create(one.at(&name)).unwrap();
        // Small ones that gather, and one that is on its way when the other opens.
        for _ in 0..50 {
            file.write_all(&[round; 1000]).unwrap();
        }
        file.write_all(&vec![round; 2 << 20]).unwrap();
        let seen = fs::read(two.at(&name)).unwrap();
        assert_eq!(seen.len(), 50_000 + (2 << 20), "round {round}");
        assert!(seen.iter().all(|byte| *byte == round), "round {round}");
        // Both have it open now: nothing is kept back any more.
        let other = File::open(two.at(&name)).unwrap();
        file.write_all_at(b"changed", 10).unwrap();
        let mut text = [0; 7];
        let again = File::open(two.at(&name)).unwrap();
        again.read_exact_at(&mut text, 10).unwrap();
        assert_eq!(&text, b"changed", "round {round}");
        drop(other);
    }
    // Servers tell of a lease that they take back in clear: that is no reason to hang up.
    for mounted in [&one, &two]
        .into_iter()
        .filter(|m| m.share_server().is_some())
    {
        let status = mounted.wait(mounted.driver.status(&mounted.sandbox, "share"));
        assert_eq!(status.unwrap().connections, 1);
    }
}

/// The answer to an open carries no length: whoever had looked at a file believed the one that it
/// had, and read no further, for as long as attributes are believed.
#[test]
fn who_looked_at_a_file_before_it_grew_reads_all_of_it_after_opening_it() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mut long = samba.options();
    long.actimeo = Duration::from_secs(60);
    let (one, two) = (samba.mounted(), Mounted::with(long, volume()));
    for round in 0..20_usize {
        let name = format!("file-{round}");
        fs::write(one.at(&name), "short").unwrap();
        assert_eq!(fs::metadata(two.at(&name)).unwrap().len(), 5);
        let mut file = both(&one.at(&name));
        let size = 100_000 * (round + 1);
        // Not closed, and not on the server when it is answered.
        file.write_all(&vec![7; size]).unwrap();
        let mut other = File::open(two.at(&name)).unwrap();
        assert_eq!(other.metadata().unwrap().len(), size as u64);
        let mut seen = Vec::new();
        other.read_to_end(&mut seen).unwrap();
        assert_eq!(seen.len(), size);
        assert!(seen.iter().all(|byte| *byte == 7));
    }
}

#[test]
fn a_counter_that_two_groups_raise_under_a_lock_misses_none() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let (one, two) = (samba.mounted(), samba.mounted());
    fs::write(one.at("lock"), "").unwrap();
    fs::write(one.at("count"), "0").unwrap();
    let script = r#"
import fcntl, sys
base = sys.argv[1]
lock = open(base + "/lock", "r+b")
for _ in range(60):
    fcntl.lockf(lock, fcntl.LOCK_EX)
    with open(base + "/count", "r+") as count:
        number = int(count.read())
        count.seek(0)
        count.write(str(number + 1))
    fcntl.lockf(lock, fcntl.LOCK_UN)
"#;
    std::thread::scope(|scope| {
        for mounted in [&one, &two] {
            scope.spawn(|| crate::samba::python(script, &[&mounted.path]));
        }
    });
    let count = fs::read_to_string(samba.files().join("count")).unwrap();
    assert_eq!(count, "120");
}

#[test]
fn without_a_cache_a_write_is_on_the_server_when_it_is_answered() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let options = AzureFilesOptions {
        cache: CachePolicy::None,
        ..samba.options()
    };
    let mounted = Mounted::with(options, volume());
    let mut file = File::create(mounted.at("file")).unwrap();
    for round in 1..50 {
        file.write_all(b"0123456789").unwrap();
        let there = fs::metadata(samba.files().join("file")).unwrap();
        assert_eq!(there.len(), round * 10);
    }
    // Changed behind its back: read anew each time, also through what is open.
    let open = File::open(mounted.at("file")).unwrap();
    let mut text = [0; 3];
    open.read_exact_at(&mut text, 0).unwrap();
    both(&samba.files().join("file"))
        .write_all_at(b"new", 0)
        .unwrap();
    open.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"new");
}

#[test]
fn a_link_that_falls_silent_or_is_cut_loses_neither_writes_nor_locks() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let link = Link::to(samba.port);
    let options = AzureFilesOptions {
        silence: Duration::from_secs(1),
        ..through(&samba, &link)
    };
    let one = Mounted::with(options, volume());
    let two = samba.mounted();
    fs::write(one.at("locked"), "x").unwrap();
    let locked = both(&one.at("locked"));
    let lock = |file: &File| {
        let claim = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::fcntl_lock(file, claim)
    };
    lock(&locked).unwrap();
    let path = one.at("stream");
    let writer = std::thread::spawn(move || {
        let mut file = File::create(path).unwrap();
        for count in 0..96_u8 {
            file.write_all(&vec![count; 256 << 10]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        file.sync_all().unwrap();
    });
    std::thread::sleep(Duration::from_millis(300));
    link.silent(true);
    std::thread::sleep(Duration::from_millis(2500));
    // The server does not know yet that the one who has the lock is away.
    assert_eq!(
        lock(&both(&two.at("locked"))),
        Err(rustix::io::Errno::AGAIN)
    );
    link.silent(false);
    std::thread::sleep(Duration::from_millis(500));
    link.cut();
    writer.join().unwrap();
    let content = fs::read(samba.files().join("stream")).unwrap();
    assert_eq!(content.len(), 96 * (256 << 10));
    for (count, piece) in content.chunks(256 << 10).enumerate() {
        assert!(
            piece.iter().all(|byte| usize::from(*byte) == count),
            "piece {count}"
        );
    }
    locked.write_all_at(b"y", 0).unwrap();
    assert_eq!(
        lock(&both(&two.at("locked"))),
        Err(rustix::io::Errno::AGAIN)
    );
    let status = one.wait(one.driver.status(&one.sandbox, "share")).unwrap();
    assert!(status.connections >= 2, "{status:?}");
}

#[test]
fn a_dead_server_blocks_neither_other_shares_nor_those_who_are_killed_nor_a_release() {
    if !can_mount() {
        return;
    }
    let (samba, other) = (Samba::start(), Samba::start());
    let link = Link::to(samba.port);
    let dead = Mounted::with(through(&samba, &link), volume());
    let alive = other.mounted();
    fs::write(dead.at("file"), "x").unwrap();
    link.silent(true);
    link.cut();
    let mut reader = Command::new("cat")
        .arg(dead.at("file"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    // It waits half a minute for the server by default; nobody else does.
    fs::write(alive.at("file"), "y").unwrap();
    assert_eq!(fs::read_to_string(alive.at("file")).unwrap(), "y");
    assert!(reader.try_wait().unwrap().is_none(), "it does not wait");
    reader.kill().unwrap();
    let begun = Instant::now();
    reader.wait().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "it cannot be killed"
    );
    let usage = dead.wait(dead.driver.usage(&dead.sandbox, "share"));
    let error = usage.unwrap_err();
    assert_eq!(
        error.kind(),
        aci_core::error::ErrorKind::Unavailable,
        "{error}"
    );
    let begun = Instant::now();
    dead.wait(dead.driver.release(&dead.sandbox, "share"))
        .unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "it cannot be released"
    );
}

#[test]
fn what_could_not_be_written_is_told_by_sync_and_close() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let link = Link::to(samba.port);
    let options = AzureFilesOptions {
        patience: Duration::from_secs(1),
        silence: Duration::from_secs(1),
        ..through(&samba, &link)
    };
    let mounted = Mounted::with(options, volume());
    // In Python, because std does not tell what a close answers.
    let script = r#"
import os, sys
def attempt(name, last):
    sys.stdin.readline()
    file = os.open(sys.argv[1] + name, os.O_CREAT | os.O_WRONLY)
    os.write(file, b"there")
    os.write(file, bytes(1 << 20))
    os.fsync(file)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        os.write(file, b"lost")
        last(file)
        print("nothing", flush=True)
    except OSError as e:
        print(e.errno, flush=True)
attempt("/synced", os.fsync)
attempt("/closed", os.close)
"#;
    let mut child = Command::new("python3")
        .args(["-c", script])
        .arg(&mounted.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut tell = child.stdin.take().unwrap();
    for _ in ["synced", "closed"] {
        writeln!(tell).unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        link.silent(true);
        writeln!(tell).unwrap();
        assert_eq!(said.next().unwrap().unwrap(), libc::EHOSTDOWN.to_string());
        link.silent(false);
        link.cut();
        let until = Instant::now() + Duration::from_secs(30);
        while fs::read(mounted.at("synced")).is_err() {
            assert!(Instant::now() < until, "it did not come back");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    child.wait().unwrap();
    assert_eq!(fs::read(mounted.at("synced")).unwrap()[..5], *b"there");
}

/// Tells 5 GiB, of which 3 are left, for a share of any size.
fn claims(dir: &std::path::Path) -> String {
    let script = dir.join("quota");
    fs::write(&script, "#!/bin/sh\necho 5242880 3145728\n").unwrap();
    for (path, mode) in [(dir, 0o755), (script.as_path(), 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    format!("dfree command = {}\n", script.display())
}

#[test]
fn a_share_that_is_full_though_it_claims_room_is_told_by_write_sync_or_close() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let samba = Samba::with("server smb encrypt = required\n", &claims(dir.path()));
    let options = c"size=8m,mode=777";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", samba.files(), "tmpfs", flags, options).unwrap();
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let _unmount = Unmount(samba.files());
    let mounted = samba.mounted();
    let script = r#"
import errno, os, sys
name = sys.argv[1] + "/big"
def fill(pieces, last):
    file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    open_still = True
    try:
        for _ in range(pieces):
            os.write(file, bytes(1 << 20))
        if last == "fsync":
            os.fsync(file)
        open_still = False
        os.close(file)
    except OSError as e:
        assert e.errno == errno.ENOSPC, e
        if open_still:
            try:
                os.close(file)
            except OSError:
                pass
    else:
        raise SystemExit(f"nobody was told: {pieces} {last}")
    os.unlink(name)
for pieces, last in [(64, "write"), (12, "fsync"), (12, "close")]:
    fill(pieces, last)
with open(name, "wb") as file:
    file.write(bytes(1 << 20))
    os.fsync(file.fileno())
"#;
    crate::samba::python(script, &[&mounted.path]);
}

#[test]
fn names_differ_by_more_than_case() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    fs::write(mounted.at("Mixed"), "first").unwrap();
    // Kept as it was given, found by any case, and not to be had twice.
    let shown = fs::read_dir(&mounted.path)
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    assert_eq!(shown.file_name(), "Mixed");
    assert_eq!(fs::read_to_string(mounted.at("mIXED")).unwrap(), "first");
    let twice = File::create_new(mounted.at("mixed")).unwrap_err();
    assert_eq!(twice.raw_os_error(), Some(libc::EEXIST));
    // A rename may change nothing but the case.
    fs::rename(mounted.at("Mixed"), mounted.at("mixed")).unwrap();
    let shown = fs::read_dir(&mounted.path)
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    assert_eq!(shown.file_name(), "mixed");
    // One file by any case; the kernel believes for actimeo what it knew by another.
    fs::remove_file(mounted.at("MIXED")).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert!(!mounted.at("mixed").exists());
    assert!(File::create_new(mounted.at("MiXeD")).is_ok());
}

#[test]
fn names_that_are_not_there_are_believed_for_actimeo_only() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let (one, two) = (samba.mounted(), samba.mounted());
    // So many misses that the directory is listed instead of asked.
    for name in 0..20 {
        assert!(!one.at(&format!("none-{name}")).exists());
    }
    fs::write(two.at("none-3"), "by another").unwrap();
    // Made by another meanwhile: not made again, whatever is believed.
    let taken = File::create_new(one.at("none-3")).unwrap_err();
    assert_eq!(taken.raw_os_error(), Some(libc::EEXIST));
    fs::write(two.at("none-4"), "by another").unwrap();
    let mut text = String::new();
    let mut opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(one.at("none-4"))
        .unwrap();
    opened.read_to_string(&mut text).unwrap();
    assert_eq!(text, "by another");
    fs::write(two.at("none-5"), "by another").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(fs::read_to_string(one.at("none-5")).unwrap(), "by another");
    // And what it makes itself is there at once.
    for name in 0..20 {
        let name = format!("own-{name}");
        assert!(!one.at(&name).exists());
        fs::create_dir(one.at(&name)).unwrap();
        assert!(one.at(&name).is_dir());
        fs::rename(one.at(&name), one.at(&format!("{name}-moved"))).unwrap();
        assert!(one.at(&format!("{name}-moved")).is_dir() && !one.at(&name).exists());
    }
}

#[test]
fn room_and_quota_are_the_server_s() {
    if !can_mount() {
        return;
    }
    // What a server with a quota for each share answers.
    let dir = tempfile::tempdir().unwrap();
    let global = "server smb encrypt = required\n";
    let quota = claims(dir.path());
    let samba = Samba::with(global, &quota);
    let mounted = samba.mounted();
    let usage = mounted
        .wait(mounted.driver.usage(&mounted.sandbox, "share"))
        .unwrap();
    assert_eq!((usage.total, usage.free), (5 << 30, 3 << 30));
    assert_eq!(usage.used(), 2 << 30);
    let room = rustix::fs::statvfs(&mounted.path).unwrap();
    assert_eq!(room.f_blocks * room.f_frsize, 5 << 30);
    assert_eq!(room.f_bavail * room.f_frsize, 3 << 30);
}
