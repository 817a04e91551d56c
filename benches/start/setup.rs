//! What all contestants run: one static program in one root file system.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use aci_benches::report;
use anyhow::Context as _;

/// The limits that every contestant but the floor sets: half a GiB, one core, 1024 processes.
pub(crate) const MEMORY: u64 = 512 << 20;
pub(crate) const PIDS: u32 = 1024;

/// A directory that disappears at the end, with the root file system and the helper programs.
pub(crate) struct Setup {
    directory: tempfile::TempDir,
    programs: PathBuf,
}

impl Setup {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let programs = report::target().join("bench-programs");
        std::fs::create_dir_all(&programs)?;
        let first = programs.join("first");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        compile(
            Command::new(rustc)
                .args(["--edition=2024", "-O", "-Cpanic=abort", "-Cstrip=symbols"])
                .args(["-Ctarget-feature=+crt-static", "-o"])
                .arg(&first)
                .arg(source("first.rs")),
        )
        .context("the static C library is needed: install libc6-dev (Debian)")?;
        let directory = tempfile::Builder::new().prefix("aci-bench").tempdir()?;
        let setup = Self {
            directory,
            programs,
        };
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            std::fs::create_dir_all(setup.root().join(name))?;
        }
        std::fs::copy(first, setup.root().join("bin/first"))?;
        std::fs::write(
            setup.root().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n",
        )?;
        std::fs::write(setup.root().join("etc/group"), "root:x:0:\n")?;
        Ok(setup)
    }

    /// Everything of this bench.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The root file system, which the peers mount and ours takes as its only layer.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Compiles the raw floor.
    pub(crate) fn floor(&self) -> anyhow::Result<PathBuf> {
        let program = self.programs.join("floor");
        compile(
            Command::new("cc")
                .args(["-O2", "-static", "-o"])
                .arg(&program)
                .arg(source("floor.c")),
        )
        .context("a C compiler and the static C library are needed (packages gcc, libc6-dev)")?;
        Ok(program)
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("start")
        .join(name)
}

fn compile(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {}", command.get_program().display()))?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Milliseconds between a moment and the time that the program printed as its first act.
pub(crate) fn since(start: SystemTime, printed: &str) -> anyhow::Result<f64> {
    let first: u128 = printed
        .trim()
        .parse()
        .with_context(|| format!("the program printed '{}'", printed.trim()))?;
    let start = start.duration_since(UNIX_EPOCH)?.as_nanos();
    let between = first
        .checked_sub(start)
        .context("the program ran before it was started: the clock was set back")?;
    Ok(aci_benches::contest::milliseconds(
        std::time::Duration::from_nanos(u64::try_from(between)?),
    ))
}
