//! What containers with several users leave, deleted by an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

use aci_core::contract::{VolumeDriver as _, VolumeRequest, VolumeSource};
use aci_core::model::{EmptyDir, Volume};
use aci_storage::EmptyDirs;

#[tokio::test]
async fn files_of_mapped_users_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let driver = EmptyDirs::open(dir.path()).unwrap();
    let sandbox: aci_core::id::SandboxId = "s1".parse().unwrap();
    let volume = Volume {
        name: "work".into(),
        empty_dir: Some(EmptyDir::default()),
        ..Volume::default()
    };
    for give_away in ["$0/d", "$0"] {
        let request = VolumeRequest::new(sandbox.clone(), volume.clone());
        let VolumeSource::Directory(path) = driver.provide(request).await.unwrap() else {
            panic!("not a directory")
        };
        // As a container does whose user namespace maps a range of users.
        let script = format!(
            "mkdir $0/d && echo x > $0/d/f && chmod 700 $0 $0/d && chown -R 33 {give_away}"
        );
        let output = Command::new("unshare")
            .args(["--map-root-user", "--map-auto", "sh", "-c", &script])
            .arg(&path)
            .output()
            .unwrap();
        if !output.status.success() {
            eprintln!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        driver.release(&sandbox, "work").await.unwrap();
        assert!(!path.exists());
        assert!(driver.list().await.unwrap().is_empty());
        let trash = dir.path().join("trash");
        assert_eq!(std::fs::read_dir(trash).unwrap().count(), 0);
    }
}

/// As nobody, with a range of users that only this test's mount namespace knows of.
#[test]
fn again_as_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give nobody a range of users");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), dir.path().join("tests")).unwrap();
    std::fs::write(dir.path().join("range"), "nobody:200000:65536\n").unwrap();
    let script = "for f in subuid subgid; do mount --bind range /etc/$f; done; \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \
                  ./tests --nocapture files_of_mapped_users";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && (said.starts_with("unshare:") || said.starts_with("mount:")) {
        eprintln!("SKIPPED: {said}");
        return;
    }
    assert!(
        output.status.success(),
        "{}\n{said}",
        String::from_utf8_lossy(&output.stdout)
    );
    if said.contains("SKIPPED") {
        eprintln!("{said}");
    }
}
