//! Python programs in environments of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An environment with packages from PyPI, made once and kept below `target/tmp`; `None`, and said
/// so, where PyPI is out of reach.
pub(crate) fn python(name: &str, packages: &[&str]) -> Option<PathBuf> {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(tmp).unwrap();
    let home = tmp.join(format!("python-{name}"));
    // Tests that want the same one wait for each other.
    let lock = File::create(tmp.join(format!("python-{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let done = home.join("done");
    let wanted = packages.join("\n");
    // A week later there may be newer ones.
    let fresh = fs::metadata(&done)
        .and_then(|m| m.modified())
        .is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 7 * 24 * 3600));
    let python = home.join("bin/python");
    if fresh && fs::read_to_string(&done).is_ok_and(|had| had == wanted) {
        return Some(python);
    }
    let _ = fs::remove_dir_all(&home);
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&home)
        .output();
    let made = made.expect("python3 is there (packages python3, python3-venv)");
    assert!(made.status.success(), "{}", text(&made));
    let installed = Command::new(home.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(packages)
        .output()
        .unwrap();
    if !installed.status.success() {
        let said = text(&installed);
        let unreachable = [
            "NewConnectionError",
            "ConnectTimeout",
            "Temporary failure",
            "ProxyError",
            "No matching distribution",
        ];
        assert!(unreachable.iter().any(|w| said.contains(w)), "{said}");
        println!("SKIPPED: PyPI cannot be reached, so there are no clients to test with");
        return None;
    }
    fs::write(done, wanted).unwrap();
    Some(python)
}

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A script of this directory.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/arm_clients")
        .join(name)
}
