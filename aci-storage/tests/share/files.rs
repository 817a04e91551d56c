//! Files on a mounted share, as programs use them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use crate::samba::{Mounted, Samba, can_mount, python, volume};

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

#[test]
fn the_same_files_show_in_the_mount_and_to_samba_s_own_client() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    fs::write(mounted.at("from-the-group"), "written by FUSE").unwrap();
    let shown = samba.client("get from-the-group -");
    assert!(shown.contains("written by FUSE"), "{shown}");
    let source = mounted.dir.path().join("source");
    fs::write(&source, "written by smbclient").unwrap();
    samba.client(&format!("put {} from-outside", source.display()));
    assert_eq!(
        fs::read_to_string(mounted.at("from-outside")).unwrap(),
        "written by smbclient"
    );
}

#[test]
fn files_and_directories_do_what_posix_asks_of_them() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    let at = |name: &str| mounted.at(name);

    // As in ACI: root's, and everybody's.
    let root = fs::metadata(&mounted.path).unwrap();
    assert_eq!(
        (root.uid(), root.gid(), root.mode() & 0o7777),
        (0, 0, 0o777)
    );
    fs::create_dir_all(at("a/b/c")).unwrap();
    assert_eq!(errno(fs::create_dir(at("a"))), Some(libc::EEXIST));
    assert_eq!(errno(fs::remove_dir(at("a"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(File::open(at("none"))), Some(libc::ENOENT));
    assert_eq!(errno(File::open(at("none/deeper"))), Some(libc::ENOENT));

    fs::write(at("a/file"), "0123456789").unwrap();
    assert_eq!(errno(fs::read_dir(at("a/file"))), Some(libc::ENOTDIR));
    assert_eq!(errno(fs::remove_file(at("a/b"))), Some(libc::EISDIR));
    let exclusive = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(at("a/file"));
    assert_eq!(errno(exclusive), Some(libc::EEXIST));

    // Cut, lengthened with zeros, appended to.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(at("a/file"))
        .unwrap();
    file.set_len(4).unwrap();
    file.set_len(8).unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"0123\0\0\0\0");
    let mut log = OpenOptions::new().append(true).open(at("a/file")).unwrap();
    let mut other = OpenOptions::new().append(true).open(at("a/file")).unwrap();
    log.write_all(b"one ").unwrap();
    other.write_all(b"two ").unwrap();
    log.write_all(b"three").unwrap();
    assert_eq!(
        fs::read(at("a/file")).unwrap(),
        b"0123\0\0\0\0one two three"
    );

    // Renamed over another, also while both are open; a directory with what is in it.
    fs::write(at("new"), "new").unwrap();
    fs::write(at("old"), "old").unwrap();
    let mut open_old = File::open(at("old")).unwrap();
    let open_new = File::open(at("new")).unwrap();
    fs::rename(at("new"), at("old")).unwrap();
    assert_eq!(fs::read_to_string(at("old")).unwrap(), "new");
    let mut text = String::new();
    open_old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    drop((open_old, open_new));
    fs::rename(at("a"), at("moved")).unwrap();
    assert!(at("moved/b/c").is_dir());
    assert_eq!(errno(fs::metadata(at("a"))), Some(libc::ENOENT));
    file.write_all_at(b"Z", 0).unwrap();
    assert_eq!(fs::read(at("moved/file")).unwrap()[0], b'Z');

    // Deleted while open: readable until closed, then gone from the server.
    let mut gone = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(at("gone"))
        .unwrap();
    gone.write_all(b"still here").unwrap();
    fs::remove_file(at("gone")).unwrap();
    assert!(!at("gone").exists());
    gone.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    gone.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    let shown: Vec<_> = fs::read_dir(&mounted.path)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(
        !shown.iter().any(|n| n.to_string_lossy().starts_with('.')),
        "{shown:?}"
    );
    drop(gone);
    let until = SystemTime::now() + Duration::from_secs(5);
    while fs::read_dir(samba.files())
        .unwrap()
        .flatten()
        .any(|e| e.file_name().to_string_lossy().starts_with(".aci-deleted"))
    {
        assert!(
            SystemTime::now() < until,
            "the deleted file is still on the server"
        );
        std::thread::sleep(Duration::from_millis(20));
    }

    // No links of either kind, no devices; modes keep whether a file can be written.
    assert_eq!(
        errno(std::os::unix::fs::symlink("x", at("link"))),
        Some(libc::EOPNOTSUPP)
    );
    assert_eq!(
        errno(fs::hard_link(at("old"), at("link"))),
        Some(libc::EOPNOTSUPP)
    );
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(fs::metadata(at("old")).unwrap().mode() & 0o777, 0o555);
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(fs::metadata(at("old")).unwrap().mode() & 0o777, 0o777);
    std::os::unix::fs::chown(at("old"), Some(1000), Some(1000)).unwrap();
    assert_eq!(fs::metadata(at("old")).unwrap().uid(), 0);

    // Times.
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options()
        .write(true)
        .open(at("old"))
        .unwrap()
        .set_modified(then)
        .unwrap();
    assert_eq!(fs::metadata(at("old")).unwrap().modified().unwrap(), then);

    // Synchronous writes and room.
    let mut sync = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_SYNC)
        .open(at("sync"))
        .unwrap();
    sync.write_all(&[7; 100_000]).unwrap();
    sync.sync_all().unwrap();
    assert_eq!(
        fs::metadata(samba.files().join("sync")).unwrap().len(),
        100_000
    );
    let room = rustix::fs::statvfs(&mounted.path).unwrap();
    assert!(room.f_blocks > 0 && room.f_bfree <= room.f_blocks);
}

