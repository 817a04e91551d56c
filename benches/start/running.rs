//! What is done with a container that runs: a further process in it, and its end by force.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aci_benches::contest::{Contestant, Sample, milliseconds};
use aci_core::contract::{ExecSpec, ProcessSpec, Sandbox};
use anyhow::Context as _;
use async_trait::async_trait;
use tokio::io::AsyncReadExt;

use crate::ours::{CONTAINER, Maker};
use crate::peers::{Oci, timed, where_it_can};
use crate::setup::since;
use crate::{FIRST, TOTAL};

/// From the call that ends a running container until everything of it is removed.
pub(crate) const GONE: &str = "removed by force";

const STAY: [&str; 2] = ["/bin/first", "stay"];

/// A further process in our container.
pub(crate) struct OurExec {
    sandbox: Arc<dyn Sandbox>,
}

impl OurExec {
    pub(crate) async fn new(maker: &Maker) -> anyhow::Result<Self> {
        let sandbox = maker.sandbox().await?;
        sandbox.start(maker.container(0, &STAY)?).await?;
        Ok(Self { sandbox })
    }
}

#[async_trait(?Send)]
impl Contestant for OurExec {
    fn name(&self) -> &str {
        "ours"
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let spec = ExecSpec {
            process: ProcessSpec {
                argv: vec!["/bin/first".to_owned()],
                ..ProcessSpec::default()
            },
            stdin: false,
        };
        let (begin, clock) = (Instant::now(), SystemTime::now());
        let mut process = self.sandbox.exec(CONTAINER, spec).await?;
        let mut printed = String::new();
        process.stdout.read_to_string(&mut printed).await?;
        let end = process.control.wait().await?;
        let total = begin.elapsed();
        anyhow::ensure!(end.code == 0, "it ended with {}", end.code);
        Ok(vec![
            (FIRST, since(clock, &printed)?),
            (TOTAL, milliseconds(total)),
        ])
    }
}

/// Our sandbox with a running container, destroyed.
pub(crate) struct OurEnd(pub(crate) Arc<Maker>);

#[async_trait(?Send)]
impl Contestant for OurEnd {
    fn name(&self) -> &str {
        "ours"
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let sandbox = self.0.sandbox().await?;
        sandbox.start(self.0.container(0, &STAY)?).await?;
        std::thread::sleep(Duration::from_millis(10));
        let begin = Instant::now();
        sandbox.destroy().await?;
        Ok(vec![(GONE, milliseconds(begin.elapsed()))])
    }
}

/// A container of crun's or runc's that runs; removed when dropped.
struct Running {
    oci: Oci,
    id: String,
    output: PathBuf,
}

impl Running {
    fn new(mut oci: Oci) -> anyhow::Result<Self> {
        let id = oci.bundle(&STAY)?;
        let output = oci.directory().join("output");
        let file = fs::File::create(&output)?;
        let mut command = oci.command();
        command
            .args(["run", "--detach", "--bundle"])
            .arg(oci.directory().join("bundle"));
        command
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null());
        let status = where_it_can(oci.legacy(), move || Ok(command.status()?))?;
        let running = Self { oci, id, output };
        anyhow::ensure!(status.success(), "run --detach: {status}");
        Ok(running)
    }

    fn wait(&self) -> anyhow::Result<()> {
        for _ in 0..500 {
            if !fs::read_to_string(&self.output)?.is_empty() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        anyhow::bail!("its container does not come up")
    }

    fn delete(&self) -> Command {
        let mut command = self.oci.command();
        command.args(["delete", "--force"]).arg(&self.id);
        command
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut command = self.delete();
        let _ = where_it_can(self.oci.legacy(), move || Ok(command.output()?));
    }
}

/// `exec` of crun or runc in a container that runs.
pub(crate) struct PeerExec {
    running: Running,
}

impl PeerExec {
    pub(crate) fn new(oci: Oci) -> anyhow::Result<Self> {
        let running = Running::new(oci)?;
        running.wait()?;
        Ok(Self { running })
    }
}

#[async_trait(?Send)]
impl Contestant for PeerExec {
    fn name(&self) -> &str {
        self.running.oci.title()
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let mut command = self.running.oci.command();
        command.arg("exec").arg(&self.running.id).arg("/bin/first");
        where_it_can(self.running.oci.legacy(), move || timed(&mut command))
    }
}

/// `delete --force` of crun or runc.
pub(crate) struct PeerEnd {
    oci: Oci,
}

impl PeerEnd {
    pub(crate) fn new(oci: Oci) -> Self {
        Self { oci }
    }
}

#[async_trait(?Send)]
impl Contestant for PeerEnd {
    fn name(&self) -> &str {
        self.oci.title()
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let running = Running::new(self.oci.clone())?;
        running.wait()?;
        std::thread::sleep(Duration::from_millis(10));
        let mut command = running.delete();
        let took = where_it_can(self.oci.legacy(), move || {
            let begin = Instant::now();
            let output = command.output().context("delete --force")?;
            let took = begin.elapsed();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            anyhow::ensure!(output.status.success(), "delete --force: {}", said.trim());
            Ok(took)
        })?;
        Ok(vec![(GONE, milliseconds(took))])
    }
}
