//! Builds a small static program inside a build script and hands its bytes to the library.
//!
//! The program has its own package, made up here, with the versions of the workspace's lock file,
//! so that nothing is fetched that the workspace does not use already. It is linked statically with
//! the C library of the gnu target (`+crt-static`): no further target or tool chain is needed.
//!
//! It is the same program whatever the profile and most features of the library, so it is built in
//! one place of the target directory for all of them, and in another one for each set of those
//! features that it has as well.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

pub(crate) type Outcome<T> = Result<T, String>;

/// A program to build.
pub(crate) struct Program<'a> {
    /// Its name, and that of its package.
    pub(crate) name: &'a str,
    /// Its main file, below the crate that embeds it.
    pub(crate) main: &'a str,
    /// What its sources are, for cargo to watch; below the crate that embeds it.
    pub(crate) sources: &'a [&'a str],
    /// The lines of its `[dependencies]`.
    pub(crate) dependencies: &'a str,
    /// Features that it shares with the crate that embeds it: a name, and a line of `[dependencies]`
    /// that only a build with the feature has, so that others need not even know of what it needs.
    pub(crate) features: &'a [(&'a str, &'a str)],
    /// The lines of its `[profile.release]`.
    pub(crate) profile: &'a str,
    /// The variable that names a program which was built elsewhere.
    pub(crate) prebuilt: &'a str,
    /// Where its bytes are put, below `OUT_DIR`.
    pub(crate) bytes: &'a str,
}

impl<'a> Program<'a> {
    /// Its features that the crate that embeds it is built with.
    fn chosen(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.features.iter().copied().filter(|(feature, _)| {
            let name = feature.to_uppercase().replace('-', "_");
            env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
        })
    }
}

fn variable(name: &str) -> Outcome<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("cargo did not set {name}"))
}

/// Builds it, or takes the one that was built elsewhere.
pub(crate) fn build(program: &Program<'_>) -> Outcome<()> {
    let here = variable("CARGO_MANIFEST_DIR")?;
    let out = variable("OUT_DIR")?;
    for path in ["build.rs", "nested.rs"].iter().chain(program.sources) {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed={}", program.prebuilt);
    let bytes = out.join(program.bytes);
    // For distributions that build it by themselves.
    if let Some(prebuilt) = env::var_os(program.prebuilt) {
        return copy(Path::new(&prebuilt), &bytes);
    }
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return Err("this needs Linux: build for a linux target".to_owned());
    }
    let place = place(program, &out);
    let package = place.join(format!("package-{:016x}", fnv(&here)));
    fs::create_dir_all(&package).map_err(|e| format!("{}: {e}", package.display()))?;
    // Until the bytes are copied: cargo's own lock is gone once it has built.
    let lock = place.join("lock");
    let lock = fs::File::create(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
    lock.lock()
        .map_err(|e| format!("the lock of {}: {e}", place.display()))?;
    write(&package.join("Cargo.toml"), &manifest(program, &here))?;
    // Every time from the workspace's, so that the two never part.
    let versions = here
        .ancestors()
        .skip(1)
        .map(|at| at.join("Cargo.lock"))
        .find(|at| at.is_file());
    if let Some(versions) = versions {
        println!("cargo::rerun-if-changed={}", versions.display());
        copy(&versions, &package.join("Cargo.lock"))?;
    }
    let target = env::var("TARGET").map_err(|e| e.to_string())?;
    let directory = place.join("target");
    // Without the network first; a registry is only asked if the lock file is not at hand.
    let run = |offline| cargo(&package, &directory, &target, offline);
    let offline = run(true)?;
    if let Err(first) = offline
        && let Err(second) = run(false)?
    {
        return Err(explain(program, &first, &second));
    }
    let built = directory.join(target).join("release").join(program.name);
    copy(&built, &bytes)
}

/// The directory below `target/nested` that every profile shares; `OUT_DIR`, which is
/// `target/<profile>/build/<package>/out`, if cargo arranges it in another way.
fn place(program: &Program<'_>, out: &Path) -> PathBuf {
    let mut name = program.name.to_owned();
    for (feature, _) in program.chosen() {
        name.push('-');
        name.push_str(feature);
    }
    let above: Vec<&Path> = out.ancestors().collect();
    match above.get(2).zip(above.get(4)) {
        Some((build, target)) if build.ends_with("build") => target.join("nested").join(name),
        _ => out.join(name),
    }
}

/// Tells checkouts that share a target directory from one another (FNV-1a).
fn fnv(path: &Path) -> u64 {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
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

fn manifest(program: &Program<'_>, here: &Path) -> String {
    let main = here.join(program.main);
    let Program {
        name,
        dependencies,
        profile,
        ..
    } = program;
    let known: String = program
        .features
        .iter()
        .map(|(feature, _)| format!("{feature} = []\n"))
        .collect();
    let (chosen, further): (Vec<_>, Vec<_>) = program.chosen().unzip();
    let further = further.join("\n");
    format!(
        r#"[package]
name = "{name}"
version = "0.1.0"
edition = "2024"
publish = false

[workspace]

[[bin]]
name = "{name}"
path = {main:?}

[features]
default = {chosen:?}
{known}
[dependencies]
{dependencies}
{further}
[profile.release]
{profile}
"#
    )
}

/// Runs cargo on the package. What the outer build set for its own crates is left out.
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
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
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
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

fn explain(program: &Program<'_>, offline: &str, online: &str) -> String {
    let Program { name, prebuilt, .. } = program;
    let text = format!("{offline}\n{online}");
    let missing_libc = text.contains("cannot find -lc")
        || text.contains("crt1.o")
        || text.contains("unable to find library -lc");
    let advice = if missing_libc {
        format!(
            "{name} is linked with the static C library, which is missing: install libc6-dev \
             (Debian, Ubuntu), glibc-static (Fedora, RHEL) or musl-dev (Alpine), or set {prebuilt} \
             to one that was built elsewhere"
        )
    } else {
        format!("{name} could not be built")
    };
    format!("{advice}\nwithout the network:\n{offline}\nwith it:\n{online}")
}
