//! What cannot be mounted, and what the user is told.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use aci_core::error::{Error, ErrorKind};
use aci_core::model::Secret;
use aci_storage::{AzureFilesOptions, FileServer};

use crate::samba::{ACCOUNT, Mounted, Samba, can_mount, volume};

fn refused(options: AzureFilesOptions, key: &str, share: &str) -> Error {
    let mut volume = volume();
    if let Some(file) = &mut volume.azure_file {
        file.storage_account_key = Some(Secret::new(key));
        file.share_name = share.into();
    }
    let begun = Instant::now();
    let error = Mounted::attempt(options, volume)
        .err()
        .expect("it was mounted");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it took too long"
    );
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(key), "{shown}");
    assert_eq!(
        error.aci_code(),
        Some("FailedMountAzureFileVolume"),
        "{error}"
    );
    assert!(error.next_step().is_some(), "{error}");
    error
}

#[test]
fn a_wrong_key_and_a_missing_share_are_told_apart() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let error = refused(samba.options(), "not-the-key", "files");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(
        error.message().contains("does not accept the account"),
        "{error}"
    );
    let error = refused(samba.options(), crate::samba::KEY, "no-such-share");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error.message().contains("there is no such share"),
        "{error}"
    );
    assert!(error.message().contains("no-such-share"), "{error}");
}

#[test]
fn a_server_without_encryption_is_refused() {
    if !can_mount() {
        return;
    }
    let samba = Samba::with("server smb encrypt = off\n", "");
    let error = refused(samba.options(), crate::samba::KEY, "files");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.message().contains("no encryption"), "{error}");
}

#[test]
fn a_server_of_an_older_dialect_is_refused() {
    if !can_mount() {
        return;
    }
    let samba = Samba::with("server max protocol = SMB3_02\n", "");
    let error = refused(samba.options(), crate::samba::KEY, "files");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.message().contains("no SMB 3.1.1"), "{error}");
}

#[test]
fn a_server_that_takes_us_for_a_guest_is_refused() {
    if !can_mount() {
        return;
    }
    let global = "map to guest = bad password\nguest account = nobody\n";
    let samba = Samba::with(global, "guest ok = yes\n");
    let error = refused(samba.options(), "not-the-key", "files");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.message().contains("guest"), "{error}");
}

#[test]
fn a_host_that_is_not_there_or_does_not_answer_is_named() {
    if !can_mount() {
        return;
    }
    let at = |server: FileServer| AzureFilesOptions {
        servers: [(ACCOUNT.to_owned(), server)].into(),
        connect_timeout: Duration::from_secs(2),
        ..AzureFilesOptions::default()
    };
    let error = refused(
        at(FileServer::new("127.0.0.1").port(1)),
        "k3y-of-it",
        "files",
    );
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("127.0.0.1:1"), "{error}");
    let error = refused(
        at(FileServer::new("no-such-host.invalid")),
        "k3y-of-it",
        "files",
    );
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("no-such-host.invalid"), "{error}");
    // Takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = refused(
        at(FileServer::new("127.0.0.1").port(port)),
        "k3y-of-it",
        "files",
    );
    assert!(error.message().contains("did not answer"), "{error}");
}

#[test]
fn a_volume_without_a_key_is_refused_before_anything_is_asked() {
    if !can_mount() {
        return;
    }
    let mut volume = volume();
    if let Some(file) = &mut volume.azure_file {
        file.storage_account_key = None;
    }
    let error = Mounted::attempt(AzureFilesOptions::default(), volume)
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.aci_code(), Some("InvalidAzureFileVolume"));
}

#[test]
fn accounts_are_at_azure_s_address_unless_a_server_is_named() {
    let options = AzureFilesOptions::default();
    assert_eq!(
        options.server("shop"),
        FileServer::new("shop.file.core.windows.net").port(445)
    );
}
