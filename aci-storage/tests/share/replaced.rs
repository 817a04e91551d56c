//! Share servers that are killed, and replaced under those who use the mount.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aci_core::contract::{VolumeDriver, VolumeRequest, VolumeSource};
use aci_core::model::Secret;
use aci_storage::{AzureFilesOptions, FileServer};
use rustix::process::{Pid, Signal};

use crate::link::Link;
use crate::samba::{ACCOUNT, Mounted, Samba, can_mount, volume};

fn process(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Kills the share server as the kernel does when memory is short; its number.
fn kill(mounted: &Mounted) -> Pid {
    let pid = process(mounted.share_server().unwrap());
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    pid
}

/// The same, and waits until it has ended: what it was answering has failed then.
fn end(mounted: &Mounted) -> Pid {
    let pid = kill(mounted);
    await_that("the share server does not end", || {
        rustix::process::test_kill_process(pid).is_err()
    });
    pid
}

fn await_that(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn both(path: &std::path::Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

fn lock(file: &File) -> rustix::io::Result<()> {
    let claim = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::fcntl_lock(file, claim)
}

#[test]
fn open_files_locks_and_directories_outlive_a_share_server_that_is_killed() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let (one, two) = (samba.mounted(), samba.mounted());
    fs::create_dir_all(one.at("d/e")).unwrap();
    fs::write(one.at("d/e/file"), "0123456789").unwrap();
    // Closing any descriptor of a locked file would give the locks back.
    fs::write(one.at("d/e/other"), "from below").unwrap();
    let file = both(&one.at("d/e/file"));
    lock(&file).unwrap();
    let mut gone = both(&one.at("gone"));
    gone.write_all(b"still here").unwrap();
    gone.sync_all().unwrap();
    fs::remove_file(one.at("gone")).unwrap();
    let directory = File::open(one.at("d")).unwrap();
    for round in 0..3_u8 {
        let killed = end(&one);
        // Nobody waits for the next server but by asking.
        let mut text = [0; 4];
        file.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text[1..], b"123", "round {round}");
        file.write_all_at(&[b'a' + round], 9).unwrap();
        file.sync_all().unwrap();
        let other = both(&two.at("d/e/file"));
        assert_eq!(lock(&other), Err(rustix::io::Errno::AGAIN), "round {round}");
        drop(other);
        let flags = rustix::fs::OFlags::RDONLY;
        let below = rustix::fs::openat(&directory, "e/other", flags, rustix::fs::Mode::empty());
        let mut text = String::new();
        File::from(below.unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "from below");
        let there = fs::read(samba.files().join("d/e/file")).unwrap();
        assert_eq!(there[9], b'a' + round);
        let mut text = [0; 10];
        gone.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"still here");
        let name = format!("new-{round}");
        fs::write(one.at(&name), &name).unwrap();
        assert_eq!(fs::read_to_string(two.at(&name)).unwrap(), name);
        assert_eq!(
            fs::read_dir(&one.path).unwrap().count(),
            2 + usize::from(round)
        );
        let next = one.share_server().unwrap();
        assert_ne!(process(next), killed);
    }
    fs::rename(one.at("d"), one.at("moved")).unwrap();
    end(&one);
    fs::write(one.at("moved/e/file"), "another, longer").unwrap();
    let mut text = [0; 7];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"another");
    // What is deleted goes when it is closed, and locks go with their descriptor.
    drop((gone, file));
    await_that("the deleted file is still on the server", || {
        let names = fs::read_dir(samba.files()).unwrap().flatten();
        !names
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .any(|name| name.starts_with(".aci-deleted"))
    });
    await_that("the lock was not given back", || {
        lock(&both(&two.at("moved/e/file"))).is_ok()
    });
}

#[test]
fn what_fsync_has_answered_is_there_however_often_the_share_server_is_killed() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    let path = mounted.at("stream");
    let stop = AtomicBool::new(false);
    const BLOCK: u32 = 64 << 10;
    let (written, told) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let file = both(&path);
            let (mut synced, mut told) = (0_u32, 0);
            let mut next = 0_u32;
            while !stop.load(Ordering::Relaxed) || !next.is_multiple_of(16) {
                let block = vec![next; BLOCK as usize / 4];
                let block: Vec<u8> = block.into_iter().flat_map(u32::to_le_bytes).collect();
                let done = file.write_all_at(&block, u64::from(next) * u64::from(BLOCK));
                next += 1;
                let done = done.and_then(|()| {
                    if next.is_multiple_of(16) {
                        file.sync_all()?;
                        synced = next;
                    }
                    Ok(())
                });
                if let Err(error) = done {
                    let known = [Some(libc::ECONNABORTED), Some(libc::EIO)];
                    assert!(known.contains(&error.raw_os_error()), "{error}");
                    // Told once; what came before the last fsync is to be there all the same.
                    told += 1;
                    next = synced;
                }
            }
            (synced, told)
        });
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(250));
            await_that("no server", || mounted.share_server().is_some());
            kill(&mounted);
        }
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    println!("{written} blocks, {told} failures told");
    let content = fs::read(samba.files().join("stream")).unwrap();
    for (count, block) in (0_u32..)
        .zip(content.chunks(BLOCK as usize))
        .take(written as usize)
    {
        assert!(
            block.chunks(4).all(|word| word == count.to_le_bytes()),
            "block {count} of {written}"
        );
    }
    assert!(written > 0 && content.len() >= (written * BLOCK) as usize);
}

