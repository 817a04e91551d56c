//! What is possible beyond ACI's own mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use aci_storage::AzureFilesOptions;
use proptest::prelude::*;

use crate::fs::links;
use crate::samba::{Mounted, Samba, can_mount, volume};

#[test]
fn owner_and_modes_are_those_of_the_options() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let options = AzureFilesOptions {
        uid: 1000,
        gid: 2000,
        file_mode: 0o640,
        dir_mode: 0o750,
        ..samba.options()
    };
    let mounted = Mounted::with(options, volume());
    fs::write(mounted.at("file"), "x").unwrap();
    fs::create_dir(mounted.at("directory")).unwrap();
    for (name, mode) in [("file", 0o640), ("directory", 0o750)] {
        let shown = fs::metadata(mounted.at(name)).unwrap();
        assert_eq!(
            (shown.uid(), shown.gid(), shown.mode() & 0o7777),
            (1000, 2000, mode),
            "{name}"
        );
    }
    // The kernel holds others to it.
    let other = std::process::Command::new("setpriv")
        .args(["--reuid=4321", "--regid=4321", "--clear-groups", "cat"])
        .arg(mounted.at("file"))
        .output()
        .unwrap();
    assert!(!other.status.success());
}

#[test]
fn attributes_are_believed_as_long_as_actimeo_says() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let behind = samba.files().join("file");
    for (actimeo, believed) in [(Duration::ZERO, false), (Duration::from_secs(600), true)] {
        let options = AzureFilesOptions {
            actimeo,
            ..samba.options()
        };
        let mounted = Mounted::with(options, volume());
        fs::write(&behind, "1").unwrap();
        assert_eq!(fs::metadata(mounted.at("file")).unwrap().len(), 1);
        fs::write(&behind, "12345").unwrap();
        let now = fs::metadata(mounted.at("file")).unwrap().len();
        assert_eq!(now, if believed { 1 } else { 5 }, "{actimeo:?}");
    }
}

#[test]
fn symbolic_links_are_kept_as_files_that_stand_for_them_if_asked_for() {
    if !can_mount() {
        return;
    }
    let samba = Samba::start();
    let options = AzureFilesOptions {
        mfsymlinks: true,
        ..samba.options()
    };
    let mounted = Mounted::with(options, volume());
    fs::create_dir(mounted.at("directory")).unwrap();
    fs::write(mounted.at("file"), "content").unwrap();
    symlink("../file", mounted.at("directory/link")).unwrap();
    symlink("/nowhere", mounted.at("dangling")).unwrap();
    let link = mounted.at("directory/link");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../file"));
    assert_eq!(fs::read_to_string(&link).unwrap(), "content");
    let shown = fs::symlink_metadata(&link).unwrap();
    assert!(shown.is_symlink() && shown.len() == 7);
    assert!(!mounted.at("dangling").exists());
    let listed: Vec<_> = fs::read_dir(&mounted.path)
        .unwrap()
        .flatten()
        .map(|e| (e.file_name(), e.file_type().unwrap().is_symlink()))
        .filter(|(_, link)| *link)
        .collect();
    assert_eq!(listed, [("dangling".into(), true)]);
    let taken = symlink("x", mounted.at("file")).unwrap_err();
    assert_eq!(taken.raw_os_error(), Some(libc::EEXIST));
    let long = symlink("x".repeat(1025), mounted.at("long")).unwrap_err();
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));

    // An ordinary file of that size stays one; a link that the kernel's cifs made is read.
    fs::write(mounted.at("ordinary"), vec![b'X'; 1067]).unwrap();
    assert!(
        fs::symlink_metadata(mounted.at("ordinary"))
            .unwrap()
            .is_file()
    );
    let mut cifs = b"XSym\n0004\n1cb251ec0d568de6a929b520c4aed8d1\ntext\n".to_vec();
    cifs.resize(1067, b' ');
    fs::write(samba.files().join("by-cifs"), &cifs).unwrap();
    // After so many names that were not there, none of this directory's is looked for at once.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(
        fs::read_link(mounted.at("by-cifs")).unwrap(),
        Path::new("text")
    );
    fs::remove_file(&link).unwrap();
    assert!(mounted.at("file").exists() && fs::symlink_metadata(&link).is_err());
    drop(mounted);

    // To others, and by default, it is a file.
    let mounted = samba.mounted();
    assert_eq!(fs::read(mounted.at("by-cifs")).unwrap(), cifs);
    assert_eq!(fs::metadata(mounted.at("dangling")).unwrap().len(), 1067);
}

proptest! {
    #[test]
    fn links_come_back_and_what_is_none_is_not_taken_for_one(
        target in prop::collection::vec(1..=255_u8, 1..=1024),
        at in 0..1067_usize,
    ) {
        let file = links::write(&target).unwrap();
        prop_assert_eq!(file.len(), 1067);
        prop_assert_eq!(links::read(&file), Some(target.as_slice()));
        prop_assert_eq!(links::read(&file[1..]), None);
        // Whatever is changed up to the end of the target makes it an ordinary file.
        let mut other = file;
        let at = at % (43 + target.len());
        if at != 9 && at != 42 {
            other[at] ^= 1;
            prop_assert_ne!(links::read(&other), Some(target.as_slice()));
        }
    }
}
