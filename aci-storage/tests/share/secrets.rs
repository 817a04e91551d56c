//! Where the account's key must not be.

use std::fs;
use std::path::Path;

use crate::samba::{KEY, Samba, can_mount};

/// Every file below a directory that contains the key.
fn traces(path: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(|k| k.is_dir()) {
            traces(&path, found);
        } else if kind.is_ok_and(|k| k.is_file())
            && fs::read(&path).is_ok_and(|text| contains(&text))
        {
            found.push(path.display().to_string());
        }
    }
}

fn contains(text: &[u8]) -> bool {
    text.windows(KEY.len()).any(|part| part == KEY.as_bytes())
}

#[test]
fn the_key_shows_in_no_process_mount_file_or_debug_text() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let mounted = samba.mounted();
    fs::write(mounted.at("file"), "x").unwrap();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for name in [
            "cmdline",
            "environ",
            "mounts",
            "mountinfo",
            "comm",
            "status",
        ] {
            let path = process.path().join(name);
            if fs::read(&path).is_ok_and(|text| contains(&text)) {
                found.push(path.display().to_string());
            }
        }
    }
    let ours: Vec<_> = found
        .iter()
        // What this test itself may be called with.
        .filter(|p| !p.contains(&format!("/proc/{}/", std::process::id())))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
    let mut files = Vec::new();
    traces(&mounted.dir.path().join("v"), &mut files);
    assert!(files.is_empty(), "{files:?}");
    assert!(!contains(format!("{:?}", mounted.driver).as_bytes()));
    assert!(!contains(
        format!("{:?}", crate::samba::volume()).as_bytes()
    ));
}