fn through(samba: &Samba, link: &Link) -> AzureFilesOptions {
    let server = FileServer::new("127.0.0.1").port(link.port);
    AzureFilesOptions {
        servers: [(ACCOUNT.to_owned(), server)].into(),
        ..samba.options()
    }
}

#[test]
fn a_write_that_was_answered_and_lost_with_the_share_server_is_told() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let link = Link::to(samba.port);
    let mounted = Mounted::with(through(&samba, &link), volume());
    let script = r#"
import os, sys
for last in (os.fsync, os.close, lambda file: os.write(file, b"more")):
    sys.stdin.readline()
    file = os.open(sys.argv[1] + "/file", os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    # So much that the server grants it alone.
    os.write(file, bytes(1 << 20))
    os.fsync(file)
    print("ready", flush=True)
    sys.stdin.readline()
    os.write(file, b"lost")
    print("answered", flush=True)
    sys.stdin.readline()
    try:
        last(file)
        print("nothing", flush=True)
    except OSError as e:
        print(e.errno, flush=True)
    if last is not os.close:
        # Told once; then it goes on.
        os.pwrite(file, b"again", 0)
        os.close(file)
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
    for last in ["fsync", "close", "write"] {
        writeln!(tell).unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "ready", "{last}");
        link.silent(true);
        writeln!(tell).unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "answered", "{last}");
        end(&mounted);
        link.cut();
        link.silent(false);
        writeln!(tell).unwrap();
        let number = said.next().unwrap().unwrap();
        assert_eq!(number, libc::EIO.to_string(), "{last}");
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_share_server_is_replaced_while_the_file_server_is_away_and_has_the_new_key() {
    if !can_mount() {
        return;
    }
    let mut samba = Samba::start();
    let mut options = samba.options();
    options.patience = Duration::from_secs(1);
    let mounted = Mounted::with(options, volume());
    fs::write(mounted.at("file"), "x").unwrap();
    let open = both(&mounted.at("file"));
    samba.set_key("An0ther+Key==");
    let key = Secret::new("An0ther+Key==");
    let rotating = mounted
        .driver
        .rotate_secret(&mounted.sandbox, "share", &key);
    mounted.wait(rotating).unwrap();
    samba.down();
    end(&mounted);
    let error = fs::read(mounted.at("file")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EHOSTDOWN));
    samba.up();
    await_that("it did not come back", || {
        let mut text = [0];
        open.read_exact_at(&mut text, 0).is_ok() && text == *b"x"
    });
    fs::write(mounted.at("file"), "y").unwrap();
}

#[test]
fn a_release_ends_a_mount_whose_share_server_is_just_being_replaced() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    for round in 0..5 {
        let mounted = samba.mounted();
        fs::write(mounted.at("file"), "x").unwrap();
        let server = process(mounted.share_server().unwrap());
        let keeper = rustix::process::getsid(Some(server)).unwrap();
        assert_ne!(keeper, server);
        kill(&mounted);
        std::thread::sleep(Duration::from_millis(round * 40));
        // Its directories are gone then.
        drop(mounted);
        await_that("the keeper still runs", || {
            rustix::process::test_kill_process(keeper).is_err()
        });
    }
}

#[test]
fn a_volume_is_provided_again_by_the_server_that_replaces_another_or_anew_without_a_keeper() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    fs::write(mounted.at("file"), "x").unwrap();
    let mut open = File::open(mounted.at("file")).unwrap();
    let again = || {
        let request = VolumeRequest::new(mounted.sandbox.clone(), volume());
        match mounted.wait(mounted.driver.provide(request)).unwrap() {
            VolumeSource::Directory(path) => path,
            other => panic!("{other:?}"),
        }
    };
    end(&mounted);
    assert_eq!(again(), mounted.path);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "x", "the mount is not the same");

    let server = process(mounted.share_server().unwrap());
    let keeper = rustix::process::getsid(Some(server)).unwrap();
    rustix::process::kill_process(keeper, Signal::KILL).unwrap();
    // The server goes on without it.
    assert_eq!(fs::read_to_string(mounted.at("file")).unwrap(), "x");
    kill(&mounted);
    std::thread::sleep(Duration::from_millis(200));
    let gone = fs::read(mounted.at("file")).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ENOTCONN));
    assert_eq!(again(), mounted.path);
    assert_eq!(fs::read_to_string(mounted.at("file")).unwrap(), "x");
}