#[test]
fn names_with_every_character_come_back_as_they_were() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    let mut names: Vec<String> = (1..128_u8)
        .map(char::from)
        // Upper and lower case are one name to a server.
        .filter(|c| *c != '/' && !c.is_ascii_uppercase())
        .map(|c| format!("x{c}y"))
        .collect();
    names.extend(
        [
            "trailing.",
            "trailing ",
            "ünï",
            "日本語",
            "🦀",
            ".hidden",
            "-dash",
        ]
        .map(str::to_owned),
    );
    names.push("n".repeat(255));
    for name in &names {
        fs::write(mounted.at(name), name).unwrap();
    }
    for name in &names {
        assert_eq!(&fs::read_to_string(mounted.at(name)).unwrap(), name);
    }
    let mut shown: Vec<String> = fs::read_dir(&mounted.path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    shown.sort();
    names.sort();
    assert_eq!(shown, names);
    let long = fs::write(mounted.at(&"n".repeat(256)), "");
    assert_eq!(errno(long), Some(libc::ENAMETOOLONG));
    use std::os::unix::ffi::OsStrExt;
    let bytes = mounted.path.join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    assert_eq!(errno(fs::write(bytes, "")), Some(libc::EILSEQ));
}

#[test]
fn many_small_files_and_a_large_one_keep_their_content() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    fs::create_dir(mounted.at("many")).unwrap();
    for i in 0..1000 {
        fs::write(mounted.at(&format!("many/{i}")), format!("{i}").repeat(100)).unwrap();
    }
    let mut names: Vec<u32> = fs::read_dir(mounted.at("many"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, (0..1000).collect::<Vec<_>>());
    fs::remove_dir_all(mounted.at("many")).unwrap();

    // 1 GiB, of which no two pages are the same and none is empty.
    use ring::digest::{Context, SHA256};
    let mut file = File::create(mounted.at("large")).unwrap();
    let mut written = Context::new(&SHA256);
    let mut block = vec![0xA5_u8; 1 << 20];
    for i in 0..1024_u64 {
        for (page, bytes) in (0_u64..).zip(block.chunks_mut(4096)) {
            bytes[..8].copy_from_slice(&((i << 32) | page).to_le_bytes());
        }
        written.update(&block);
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let mut read = Context::new(&SHA256);
    let mut file = File::open(mounted.at("large")).unwrap();
    while let got @ 1.. = file.read(&mut block).unwrap() {
        read.update(&block[..got]);
    }
    assert_eq!(written.finish().as_ref(), read.finish().as_ref());
    let there = fs::metadata(samba.files().join("large")).unwrap();
    assert_eq!(there.len(), 1 << 30);
    assert!(there.blocks() * 512 >= 1 << 30, "it has holes");
}

#[test]
fn two_groups_on_one_share_see_one_another_s_files_and_locks() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let (one, two) = (samba.mounted(), samba.mounted());
    fs::write(one.at("shared"), "from one").unwrap();
    assert_eq!(fs::read_to_string(two.at("shared")).unwrap(), "from one");
    fs::write(two.at("shared"), "from two, longer").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(
        fs::read_to_string(one.at("shared")).unwrap(),
        "from two, longer"
    );
    // Bytes 10 to 19 are the first's, 20 to 29 both have for reading; then the first gives half of
    // its own back.
    let script = r#"
import fcntl, sys
one, two = (open(p + "/shared", "r+b") for p in sys.argv[1:])
def free(f, kind, length, start):
    try:
        fcntl.lockf(f, kind | fcntl.LOCK_NB, length, start)
        return True
    except BlockingIOError:
        return False
EX, SH, UN = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN
assert free(one, EX, 10, 10)
assert not free(two, EX, 10, 15)
assert not free(two, SH, 1, 19)
assert free(one, SH, 10, 20) and free(two, SH, 10, 20)
assert not free(two, EX, 1, 25)
fcntl.lockf(one, UN, 5, 15)
assert free(two, EX, 5, 15)
assert not free(two, EX, 1, 14)
one.close()
assert free(two, EX, 5, 10)
"#;
    python(script, &[&one.path, &two.path]);
}

