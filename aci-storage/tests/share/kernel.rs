//! The kernel's own driver: the same tests of files, where the kernel has cifs.

use std::process::Command;

use aci_core::error::ErrorKind;
use aci_storage::{AzureFilesOptions, ShareDriver};

use crate::samba::{DRIVER, Mounted, Samba, can_mount, volume};

fn has_cifs() -> bool {
    // Loads the module where there is one.
    rustix::mount::fsopen("cifs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

#[test]
fn the_same_tests_hold_for_the_kernel_s_driver() {
    if !can_mount() {
        return;
    }
    if !has_cifs() {
        println!("SKIPPED: this kernel has no cifs");
        return;
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    // What is kept of symbolic links and devices differs, and how locks wait.
    for name in [
        "the_same_files_show",
        "names_with_every_character",
        "many_small_files",
        "two_groups_on_one_share",
        "sqlite_and_memory_maps",
        "a_full_share",
        "owner_and_modes",
        "symbolic_links_are_kept",
        "room_and_quota",
        "what_was_written_and_not_closed",
        "names_differ_by_more_than_case",
        "a_wrong_key_and_a_missing_share",
        "a_server_without_encryption",
        "the_key_shows_in_no_process",
    ] {
        test.arg(name);
    }
    let status = test.env(DRIVER, "kernel").status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_driver_that_the_kernel_lacks_is_refused_and_the_other_taken() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let options = |driver| AzureFilesOptions {
        driver,
        ..samba.options()
    };
    let automatic = Mounted::with(options(ShareDriver::Automatic), volume());
    std::fs::write(automatic.at("file"), "x").unwrap();
    assert_eq!(automatic.share_server().is_some(), !has_cifs());
    let asked = Mounted::attempt(options(ShareDriver::Kernel), volume());
    if has_cifs() {
        assert!(asked.unwrap().share_server().is_none());
    } else {
        let error = asked.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains("no cifs"), "{error}");
        assert!(error.next_step().is_some(), "{error}");
    }
}
