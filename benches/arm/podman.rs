//! podman's REST service, with directories and containers of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aci_benches::contest::{Contestant, Sample};
use aci_benches::peers;
use anyhow::Context as _;
use async_trait::async_trait;

use crate::http::{Client, Targets, turn};

pub(crate) struct Podman {
    version: String,
    targets: Targets,
    service: Child,
    program: PathBuf,
    directory: tempfile::TempDir,
}

fn podman(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--root")
        .arg(directory.join("root"))
        .arg("--runroot")
        .arg(directory.join("run"))
        .arg("--tmpdir")
        .arg(directory.join("tmp"))
        .args([
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        ])
        .stdin(Stdio::null());
    command
}

impl Podman {
    /// A service with so many containers; one of them has a label of its own.
    pub(crate) async fn start(containers: usize) -> anyhow::Result<Self> {
        let program = peers::find("podman", "podman")?;
        let directory = tempfile::tempdir()?;
        let import = directory.path().join("image.tar");
        let tar = Command::new("tar")
            .args(["-C", "/", "-cf"])
            .arg(&import)
            .arg("etc/hostname")
            .output()?;
        anyhow::ensure!(
            tar.status.success(),
            "tar: {}",
            String::from_utf8_lossy(&tar.stderr)
        );
        let done = podman(&program, directory.path())
            .arg("import")
            .arg(&import)
            .arg("localhost/empty:1")
            .output()?;
        anyhow::ensure!(
            done.status.success(),
            "podman import: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        for i in 0..containers {
            let done = podman(&program, directory.path())
                .args(["create", "--network", "none", "--name", &format!("g{i}")])
                .args(["--label", if i == 0 { "one=1" } else { "many=1" }])
                .args(["--env", "A=b", "localhost/empty:1", "/serve", "80"])
                .output()?;
            anyhow::ensure!(
                done.status.success(),
                "podman create: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let service = podman(&program, directory.path())
            .args(["system", "service", "--time", "0"])
            .arg(format!("tcp:{free}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let api = "/v4.0.0/libpod/containers";
        let filter = "%7B%22label%22%3A%5B%22one%3D1%22%5D%7D";
        let mut this = Self {
            version: peers::first_line(&program),
            targets: Targets {
                address: free,
                one: format!("{api}/g0/json"),
                list_one: format!("{api}/json?all=true&filters={filter}"),
                list: format!("{api}/json?all=true"),
            },
            service,
            program,
            directory,
        };
        let mut client = this.reached(free).await?;
        let list: serde_json::Value =
            serde_json::from_slice(&client.get(&this.targets.list).await?)?;
        let found = list.as_array().map_or(0, Vec::len);
        anyhow::ensure!(found == containers, "podman's list has {found} containers");
        Ok(this)
    }

    async fn reached(&mut self, address: SocketAddr) -> anyhow::Result<Client> {
        for _ in 0..100 {
            if let Ok(client) = Client::connect(address).await {
                return Ok(client);
            }
            if let Some(status) = self.service.try_wait()? {
                let log = std::fs::read_to_string(self.directory.path().join("log"))?;
                anyhow::bail!("podman's service ended with {status}: {log}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(anyhow::anyhow!("podman's service does not answer")).context(address)
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
        // Its containers never ran; what they left is in the directory, but for its mounts.
        let _ = podman(&self.program, self.directory.path())
            .args(["rm", "--all", "--force"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

#[async_trait(?Send)]
impl Contestant for Podman {
    fn name(&self) -> &str {
        "podman"
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        turn(&self.targets).await
    }
}