#[test]
fn a_waiting_lock_comes_when_the_other_group_lets_go() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let (one, two) = (samba.mounted(), samba.mounted());
    fs::write(one.at("shared"), "x").unwrap();
    let script = r#"
import fcntl, sys, threading, time
one, two = (open(p + "/shared", "r+b") for p in sys.argv[1:])
fcntl.flock(one, fcntl.LOCK_EX)
order = []
def wait():
    fcntl.flock(two, fcntl.LOCK_EX)
    order.append("two")
waiter = threading.Thread(target=wait)
waiter.start()
time.sleep(0.3)
order.append("one")
fcntl.flock(one, fcntl.LOCK_UN)
waiter.join(20)
assert order == ["one", "two"], order
"#;
    python(script, &[&one.path, &two.path]);
}

#[test]
fn sqlite_and_memory_maps_work_with_the_server_s_locks_and_without() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mut local = samba.options();
    local.nobrl = true;
    for mounted in [samba.mounted(), Mounted::with(local, volume())] {
        let script = r#"
import mmap, os, sqlite3, sys
base = sys.argv[1]
name = base + "/data.sqlite"
if os.path.exists(name):
    os.unlink(name)
first = sqlite3.connect(name)
first.execute("create table t(a integer primary key, b)")
first.executemany("insert into t(b) values (?)", [(str(i),) for i in range(2000)])
first.commit()
second = sqlite3.connect(name, timeout=0.2)
assert second.execute("select count(*) from t").fetchone() == (2000,)
first.execute("begin exclusive")
try:
    second.execute("insert into t(b) values ('x')")
    raise SystemExit("two writers at once")
except sqlite3.OperationalError as e:
    assert "locked" in str(e), e
first.rollback()
second.execute("insert into t(b) values ('x')")
second.commit()
assert first.execute("pragma integrity_check").fetchone() == ("ok",)
with open(base + "/mapped", "w+b") as f:
    f.truncate(10000)
    with mmap.mmap(f.fileno(), 10000) as m:
        m[5000:5005] = b"hello"
        m.flush()
with open(base + "/mapped", "rb") as f:
    assert f.read()[5000:5005] == b"hello"
"#;
        python(script, &[&mounted.path]);
    }
}

#[test]
fn a_read_only_volume_and_a_read_only_share_refuse_writes() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    fs::write(samba.files().join("file"), "x").unwrap();
    let mut asked = volume();
    if let Some(share) = &mut asked.azure_file {
        share.read_only = Some(true);
    }
    let mounted = Mounted::with(samba.options(), asked);
    assert_eq!(errno(fs::write(mounted.at("file"), "y")), Some(libc::EROFS));
    assert_eq!(fs::read_to_string(mounted.at("file")).unwrap(), "x");
    drop(mounted);

    let global = "server smb encrypt = required\n";
    let samba = Samba::with(global, "read only = yes\n");
    fs::write(samba.files().join("file"), "x").unwrap();
    let mounted = samba.mounted();
    assert_eq!(
        errno(fs::write(mounted.at("file"), "y")),
        Some(libc::EACCES)
    );
    assert_eq!(errno(fs::write(mounted.at("new"), "y")), Some(libc::EACCES));
    assert_eq!(fs::read_to_string(mounted.at("file")).unwrap(), "x");
}

#[test]
fn a_full_share_says_so_and_takes_writes_again() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let small = samba.files();
    // The whole share on a file system of 4 MiB.
    let mounted_small = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs"])
        .arg(&small)
        .status()
        .unwrap();
    assert!(mounted_small.success());
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount")
                .arg("-l")
                .arg(&self.0)
                .status();
        }
    }
    let _unmount = Unmount(small);
    let mounted = samba.mounted();
    let full = fs::write(mounted.at("big"), vec![1_u8; 8 << 20]);
    assert_eq!(errno(full), Some(libc::ENOSPC));
    fs::remove_file(mounted.at("big")).unwrap();
    fs::write(mounted.at("small"), vec![1_u8; 1 << 20]).unwrap();
}
