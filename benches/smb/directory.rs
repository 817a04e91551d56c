//! A directory as programs use it: the mounted share, or a local one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aci_benches::contest::{Contestant, Sample, milliseconds};
use anyhow::Context as _;
use async_trait::async_trait;

use crate::samba::Mounted;
use crate::{
    LARGE, LIST, MEMORY, READ, READ_CPU, SMALL_READ, SMALL_WRITE, Sources, WRITE, WRITE_CPU, empty,
    usage,
};

/// How much is read and written at a time.
const PIECE: usize = 1 << 20;

pub(crate) struct Directory {
    name: &'static str,
    /// Where this program works.
    base: PathBuf,
    /// The same on the server, to clean up without the clock.
    behind: PathBuf,
    large: PathBuf,
    small: PathBuf,
    taken: PathBuf,
    /// The processes whose CPU time counts.
    pids: Vec<u32>,
}

impl Directory {
    pub(crate) fn share(
        mounted: &Mounted,
        files: &Path,
        sources: &Sources,
    ) -> anyhow::Result<Self> {
        let server = mounted.share_server().context("no share server runs")?;
        let behind = files.join("ours");
        Self::new("ours", mounted.at("ours"), behind, vec![server], sources)
    }

    pub(crate) fn local(files: &Path, sources: &Sources) -> anyhow::Result<Self> {
        let base = files.join("local");
        Self::new("local directory", base.clone(), base, Vec::new(), sources)
    }

    fn new(
        name: &'static str,
        base: PathBuf,
        behind: PathBuf,
        mut pids: Vec<u32>,
        sources: &Sources,
    ) -> anyhow::Result<Self> {
        pids.push(std::process::id());
        Ok(Self {
            name,
            base,
            behind,
            large: sources.large(),
            small: sources.small(),
            taken: sources.taken()?,
            pids,
        })
    }

    fn cpu(&self) -> f64 {
        self.pids.iter().copied().map(usage::cpu).sum()
    }
}

/// Copies by pieces; how many bytes.
fn copy(mut from: File, to: &mut impl Write) -> anyhow::Result<usize> {
    let mut piece = vec![0; PIECE];
    let mut all = 0;
    loop {
        let got = from.read(&mut piece)?;
        if got == 0 {
            return Ok(all);
        }
        to.write_all(&piece[..got])?;
        all += got;
    }
}

fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let mut to = File::create(to.join(entry.file_name()))?;
        copy(File::open(entry.path())?, &mut to)?;
    }
    Ok(())
}

#[async_trait(?Send)]
impl Contestant for Directory {
    fn name(&self) -> &str {
        self.name
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        empty(&self.behind)?;
        empty(&self.taken)?;
        // Nothing is believed any more of what was there before.
        std::thread::sleep(Duration::from_millis(1200));
        let mut sample = Sample::new();
        let large = self.base.join("large");

        let (begin, cpu) = (Instant::now(), self.cpu());
        let mut file = File::create(&large)?;
        copy(File::open(&self.large)?, &mut file)?;
        file.sync_all()?;
        drop(file);
        sample.push((WRITE, milliseconds(begin.elapsed())));
        sample.push((WRITE_CPU, self.cpu() - cpu));

        let (begin, cpu) = (Instant::now(), self.cpu());
        let got = copy(File::open(&large)?, &mut std::io::sink())?;
        anyhow::ensure!(got == LARGE, "only {got} bytes were read");
        sample.push((READ, milliseconds(begin.elapsed())));
        sample.push((READ_CPU, self.cpu() - cpu));

        let small = self.base.join("small");
        fs::create_dir(&small)?;
        let begin = Instant::now();
        copy_all(&self.small, &small)?;
        sample.push((SMALL_WRITE, milliseconds(begin.elapsed())));
        std::thread::sleep(Duration::from_millis(1200));
        let begin = Instant::now();
        copy_all(&small, &self.taken)?;
        sample.push((SMALL_READ, milliseconds(begin.elapsed())));

        std::thread::sleep(Duration::from_millis(1200));
        let begin = Instant::now();
        let listed = Command::new("ls")
            .arg("-l")
            .arg(&small)
            .stdout(Stdio::null())
            .status()?;
        anyhow::ensure!(listed.success(), "ls -l failed");
        sample.push((LIST, milliseconds(begin.elapsed())));
        if let [server, _] = self.pids[..] {
            sample.push((MEMORY, usage::peak(server)));
        }
        Ok(sample)
    }
}
