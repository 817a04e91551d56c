//! The other programs, each from Debian.

use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use aci_benches::contest::{Contestant, Sample};
use aci_benches::peers::{Containerd, find, first_line};
use async_trait::async_trait;

use crate::setup::Setup;

/// `podman pull`, with its overlay driver.
pub(crate) struct Podman {
    name: String,
    program: PathBuf,
    setup: Rc<Setup>,
}

impl Podman {
    pub(crate) fn new(setup: &Rc<Setup>) -> anyhow::Result<Self> {
        let program = find("podman", "podman")?;
        Ok(Self {
            name: first_line(&program).replace(" version", ""),
            program,
            setup: Rc::clone(setup),
        })
    }
}

#[async_trait(?Send)]
impl Contestant for Podman {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.setup.fresh()?;
        let at = |name: &str| self.setup.place().join(name);
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .args(["--storage-driver", "overlay", "pull", "--quiet"])
            .args(["--tls-verify=false", self.setup.reference()]);
        self.setup.timed(vec![command], None)
    }
}

/// `skopeo copy` to a layout and `umoci unpack` of that.
pub(crate) struct Umoci {
    name: String,
    skopeo: PathBuf,
    umoci: PathBuf,
    setup: Rc<Setup>,
}

impl Umoci {
    pub(crate) fn new(setup: &Rc<Setup>) -> anyhow::Result<Self> {
        let (skopeo, umoci) = (find("skopeo", "skopeo")?, find("umoci", "umoci")?);
        let version = |program| first_line(program).replace(" version", "");
        Ok(Self {
            name: format!("{} and {}", version(&skopeo), version(&umoci)),
            skopeo,
            umoci,
            setup: Rc::clone(setup),
        })
    }
}

#[async_trait(?Send)]
impl Contestant for Umoci {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.setup.fresh()?;
        let at = |name: &str| self.setup.place().join(name);
        let mut copy = Command::new(&self.skopeo);
        copy.args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--src-tls-verify=false",
        ])
        .arg(format!("docker://{}", self.setup.reference()))
        .arg(format!("oci:{}:1", at("layout").display()));
        let mut unpack = Command::new(&self.umoci);
        unpack
            .args(["unpack", "--image"])
            .arg(format!("{}:1", at("layout").display()))
            .arg(at("bundle"));
        self.setup.timed(vec![copy, unpack], None)
    }
}

/// `ctr images pull`, with a containerd of its own on the file system.
pub(crate) struct Ctr {
    name: String,
    setup: Rc<Setup>,
}

impl Ctr {
    pub(crate) fn new(setup: &Rc<Setup>) -> anyhow::Result<Self> {
        setup.fresh()?;
        let daemon = Containerd::start(&setup.place().join("containerd"))?;
        Ok(Self {
            name: format!("ctr images pull {}", daemon.version()),
            setup: Rc::clone(setup),
        })
    }
}

#[async_trait(?Send)]
impl Contestant for Ctr {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        self.setup.fresh()?;
        let daemon = Containerd::start(&self.setup.place().join("containerd"))?;
        let mut command = daemon.ctr();
        command.args(["images", "pull", "--plain-http", self.setup.reference()]);
        self.setup.timed(vec![command], Some(daemon.pid()))
    }
}
