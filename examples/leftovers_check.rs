//! Looks for anything of ours on this machine and ends with 1 if there is something:
//! `cargo run --example leftovers [-- MARK...]`.
//!
//! It reads /proc, /sys and the state directories itself. Run it when no group is meant to run.

use std::path::PathBuf;
use std::process::ExitCode;

use aci_examples::leftovers;

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let marks: Vec<&str> = if given.is_empty() {
        vec![
            "aci-agent",
            "aci-share",
            "aci-azurefile",
            "/aci/",
            "aci-net ",
        ]
    } else {
        given.iter().map(String::as_str).collect()
    };
    let mut left = leftovers::find(&marks, &[]);
    // The parent of all cgroups goes with the last group.
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    let parents = hierarchies.flatten().map(|entry| entry.path().join("aci"));
    for parent in parents.chain([PathBuf::from("/sys/fs/cgroup/aci")]) {
        if parent.is_dir() {
            left.push(format!("cgroup: {}", parent.display()));
        }
    }
    let states = [PathBuf::from("/run/aci"), std::env::temp_dir().join("aci")];
    for state in states {
        for entry in std::fs::read_dir(&state).into_iter().flatten().flatten() {
            if entry.file_name() != ".lock" {
                left.push(format!("state: {}", entry.path().display()));
            }
        }
    }
    if left.is_empty() {
        println!("nothing of ours is left on this machine");
        return ExitCode::SUCCESS;
    }
    for thing in left {
        println!("left: {thing}");
    }
    ExitCode::FAILURE
}
