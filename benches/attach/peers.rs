//! netavark, built from its crate and as Debian has it, and the CNI reference plugins from Debian.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use aci_benches::contest::{Contestant, Sample, milliseconds};
use aci_benches::peers::{find, first_line};
use aci_benches::report::target;
use anyhow::Context as _;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::{ATTACH, DETACH, namespace};

/// Runs a program with JSON on its input; its JSON output.
fn call(command: &mut Command, input: &Value) -> anyhow::Result<Value> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(input.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success(),
        "{:?}: {text} {}",
        command.get_program(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_str(text.trim()).unwrap_or(Value::Null))
}

/// The path by which another program opens a namespace that we have.
fn path(net: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), net.as_raw_fd())
}

pub(crate) struct Netavark {
    name: String,
    program: PathBuf,
    directory: tempfile::TempDir,
    /// Tells its bridge and its addresses from those of another version.
    place: u8,
    port: u16,
    count: u32,
    _resident: OwnedFd,
}

impl Netavark {
    /// The version that was built from the crate, into `target/netavark`.
    pub(crate) fn of_crate() -> anyhow::Result<Self> {
        let program = target().join("netavark/bin/netavark");
        anyhow::ensure!(
            program.is_file(),
            "not built (cargo install --root target/netavark --locked --bin netavark netavark; needs Debian's protobuf-compiler)"
        );
        // It changes the firewall by nft.
        find("nft", "nftables")?;
        Self::new(program, "from its crate", 92, 8083)
    }

    pub(crate) fn of_debian() -> anyhow::Result<Self> {
        let usual = Path::new("/usr/lib/podman/netavark");
        let program = if usual.is_file() {
            usual.to_owned()
        } else {
            find("netavark", "netavark")?
        };
        find("iptables", "iptables")?;
        Self::new(program, "Debian", 89, 8081)
    }

    fn new(program: PathBuf, origin: &str, place: u8, port: u16) -> anyhow::Result<Self> {
        let this = Self {
            name: format!("{} ({origin})", first_line(&program)),
            program: program.canonicalize()?,
            directory: tempfile::tempdir()?,
            place,
            port,
            count: 1,
            _resident: namespace()?,
        };
        this.act("setup", &this._resident, 1, None)?;
        Ok(this)
    }

    fn act(&self, what: &str, net: &OwnedFd, number: u32, port: Option<u16>) -> anyhow::Result<()> {
        let ports: Vec<Value> = port
            .map(|p| json!({"container_port": p, "host_ip": "", "host_port": p, "protocol": "tcp", "range": 1}))
            .into_iter()
            .collect();
        let [_, _, high, low] = number.to_be_bytes();
        let place = self.place;
        let input = json!({
            "container_id": format!("{number:064x}"),
            "container_name": format!("c{number}"),
            "port_mappings": ports,
            "networks": {"bench": {
                "interface_name": "eth0",
                "static_ips": [format!("10.{place}.{high}.{}", u16::from(low) + 1)],
            }},
            "network_info": {"bench": {
                "name": "bench",
                "id": format!("{place:064x}"),
                "driver": "bridge",
                "network_interface": format!("podman{place}"),
                "subnets": [{"subnet": format!("10.{place}.0.0/16"), "gateway": format!("10.{place}.0.1")}],
                "ipv6_enabled": false,
                "internal": false,
                "dns_enabled": false,
                "ipam_options": {"driver": "host-local"},
            }},
        });
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.directory.path());
        call(command.args([what, &path(net)]), &input).map(drop)
    }
}

#[async_trait(?Send)]
impl Contestant for Netavark {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.count = self.count % 200 + 2;
        let net = namespace()?;
        let begin = Instant::now();
        self.act("setup", &net, self.count, Some(self.port))?;
        let attach = begin.elapsed();
        let begin = Instant::now();
        self.act("teardown", &net, self.count, Some(self.port))?;
        let detach = begin.elapsed();
        Ok(vec![
            (ATTACH, milliseconds(attach)),
            (DETACH, milliseconds(detach)),
        ])
    }
}

pub(crate) struct Cni {
    name: String,
    directory: tempfile::TempDir,
    count: u32,
    _resident: OwnedFd,
}

const PLUGINS: &str = "/usr/lib/cni";

impl Cni {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let bridge = Path::new(PLUGINS).join("bridge");
        anyhow::ensure!(
            bridge.is_file(),
            "{} is not installed (Debian package containernetworking-plugins)",
            bridge.display()
        );
        let output = Command::new("dpkg-query")
            .args(["-W", "-f=${Version}", "containernetworking-plugins"])
            .output();
        let version = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        let this = Self {
            name: format!(
                "CNI bridge, portmap, firewall {}",
                version.unwrap_or_default()
            ),
            directory: tempfile::tempdir()?,
            count: 0,
            _resident: namespace()?,
        };
        this.add(&this._resident, "resident", None)?;
        Ok(this)
    }

    fn plugins(&self, port: Option<u16>) -> Vec<Value> {
        let ports: Vec<Value> = port
            .map(|p| json!({"hostPort": p, "containerPort": p, "protocol": "tcp"}))
            .into_iter()
            .collect();
        let common = |mut plugin: Value| {
            plugin["cniVersion"] = "1.0.0".into();
            plugin["name"] = "bench".into();
            plugin
        };
        vec![
            common(json!({
                "type": "bridge", "bridge": "cni9", "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.90.0.0/16"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": self.directory.path(),
                },
            })),
            common(json!({
                "type": "portmap", "capabilities": {"portMappings": true},
                "runtimeConfig": {"portMappings": ports},
            })),
            common(json!({"type": "firewall"})),
        ]
    }

    fn act(&self, what: &str, net: &OwnedFd, id: &str, plugin: &Value) -> anyhow::Result<Value> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let mut command = Command::new(Path::new(PLUGINS).join(kind));
        command
            .env("CNI_COMMAND", what)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", path(net))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS);
        call(&mut command, plugin)
    }

    fn add(&self, net: &OwnedFd, id: &str, port: Option<u16>) -> anyhow::Result<Value> {
        let mut result = Value::Null;
        for mut plugin in self.plugins(port) {
            if !result.is_null() {
                plugin["prevResult"] = result.clone();
            }
            result = self.act("ADD", net, id, &plugin)?;
        }
        Ok(result)
    }
}

#[async_trait(?Send)]
impl Contestant for Cni {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.count += 1;
        let (net, id) = (namespace()?, format!("bench-{}", self.count));
        let begin = Instant::now();
        let result = self.add(&net, &id, Some(8082))?;
        let attach = begin.elapsed();
        let begin = Instant::now();
        for mut plugin in self.plugins(Some(8082)).into_iter().rev() {
            plugin["prevResult"] = result.clone();
            self.act("DEL", &net, &id, &plugin)?;
        }
        let detach = begin.elapsed();
        Ok(vec![
            (ATTACH, milliseconds(attach)),
            (DETACH, milliseconds(detach)),
        ])
    }
}
