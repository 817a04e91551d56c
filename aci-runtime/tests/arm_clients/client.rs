//! Python and JavaScript programs in environments of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An environment with packages from PyPI, made once and kept below `target/tmp`; `None`, and said
/// so, where PyPI is out of reach.
pub(crate) fn python(name: &str, packages: &[&str]) -> Option<PathBuf> {
    let home = environment("python", name, packages, |home| {
        let made = Command::new("python3")
            .args(["-m", "venv"])
            .arg(home)
            .output();
        let made = made.expect("python3 is there (packages python3, python3-venv)");
        assert!(made.status.success(), "{}", text(&made));
        let mut install = Command::new(home.join("bin/pip"));
        install.args(["install", "--quiet", "--disable-pip-version-check"]);
        install
    })?;
    Some(home.join("bin/python"))
}

/// A folder with packages from npm below `node_modules`, kept and skipped like [`python`]'s.
pub(crate) fn node(name: &str, packages: &[&str]) -> Option<PathBuf> {
    environment("node", name, packages, |home| {
        fs::create_dir_all(home).unwrap();
        let mut install = Command::new("npm");
        install.args(["install", "--loglevel=error", "--no-fund", "--no-audit"]);
        install.args(["--no-package-lock", "--prefix"]).arg(home);
        install
    })
}

fn environment(
    kind: &str,
    name: &str,
    packages: &[&str],
    prepare: impl FnOnce(&Path) -> Command,
) -> Option<PathBuf> {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(tmp).unwrap();
    let home = tmp.join(format!("{kind}-{name}"));
    // Tests that want the same one wait for each other.
    let lock = File::create(tmp.join(format!("{kind}-{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let done = home.join("done");
    let wanted = packages.join("\n");
    // A week later there may be newer ones.
    let fresh = fs::metadata(&done)
        .and_then(|m| m.modified())
        .is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 7 * 24 * 3600));
    if fresh && fs::read_to_string(&done).is_ok_and(|had| had == wanted) {
        return Some(home);
    }
    let _ = fs::remove_dir_all(&home);
    let installed = prepare(&home).args(packages).output();
    let installed = installed.expect("the installer is there (packages python3-venv, nodejs, npm)");
    if !installed.status.success() {
        let said = text(&installed);
        let unreachable = [
            "NewConnectionError",
            "ConnectTimeout",
            "Temporary failure",
            "ProxyError",
            "No matching distribution",
            "ENOTFOUND",
            "EAI_AGAIN",
            "ECONNREFUSED",
            "ETIMEDOUT",
        ];
        assert!(unreachable.iter().any(|w| said.contains(w)), "{said}");
        println!(
            "SKIPPED: {kind} packages cannot be fetched, so there are no clients to test with"
        );
        return None;
    }
    fs::write(done, wanted).unwrap();
    Some(home)
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
