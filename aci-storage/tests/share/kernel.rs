//! The kernel's own driver: those of the same tests that cifs passes, where the kernel has it.

use std::process::Command;

use aci_core::error::ErrorKind;
use aci_storage::{AzureFilesOptions, ShareDriver};

use crate::samba::{DRIVER, Mounted, Samba, can_mount, volume};

fn has_cifs() -> bool {
    // Loads the module where there is one.
    rustix::mount::fsopen("cifs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

#[test]
fn what_both_drivers_do_holds_for_the_kernel_s_too() {
    if !can_mount() {
        return;
    }
    if !has_cifs() {
        println!("SKIPPED: this kernel has no cifs");
        return;
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    // What `ShareDriver::Kernel` names as different is left out.
    for name in [
        "the_same_files_show",
        "owner_and_modes",
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
