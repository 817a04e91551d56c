//! What a mounted `azureFile` share does beside Samba's own client on the same server, and beside
//! a local directory: one large file written and read, 1,000 small files written and read, and
//! `ls -l` of 1,000 entries, in turns in one run.
//!
//! `cargo bench -p aci-benches --bench smb -- --runs 7`; needs root, `/dev/fuse` and the Debian
//! packages samba and smbclient.
//!
//! The server is Debian's Samba on the loopback, SMB 3.1.1 with encryption required, its share in
//! memory (tmpfs), so that no disk is measured. Our side is this program reading and writing the
//! mounted directory, and `ls -l` as the program of that name; the peer is one `smbclient` that is
//! logged in and told what to do (`put`, `get` to `/dev/null`, `mput`, `mget`, `ls`); a local
//! directory is on the server's own tmpfs. What is written is on the server when the clock stops:
//! our side syncs the large file and closes the small ones. CPU is that of the client: for us the
//! share server and this program. Memory is the client's largest resident size of the whole run.
#![forbid(unsafe_code)]

mod client;
mod directory;
mod usage;
// The server of the driver's own tests.
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the driver's tests use more of it, and its faults end the bench"
)]
#[path = "../../aci-storage/tests/share/samba.rs"]
mod samba;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aci_benches::contest::{Contestant, take_turns};
use aci_benches::report::{self, Comparison, Table};
use anyhow::Context as _;
use rustix::mount::{MountFlags, UnmountFlags};

/// Size of the large file, in bytes.
const LARGE: usize = 256 << 20;
/// How many small files there are, of so many bytes.
const SMALL: usize = 1000;
const SMALL_SIZE: usize = 4096;

const WRITE: &str = "write, ms";
const READ: &str = "read, ms";
const SMALL_WRITE: &str = "1,000 files written, ms";
const SMALL_READ: &str = "1,000 files read, ms";
const LIST: &str = "ls -l of 1,000, ms";
const WRITE_CPU: &str = "write, CPU ms";
const READ_CPU: &str = "read, CPU ms";
const MEMORY: &str = "memory, MiB";

/// Each part, its file's name and its unit.
const PARTS: [(&str, &str, &str); 8] = [
    (WRITE, "write", "ms"),
    (READ, "read", "ms"),
    (SMALL_WRITE, "small", "ms"),
    (SMALL_READ, "small-read", "ms"),
    (LIST, "list", "ms"),
    (WRITE_CPU, "write-cpu", "ms"),
    (READ_CPU, "read-cpu", "ms"),
    (MEMORY, "memory", "MiB"),
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    // Cargo says so when it is asked for benches; as a test there is nothing to do.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("SKIPPED: it only runs as a bench (cargo bench)");
        return Ok(());
    }
    let at = arguments.iter().position(|have| have == "--runs");
    let runs: usize = match at.and_then(|at| arguments.get(at + 1)) {
        Some(text) => text
            .parse()
            .with_context(|| format!("--runs '{text}': give a whole number"))?,
        None => 7,
    };
    if !samba::can_mount() {
        return Ok(());
    }
    let server = samba::Samba::start();
    let share = InMemory::over(server.files())?;
    let sources = Sources::new()?;
    let mounted = server.mounted();
    let contestants: Vec<Box<dyn Contestant>> = vec![
        Box::new(directory::Directory::share(&mounted, &share.0, &sources)?),
        Box::new(client::Client::new(&server, &share.0, &sources)?),
        Box::new(directory::Directory::local(&share.0, &sources)?),
    ];
    let before = report::load();
    let series = tokio::runtime::Builder::new_current_thread()
        .build()?
        .block_on(take_turns(
            contestants,
            1,
            runs.max(1),
            Duration::from_millis(200),
        ))?;
    let load = [before, report::load()];
    // It waits on the share server, which has to find the server there.
    drop(mounted);

    println!("\n{}", report::machine());
    println!(
        "{runs} runs in turns; load before {before:?}, after {:?}\n",
        load[1]
    );
    let (ours, peers) = series.split_first().context("nobody ran")?;
    let mut table = Table::new(&["", "median", "p10", "p90", "ours/this"]);
    for (part, file, unit) in PARTS {
        for one in &series {
            let (Some(this), Some(ours)) = (one.summary(part), ours.summary(part)) else {
                continue;
            };
            table.row(&[
                format!("{part}: {}", one.name),
                format!("{:.1}", this.median),
                format!("{:.1}", this.p10),
                format!("{:.1}", this.p90),
                format!("{:.2}", ours.median / this.median),
            ]);
            let peer = match peers.iter().position(|peer| peer.name == one.name) {
                Some(0) => "smbclient",
                Some(_) => "local",
                None => continue,
            };
            Comparison {
                name: format!("smb-{file}-{peer}"),
                what: format!(
                    "a mounted azureFile share, {} MiB large file: {part}",
                    LARGE >> 20
                ),
                ours,
                peer_name: one.name.clone(),
                peer: this,
                unit,
                load,
            }
            .write(&report::directory())?;
        }
    }
    println!("{table}");
    println!("written to {}", report::directory().display());
    Ok(())
}

/// A tmpfs over a directory, until it is dropped.
struct InMemory(PathBuf);

impl InMemory {
    fn over(directory: PathBuf) -> anyhow::Result<Self> {
        let options = c"size=2g,mode=777";
        rustix::mount::mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), options)?;
        Ok(Self(directory))
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What is sent: a large file and a directory of small ones, in memory.
struct Sources {
    directory: tempfile::TempDir,
    _memory: InMemory,
}

impl Sources {
    fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let memory = InMemory::over(directory.path().to_owned())?;
        let this = Self {
            directory,
            _memory: memory,
        };
        // Bytes that nothing could compress.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut large = Vec::with_capacity(LARGE);
        while large.len() < LARGE {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            large.extend_from_slice(&state.to_le_bytes());
        }
        fs::write(this.large(), &large)?;
        fs::create_dir(this.small())?;
        for (number, bytes) in large.chunks(SMALL_SIZE).take(SMALL).enumerate() {
            fs::write(this.small().join(format!("file-{number}")), bytes)?;
        }
        Ok(this)
    }

    fn large(&self) -> PathBuf {
        self.directory.path().join("large")
    }

    fn small(&self) -> PathBuf {
        self.directory.path().join("small")
    }

    /// An empty directory to read small files into.
    fn taken(&self) -> anyhow::Result<PathBuf> {
        let taken = self.directory.path().join("taken");
        empty(&taken)?;
        Ok(taken)
    }
}

/// Makes a directory, or empties it.
fn empty(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir(directory)?;
    Ok(())
}
