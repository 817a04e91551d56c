//! The example of a volume driver, run as it stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

#[test]
fn a_share_of_this_machine_is_the_groups_and_stays() {
    let deps = std::env::current_exe().unwrap();
    let target = deps.parent().unwrap().parent().unwrap();
    let program = target.join("examples/volume_driver");
    assert!(program.exists(), "cargo build --examples");
    let shares = tempfile::tempdir().unwrap();
    for round in 1..=2 {
        let output = Command::new(&program).arg(shares.path()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("namespaces") && !output.status.success() {
            eprintln!("SKIPPED: {errors}");
            return;
        }
        assert!(output.status.success(), "{errors}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("Succeeded\n{}", "a note\n".repeat(round)));
    }
    let notes = std::fs::read_to_string(shares.path().join("devstore/data/notes")).unwrap();
    assert_eq!(notes, "a note\na note\n");
}

#[test]
fn the_driver_is_short() {
    let lines = include_str!("../volume_driver.rs").lines().count();
    assert!(lines < 80, "{lines}");
}
