//! Builds the agent, a small static program, and hands its bytes to the library.
//!
//! The agent has its own package, made up here, with the versions of the workspace's lock file, so
//! that nothing is fetched that the workspace does not use already. It is linked statically with
//! the C library of the gnu target (`+crt-static`): no further target or tool chain is needed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Outcome<T> = Result<T, String>;

fn main() {
    if let Err(message) = build() {
        // The last line of a failed build script is what cargo shows.
        eprintln!("aci-isolation: {message}");
        std::process::exit(1);
    }
}

fn variable(name: &str) -> Outcome<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("cargo did not set {name}"))
}

fn build() -> Outcome<()> {
    let here = variable("CARGO_MANIFEST_DIR")?;
    let out = variable("OUT_DIR")?;
    for path in [
        "build.rs",
        "agent",
        "src/protocol",
        "src/cgroup",
        "src/devices.rs",
        "src/procfs.rs",
        "src/weak.rs",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=ACI_AGENT");
    let bytes = out.join("agent.bin");
    // For distributions that build the agent by themselves.
    if let Some(prebuilt) = env::var_os("ACI_AGENT") {
        return copy(Path::new(&prebuilt), &bytes);
    }
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return Err("sandboxes need Linux: build for a linux target".to_owned());
    }
    let package = out.join("agent-package");
    fs::create_dir_all(&package).map_err(|e| format!("{}: {e}", package.display()))?;
    write(&package.join("Cargo.toml"), &manifest(&here))?;
    // Every time from the workspace's, so that the two never part.
    let lock = here
        .ancestors()
        .skip(1)
        .map(|at| at.join("Cargo.lock"))
        .find(|at| at.is_file());
    if let Some(lock) = lock {
        println!("cargo::rerun-if-changed={}", lock.display());
        copy(&lock, &package.join("Cargo.lock"))?;
    }
    let target = env::var("TARGET").map_err(|e| e.to_string())?;
    let directory = out.join("agent-target");
    // Without the network first; a registry is only asked if the lock file is not at hand.
    let offline = cargo(&package, &directory, &target, true)?;
    if let Err(first) = offline
        && let Err(second) = cargo(&package, &directory, &target, false)?
    {
        return Err(explain(&first, &second));
    }
    copy(&directory.join(target).join("release/aci-agent"), &bytes)
}

fn copy(from: &Path, to: &Path) -> Outcome<()> {
    let content = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
    if fs::read(to).is_ok_and(|have| have == content) {
        return Ok(());
    }
    fs::write(to, content).map_err(|e| format!("{}: {e}", to.display()))
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    if fs::read_to_string(path).is_ok_and(|have| have == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn manifest(here: &Path) -> String {
    let main = here.join("agent").join("main.rs");
    format!(
        r#"[package]
name = "aci-agent"
version = "0.1.0"
edition = "2024"
publish = false

[workspace]

[[bin]]
name = "aci-agent"
path = {main:?}

[dependencies]
libc = "0.2"
postcard = {{ version = "1.1", default-features = false, features = ["alloc"] }}
rustix = {{ version = "1.1", features = ["event", "fs", "mount", "net", "param", "pipe", "process", "pty", "system", "termios", "thread", "time"] }}
serde = {{ version = "1", features = ["derive"] }}
zeroize = {{ version = "1.9", default-features = false, features = ["alloc"] }}

[lints.rust]
unexpected_cfgs = {{ level = "warn", check-cfg = ["cfg(weaken)"] }}

[profile.release]
opt-level = "s"
lto = true
codegen-units = 1
panic = "abort"
strip = true
debug = false
"#
    )
}

/// Runs cargo on the agent's package. What the outer build set for its own crates is left out.
fn cargo(
    package: &Path,
    directory: &Path,
    target: &str,
    offline: bool,
) -> Outcome<Result<(), String>> {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command
        .args(["build", "--release", "--quiet", "--target", target])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags());
    for name in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_INCREMENTAL",
        "CLIPPY_ARGS",
        "RUSTDOCFLAGS",
        "CARGO_ENCODED_RUSTDOCFLAGS",
    ] {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PROFILE_") || text.starts_with("CARGO_FEATURE_") {
            command.env_remove(&name);
        }
    }
    if offline {
        command.arg("--offline");
    }
    let output = command
        .output()
        .map_err(|e| format!("cannot run cargo for the agent: {e}"))?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// Static, and with deliberate holes for the tests of escapes if the feature asks for them.
fn flags() -> &'static str {
    if env::var_os("CARGO_FEATURE_WEAKEN").is_some() {
        "-Ctarget-feature=+crt-static\x1f--cfg\x1fweaken"
    } else {
        "-Ctarget-feature=+crt-static"
    }
}

fn explain(offline: &str, online: &str) -> String {
    let text = format!("{offline}\n{online}");
    let missing_libc = text.contains("cannot find -lc")
        || text.contains("crt1.o")
        || text.contains("unable to find library -lc");
    let advice = if missing_libc {
        "the agent is linked with the static C library, which is missing: install libc6-dev \
         (Debian, Ubuntu), glibc-static (Fedora, RHEL) or musl-dev (Alpine), or set ACI_AGENT to \
         an agent that was built elsewhere"
    } else {
        "the agent could not be built"
    };
    format!("{advice}\nwithout the network:\n{offline}\nwith it:\n{online}")
}
