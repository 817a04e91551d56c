//! Servers that go and come, keys that change, share servers and programs that are killed.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aci_core::contract::{ProvidedVolume, VolumeDriver, VolumeRequest, VolumeSource};
use aci_core::error::ErrorKind;
use aci_core::model::Secret;
use aci_storage::AzureFiles;

use crate::samba::{Mounted, Samba, can_mount, volume};

#[test]
fn a_server_that_is_killed_in_the_middle_of_a_write_loses_nothing() {
    if !can_mount() {
        return;
    }
    let mut samba = Samba::start();
    let mounted = samba.mounted();
    // Another process: what this one starts closes what this one has open, and a close waits until
    // the server has what was written.
    let script = r#"
import os, select, sys, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
count = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    block = count.to_bytes(4, "little") * (16 << 10)
    assert os.write(file, block) == len(block)
    count += 1
    if count % 32 == 0:
        # Or the server's disk has more to do than it can before it is up again.
        time.sleep(0.05)
os.fsync(file)
os.close(file)
print(count)
"#;
    let mut writer = Command::new("python3")
        .args(["-c", script])
        .arg(mounted.at("stream"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        samba.down();
        std::thread::sleep(Duration::from_millis(200));
        samba.up();
    }
    std::thread::sleep(Duration::from_millis(500));
    drop(writer.stdin.take());
    let output = writer.wait_with_output().unwrap();
    assert!(output.status.success(), "a write was refused");
    let written: u32 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap();
    let content = fs::read(samba.files().join("stream")).unwrap();
    assert_eq!(content.len(), written as usize * (64 << 10));
    for (count, piece) in (0_u32..).zip(content.chunks(64 << 10)) {
        assert!(
            piece.chunks(4).all(|word| word == count.to_le_bytes()),
            "piece {count}"
        );
    }
    let status = mounted
        .wait(mounted.driver.status(&mounted.sandbox, "share"))
        .unwrap();
    assert!(status.connected && status.connections >= 2, "{status:?}");
}

#[test]
fn open_files_and_their_locks_outlive_a_restart_of_the_server() {
    if !can_mount() {
        return;
    }
    let mut samba = Samba::start();
    let (one, two) = (samba.mounted(), samba.mounted());
    fs::write(one.at("file"), "0123456789").unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(one.at("file"))
        .unwrap();
    let lock = |file: &File| {
        let claim = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::fcntl_lock(file, claim)
    };
    lock(&file).unwrap();
    samba.down();
    samba.up();
    let mut first = [0; 4];
    file.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(&first, b"0123");
    let other = File::options()
        .read(true)
        .write(true)
        .open(two.at("file"))
        .unwrap();
    assert_eq!(
        lock(&other),
        Err(rustix::io::Errno::AGAIN),
        "the lock was lost"
    );

    // Meanwhile replaced by another file of the same name: what was open is not that one.
    samba.down();
    fs::write(samba.files().join("new"), "another").unwrap();
    fs::rename(samba.files().join("new"), samba.files().join("file")).unwrap();
    samba.up();
    let stale = file.write_all_at(b"x", 0).unwrap_err();
    assert_eq!(stale.raw_os_error(), Some(libc::ESTALE));
    assert_eq!(fs::read_to_string(one.at("file")).unwrap(), "another");
}

#[test]
fn a_server_that_stays_away_blocks_for_a_bounded_time_and_comes_back_by_itself() {
    if !can_mount() {
        return;
    }
    let mut samba = Samba::start();
    let mut options = samba.options();
    options.patience = Duration::from_secs(2);
    let mounted = Mounted::with(options, volume());
    fs::write(mounted.at("file"), "x").unwrap();
    samba.down();
    let away = |what: &str| {
        let error = fs::read(mounted.at("file")).expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTDOWN), "{what}");
    };
    away("the first waits");
    let begun = Instant::now();
    away("the next does not");
    assert!(begun.elapsed() < Duration::from_secs(2));
    let status = mounted
        .wait(mounted.driver.status(&mounted.sandbox, "share"))
        .unwrap();
    assert!(!status.connected && status.problem.is_some(), "{status:?}");
    samba.up();
    let until = Instant::now() + Duration::from_secs(30);
    while fs::read(mounted.at("file")).is_err() {
        assert!(Instant::now() < until, "it did not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_server_that_never_answers_again_does_not_stop_a_release() {
    if !can_mount() {
        return;
    }
    let mut samba = Samba::start();
    let mounted = samba.mounted();
    fs::write(mounted.at("file"), "x").unwrap();
    samba.down();
    let path = mounted.at("file");
    // Waits in the kernel for an answer.
    let reader = std::thread::spawn(move || fs::read(path));
    std::thread::sleep(Duration::from_millis(300));
    drop(mounted);
    assert!(reader.join().unwrap().is_err());
}

#[test]
fn a_changed_key_is_taken_without_a_new_mount() {
    if !can_mount() {
        return;
    }
    let mut samba = Samba::start();
    let mut options = samba.options();
    options.patience = Duration::from_secs(1);
    let mounted = Mounted::with(options, volume());
    fs::write(mounted.at("file"), "x").unwrap();
    let mut open = File::open(mounted.at("file")).unwrap();
    samba.set_key("An0ther+Key==");
    samba.down();
    samba.up();
    let error = fs::read(mounted.at("file")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    let key = Secret::new("An0ther+Key==");
    mounted
        .wait(
            mounted
                .driver
                .rotate_secret(&mounted.sandbox, "share", &key),
        )
        .unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let mut text = String::new();
    while open.read_to_string(&mut text).is_err() {
        assert!(Instant::now() < until, "the new key was not taken");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(text, "x");
    let missing = mounted.wait(
        mounted
            .driver
            .rotate_secret(&mounted.sandbox, "other", &key),
    );
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_share_that_is_deleted_and_comes_back_is_used_again() {
    if !can_mount() {
        return;
    }
    let mut samba = Samba::start();
    let mut options = samba.options();
    options.patience = Duration::from_secs(1);
    let mounted = Mounted::with(options, volume());
    fs::write(mounted.at("file"), "x").unwrap();
    let away = samba.files().with_extension("away");
    samba.down();
    fs::rename(samba.files(), &away).unwrap();
    samba.up();
    assert!(fs::read(mounted.at("file")).is_err());
    fs::rename(&away, samba.files()).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while fs::read(mounted.at("file")).is_err() {
        assert!(Instant::now() < until, "it did not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_next_program_finds_the_share_mounted() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    fs::write(mounted.at("file"), "x").unwrap();
    let mut open = File::open(mounted.at("file")).unwrap();
    let next = AzureFiles::open(mounted.dir.path().join("v"), samba.options()).unwrap();
    let listed = mounted.wait(next.list()).unwrap();
    let ours = ProvidedVolume {
        sandbox: mounted.sandbox.clone(),
        name: "share".into(),
    };
    assert_eq!(listed, [ours]);
    let again = || {
        let request = VolumeRequest::new(mounted.sandbox.clone(), volume());
        match mounted.wait(next.provide(request)).unwrap() {
            VolumeSource::Directory(path) => path,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(again(), mounted.path);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "x", "the mount is the same");
}
