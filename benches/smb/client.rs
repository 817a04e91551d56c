//! Samba's own client, logged in once.

use std::io::{PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use aci_benches::contest::{Contestant, Sample, milliseconds};
use aci_benches::peers::find;
use anyhow::Context as _;
use async_trait::async_trait;

use crate::samba::{SHARE, Samba};
use crate::{
    LIST, MEMORY, READ, READ_CPU, SMALL, SMALL_READ, SMALL_WRITE, Sources, WRITE, WRITE_CPU, empty,
    usage,
};

pub(crate) struct Client {
    name: String,
    process: Child,
    input: ChildStdin,
    output: PipeReader,
    behind: PathBuf,
    large: PathBuf,
    small: PathBuf,
    taken: PathBuf,
}

impl Client {
    pub(crate) fn new(server: &Samba, files: &Path, sources: &Sources) -> anyhow::Result<Self> {
        let program = find("smbclient", "smbclient")?;
        // One pipe for all that it says: some commands report on the one, some on the other.
        let (output, said) = std::io::pipe()?;
        // Line by line, so that it can be seen when a command is done.
        let mut process = Command::new("stdbuf")
            .arg("-oL")
            .arg(&program)
            .arg(format!("//127.0.0.1/{SHARE}"))
            .args([
                "-p",
                &server.port.to_string(),
                "--client-protection=encrypt",
            ])
            .arg("-s")
            .arg(server.conf())
            .arg("-A")
            .arg(server.credentials())
            .stdin(Stdio::piped())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .context("stdbuf of coreutils")?;
        let version = Command::new(&program).arg("--version").output()?.stdout;
        let version = String::from_utf8_lossy(&version).replace("Version ", "");
        let mut this = Self {
            name: format!("smbclient {}", version.trim()),
            input: process.stdin.take().context("no input")?,
            output,
            process,
            behind: files.join("theirs"),
            large: sources.large(),
            small: sources.small(),
            taken: sources.taken()?,
        };
        this.prepare("prompt")?;
        Ok(this)
    }

    /// Gives a command and waits until it has said something so often.
    fn tell(&mut self, command: &str, until: &str, times: usize) -> anyhow::Result<f64> {
        let begin = Instant::now();
        writeln!(self.input, "{command}")?;
        let (mut said, mut buffer) = (String::new(), vec![0; 64 << 10]);
        let (mut seen, mut from) = (0, 0);
        while seen < times {
            let got = self.output.read(&mut buffer)?;
            anyhow::ensure!(got > 0, "smbclient ended: {said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..got]));
            anyhow::ensure!(!said.contains("NT_STATUS"), "{command}: {said}");
            while let Some(at) = said[from..].find(until) {
                seen += 1;
                from += at + until.len();
            }
        }
        Ok(milliseconds(begin.elapsed()))
    }

    /// Gives a command that says nothing.
    fn prepare(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{command}")?;
        // It takes one line at a time, and loses what comes with it.
        std::thread::sleep(Duration::from_millis(50));
        self.tell("done", "done: command not found", 1).map(drop)
    }

    fn cpu(&self) -> f64 {
        usage::cpu(self.process.id())
    }
}

#[async_trait(?Send)]
impl Contestant for Client {
    fn name(&self) -> &str {
        &self.name
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        empty(&self.behind)?;
        empty(&self.taken)?;
        let mut sample = Sample::new();
        let cpu = self.cpu();
        let large = self.large.display().to_string();
        self.prepare("cd /theirs")?;
        let took = self.tell(&format!("put {large} large"), "putting file", 1)?;
        sample.push((WRITE, took));
        sample.push((WRITE_CPU, self.cpu() - cpu));

        let cpu = self.cpu();
        let took = self.tell("get large /dev/null", "getting file", 1)?;
        sample.push((READ, took));
        sample.push((READ_CPU, self.cpu() - cpu));

        self.prepare("mkdir small")?;
        self.prepare("cd small")?;
        self.prepare(&format!("lcd {}", self.small.display()))?;
        let took = self.tell("mput *", "putting file", SMALL)?;
        sample.push((SMALL_WRITE, took));
        self.prepare(&format!("lcd {}", self.taken.display()))?;
        let took = self.tell("mget *", "getting file", SMALL)?;
        sample.push((SMALL_READ, took));
        let took = self.tell("ls", "blocks available", 1)?;
        sample.push((LIST, took));
        sample.push((MEMORY, usage::peak(self.process.id())));
        Ok(sample)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
